"""The image steps of the cells pipeline: illumination, background, equalization, smoothing, difference of Gaussians.

They touch every voxel, in a fixed order, and each has a fixed reach. Pure: arrays in, arrays out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_origin
from cytolith.cells.config import (
    IMAGE_STEPS,
    BackgroundCorrection,
    CellsConfig,
    MaximaDetection,
)
from cytolith.cells.resolve import real, whole
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.kernels.background import background_reach, remove_background
from cytolith.kernels.components import Runs
from cytolith.kernels.equalization import equalize, equalize_reach
from cytolith.kernels.gaussian import dog_filter, dog_reach, smooth, smooth_reach
from cytolith.kernels.illumination import FlatField, apply_flat_field
from cytolith.kernels.maxima import Maxima

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
    noise: float | None = None
    """Noise of the image that maxima are looked for in, where it is needed."""
    extended_maxima: Callable[[Image, MaximaDetection], Maxima] | None = None
    """Finds maxima with a height by another definition, in blocks that are the whole volume."""
    keeps_images: bool = False
    """Whether images are made of blocks too in which there is nothing."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in the image after the last step already, over the read region of a block."""

    maxima: NDArray[np.int64]
    """Voxels that are local maxima and can become rows: ascending flat indices."""
    runs: Runs | None
    """The mask of the shapes; None without shape detection."""
    near: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    """Background at each of the maxima, and the largest one near it, where the rule about jumps is on."""
    brightest: float
    """Largest value in the core."""

    def backgrounds(
        self, at: NDArray[np.int64], shape: Shape
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """`near` of some of the maxima, given as positions (n, 3) in the read region of this shape."""
        if self.near is None:
            return None
        place = np.searchsorted(self.maxima, np.ravel_multi_index((at[:, 0], at[:, 1], at[:, 2]), shape))
        return self.near[0][place], self.near[1][place]


class Look(Protocol):
    """How the dense part of a block is done: its images, and what was found in the last of them, if anything was."""

    def __call__(
        self,
        image: Image,
        block: Block,
        setting: Setting,
        workspace: Workspace,
        *,
        mask: Image | None = None,
        mask_limit: int | None = None,
        seconds: dict[str, float] | None = None,
    ) -> tuple[dict[str, Image], Found | None]:
        """Parameters as of `cytolith.cells.block.cells_of_block`; time of each step is added to `seconds`."""


def look_on_cpu(
    image: Image,
    block: Block,
    setting: Setting,
    workspace: Workspace,
    *,
    mask: Image | None = None,
    mask_limit: int | None = None,  # noqa: ARG001 - looked at when the mask is made
    seconds: dict[str, float] | None = None,
) -> tuple[dict[str, Image], Found | None]:
    """Images of a block after each step, and nothing found in them."""
    return run_image_steps(image, block.read, setting, workspace, mask=mask, seconds=seconds), None


def dense_halo(config: CellsConfig) -> Shape:
    """Voxels around a region on which the image steps' result in it depends: the sum of their reaches."""
    reaches: list[tuple[int, ...]] = [(0, 0, 0)]
    if config.background_correction is not None and config.background_correction.shape is not None:
        reaches.append(background_halo(config.background_correction))
    if config.equalization is not None and config.equalization.selem and config.equalization.spacing:
        reaches.append(equalize_reach(triple(config.equalization.selem), triple(config.equalization.spacing)))
    if config.smoothing is not None and config.smoothing.sigma is not None:
        reaches.append(smooth_reach(sigmas(config.smoothing.sigma), TRUNCATE))
    if config.dog_filter is not None and config.dog_filter.shape is not None:
        reaches.append(dog_reach(triple(config.dog_filter.shape)))
    z, y, x = (sum(axis) for axis in zip(*reaches, strict=True))
    return z, y, x


def background_halo(step: BackgroundCorrection) -> Shape:
    """Voxels around a region on which the background in it depends."""
    assert step.shape is not None
    y, x = whole(step.shape)
    reach = background_reach((y, x), step.form, reflect_footprint=step.reflect_footprint)
    if step.stripe_length is None:
        return reach
    line = background_reach(stripe_footprint(step), "cube")
    return max(reach[0], line[0]), max(reach[1], line[1]), max(reach[2], line[2])


def image_dtypes(config: CellsConfig, source: np.dtype[Any]) -> dict[str, np.dtype[Any]]:
    """Type of the image after each image step that runs, for a source of the given type."""
    dtypes = {}
    current, real32 = source, np.dtype(np.float32)
    for name in IMAGE_STEPS:
        if getattr(config, name) is not None:
            current = current if name == "background_correction" else real32
            dtypes[name] = current
    return dtypes


class Arrays(Protocol):
    """Memory of the images, by name: a workspace, or a lane of a GPU."""

    def array(self, name: str, shape: Shape, dtype: Any) -> Any:
        """Uninitialised array."""


@dataclass(frozen=True)
class Kernels:
    """The kernels of the steps; those of a GPU take the same arguments and give the same bits."""

    apply_flat_field: Callable[..., Any] = apply_flat_field
    remove_background: Callable[..., Any] = remove_background
    equalize: Callable[..., Any] = equalize
    smooth: Callable[..., Any] = smooth
    dog_filter: Callable[..., Any] = dog_filter


ON_CPU = Kernels()


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
    clock = Clock(seconds)
    images = {"source": image}
    for name in IMAGE_STEPS:
        before = image
        image = run_step(name, before, region, setting, workspace, mask=mask)
        images[name] = image
        if image is not before:
            clock.lap(name)
    return images


def run_step(
    name: str,
    image: Any,
    region: Region,
    setting: Setting,
    arrays: Arrays,
    *,
    mask: Any = None,
    kernels: Kernels = ON_CPU,
) -> Any:
    """The image after one step; the image itself where the step is skipped.

    Parameters as in `run_image_steps`. With the kernels of a GPU, images and mask are arrays there.
    """
    step: Any = getattr(setting.config, name)
    if step is None or (name == "illumination_correction" and setting.flat_field is None):
        return image
    out = arrays.array(name, image.shape, image.dtype if name == "background_correction" else np.float32)
    if name == "illumination_correction":
        assert setting.flat_field is not None
        return kernels.apply_flat_field(image, setting.flat_field.crop(region[1], region[2]), out=out)
    if name == "background_correction":
        reflect = step.reflect_footprint
        kernels.remove_background(image, whole(step.shape), step.form, reflect_footprint=reflect, out=out)
        if step.stripe_length is not None:
            kernels.remove_background(image, stripe_footprint(step), "cube", smaller=True, out=out)
        return out
    if name == "equalization":
        return kernels.equalize(
            image,
            percentile=step.percentile,
            max_value=step.max_value,
            selem=triple(step.selem),
            spacing=triple(step.spacing),
            interpolate=step.interpolate,
            mask=mask,
            origin=region_origin(region),
            volume_shape=setting.shape,
            out=out,
        )
    if name == "smoothing":
        return kernels.smooth(image, sigmas(step.sigma), truncate=TRUNCATE, out=out)
    narrow, wide = (None if each is None else sigmas(each) for each in (step.sigma, step.sigma2))
    return kernels.dog_filter(image, triple(step.shape), narrow, wide, out=out)


def stripe_footprint(step: BackgroundCorrection) -> tuple[int, int]:
    """Extent (Y, X) of the line along the stripes, in voxels."""
    assert step.stripe_length is not None
    (length,) = whole((step.stripe_length,))
    return (length, 1) if step.stripe_axis == "y" else (1, length)


def triple(lengths: tuple[Any, ...]) -> Shape:
    """Three lengths of a resolved configuration as whole voxels, (z, y, x)."""
    z, y, x = whole(lengths)
    return z, y, x


def sigmas(lengths: tuple[Any, ...]) -> tuple[float, float, float]:
    """Three lengths of a resolved configuration as numbers of voxels, (z, y, x)."""
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
