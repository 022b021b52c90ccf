"""ClearMap's nested dicts of parameters, read into those of the cells pipeline; they stay as they are.

Lengths are (x, y, z) in ClearMap's dicts and (z, y, x) in what is made of them. Its conventions are models of the steps
with other class variables.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.cells.config import (
    BackgroundCorrection,
    CellsConfig,
    DogFilter,
    Equalization,
    IlluminationCorrection,
    IntensityDetection,
    MaximaDetection,
    ShapeDetection,
)
from cytolith.cells.fields import nearest
from cytolith.compat.clearmap_files import open_source
from cytolith.errors import ConfigError
from cytolith.io.flat_fields import read_flat_field
from cytolith.kernels.measure import METHODS

MEASURES = ("source", "illumination_correction", "background_correction", "equalization", "dog_filter")
"""Images that intensities can be measured on."""
_FIELDS = {
    "illumination_correction": ("flatfield", "background", "scaling", "save"),
    "background_correction": ("shape", "form", "save"),
    "equalization": ("percentile", "max_value", "selem", "spacing", "interpolate", "mask", "save"),
    "dog_filter": ("shape", "sigma", "sigma2", "save"),
    "maxima_detection": ("h_max", "shape", "threshold", "valid", "save"),
    "shape_detection": ("threshold", "save"),
    "intensity_detection": ("method", "shape", "measure", "save"),
}
_FILES = (
    ("illumination_correction", "flatfield"),
    ("illumination_correction", "background"),
    ("equalization", "mask"),
)
"""Parameters that may be files."""


class Background(BackgroundCorrection):
    """The dilation is not reflected, as `cv2.morphologyEx` has it: an even opening is shifted by a voxel."""

    reflect_footprint: ClassVar[bool] = False


class Maxima(MaximaDetection):
    """Each voxel of a plateau is a maximum, and centres are voxels."""

    merge_plateaus: ClassVar[bool] = False
    whole_centres: ClassVar[bool] = True


class Shapes(ShapeDetection):
    """Shapes grow from crosses of seven voxels."""

    from_crosses: ClassVar[bool] = True


@dataclass(frozen=True)
class Parameters:
    """What a dict of parameters asks for."""

    config: CellsConfig
    valid: bool
    """Whether a cell that several blocks see is given once."""
    saves: dict[str, Path]
    """Where results of steps are written, by the name of the step."""
    files: list[Path]
    """Files that are read beside the source."""
    verbose: bool

    @property
    def columns(self) -> list[tuple[str, type[np.generic]]]:
        """Columns of the table of cells."""
        names: list[tuple[str, type[np.generic]]] = [(axis, np.int64) for axis in "xyz"]
        names += [("size", np.int64)] if self.config.shape_detection is not None else []
        measured = self.config.intensity_detection
        return names + [(name, np.float64) for name in (() if measured is None else measured.measure)]


def read_parameters(given: Mapping[str, Any]) -> Parameters:
    """Parameters from a dict like ClearMap's `cell_detection_parameter`.

    A step that is missing, None or empty is skipped.

    Raises
    ------
    ConfigError
        A name that is unknown (with the nearest right one) or a value that cannot be used.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"cell_detection_parameter: {type(given).__name__} given; a dict of steps is needed")
    known = (*_FIELDS, "verbose")
    steps: dict[str, Mapping[str, Any]] = {}
    for step, fields in given.items():
        if step not in known and not fields:
            warnings.warn(
                f"cell_detection_parameter: {step!r} is no step and is ignored, as by ClearMap; its steps are "
                f"{', '.join(_FIELDS)}",
                stacklevel=3,
            )
            continue
        if step not in known:
            raise ConfigError(f"cell_detection_parameter: unknown step {step!r}; {nearest(str(step), known)}")
        if step == "verbose" or fields is None or fields is False:
            continue
        if not isinstance(fields, Mapping):
            raise ConfigError(f"{step}: {fields!r} given; a dict of parameters, or None to skip the step, is needed")
        for name in fields:
            if name not in _FIELDS[step]:
                raise ConfigError(f"{step}: unknown parameter {name!r}; {nearest(str(name), _FIELDS[step])}")
        if fields:
            steps[step] = fields
    maxima = steps.get("maxima_detection", {})
    files = [steps.get(step, {}).get(name) for step, name in _FILES]
    return Parameters(
        pipeline(
            illumination_correction=_read(steps, "illumination_correction", _illumination),
            background_correction=_read(steps, "background_correction", _background),
            equalization=_read(steps, "equalization", lambda fields: read_equalization(**_without_save(fields))),
            dog_filter=_read(steps, "dog_filter", lambda fields: read_dog(**{"shape": None, **_without_save(fields)})),
            maxima_detection=_read(steps, "maxima_detection", _maxima),
            shape_detection=_read(steps, "shape_detection", _shapes),
            intensity_detection=_read(steps, "intensity_detection", _intensity),
        ),
        bool(maxima.get("valid", True)),
        {step: _save(step, fields["save"]) for step, fields in steps.items() if fields.get("save")},
        [Path(each) for each in files if isinstance(each, (str, PathLike))],
        bool(given.get("verbose")),
    )


def pipeline(**steps: Any) -> CellsConfig:
    """A configuration of these steps alone."""
    return CellsConfig(**{**dict.fromkeys(CellsConfig.model_fields), **steps})


def _read(steps: Mapping[str, Mapping[str, Any]], step: str, read: Callable[[Mapping[str, Any]], Any]) -> Any:
    """What `read` makes of the parameters of a step, whose name stands before its complaints; None: skipped."""
    if step not in steps:
        return None
    try:
        return read(steps[step])
    except ConfigError as error:
        raise ConfigError(f"{step}: {error}") from None


def _without_save(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "save"}


def _save(step: str, given: Any) -> Path:
    if step == "intensity_detection":
        raise ConfigError("intensity_detection: there is no image to save; leave 'save' out, columns hold the result")
    if not isinstance(given, (str, Path)) or Path(given).suffix != ".npy":
        raise ConfigError(f"{step}: save is {given!r}; a path that ends in .npy, or None, is needed")
    return Path(given).expanduser()


def _illumination(fields: Mapping[str, Any]) -> IlluminationCorrection | None:
    flatfield, scaling = fields.get("flatfield"), fields.get("scaling", "mean")
    if flatfield is None:
        return None
    if flatfield is True:
        raise ConfigError(
            "flatfield is True, a measured one that ClearMap ships; give the flat field of your microscope"
        )
    scaling = "mean" if scaling is True else scaling
    is_known = scaling is None or (isinstance(scaling, str) and scaling in ("mean", "max"))
    if not is_known and not (_is_real(scaling) and float(scaling) > 0):
        raise ConfigError(f"scaling is {scaling!r}; a number above 0, 'mean', 'max' or None is needed")
    background = fields.get("background")
    return IlluminationCorrection(
        flatfield=_plane(flatfield, "flatfield"),
        background=None if background is None else _plane(background, "background"),
        scaling=scaling,
    )


def _plane(given: Any, name: str) -> NDArray[np.float64] | float:
    """Plane (y, x), line or number from an array (x, y) or a file: TIFF planes are (y, x) on disk."""
    values = read_flat_field(given, name)
    is_tiff = isinstance(given, (str, PathLike)) and Path(given).suffix.lower() in (".tif", ".tiff")
    return values.T if isinstance(values, np.ndarray) and values.ndim == 2 and not is_tiff else values


def _background(fields: Mapping[str, Any]) -> Background:
    if "shape" not in fields:
        raise ConfigError("shape is missing; give the extent (x, y) of the structure element in voxels")
    return read_background(fields["shape"], fields.get("form", "Disk"))


def read_background(shape: Any, form: Any) -> Background:
    """Footprint of the opening from ClearMap's arguments."""
    values = np.atleast_1d(_array(shape))
    if values.ndim != 1 or values.size not in (1, 2, 3) or values.dtype.kind not in "iu" or (values < 1).any():
        raise ConfigError(f"shape is {_shown(shape)}; one or two whole numbers from 1, (x, y), are needed")
    if not isinstance(form, str) or form.lower() not in ("disk", "cube"):
        raise ConfigError(f"form is {form!r}; 'Disk' or 'Cube' is needed")
    x, y = (int(values[n % values.size]) for n in (0, 1))
    return Background(shape=(y, x), form=form.lower())


def read_equalization(
    percentile: Any = (0.5, 0.95),
    max_value: Any = 1.5,
    selem: Any = (200, 200, 5),
    spacing: Any = (50, 50, 5),
    interpolate: Any = 1,
    mask: Any = None,
) -> Equalization:
    """Local percentiles from ClearMap's arguments."""
    values = _array(percentile)
    if values.shape != (2,) or values.dtype.kind not in "iuf" or not 0 <= values[0] <= values[1] <= 1:
        raise ConfigError(f"percentile is {_shown(percentile)}; two fractions 0 <= lower <= upper <= 1 are needed")
    if not (_is_real(max_value) and max_value > 0):
        raise ConfigError(f"max_value is {max_value!r}; a number above 0 is needed")
    if isinstance(interpolate, bool) or np.ndim(interpolate) or interpolate not in (0, 1):
        raise ConfigError(f"interpolate is {_shown(interpolate)}; 1 (linear) or 0 (nearest) is needed")
    return Equalization(
        percentile=(float(values[0]), float(values[1])),
        max_value=float(max_value),
        selem=_extents("selem", selem),
        spacing=_extents("spacing", spacing),
        interpolate=1 if interpolate else 0,
        mask=None if mask is None else open_source(mask).volume,
    )


def read_dog(shape: Any, sigma: Any = None, sigma2: Any = None) -> DogFilter | None:
    """Difference of Gaussians from ClearMap's arguments; None: there is none."""
    if shape is None:
        return None
    return DogFilter(shape=_extents("shape", shape), sigma=_sigmas("sigma", sigma), sigma2=_sigmas("sigma2", sigma2))


def _maxima(fields: Mapping[str, Any]) -> Maxima:
    return read_maxima(**{name: value for name, value in fields.items() if name != "valid"})


def read_maxima(h_max: Any = None, shape: Any = 5, threshold: Any = None, save: Any = None) -> Maxima:
    """Maxima from ClearMap's arguments."""
    height = number("h_max", h_max)
    if height is not None and height <= 0:
        raise ConfigError(f"h_max is {h_max!r}; a height above 0, or None for local maxima, is needed")
    extent, lowest = _extents("shape", shape), number("threshold", threshold)
    return Maxima(h_max=height, shape=extent, threshold=lowest, save=save or None)


def _shapes(fields: Mapping[str, Any]) -> Shapes:
    lowest = number("threshold", fields.get("threshold"))
    return Shapes(threshold=lowest, fraction=None, save=fields.get("save") or None)


def _intensity(fields: Mapping[str, Any]) -> IntensityDetection:
    method = fields.get("method", "max")
    if not isinstance(method, str) or method.lower() not in METHODS:
        raise ConfigError(f"method is {method!r}; {nearest(str(method), METHODS)}")
    given = fields.get("measure", ("source", "background_correction"))
    if given is not None and not isinstance(given, (str, Sequence, np.ndarray)):
        raise ConfigError(f"measure is {given!r}; a list of names of {', '.join(MEASURES)} is needed")
    names = (given,) if isinstance(given, str) else tuple(() if given is None else given)
    for name in names:
        if name not in MEASURES:
            raise ConfigError(f"measure: {name!r} is no image of the pipeline; {nearest(str(name), MEASURES)}")
    if len(set(names)) != len(names):
        raise ConfigError(f"measure: a name is given twice in {list(names)}")
    shape = fields.get("shape")
    return IntensityDetection(
        method=method.lower(), shape=_extents("shape", 3 if shape is None else shape), measure=names
    )


def number(name: str, given: Any) -> float | None:
    """A finite number, or None."""
    given = given.item() if isinstance(given, np.ndarray) and given.ndim == 0 else given
    if given is not None and not _is_real(given):
        raise ConfigError(f"{name} is {_shown(given)}; a number or None is needed")
    return None if given is None else float(given)


def _is_real(given: Any) -> bool:
    is_number = not isinstance(given, bool) and isinstance(given, (int, float, np.number))
    return is_number and abs(given) <= sys.float_info.max


def _array(given: Any) -> NDArray[Any]:
    """Numbers as an array; one that holds no numbers where they are not in rows of one length."""
    try:
        return np.asarray(given)
    except ValueError:
        return np.empty(0, object)


def _shown(given: Any) -> str:
    """A value as a message shows it, in one line."""
    if isinstance(given, np.ndarray) and given.size > 9:
        return f"an array of {given.dtype} with the shape {given.shape}"
    return " ".join(repr(given).split())


def _extents(name: str, given: Any) -> Shape:
    """Voxels (z, y, x) from one number or three, (x, y, z)."""
    values = _array(given)
    if values.shape not in ((), (3,)) or values.dtype.kind not in "iu" or (values < 1).any():
        raise ConfigError(f"{name} is {_shown(given)}; one or three (x, y, z) whole numbers from 1 are needed")
    x, y, z = (int(value) for value in np.broadcast_to(values, 3))
    return z, y, x


def _sigmas(name: str, given: Any) -> tuple[float, float, float] | None:
    """Voxels (z, y, x) from one number or three, (x, y, z)."""
    if given is None:
        return None
    values = _array(given)
    values = values[0] if values.shape == (1,) else values
    is_real = values.shape in ((), (3,)) and values.dtype.kind in "iuf"
    if not is_real or not (np.isfinite(values) & (values > 0)).all():
        raise ConfigError(f"{name} is {_shown(given)}; one or three (x, y, z) numbers above 0 are needed")
    x, y, z = (float(value) for value in np.broadcast_to(values, 3))
    return z, y, x
