"""Boxes of a volume in which an annotation is complete, or is to be left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape


def inside_any(points: NDArray[np.float64], regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Whether each point (n, 3), z, y, x in voxels, has its nearest voxel in one of the regions."""
    result = np.zeros(len(points), bool)
    nearest = np.floor(points + 0.5)
    for region in regions:
        low = np.array([side.start for side in region])
        high = np.array([side.stop for side in region])
        result |= ((nearest >= low) & (nearest < high)).all(1)
    return result


def folds_of(points: NDArray[np.float64], shape: Shape, count: int) -> NDArray[np.int64]:
    """Spatial fold of each point: the volume is cut into 4 x 4 x 4 boxes, dealt out in turn.

    Neighbours share surroundings, so boxes are held out, never single cells.
    """
    parts = 4
    deal = np.empty((parts,) * 3, np.int64)
    for z, y, x in itertools.product(range(parts), repeat=3):
        deal[z, y, x] = (z + 2 * y + 3 * x) % count
    cell = np.clip((points * parts / np.array(shape)).astype(np.int64), 0, parts - 1)
    return np.asarray(deal[tuple(cell.T)], np.int64)
