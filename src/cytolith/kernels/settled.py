"""Which of the shapes grown in a block of a volume are those of the whole volume, whatever lies outside.

A block has a trusted box, where values are right; everything else is the outside: beyond open faces nothing is known,
and in their margins values and seeds may be wrong. Some seeds inside are unsure as well.

The flood gives each voxel to the path of least key that leads to it from a seed, where the key of a path is
compared by its highest level so far, then by that of the path one voxel shorter, and so on, in the end by the order of
seeds; a path that begins at a voxel never has a greater key there than one that passes through. So two floods of the
trusted box tell what can happen:

known
    of the seeds that are sure alone, as if the outside were empty;
challenged
    of the same seeds and a challenger, which enters before all of them at every voxel that adjoins the outside and at
    all voxels of unsure seeds. Every path from the outside or from an unsure seed has an end inside the box that begins
    at such a voxel, so the challenger gets everything that the outside may ever take.

A voxel that the challenger does not get has the same label in both floods, and in the whole volume. A shape could only
grow beyond its voxels of the challenged flood by a path through the box to a voxel of the challenger, and that path
has the least key among the seeds that are sure: the voxel is of this shape in the known flood. So a seed that is
sure has the same shape in the block and in the volume if none of its voxels in the known flood is the challenger's.
Otherwise it is open.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.components import Runs, connect_runs
from cytolith.kernels.growth import grow_labels, run_at
from cytolith.kernels.jit import jit

Margins: TypeAlias = tuple[int, int, int, int, int, int]


def find_open(
    image: NDArray[Any],
    runs: Runs,
    component: NDArray[np.int32],
    n_components: int,
    starts: NDArray[np.int64],
    voxels: NDArray[np.int64],
    margins: Margins,
    open_seeds: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which labels may have another shape in the whole volume.

    Parameters
    ----------
    image
        As `cytolith.kernels.components.as_image` returns it.
    runs, component, n_components
        The mask and the 6-connected component of each run.
    starts, voxels, margins, open_seeds
        As `cytolith.kernels.watershed.grow_shapes` has checked them.

    Returns
    -------
    ndarray
        bool, one entry a seed. A seed without a voxel of its own in the mask is open when it is unsure, lists a voxel
        in a margin, or would have one if an unsure seed were missing.
    """
    unsure = open_seeds.copy()
    if not any(margins) and not unsure.any():
        return unsure
    near, far = np.array(margins[::2]), np.array(margins[1::2])
    trusted = np.stack([np.maximum(near - 1, 0), runs.shape - np.maximum(far - 1, 0)])  # its two corners
    inner = np.stack([near, runs.shape - far])  # what does not adjoin the outside
    seed = np.repeat(np.arange(len(unsure)), np.diff(starts))
    _, Y, X = runs.shape
    position = voxels // (Y * X), voxels // X % Y, voxels % X
    for axis in range(3):
        unsure[seed[(position[axis] < trusted[0, axis]) | (position[axis] >= trusted[1, axis])]] = True
    is_unsure = unsure[seed]
    touched = np.zeros(n_components, np.bool_)
    _touch_outside(Y, runs.row_start, runs.start, runs.stop, component, inner, touched)
    _touch_seeds(X, runs.row_start, runs.start, runs.stop, component, voxels[is_unsure], touched)
    part = _clip_runs(runs, component, touched, trusted)
    if part.n_voxels == 0:
        return unsure
    adjoining = _adjoining_voxels(Y, X, part.row_start, part.start, part.stop, inner)
    challenger = np.concatenate([adjoining, voxels[is_unsure]])
    sure_voxels = voxels[~is_unsure]
    sure_starts = np.concatenate([[0], np.cumsum(np.where(unsure, 0, np.diff(starts)))])
    pieces, n_pieces = connect_runs(part, 6)
    known = grow_labels(image, part, pieces, n_pieces, sure_starts, sure_voxels)
    challenged = grow_labels(
        image,
        part,
        pieces,
        n_pieces,
        np.concatenate([[0], sure_starts + len(challenger)]),
        np.concatenate([challenger, sure_voxels]),
    )
    _open_challenged(known, challenged, unsure)
    return unsure


def _clip_runs(
    runs: Runs, component: NDArray[np.int32], touched: NDArray[np.bool_], trusted: NDArray[np.int64]
) -> Runs:
    """Return what the trusted box holds of the components touched, as a mask of the same image."""
    Z, Y, _ = runs.shape
    row_start = np.empty(Z * Y + 1, np.int64)
    start, stop = np.empty(runs.n_runs, np.int32), np.empty(runs.n_runs, np.int32)
    n = _cut_runs(Y, runs.row_start, runs.start, runs.stop, component, touched, trusted, row_start, start, stop)
    start, stop = start[:n], stop[:n]
    offset = np.zeros(n + 1, np.int64)
    np.cumsum(stop - start, dtype=np.int64, out=offset[1:])
    return Runs(runs.shape, row_start, start, stop, offset)


@jit
def _touch_outside(
    Y: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    component: NDArray[np.int32],
    inner: NDArray[np.int64],
    touched: NDArray[np.bool_],
) -> None:
    """Mark the components that are not all in the inner box."""
    (z0, y0, x0), (z1, y1, x1) = inner
    for row in range(row_start.size - 1):
        z = row // Y
        y = row - z * Y
        inside = z0 <= z < z1 and y0 <= y < y1
        for r in range(row_start[row], row_start[row + 1]):
            if not inside or start[r] < x0 or stop[r] > x1:
                touched[component[r]] = True


@jit
def _touch_seeds(
    X: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    component: NDArray[np.int32],
    voxels: NDArray[np.int64],
    touched: NDArray[np.bool_],
) -> None:
    """Mark the components that hold one of the voxels."""
    for v in voxels:
        row = v // X
        r = run_at(row_start, start, stop, row, v - row * X)
        if r >= 0:
            touched[component[r]] = True


@jit
def _cut_runs(
    Y: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    component: NDArray[np.int32],
    touched: NDArray[np.bool_],
    trusted: NDArray[np.int64],
    part_row_start: NDArray[np.int64],
    part_start: NDArray[np.int32],
    part_stop: NDArray[np.int32],
) -> int:
    """Write the runs of the components touched, cut to the trusted box; returns their number."""
    (z0, y0, x0), (z1, y1, x1) = trusted
    n = 0
    for row in range(row_start.size - 1):
        part_row_start[row] = n
        z = row // Y
        y = row - z * Y
        if not (z0 <= z < z1 and y0 <= y < y1):
            continue
        for r in range(row_start[row], row_start[row + 1]):
            first, behind = max(np.int64(start[r]), x0), min(np.int64(stop[r]), x1)
            if touched[component[r]] and first < behind:
                part_start[n], part_stop[n] = first, behind
                n += 1
    part_row_start[row_start.size - 1] = n
    return n


@jit
def _adjoining_voxels(
    Y: int,
    X: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    inner: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Flat indices of the voxels that are not in the inner box."""
    (z0, y0, x0), (z1, y1, x1) = inner
    found = np.empty(0, np.int64)
    for fill in (False, True):
        n = 0
        for row in range(row_start.size - 1):
            z = row // Y
            y = row - z * Y
            inside = z0 <= z < z1 and y0 <= y < y1
            for r in range(row_start[row], row_start[row + 1]):
                if inside and start[r] >= x0 and stop[r] <= x1:
                    continue
                for x in range(start[r], stop[r]):
                    if not inside or x < x0 or x >= x1:
                        if fill:
                            found[n] = row * X + x
                        n += 1
        if not fill:
            found = np.empty(n, np.int64)
    return found


@jit
def _open_challenged(known: NDArray[np.int32], challenged: NDArray[np.int32], is_open: NDArray[np.bool_]) -> None:
    """Mark the known labels of the voxels that the challenger, label 1, gets."""
    for v in range(known.size):
        if challenged[v] == 1 and known[v] > 0:
            is_open[known[v] - 1] = True
