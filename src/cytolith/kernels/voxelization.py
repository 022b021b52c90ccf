"""Voxelization: every point adds its weight to the voxels of a ball around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.kernels.footprints import ball_offsets
from cytolith.kernels.jit import jit


def ball_runs(radii: Sequence[float] | None) -> NDArray[np.int64]:
    """A ball as runs of voxels along x.

    Parameters
    ----------
    radii
        Radius in voxels along (z, y, x): a length divided by the edges of a voxel. A voxel belongs to the ball when its
        centre lies within it or on its surface, see `cytolith.kernels.footprints.ball_offsets`. None, or 0 along all
        axes: the voxel of the centre alone.

    Returns
    -------
    int64 ndarray of shape (n, 4)
        dz, dy, first dx and last dx of each run, sorted.

    Raises
    ------
    ValueError
        A radius that is not positive and finite beside others that are.
    """
    if radii is None or not any(radii):
        return np.zeros((1, 4), np.int64)
    offsets = ball_offsets([2 * float(radius) for radius in radii])
    rows, starts = np.unique(offsets[:, :2], axis=0, return_index=True)
    # a ball is convex: what lies between the ends of a row is inside
    ends = np.append(starts[1:], len(offsets)) - 1
    return np.column_stack([rows, offsets[starts, 2], offsets[ends, 2]]).astype(np.int64)


def add_balls(
    image: NDArray[Any],
    origin: Shape,
    centres: NDArray[np.int64],
    weights: NDArray[Any],
    runs: NDArray[np.int64],
) -> None:
    """Add the weight of every centre to the voxels of a ball around it, in place.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X)
        A part of a map, uint32 or float64, C-contiguous. What lies outside it is left out, so that the parts of a map
        may be filled one after the other, with the same result.
    origin : tuple of int
        Voxel of the map, (z, y, x), that the image begins with.
    centres : int64 ndarray of shape (n, 3)
        Voxels of the map.
    weights : ndarray of shape (n,)
        Of the dtype of the image. A voxel adds them up in the order of the centres.
    runs : int64 ndarray of shape (m, 4)
        The ball, from `ball_runs`.

    Raises
    ------
    ValueError
        Arrays of another shape or dtype.
    """
    if image.ndim != 3 or image.dtype not in (np.uint32, np.float64) or not image.flags.c_contiguous:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}; C-contiguous uint32 or float64 is needed")
    if centres.shape != (len(centres), 3) or weights.shape != (len(centres),) or weights.dtype != image.dtype:
        raise ValueError(f"centres {centres.shape} and weights {weights.shape} {weights.dtype} do not fit the image")
    _add_balls(image, np.array(origin, np.int64), np.ascontiguousarray(centres, np.int64), weights, runs)


def ball_voxels_inside(runs: NDArray[np.int64], shape: Shape, z: int, rows: slice) -> NDArray[np.int64]:
    """Voxels of the ball around each voxel of a plane that lie inside the map.

    Parameters
    ----------
    runs : int64 ndarray of shape (m, 4)
        The ball, from `ball_runs`.
    shape : tuple of int
        Extent of the map, (z, y, x).
    z : int
        Number of the plane.
    rows : slice
        Rows of the plane, explicit start and stop.

    Returns
    -------
    int64 ndarray of shape (rows, X)
        All of the ball far from the faces of the map, fewer near them; never less than 1.
    """
    reach = np.abs(runs[:, :3]).max(axis=0)
    mask = np.zeros(2 * reach + 1, np.int64)
    for dz, dy, first, last in runs.tolist():
        mask[dz + reach[0], dy + reach[1], first + reach[2] : last + reach[2] + 1] = 1
    inside = mask[_window(slice(z, z + 1), reach[0], shape[0])[0]].sum(axis=0)
    for axis, (part, extent) in enumerate(((rows, shape[1]), (slice(0, shape[2]), shape[2]))):
        sums = np.cumsum(inside, axis=axis)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        windows = _window(part, reach[axis + 1], extent)
        inside = sums.take([w.stop for w in windows], axis) - sums.take([w.start for w in windows], axis)
    return np.ascontiguousarray(inside)


def _window(places: slice, reach: int, extent: int) -> list[slice]:
    """The part of a ball's extent that lies inside the map, for each place along an axis."""
    return [
        slice(max(reach - place, 0), min(2 * reach + 1, extent + reach - place))
        for place in range(places.start, places.stop)
    ]


@jit
def _add_balls(
    image: NDArray[Any],
    origin: NDArray[np.int64],
    centres: NDArray[np.int64],
    weights: NDArray[Any],
    runs: NDArray[np.int64],
) -> None:
    planes, rows, columns = image.shape
    for number in range(centres.shape[0]):
        weight = weights[number]
        z0 = centres[number, 0] - origin[0]
        y0 = centres[number, 1] - origin[1]
        x0 = centres[number, 2] - origin[2]
        for run in range(runs.shape[0]):
            z = z0 + runs[run, 0]
            y = y0 + runs[run, 1]
            if z < 0 or z >= planes or y < 0 or y >= rows:
                continue
            first = max(x0 + runs[run, 2], 0)
            last = min(x0 + runs[run, 3], columns - 1)
            for x in range(first, last + 1):
                image[z, y, x] += weight
