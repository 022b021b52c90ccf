"""Detections against annotated positions: one-to-one pairs within a distance, precision, recall and F1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from cytolith.axes import VoxelSize
from cytolith.errors import ConfigError
from cytolith.score.assignment import assign

_MOST_CANDIDATES = 50_000_000  # pairs within tolerance that may be listed: 2 GB


@dataclass(frozen=True)
class Matching:
    """Which detection is which annotation.

    Attributes
    ----------
    pairs : int64 ndarray of shape (n, 2)
        Row of the detection and row of the annotation of each pair, sorted.
    distances : float64 ndarray of shape (n,)
        Distance of each pair, in the units of the voxel size.
    detections, annotations : int
        How many there were of each.
    """

    pairs: NDArray[np.int64]
    distances: NDArray[np.float64]
    detections: int
    annotations: int

    @property
    def true_positives(self) -> int:
        """Detections with an annotation."""
        return len(self.pairs)

    @property
    def false_positives(self) -> int:
        """Detections without an annotation."""
        return self.detections - len(self.pairs)

    @property
    def false_negatives(self) -> int:
        """Annotations without a detection."""
        return self.annotations - len(self.pairs)

    @property
    def precision(self) -> float:
        """Share of the detections that are right; without detections 1 when there is nothing to detect, else 0."""
        return self._share(self.detections)

    @property
    def recall(self) -> float:
        """Share of the annotations that are found; without annotations 1 when nothing is detected, else 0."""
        return self._share(self.annotations)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 when both sets are empty, 0 when one is."""
        if self.detections + self.annotations == 0:
            return 1.0
        return 2 * len(self.pairs) / (self.detections + self.annotations)

    def _share(self, whole: int) -> float:
        if whole:
            return len(self.pairs) / whole
        return 1.0 if self.detections + self.annotations == 0 else 0.0


def match(
    detections: ArrayLike,
    truth: ArrayLike,
    tolerance: float,
    voxel_size: VoxelSize = (1.0, 1.0, 1.0),
) -> Matching:
    """Pair detections with annotated positions one to one, no pair further apart than `tolerance`.

    Of all ways to do so the one with the most pairs is taken, and of those the one with the smallest sum of distances,
    exactly.

    Parameters
    ----------
    detections, truth : array_like of shape (n, 3) and (m, 3)
        Positions (z, y, x) in voxels; either may be empty.
    tolerance : float
        Largest distance of a pair, inclusive, in the units of `voxel_size`.
    voxel_size : tuple of float
        Edges (z, y, x) of a voxel, in micrometres for a tolerance in micrometres. Default: distances in voxels.

    Returns
    -------
    Matching
        Pairs, their distances, precision, recall and F1.

    Raises
    ------
    ConfigError
        A tolerance or voxel size that is no such number, or a tolerance so large that it links nearly everything.
    ValueError
        Positions of another shape, or not finite.

    Notes
    -----
    Candidates come from a k-d tree, pairs from :func:`cytolith.score.assignment.assign`. With a tolerance below the
    spacing of the cells the time grows with their number; far above it a match says little, and takes long.

    Examples
    --------
    >>> result = match([[0, 0, 0], [5, 5, 5]], [[0, 0, 1], [9, 9, 9]], tolerance=2)
    >>> result.pairs.tolist(), result.precision, result.recall, result.f1
    ([[0, 0]], 0.5, 0.5, 0.5)
    """
    if not (isinstance(tolerance, (int, float, np.number)) and math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"tolerance {tolerance!r}: give a distance from 0")
    edges = np.asarray(voxel_size, np.float64)
    if edges.shape != (3,) or not (np.isfinite(edges) & (edges > 0)).all():
        raise ConfigError(f"voxel_size {voxel_size!r}: give three positive numbers (z, y, x)")
    found, real = _scaled(detections, "detections", edges), _scaled(truth, "truth", edges)
    if not len(found) or not len(real):
        return Matching(np.empty((0, 2), np.int64), np.empty(0), len(found), len(real))

    # the fewer ones choose: nearly all of them find a free partner close by
    swapped = len(found) > len(real)
    few, many = (real, found) if swapped else (found, real)
    rows, columns, distances = _candidates(few, many, float(tolerance))
    column_of = assign(np.searchsorted(rows, np.arange(len(few) + 1)), columns, distances, len(many))
    chosen = column_of[rows] == columns
    pairs, distances = np.stack([rows[chosen], columns[chosen]], axis=1), distances[chosen]
    if swapped:
        order = np.argsort(pairs[:, 1])
        pairs, distances = np.ascontiguousarray(pairs[order, ::-1]), distances[order]
    return Matching(pairs, distances, len(found), len(real))


def _scaled(positions: ArrayLike, name: str, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    points = np.asarray(positions, np.float64)
    if points.size == 0:
        points = points.reshape(0, 3)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name} has the shape {points.shape}: give (n, 3), one z, y, x a row")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} has positions that are not finite")
    scaled: NDArray[np.float64] = points * edges
    return scaled


def _candidates(
    few: NDArray[np.float64], many: NDArray[np.float64], tolerance: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Rows, columns and distances of all pairs within tolerance, sorted by row and column."""
    trees = cKDTree(few), cKDTree(many)
    # the trees round differently from the plain formula: ask for a hair more, then decide by the formula alone
    reach = tolerance * (1 + 1e-9) + np.finfo(float).tiny
    count = int(trees[0].count_neighbors(trees[1], reach))
    if count > _MOST_CANDIDATES:
        raise ConfigError(
            f"tolerance {tolerance:g}: {count:,} pairs are that close, {count // len(few):,} for each point; "
            "give a distance below the spacing of the cells"
        )
    near = trees[0].sparse_distance_matrix(trees[1], reach, output_type="ndarray")
    rows, columns = near["i"].astype(np.int64), near["j"].astype(np.int64)
    distances = np.sqrt(((few[rows] - many[columns]) ** 2).sum(axis=1))
    order = np.lexsort((columns, rows))
    order = order[distances[order] <= tolerance]
    return rows[order], columns[order], distances[order]
