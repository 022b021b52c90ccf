"""What workers do with a block: find its components, or apply what became of them. Tasks carry paths, never voxels."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region
from cytolith.engine.checkpoint import Checkpoints
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.errors import MemoryBudgetError, VolumeError
from cytolith.fracture.labelling import Slab, SlabRuns, measure_slab, runs_of_slab
from cytolith.fracture.plan import CLUSTER_BYTES, RUN_BYTES, SlabPlan
from cytolith.fracture.projections import MapPart
from cytolith.fracture.source import Source
from cytolith.kernels.clusters import Face, paint_runs
from cytolith.kernels.components import TooManyRunsError
from cytolith.quantities import format_bytes

Arrays = dict[str, NDArray[Any]]


class ChangedVolumeError(VolumeError):
    """A volume that is not what the first pass has read: what was found in it is worth nothing."""


class Writer(Protocol):
    """What takes boxes of voxels from several workers: a sink, or an array behind the same method."""

    def write(self, region: Region, array: NDArray[Any]) -> None:
        """Take one box."""

    def flush(self, region: Region) -> None:
        """Bring one box to the disk."""


@dataclass(frozen=True, eq=False)
class Found:
    """What the first pass finds in a block."""

    slabs: list[Slab]
    part: Arrays | None
    """What it adds to the maps."""

    def to_arrays(self) -> Arrays:
        """The same as a record holds it."""
        arrays = dict(self.part or {})
        for k, slab in enumerate(self.slabs):
            arrays |= {f"{k} {name}": getattr(slab, name) for name in _MEASURES}
            for face in ("first", "last"):
                arrays |= {f"{k} {face} {name}": getattr(getattr(slab, face), name) for name in _RUNS}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Found:
        """What :meth:`to_arrays` has made a record of."""
        slabs: list[Slab] = []
        while f"{len(slabs)} size" in arrays:
            k = len(slabs)
            faces = [Face(*(arrays[f"{k} {face} {name}"] for name in _RUNS)) for face in ("first", "last")]
            size, box, sums = (arrays[f"{k} {name}"] for name in _MEASURES)
            slabs.append(Slab(size, box, sums, *faces))
        return cls(slabs, {name: arrays[name] for name in _PARTS if name in arrays} or None)


_MEASURES = ("size", "box", "sums")
_RUNS = tuple(field.name for field in fields(Face))
_PARTS = ("cells", "aperture", "first")


@dataclass(frozen=True, eq=False)
class SlabFate:
    """What became of the components of a slab."""

    voxels: int
    """Voxels that the first pass has found in it."""
    keep: NDArray[np.uint8]
    """One a component: 0 leaves it out of the maps."""
    values: list[NDArray[Any]]
    """For each stack that is painted, the value of each component."""


@dataclass(frozen=True, eq=False)
class Applied:
    """What the second pass gives of a block."""

    part: Arrays | None
    """What it adds to the maps."""
    images: list[NDArray[Any]]
    """Painted stacks that have no writer here."""


class _BlockTask:
    """Slabs of a block, read piece by piece."""

    def __init__(
        self, source: Source, slabs: SlabPlan, connectivity: int, axis: str | None, checkpoints: Checkpoints | None
    ) -> None:
        self.source = source
        self.cut, self.most_runs, self.most_parts = slabs.cut, slabs.most_runs, slabs.most_parts
        self.connectivity = connectivity
        self.axis = axis
        self.checkpoints = checkpoints
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    @property
    def workspace(self) -> Workspace:
        workspace: Workspace | None = getattr(self._local, "workspace", None)
        if workspace is None:
            workspace = self._local.workspace = Workspace()
        return workspace

    def region(self, planes: tuple[int, int]) -> Region:
        """Whole planes of the volume."""
        _, Y, X = self.source.volume.shape
        return slice(*planes), slice(0, Y), slice(0, X)

    def part(self, block: Block) -> MapPart | None:
        """What the block will add to the maps, when there are any."""
        return None if self.axis is None else MapPart(self.axis, self.source.volume.shape, block)

    def slabs_of(self, piece: tuple[int, int]) -> Iterator[tuple[int, SlabRuns]]:
        """First plane, runs and components of each slab of a piece."""
        image, level = self.source.read(self.region(piece), self.workspace)
        for z, end in self.cut.slabs(piece):
            planes = image[z - piece[0] : end - piece[0]]
            try:
                yield z, runs_of_slab(planes, self.connectivity, level=level, most_runs=self.most_runs)
            except TooManyRunsError as error:
                raise MemoryBudgetError(
                    f"{self.source.volume.name}: planes {z} to {end - 1} have {error.runs:,} runs of fracture voxels, "
                    f"which need {format_bytes(error.runs * RUN_BYTES)} at once, more than the memory left holds: is "
                    "it noise? Give --threshold, --invert, more --memory or fewer --workers"
                ) from None


class FindTask(_BlockTask):
    """Pass 1: components of a block, and its part of the maps when all clusters count."""

    def __call__(self, block: Block, ahead: Block | None, given: Any) -> Found:  # noqa: ARG002
        """Components of a block, kept on disk before they are given where a run can go on."""
        slabs: list[Slab] = []
        part = self.part(block)
        count = 0
        for piece in self.cut.pieces(block):
            for z, slab in self.slabs_of(piece):
                if part is not None:
                    part.add(slab.runs, np.ones(slab.runs.n_runs, np.uint8), z)
                slabs.append(measure_slab(slab, z))
                count += slab.count
                if count > self.most_parts:
                    raise MemoryBudgetError(
                        f"{self.source.volume.name}: planes {block.core[0].start} to {z + slab.runs.shape[0] - 1} have "
                        f"{count:,} clusters, which need {format_bytes(count * CLUSTER_BYTES)}, more than the memory "
                        "left holds: is it noise? Give --threshold, --invert, more --memory or fewer --workers"
                    )
        found = Found(slabs, None if part is None else part.to_arrays())
        if self.checkpoints is not None:
            self.checkpoints.save(block.index, found.to_arrays(), {})
        return found


class ApplyTask(_BlockTask):
    """Pass 2: the same components again, painted into stacks and counted in the maps by what became of them."""

    def __init__(
        self,
        source: Source,
        slabs: SlabPlan,
        connectivity: int,
        axis: str | None,
        checkpoints: Checkpoints | None,
        *,
        dtypes: Sequence[np.dtype[Any]],
        writers: Sequence[Writer] | None,
        flush: bool = False,
    ) -> None:
        super().__init__(source, slabs, connectivity, axis, checkpoints)
        self.dtypes = dtypes
        self.writers = writers
        """One for each stack; None: images go back to where the run is."""
        self.flush = flush
        """Whether a block is on the disk before it is called finished: another machine may die with what it holds."""

    def __call__(self, block: Block, ahead: Block | None, given: Any) -> Applied:  # noqa: ARG002
        """Stacks written and the part of the maps; `given` has the fates of the block's slabs."""
        fates: Iterator[SlabFate] = iter(given)
        part = self.part(block)
        pieces: list[list[NDArray[Any]]] = []
        for piece in self.cut.pieces(block):
            painted = self._canvases(piece)
            for z, slab in self.slabs_of(piece):
                self._apply(slab, next(fates), z, part, [image[z - piece[0] :] for image in painted])
            if self.writers is None:
                pieces.append(painted)
            else:
                for writer, image in zip(self.writers, painted, strict=True):
                    writer.write(self.region(piece), image)
        for writer in self.writers or () if self.flush else ():
            writer.flush(block.core)
        arrays = None if part is None else part.to_arrays()
        if self.checkpoints is not None:
            self.checkpoints.save(block.index, arrays or {}, {})
        return Applied(arrays, [np.concatenate(images) for images in zip(*pieces, strict=True)])

    def _canvases(self, piece: tuple[int, int]) -> list[NDArray[Any]]:
        _, Y, X = self.source.volume.shape
        shape = piece[1] - piece[0], Y, X
        if self.writers is None:
            return [np.empty(shape, dtype) for dtype in self.dtypes]
        return [self.workspace.array(f"painting {k}", shape, dtype) for k, dtype in enumerate(self.dtypes)]

    def _apply(
        self, slab: SlabRuns, fate: SlabFate, z: int, part: MapPart | None, images: Sequence[NDArray[Any]]
    ) -> None:
        if (len(fate.keep), fate.voxels) != (slab.count, slab.runs.n_voxels):
            raise ChangedVolumeError(
                f"{self.source.volume.name} has changed while it was read (from plane {z} on); run again"
            )
        if part is not None:
            part.add(slab.runs, fate.keep[slab.component], z)
        for values, image in zip(fate.values, images, strict=True):
            paint_runs(slab.runs, values[slab.component], image[: slab.runs.shape[0]])
