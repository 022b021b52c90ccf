"""Every threshold at once: precision and recall as detections enter one by one, the highest first.

A set of detections can all be paired with annotations, or it cannot. Taking the detections from the highest to the
lowest and keeping each that can still be paired gives, for every threshold, a largest set that can: the sets that can
be paired are the independent sets of a transversal matroid, on which greed is exact. So one pass gives the number of
pairs that a matching at each single threshold would find.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from cytolith.axes import VoxelSize


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a falling threshold finds.

    Attributes
    ----------
    paired : bool (n,)
        Whether a detection gets an annotation once it enters. It keeps having one as the threshold falls.
    found_at : float64 (m,)
        Height of the detection with whose entry an annotation is found; minus infinity where none finds it.
    """

    paired: NDArray[np.bool_]
    found_at: NDArray[np.float64]


def sweep(
    detections: ArrayLike,
    heights: ArrayLike,
    truth: ArrayLike,
    tolerance: float,
    voxel_size: VoxelSize = (1.0, 1.0, 1.0),
) -> Sweep:
    """Pair detections with annotated positions as a threshold on their heights falls.

    At a threshold t the detections with ``heights >= t`` are there, of which ``paired`` have an annotation. Their
    number is that of :func:`cytolith.score.match.match` for these detections, at every t.

    Parameters
    ----------
    detections, truth : array_like of shape (n, 3) and (m, 3)
        Positions (z, y, x) in voxels.
    heights : array_like of shape (n,)
        Height of each detection.
    tolerance : float
        Largest distance of a pair, inclusive, in the units of `voxel_size`.
    voxel_size : tuple of float
        Edges (z, y, x) of a voxel.

    Returns
    -------
    Sweep
        In the order of what was given.

    Notes
    -----
    An augmenting path (Berge 1957) is looked for from each detection; most find a free annotation at once.

    Examples
    --------
    >>> result = sweep([[0, 0, 0], [0, 0, 2], [9, 9, 9]], [3.0, 5.0, 4.0], [[0, 0, 1]], 1.5)
    >>> result.paired.tolist(), result.found_at.tolist()
    ([False, True, False], [5.0])
    """
    edges = np.asarray(voxel_size, np.float64)
    found = np.asarray(detections, np.float64).reshape(-1, 3) * edges
    real = np.asarray(truth, np.float64).reshape(-1, 3) * edges
    height = np.asarray(heights, np.float64)
    paired = np.zeros(len(found), bool)
    found_at = np.full(len(real), -np.inf)
    if not len(found) or not len(real):
        return Sweep(paired, found_at)
    near = _near(found, real, tolerance)
    owner: dict[int, int] = {}
    for detection in np.argsort(-height, kind="stable").tolist():
        end = _augment(detection, near, owner)
        if end >= 0:
            paired[detection] = True
            found_at[end] = height[detection]
    return Sweep(paired, found_at)


def _near(found: NDArray[np.float64], real: NDArray[np.float64], tolerance: float) -> dict[int, list[int]]:
    """Annotations within tolerance of each detection that has any, the nearest first."""
    pairs = cKDTree(found).sparse_distance_matrix(cKDTree(real), tolerance * (1 + 1e-9), output_type="ndarray")
    rows, columns = pairs["i"], pairs["j"]
    distance = np.sqrt(((found[rows] - real[columns]) ** 2).sum(1))
    order = np.lexsort((columns, distance, rows))
    order = order[distance[order] <= tolerance]
    near: dict[int, list[int]] = {}
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        near.setdefault(row, []).append(column)
    return near


def _augment(first: int, near: dict[int, list[int]], owner: dict[int, int]) -> int:
    """Give a detection an annotation, moving others if need be; the annotation that is new, -1 when there is none."""
    came_from: dict[int, int] = {}  # the detection from which an annotation was reached
    held: dict[int, int] = {}  # the annotation that a detection on the way gives up
    queue = deque([first])
    while queue:
        detection = queue.popleft()
        for annotation in near.get(detection, ()):
            if annotation in came_from:
                continue
            came_from[annotation] = detection
            if annotation in owner:
                held[owner[annotation]] = annotation
                queue.append(owner[annotation])
                continue
            place = annotation
            while True:
                taker = came_from[place]
                owner[place] = taker
                if taker == first:
                    return annotation
                place = held[taker]
    return -1
