"""Exact percentiles of the values in windows that overlap, without sorting.

The edges of all windows cut a block into cells, so that a window is a whole number of cells, and a voxel is looked at
in its cell, not once for each of the many windows over it.  Values are selected digit by digit, 256 at a time, from the
leading digit down: the first pass counts the leading digits of each cell, the windows add up the counts of their cells
and find the leading digit of each percentile, and the next pass counts the second digits of only those values that
begin as some percentile of a window over the cell does.  That is two passes for 16-bit images and four for float32, and
nothing is sorted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.jit import jit, jit_inline
from cytolith.kernels.percentile_grid import Grid, GridAxis

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
UnsignedArray = NDArray[np.uint32]

NAN_KEY = np.uint32(0xFFFFFFFF)
"""Key of NaN, above those of all values."""


def window_percentiles(
    image: NDArray[Any], fractions: Float64Array, grid: Grid, mask: NDArray[np.bool_] | None = None
) -> Float64Array:
    """Percentiles (Gz, Gy, Gx, P) of the windows of a grid, NaN where no voxel counts.

    Parameters
    ----------
    image
        Block as `usable_image` gives it.
    fractions
        Percentiles as fractions 0 ... 1.
    grid
        Windows in the block.
    mask
        Bool array of the image's shape; only voxels where it is True count.

    Raises
    ------
    ValueError
        If mask is not bool or has another shape, or if a window has 2**32 voxels or more.
    """
    if mask is None:
        counted = np.empty((0, 0, 0), np.uint8)
    elif mask.dtype != np.bool_ or mask.shape != image.shape:
        raise ValueError(f"mask is {mask.dtype} of shape {mask.shape}; bool of shape {image.shape} is needed")
    else:
        counted = np.ascontiguousarray(mask).view(np.uint8)
    order = _ORDERS[image.dtype]
    z, y, x = grid
    y_edges, y_first, y_last = _cells(y)
    x_edges, x_first, x_last = _cells(x)
    check_windows(grid)
    most_voxels = (z.stops - z.starts).max() * np.diff(y_edges).max() * np.diff(x_edges).max()
    most_windows = (y_last - y_first).max() * (x_last - x_first).max()
    shape = (z.centres.size, y.centres.size, x.centres.size)
    counts = np.zeros(shape, np.int64)
    keys = np.empty((*shape, 2 * fractions.size), np.uint32)
    _select(
        image.view(order.unsigned),
        counted,
        np.uint32(order.sign),
        fractions,
        z.starts,
        z.stops,
        y_edges,
        y_first,
        y_last,
        x_edges,
        x_first,
        x_last,
        int(most_voxels),
        int(most_windows),
        counts,
        keys,
    )
    return percentiles_of_keys(counts, keys, fractions, image.dtype)


def check_windows(grid: Grid) -> None:
    """ValueError if a window has more voxels than can be counted."""
    largest = math.prod(int((axis.stops - axis.starts).max()) for axis in grid)
    if largest >= 2**32:
        raise ValueError(f"selem gives windows of {largest} voxels; less than 2**32 can be counted")


def percentiles_of_keys(
    counts: IntArray, keys: UnsignedArray, fractions: Float64Array, dtype: np.dtype[Any]
) -> Float64Array:
    """Percentiles (Gz, Gy, Gx, P) of windows, NaN where no voxel counts.

    Parameters
    ----------
    counts
        Voxels that count in each window, (Gz, Gy, Gx).
    keys
        Keys of the two values around each percentile, (Gz, Gy, Gx, 2 P).
    fractions
        Percentiles as fractions 0 ... 1.
    dtype
        Type of the image.
    """
    values = _ORDERS[dtype].values(keys)
    rank = fractions * np.maximum(counts - 1, 0)[..., None]
    result = _between(values[..., 0::2], values[..., 1::2], rank - np.floor(rank))
    result[counts == 0] = np.nan
    return result


def _between(low: Float64Array, high: Float64Array, fraction: Float64Array) -> Float64Array:
    """Linear between two values, rounded as `numpy.quantile` rounds it: reckoned from the nearer one."""
    with np.errstate(invalid="ignore", over="ignore"):  # beside infinities
        difference = high - low
        between = np.where(fraction < 0.5, low + difference * fraction, high - difference * (1 - fraction))
    return np.where((fraction == 0) | (low == high), low, between)


@dataclass(frozen=True)
class _Order:
    """How values of a dtype become unsigned keys of the same order: the sign bit turned, negative floats inverted."""

    dtype: type[np.generic]
    unsigned: type[np.generic]
    sign: int

    def values(self, keys: UnsignedArray) -> Float64Array:
        """Values of keys, as float64."""
        bits = keys ^ np.uint32(self.sign)
        if self.dtype is np.float32:
            bits = np.where(keys >= self.sign, bits, ~keys)
        return bits.astype(self.unsigned).view(self.dtype).astype(np.float64)


_ORDERS = {
    np.dtype(order.dtype): order
    for order in (
        _Order(np.uint8, np.uint8, 0),
        _Order(np.uint16, np.uint16, 0),
        _Order(np.int16, np.uint16, 1 << 15),
        _Order(np.float32, np.uint32, 1 << 31),
    )
}


def _cells(axis: GridAxis) -> tuple[IntArray, IntArray, IntArray]:
    """Cut an axis at all edges of windows: edges of the cells, and first and last + 1 of the windows over each."""
    edges = np.unique(np.concatenate([axis.starts, axis.stops]))
    first = np.searchsorted(axis.stops, edges[:-1], side="right")
    last = np.searchsorted(axis.starts, edges[:-1], side="right")
    return edges, first, last


@jit
def _select(
    src: NDArray[Any],
    counted: NDArray[np.uint8],
    sign: np.uint32,
    fractions: Float64Array,
    z_starts: IntArray,
    z_stops: IntArray,
    y_edges: IntArray,
    y_first: IntArray,
    y_last: IntArray,
    x_edges: IntArray,
    x_first: IntArray,
    x_last: IntArray,
    most_voxels: int,
    most_windows: int,
    counts: IntArray,
    keys: UnsignedArray,
) -> None:
    """Number of values in each window, and keys of the two values around each percentile.

    Windows are given by the cells that they are made of: ``y_first[c] : y_last[c]`` are those over the cell c between
    ``y_edges[c]`` and ``y_edges[c + 1]``, likewise along x; a layer of windows along z is one layer of cells.

    A *prefix* is the leading digits of a key, found so far.  A *node* is one prefix of one window with its 256 counters
    of the next digit; ranks of a window that share a prefix share the node.  The *slots* of a cell number the different
    prefixes of the nodes of all windows over it; ``tries`` lead from a slot and the next digit to the slot one level
    down, slot 0 being that of values that nobody asks for (on the first level it is the root).
    """
    levels = src.itemsize
    Gz, Gy, Gx, ranks = keys.shape
    windows = Gy * Gx
    slots = max(4, most_windows * ranks + 1)
    tries = np.zeros((max(1, levels - 1), slots * 256), np.uint32)
    used = np.empty(levels, np.int64)
    histograms = np.empty(slots * 256, np.uint32)
    cell = np.empty(most_voxels, src.dtype)
    prefix = np.empty((windows, ranks), np.uint32)
    rest = np.empty((windows, ranks), np.int64)
    node = np.empty((windows, ranks), np.int64)
    first_node = np.empty(windows + 1, np.int64)
    node_prefix = np.empty(windows * ranks, np.uint32)
    node_slot = np.empty(windows * ranks, np.int64)
    counters = np.empty((windows * ranks, 256), np.uint32)

    for gz in range(Gz):
        prefix[:] = 0
        for level in range(levels):
            shift = 8 * (levels - 1 - level)
            _make_nodes(prefix, level, counts[gz].reshape(-1), node, first_node, node_prefix)
            counters[: first_node[windows]] = 0

            for cy in range(y_first.size):
                for cx in range(x_first.size):
                    if y_first[cy] == y_last[cy] or x_first[cx] == x_last[cx]:
                        continue  # a gap between windows
                    tries[0, :256] = 0
                    used[:] = 1
                    for gy in range(y_first[cy], y_last[cy]):
                        for gx in range(x_first[cx], x_last[cx]):
                            w = gy * Gx + gx
                            for i in range(first_node[w], first_node[w + 1]):
                                node_slot[i] = _slot(node_prefix[i], level, levels, tries, used)
                    z0, z1 = z_starts[gz], z_stops[gz]
                    y0, y1 = y_edges[cy], y_edges[cy + 1]
                    x0, x1 = x_edges[cx], x_edges[cx + 1]
                    size, valid = _gather(src, counted, sign, z0, z1, y0, y1, x0, x1, cell)
                    _count(cell[:size], level, levels, tries, histograms[: max(4, used[level]) * 256])
                    for gy in range(y_first[cy], y_last[cy]):
                        for gx in range(x_first[cx], x_last[cx]):
                            w = gy * Gx + gx
                            if level == 0:
                                counts[gz, gy, gx] += valid
                            for i in range(first_node[w], first_node[w + 1]):
                                at = node_slot[i] * 256
                                _add(histograms[at : at + 256], counters[i])

            for w in range(windows):
                gy, gx = w // Gx, w % Gx
                if level == 0:
                    count = counts[gz, gy, gx]
                    for p in range(fractions.size):
                        lower = int(np.floor(fractions[p] * (count - 1)))
                        rest[w, 2 * p] = lower
                        rest[w, 2 * p + 1] = min(lower + 1, count - 1)
                for r in range(ranks):
                    if counts[gz, gy, gx] == 0:
                        continue
                    below = counters[node[w, r]]
                    digit = 0
                    while rest[w, r] >= below[digit]:
                        rest[w, r] -= below[digit]
                        digit += 1
                    prefix[w, r] |= np.uint32(digit << shift)

        for w in range(windows):
            for r in range(ranks):
                keys[gz, w // Gx, w % Gx, r] = prefix[w, r]


@jit
def _make_nodes(
    prefix: UnsignedArray,
    level: int,
    counts: IntArray,
    node: IntArray,
    first_node: IntArray,
    node_prefix: UnsignedArray,
) -> None:
    """Give each different prefix of a window a node; windows without values have none after the first level."""
    n = 0
    for w in range(counts.size):
        first_node[w] = n
        if level > 0 and counts[w] == 0:
            continue
        for r in range(prefix.shape[1]):
            i = first_node[w]
            while i < n and node_prefix[i] != prefix[w, r]:
                i += 1
            if i == n:
                node_prefix[n] = prefix[w, r]
                n += 1
            node[w, r] = i
    first_node[counts.size] = n


@jit
def _slot(prefix: int, level: int, levels: int, tries: UnsignedArray, used: IntArray) -> int:
    """Slot of a prefix of so many digits in the cell, made if new."""
    slot = 0
    for i in range(level):
        at = slot * 256 + (prefix >> 8 * (levels - 1 - i) & 255)
        slot = int(tries[i, at])
        if slot == 0:
            slot = used[i + 1]
            used[i + 1] += 1
            tries[i, at] = slot
            if i + 1 < level:
                tries[i + 1, slot * 256 : (slot + 1) * 256] = 0
    return slot


@jit
def _gather(
    src: NDArray[Any],
    counted: NDArray[np.uint8],
    sign: np.uint32,
    z0: int,
    z1: int,
    y0: int,
    y1: int,
    x0: int,
    x1: int,
    cell: NDArray[Any],
) -> tuple[int, int]:
    """Write the keys of a cell into ``cell``: how many, and how many of them count.

    NaN has the highest key and does not count, so that no rank comes to it; what the mask leaves out is not written.
    """
    flat, flat_counted = src.reshape(-1), counted.reshape(-1)
    length = np.uint64(x1 - x0)
    n = np.uint64(0)
    nans = 0
    for z in range(z0, z1):
        for y in range(y0, y1):
            at = np.uint64((z * src.shape[1] + y) * src.shape[2] + x0)
            if flat_counted.size == 0:
                for i in range(length):
                    key = _key(flat[at + i], sign)
                    cell[n + i] = key
                    nans += key == NAN_KEY
                n += length
            else:
                for i in range(length):
                    key = _key(flat[at + i], sign)
                    cell[n] = key
                    counts = flat_counted[at + i] != 0
                    n += np.uint64(counts)
                    nans += counts and key == NAN_KEY
    return int(n), int(n) - nans


@jit_inline
def _key(bits: Any, sign: Any) -> Any:
    """Key of a value from its bits."""
    wide = np.uint32(bits)
    if wide & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):  # NaN, which no narrower type can be
        return NAN_KEY
    return np.uint32(wide ^ sign ^ (wide >> np.uint32(31)) * np.uint32(0x7FFFFFFF))


@jit
def _count(cell: NDArray[Any], level: int, levels: int, tries: UnsignedArray, histograms: UnsignedArray) -> None:
    """Count the digit of a level in the keys of a cell, one histogram for each slot."""
    histograms[:] = 0
    shift = np.uint64(8 * (levels - 1))
    step = np.uint64(8)
    low = np.uint64(255)
    if level == 0:
        # four histograms in turn, for incrementing one counter again has to wait for the last store
        for i in range(cell.size):
            histograms[np.uint64(i & 3) << step | np.uint64(cell[i]) >> shift] += 1
        for i in range(256):
            histograms[i] += histograms[256 + i] + histograms[512 + i] + histograms[768 + i]
    elif level == 1:
        for i in range(cell.size):
            key = np.uint64(cell[i])
            slot = np.uint64(tries[0, key >> shift])
            histograms[slot << step | key >> shift - step & low] += 1
    elif level == 2:
        for i in range(cell.size):
            key = np.uint64(cell[i])
            slot = np.uint64(tries[0, key >> shift])
            slot = np.uint64(tries[1, slot << step | key >> shift - step & low])
            histograms[slot << step | key >> shift - step - step & low] += 1
    else:
        for i in range(cell.size):
            key = np.uint64(cell[i])
            slot = np.uint64(tries[0, key >> shift])
            slot = np.uint64(tries[1, slot << step | key >> shift - step & low])
            slot = np.uint64(tries[2, slot << step | key >> shift - step - step & low])
            histograms[slot << step | key & low] += 1


@jit
def _add(source: UnsignedArray, target: UnsignedArray) -> None:
    for i in range(256):
        target[i] += source[i]
