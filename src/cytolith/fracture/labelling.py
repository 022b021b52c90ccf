"""Connected components of a volume of any size, slab by slab.

Numbered passes::

    pass 1   every slab: runs, components, their measures; slabs are joined where they touch, in order of z
    between  one table of whole clusters, and for each slab which whole each of its components belongs to
    pass 2   every slab again: the same runs and components, now with what became of them

Nothing of the size of the volume is kept: a few planes while a slab is at work, the runs of one plane between slabs,
and the measures of components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.clusters import Face, face_of, join_faces, measure_components, merge_components
from cytolith.kernels.components import Runs, connect_runs, mask_runs

_FOLD_AT = 1 << 15
"""Parts of clusters from which those that were joined are made one."""


@dataclass(frozen=True, eq=False)
class Slab:
    """Components of a few whole planes.

    Attributes
    ----------
    size, box, sums
        Measures of each component; see :func:`cytolith.kernels.clusters.measure_components`.
    first, last
        Runs of the first and the last plane.
    """

    size: NDArray[np.int64]
    box: NDArray[np.int32]
    sums: NDArray[np.int64]
    first: Face
    last: Face


@dataclass(frozen=True, eq=False)
class SlabRuns:
    """Runs of a slab and the component of each, numbered by their first voxels."""

    runs: Runs
    component: NDArray[np.int32]
    count: int


@dataclass(frozen=True, eq=False)
class Clusters:
    """Connected clusters of a volume, in the order of their first voxels in (z, y, x).

    Attributes
    ----------
    size
        int64, (n,): voxels.
    box
        int32, (n, 6): z0, y0, x0, z1, y1, x1, half-open.
    sums
        int64, (n, 3): sums of z, y, x over the voxels.
    """

    size: NDArray[np.int64]
    box: NDArray[np.int32]
    sums: NDArray[np.int64]
    _of_slabs: list[NDArray[np.int64]]

    def of_slab(self, index: int) -> NDArray[np.int64]:
        """Cluster of each component of a slab."""
        return self._of_slabs[index]


def runs_of_slab(
    image: NDArray[Any], connectivity: int = 26, *, level: float = 0, most_runs: int | None = None
) -> SlabRuns:
    """Runs and components of the mask ``image > level`` of a slab (Z, Y, X).

    Raises
    ------
    TooManyRunsError
        There are more than `most_runs`.
    """
    runs = mask_runs(image, level, most_runs=most_runs)
    component, count = connect_runs(runs, connectivity)
    return SlabRuns(runs, component, count)


def label_slab(image: NDArray[Any], z: int, connectivity: int = 26) -> Slab:
    """Measured components of the mask ``image > 0`` of a slab (Z, Y, X) that begins with plane `z`."""
    return measure_slab(runs_of_slab(image, connectivity), z)


def measure_slab(slab: SlabRuns, z: int) -> Slab:
    """Measured components of a slab that begins with plane `z`."""
    runs, component = slab.runs, slab.component
    size, box, sums = measure_components(runs, component, slab.count, z)
    return Slab(size, box, sums, face_of(runs, component, 0), face_of(runs, component, runs.shape[0] - 1))


class Labelling:
    """Joins slabs, added in order of z without gaps, into clusters of the whole volume."""

    def __init__(self, connectivity: int = 26) -> None:
        self._connectivity = connectivity
        self._sizes: list[NDArray[np.int64]] = []
        self._boxes: list[NDArray[np.int32]] = []
        self._sums: list[NDArray[np.int64]] = []
        self._parent = np.empty(1024, np.int64)
        self._of_slabs: list[NDArray[np.int64]] = []
        self._last: Face | None = None
        self._parts = 0
        self._fold_at = _FOLD_AT

    @property
    def parts(self) -> int:
        """Clusters so far, some of them still in several parts: what memory grows with."""
        return self._parts

    def add(self, slab: Slab) -> None:
        """Add the next slab."""
        end = self._parts + len(slab.size)
        if end > len(self._parent):
            self._parent = np.resize(self._parent, max(end, 2 * len(self._parent)))
        parts = np.arange(self._parts, end)
        self._parent[self._parts : end] = parts
        if self._last is not None:
            join_faces(self._last, slab.first, self._of_slabs[-1], parts, self._connectivity, self._parent)
        self._sizes.append(slab.size)
        self._boxes.append(slab.box)
        self._sums.append(slab.sums)
        self._of_slabs.append(parts)
        self._last = slab.last
        self._parts = end
        if end >= self._fold_at:
            self._fold()

    def finish(self) -> Clusters:
        """Clusters of all slabs; nothing can be added after it."""
        self._fold()
        self._parent = np.empty(0, np.int64)
        return Clusters(self._sizes[0], self._boxes[0], self._sums[0], self._of_slabs)

    def _fold(self) -> None:
        """Make one of parts that were joined. Done whenever parts have doubled, so that it costs little in all."""
        parent = self._parent[: self._parts]
        size, box, sums = _joined(self._sizes, ()), _joined(self._boxes, (6,)), _joined(self._sums, (3,))
        self._parts = merge_components(parent, size, box, sums)
        for measure in (size, box, sums):  # what joined parts took is given back without a copy
            measure.resize((self._parts, *measure.shape[1:]), refcheck=False)
        self._sizes, self._boxes, self._sums = [size], [box], [sums]
        for parts in self._of_slabs:
            parts[:] = parent[parts]
        self._parent[: self._parts] = np.arange(self._parts)
        self._fold_at = max(_FOLD_AT, 2 * self._parts)


def _joined(parts: list[NDArray[Any]], tail: tuple[int, ...]) -> NDArray[Any]:
    """Arrays of slabs end to end; the list is emptied, so that both are in memory for one measure at a time."""
    joined = np.concatenate(parts) if parts else np.empty((0, *tail), np.int64)
    parts.clear()
    return joined
