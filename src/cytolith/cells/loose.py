"""Cells that may go on beyond what a block has read: where they lie, and what is looked at around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_origin
from cytolith.cells.owners import extents, region_corners
from cytolith.engine.grid import Block
from cytolith.kernels.maxima import Maxima
from cytolith.kernels.watershed import Shapes


@dataclass(frozen=True, eq=False)
class Loose:
    """Where cells lie that may go on beyond what was read, one entry a cell."""

    extents: NDArray[np.int64]
    """(n, 6): box in the volume around what was seen of the cell, its first voxel and the one behind its last."""
    touched: NDArray[np.bool_]
    """(n, 6): whether it runs into the rim at the faces z0, y0, x0, z1, y1, x1 of what was read."""


NOTHING = Loose(np.empty((0, 6), np.int64), np.empty((0, 6), bool))


def where_loose(
    maxima: Maxima,
    shapes: Shapes | None,
    around: NDArray[np.int64] | None,
    index: NDArray[np.int64],
    trusted: Block,
    margins: tuple[int, ...],
) -> Loose:
    """Where some maxima, their shapes and what is looked at around them (a box each) lie."""
    if index.size == 0:
        return NOTHING
    boxes = extents(maxima, shapes, index, region_origin(trusted.read))
    if around is not None:
        boxes[:, :3] = np.minimum(boxes[:, :3], around[:, :3])
        boxes[:, 3:] = np.maximum(boxes[:, 3:], around[:, 3:])
    read = region_corners(trusted.read)
    near, far = np.array(margins[::2]), np.array(margins[1::2])
    touched = np.hstack([boxes[:, :3] < read[:3] + near, boxes[:, 3:] > read[3:] - far])
    return Loose(boxes, touched & (np.concatenate([near, far]) > 0))


def looked_at(
    balls: NDArray[np.int64] | None,
    windows: NDArray[np.int64] | None,
    index: NDArray[np.int64],
    loose: NDArray[np.bool_],
) -> NDArray[np.int64] | None:
    """Boxes of what is looked at around loose rows: balls of their maxima, windows of the rows themselves."""
    boxes = [] if balls is None else [balls[index[loose]]]
    boxes += [] if windows is None else [windows[loose]]
    if not boxes:
        return None
    corners = np.stack(boxes)
    return np.hstack([corners[:, :, :3].min(0), corners[:, :, 3:].max(0)])


def holds(region: Region, boxes: NDArray[np.int64], shape: Shape) -> NDArray[np.bool_]:
    """Whether all that boxes (n, 6) have inside the volume lies in the region."""
    corners = region_corners(region)
    low, high = np.maximum(boxes[:, :3], 0), np.minimum(boxes[:, 3:], shape)
    return np.asarray(((low >= corners[:3]) & (high <= corners[3:])).all(1))
