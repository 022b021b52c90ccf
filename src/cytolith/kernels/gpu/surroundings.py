"""What lies around voxels, on a GPU, see :mod:`cytolith.kernels.surroundings`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.axes import Region, Shape, full_region
from cytolith.kernels.gpu.cuda import C_TYPES, Array, array_module, c_type, kernel, to_host
from cytolith.kernels.surroundings import window_widths

_DIFFERENCES = {"uint8": "uint64", "uint16": "uint64", "int16": "int64", "float": "float"}
"""Types in which numba takes the difference of two voxels: where `corrected` is above an unsigned image, it wraps."""

COMPILED = [
    ("surroundings", "background_near", {"VOXEL": voxel, "CORRECTED": other, "DIFFERENCE": _DIFFERENCES[voxel]})
    for voxel in C_TYPES.values()
    for other in C_TYPES.values()
]

_THREADS = 256


def background_near(
    image: Array, corrected: Array, positions: ArrayLike, radius: Shape, known: Region | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Background at each position, and the largest one near it, as `cytolith.kernels.surroundings.background_near`.

    Parameters
    ----------
    image, corrected
        CuPy arrays (Z, Y, X), C-contiguous, before and after the background was taken off: uint8, uint16, int16 or
        float32. `corrected` is taken in the dtype of the image, which must hold its values.
    positions
        (n, 3) integers in host memory: voxels (z, y, x) of the image. They are uploaded.
    radius
        Half extents (z, y, x) of the window in voxels: elliptic in the plane, the same on each plane along z. It is
        clipped at the faces of the image.
    known
        Part of the image in which the background is right; what lies outside it is not looked at.

    Returns
    -------
    own, largest
        float64, (n,) each, in host memory.

    Raises
    ------
    ValueError
        The images differ in shape, or a dtype does not fit.
    """
    cupy = array_module()
    if corrected.shape != image.shape:
        raise ValueError(f"corrected: extent {corrected.shape} given, that of the image {image.shape} is needed")
    voxel, other = c_type(image.dtype), c_type(corrected.dtype)
    at = np.ascontiguousarray(positions, np.int64).reshape(-1, 3)
    if len(at) == 0:
        return np.empty(0), np.empty(0)
    bounds = [bound for side in known or full_region(image.shape) for bound in (side.start, side.stop)]
    found = cupy.empty((2, len(at)), np.float64)
    run = kernel("surroundings", "background_near", VOXEL=voxel, CORRECTED=other, DIFFERENCE=_DIFFERENCES[voxel])
    arguments = (
        image,
        corrected,
        cupy.asarray(at),
        np.int64(len(at)),
        *(np.int32(n) for n in (*image.shape[1:], *radius)),
        cupy.asarray(window_widths(radius).astype(np.int32)),
        *(np.int32(bound) for bound in bounds),
        found[0],
        found[1],
    )
    run((-(-len(at) * 32 // _THREADS),), (_THREADS,), arguments)
    own, largest = to_host(found)
    return own, largest
