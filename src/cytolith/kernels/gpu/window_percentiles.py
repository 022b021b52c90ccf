"""Exact percentiles of the values in windows that overlap, on a GPU, see :mod:`cytolith.kernels.window_percentiles`.

The digits of the keys are found as there, but a window is a block of threads that looks at all its voxels: they come
from the cache, and counting them, not reading, is what takes the time.
"""

from __future__ import annotations

import numpy as np

from cytolith.kernels.gpu import cuda
from cytolith.kernels.gpu.cuda import C_TYPES, Allocate, Array, array_module, c_type, kernel, to_host
from cytolith.kernels.percentile_grid import Grid
from cytolith.kernels.window_percentiles import Float64Array, check_windows, percentiles_of_keys

_THREADS = 256

COMPILED = [("window_percentiles", "select_keys", {"VOXEL": name}) for name in C_TYPES.values()]


def window_percentiles(
    image: Array,
    fractions: Float64Array,
    grid: Grid,
    mask: Array | None = None,
    *,
    allocate: Allocate = cuda.allocate,
) -> Float64Array:
    """Two percentiles (Gz, Gy, Gx, 2) of the windows of a grid, on the host, NaN where no voxel counts.

    Waits for what was sent to the current stream.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous, not empty: uint8, uint16, int16 or float32.
    fractions
        Two percentiles as fractions 0 ... 1.
    grid
        Windows in the image.
    mask
        CuPy array of the image's shape, bool or uint8; only voxels where it is not 0 count.
    allocate
        Gives scratch memory.

    Raises
    ------
    ValueError
        If the image has another dtype or mask is of another kind, or if a window has 2**32 voxels or more.
    """
    if mask is not None and (mask.dtype not in (np.bool_, np.uint8) or mask.shape != image.shape):
        raise ValueError(f"mask is {mask.dtype} of shape {mask.shape}; bool or uint8 of {image.shape} is needed")
    check_windows(grid)
    shape = (grid[0].centres.size, grid[1].centres.size, grid[2].centres.size)
    windows = shape[0] * shape[1] * shape[2]
    edges = np.concatenate([each for axis in grid for each in (axis.starts, axis.stops)], dtype=np.int32)
    counts = allocate("window_counts", shape, np.int64)
    keys = allocate("window_keys", (*shape, 4), np.uint32)
    arguments = (
        image,
        np.uint64(0) if mask is None else mask,
        array_module().asarray(edges),
        *(np.float64(each) for each in fractions),
        *(np.int32(each) for each in (*image.shape[1:], *shape)),
        counts,
        keys,
    )
    kernel("window_percentiles", "select_keys", VOXEL=c_type(image.dtype))((windows,), (_THREADS,), arguments)
    return percentiles_of_keys(to_host(counts), to_host(keys), fractions, image.dtype)
