"""The region that each cell lies in: cells are looked up in an annotation that is read box by box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytolith.atlas.positions import Cells
from cytolith.axes import Shape, VoxelSize, region_origin, region_shape
from cytolith.engine.grid import Block, tile
from cytolith.io.label_volume import LabelVolume

OUTSIDE = 0
"""Id of what is no region."""
BOX_VOXELS = 1 << 22
"""Voxels of an annotation that are read at a time, where a chunk is not larger: some 100 MB with all that is made of
them."""


@dataclass(frozen=True)
class Placement:
    """Where the cells of a table lie.

    Attributes
    ----------
    regions : list of (int, int)
        Id and hemisphere (0 where there are none) of all regions that have a voxel or a cell, sorted; the outside is
        (0, 0).
    voxels : int64 ndarray
        Voxels of each.
    region_of : int32 ndarray
        For each row of the table, the number of its region in `regions`.
    beyond : int
        Rows that lie beyond the annotation; they are outside.
    voxel_size : tuple of float
        Of the annotation, (z, y, x) in micrometres.
    has_hemispheres : bool
    """

    regions: list[tuple[int, int]]
    voxels: NDArray[np.int64]
    region_of: NDArray[np.int32]
    beyond: int
    voxel_size: VoxelSize
    has_hemispheres: bool

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel of the annotation."""
        return math.prod(self.voxel_size) * 1e-9


def place_cells(
    cells: Cells,
    annotation: LabelVolume,
    voxel_size: VoxelSize,
    offset: VoxelSize,
    hemispheres: LabelVolume | None = None,
) -> Placement:
    """Look up the region of every cell and measure every region, in one pass over the annotation.

    Parameters
    ----------
    cells : Cells
        Positions from the corner of the volume.
    annotation : LabelVolume
        Ids; 0 is outside.
    voxel_size : tuple of float
        Edges of a voxel of the annotation, (z, y, x) in micrometres.
    offset : tuple of float
        Its corner in the volume, (z, y, x) in micrometres.
    hemispheres : LabelVolume, optional
        Of the extents of the annotation.

    Returns
    -------
    Placement

    Notes
    -----
    Memory holds 28 bytes a row of the table, and one box of the annotation.
    """
    core = box_shape(annotation.shape, annotation.chunks)
    places = _places(cells, annotation.shape, voxel_size, offset)
    grid = [-(-extent // edge) for extent, edge in zip(annotation.shape, core, strict=True)]
    order, starts = _by_box(places, annotation.shape, core, grid)
    known: dict[tuple[int, int], int] = {(OUTSIDE, 0): 0}
    voxels = [0]
    region_of = np.zeros(cells.total, np.int32)
    for block in tile(annotation.shape, core, (0, 0, 0)):
        labels = annotation.read(block.core)
        sides = None if hemispheres is None else hemispheres.read(block.core)
        pairs, counts = _histogram(labels, sides)
        for pair, count in zip(pairs, counts.tolist(), strict=True):
            number = known.setdefault(pair, len(voxels))
            if number == len(voxels):
                voxels.append(0)
            voxels[number] += count
        rows = order[starts[block.index] : starts[block.index + 1]]
        if rows.size:
            region_of[rows] = _looked_up(places[rows], annotation.shape, block, labels, sides, known)
    ranked = sorted(known)
    rank = np.empty(len(ranked), np.int32)
    rank[[known[pair] for pair in ranked]] = np.arange(len(ranked))
    return Placement(
        ranked,
        np.array([voxels[known[pair]] for pair in ranked], np.int64),
        rank[region_of],
        int((places < 0).sum()),
        voxel_size,
        hemispheres is not None,
    )


def box_shape(shape: Shape, chunks: Shape | None) -> Shape:
    """Extent of the boxes that an annotation is read in: whole chunks, `BOX_VOXELS` of them or one chunk."""
    z, y, x = (min(c, s) for c, s in zip(chunks or (1, *shape[1:]), shape, strict=True))
    x = _grown(x, shape[2], BOX_VOXELS // (z * y))
    y = _grown(y, shape[1], BOX_VOXELS // (z * x)) if x == shape[2] else y
    z = _grown(z, shape[0], BOX_VOXELS // (y * x)) if y == shape[1] else z
    return z, y, x


def _grown(chunk: int, extent: int, room: int) -> int:
    return min(max(room // chunk, 1) * chunk, extent)


def _places(cells: Cells, shape: Shape, voxel_size: VoxelSize, offset: VoxelSize) -> NDArray[np.int64]:
    """Index in the annotation of the voxel that holds each cell; -1 beyond it."""
    places = np.full(cells.total, -1, np.int64)
    begin = 0
    for part, length in enumerate(cells.parts.rows):
        found = np.floor((cells.positions(part) - np.array(offset)) / voxel_size)
        inside = np.flatnonzero(((found >= 0) & (found < shape)).all(axis=1))
        z, y, x = found[inside].astype(np.int64).T
        places[begin + inside] = (z * shape[1] + y) * shape[2] + x
        begin += length
    return places


def _by_box(
    places: NDArray[np.int64], shape: Shape, core: Shape, grid: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the table sorted by the box that holds them, and where those of each box begin; beyond comes first."""
    z, y, x = places // (shape[1] * shape[2]), places // shape[2] % shape[1], places % shape[2]
    boxes = (z // core[0] * grid[1] + y // core[1]) * grid[2] + x // core[2]
    boxes[places < 0] = -1
    order = np.argsort(boxes, kind="stable")
    return order, np.searchsorted(boxes[order], np.arange(math.prod(grid) + 1))


def _histogram(
    labels: NDArray[np.int64], sides: NDArray[np.int64] | None
) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Pairs of id and hemisphere in a box and the voxels of each; counted by runs, of which there are far fewer."""
    flat = labels.reshape(-1)
    changes = flat[1:] != flat[:-1]
    if sides is not None:
        changes |= sides.reshape(-1)[1:] != sides.reshape(-1)[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=flat.size)
    pairs, inverse = _distinct(flat[starts], None if sides is None else sides.reshape(-1)[starts])
    counts = np.zeros(len(pairs), np.int64)
    np.add.at(counts, inverse, lengths)
    return pairs, counts


def _distinct(
    ids: NDArray[np.int64], sides: NDArray[np.int64] | None
) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """The different pairs of id and hemisphere, and which of them each one is; outside has no hemisphere."""
    regions, place = np.unique(ids, return_inverse=True)
    if sides is None:
        return [(region, 0) for region in regions.tolist()], place
    beside, side = np.unique(np.where(ids == OUTSIDE, 0, sides), return_inverse=True)
    codes, inverse = np.unique(place * len(beside) + side, return_inverse=True)
    pairs = zip(regions[codes // len(beside)].tolist(), beside[codes % len(beside)].tolist(), strict=True)
    return list(pairs), inverse


def _looked_up(
    places: NDArray[np.int64],
    shape: Shape,
    block: Block,
    labels: NDArray[np.int64],
    sides: NDArray[np.int64] | None,
    known: dict[tuple[int, int], int],
) -> NDArray[np.int32]:
    """Number of the region of each cell of a box."""
    origin = region_origin(block.core)
    _, y, x = region_shape(block.core)
    inside = ((places // (shape[1] * shape[2]) - origin[0]) * y + (places // shape[2] % shape[1] - origin[1])) * x + (
        places % shape[2] - origin[2]
    )
    pairs, inverse = _distinct(labels.reshape(-1)[inside], None if sides is None else sides.reshape(-1)[inside])
    return np.array([known[pair] for pair in pairs], np.int32)[inverse]
