"""Illumination correction on a GPU, see :mod:`cytolith.kernels.illumination`."""

from __future__ import annotations

import math

import numpy as np

from cytolith.kernels.gpu.cuda import C_TYPES, Array, array_module, c_type, kernel
from cytolith.kernels.illumination import FlatField

_THREADS = 256
_MOST_ROWS = 16
"""Blocks along z: each thread keeps the gain of its voxel for a sixteenth of the planes."""


COMPILED = [("illumination", "correct", {"VOXEL": name}) for name in C_TYPES.values()]


def apply_flat_field(image: Array, field: FlatField, *, out: Array | None = None) -> Array:
    """``(image - offset) * gain`` for every plane, as `cytolith.kernels.illumination.apply_flat_field`.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous: uint8, uint16, int16 or float32.
    field
        Gain and offset in host memory, (Y, X); they are uploaded.
    out
        CuPy array, float32, of the shape of the image.

    Returns
    -------
    cupy.ndarray
        float32; `out` when given.

    Raises
    ------
    ValueError
        For a dtype or shape that does not fit.
    """
    cupy = array_module()
    if image.ndim != 3 or field.gain.shape != image.shape[1:]:
        raise ValueError(f"image of shape {image.shape} does not fit a flat field of {field.gain.shape}")
    if out is None:
        out = cupy.empty(image.shape, np.float32)
    if image.size == 0:
        return out
    gain = cupy.asarray(field.gain)
    offset = None if field.offset is None else cupy.asarray(field.offset)
    plane = math.prod(image.shape[1:])
    grid = (-(-plane // _THREADS), min(image.shape[0], _MOST_ROWS))
    arguments = (
        image,
        gain,
        np.uint64(0) if offset is None else offset,
        out,
        np.int64(plane),
        np.int32(image.shape[0]),
    )
    kernel("illumination", "correct", VOXEL=c_type(image.dtype))(grid, (_THREADS,), arguments)
    return out
