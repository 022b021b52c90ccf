"""Who owns a cell, and what of the volume's cells a block has seen.

The **key** of a maximum is the index in the volume of its first voxel of greatest value. The block whose core holds
the key owns the maximum. Of what a block sees of a maximum that goes on beyond its read region, the key is unknown,
but most voxels can be excluded, and what is left are its **candidates**:

extended maxima
    What a block sees of one is a part of it, and every part that holds the key has it as its own first highest voxel.
local maxima
    Near the rim voxels may be listed that are no maxima in the volume. Those further inside are maxima; a plateau
    that holds the key has it as the first voxel of the connected part of such voxels.

So the key of every maximum of the volume that a block owns is one of the keys or candidates in its core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_origin
from cytolith.kernels.local_maxima import join_plateaus
from cytolith.kernels.maxima import Maxima, near_open_faces
from cytolith.kernels.measure import shape_boxes
from cytolith.kernels.watershed import Shapes


@dataclass(frozen=True, eq=False)
class Voxels:
    """Voxels of cells that are written apart from the block that they lie in.

    Attributes
    ----------
    index
        int64 (m,): flat C index in the volume of each voxel.
    keys
        int64 (m,): key of the cell that each belongs to.
    """

    index: NDArray[np.int64]
    keys: NDArray[np.int64]

    def of(self, keys: NDArray[np.int64]) -> Voxels:
        """Those of the cells with these keys."""
        kept = np.isin(self.keys, keys)
        return Voxels(self.index[kept], self.keys[kept])


def join_voxels(parts: list[Voxels]) -> Voxels:
    """The voxels of all parts."""
    return Voxels(np.concatenate([part.index for part in parts]), np.concatenate([part.keys for part in parts]))


def places(index: NDArray[np.int64], shape: Shape) -> NDArray[np.int64]:
    """Positions (n, 3) of flat indices into an image or volume of this shape."""
    return np.stack(np.unravel_index(index, shape), 1).astype(np.int64)


def inside_region(positions: NDArray[Any], region: Region) -> NDArray[np.bool_]:
    """Whether each position (n, 3) lies in the half-open region."""
    inside = np.ones(len(positions), bool)
    for i, side in enumerate(region):
        inside &= (positions[:, i] >= side.start) & (positions[:, i] < side.stop)
    return inside


def volume_index(index: NDArray[np.int64], shape: Shape, origin: Shape, volume: Shape) -> NDArray[np.int64]:
    """Flat indices in the volume of flat indices into an image of `shape` that begins at `origin`."""
    z, y, x = (np.asarray(p, np.int64) for p in np.unravel_index(index, shape))
    return np.asarray(((z + origin[0]) * volume[1] + (y + origin[1])) * volume[2] + (x + origin[2]), np.int64)


def key_voxels(maxima: Maxima, image: NDArray[Any]) -> NDArray[np.int64]:
    """First voxel of greatest value of each maximum, as flat index into the image."""
    if len(maxima) == maxima.voxels.size:
        return maxima.voxels
    highest = image.reshape(-1)[maxima.voxels] == np.repeat(maxima.values, np.diff(maxima.starts))
    at = np.flatnonzero(highest)
    return np.asarray(maxima.voxels[at[np.searchsorted(at, maxima.starts[:-1])]], np.int64)


def open_candidates(
    maxima: Maxima, chosen: NDArray[np.bool_], right: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Candidates of local maxima that are open.

    Parameters
    ----------
    maxima
        Local maxima of an image.
    chosen
        bool (n,): which are asked for.
    right
        For the faces z0, z1, y0, y1, x0, x1 of the image, how many layers of voxels may be listed wrongly.

    Returns
    -------
    index, voxel
        Of each candidate, the maximum and the flat index into the image.
    """
    counts = np.where(chosen, np.diff(maxima.starts), 0)
    voxels = maxima.voxels[np.repeat(chosen, np.diff(maxima.starts))]
    owner = np.repeat(np.arange(len(maxima)), counts)
    known = ~near_open_faces(np.arange(voxels.size + 1), voxels, maxima.shape, np.array(right, np.int64))
    voxels, owner = voxels[known], owner[known]
    order = np.argsort(voxels, kind="stable")
    voxels, owner = voxels[order], owner[order]
    starts, joined = join_plateaus(voxels, owner, maxima.shape)
    firsts = joined[starts[:-1]]
    return owner[np.searchsorted(voxels, firsts)], firsts


def extents(maxima: Maxima, shapes: Shapes | None, index: NDArray[np.int64], origin: Shape) -> NDArray[np.int64]:
    """Box in the volume around all voxels of some maxima and of their shapes: (n, 6), two half-open corners."""
    boxes = np.empty((len(index), 6), np.int64)
    _, Y, X = maxima.shape
    if len(index) == 0:
        return boxes
    chosen = np.unique(index)
    picked = np.zeros(len(maxima), bool)
    picked[chosen] = True
    counts = np.diff(maxima.starts)
    voxels = maxima.voxels[np.repeat(picked, counts)]
    starts = np.concatenate([[0], np.cumsum(counts[chosen])])[:-1]
    at = np.searchsorted(chosen, index)
    for axis, position in enumerate((voxels // (Y * X), voxels // X % Y, voxels % X)):
        boxes[:, axis] = np.minimum.reduceat(position, starts)[at]
        boxes[:, axis + 3] = np.maximum.reduceat(position, starts)[at] + 1
    if shapes is not None:
        grown = shape_boxes(shapes)[index]
        some = shapes.size[index] > 0
        boxes[some, :3] = np.minimum(boxes[some, :3], grown[some, :3])
        boxes[some, 3:] = np.maximum(boxes[some, 3:], grown[some, 3:])
    boxes += np.array(origin * 2)
    return boxes


def shape_voxels(
    shapes: Shapes, index: NDArray[np.int64], keys: NDArray[np.int64], origin: Shape, volume: Shape
) -> Voxels:
    """Voxels of the shapes of some maxima, with the key of each maximum."""
    row = np.zeros(shapes.count + 1, np.int64)
    row[index[::-1] + 1] = np.arange(len(index), 0, -1)  # of several candidates of a maximum, the first
    runs = shapes.runs
    at = np.flatnonzero(row[shapes.labels])
    run = np.searchsorted(runs.offset, at, side="right") - 1
    line = np.searchsorted(runs.row_start, run, side="right") - 1
    flat = line * runs.shape[2] + runs.start[run] + at - runs.offset[run]
    return Voxels(volume_index(flat, shapes.runs.shape, origin, volume), keys[row[shapes.labels[at]] - 1])


def maxima_voxels(
    maxima: Maxima, index: NDArray[np.int64], keys: NDArray[np.int64], origin: Shape, volume: Shape
) -> Voxels:
    """Voxels of some maxima, with the key of each."""
    row = np.zeros(len(maxima), np.int64)
    row[index[::-1]] = np.arange(len(index), 0, -1)
    of_voxel = np.repeat(row, np.diff(maxima.starts))
    at = np.flatnonzero(of_voxel)
    return Voxels(volume_index(maxima.voxels[at], maxima.shape, origin, volume), keys[of_voxel[at] - 1])


def region_corners(region: Region) -> NDArray[np.int64]:
    """Two half-open corners (6,) of a region."""
    return np.array([*region_origin(region), *(side.stop for side in region)], np.int64)
