"""Labels of a mask grown from seeds: what `cytolith.kernels.watershed` does, on a mask given as runs.

Components do not influence each other: one without a seed is left out, one with a single seed is its shape as it is,
and only those with several are flooded (`cytolith.kernels.flood`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.components import Runs
from cytolith.kernels.flood import SeedVoxels, flood_components
from cytolith.kernels.jit import jit, jit_inline


def grow_labels(
    image: NDArray[Any],
    runs: Runs,
    component: NDArray[np.int32],
    n_components: int,
    starts: NDArray[np.int64],
    voxels: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Labels of the mask voxels, by the rule of `cytolith.kernels.watershed.grow_shapes`.

    Parameters
    ----------
    image
        As `cytolith.kernels.components.as_image` returns it.
    runs, component, n_components
        The mask and the 6-connected component of each run.
    starts, voxels
        Seed i is ``voxels[starts[i]:starts[i + 1]]``, flat indices into the image, and has label i + 1.

    Returns
    -------
    ndarray
        int32, one entry a mask voxel; 0 where no seed is in the component.

    Raises
    ------
    ValueError
        See `cytolith.kernels.flood.flood_components`.
    """
    labels = np.zeros(runs.n_voxels, np.int32)
    owner = np.zeros(n_components, np.int32)  # the only label of a component, 0: none, -1: several
    seeds = SeedVoxels(
        np.empty(len(voxels), np.int64), np.empty(len(voxels), np.int64), np.empty(len(voxels), np.int32)
    )
    n_seeds = _claim_seeds(
        runs.shape[2], runs.row_start, runs.start, runs.stop, runs.offset, component, starts, voxels, labels, owner,
        seeds.run, seeds.voxel, seeds.label,
    )  # fmt: skip
    seeds = SeedVoxels(seeds.run[:n_seeds], seeds.voxel[:n_seeds], seeds.label[:n_seeds])
    crowd = np.where(owner < 0, np.cumsum(owner < 0, dtype=np.int32) - 1, np.int32(-1)).astype(np.int32)
    n_crowds = int(crowd.max(initial=-1)) + 1
    if n_crowds:
        flood_components(image, runs, component, crowd, n_crowds, seeds, labels)
    _fill_components(runs.offset, component, owner, labels)
    return labels


@jit_inline
def run_at(row_start: Any, start: Any, stop: Any, row: Any, x: Any) -> Any:
    """Return the run that holds a voxel, or -1."""
    low, high = row_start[row], row_start[row + 1]  # bisect for the last run that starts at or before x
    while low < high:
        middle = (low + high) >> 1
        if start[middle] <= x:
            low = middle + 1
        else:
            high = middle
    r = low - 1
    return r if r >= row_start[row] and x < stop[r] else -1


@jit
def _claim_seeds(
    X: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    offset: NDArray[np.int64],
    component: NDArray[np.int32],
    seed_starts: NDArray[np.int64],
    seed_voxels: NDArray[np.int64],
    labels: NDArray[np.int32],
    owner: NDArray[np.int32],
    run: NDArray[np.int64],
    voxel: NDArray[np.int64],
    label: NDArray[np.int32],
) -> int:
    """Label the seed voxels inside the mask, the first seed first, and list them; returns their number."""
    n = 0
    for i in range(seed_starts.size - 1):
        for j in range(seed_starts[i], seed_starts[i + 1]):
            row = seed_voxels[j] // X
            x = seed_voxels[j] - row * X
            r = run_at(row_start, start, stop, row, x)
            if r < 0:
                continue
            k = offset[r] + x - start[r]
            if labels[k] != 0:
                continue
            labels[k] = i + 1
            run[n], voxel[n], label[n] = r, k, i + 1
            n += 1
            c = component[r]
            if owner[c] == 0:
                owner[c] = i + 1
            elif owner[c] != i + 1:
                owner[c] = -1
    return n


@jit
def _fill_components(
    offset: NDArray[np.int64],
    component: NDArray[np.int32],
    owner: NDArray[np.int32],
    labels: NDArray[np.int32],
) -> None:
    """Label the components that have one owner."""
    for r in range(component.size):
        label = owner[component[r]]
        if label > 0:
            labels[offset[r] : offset[r + 1]] = label
