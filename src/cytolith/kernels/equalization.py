"""Equalization of uneven brightness: each voxel is divided by a percentile of its surroundings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.kernels.arguments import float_output, usable_image
from cytolith.kernels.jit import jit
from cytolith.kernels.percentile import checked_fractions
from cytolith.kernels.percentile_grid import (
    Interpolation,
    interpolate_row,
    interpolate_x,
    percentile_grid,
    percentile_reach,
)
from cytolith.kernels.window_percentiles import window_percentiles

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]


def equalize(
    image: NDArray[Any],
    percentile: tuple[float, float] = (0.5, 0.95),
    max_value: float | None = 1.5,
    selem: int | Shape = (5, 200, 200),
    spacing: int | Shape = (5, 50, 50),
    interpolate: Interpolation = 1,
    mask: NDArray[np.bool_] | None = None,
    *,
    origin: Shape = (0, 0, 0),
    volume_shape: Shape | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Even out the brightness of an image by two local percentiles.

    Each voxel is divided by the lower percentile of its surroundings, or by the upper one over ``max_value`` where that
    is more, so that the background comes to 1 and the upper percentile nowhere exceeds ``max_value``; the divisor is at
    least 1.  The percentiles are those of `local_percentile`, interpolated to the voxels.

    Parameters
    ----------
    image
        Image (z, y, x); bool, uint8, uint16, int16, float32, or float64 (used as float32).  Copied if not C-contiguous.
    percentile
        Lower and upper percentile as fractions 0 ... 1.
    max_value
        Largest value that the upper percentile may take in the result; None for no limit.
    selem
        Extent of the windows in voxels, one number or (z, y, x).
    spacing
        Distance of the windows in voxels, one number or (z, y, x).
    interpolate
        Between the windows' centres: 1 or "linear", 0 or "nearest".
    mask
        Bool array of the image's shape; only voxels where it is True count for the percentiles.  Windows
        without any are left out of the interpolation; voxels with only such windows around them are divided by 1.
    origin
        First voxel of the image in the volume, (z, y, x), when the image is a block of a larger volume.
    volume_shape
        Extent of that volume, (z, y, x); the image ends the volume if not given.
    out
        Float32 array of the image's shape, C-contiguous, that receives the result; may not overlap the image.

    Returns
    -------
    ndarray of float32
        Equalized image of the same shape.  A block that extends `equalize_reach` around a voxel, or ends with the
        volume, gives it the same value as the whole volume does, to the last bit.

    Raises
    ------
    ValueError
        If percentile is not two fractions in rising order, if max_value is not positive, if extents are not positive,
        if the block does not lie in the volume or holds no window, or if an array is of another kind than allowed.

    Notes
    -----
    The ``equalize`` of ClearMap, which multiplies by f = 1 / max(lower, 1), or by f = max_value / upper where upper * f
    exceeds max_value: the same.  There the windows are laid over each block and their percentiles are stretched over
    it; see `local_percentile` for what is different here.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.full((1, 8, 8), 200, np.uint16)
    >>> image[:, :, 4:] = 400
    >>> equalize(image, selem=(1, 4, 4), spacing=(1, 4, 4), interpolate=0)[0, 0].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    fractions, scale = checked_limits(percentile, max_value)
    image = usable_image(image)
    out = float_output(image, out)
    grid = percentile_grid(image.shape, selem, spacing, origin, volume_shape)
    layers = percentile_layers(window_percentiles(image, fractions, grid, mask))
    z, y, x = (axis.positions(interpolate) for axis in grid)
    rows = [interpolate_x(layer, x) for layer in layers]
    weighted = len(rows) == 3
    _divide(
        image, out, rows[0], rows[1], rows[-1], weighted, scale, z.low, z.high, z.fraction, y.low, y.high, y.fraction
    )
    return out


def checked_limits(percentile: tuple[float, float], max_value: float | None) -> tuple[NDArray[np.float64], np.float32]:
    """The two fractions, and what the upper percentile is multiplied by.

    Raises
    ------
    ValueError
        If percentile is not two fractions in rising order, or if max_value is not positive.
    """
    fractions = checked_fractions(percentile)
    if fractions.size != 2 or fractions[0] > fractions[1]:
        raise ValueError(f"percentile is {percentile}; a lower and an upper fraction 0 ... 1 are needed")
    if max_value is not None and not (math.isfinite(max_value) and max_value > 0):
        raise ValueError(f"max_value is {max_value}; a finite number > 0 or None is needed")
    return fractions, np.float32(0 if max_value is None else 1 / max_value)


def percentile_layers(values: NDArray[np.float64]) -> Float32Array:
    """What is interpolated between windows: both percentiles, and the weight of each window if some are empty.

    Parameters
    ----------
    values
        Percentiles (Gz, Gy, Gx, 2), NaN where no voxel counts.

    Returns
    -------
    ndarray of float32
        (2 or 3, Gz, Gy, Gx). Empty windows, which a mask or NaN may leave, have percentiles and weight 0. Without any
        all weights would be 1, and a division by them would change nothing.
    """
    empty = np.isnan(values[..., 0])
    lower, upper = (np.where(empty, 0, values[..., p]) for p in range(2))
    return np.stack([lower, upper, ~empty] if empty.any() else [lower, upper]).astype(np.float32)


def equalize_reach(selem: int | Shape, spacing: int | Shape) -> Shape:
    """Voxels on either side, (z, y, x), that a voxel of `equalize` depends on.

    Raises
    ------
    ValueError
        If extents are not positive.

    Examples
    --------
    >>> equalize_reach((5, 200, 200), (5, 50, 50))
    (6, 149, 149)
    """
    return percentile_reach(selem, spacing)


@jit
def _divide(
    src: NDArray[Any],
    out: Float32Array,
    lower: Float32Array,
    upper: Float32Array,
    weights: Float32Array,
    weighted: bool,
    scale: np.float32,
    z_low: IntArray,
    z_high: IntArray,
    z_fraction: Float32Array,
    y_low: IntArray,
    y_high: IntArray,
    y_fraction: Float32Array,
) -> None:
    """Divide by max(1, lower, upper * scale), both percentiles over their weights, interpolated from (Gz, Gy, X)."""
    _, rows, X = lower.shape
    plane = np.empty((3, rows, X), np.float32)
    row = np.empty((3, X), np.float32)
    quantities = 3 if weighted else 2
    for z in range(src.shape[0]):
        for g in range(rows):
            interpolate_row(lower[z_low[z], g], lower[z_high[z], g], z_fraction[z], plane[0, g])
            interpolate_row(upper[z_low[z], g], upper[z_high[z], g], z_fraction[z], plane[1, g])
            if weighted:
                interpolate_row(weights[z_low[z], g], weights[z_high[z], g], z_fraction[z], plane[2, g])
        for y in range(src.shape[1]):
            for q in range(quantities):
                interpolate_row(plane[q, y_low[y]], plane[q, y_high[y]], y_fraction[y], row[q])
            if weighted:
                _divide_by_weight(row[0], row[2])
                _divide_by_weight(row[1], row[2])
            _divide_row(src[z, y], row[0], row[1], scale, out[z, y])


@jit
def _divide_by_weight(values: Float32Array, weights: Float32Array) -> None:
    for i in range(values.size):
        values[i] = values[i] / weights[i] if weights[i] > 0 else np.float32(0)


@jit
def _divide_row(
    src: NDArray[Any], lower: Float32Array, upper: Float32Array, scale: np.float32, out: Float32Array
) -> None:
    for i in range(src.size):
        out[i] = np.float32(src[i]) / max(np.float32(1), lower[i], upper[i] * scale)
