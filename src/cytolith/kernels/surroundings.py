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
