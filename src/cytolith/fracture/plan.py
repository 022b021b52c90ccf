"""Blocks of whole planes: how many at once, for the memory given.

A block is read at once; inside it, slabs of a few planes are worked on one after the other, so that what is held beside
the voxels stays small and in cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cytolith.axes import Shape
from cytolith.engine.grid import Block, Plan, tile
from cytolith.errors import MemoryBudgetError
from cytolith.quantities import format_bytes

PROCESS_BYTES = 256 * 2**20
"""What Python, the libraries, the compiled kernels and the strips of maps take, whatever the volume."""
SLAB_VOXELS = 4 * 2**20
"""Voxels of a slab, unless a single plane has more."""
RUN_BYTES = 28
"""Memory of a run of voxels while its slab is at work."""
RUN_SHARE = 1 / 16
"""Runs a voxel that the plan has room for; noise has up to one in two, of which a run is told when it meets it."""
CLUSTER_BYTES = 200
"""Memory of a cluster, from its first component to its row in the table."""


@dataclass(frozen=True)
class SlabPlan:
    """Blocks of whole planes, slabs in them, and the memory left for what depends on the data."""

    plan: Plan
    slab_planes: int
    room: int
    """Bytes left for clusters."""
    most_runs: int
    """Runs that a slab may have."""

    def slabs(self, block: Block) -> list[tuple[int, int]]:
        """First plane and the plane after the last of each slab of a block."""
        begin, end = block.core[0].start, block.core[0].stop
        return [(z, min(z + self.slab_planes, end)) for z in range(begin, end, self.slab_planes)]

    def first_slab(self, block: Block) -> int:
        """Number of the first slab of a block."""
        return block.index * math.ceil(self.plan.core[0] / self.slab_planes)


def plan_slabs(
    shape: Shape,
    *,
    voxel_bytes: float,
    fixed_bytes: int = 0,
    chunk_planes: int = 1,
    memory: int,
    workers: int,
    planes: int | None = None,
) -> SlabPlan:
    """Blocks for a volume.

    Parameters
    ----------
    shape
        Extent (z, y, x).
    voxel_bytes
        Memory of a block for each of its voxels.
    fixed_bytes
        Memory of the run whatever its blocks are, besides the process itself.
    chunk_planes
        Planes that one decode of the storage gives; blocks are whole numbers of them when memory holds that.
    memory
        Bytes that the run may take.
    workers
        Blocks at work at once, at most.
    planes
        Planes of a block, to take instead of searching. Never changes the result.

    Raises
    ------
    MemoryBudgetError
        The memory does not hold one plane; names the smallest budget that would do.
    """
    Z, Y, X = shape
    slab_planes = min(max(SLAB_VOXELS // (Y * X), 1), Z)
    slab_bytes = math.ceil(slab_planes * Y * X * RUN_SHARE) * RUN_BYTES
    plane_bytes = math.ceil(Y * X * voxel_bytes)
    fixed = PROCESS_BYTES + fixed_bytes
    # half of what is left is for the table of clusters, and for a volume with more runs than were counted on
    room = (memory - fixed) // 2
    smallest = fixed + 2 * (plane_bytes + math.ceil(Y * X * RUN_SHARE) * RUN_BYTES)
    if memory < smallest:
        raise MemoryBudgetError(
            f"--memory {format_bytes(memory)} does not hold a plane of {Y} x {X} voxels: give at least "
            f"--memory {math.ceil(smallest / 2**20)}MiB"
        )
    if slab_bytes + slab_planes * plane_bytes > room:
        slab_planes = max(room // (plane_bytes + math.ceil(Y * X * RUN_SHARE) * RUN_BYTES), 1)
        slab_bytes = math.ceil(slab_planes * Y * X * RUN_SHARE) * RUN_BYTES
    workers = max(min(workers, room // (slab_bytes + slab_planes * plane_bytes)), 1)
    if planes is None:
        wanted = min(slab_planes, max(math.ceil(Z / (4 * workers)), 1))  # enough blocks to share out evenly
        planes = math.ceil(wanted / chunk_planes) * chunk_planes
        planes = min(planes, max((room // workers - slab_bytes) // plane_bytes, 1))
    planes = min(planes, Z)
    blocks = tile(shape, (planes, Y, X), (0, 0, 0))
    workers = min(workers, len(blocks))
    block_bytes = planes * plane_bytes + slab_bytes
    total = fixed + workers * block_bytes
    plan = Plan(blocks, (planes, Y, X), workers, block_bytes, total)
    left = max(memory - total, 0)
    return SlabPlan(plan, slab_planes, left, max(slab_bytes + left // (2 * workers), 1) // RUN_BYTES)
