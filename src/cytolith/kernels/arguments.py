"""Checks of arguments that kernels share: images, outputs, extents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape


def usable_image(image: NDArray[Any]) -> NDArray[Any]:
    """The image as the loops take it: C-contiguous, native byte order, uint8, uint16, int16 or float32.

    Bool becomes uint8 and float64 becomes float32.

    Raises
    ------
    ValueError
        If the image is not three-dimensional or has another dtype.
    """
    if image.ndim != 3:
        raise ValueError(f"image has {image.ndim} dimensions; a 3-d image (z, y, x) is needed")
    dtype = image.dtype.newbyteorder("=")
    if dtype == np.bool_:
        return np.ascontiguousarray(image).view(np.uint8)
    if dtype == np.float64:
        return np.ascontiguousarray(image, np.float32)
    if dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        raise ValueError(f"image has dtype {dtype}; allowed are bool, uint8, uint16, int16, float32 and float64")
    return np.ascontiguousarray(image, dtype)


def float_output(image: NDArray[Any], out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The given output, checked, or a new one: float32, C-contiguous, shape of the image.

    Raises
    ------
    ValueError
        If the given output has another shape or dtype, is not C-contiguous, or overlaps the image.
    """
    if out is None:
        return np.empty(image.shape, np.float32)
    if out.shape != image.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}; C-contiguous float32 of {image.shape} is needed")
    if np.may_share_memory(image, out):
        raise ValueError("out overlaps image; the filter cannot run in place")
    return out


def positive_extents(name: str, value: int | Shape) -> Shape:
    """Three whole numbers >= 1 (z, y, x) from one or three.

    Raises
    ------
    ValueError
        If they are anything else.
    """
    values = np.asarray(value)
    if values.shape not in ((), (3,)) or values.dtype.kind not in "iu" or (values < 1).any():
        raise ValueError(f"{name} is {value}; one or three (z, y, x) whole numbers >= 1 are needed")
    z, y, x = np.broadcast_to(values, 3).tolist()
    return z, y, x
