"""Blocks: how a volume is cut so that memory holds and as little as possible is read twice.

Each block has a `core`, which it alone owns, and a `read` region, its core and a halo around it, clipped to the
volume::

    |hhhh|cccccccc|hhhh|                 block 0: what it reads; c its core, h halo
                  |hhhh|cccccccc|hhhh|   block 1 reads the end of block 0's core again

Cores partition the volume. The result never depends on the cut; only time and memory do.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cytolith.axes import Region, Shape, region_shape
from cytolith.errors import ConfigError, MemoryBudgetError
from cytolith.quantities import format_bytes


@dataclass(frozen=True)
class Block:
    """A part of the volume: what it owns (`core`) and what it must read for that (`read`)."""

    index: int
    core: Region
    read: Region

    @property
    def inner(self) -> Region:
        """The core as seen from the read region."""
        z, y, x = (slice(c.start - r.start, c.stop - r.start) for c, r in zip(self.core, self.read, strict=True))
        return z, y, x

    def open_margins(self, shape: Shape, unsure: Shape) -> tuple[int, int, int, int, int, int]:
        """What is unknown at the faces z0, z1, y0, y1, x0, x1 of the read region, in a volume of this shape.

        0 where the volume ends; elsewhere 1 + `unsure`, (z, y, x): the voxels inside the face whose computed values
        depend on what lies beyond it.
        """
        (z0, z1), (y0, y1), (x0, x1) = (
            ((u + 1) * (r.start > 0), (u + 1) * (r.stop < s)) for r, s, u in zip(self.read, shape, unsure, strict=True)
        )
        return z0, z1, y0, y1, x0, x1

    def trimmed(self, shape: Shape, reach: Shape) -> Block:
        """The block without the rim of its read region in which filters of this reach have not seen all they need."""
        z, y, x = (
            slice(r.start + (n if r.start > 0 else 0), r.stop - (n if r.stop < s else 0))
            for r, n, s in zip(self.read, reach, shape, strict=True)
        )
        return Block(self.index, self.core, (z, y, x))


def tile(shape: Shape, core: Shape, halo: Shape) -> list[Block]:
    """Blocks of cores of the given extent (the last ones may be smaller), in raster order."""
    starts = [range(0, s, c) for s, c in zip(shape, core, strict=True)]
    blocks = []
    for index, origin in enumerate(itertools.product(*starts)):
        z, y, x = (slice(o, min(o + c, s)) for o, c, s in zip(origin, core, shape, strict=True))
        blocks.append(halo_block(index, (z, y, x), halo, shape))
    return blocks


def halo_block(index: int, core: Region, halo: Shape, shape: Shape) -> Block:
    """A region as the core of a block that reads a halo (z, y, x) around it, in a volume of this shape."""
    z, y, x = (slice(max(c.start - h, 0), min(c.stop + h, s)) for c, h, s in zip(core, halo, shape, strict=True))
    return Block(index, core, (z, y, x))


@dataclass(frozen=True)
class Costs:
    """What a pipeline needs of a machine, from its parameters alone."""

    halo: Shape
    """Voxels around a core that its result depends on, (z, y, x)."""
    bytes_per_voxel: float
    """Memory of a block for each voxel that it reads."""
    bytes_fixed: int = 0
    """Memory of the process whatever the blocks are."""
    bytes_worker: int = 0
    """Memory of each worker whatever its block is."""
    bytes_least: int = 0
    """Memory that is needed before the blocks, besides that of the process."""
    most_voxels: float = math.inf
    """Voxels that a block may read: what a lane of a GPU holds."""


@dataclass(frozen=True)
class Plan:
    """Blocks of a run and the memory that they will take."""

    blocks: list[Block]
    core: Shape
    workers: int
    bytes_block: int
    """Memory of the largest block."""
    bytes_total: int
    """Memory of the run: all workers at once and what does not depend on blocks."""

    @property
    def voxels_read(self) -> int:
        """Voxels read by all blocks together, halos included."""
        return sum(math.prod(region_shape(b.read)) for b in self.blocks)


def plan_blocks(
    shape: Shape,
    costs: Costs,
    *,
    memory: int,
    workers: int,
    machines: int = 1,
    chunks: Shape | None = None,
    core: Shape | None = None,
) -> Plan:
    """Plan that is done soonest among those that the memory holds.

    Parameters
    ----------
    shape
        Extent of the volume (z, y, x).
    costs
        Halo and memory of a voxel.
    memory
        Bytes that all workers together may take.
    workers
        Blocks at work at once, at most, in the memory given.
    machines
        How often there is that memory with so many workers; blocks are made for all of them.
    chunks
        What one decode of the storage gives, (z, y, x); cuts through chunks are decoded twice and count as such.
    core
        Extent of a core, to take instead of searching.

    Raises
    ------
    MemoryBudgetError
        The memory does not hold a block for each worker; names the smallest budget that would do.
    """
    if core is not None:
        core = (min(core[0], shape[0]), min(core[1], shape[1]), min(core[2], shape[2]))
        plan = _plan(shape, core, costs, workers)
        if plan.bytes_total > memory:
            raise MemoryBudgetError(
                f"--block {','.join(map(str, core))} with {plan.workers} workers needs "
                f"{format_bytes(plan.bytes_total)}, more than --memory {format_bytes(memory)}: give more memory, "
                "smaller blocks or fewer workers"
            )
        return plan
    # fewer workers on larger blocks read less twice, and may be all that the memory holds
    counts = sorted({max(workers >> n, 1) for n in range(workers.bit_length())}, reverse=True)
    tried = [
        (_time(shape, candidate, costs.halo, count * machines, chunks) / count, -count, candidate)
        for count in counts
        for candidate in _candidates(shape, costs, memory, count, count * machines)
    ]
    if tried and memory >= costs.bytes_fixed + costs.bytes_least:
        _, count, best = min(tried)
        return _plan(shape, best, costs, -count)
    raise MemoryBudgetError(
        f"--memory {format_bytes(memory)} does not hold a block: give at least "
        f"--memory {math.ceil(_smallest_bytes(shape, costs) / 2**20)}MiB"
    )


def largest_read(blocks: Sequence[Block]) -> int:
    """Voxels that the largest of some blocks reads."""
    return max((math.prod(region_shape(block.read)) for block in blocks), default=0)


_SMALLEST = 16
"""Cores are not cut thinner than this many voxels along an axis: halos would be all that is read."""


def _smallest_bytes(shape: Shape, costs: Costs) -> int:
    """Memory of a run of one worker on the smallest blocks that are tried."""
    planes = min(shape[0], _SMALLEST + 2 * costs.halo[0])
    cuts = itertools.product(_cuts(shape[1]), _cuts(shape[2]))
    block = planes * min(_plane_bytes(shape, ny, nx, costs) for ny, nx in cuts)
    return costs.bytes_fixed + max(costs.bytes_worker + block, costs.bytes_least)


def smallest_voxels(shape: Shape, costs: Costs) -> int:
    """Voxels that one of the smallest blocks that are tried reads."""
    cuts = itertools.product(_cuts(shape[1]), _cuts(shape[2]))
    return min(shape[0], _SMALLEST + 2 * costs.halo[0]) * min(_plane_voxels(shape, ny, nx, costs) for ny, nx in cuts)


def _plan(shape: Shape, core: Shape, costs: Costs, workers: int) -> Plan:
    if any(c < 1 for c in core):
        raise ConfigError(f"--block {','.join(map(str, core))}: give three positive whole numbers Z,Y,X")
    blocks = tile(shape, core, costs.halo)
    workers = min(workers, max(len(blocks), 1))
    block = _block_bytes(shape, core, costs)
    total = costs.bytes_fixed + max(workers * (costs.bytes_worker + block), costs.bytes_least)
    return Plan(blocks, core, workers, block, total)


def _block_bytes(shape: Shape, core: Shape, costs: Costs) -> int:
    voxels = math.prod(min(c + 2 * h, s) for c, h, s in zip(core, costs.halo, shape, strict=True))
    return math.ceil(voxels * costs.bytes_per_voxel)


def _plane_voxels(shape: Shape, ny: int, nx: int, costs: Costs) -> int:
    """Voxels of one plane of a block when planes are cut into ny x nx."""
    _, hy, hx = costs.halo
    return min(math.ceil(shape[1] / ny) + 2 * hy, shape[1]) * min(math.ceil(shape[2] / nx) + 2 * hx, shape[2])


def _plane_bytes(shape: Shape, ny: int, nx: int, costs: Costs) -> int:
    """Memory of one plane of a block when planes are cut into ny x nx."""
    return math.ceil(_plane_voxels(shape, ny, nx, costs) * costs.bytes_per_voxel)


def _candidates(shape: Shape, costs: Costs, memory: int, workers: int, everywhere: int) -> Iterator[Shape]:
    """Cores that fit: for each way to cut planes, the thickest slabs and those that share out evenly."""
    room = (memory - costs.bytes_fixed) // workers - costs.bytes_worker
    for ny, nx in itertools.product(_cuts(shape[1]), _cuts(shape[2])):
        planes = room // _plane_bytes(shape, ny, nx, costs)
        if costs.most_voxels < math.inf:
            planes = min(planes, int(costs.most_voxels) // _plane_voxels(shape, ny, nx, costs))
        # a block at either end of the volume has one halo, but most have two: the thickest is what holds for all
        thickest = shape[0] if planes >= shape[0] else planes - 2 * costs.halo[0]
        if thickest < min(_SMALLEST, shape[0]):
            continue
        fewest = math.ceil(shape[0] / thickest)
        for nz in {fewest, *(n for n in range(fewest, fewest + 2 * everywhere) if n * ny * nx % everywhere == 0)}:
            z = math.ceil(shape[0] / nz)
            if nz == fewest or z >= _SMALLEST:
                yield z, math.ceil(shape[1] / ny), math.ceil(shape[2] / nx)


def _cuts(extent: int) -> list[int]:
    cuts = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256]
    return [n for n in cuts if n == 1 or extent / n >= _SMALLEST]


_DECODE = 0.4
"""Cost of reading and decoding a voxel against computing on it, for weighing cuts through storage chunks."""
_TOUCH = 0.25
"""Cost of the first touch of a voxel's fresh memory: once a worker, as it keeps its buffers from block to block."""


def _time(shape: Shape, core: Shape, halo: Shape, workers: int, chunks: Shape | None) -> float:
    """Work of all workers in voxels computed on, as if each did as much as the busiest."""
    read = [_read_extent(s, c, h, 1) for s, c, h in zip(shape, core, halo, strict=True)]
    stored = [_read_extent(s, c, h, k) for s, c, h, k in zip(shape, core, halo, chunks or (1, 1, 1), strict=True)]
    count = math.prod(math.ceil(s / c) for s, c in zip(shape, core, strict=True))
    idle = math.ceil(count / workers) * workers / count
    block = math.prod(min(c + 2 * h, s) for s, c, h in zip(shape, core, halo, strict=True))
    return (math.prod(read) + _DECODE * math.prod(stored)) * idle + _TOUCH * min(workers, count) * block


@functools.lru_cache(maxsize=4096)
def _read_extent(extent: int, core: int, halo: int, chunk: int) -> int:
    """Voxels along one axis that all blocks in a row read, rounded out to storage chunks."""
    total = 0
    for start in range(0, extent, core):
        low = max(start - halo, 0) // chunk * chunk
        high = min(math.ceil(min(start + core + halo, extent) / chunk) * chunk, extent)
        total += high - low
    return total
