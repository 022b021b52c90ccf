"""The passes over a volume: slabs on workers, folded in order into clusters, maps and stacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_shape
from cytolith.engine.grid import Block
from cytolith.engine.old_run import Listener, iter_blocks
from cytolith.engine.workspace import Workspace
from cytolith.errors import MemoryBudgetError, VolumeError
from cytolith.fracture.labelling import Clusters, Labelling, Slab, SlabRuns, measure_slab, runs_of_slab
from cytolith.fracture.plan import CLUSTER_BYTES, RUN_BYTES, SlabPlan
from cytolith.fracture.source import Source
from cytolith.io.row_file import RowFile
from cytolith.kernels.clusters import paint_runs
from cytolith.kernels.components import Runs, TooManyRunsError
from cytolith.kernels.projection import project_runs
from cytolith.quantities import format_bytes


class Writer(Protocol):
    """What takes boxes of voxels from several threads: a sink, or an array behind the same method."""

    def write(self, region: Region, array: NDArray[Any]) -> None:
        """Take one box."""


@dataclass(frozen=True, eq=False)
class Painting:
    """A stack to be written: the value of each cluster, and where it goes."""

    values: NDArray[Any]
    """(number of clusters,), in the order of their first voxels."""
    writer: Writer


class Maps:
    """Aperture and first index along an axis, gathered slab by slab in row files."""

    def __init__(self, axis: str, aperture: RowFile, first: RowFile) -> None:
        self.axis = axis
        self.aperture = aperture
        self.first = first
        self._lock = threading.Lock()
        self._whole: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
        if axis == "z":  # every slab adds to every cell
            self._whole = np.zeros(aperture.shape, np.int32), np.full(aperture.shape, -1, np.int32)

    @staticmethod
    def fixed_bytes(shape: Shape, axis: str) -> int:
        """Memory that maps take for the whole run."""
        return 8 * shape[1] * shape[2] if axis == "z" else 0

    def add(self, runs: Runs, values: NDArray[np.uint8], z: int) -> None:
        """Add the runs of a slab whose value is not 0."""
        if self._whole is not None:
            with self._lock:
                project_runs(runs, values, self.axis, z, *self._whole)
            return
        shape = runs.shape[0], self.aperture.shape[1]
        aperture, first = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
        project_runs(runs, values, self.axis, z, aperture, first)
        self.aperture.write(z, aperture)
        self.first.write(z, first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.aperture.remove()
        self.first.remove()

    def finish(self) -> None:
        """Write what was held back."""
        if self._whole is not None:
            self.aperture.write(0, self._whole[0])
            self.first.write(0, self._whole[1])
            self._whole = None


@dataclass
class Passes:
    """A volume and how it is gone over."""

    source: Source
    slabs: SlabPlan
    executor: Executor
    connectivity: int = 26
    listener: Listener = lambda _: None
    _local: threading.local = field(default_factory=threading.local)
    _voxels: list[int] = field(default_factory=list)
    """Voxels of each slab that the first pass found."""

    def find(self, maps: Maps | None = None) -> Clusters:
        """Clusters of the volume, and its maps when all clusters count.

        Raises
        ------
        MemoryBudgetError
            There are more clusters than the memory holds; estimates what they would need.
        """

        def task(block: Block) -> list[Slab]:
            found = []
            for z, slab in self._slabs_of(block):
                if maps is not None:
                    maps.add(slab.runs, np.ones(slab.runs.n_runs, np.uint8), z)
                found.append(measure_slab(slab, z))
            return found

        labelling = Labelling(self.connectivity)
        self._voxels.clear()
        blocks = iter(self.slabs.plan.blocks)
        for slabs in iter_blocks(task, self.slabs.plan, self.executor, self.listener, "clusters"):
            end = next(blocks).core[0].stop
            for slab in slabs:
                labelling.add(slab)
                self._voxels.append(int(slab.size.sum()))
            if labelling.parts * CLUSTER_BYTES > self.slabs.room:
                raise self._too_many(labelling.parts, end)
        if maps is not None:
            maps.finish()
        return labelling.finish()

    def apply(
        self,
        clusters: Clusters,
        keep: NDArray[np.uint8],
        maps: Maps | None = None,
        paintings: Sequence[Painting] = (),
    ) -> None:
        """Maps of the clusters to keep, and stacks, from a second look at the volume.

        Parameters
        ----------
        clusters
            From :meth:`find`.
        keep
            uint8, one a cluster: 0 leaves it out of the maps.
        maps, paintings
            What is gathered and written.
        """

        def task(block: Block) -> None:
            first = self.slabs.first_slab(block)
            painted = [
                self._workspace.array(f"painting {k}", region_shape(block.core), painting.values.dtype)
                for k, painting in enumerate(paintings)
            ]
            for k, (z, slab) in enumerate(self._slabs_of(block)):
                whole = clusters.of_slab(first + k)
                if (len(whole), self._voxels[first + k]) != (slab.count, slab.runs.n_voxels):
                    raise VolumeError(
                        f"{self.source.volume.name} has changed while it was read (from plane {z} on); run again"
                    )
                cluster = whole[slab.component]
                if maps is not None:
                    maps.add(slab.runs, keep[cluster], z)
                begin = z - block.core[0].start
                for painting, image in zip(paintings, painted, strict=True):
                    paint_runs(slab.runs, painting.values[cluster], image[begin : begin + slab.runs.shape[0]])
            for painting, image in zip(paintings, painted, strict=True):
                painting.writer.write(block.core, image)

        for _ in iter_blocks(task, self.slabs.plan, self.executor, self.listener, "results"):
            pass
        if maps is not None:
            maps.finish()

    @property
    def _workspace(self) -> Workspace:
        workspace: Workspace | None = getattr(self._local, "workspace", None)
        if workspace is None:
            workspace = self._local.workspace = Workspace()
        return workspace

    def _slabs_of(self, block: Block) -> Iterator[tuple[int, SlabRuns]]:
        image, level = self.source.read(block.core, self._workspace)
        for z, end in self.slabs.slabs(block):
            begin = block.core[0].start
            try:
                yield (
                    z,
                    runs_of_slab(
                        image[z - begin : end - begin], self.connectivity, level=level, most_runs=self.slabs.most_runs
                    ),
                )
            except TooManyRunsError as error:
                raise MemoryBudgetError(
                    f"{self.source.volume.name}: planes {z} to {end - 1} have {error.runs:,} runs of fracture voxels, "
                    f"which need {format_bytes(error.runs * RUN_BYTES)} at once, more than the memory left holds: is "
                    "it noise? Give --threshold, --invert, more --memory or fewer --workers"
                ) from None

    def _too_many(self, components: int, planes: int) -> MemoryBudgetError:
        Z = self.source.volume.shape[0]
        expected = components * Z // planes
        return MemoryBudgetError(
            f"{self.source.volume.name}: {components:,} clusters in the first {planes:,} of {Z:,} planes; about "
            f"{expected:,} in all would need {format_bytes(expected * CLUSTER_BYTES)}, and the memory given leaves "
            f"{format_bytes(self.slabs.room)} for them: is it noise? Give --threshold, --invert or more --memory"
        )
