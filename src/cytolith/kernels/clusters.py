"""Connected components that go on from slab to slab: what a slab knows of its own, and how neighbours are joined.

A slab is a few whole planes. Its components are measured and forgotten; only the runs of its first and last plane stay,
because the slabs above and below may touch them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.components import Runs, connect_runs, mask_runs
from cytolith.kernels.jit import jit, jit_inline


@dataclass(frozen=True, eq=False)
class Face:
    """Runs of one plane and the component that each belongs to.

    Attributes
    ----------
    row_start
        int64, (Y + 1,): index of the first run of each row.
    start, stop, component
        int32, (n_runs,).
    """

    row_start: NDArray[np.int64]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    component: NDArray[np.int32]


def face_of(runs: Runs, component: NDArray[np.int32], z: int) -> Face:
    """Runs of plane `z` of a slab, as a copy that keeps nothing else of the slab alive."""
    rows = runs.row_start[z * runs.shape[1] : (z + 1) * runs.shape[1] + 1]
    part = slice(int(rows[0]), int(rows[-1]))
    return Face(rows - rows[0], runs.start[part].copy(), runs.stop[part].copy(), component[part].copy())


def measure_components(
    runs: Runs, component: NDArray[np.int32], count: int, z: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Size, box and sum of coordinates of each component.

    Parameters
    ----------
    runs
        The mask of a slab.
    component
        int32, (n_runs,): component of each run, 0 ... count - 1.
    count
        Number of components.
    z
        Plane of the volume that the slab begins with.

    Returns
    -------
    size
        int64, (count,): voxels.
    box
        int32, (count, 6): z0, y0, x0, z1, y1, x1, half-open, in the volume.
    sums
        int64, (count, 3): sums of z, y, x over the voxels, exact.
    """
    size = np.zeros(count, np.int64)
    box = np.empty((count, 6), np.int32)
    sums = np.zeros((count, 3), np.int64)
    Z, Y, _ = runs.shape
    _measure(Z, Y, z, runs.row_start, runs.start, runs.stop, component, size, box, sums)
    return size, box, sums


def join_faces(
    above: Face,
    below: Face,
    above_parts: NDArray[np.int64],
    below_parts: NDArray[np.int64],
    connectivity: int,
    parent: NDArray[np.int64],
) -> None:
    """Join the components of two planes that lie on each other, in a union-find over all slabs.

    Parameters
    ----------
    above, below
        Last plane of one slab and first plane of the next.
    above_parts, below_parts
        int64: where each component of either slab is found in `parent`.
    connectivity
        6, 18 or 26.
    parent
        int64: the union-find; changed in place. The root of a tree is its smallest entry.
    """
    _join_faces(
        above.row_start, above.start, above.stop, above.component, above_parts,
        below.row_start, below.start, below.stop, below.component, below_parts,
        connectivity, parent,
    )  # fmt: skip


def merge_components(
    parent: NDArray[np.int64], size: NDArray[np.int64], box: NDArray[np.int32], sums: NDArray[np.int64]
) -> int:
    """Fold the measures of joined components into their roots and number the roots in order.

    All arrays have one entry a component of a slab and are changed in place: `parent` becomes the number
    0 ... count - 1 of the whole that a component belongs to, and the measures of the wholes lie in the first `count`
    entries of the others. Returns count.
    """
    return int(_merge(parent, size, box, sums))


def paint_runs(runs: Runs, values: NDArray[Any], out: NDArray[Any]) -> None:
    """Image of a mask in which each run has its value.

    Parameters
    ----------
    runs
        The mask.
    values
        (n_runs,), of the dtype of `out`.
    out
        (Z, Y, X), C-contiguous; all of it is written, with 0 outside the runs.
    """
    Z, Y, X = runs.shape
    if out.shape != runs.shape or not out.flags.c_contiguous:
        raise ValueError(f"out: C-contiguous {runs.shape} needed, {out.shape} given")
    _paint(runs.row_start, runs.start, runs.stop, np.asarray(values, out.dtype), out.reshape(Z * Y, X))


def label_cells(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Labels of a map: 4-connected components, as ``scipy.ndimage.label`` numbers them.

    Parameters
    ----------
    mask
        bool, (rows, columns).

    Returns
    -------
    labels
        int32, (rows, columns): 0 outside the mask, else 1 ... count.
    count
        Number of components.
    """
    rows = np.ascontiguousarray(mask)[:, np.newaxis, :]  # rows as planes: 6-connected there is 4-connected here
    runs = mask_runs(rows, 0)
    component, count = connect_runs(runs, 6)
    labels = np.empty(rows.shape, np.int32)
    paint_runs(runs, component + np.int32(1), labels)
    return labels[:, 0, :], count


@jit
def _measure(
    Z: int,
    Y: int,
    z0: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    component: NDArray[np.int32],
    size: NDArray[np.int64],
    box: NDArray[np.int32],
    sums: NDArray[np.int64],
) -> None:
    for z in range(Z):
        for y in range(Y):
            row = z * Y + y
            for r in range(row_start[row], row_start[row + 1]):
                c = component[r]
                a, b = np.int64(start[r]), np.int64(stop[r])
                n = b - a
                if size[c] == 0:
                    box[c, 0], box[c, 1], box[c, 2] = z0 + z, y, a
                    box[c, 3], box[c, 4], box[c, 5] = z0 + z + 1, y + 1, b
                else:  # runs come in the order of z, so the first plane is known
                    box[c, 1] = min(box[c, 1], y)
                    box[c, 2] = min(box[c, 2], a)
                    box[c, 3] = z0 + z + 1
                    box[c, 4] = max(box[c, 4], y + 1)
                    box[c, 5] = max(box[c, 5], b)
                size[c] += n
                sums[c, 0] += (z0 + z) * n
                sums[c, 1] += y * n
                sums[c, 2] += (a + b - 1) * n // 2


@jit_inline
def _root(parent: NDArray[np.int64], item: int) -> int:
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@jit
def _join_faces(
    a_rows: NDArray[np.int64],
    a_start: NDArray[np.int32],
    a_stop: NDArray[np.int32],
    a_component: NDArray[np.int32],
    a_parts: NDArray[np.int64],
    b_rows: NDArray[np.int64],
    b_start: NDArray[np.int32],
    b_stop: NDArray[np.int32],
    b_component: NDArray[np.int32],
    b_parts: NDArray[np.int64],
    connectivity: int,
    parent: NDArray[np.int64],
) -> None:
    Y = b_rows.size - 1
    for y in range(Y):
        if b_rows[y] == b_rows[y + 1]:
            continue
        for dy in range(-1, 2):
            if y + dy < 0 or y + dy >= Y or (dy != 0 and connectivity == 6):
                continue
            slack = 0  # how far apart along x runs may be and still touch
            if (dy == 0 and connectivity >= 18) or connectivity == 26:
                slack = 1
            a, a_end = a_rows[y + dy], a_rows[y + dy + 1]
            b, b_end = b_rows[y], b_rows[y + 1]
            while a < a_end and b < b_end:
                if a_stop[a] + slack <= b_start[b]:
                    a += 1
                elif b_stop[b] + slack <= a_start[a]:
                    b += 1
                else:
                    s = _root(parent, a_parts[a_component[a]])
                    t = _root(parent, b_parts[b_component[b]])
                    if s < t:
                        parent[t] = s
                    elif t < s:
                        parent[s] = t
                    if a_stop[a] < b_stop[b]:
                        a += 1
                    else:
                        b += 1


@jit
def _merge(parent: NDArray[np.int64], size: NDArray[np.int64], box: NDArray[np.int32], sums: NDArray[np.int64]) -> int:
    count = 0
    for i in range(parent.size):
        if parent[i] == i:  # a root; its number is not larger than its place, so nothing unread is overwritten
            n = count
            count += 1
            if n != i:
                size[n] = size[i]
                for k in range(6):
                    box[n, k] = box[i, k]
                for k in range(3):
                    sums[n, k] = sums[i, k]
            parent[i] = n
        else:  # the parent comes earlier, so it already holds the number of its whole
            n = parent[parent[i]]
            parent[i] = n
            size[n] += size[i]
            for k in range(3):
                box[n, k] = min(box[n, k], box[i, k])
                box[n, k + 3] = max(box[n, k + 3], box[i, k + 3])
                sums[n, k] += sums[i, k]
    return count


@jit
def _paint(
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    values: NDArray[Any],
    rows: NDArray[Any],
) -> None:
    for row in range(rows.shape[0]):
        rows[row, :] = 0
        for r in range(row_start[row], row_start[row + 1]):
            value = values[r]
            if value != 0:
                rows[row, start[r] : stop[r]] = value
