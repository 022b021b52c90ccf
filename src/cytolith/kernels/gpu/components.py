"""The mask of an image as runs along x, made on a GPU, see :mod:`cytolith.kernels.components`.

A first pass counts the runs and the voxels of each row. The host adds the rows up, which also tells how much memory the
mask takes, and a second pass over the rows that have runs writes them to their places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.components import MaskTooLargeError, Runs, mask_level
from cytolith.kernels.gpu.cuda import C_TYPES, Allocate, Array, allocate, c_type, kernel, to_host

_WARPS = 8

COMPILED = [
    ("components", name, {"VOXEL": voxel, "WARPS": _WARPS})
    for voxel in C_TYPES.values()
    for name in ("count_runs", "find_runs", "gather")
]


@dataclass(frozen=True, eq=False)
class DeviceRuns:
    """A mask as runs, in host memory and on the GPU.

    Attributes
    ----------
    runs
        In host memory.
    row_start, start, stop, offset
        CuPy arrays like those of `runs`, `offset` without its last entry. They are good until the `allocate` of
        `mask_runs` is asked for them again.
    """

    runs: Runs
    row_start: Array
    start: Array
    stop: Array
    offset: Array


def mask_runs(
    image: Array, threshold: float | None, *, limit: int | None = None, allocate: Allocate = allocate
) -> DeviceRuns:
    """Runs of the mask ``image > threshold``, as `cytolith.kernels.components.mask_runs`.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous: uint8, uint16, int16 or float32.
    threshold, limit
        See there.
    allocate
        Gives memory on the GPU: 24 bytes a row, and 16 a run.

    Returns
    -------
    DeviceRuns
        For `masked_values`; its `runs` are those of the CPU.

    Raises
    ------
    MaskTooLargeError
        When the mask holds more than `limit` voxels.
    ValueError
        For another dtype or number of axes, or when the threshold is NaN.
    """
    voxel = c_type(image.dtype)
    if image.ndim != 3:
        raise ValueError(f"image of shape {image.shape} given, three axes (z, y, x) are needed")
    level, everything = mask_level(image.dtype, threshold)
    Z, Y, X = image.shape
    rows = Z * Y
    row_start, row_voxels = np.zeros(rows + 1, np.int64), np.zeros(rows + 1, np.int64)
    looked_at = (image, np.int64(rows), np.int32(X), level, np.int32(everything))
    if image.size > 0:
        counts = allocate("runs, voxels of rows", (2, rows), np.int32)
        kernel("components", "count_runs", VOXEL=voxel, WARPS=_WARPS)(
            *_launch(rows), (*looked_at, counts[0], counts[1])
        )
        runs_of_row, voxels_of_row = to_host(counts)
        np.cumsum(runs_of_row, dtype=np.int64, out=row_start[1:])
        np.cumsum(voxels_of_row, dtype=np.int64, out=row_voxels[1:])
    n_runs, n_voxels = int(row_start[-1]), int(row_voxels[-1])
    if limit is not None and n_voxels > limit:
        raise MaskTooLargeError(n_voxels, limit)
    row_start_there = allocate("runs before rows", (rows + 1,), np.int64)
    start, stop = (allocate(f"{end} of runs", (n_runs,), np.int32) for end in ("start", "stop"))
    offset = allocate("voxels before runs", (n_runs,), np.int64)
    runs = Runs(
        (Z, Y, X), row_start, np.empty(n_runs, np.int32), np.empty(n_runs, np.int32), np.empty(n_runs + 1, np.int64)
    )
    if n_runs > 0:
        before = allocate("voxels before rows", (rows + 1,), np.int64)
        row_start_there.set(row_start)
        before.set(row_voxels)
        find = kernel("components", "find_runs", VOXEL=voxel, WARPS=_WARPS)
        find(*_launch(rows), (*looked_at, row_start_there, before, start, stop, offset))
        for there, here in ((start, runs.start), (stop, runs.stop), (offset, runs.offset[:-1])):
            to_host(there, here)
    runs.offset[-1] = n_voxels
    return DeviceRuns(runs, row_start_there, start, stop, offset)


def masked_values(image: Array, mask: DeviceRuns, *, allocate: Allocate = allocate) -> NDArray[Any]:
    """Values of an image at the voxels of a mask.

    Parameters
    ----------
    image
        CuPy array of the shape of the mask, C-contiguous: uint8, uint16, int16 or float32; not necessarily the image
        that the mask is of.
    mask
        As `mask_runs` gives it.
    allocate
        Gives memory on the GPU: a value for each voxel of the mask.

    Returns
    -------
    ndarray
        (n_voxels,), dtype of the image, in host memory, run by run as `Runs.offset` says.

    Raises
    ------
    ValueError
        For another dtype or shape.
    """
    voxel = c_type(image.dtype)
    runs = mask.runs
    if image.shape != runs.shape:
        raise ValueError(f"image of shape {image.shape} given, that of the mask is {runs.shape}")
    if runs.n_voxels == 0:
        return np.empty(0, image.dtype)
    values = allocate("values of the mask", (runs.n_voxels,), image.dtype)
    Z, Y, X = runs.shape
    where = (mask.row_start, mask.start, mask.stop, mask.offset)
    gather = kernel("components", "gather", VOXEL=voxel, WARPS=_WARPS)
    gather(*_launch(Z * Y), (image, np.int64(Z * Y), np.int32(X), *where, values))
    return to_host(values)


def _launch(rows: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block of kernels that look at a row with each warp."""
    return (-(-rows // _WARPS),), (32 * _WARPS,)
