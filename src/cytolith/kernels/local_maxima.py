"""Local maxima of an image: voxels that no voxel of a window exceeds, and the plateaus they form.

The loops behind :func:`cytolith.kernels.maxima.detect_maxima`. A row is first thinned by comparing it with its
neighbouring rows, at nearly the speed of memory; only voxels that survive are looked at one by one. Where too many
survive (no threshold, noise, plateaus) the rest of a plane goes through a separable running maximum, so that the cost
does not grow with the volume of the window.

Every comparison asks "is greater", so a NaN is no maximum and keeps no other voxel from being one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.jit import jit

Reach = NDArray[np.int64]
"""How far a window looks, in voxels, in the order of the faces: z down, z up, y down, y up, x down, x up."""


@jit
def scan_maxima(image: NDArray[Any], lowest: Any, reach: Reach, starts_only: bool) -> NDArray[np.int64]:
    """Ascending flat indices of the voxels >= `lowest` that no voxel of their window exceeds.

    With `starts_only`, `reach` must be 1 everywhere, and of a plateau only those voxels are listed that are greater
    than their 13 neighbours earlier in the scan. Every regional maximum keeps at least its first voxel.
    """
    Z, Y, X = image.shape
    found = np.empty(1024, np.int64)
    n = 0
    hits = np.zeros((X + 7) // 8 * 8, np.uint8)
    words = hits.view(np.uint64)
    hit_words = np.empty(words.size + 1, np.int64)
    columns = np.empty((0, X), image.dtype)
    line = np.empty(0, image.dtype)
    for z in range(Z):
        plane = image[z]
        before = image[z - 1] if z > 0 and reach[0] > 0 else plane
        after = image[z + 1] if z < Z - 1 and reach[1] > 0 else plane
        compared = 0
        dense_from = Y
        for y in range(Y):
            row = plane[y]
            # One comparison a voxel is about what the running maximum costs: no plane takes much more than twice that.
            if dense_from == Y and compared > Y * X:
                if line.size == 0:
                    columns = np.empty((Y, X), image.dtype)
                    line = np.full(X + reach[4] + reach[5], lowest, image.dtype)
                dense_from = y
                fill_column_maxima(columns, image, z, max(0, y - reach[2]), lowest, reach)
            if y >= dense_from:
                select_row_maxima(hits[:X], row, columns, y, line, lowest, reach)
            else:
                thin_by_row(hits[:X], row, lowest, reach[4] > 0, reach[5] > 0)
                if not any_word(words):
                    continue
                up = plane[y - 1] if y > 0 and reach[2] > 0 else row
                down = plane[y + 1] if y < Y - 1 and reach[3] > 0 else row
                thin_by_neighbours(hits[:X], row, up, down, before[y], after[y])
            for i in range(list_words(words, hit_words)):
                begin = 8 * hit_words[i]
                for x in range(begin, min(X, begin + 8)):
                    if hits[x] == 0:
                        continue
                    if starts_only:
                        if not is_plateau_start(image, z, y, x):
                            continue
                    elif y < dense_from:
                        cost = compare_window(image, z, y, x, reach)
                        compared += abs(cost)
                        if cost < 0:
                            continue
                    if n == found.size:
                        grown = np.empty(2 * n, np.int64)
                        grown[:n] = found
                        found = grown
                    found[n] = (z * Y + y) * X + x
                    n += 1
    return found[:n].copy()


@jit
def thin_by_row(hits: NDArray[np.uint8], row: NDArray[Any], lowest: Any, use_left: bool, use_right: bool) -> None:
    """Mark the voxels of a row that are >= `lowest` and not exceeded by their neighbours in the row."""
    last = row.size - 1
    hits[0] = np.uint8(row[0] >= lowest)
    hits[last] = np.uint8(row[last] >= lowest)
    if last > 1:
        middle = row[1:last]
        left = row[: last - 1] if use_left else middle
        right = row[2:] if use_right else middle
        mark_thinned(hits[1:last], middle, left, right, lowest)


@jit
def mark_thinned(
    hits: NDArray[np.uint8], row: NDArray[Any], left: NDArray[Any], right: NDArray[Any], lowest: Any
) -> None:
    """Mark the voxels that are >= `lowest` and exceeded neither on the left nor on the right."""
    for i in range(hits.size):
        v = row[i]
        hits[i] = np.uint8(v >= lowest) & np.uint8(not left[i] > v) & np.uint8(not right[i] > v)


@jit
def thin_by_neighbours(
    hits: NDArray[np.uint8],
    row: NDArray[Any],
    up: NDArray[Any],
    down: NDArray[Any],
    before: NDArray[Any],
    after: NDArray[Any],
) -> None:
    """Unmark the voxels of a row that are exceeded in one of the four rows that share a face with it."""
    for i in range(hits.size):
        v = row[i]
        hits[i] &= (
            np.uint8(not up[i] > v)
            & np.uint8(not down[i] > v)
            & np.uint8(not before[i] > v)
            & np.uint8(not after[i] > v)
        )


@jit
def any_word(words: NDArray[np.uint64]) -> bool:
    """Whether any mark is set, eight marks at a time."""
    seen = np.uint64(0)
    for i in range(words.size):
        seen |= words[i]
    return bool(seen != 0)


@jit
def list_words(words: NDArray[np.uint64], out: NDArray[np.int64]) -> int:
    """List the words with a mark in them, without a branch that could be predicted wrongly; return how many."""
    n = 0
    for i in range(words.size):
        out[n] = i
        n += int(words[i] != 0)
    return n


@jit
def compare_window(image: NDArray[Any], z: int, y: int, x: int, reach: Reach) -> int:
    """Compare a voxel with its window, clipped to the image: how many were compared, negative if one is greater."""
    Z, Y, X = image.shape
    v = image[z, y, x]
    y0, y1 = max(0, y - reach[2]), min(Y, y + reach[3] + 1)
    x0, x1 = max(0, x - reach[4]), min(X, x + reach[5] + 1)
    n = 0
    for zz in range(max(0, z - reach[0]), min(Z, z + reach[1] + 1)):
        for yy in range(y0, y1):
            row = image[zz, yy]
            for xx in range(x0, x1):
                if row[xx] > v:
                    return -int(n + xx - x0 + 1)
            n += int(x1 - x0)
    return n


@jit
def is_plateau_start(image: NDArray[Any], z: int, y: int, x: int) -> bool:
    """Whether a voxel is exceeded by none of its 26 neighbours and equalled by none of the 13 earlier ones."""
    Z, Y, X = image.shape
    v = image[z, y, x]
    for zz in range(max(0, z - 1), min(Z, z + 2)):
        for yy in range(max(0, y - 1), min(Y, y + 2)):
            row = image[zz, yy]
            earlier = zz < z or (zz == z and yy < y)
            for xx in range(max(0, x - 1), min(X, x + 2)):
                w = row[xx]
                if w > v or (w == v and (earlier or (zz == z and yy == y and xx < x))):
                    return False
    return True


@jit
def fill_column_maxima(
    columns: NDArray[Any], image: NDArray[Any], z: int, first_row: int, lowest: Any, reach: Reach
) -> None:
    """Maximum along z over the window around plane `z`, for the rows from `first_row` on; never below `lowest`."""
    Z, Y, _ = image.shape
    for y in range(first_row, Y):
        row = columns[y]
        row[:] = lowest
        for zz in range(max(0, z - reach[0]), min(Z, z + reach[1] + 1)):
            raise_row(row, image[zz, y])


@jit
def select_row_maxima(
    hits: NDArray[np.uint8],
    row: NDArray[Any],
    columns: NDArray[Any],
    y: int,
    line: NDArray[Any],
    lowest: Any,
    reach: Reach,
) -> None:
    """Mark the voxels of row `y` that reach the maximum of their window, given the maxima along z.

    `line` is the row of maxima along z and y with a margin of `lowest` on both sides.
    """
    X = row.size
    middle = line[reach[4] : reach[4] + X]
    middle[:] = lowest
    for yy in range(max(0, y - reach[2]), min(columns.shape[0], y + reach[3] + 1)):
        raise_row(middle, columns[yy])
    for i in range(X):
        hits[i] = np.uint8(row[i] >= lowest)
    for shift in range(line.size - X + 1):
        keep_not_below(hits, row, line[shift : shift + X])


@jit
def raise_row(row: NDArray[Any], other: NDArray[Any]) -> None:
    """Raise a row to the greater of itself and another."""
    for i in range(row.size):
        row[i] = other[i] if other[i] > row[i] else row[i]


@jit
def keep_not_below(hits: NDArray[np.uint8], row: NDArray[Any], other: NDArray[Any]) -> None:
    """Unmark the voxels of a row that are exceeded in another."""
    for i in range(hits.size):
        hits[i] &= np.uint8(not other[i] > row[i])


@jit
def join_plateaus(
    voxels: NDArray[np.int64], values: NDArray[Any], shape: tuple[int, int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group listed voxels that are 26-neighbours of equal value: starts of the groups, and the voxels in their order.

    Takes ascending flat indices. Groups are in the order of their first voxels, voxels inside a group ascending.
    Only the list is looked at: as it ascends, so do the places where earlier neighbours would stand, and one cursor
    for each of the four earlier rows moves through the list once.
    """
    _, Y, X = shape
    n = voxels.size
    parent = np.arange(n)
    cursors = np.zeros(4, np.int64)
    for i in range(n):
        p = voxels[i]
        x = p % X
        y = (p // X) % Y
        z = p // (X * Y)
        left, right = min(x, 1), min(X - 1 - x, 1)
        first = -left
        if left > 0 and i > 0 and voxels[i - 1] == p - 1 and values[i - 1] == values[i]:
            join(parent, i - 1, i)
            first = right  # the left neighbour has been joined to the others
        for k in range(4):
            dz = -1 if k < 3 else 0
            dy = k - 1 if k < 3 else -1
            if z + dz < 0 or y + dy < 0 or y + dy >= Y:
                continue
            middle = p + (dz * Y + dy) * X
            j = cursors[k]
            while voxels[j] < middle - left:
                j += 1
            cursors[k] = j
            while voxels[j] <= middle + right:
                if voxels[j] >= middle + first and values[j] == values[i]:
                    join(parent, j, i)
                j += 1
    return collect_groups(voxels, parent)


@jit
def join(parent: NDArray[np.int64], i: int, j: int) -> None:
    """Make two members of groups members of one group, whose root is its least member."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    while parent[j] != j:
        parent[j] = parent[parent[j]]
        j = parent[j]
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@jit
def collect_groups(voxels: NDArray[np.int64], parent: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort voxels by group, groups by their first voxels: starts of the groups, and the voxels. Uses up `parent`."""
    n = 0
    for i in range(voxels.size):
        # No parent comes later than its child, so by now it holds the number of its group.
        if parent[i] == i:
            parent[i] = n
            n += 1
        else:
            parent[i] = parent[parent[i]]
    starts = np.zeros(n + 1, np.int64)
    for i in range(voxels.size):
        starts[parent[i] + 1] += 1
    for i in range(n):
        starts[i + 1] += starts[i]
    place = starts[:-1].copy()
    ordered = np.empty(voxels.size, np.int64)
    for i in range(voxels.size):
        ordered[place[parent[i]]] = voxels[i]
        place[parent[i]] += 1
    return starts, ordered
