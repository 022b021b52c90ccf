"""The image steps of the cells pipeline: illumination, background, equalization, smoothing, difference of Gaussians.

They touch every voxel, in a fixed order, and each has a fixed reach. Pure: arrays in, arrays out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_origin
from cytolith.cells.config import IMAGE_STEPS, CellsConfig
from cytolith.cells.resolve import real, whole
from cytolith.engine.workspace import Workspace
from cytolith.kernels.background import background_reach, remove_background
from cytolith.kernels.equalization import equalize, equalize_reach
from cytolith.kernels.gaussian import dog_filter, dog_reach, smooth, smooth_reach
from cytolith.kernels.illumination import FlatField, apply_flat_field

Image: TypeAlias = NDArray[Any]

TRUNCATE = 3.0
"""Radius of the smoothing in standard deviations: what is cut off is below 0.3 % of the weight."""


@dataclass(frozen=True)
class Setting:
    """What every block of a run shares."""

    config: CellsConfig
    """Parameters with lengths in voxels and thresholds in grey values."""
    shape: Shape
    """Extent of the volume."""
    flat_field: FlatField | None = None
    """Flat field of the whole plane."""


def dense_halo(config: CellsConfig) -> Shape:
    """Voxels around a region on which the image steps' result in it depends: the sum of their reaches."""
    reaches: list[tuple[int, ...]] = [(0, 0, 0)]
    if config.background_correction is not None and config.background_correction.shape is not None:
        y, x = whole(config.background_correction.shape)
        reaches.append(background_reach((y, x), config.background_correction.form))
    if config.equalization is not None and config.equalization.selem and config.equalization.spacing:
        reaches.append(equalize_reach(triple(config.equalization.selem), triple(config.equalization.spacing)))
    if config.smoothing is not None and config.smoothing.sigma is not None:
        reaches.append(smooth_reach(_sigmas(config.smoothing.sigma), TRUNCATE))
    if config.dog_filter is not None and config.dog_filter.shape is not None:
        reaches.append(dog_reach(triple(config.dog_filter.shape)))
    z, y, x = (sum(axis) for axis in zip(*reaches, strict=True))
    return z, y, x


def image_dtypes(config: CellsConfig, source: np.dtype[Any]) -> dict[str, np.dtype[Any]]:
    """Type of the image after each image step that runs, for a source of the given type."""
    dtypes = {}
    current, real32 = source, np.dtype(np.float32)
    for name in IMAGE_STEPS:
        if getattr(config, name) is not None:
            current = current if name == "background_correction" else real32
            dtypes[name] = current
    return dtypes


def run_image_steps(
    image: Image,
    region: Region,
    setting: Setting,
    workspace: Workspace,
    *,
    mask: Image | None = None,
    seconds: dict[str, float] | None = None,
) -> dict[str, Image]:
    """Image after each step, by name, in the order they ran; a skipped step has the image before it.

    Parameters
    ----------
    image
        Voxels of `region`, (Z, Y, X).
    region
        Where the image lies in the volume.
    setting
        Parameters and flat field.
    workspace
        Buffers; the images returned live in it until its next use.
    mask
        Voxels that equalization counts, of the shape of `image`.
    seconds
        Time of each step is added here.
    """
    config, shape = setting.config, (image.shape[0], image.shape[1], image.shape[2])
    clock = Clock(seconds)
    images = {"source": image}
    current = image
    if setting.flat_field is not None:
        field = setting.flat_field.crop(region[1], region[2])
        current = apply_flat_field(current, field, out=workspace.array("illumination", shape, np.float32))
        clock.lap("illumination_correction")
    images["illumination_correction"] = current
    background = config.background_correction
    if background is not None and background.shape is not None:
        y, x = whole(background.shape)
        out = workspace.array("background", shape, current.dtype)
        current = remove_background(current, (y, x), background.form, out=out)
        clock.lap("background_correction")
    images["background_correction"] = current
    step = config.equalization
    if step is not None and step.selem is not None and step.spacing is not None:
        current = equalize(
            current,
            percentile=step.percentile,
            max_value=step.max_value,
            selem=triple(step.selem),
            spacing=triple(step.spacing),
            interpolate=step.interpolate,
            mask=mask,
            origin=region_origin(region),
            volume_shape=setting.shape,
            out=workspace.array("equalization", shape, np.float32),
        )
        clock.lap("equalization")
    images["equalization"] = current
    if config.smoothing is not None and config.smoothing.sigma is not None:
        sigma = _sigmas(config.smoothing.sigma)
        current = smooth(current, sigma, truncate=TRUNCATE, out=workspace.array("smoothing", shape, np.float32))
        clock.lap("smoothing")
    images["smoothing"] = current
    dog = config.dog_filter
    if dog is not None and dog.shape is not None:
        current = dog_filter(
            current,
            triple(dog.shape),
            None if dog.sigma is None else _sigmas(dog.sigma),
            None if dog.sigma2 is None else _sigmas(dog.sigma2),
            out=workspace.array("dog", shape, np.float32),
        )
        clock.lap("dog_filter")
    images["dog_filter"] = current
    return images


def triple(lengths: tuple[Any, ...]) -> Shape:
    """Three lengths of a resolved configuration as whole voxels, (z, y, x)."""
    z, y, x = whole(lengths)
    return z, y, x


def _sigmas(lengths: tuple[Any, ...]) -> tuple[float, float, float]:
    z, y, x = real(lengths)
    return z, y, x


class Clock:
    """Adds the time since the last lap to a step."""

    def __init__(self, seconds: dict[str, float] | None) -> None:
        self._seconds = seconds if seconds is not None else {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last call, or since the beginning, to the step of this name."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now
