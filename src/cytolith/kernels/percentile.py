"""Percentiles of the values in large windows on a coarse grid over a volume, and interpolated between its points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.kernels.arguments import usable_image
from cytolith.kernels.percentile_grid import (
    Interpolation,
    interpolate_x,
    interpolate_zy,
    percentile_grid,
    percentile_reach,
)
from cytolith.kernels.window_percentiles import window_percentiles

__all__ = ["local_percentile", "percentile_reach"]


def local_percentile(
    image: NDArray[Any],
    percentile: float | Sequence[float],
    selem: int | Shape = (5, 200, 200),
    spacing: int | Shape = (5, 50, 50),
    *,
    mask: NDArray[np.bool_] | None = None,
    interpolate: Interpolation | None = None,
    origin: Shape = (0, 0, 0),
    volume_shape: Shape | None = None,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Percentiles of the values in windows around the points of a grid.

    The grid is laid over the whole volume: along each axis of extent s it has max(1, s // spacing) points at distances
    of ``spacing``, centred in the volume.  The window of the point c is c - w // 2 ... c - w // 2 + w - 1 with w from
    ``selem``, clipped to the volume.  Percentiles are those of `numpy.quantile` (linear between the two nearest
    values), exactly, computed in float64.

    Parameters
    ----------
    image
        Image (z, y, x); bool, uint8, uint16, int16, float32, or float64 (used as float32).  Copied if not C-contiguous.
        NaN is left out.
    percentile
        One or more fractions 0 ... 1.
    selem
        Extent of the windows in voxels, one number or (z, y, x).
    spacing
        Distance of the grid's points in voxels, one number or (z, y, x).
    mask
        Bool array of the image's shape; only voxels where it is True count.
    interpolate
        None gives the values on the grid.  1 or "linear" interpolates them to the voxels of the image, linear between
        the grid's points and constant beyond the outermost; 0 or "nearest" gives each voxel the value of the nearest
        point, of two equally near ones the upper.
    origin
        First voxel of the image in the volume, (z, y, x), when the image is a block of a larger volume.
    volume_shape
        Extent of that volume, (z, y, x); the image ends the volume if not given.

    Returns
    -------
    values
        Float64 (Gz, Gy, Gx, P) on the grid, or float32 (Z, Y, X, P) when interpolated; NaN where no voxel counts.  In a
        block only those points of the grid are computed whose windows it holds whole, and voxels beyond them take the
        value of the outermost; a block that extends `percentile_reach` around a voxel, or ends with the volume, gives
        it the same value as the whole volume does, to the last bit.
    centres
        Int64 (Gz, Gy, Gx, 3), voxel (z, y, x) of each point of the grid, counted in the volume.

    Raises
    ------
    ValueError
        If a fraction is not in 0 ... 1, if extents are not positive, if the block does not lie in the volume or holds
        no window, or if image or mask is of another kind than allowed.

    Notes
    -----
    The ``local_percentile`` of ClearMap has the same windows on a volume of at least one spacing.  There the grid is
    laid over each block; here it is laid over the volume.  There interpolation stretches the grid so that its outermost
    points come to lie on the outermost voxels, and at some sizes the last are lost; here the points stay where the
    windows are.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(100, dtype=np.uint16).reshape(1, 10, 10)
    >>> values, centres = local_percentile(image, 0.5, selem=(1, 10, 4), spacing=(1, 10, 5))
    >>> values[0, 0, :, 0].tolist(), centres[0, 0, :, 2].tolist()
    ([46.5, 51.5], [2, 7])
    """
    fractions = checked_fractions(percentile)
    image = usable_image(image)
    grid = percentile_grid(image.shape, selem, spacing, origin, volume_shape)
    values = window_percentiles(image, fractions, grid, mask)
    centres = np.stack(np.meshgrid(*(axis.centres for axis in grid), indexing="ij"), axis=-1)
    if interpolate is None:
        return values, centres
    z, y, x = (axis.positions(interpolate) for axis in grid)
    # one contiguous volume for each percentile, seen with the percentiles last
    full = np.empty((fractions.size, *image.shape), np.float32)
    for p, volume in enumerate(full):
        interpolate_zy(interpolate_x(values[..., p], x), z, y, volume)
    return np.moveaxis(full, 0, -1), centres


def checked_fractions(percentile: float | Sequence[float]) -> NDArray[np.float64]:
    """Fractions 0 ... 1, one or more, as a 1-d array.

    Raises
    ------
    ValueError
        If they are anything else.
    """
    fractions = np.atleast_1d(np.asarray(percentile, np.float64))
    if fractions.ndim != 1 or fractions.size == 0 or not ((fractions >= 0) & (fractions <= 1)).all():
        raise ValueError(f"percentile is {percentile}; one or more fractions 0 ... 1 are needed")
    return fractions
