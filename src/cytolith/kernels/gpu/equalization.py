"""Equalization of uneven brightness on a GPU, see :mod:`cytolith.kernels.equalization`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.kernels.equalization import checked_limits, percentile_layers
from cytolith.kernels.gpu import cuda
from cytolith.kernels.gpu.cuda import C_TYPES, Allocate, Array, array_module, c_type, kernel
from cytolith.kernels.gpu.window_percentiles import window_percentiles
from cytolith.kernels.percentile_grid import Interpolation, percentile_grid

_THREADS = 256
_ROWS = 32
"""Rows of a block of threads, ``kRows`` in the source."""

COMPILED = [
    ("equalization", "divide", {"VOXEL": name, "WEIGHTED": weighted})
    for name in C_TYPES.values()
    for weighted in (0, 1)
]


def equalize(
    image: Array,
    percentile: tuple[float, float] = (0.5, 0.95),
    max_value: float | None = 1.5,
    selem: int | Shape = (5, 200, 200),
    spacing: int | Shape = (5, 50, 50),
    interpolate: Interpolation = 1,
    mask: Array | None = None,
    *,
    origin: Shape = (0, 0, 0),
    volume_shape: Shape | None = None,
    out: Array | None = None,
    allocate: Allocate = cuda.allocate,
) -> Array:
    """Even out the brightness of an image by two local percentiles, as `cytolith.kernels.equalization.equalize`.

    Waits for the percentiles, from which the host makes what is interpolated.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous: uint8, uint16, int16 or float32.
    percentile, max_value, selem, spacing, interpolate, origin, volume_shape
        As there.
    mask
        CuPy array of the image's shape, bool or uint8; only voxels where it is not 0 count for the percentiles.
    out
        CuPy array, float32, of the shape of the image, not overlapping it.
    allocate
        Gives scratch memory.

    Returns
    -------
    cupy.ndarray
        float32; `out` when given.

    Raises
    ------
    ValueError
        As there, and if an array is of another kind than allowed.
    """
    fractions, scale = checked_limits(percentile, max_value)
    if image.ndim != 3:
        raise ValueError(f"image has {image.ndim} dimensions; a 3-d image (z, y, x) is needed")
    if out is None:
        out = array_module().empty(image.shape, np.float32)
    elif out.shape != image.shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}; float32 of {image.shape} is needed")
    grid = percentile_grid(image.shape, selem, spacing, origin, volume_shape)
    positions = [axis.positions(interpolate) for axis in grid]
    layers = percentile_layers(window_percentiles(image, fractions, grid, mask, allocate=allocate))
    _divide(
        image,
        out,
        layers,
        np.concatenate([axis.low for axis in positions], dtype=np.int32),
        np.concatenate([axis.fraction for axis in positions]),
        scale,
    )
    return out


def _divide(
    image: Array,
    out: Array,
    layers: NDArray[np.float32],
    points: NDArray[np.int32],
    fractions: NDArray[np.float32],
    scale: np.float32,
) -> None:
    """Divide by what lies between the points; points and fractions are those of all z, then y, then x."""
    upload: Any = array_module().asarray
    Z, Y, X = image.shape
    blocks = -(-X // _THREADS) * -(-Y // _ROWS) * Z
    extents = (Z, Y, X, *layers.shape[1:])
    arguments = (image, out, upload(layers), upload(points), upload(fractions), *map(np.int32, extents), scale)
    run = kernel("equalization", "divide", VOXEL=c_type(image.dtype), WEIGHTED=int(len(layers) == 3))
    run((blocks,), (_THREADS,), arguments)
