"""Every parameter of the cells pipeline: one small frozen model a step.

The text under a field is the help of its flag, the comment in ``config.toml`` and the description in the JSON schema.
Lengths are voxels or micrometres, thresholds grey values or multiples of the noise (see :mod:`cytolith.quantities`).
A field left at None is chosen by :func:`in_voxels` from the voxel size, so that the defaults mean the same in every
sample. Class variables are conventions, not parameters: `cytolith.compat.clearmap` has others.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator

from cytolith.cells.fields import (
    SWITCH_OFF,
    SWITCH_ON,
    Fraction,
    LengthField,
    Lengths2,
    Lengths3,
    Text,
    ThresholdField,
    nearest,
    no_text,
    numbers,
)
from cytolith.quantities import Length, Threshold

IMAGE_STEPS = ("illumination_correction", "background_correction", "equalization", "smoothing", "dog_filter")
"""Steps that make an image from an image, in the order they run."""
MEASURES = ("source", *IMAGE_STEPS)
"""Images whose intensity a cell can be measured on."""
FEATURES = (
    "peak_to_noise",
    "peak_to_background",
    "background",
    "ring_to_peak",
    "raw_contrast",
    "raw_height",
    "relief",
    "dog_to_peak",
    "background_sd",
    "background_jump",
    "background_jump_wide",
    "background_low",
    "relative_height",
    "mean_around",
    "sd_around",
)
"""Measures of a cell and its surroundings; docs/detection.md says what each is."""


class Step(BaseModel):
    """Base of the steps: frozen, and an unknown name is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )


class IlluminationCorrection(Step):
    """Divide each plane by a flat field. Off unless a flat field is given."""

    flatfield: Annotated[Any, BeforeValidator(no_text)] = None
    """Flat field: file (.npy, .tif, or .csv/.txt of numbers) or array, a plane (Y, X) or a profile along `axis`."""
    axis: Literal["y", "x"] | None = None
    """Axis along which a one-dimensional flat field varies: y or x."""
    background: Any = None
    """Camera offset taken off before dividing: a number, a file or an array of a plane."""
    scaling: float | Literal["mean", "max"] | None = "mean"
    """Factor after dividing: a number, mean or max of the flat field, or none."""
    save: Text = None
    """Write the corrected volume to this .zarr or .npy."""

    @field_validator("scaling", "axis", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return no_text(value)

    @field_validator("background", mode="before")
    @classmethod
    def _number_or_file(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return no_text(value)
        return value


class BackgroundCorrection(Step):
    """Subtract a grey opening of each plane: what is wider than the footprint goes."""

    shape: Lengths2 = None
    """Diameter (Y,X) of the footprint, wider than a cell. Default: 16 um, or 10 voxels when the voxel size is
    unknown."""
    form: Literal["disk", "cube"] = "disk"
    """Form of the footprint: disk or cube."""
    stripe_length: LengthField = None
    """For stripes of a light sheet: also take off what a line of this length along them holds, for example "73 um".
    None: stripes are left alone."""
    stripe_axis: Literal["y", "x"] = "x"
    """Axis that stripes run along: y or x."""
    save: Text = None
    """Write the background-corrected volume to this .zarr or .npy."""
    reflect_footprint: ClassVar[bool] = True
    """Whether the dilation of the opening is by the reflected footprint, as an opening is defined."""

    @field_validator("form", "stripe_axis", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class Equalization(Step):
    """Divide by a local percentile, so that dim and bright regions meet the same threshold. Off by default."""

    percentile: Annotated[tuple[float, float], BeforeValidator(numbers)] = (0.5, 0.95)
    """Lower and upper percentile as fractions: the lower one normalizes, the upper one limits the boost."""
    max_value: float = 1.5
    """Largest value that the upper percentile may reach in the equalized image."""
    selem: Lengths3 = (Length(5), Length(200), Length(200))
    """Window (Z,Y,X) of the percentiles, larger than the larger vessels."""
    spacing: Lengths3 = (Length(5), Length(50), Length(50))
    """Distance (Z,Y,X) between windows; percentiles are interpolated between them."""
    interpolate: Literal[0, 1] = 1
    """Interpolation between windows: 1 or linear, 0 or nearest."""
    mask: Annotated[Any, BeforeValidator(no_text)] = None
    """Count only voxels that are not zero in this volume of the same shape (any input that a run can read)."""
    save: Text = None
    """Write the equalized volume to this .zarr or .npy."""

    @field_validator("percentile")
    @classmethod
    def _fractions(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] <= 1:
            raise ValueError(f"{value[0]:g},{value[1]:g}: give two fractions 0 <= lower <= upper <= 1")
        return value

    @field_validator("interpolate", mode="before")
    @classmethod
    def _order(cls, value: Any) -> Any:
        orders = {"nearest": 0, "linear": 1, "0": 0, "1": 1}
        if str(value) not in orders:
            raise ValueError(f"{value}: give 1 (linear) or 0 (nearest)")
        return orders[str(value)]

    @field_validator("selem", "spacing")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("give a length, for example 5,200,200; to skip the step give none for it")
        return value

    @field_validator("max_value")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError(f"{value:g}: must be positive")
        return value


class Smoothing(Step):
    """Gaussian smoothing: makes one maximum of a cell and lets a threshold be a multiple of the noise."""

    sigma: Lengths3 = None
    """Standard deviation (Z,Y,X). Default: 4.2, 2.4, 2.4 um, or 0.7, 1.5, 1.5 voxels when the voxel size is unknown."""
    save: Text = None
    """Write the smoothed volume to this .zarr or .npy."""


class DogFilter(Step):
    """Difference of Gaussians: answers to blobs of one size. Off unless a shape is given."""

    shape: Lengths3 = None
    """Extent (Z,Y,X) of the filter, near the size of a cell; none skips the filter."""
    sigma: Lengths3 = None
    """Standard deviation (Z,Y,X) of the inner Gaussian. Default: sigma2 / 1.5."""
    sigma2: Lengths3 = None
    """Standard deviation (Z,Y,X) of the outer Gaussian. Default: full width at half maximum equal to the shape."""
    save: Text = None
    """Write the filtered volume to this .zarr or .npy."""

    @field_validator("sigma", "sigma2")
    @classmethod
    def _wide(cls, value: Any) -> Any:
        if value is not None and any(length.value <= 0 for length in value):
            raise ValueError("must be positive")
        return value


class MaximaDetection(Step):
    """Centres of cells: local maxima, or extended maxima when a height is given."""

    h_max: ThresholdField = None
    """Height by which a maximum must rise over its surroundings: a grey value, "3 mad", or none (local maxima)."""
    shape: Lengths3 = None
    """Window (Z,Y,X) in which a maximum is the largest. Default: 18, 8, 8 um, or 3, 5, 5 voxels when the voxel size is
    unknown; with h_max no window unless one is given."""
    threshold: ThresholdField = Threshold(6.0, "mad")
    """Keep maxima of at least this value: "6 mad" (multiple of the noise), a grey value, or none (all)."""
    valid: bool = True
    """Give each cell once, from the block that holds its centre; false keeps those of the overlaps too (for
    inspection)."""
    save: Text = None
    """Write the maxima as a mask (0/1) to this .zarr or .npy."""
    merge_plateaus: ClassVar[bool] = True
    """Whether neighbours of equal value are one maximum."""
    whole_centres: ClassVar[bool] = False
    """Whether parts of a voxel are cut off the centres."""

    @field_validator("h_max")
    @classmethod
    def _positive(cls, value: Threshold | None) -> Threshold | None:
        if value is not None and value.value <= 0:
            raise ValueError(f"{value}: must be positive, or none for local maxima")
        return value


class BackgroundJump(Step):
    """Drop what lies beside a much brighter background: rims of the tissue, of vessels and of the meninges.

    The step of the background must also exceed the threshold of the maxima. Skipped where there is no background
    correction. A maximum that is dropped still keeps its neighbours from growing over it.
    """

    ratio: float | None = None
    """Drop a maximum when the background near it exceeds this many times that at the maximum itself. Default: 1.5
    where the threshold of the maxima is a multiple of the noise; with a grey value the step is skipped."""
    radius: Lengths3 = None
    """How far (Z,Y,X) near is. Default: 12, 25, 25 um, or 2, 15, 15 voxels when the voxel size is unknown."""

    @field_validator("ratio", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return no_text(value)

    @field_validator("ratio")
    @classmethod
    def _more(cls, value: float | None) -> float | None:
        if value is not None and value < 1:
            raise ValueError(f"{value:g}: give a ratio of at least 1")
        return value


class ShapeDetection(Step):
    """Shapes of cells: seeded watershed above a threshold, down to a fraction of each cell's own maximum."""

    threshold: ThresholdField = Threshold(4.0, "mad")
    """A cell grows over voxels above this value: "4 mad" (multiple of the noise), a grey value, or none
    (everywhere)."""
    fraction: Fraction = "auto"
    """A cell ends where it falls below this fraction of its own maximum; none: where the watershed ends; auto: 0.5
    where the threshold is a multiple of the noise, none where it is a grey value."""
    save: Text = None
    """Write the labels (row of the table + 1) to this .zarr or .npy."""
    from_crosses: ClassVar[bool] = False
    """Whether shapes grow from the centres of maxima and their six neighbours, instead of the maxima's own voxels."""


class IntensityDetection(Step):
    """Intensities of cells, one column a measured image."""

    method: Literal["max", "min", "mean", "sum"] = "max"
    """What is measured over a cell: max, min, mean or sum."""
    shape: Lengths3 = None
    """Diameter (Z,Y,X) of the ball measured around a centre when shape detection is off. Default: 8 um or 3 voxels."""
    measure: tuple[str, ...] = ("source", "background_correction")
    """Images to measure on: source and names of steps."""

    @field_validator("method", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("measure", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [v.strip().replace("-", "_") for v in value.split(",") if v.strip()]
        if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{value!r}: give names of images: {', '.join(MEASURES)}")
        names = tuple(value)
        for name in names:
            if name not in MEASURES:
                raise ValueError(f"{name!r} is not an image of the pipeline; {nearest(str(name), MEASURES)}")
        if len(set(names)) != len(names):
            raise ValueError(f"{', '.join(names)}: a name is given twice")
        return names


class Features(Step):
    """Measures of a cell and its surroundings, for telling cells from what looks like them. Off by default."""

    measure: tuple[str, ...] = FEATURES
    """Which, by name. Default: all."""
    cell: Lengths3 = None
    """Extent (Z,Y,X) of a cell; windows are multiples of it. Default: 12 um, or 2, 7.4, 7.4 voxels when the voxel size
    is unknown."""

    @field_validator("measure", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = [v.strip().replace("-", "_") for v in value.split(",")] if isinstance(value, str) else list(value)
        for name in names:
            if name not in FEATURES:
                raise ValueError(f"{name!r} is no feature; {nearest(str(name), FEATURES)}")
        return tuple(name for name in FEATURES if name in names)

    @field_validator("cell")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if value is not None and any(length.value <= 0 for length in value):
            raise ValueError("must be positive")
        return value


def _switch(kind: type[Step]) -> BeforeValidator:
    def validate(value: Any) -> Any:
        if isinstance(value, str):
            word = value.strip().lower()
            if word not in SWITCH_OFF | SWITCH_ON:
                raise ValueError("give none (skip the step), on, or the parameters of the step")
            value = word in SWITCH_ON
        if isinstance(value, bool):
            return kind() if value else None
        return value

    return BeforeValidator(validate)


class CellsConfig(Step):
    """All steps of the cells pipeline; a step that is None is skipped."""

    illumination_correction: Annotated[IlluminationCorrection | None, _switch(IlluminationCorrection)] = (
        IlluminationCorrection()
    )
    background_correction: Annotated[BackgroundCorrection | None, _switch(BackgroundCorrection)] = (
        BackgroundCorrection()
    )
    equalization: Annotated[Equalization | None, _switch(Equalization)] = None
    smoothing: Annotated[Smoothing | None, _switch(Smoothing)] = Smoothing()
    dog_filter: Annotated[DogFilter | None, _switch(DogFilter)] = DogFilter()
    maxima_detection: Annotated[MaximaDetection | None, _switch(MaximaDetection)] = MaximaDetection()
    background_jump: Annotated[BackgroundJump | None, _switch(BackgroundJump)] = BackgroundJump()
    shape_detection: Annotated[ShapeDetection | None, _switch(ShapeDetection)] = ShapeDetection()
    intensity_detection: Annotated[IntensityDetection | None, _switch(IntensityDetection)] = IntensityDetection()
    features: Annotated[Features | None, _switch(Features)] = None


_MODELS: dict[str, type[Step]] = {
    "illumination_correction": IlluminationCorrection,
    "background_correction": BackgroundCorrection,
    "equalization": Equalization,
    "smoothing": Smoothing,
    "dog_filter": DogFilter,
    "maxima_detection": MaximaDetection,
    "background_jump": BackgroundJump,
    "shape_detection": ShapeDetection,
    "intensity_detection": IntensityDetection,
    "features": Features,
}
STEPS = tuple(_MODELS)
"""Names of the steps in the order they run."""


def step_model(name: str) -> type[Step]:
    """The model of a step by its name."""
    return _MODELS[name]
