"""The image steps with ClearMap's conventions: illumination, background, equalization, difference of Gaussians."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_origin
from cytolith.compat.clearmap_parameters import Background, Dog, Equalization, Parameters
from cytolith.engine.workspace import Workspace
from cytolith.kernels.background import background_reach, remove_background
from cytolith.kernels.equalization import equalize, equalize_reach
from cytolith.kernels.gaussian import dog_filter, dog_reach
from cytolith.kernels.illumination import FlatField, apply_flat_field

Image: TypeAlias = NDArray[Any]


def run_image_steps(
    image: Image,
    region: Region,
    volume: Shape,
    parameters: Parameters,
    flat_field: FlatField | None,
    workspace: Workspace,
    mask: NDArray[np.bool_] | None = None,
) -> dict[str, Image]:
    """Image after each step by the name of the step; a skipped step has the image before it.

    Parameters
    ----------
    image
        Voxels of `region`, (Z, Y, X).
    region
        Where the image lies in the volume.
    volume
        Extent of the volume (z, y, x).
    parameters
        Of all steps.
    flat_field
        Correction of the whole plane; None: there is none.
    workspace
        Buffers that the images live in until its next use.
    mask
        Voxels of the image that the equalization counts.
    """
    images = {"source": image}
    if flat_field is not None:
        field = flat_field.crop(region[1], region[2])
        image = apply_flat_field(image, field, out=workspace.array("illumination", image.shape, np.float32))
    images["illumination_correction"] = image
    if parameters.background is not None:
        out = workspace.array("background", image.shape, image.dtype)
        image = subtract_background(image, parameters.background, out)
    images["background_correction"] = image
    if parameters.equalization is not None:
        out = workspace.array("equalization", image.shape, np.float32)
        image = even_out(image, parameters.equalization, mask, out, region_origin(region), volume)
    images["equalization"] = image
    if parameters.dog is not None:
        image = filter_dog(image, parameters.dog, workspace.array("dog", image.shape, np.float32))
    images["dog_filter"] = image
    return images


def subtract_background(image: Image, step: Background, out: Image | None = None) -> Image:
    """The image less the opening of each plane; the dilation is not reflected, as `cv2.morphologyEx` has it."""
    return remove_background(image, step.shape, step.form, reflect_footprint=False, out=out)


def even_out(
    image: Image,
    step: Equalization,
    mask: NDArray[np.bool_] | None,
    out: Image | None = None,
    origin: Shape = (0, 0, 0),
    volume: Shape | None = None,
) -> Image:
    """The image equalized, on one grid over the volume."""
    return equalize(
        image,
        step.percentile,
        step.max_value,
        step.selem,
        step.spacing,
        step.interpolate,
        mask,
        origin=origin,
        volume_shape=volume,
        out=out,
    )


def filter_dog(image: Image, step: Dog, out: Image | None = None) -> Image:
    """Answers of the difference of Gaussians, not below 0, float32."""
    return dog_filter(image, step.shape, step.sigma, step.sigma2, out=out)


def dense_reach(parameters: Parameters) -> Shape:
    """Voxels (z, y, x) around a region on which the image steps' result in it depends: the sum of their reaches."""
    reaches: list[Shape] = [(0, 0, 0)]
    if parameters.background is not None:
        step = parameters.background
        reaches.append(background_reach(step.shape, step.form, reflect_footprint=False))
    if parameters.equalization is not None:
        reaches.append(equalize_reach(parameters.equalization.selem, parameters.equalization.spacing))
    if parameters.dog is not None:
        reaches.append(dog_reach(parameters.dog.shape))
    z, y, x = (sum(axis) for axis in zip(*reaches, strict=True))
    return z, y, x


def image_bytes(parameters: Parameters, source: np.dtype[Any]) -> int:
    """Memory of the source and of the images after all steps, for each voxel."""
    has_flat_field = parameters.illumination is not None
    total = source.itemsize + (4 if has_flat_field else 0)
    if parameters.background is not None:
        total += 4 if has_flat_field else source.itemsize
    if parameters.equalization is not None:
        total += 4 + 4 + (1 if parameters.equalization.mask is not None else 0)  # sorted copies of the windows
    return total + (4 if parameters.dog is not None else 0)
