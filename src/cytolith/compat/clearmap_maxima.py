"""Extended maxima as ClearMap defines them: the maxima of a window in the h-max transform, 6-connected.

The public API takes the regional maxima of that transform instead. Here flat parts of it that are no maxima count too,
where they are wider than the window, as in the original.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.compat.clearmap_parameters import MaximaDetection

EXTENDED_BYTES = 40
"""Memory of `extended_maxima` for each voxel."""


def extended_maxima(image: NDArray[Any], step: MaximaDetection) -> NDArray[np.bool_]:
    """Which voxels are at least the threshold, and maxima of their window in the h-max transform of the image.

    Parameters
    ----------
    image
        (Z, Y, X), uint8, uint16, int16 or float32.
    step
        With a height, a window and a threshold.

    Returns
    -------
    ndarray
        bool (Z, Y, X).
    """
    from scipy import ndimage  # only here: it takes a while to be imported

    assert step.h_max is not None
    ceiling = image.astype(np.float32)
    found: NDArray[np.bool_] = np.ones(image.shape, np.bool_)
    if step.threshold is not None:
        found = ceiling >= np.float32(step.threshold)
    if not found.any():
        return found
    if step.threshold is not None:  # what is lower is below every peak that counts, and on no way to one
        ceiling[ceiling < np.float32(step.threshold) - np.float32(step.h_max)] = -np.inf
    raised = _reconstruct(ceiling - np.float32(step.h_max), ceiling)
    found &= ndimage.maximum_filter(raised, step.shape, mode="reflect") == raised
    return found


def centres_of_mass(marks: NDArray[np.bool_], weights: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Weighted centre of each 6-connected component of a mask, in the order of their first voxels.

    Parameters
    ----------
    marks
        The mask, (Z, Y, X).
    weights
        Image of that extent. Values below 0 count as 0; where all weights of a component are 0, all count alike.

    Returns
    -------
    centres
        float64 (n, 3): z, y, x in voxels.
    firsts
        int64 (n,): flat index of the first voxel of each component.
    """
    from scipy import ndimage

    labels, count = ndimage.label(marks)
    at = np.flatnonzero(labels)
    label = labels.reshape(-1)[at] - 1
    mass = np.maximum(weights.reshape(-1)[at].astype(np.float64), 0)
    mass[np.bincount(label, mass, count)[label] == 0] = 1
    total = np.bincount(label, mass, count)
    places = np.unravel_index(at, marks.shape)
    centres = np.stack([np.bincount(label, mass * place, count) / total for place in places], 1)
    return centres, at[np.unique(label, return_index=True)[1]]


def _reconstruct(marker: NDArray[np.float32], ceiling: NDArray[np.float32]) -> NDArray[np.float32]:
    """Morphological reconstruction of the marker by dilation under a ceiling, 26-connected; in the marker's place.

    What stands higher spreads plane by plane along each axis, there and back, until nothing changes.
    """
    changed = True
    while changed:
        before = marker.copy()
        for axis in range(3):
            planes, limits = np.moveaxis(marker, axis, 0), np.moveaxis(ceiling, axis, 0)
            for n in range(1, len(planes)):
                _spread(planes[n - 1], planes[n], limits[n])
            for n in range(len(planes) - 1, 0, -1):
                _spread(planes[n], planes[n - 1], limits[n - 1])
        changed = not np.array_equal(before, marker)
    return marker


def _spread(plane: NDArray[np.float32], into: NDArray[np.float32], limit: NDArray[np.float32]) -> None:
    """Raise a plane to what its neighbours in the next plane hold, at most to its limit."""
    rows = plane.copy()
    np.maximum(rows[1:], plane[:-1], out=rows[1:])
    np.maximum(rows[:-1], plane[1:], out=rows[:-1])
    around = rows.copy()
    np.maximum(around[:, 1:], rows[:, :-1], out=around[:, 1:])
    np.maximum(around[:, :-1], rows[:, 1:], out=around[:, :-1])
    np.maximum(into, around, out=around)
    np.minimum(around, limit, out=into)
