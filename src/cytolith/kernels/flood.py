"""Flooding from high to low in the crowded components of a mask: those that hold more than one seed.

One component at a time is copied into a box of its own extent that fits a cache where the component is small. Every
voxel of the box is a slot; slots outside the component are blocked, and a border of them makes bounds tests needless.

Values become levels, and a higher level is a lower value: for integers the distance to the highest value of the dtype,
for floats the rank in the component. As nothing is ever entered above the level being flooded, a first-in-first-out
list a level is an exact priority queue, and one bit a level finds the next one that is not empty.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.components import Runs
from cytolith.kernels.jit import jit, jit_inline

_LABELLED = np.uint32(1 << 31)  # a state below this is a level, others are this + the label of the voxel: never entered
_BLOCKED = np.uint32((1 << 32) - 1)

# the six top bits of this number shifted by k differ for every k: the index of the only bit set in a word
_DEBRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT_INDEX = np.argsort([((0x03F79D71B4CB0A89 << k) & (2**64 - 1)) >> 58 for k in range(64)])


class SeedVoxels(NamedTuple):
    """Seed voxels inside the mask, in the order in which they enter the queue; no voxel comes twice."""

    run: NDArray[np.int64]
    voxel: NDArray[np.int64]
    """Compact index, see `Runs`."""
    label: NDArray[np.int32]
    """From 1."""


class _Crowds(NamedTuple):
    """The box, runs and seeds of each crowded component; lists one component after the other, each in order."""

    box: NDArray[np.int64]
    """(n, 6): first corner and the corner behind the last voxel."""
    run_bounds: NDArray[np.int64]
    run: NDArray[np.int32]
    row: NDArray[np.int64]
    seed_bounds: NDArray[np.int64]
    seed: NDArray[np.int64]


class _Slots(NamedTuple):
    """The box of one component, and its queue."""

    state: NDArray[np.uint32]
    link: NDArray[np.uint32]
    """For each slot in a list the one behind it; then for each level the front of its list."""
    tail: NDArray[np.uint32]
    """For each level where in `link` the next slot of its list is written."""
    pending: NDArray[np.uint64]
    """A bit a level: its list is not empty."""


class _Sort(NamedTuple):
    """Scratch of the radix sort."""

    key: NDArray[np.uint32]
    slot: NDArray[np.uint32]
    other_key: NDArray[np.uint32]
    other_slot: NDArray[np.uint32]


def flood_components(
    image: NDArray[Any],
    runs: Runs,
    component: NDArray[np.int32],
    crowd: NDArray[np.int32],
    n_crowds: int,
    seeds: SeedVoxels,
    labels: NDArray[np.int32],
) -> None:
    """Flood the crowded components from their seeds and write the label of each of their voxels.

    Parameters
    ----------
    image
        As `cytolith.kernels.components.as_image` returns it.
    runs, component
        The mask and the 6-connected component of each run.
    crowd
        int32, one entry a component: its number among the `n_crowds` crowded ones, or -1.
    seeds
        Those outside crowded components are passed over.
    labels
        int32, one entry a mask voxel, written where the component is crowded.

    Raises
    ------
    ValueError
        When the bounding box of a crowded component has about 2^32 voxels or more.
    """
    Z, Y, X = runs.shape
    box = np.tile(np.array([Z, Y, X, 0, 0, 0]), (n_crowds, 1))
    n_voxels = np.zeros(n_crowds, np.int64)
    run_bounds, seed_bounds = np.zeros(n_crowds + 1, np.int64), np.zeros(n_crowds + 1, np.int64)
    _count_crowds(
        Y, runs.row_start, runs.start, runs.stop, component, crowd, seeds.run, box, n_voxels, run_bounds, seed_bounds
    )
    extent = box[:, 3:] - box[:, :3]
    n_slots = int((extent + np.array([2, 1, 1])).prod(1).max())
    size, ranked = image.dtype.itemsize, image.dtype.kind == "f"
    n_levels = int(n_voxels.max()) if ranked else 1 << (8 * size)
    if n_slots + n_levels > np.iinfo(np.uint32).max:
        raise ValueError(
            f"threshold: a component with several seeds fills a box of {n_slots} voxels, which is too large"
        )
    crowds = _Crowds(
        box,
        run_bounds,
        np.empty(run_bounds[-1], np.int32),
        np.empty(run_bounds[-1], np.int64),
        seed_bounds,
        np.empty(seed_bounds[-1], np.int64),
    )
    _group_crowds(runs.row_start, component, crowd, seeds.run, crowds)
    slots = _Slots(
        np.full(n_slots, _BLOCKED),
        np.empty(n_slots + n_levels, np.uint32),
        np.arange(n_slots, n_slots + n_levels, dtype=np.uint32),
        np.zeros(n_levels // 64 + 1, np.uint64),
    )
    scratch = _Sort(*(np.empty(n_levels if ranked else 0, np.uint32) for _ in range(4)))
    sign = 1 << (8 * size - 1) if image.dtype.kind == "i" else 0
    bits = image.view(f"u{size}").reshape(Z * Y, X)  # every dtype is seen as unsigned integers
    slot = np.empty(runs.n_runs, np.uint32)
    _flood_crowds(
        bits, sign, ranked, Y, runs.start, runs.stop, runs.offset, crowds, seeds, slots, scratch, slot, labels
    )


@jit
def _count_crowds(
    Y: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    component: NDArray[np.int32],
    crowd: NDArray[np.int32],
    seed_run: NDArray[np.int64],
    box: NDArray[np.int64],
    n_voxels: NDArray[np.int64],
    run_bounds: NDArray[np.int64],
    seed_bounds: NDArray[np.int64],
) -> None:
    """Fill the boxes and numbers of voxels, and the bounds of the lists of runs and seeds."""
    for row in range(row_start.size - 1):
        z = row // Y
        y = row - z * Y
        for run in range(row_start[row], row_start[row + 1]):
            c = crowd[component[run]]
            if c >= 0:
                run_bounds[c + 1] += 1
                n_voxels[c] += stop[run] - start[run]
                b = box[c]
                b[0], b[1], b[2] = min(b[0], z), min(b[1], y), min(b[2], np.int64(start[run]))
                b[3], b[4], b[5] = max(b[3], z + 1), max(b[4], y + 1), max(b[5], np.int64(stop[run]))
    for s in range(seed_run.size):
        c = crowd[component[seed_run[s]]]
        if c >= 0:
            seed_bounds[c + 1] += 1
    for c in range(run_bounds.size - 1):
        run_bounds[c + 1] += run_bounds[c]
        seed_bounds[c + 1] += seed_bounds[c]


@jit
def _group_crowds(
    row_start: NDArray[np.int64],
    component: NDArray[np.int32],
    crowd: NDArray[np.int32],
    seed_run: NDArray[np.int64],
    crowds: _Crowds,
) -> None:
    """Fill the lists of runs and seeds: a counting sort, so both keep their order within a component."""
    place = crowds.run_bounds.copy()
    for row in range(row_start.size - 1):
        for run in range(row_start[row], row_start[row + 1]):
            c = crowd[component[run]]
            if c >= 0:
                crowds.run[place[c]] = run
                crowds.row[place[c]] = row
                place[c] += 1
    place[:] = crowds.seed_bounds
    for s in range(seed_run.size):
        c = crowd[component[seed_run[s]]]
        if c >= 0:
            crowds.seed[place[c]] = s
            place[c] += 1


@jit
def _flood_crowds(
    bits: NDArray[Any],
    sign: int,
    ranked: bool,
    Y: int,
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    offset: NDArray[np.int64],
    crowds: _Crowds,
    seeds: SeedVoxels,
    slots: _Slots,
    scratch: _Sort,
    slot: NDArray[np.uint32],
    labels: NDArray[np.int32],
) -> None:
    """Flood one component after the other. `slot`: scratch, the slot of the first voxel of each run."""
    state = slots.state
    for c in range(crowds.run_bounds.size - 1):
        runs = crowds.run[crowds.run_bounds[c] : crowds.run_bounds[c + 1]]
        rows = crowds.row[crowds.run_bounds[c] : crowds.run_bounds[c + 1]]
        z0, y0, x0, _, y1, x1 = crowds.box[c]
        step_y = x1 - x0 + 1  # a blocked slot ends each row, a blocked row each plane, a blocked plane goes before
        step_z = (y1 - y0 + 1) * step_y
        for i in range(runs.size):
            run, z = runs[i], rows[i] // Y
            slot[run] = (z - z0 + 1) * step_z + (rows[i] - z * Y - y0) * step_y + start[run] - x0
            into = state[slot[run] : slot[run] + stop[run] - start[run]]
            _fill_levels(bits[rows[i], start[run] : stop[run]], sign, ranked, into)
        last = _rank_levels(runs, start, stop, slot, state, scratch) if ranked else slots.tail.size - 1
        first = last
        for i in range(crowds.seed_bounds[c], crowds.seed_bounds[c + 1]):
            s = crowds.seed[i]
            run = seeds.run[s]
            place = np.uint32(slot[run] + seeds.voxel[s] - offset[run])
            level = state[place]
            first = min(first, int(level))
            state[place] = _LABELLED | np.uint32(seeds.label[s])
            _enter(place, level, slots)
        _flood(first, last, step_y, step_z, slots)
        for run in runs:
            k = np.int64(slot[run]) - offset[run]
            for v in range(offset[run], offset[run + 1]):
                labels[v] = state[k + v] & ~_LABELLED  # what is labelled is as good as blocked for the next one


@jit
def _fill_levels(row: NDArray[Any], sign: int, ranked: bool, into: NDArray[np.uint32]) -> None:
    """Levels of a run; of floats keys that sort as levels do."""
    half = np.uint32(0x80000000)
    top = np.uint32(2 ** (8 * row.itemsize) - 1)
    if ranked:
        for x in range(row.size):  # positive from high to low, then negative; both zeros are the same
            b = np.uint32(row[x])
            into[x] = b if b > half else ~(b | half)
    else:
        for x in range(row.size):
            into[x] = top - (np.uint32(row[x]) ^ np.uint32(sign))


@jit
def _rank_levels(
    runs: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    run_slot: NDArray[np.uint32],
    state: NDArray[np.uint32],
    scratch: _Sort,
) -> int:
    """Replace keys by their dense rank; returns the highest. A radix sort that leaves out bytes all keys share."""
    key, slot, other_key, other_slot = scratch
    n = 0
    count = np.zeros((4, 257), np.int64)
    for run in runs:
        for i in range(run_slot[run], run_slot[run] + stop[run] - start[run]):
            k = state[i]
            key[n] = k
            slot[n] = i
            n += 1
            count[0, np.int64(k & 255) + 1] += 1
            count[1, np.int64(k >> 8 & 255) + 1] += 1
            count[2, np.int64(k >> 16 & 255) + 1] += 1
            count[3, np.int64(k >> 24) + 1] += 1
    for digit in range(4):
        place, by = count[digit], 8 * digit
        if place[(np.int64(key[0]) >> by & 255) + 1] == n:
            continue
        for b in range(256):
            place[b + 1] += place[b]
        for i in range(n):
            byte = np.int64(key[i]) >> by & 255
            other_key[place[byte]] = key[i]
            other_slot[place[byte]] = slot[i]
            place[byte] += 1
        key, slot, other_key, other_slot = other_key, other_slot, key, slot
    rank = 0
    for i in range(n):
        if i > 0 and key[i] != key[i - 1]:
            rank += 1
        state[slot[i]] = rank
    return rank


@jit_inline
def _enter(place: Any, level: Any, slots: _Slots) -> None:
    """Append a slot to the list of a level; an empty list is continued at its front, so nothing is asked."""
    slots.link[slots.tail[level]] = place
    slots.tail[level] = place
    slots.pending[level >> np.uint32(6)] |= np.uint64(1) << np.uint64(level & np.uint32(63))


@jit_inline
def _spread(place: Any, mark: Any, level: Any, slots: _Slots) -> None:
    """Give a neighbour the label of the voxel being flooded, unless it has one, and enter it, not above this level."""
    found = slots.state[place]
    if found < _LABELLED:
        slots.state[place] = mark
        _enter(place, max(found, level), slots)


@jit
def _flood(first: int, last: int, step_y: int, step_z: int, slots: _Slots) -> None:
    """Empty the lists of levels first ... last in turn; each may grow while it is emptied."""
    n_slots = slots.state.size
    sy, sz = np.uint32(step_y), np.uint32(step_z)
    for word in range(first >> 6, (last >> 6) + 1):
        while slots.pending[word] != 0:
            bit = slots.pending[word] & (~slots.pending[word] + np.uint64(1))
            level = np.uint32(64 * word + _BIT_INDEX[(bit * _DEBRUIJN) >> np.uint64(58)])
            at = slots.link[n_slots + level]
            while True:
                mark = slots.state[at]
                _spread(np.uint32(at - sz), mark, level, slots)
                _spread(np.uint32(at - sy), mark, level, slots)
                _spread(np.uint32(at - 1), mark, level, slots)
                _spread(np.uint32(at + 1), mark, level, slots)
                _spread(np.uint32(at + sy), mark, level, slots)
                _spread(np.uint32(at + sz), mark, level, slots)
                if at == slots.tail[level]:
                    break
                at = slots.link[at]
            slots.tail[level] = n_slots + level
            slots.pending[word] &= ~bit
