"""Extended maxima as ClearMap defines them: the maxima of a window in the h-max transform, 6-connected.

The public API takes the regional maxima of that transform instead. Here flat parts of it that are no maxima count too,
where they are wider than the window, as in the original.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.cells.config import MaximaDetection
from cytolith.cells.images import triple
from cytolith.kernels.maxima import Maxima

EXTENDED_BYTES = 40
"""Memory of `extended_maxima` for each voxel."""


def extended_maxima(image: NDArray[Any], step: MaximaDetection) -> Maxima:
    """Voxels that are at least the threshold and maxima of their window in the h-max transform, 6-connected.

    Parameters
    ----------
    image
        (Z, Y, X), uint8, uint16, int16 or float32; all of the volume, as a peak far away decides what is a maximum.
    step
        With a height and a window in voxels.

    Returns
    -------
    Maxima
        In the order of their first voxels.
    """
    from scipy import ndimage  # only here: it takes a while to be imported

    assert step.h_max is not None
    assert step.shape is not None
    height = np.float32(step.h_max.value)
    ceiling = image.astype(np.float32)
    found: NDArray[np.bool_] = np.ones(image.shape, np.bool_)
    if step.threshold is not None:
        lowest = np.float32(step.threshold.value)
        found = ceiling >= lowest
        # what is lower is below every peak that counts, and on no way to one
        ceiling[ceiling < lowest - height] = -np.inf
    if found.any():
        raised = _reconstruct(ceiling - height, ceiling)
        found &= ndimage.maximum_filter(raised, triple(step.shape), mode="reflect") == raised
    labels, count = ndimage.label(found)
    voxels = np.flatnonzero(labels)
    label = labels.reshape(-1)[voxels]
    first = voxels[np.unique(label, return_index=True)[1]]
    place = np.empty(count + 1, np.int64)
    place[1 + np.argsort(first)] = np.arange(count)
    voxels = voxels[np.argsort(place[label], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(place[label], minlength=count))])
    flat = image.reshape(-1)[voxels]
    values = np.maximum.reduceat(flat, starts[:-1]) if count else flat
    z, y, x = image.shape
    return Maxima(starts, voxels, values, (z, y, x), np.zeros(count, np.bool_))


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
