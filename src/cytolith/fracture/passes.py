"""The passes over a volume: blocks on workers, folded in order into clusters, maps and stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.engine.checkpoint import Checkpoints
from cytolith.engine.events import Listener
from cytolith.engine.executors import Pool, ProcessPool, SerialPool, ThreadPool
from cytolith.engine.grid import Block
from cytolith.engine.run import STOP_AT_ONCE, Policy, run_blocks
from cytolith.errors import MemoryBudgetError
from cytolith.fracture.labelling import Clusters, Labelling
from cytolith.fracture.plan import CLUSTER_BYTES, SlabPlan
from cytolith.fracture.projections import Maps
from cytolith.fracture.source import Source
from cytolith.fracture.tasks import Applied, ApplyTask, FindTask, Found, SlabFate, Writer
from cytolith.quantities import format_bytes


@dataclass(frozen=True, eq=False)
class Painting:
    """A stack to be written: the value of each cluster, and where it goes."""

    values: NDArray[Any]
    """(number of clusters,), in the order of their first voxels."""
    writer: Writer


@dataclass(frozen=True, eq=False)
class Kept:
    """Blocks of both passes that an earlier run has finished, and where those of this one are kept."""

    found: Checkpoints
    applied: Checkpoints
    finished: tuple[frozenset[int], frozenset[int]]
    """Of the first and of the second pass."""


@dataclass
class Passes:
    """A volume and how it is gone over."""

    source: Source
    slabs: SlabPlan
    pool: Pool
    connectivity: int = 26
    listener: Listener = lambda _: None
    policy: Policy = STOP_AT_ONCE
    kept: Kept | None = None
    _voxels: list[int] = field(default_factory=list)
    """Voxels of each slab that the first pass found."""

    def find(self, maps: Maps | None = None) -> Clusters:
        """Clusters of the volume, and its maps when all clusters count.

        Raises
        ------
        MemoryBudgetError
            There are more clusters than the memory holds; estimates what they would need.
        BlocksFailedError
            Blocks went wrong, as far as the policy goes on then.
        """
        axis = None if maps is None else maps.axis
        task = FindTask(
            self.source, self.slabs, self.connectivity, axis, None if self.kept is None else self.kept.found
        )
        labelling = Labelling(self.connectivity)
        self._voxels.clear()
        with self._quiet_after_errors():
            for block, result in self._all_found(task):
                for slab in result.slabs:
                    labelling.add(slab)
                    self._voxels.append(int(slab.size.sum()))
                if maps is not None:
                    assert result.part is not None
                    maps.add(block, result.part)
                if labelling.parts * CLUSTER_BYTES > self.slabs.room:
                    raise self._too_many(labelling.parts, block.core[0].stop)
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
        cut, kept = self.slabs.cut, self.kept

        def fates(block: Block) -> list[SlabFate]:
            first = cut.first_slab(block)
            slabs = range(first, first + len(cut.slabs_of(block)))
            return [
                SlabFate(self._voxels[k], keep[whole], [painting.values[whole] for painting in paintings])
                for k, whole in ((k, clusters.of_slab(k)) for k in slabs)
            ]

        # an array in memory cannot be written by another process: images come here
        remote = self.pool.travels and any(isinstance(painting.writer, ArrayWriter) for painting in paintings)
        task = ApplyTask(
            self.source,
            self.slabs,
            self.connectivity,
            None if maps is None else maps.axis,
            None if kept is None else kept.applied,
            dtypes=[painting.values.dtype for painting in paintings],
            writers=None if remote else [painting.writer for painting in paintings],
            flush=self.pool.kind == "dask",
        )
        with self._quiet_after_errors():
            for block, result in self._all_applied(task, fates):
                if maps is not None:
                    assert result.part is not None
                    maps.add(block, result.part)
                for painting, image in zip(paintings, result.images, strict=bool(result.images)):
                    painting.writer.write(block.core, image)
        if maps is not None:
            maps.finish()

    def _all_found(self, task: FindTask) -> Iterator[tuple[Block, Found]]:
        """Blocks with what is found in them, in order, from disk where an earlier run has finished them."""
        finished = self.kept.finished[0] if self.kept is not None else frozenset()
        fresh = run_blocks(
            task,
            self.slabs.plan,
            self.pool,
            todo=self._without(finished),
            policy=self.policy,
            in_order=True,
            listener=self.listener,
            name="clusters",
        )
        for block in self.slabs.plan.blocks:
            if self.kept is not None and block.index in finished:
                yield block, Found.from_arrays(self.kept.found.load(block.index).arrays)
            else:
                yield next(fresh)
        next(fresh, None)  # its end has something to tell

    def _all_applied(
        self, task: ApplyTask, fates: Callable[[Block], list[SlabFate]]
    ) -> Iterator[tuple[Block, Applied]]:
        """Blocks with what was applied to them, in any order."""
        finished = self.kept.finished[1] if self.kept is not None else frozenset()
        for block in self.slabs.plan.blocks:
            if self.kept is not None and block.index in finished:
                yield block, Applied(self.kept.applied.load(block.index).arrays, [])
        yield from run_blocks(
            task,
            self.slabs.plan,
            self.pool,
            todo=self._without(finished),
            given=fates,
            policy=self.policy,
            listener=self.listener,
            name="results",
        )

    def _without(self, finished: frozenset[int]) -> list[Block] | None:
        return [block for block in self.slabs.plan.blocks if block.index not in finished] if finished else None

    @contextmanager
    def _quiet_after_errors(self) -> Iterator[None]:
        """Nothing writes any more when an error is out: what workers write into is discarded next, or gone on with."""
        try:
            yield
        except BaseException:
            if isinstance(self.pool, ThreadPool | SerialPool | ProcessPool):  # it begins anew when it is used again
                self.pool.close(now=self.pool.travels)
            raise

    def _too_many(self, components: int, planes: int) -> MemoryBudgetError:
        Z = self.source.volume.shape[0]
        expected = components * Z // planes
        return MemoryBudgetError(
            f"{self.source.volume.name}: {components:,} clusters in the first {planes:,} of {Z:,} planes; about "
            f"{expected:,} in all would need {format_bytes(expected * CLUSTER_BYTES)}, and the memory given leaves "
            f"{format_bytes(self.slabs.room)} for them: is it noise? Give --threshold, --invert or more --memory"
        )


class ArrayWriter:
    """A sink in memory."""

    def __init__(self, shape: tuple[int, int, int], dtype: Any) -> None:
        self.array: NDArray[Any] = np.empty(shape, dtype)

    def write(self, region: tuple[slice, slice, slice], array: NDArray[Any]) -> None:
        """Take one box."""
        self.array[region] = array

    def flush(self, region: tuple[slice, slice, slice]) -> None:
        """Nothing to do."""
