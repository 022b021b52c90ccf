"""Local maxima on a GPU, see :mod:`cytolith.kernels.local_maxima`.

A first pass reads every voxel once and marks, a bit a voxel, those that reach the threshold and that no neighbour
across a face exceeds. With a threshold that is one voxel in hundreds, and only those are compared with their windows,
in a second pass that reads the marks. Between the passes the marks are counted: where they are so many, and the window
so large, that all comparisons would take long (no threshold, plateaus), they are left to the CPU.

Maxima are so few that sorting them on the host is less work than bringing a count of each row there and back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.gpu.cuda import C_TYPES, Allocate, Array, allocate, c_type, kernel, to_host
from cytolith.kernels.local_maxima import Reach

_WARPS = 8
_MOST_BLOCKS = 1 << 13
"""Blocks of a pass: each warp counts what it marks in many rows before it adds that to the number of all."""
_MOST_COMPARED = 64
"""Comparisons with voxels of windows for each voxel of the image, were no marked voxel exceeded."""
_MOST_WINDOW = 1 << 15
"""Voxels of the largest window: one thread compares all of them."""
_MOST_ROWS = (1 << 31) - 1

COMPILED = [
    ("maxima", name, {"VOXEL": voxel, "WARPS": _WARPS})
    for voxel in C_TYPES.values()
    for name in ("mark_candidates", "list_maxima")
]


def scan_maxima(
    image: Array, lowest: Any, reach: Reach, *, most: int | None = None, allocate: Allocate = allocate
) -> NDArray[np.int64] | None:
    """Voxels >= `lowest` that no voxel of their window exceeds, as `cytolith.kernels.local_maxima.scan_maxima`.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous: uint8, uint16, int16 or float32.
    lowest, reach
        As `cytolith.kernels.maxima.search` gives them: the least value in the dtype of the image, and how far the
        window looks towards each face, in voxels, clipped to the image.
    most
        Maxima that may be listed; by default one in eight voxels.
    allocate
        Gives scratch memory: a bit for each voxel of rows that are filled up to 32, and 8 bytes for each voxel marked,
        but not for more than `most`.

    Returns
    -------
    ndarray or None
        int64, in host memory: ascending flat indices. None when there are more than `most`, or when so many voxels
        are marked, or the window is so large, that it would take too long: the CPU finds them then.

    Raises
    ------
    ValueError
        For another dtype or number of axes.
    """
    voxel = c_type(image.dtype)
    if image.ndim != 3:
        raise ValueError(f"image of shape {image.shape} given, three axes (z, y, x) are needed")
    if image.size == 0:
        return np.empty(0, np.int64)
    Z, Y, X = image.shape
    most = image.size // 8 if most is None else most
    reaches = [min(int(r), n) for r, n in zip(reach, (Z, Z, Y, Y, X, X), strict=True)]
    window = math.prod(min(sum(reaches[2 * axis : 2 * axis + 2]) + 1, n) for axis, n in enumerate((Z, Y, X)))
    if window > _MOST_WINDOW or Z * Y > _MOST_ROWS:
        return None
    words = -(-X // 32)
    grid, block = (min(-(-Z * Y // _WARPS), _MOST_BLOCKS),), (32 * _WARPS,)
    marks = allocate("maxima marks", (Z * Y, words), np.uint32)
    counts = allocate("maxima counts", (2,), np.uint64)
    counts.fill(0)
    extent = tuple(np.int32(n) for n in (Z, Y, X))
    sides = np.int32(sum(1 << face for face in range(6) if reaches[face] > 0))
    mark = kernel("maxima", "mark_candidates", VOXEL=voxel, WARPS=_WARPS)
    mark(grid, block, (image, image.dtype.type(lowest), *extent, sides, np.int32(words), marks, counts[:1]))
    marked = int(to_host(counts[:1])[0])
    if marked * window > _MOST_COMPARED * image.size:
        return None
    if marked == 0:
        return np.empty(0, np.int64)
    room = min(marked, most)
    found = allocate("maxima list", (room,), np.int64)
    window_arguments = (*(np.int32(r) for r in reaches), np.int32(words), marks)
    list_them = kernel("maxima", "list_maxima", VOXEL=voxel, WARPS=_WARPS)
    list_them(grid, block, (image, *extent, *window_arguments, np.uint64(room), found, counts[1:]))
    listed = int(to_host(counts[1:])[0])
    if listed > most:
        return None
    maxima = to_host(found[:listed])
    maxima.sort()
    return maxima
