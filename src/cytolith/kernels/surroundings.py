"""What lies around a voxel: windows that are elliptic in the plane and flat ended along z."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.axes import Region, Shape
from cytolith.kernels.components import as_image
from cytolith.kernels.jit import jit


def window_widths(radius: Shape) -> NDArray[np.int64]:
    """Half width along x of each row of an elliptic window: int64, (2 * radius_y + 1,).

    Row ``dy`` reaches from ``-width`` to ``width``, where ``(dy / radius_y)**2 + (width / radius_x)**2 <= 1``.
    """
    _, ry, rx = radius
    dy = np.arange(-ry, ry + 1) / max(ry, 1)
    # a hair more, so that what lies on the ellipse is in it whatever the last bit of a root is
    return np.floor(rx * np.sqrt(1 - dy * dy) + 1e-9).astype(np.int64)


def background_near(
    image: ArrayLike, corrected: ArrayLike, positions: ArrayLike, radius: Shape, known: Region | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Background at each position, and the largest one near it.

    Parameters
    ----------
    image, corrected
        (z, y, x) before and after the background was taken off; the background is their difference. uint8, uint16,
        int16 or float32, both the same.
    positions
        (n, 3) integers: voxels (z, y, x) of the image.
    radius
        Half extents (z, y, x) of the window in voxels: elliptic in the plane, the same on each plane along z. It is
        clipped at the faces of the image.
    known
        Part of the image in which the background is right; what lies outside it is not looked at.

    Returns
    -------
    own, largest
        float64, (n,) each.

    Raises
    ------
    ValueError
        The images differ in shape.

    Notes
    -----
    On even tissue the two are about the same. Beside the edge of the tissue, a vessel or the meninges the largest is
    larger: there an opening leaves rims that look like cells.

    Examples
    --------
    >>> image = np.array([[[10, 10, 50, 10, 30, 30]]], np.uint16)
    >>> background_near(image, [[[0, 0, 40, 0, 0, 0]]], [[0, 0, 2]], (1, 1, 3))
    (array([10.]), array([30.]))
    """
    before = as_image(image)
    after = np.ascontiguousarray(corrected, before.dtype)
    if after.shape != before.shape:
        raise ValueError(f"corrected: extent {after.shape} given, that of the image {before.shape} is needed")
    at = np.ascontiguousarray(positions, np.int64).reshape(-1, 3)
    whole = tuple(slice(0, extent) for extent in before.shape)
    bounds = np.array([(side.start, side.stop) for side in known or whole])
    own, largest = np.empty(len(at)), np.empty(len(at))
    _largest(before, after, at, radius[0], window_widths(radius), bounds, largest, own)
    return own, largest


@jit
def _largest(
    before: NDArray[Any],
    after: NDArray[Any],
    at: NDArray[np.int64],
    rz: int,
    widths: NDArray[np.int64],
    bounds: NDArray[np.int64],
    largest: NDArray[np.float64],
    own: NDArray[np.float64],
) -> None:
    ry = widths.size // 2
    for i in range(at.shape[0]):
        z, y, x = at[i, 0], at[i, 1], at[i, 2]
        most = before[z, y, x] - after[z, y, x]
        own[i] = most
        for row_z in range(max(z - rz, bounds[0, 0]), min(z + rz + 1, bounds[0, 1])):
            for row_y in range(max(y - ry, bounds[1, 0]), min(y + ry + 1, bounds[1, 1])):
                width = widths[row_y - y + ry]
                above, below = before[row_z, row_y], after[row_z, row_y]
                for row_x in range(max(x - width, bounds[2, 0]), min(x + width + 1, bounds[2, 1])):
                    most = max(most, above[row_x] - below[row_x])
        largest[i] = most


def window_statistics(
    image: NDArray[np.float32], positions: ArrayLike, offsets: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest value, mean and standard deviation over the voxels at given offsets from each position.

    Parameters
    ----------
    image
        float32, (z, y, x), C-contiguous.
    positions
        (n, 3) integers: voxels of the image.
    offsets
        (m, 3) integers: the voxels to visit, in the order in which they are added. Those outside the image are left
        out.

    Returns
    -------
    low, high, mean, deviation
        float64, (n,) each; NaN where no voxel lies in the image.

    Examples
    --------
    >>> image = np.array([[[1, 2, 6]]], np.float32)
    >>> [float(v[0]) for v in window_statistics(image, [[0, 0, 1]], [[0, 0, -1], [0, 0, 1], [0, 1, 0]])]
    [1.0, 6.0, 3.5, 2.5]
    """
    at, steps = (np.ascontiguousarray(a, np.int64).reshape(-1, 3) for a in (positions, offsets))
    out = np.empty((4, len(at)))
    _statistics(image, at, steps, out)
    return out[0], out[1], out[2], out[3]


def window_centiles(
    image: NDArray[np.float32], positions: ArrayLike, offsets: ArrayLike, fractions: ArrayLike
) -> NDArray[np.float64]:
    """Percentiles, of nearest rank, of the voxels at given offsets from each position.

    Parameters
    ----------
    image, positions, offsets
        As in `window_statistics`.
    fractions
        (k,): 0.5 for the median. The value is that of rank ``ceil(fraction * count)``, counted from 1.

    Returns
    -------
    ndarray
        float64, (k, n); NaN where no voxel lies in the image.

    Examples
    --------
    >>> window_centiles(np.array([[[1, 2, 6]]], np.float32), [[0, 0, 1]], [[0, 0, -1], [0, 0, 1]], [0.5, 0.95]).ravel()
    array([1., 6.])
    """
    at, steps = (np.ascontiguousarray(a, np.int64).reshape(-1, 3) for a in (positions, offsets))
    ranks = np.ascontiguousarray(fractions, np.float64)
    out = np.empty((len(ranks), len(at)))
    _centiles(image, at, steps, ranks, out)
    return out


def easiest_way_out(image: NDArray[np.float32], positions: ArrayLike, rays: NDArray[np.int64]) -> NDArray[np.float64]:
    """How high one can stay on the way out: of the least values along each ray from a position, the largest.

    Parameters
    ----------
    image, positions
        As in `window_statistics`.
    rays
        (k, m, 3) integers: offsets of the voxels of each ray. Rays that leave the image are left out.

    Returns
    -------
    ndarray
        float64, (n,); minus infinity where every ray leaves the image.

    Examples
    --------
    >>> rays = np.array([[[0, 0, -1], [0, 0, -2]], [[0, 0, 1], [0, 0, 2]]])
    >>> easiest_way_out(np.array([[[3, 9, 5, 4]]], np.float32), [[0, 0, 1]], rays)
    array([4.])
    """
    at = np.ascontiguousarray(positions, np.int64).reshape(-1, 3)
    out = np.empty(len(at))
    _way_out(image, at, np.ascontiguousarray(rays, np.int64), out)
    return out


@jit
def _statistics(image: NDArray[Any], at: NDArray[np.int64], offsets: NDArray[np.int64], out: NDArray[Any]) -> None:
    Z, Y, X = image.shape
    for i in range(at.shape[0]):
        low, high, total, squares, count = np.inf, -np.inf, 0.0, 0.0, 0
        # about the first value, so that squares of a bright image lose nothing
        middle = np.float64(image[at[i, 0], at[i, 1], at[i, 2]])
        for j in range(offsets.shape[0]):
            z, y, x = at[i, 0] + offsets[j, 0], at[i, 1] + offsets[j, 1], at[i, 2] + offsets[j, 2]
            if 0 <= z < Z and 0 <= y < Y and 0 <= x < X:
                value = np.float64(image[z, y, x])
                low, high = min(low, value), max(high, value)
                total += value - middle
                squares += (value - middle) * (value - middle)
                count += 1
        if count == 0:
            out[:, i] = np.nan
            continue
        mean = total / count
        out[0, i], out[1, i], out[2, i] = low, high, middle + mean
        out[3, i] = np.sqrt(max(squares / count - mean * mean, 0.0))


@jit
def _centiles(
    image: NDArray[Any],
    at: NDArray[np.int64],
    offsets: NDArray[np.int64],
    fractions: NDArray[np.float64],
    out: NDArray[Any],
) -> None:
    Z, Y, X = image.shape
    values = np.empty(offsets.shape[0], image.dtype)
    for i in range(at.shape[0]):
        count = 0
        for j in range(offsets.shape[0]):
            z, y, x = at[i, 0] + offsets[j, 0], at[i, 1] + offsets[j, 1], at[i, 2] + offsets[j, 2]
            if 0 <= z < Z and 0 <= y < Y and 0 <= x < X:
                values[count] = image[z, y, x]
                count += 1
        found = np.sort(values[:count])
        for k in range(fractions.size):
            rank = min(max(int(np.ceil(fractions[k] * count)) - 1, 0), count - 1)
            out[k, i] = found[rank] if count else np.nan


@jit
def _way_out(image: NDArray[Any], at: NDArray[np.int64], rays: NDArray[np.int64], out: NDArray[np.float64]) -> None:
    Z, Y, X = image.shape
    for i in range(at.shape[0]):
        best = -np.inf
        for k in range(rays.shape[0]):
            least = np.inf
            for j in range(rays.shape[1]):
                z, y, x = at[i, 0] + rays[k, j, 0], at[i, 1] + rays[k, j, 1], at[i, 2] + rays[k, j, 2]
                if not (0 <= z < Z and 0 <= y < Y and 0 <= x < X):
                    least = -np.inf
                    break
                least = min(least, np.float64(image[z, y, x]))
            best = max(best, least)
        out[i] = best
