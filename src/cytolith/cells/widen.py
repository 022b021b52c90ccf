"""The adaptive halo: what is unsettled in a block is read again with more around it, until memory forbids it.

A row that is truncated in its block is a **target**, known by its key. Around what was seen of it a region is chosen::

    |   room   |
    |  +----+  |        it touches no face of what was read: a neighbour of it runs on, so more room on all sides
    |  |cell|  |
    |  +----+  |

    | room +------------+------------+    it runs into a face: as much again behind that face, and no more elsewhere,
    |      |seen  seen  |            |    so that a fibre through many blocks is read as a long thin box
    | room +------------+------------+

Regions are read together where that is cheaper than one by one. A region is analysed like a block and tells of each
target: its settled row, that it is still unsettled (a larger region in the next round), or that it is none, as another
block owns the cell. Each round reaches further, so the rounds end, at the latest with the whole volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_shape
from cytolith.cells.block import BlockCells, cells_of_block
from cytolith.cells.costs import ROOM_VOXELS, clear_reach
from cytolith.cells.images import Image, Look, Setting, look_on_cpu
from cytolith.cells.loose import Loose
from cytolith.cells.owners import join_voxels, places, region_corners
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.kernels.components import MaskTooLargeError

READ_ALL = 0.5
"""Where memory holds the volume at once, all of it is read when reading again would take more than this share of it."""
READ_AGAIN = 16.0
"""Where memory does not hold the volume at once, all reading again together takes at most this many times what the
blocks read; what would cost more stays truncated. Only a threshold that nearly everything passes gets there."""
_DECODE = 0.4
"""Cost of decoding a voxel of a storage chunk against computing on one that is read."""
_BEGIN = 100_000
"""Cost of reading one region whatever its size, in voxels computed on."""
_STEPS = 16
"""A region too large for memory is tried at so many sizes, the largest that fits is taken, and it is the last."""

Boxes: TypeAlias = NDArray[np.int64]
"""(n, 6): two half-open corners, (z, y, x) each."""


@dataclass(eq=False)
class Whole:
    """Cells of the whole volume, when a block had to read all of it."""

    cells: BlockCells | None = None


def settle(
    cells: BlockCells,
    block: Block,
    setting: Setting,
    workspace: Workspace,
    read: Callable[[Block], tuple[Image, Image | None]],
    *,
    most_voxels: int,
    mask_limit: int | None = None,
    halo: Shape | None = None,
    chunks: Shape | None = None,
    whole: Whole | None = None,
    look: Look = look_on_cpu,
) -> BlockCells:
    """Rows of a block with all of them settled that memory allows: exactly those of the whole volume at once.

    Parameters
    ----------
    cells
        What `cells_of_block` found in the block. What steps save must be written before: the images are forgotten and
        their buffers used.
    block
        The block.
    setting
        What the block was analysed with.
    workspace
        Buffers of the calling worker.
    read
        Gives the voxels of the read region of a block, and those that equalization counts.
    most_voxels
        Voxels of the largest region that memory holds.
    mask_limit
        Voxels above the shape threshold that memory holds.
    halo
        Voxels that blocks read around their cores, (z, y, x): the room that targets get at first.
    chunks
        What one decode of the storage gives, (z, y, x).
    whole
        Where the calling worker keeps the cells of the whole volume once it has read all of it, so that it does so
        once. Not used when steps save.
    look
        Does the dense part of each region, as in `cells_of_block`.

    Returns
    -------
    BlockCells
        Rows that are still truncated are those of cells that memory does not hold, as far as they were seen.
    """
    step = setting.config.maxima_detection
    if step is None or not step.valid or not cells.unsettled:
        return cells
    cells.forget_voxels()
    sources, parts = [cells], [cells.rows(~cells.table["truncated"])]
    targets = _fresh(0, cells, block, most_voxels)
    rounds = _Rounds(setting, halo, READ_AGAIN * math.prod(region_shape(block.read)), chunks)
    widened = 0
    while targets.keys.size:
        if whole is not None and whole.cells is not None and not cells.apart:
            parts.append(whole.cells.rows(np.isin(whole.cells.keys, targets.keys)))
            break
        targets, groups, left = rounds.plan(targets)
        for source in np.unique(left.source):
            rows = sources[source]
            kept = rows.table["truncated"] & np.isin(rows.keys, left.keys[left.source == source])
            parts.append(rows.rows(kept))
        again = [_Targets.none()]
        for group in groups:
            asked = targets.take(group)
            at = places(asked.keys, setting.shape)
            region = Block(block.index, _region(np.hstack([at, at + 1])), _region(asked.wanted))
            widened += 1
            keys: NDArray[np.int64] | None = asked.keys
            if whole is not None and not cells.apart and region_shape(region.read) == setting.shape:
                region, keys = Block(block.index, region.read, region.read), None
            image, mask = read(region)
            try:
                found = cells_of_block(
                    image, region, setting, workspace, mask=mask, mask_limit=mask_limit, asked=keys, look=look
                )
            except MaskTooLargeError:  # in two parts, or not at all
                again.append(replace(asked, limit=np.full(group.size, image.size // 2)))
                continue
            found.forget_voxels()
            if whole is not None and keys is None:
                whole.cells = found
                again.append(asked)
                continue
            parts.append(found.rows(~found.table["truncated"]))
            again.append(_fresh(len(sources), found, region, most_voxels, asked))
            sources.append(found)
        targets = _joined(again)
    return replace(
        cells,
        table={name: np.concatenate([part.table[name] for part in parts]) for name in cells.table},
        keys=np.concatenate([part.keys for part in parts]),
        loose=Loose(*(np.concatenate([getattr(p.loose, name) for p in parts]) for name in ("extents", "touched"))),
        apart={name: join_voxels([part.apart[name] for part in parts]) for name in cells.apart},
        widened=widened,
    )


@dataclass(eq=False)
class _Targets:
    """Cells that are not settled yet, one entry a cell."""

    keys: NDArray[np.int64]
    extents: Boxes
    touched: NDArray[np.bool_]
    """As in `Loose`."""
    seen: Boxes
    """What was read to see this much of it."""
    wanted: Boxes
    """The region to read around it; before the first round one that holds nothing."""
    room: NDArray[np.int64]
    """Room on all sides, as a multiple of half of that of a block."""
    limit: NDArray[np.int64]
    """Voxels that a region with it may have."""
    last: NDArray[np.bool_]
    """Whether memory forbids a larger region."""
    source: NDArray[np.int64]
    """Number of the result that has its latest row."""

    def take(self, index: NDArray[Any]) -> _Targets:
        return _Targets(**{name: column[index] for name, column in vars(self).items()})

    @staticmethod
    def none() -> _Targets:
        empty, boxes = np.empty(0, np.int64), np.empty((0, 6), np.int64)
        return _Targets(empty, boxes, boxes.astype(bool), boxes, boxes, empty, empty, empty.astype(bool), empty)


def _joined(parts: list[_Targets]) -> _Targets:
    return _Targets(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def _fresh(source: int, cells: BlockCells, block: Block, most_voxels: int, before: _Targets | None = None) -> _Targets:
    """Targets of a result; what has been tried for them is known from `before`."""
    keys = cells.keys[cells.table["truncated"]]
    nothing = np.array([*[np.iinfo(np.int64).max] * 3, *[0] * 3])
    if before is None:
        wanted, room = np.tile(nothing, (keys.size, 1)), np.ones(keys.size, np.int64)
        limit, last = np.full(keys.size, most_voxels), np.zeros(keys.size, bool)
    else:
        order = np.argsort(before.keys)
        known = before.take(order[np.searchsorted(before.keys, keys, sorter=order)])
        wanted, room, limit, last = known.wanted, known.room, known.limit, known.last
    seen = np.tile(region_corners(block.read), (keys.size, 1))
    rows = cells.loose
    return _Targets(
        keys, rows.extents, rows.touched, seen, wanted, room, limit, last, np.full(keys.size, source, np.int64)
    )


class _Rounds:
    """What is read in each round."""

    def __init__(self, setting: Setting, halo: Shape | None, budget: float, chunks: Shape | None) -> None:
        self._shape = np.array(setting.shape)
        self._all = np.array([0, 0, 0, *setting.shape], np.int64)
        self._reach = np.array(clear_reach(setting.config))
        # half of a block's room is enough for most, whose neighbours are seen in full then
        self._room = np.full(3, ROOM_VOXELS) if halo is None else np.maximum(np.array(halo) - self._reach, 1)
        self._budget = budget
        self._chunks = np.array(chunks or (1, 1, 1))
        self._round = 0
        self.voxels = 0
        """Voxels of all regions so far."""

    def plan(self, targets: _Targets) -> tuple[_Targets, list[NDArray[np.int64]], _Targets]:
        """Targets that go on with their regions, those to read together by index, and targets to leave as they are."""
        self._round += 1
        # Whoever touches a face grows there, with as much room elsewhere as before; but some more every third time, so
        # that there is no way to go round in circles.
        if self._round > 1:
            targets.room[~targets.touched.any(1) | (self._round % 3 == 0)] *= 2
        self._choose_regions(targets)
        fits = (_voxels(targets.wanted) <= targets.limit) & ~targets.last
        self._shrink(targets, np.flatnonzero(~fits & ~targets.last), fits)
        left, targets = targets.take(~fits), targets.take(fits)
        if not targets.keys.size:
            return targets, [], left
        groups = self._grouped(targets)
        costs = np.array([self._voxels_together(targets, group) for group in groups])
        if self._all_voxels <= targets.limit.min():
            # the volume fits: when much of it is read, reading all of it ends it
            if self.voxels + costs.sum() > READ_ALL * self._all_voxels:
                targets.wanted[:] = self._all
                groups, costs = [np.arange(targets.keys.size)], np.array([self._all_voxels])
        else:
            order = np.argsort(costs / [group.size for group in groups], kind="stable")
            paid = order[self.voxels + np.cumsum(costs[order]) <= self._budget]
            spare = np.ones(targets.keys.size, bool)
            spare[np.concatenate([np.empty(0, np.int64), *(groups[n] for n in paid)])] = False
            left = _joined([left, targets.take(spare)])
            groups, costs = [groups[n] for n in paid], costs[paid]
        self.voxels += int(costs.sum())
        largest_first = np.argsort(-costs, kind="stable")
        return targets, [groups[n] for n in largest_first], left

    @property
    def _all_voxels(self) -> int:
        return math.prod(self._shape.tolist())

    def _choose_regions(self, targets: _Targets) -> None:
        """Regions that are larger than what was seen, and hold those of the round before."""
        todo = np.arange(targets.keys.size)
        while todo.size:
            part = targets.take(todo)
            length = part.extents[:, 3:] - part.extents[:, :3]
            around = self._reach + -(-self._room * part.room[:, None] // 2)
            regions = part.wanted.copy()
            regions[:, :3] = np.minimum(regions[:, :3], part.extents[:, :3] - around - part.touched[:, :3] * length)
            regions[:, 3:] = np.maximum(regions[:, 3:], part.extents[:, 3:] + around + part.touched[:, 3:] * length)
            targets.wanted[todo] = regions = self._clipped(regions)
            todo = todo[_inside(regions, part.seen) & ~_inside(self._all[None], part.seen)]
            targets.room[todo] *= 2

    def _shrink(self, targets: _Targets, large: NDArray[np.int64], fits: NDArray[np.bool_]) -> None:
        """Shrink regions that memory does not hold to the largest that it does, if that is more than was seen."""
        for step in range(_STEPS - 1, 0, -1):
            if not large.size:
                return
            part = targets.take(large)
            least = part.extents + np.concatenate([-self._reach, self._reach])
            regions = self._clipped(least + (part.wanted - least) * step // _STEPS)
            good = (_voxels(regions) <= part.limit) & ~_inside(regions, part.seen)
            targets.wanted[large[good]] = regions[good]
            targets.last[large[good]] = fits[large[good]] = True
            large = large[~good]

    def _clipped(self, regions: Boxes) -> Boxes:
        return np.hstack([np.maximum(regions[:, :3], 0), np.minimum(regions[:, 3:], self._shape)])

    def _grouped(self, targets: _Targets) -> list[NDArray[np.int64]]:
        """Targets that are read together: halved along the longest spread as long as that costs less."""
        alone = self._cost(targets.wanted)
        centres = targets.wanted[:, :3] + targets.wanted[:, 3:]

        def best(group: NDArray[np.int64]) -> tuple[float, list[NDArray[np.int64]]]:
            if group.size == 1:
                return float(alone[group[0]]), [group]
            hull = _hull(targets.wanted[group])
            together = float(self._cost(hull)[0])
            if _voxels(hull)[0] > targets.limit[group].min():
                together = math.inf
            if together <= 2 * alone[group].min():
                return together, [group]
            spread = np.ptp(centres[group], axis=0) / np.mean(targets.wanted[group, 3:] - targets.wanted[group, :3], 0)
            order = group[np.argsort(centres[group, int(np.argmax(spread))], kind="stable")]
            halves = [best(order[: group.size // 2]), best(order[group.size // 2 :])]
            cost = halves[0][0] + halves[1][0]
            return (together, [group]) if together <= cost else (cost, halves[0][1] + halves[1][1])

        return best(np.arange(targets.keys.size))[1]

    def _voxels_together(self, targets: _Targets, group: NDArray[np.int64]) -> int:
        return int(_voxels(_hull(targets.wanted[group]))[0])

    def _cost(self, regions: Boxes) -> NDArray[np.float64]:
        """What reading and analysing each region takes, in voxels."""
        begin, end = regions[:, :3] // self._chunks, -(-regions[:, 3:] // self._chunks)
        stored = np.minimum(end * self._chunks, self._shape) - begin * self._chunks
        return np.asarray(_voxels(regions) + _DECODE * stored.astype(float).prod(1) + _BEGIN)


def _hull(boxes: Boxes) -> Boxes:
    """The box (1, 6) around boxes."""
    return np.hstack([boxes[:, :3].min(0), boxes[:, 3:].max(0)])[None]


def _region(boxes: Boxes) -> Region:
    z0, y0, x0, z1, y1, x1 = _hull(boxes)[0].tolist()
    return slice(z0, z1), slice(y0, y1), slice(x0, x1)


def _voxels(boxes: Boxes) -> NDArray[np.int64]:
    return np.asarray((boxes[:, 3:] - boxes[:, :3]).prod(1))


def _inside(boxes: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Whether each box lies in the other."""
    return np.asarray(((boxes[:, :3] >= others[:, :3]) & (boxes[:, 3:] <= others[:, 3:])).all(1))
