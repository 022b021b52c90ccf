"""Blocks of whole planes: how many at once, for the memory given.

A block is what a worker does at a time and what is kept of a run that dies. Inside it pieces are read one after the
other, whole chunks of the storage where that can be, and inside a piece slabs of a few planes are worked on, so that
what is held beside the voxels stays small and in cache::

    |         block         |         block         |     a result, a checkpoint
    | piece | piece | piece | piece | piece | piece |     read at once, painted at once
    |s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|s|     runs, components
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from os import PathLike

from cytolith.axes import Shape
from cytolith.engine.grid import Block, Plan, tile
from cytolith.errors import ConfigError, MemoryBudgetError
from cytolith.quantities import format_bytes

PROCESS_BYTES = 256 * 2**20
"""What Python, the libraries, the compiled kernels and the strips of maps take, whatever the volume."""
SLAB_VOXELS = 4 * 2**20
"""Voxels of a slab, unless a single plane has more."""
BLOCK_VOXELS = 64 * 2**20
"""Voxels of a block, about: so many that keeping its result costs little beside it."""
BLOCKS_A_WORKER = 4
"""Blocks to share out evenly, where the volume has so many planes."""
RUN_BYTES = 28
"""Memory of a run of voxels while its slab is at work."""
RUN_SHARE = 1 / 16
"""Runs a voxel that the plan has room for; noise has up to one in two, of which a run is told when it meets it."""
CLUSTER_BYTES = 200
"""Memory of a cluster, from its first component to its row in the table."""
RESULTS = 4
"""Results of blocks that exist at once for each worker: one is made, others travel or wait for their turn."""
_RESULT_BYTES = 8 * 2**20
"""Blocks have fewer planes where what comes back of them is larger than this."""
_CHUNK_VOXELS = 16 * 2**20
"""Voxels of the planes that a chunk of a zarr that is written goes through, unless a single plane has more."""
_CHUNK_PLANES = 64
"""Planes of such a chunk, at most."""


def stack_chunk(shape: Shape, path: str | PathLike[str]) -> Shape:
    """Whole planes of a stack to be written of which pieces must be multiples.

    One plane for files, and as many as a chunk goes through for zarr. These depend on the shape alone, so that what is
    written is the same whatever the cut.
    """
    Z, Y, X = shape
    if not os.fspath(path).lower().endswith(".zarr"):
        return 1, Y, X
    planes = max(min(_CHUNK_VOXELS // (Y * X), _CHUNK_PLANES), 1)
    return min(1 << (planes.bit_length() - 1), Z), Y, X


@dataclass(frozen=True)
class Needs:
    """What a pass needs of memory.

    Parameters
    ----------
    voxel_bytes
        For each voxel of a piece.
    fixed_bytes
        For the run, whatever its blocks are, besides the process itself.
    result_bytes, plane_bytes
        What comes back of a block: so many bytes, and so many for each of its planes.
    """

    voxel_bytes: float
    fixed_bytes: int = 0
    result_bytes: int = 0
    plane_bytes: int = 0


@dataclass(frozen=True)
class Places:
    """Where blocks are at work, and what memory means there.

    Parameters
    ----------
    workers
        Blocks at work at once, at most, in the memory given.
    memory
        Bytes that they and this process may take together.
    processes
        Each worker is a process of its own.
    machines
        How often there is that memory with so many workers; blocks are made for all of them.
    """

    workers: int
    memory: int
    processes: bool = False
    machines: int = 1


@dataclass(frozen=True)
class Cut:
    """Planes of blocks, of pieces in them, and of slabs in those. Never changes a result, but what is kept of a run."""

    block_planes: int
    piece_planes: int
    slab_planes: int

    def pieces(self, block: Block) -> list[tuple[int, int]]:
        """First plane and the plane after the last of each piece of a block."""
        return _cuts(block.core[0].start, block.core[0].stop, self.piece_planes)

    def slabs(self, piece: tuple[int, int]) -> list[tuple[int, int]]:
        """The same of each slab of a piece."""
        return _cuts(*piece, self.slab_planes)

    def slabs_of(self, block: Block) -> list[tuple[int, int]]:
        """The same of each slab of a block."""
        return [slab for piece in self.pieces(block) for slab in self.slabs(piece)]

    def first_slab(self, block: Block) -> int:
        """Number of the first slab of a block."""
        return block.index * self.block_planes // self.piece_planes * math.ceil(self.piece_planes / self.slab_planes)


def _cuts(begin: int, end: int, planes: int) -> list[tuple[int, int]]:
    return [(z, min(z + planes, end)) for z in range(begin, end, planes)]


@dataclass(frozen=True)
class SlabPlan:
    """Blocks of whole planes, pieces and slabs in them, and the memory left for what depends on the data."""

    plan: Plan
    cut: Cut
    room: int
    """Bytes left for clusters."""
    most_runs: int
    """Runs that a slab may have."""
    most_parts: int
    """Components that the slabs of a block may have."""


class _Budget:
    """How many workers the memory holds, for a cut."""

    def __init__(self, shape: Shape, needs: Needs, places: Places) -> None:
        self.shape, self.needs, self.places = shape, needs, places
        _, Y, X = shape
        self.fixed = PROCESS_BYTES + needs.fixed_bytes
        self.worker = PROCESS_BYTES if places.processes else 0
        self.plane = math.ceil(Y * X * needs.voxel_bytes)
        self.runs = math.ceil(Y * X * RUN_SHARE) * RUN_BYTES

    def block(self, block: int, piece: int, slab: int) -> int:
        """Memory of a block and its results."""
        return self.piece(piece, slab) + RESULTS * (self.needs.result_bytes + block * self.needs.plane_bytes)

    def piece(self, piece: int, slab: int) -> int:
        return piece * self.plane + slab * self.runs

    def room(self, workers: int) -> int:
        """Memory for blocks: half of what is left; the rest is for clusters, and for more runs than were counted on."""
        return (self.places.memory - self.fixed - workers * self.worker) // 2

    def workers(self, block: int, piece: int, slab: int) -> int:
        """Workers for such blocks; 0 when there is no memory for one."""
        needed = self.block(block, piece, slab)
        fitting = (self.places.memory - self.fixed) // (2 * needed + self.worker)
        return max(min(self.places.workers, fitting), 0)

    def smallest(self, block: int, piece: int, slab: int) -> int:
        """Memory that one worker on such blocks needs."""
        return self.fixed + self.worker + 2 * self.block(block, piece, slab)

    def plan(self, cut: Cut, workers: int) -> SlabPlan:
        """The plan of a cut that fits."""
        Z, Y, X = self.shape
        blocks = tile(self.shape, (cut.block_planes, Y, X), (0, 0, 0))
        workers = min(workers, len(blocks))
        needed = self.block(cut.block_planes, cut.piece_planes, cut.slab_planes)
        total = self.fixed + workers * (self.worker + needed)
        left = max(self.places.memory - total, 0)
        plan = Plan(blocks, (min(cut.block_planes, Z), Y, X), workers, needed, total)
        runs = max(cut.slab_planes * self.runs + left // (2 * workers), 1) // RUN_BYTES
        parts = max(left // (RESULTS * workers * _PART_BYTES), 1)
        return SlabPlan(plan, cut, left, runs, parts)


_PART_BYTES = 56
"""Memory of a component on its way."""


def plan_slabs(
    shape: Shape,
    needs: Needs,
    places: Places,
    *,
    chunk_planes: int = 1,
    multiple: int = 1,
    planes: int | None = None,
    cut: Cut | None = None,
) -> SlabPlan:
    """Blocks for a volume.

    Parameters
    ----------
    shape
        Extent (z, y, x).
    needs, places
        What blocks take, and what there is.
    chunk_planes
        Planes that one decode of the storage gives; pieces are whole numbers of them when memory holds that.
    multiple
        Pieces are whole numbers of so many planes in any case; see :func:`stack_chunk`.
    planes
        Planes of a block, rounded up to such numbers, to take instead of searching. Never changes the result.
    cut
        The cut that a run began with, to take instead of searching: only the workers are chosen.

    Raises
    ------
    MemoryBudgetError
        The memory does not hold one plane, or the blocks that a run began with; names the smallest budget that would
        do.
    ConfigError
        Fewer than one worker, or fewer than one plane.
    """
    if places.workers < 1:
        raise ConfigError(f"--workers {places.workers}: give at least 1")
    if planes is not None and planes < 1:
        raise ConfigError(f"planes {planes}: give at least 1")
    budget = _Budget(shape, needs, places)
    if cut is not None:
        sizes = cut.block_planes, cut.piece_planes, cut.slab_planes
        workers = budget.workers(*sizes)
        if workers < 1:
            raise MemoryBudgetError(
                f"--memory {format_bytes(places.memory)} does not hold the blocks of {cut.block_planes} planes that "
                f"the unfinished run has: give at least --memory {math.ceil(budget.smallest(*sizes) / 2**20)}MiB, or "
                "-f (--force) to begin anew"
            )
        return budget.plan(cut, workers)
    cut, workers = _search(budget, chunk_planes, multiple, planes)
    return budget.plan(cut, workers)


def _search(budget: _Budget, chunk_planes: int, multiple: int, planes: int | None) -> tuple[Cut, int]:
    """Planes of blocks, pieces and slabs, and the workers for them."""
    (Z, Y, X), places, needs = budget.shape, budget.places, budget.needs
    if budget.workers(multiple, multiple, 1) < 1:
        what = "a plane" if multiple == 1 else f"{multiple} planes"
        raise MemoryBudgetError(
            f"--memory {format_bytes(places.memory)} does not hold {what} of {Y} x {X} voxels: give at least "
            f"--memory {math.ceil(budget.smallest(multiple, multiple, 1) / 2**20)}MiB"
        )
    slab = min(max(SLAB_VOXELS // (Y * X), 1), Z)
    while slab > 1 and budget.workers(piece := _up(slab, multiple), piece, slab) < 1:
        slab //= 2
    workers = budget.workers(piece := _up(slab, multiple), piece, slab)
    room = budget.room(workers) // workers
    shared = max(math.ceil(Z / (BLOCKS_A_WORKER * workers * places.machines)), 1)
    piece = _up(min(slab, shared), math.lcm(chunk_planes, multiple))
    results = RESULTS * needs.result_bytes
    held = (room - min(slab, piece) * budget.runs - results) // (budget.plane + RESULTS * needs.plane_bytes)
    piece = max(min(piece, _up(Z, multiple), held // multiple * multiple), multiple)
    slab = min(slab, piece)
    if planes is not None:
        block = _up(min(planes, Z), multiple)
        # pieces end where blocks do: a chunk of what is written never lies in two of them
        pieces = next(count for count in range(1, block + 1) if block % count == 0 and block // count <= piece)
        piece = block // pieces if block // pieces % multiple == 0 else multiple
        slab = min(slab, piece)
        return Cut(block, piece, slab), max(budget.workers(block, piece, slab), 1)
    most = [BLOCK_VOXELS // (piece * Y * X), shared // piece]
    if needs.plane_bytes:
        left = (room - budget.piece(piece, slab) - results) // RESULTS
        most += [_RESULT_BYTES // (piece * needs.plane_bytes), left // (piece * needs.plane_bytes)]
    return Cut(piece * max(min(most), 1), piece, slab), workers


def _up(planes: int, multiple: int) -> int:
    """So many planes, rounded up to a multiple."""
    return -(-planes // multiple) * multiple
