"""Where the passes of a run are at work, and the plan for it."""

from __future__ import annotations

from cytolith.engine.executors import Pool
from cytolith.errors import ConfigError
from cytolith.fracture.plan import Cut, Needs, Places, SlabPlan, plan_slabs
from cytolith.fracture.source import Source
from cytolith.io.arrays import ArrayVolume


def plan_passes(
    source: Source,
    pool: Pool,
    workers: int | None,
    memory: int | None,
    *,
    needs: Needs,
    multiple: int = 1,
    planes: int | None = None,
    cut: Cut | None = None,
) -> SlabPlan:
    """Blocks for passes over a source on a pool.

    Parameters
    ----------
    workers
        Blocks at work at once, at most; None: as many as the pool has.
    memory
        Bytes that the run may take; None: half of what the machine has.
    needs
        Memory besides that of the volume's own voxels: `voxel_bytes` are added to those.
    multiple, planes, cut
        As :func:`cytolith.fracture.plan.plan_slabs` takes them.

    Raises
    ------
    ConfigError
        Blocks run in other processes, and the volume is an array in memory, which they do not have.
    """
    volume = source.volume
    if pool.travels and type(volume) is ArrayVolume:
        raise ConfigError(
            f"{volume.name}: an open array is not sent to other processes: give the path of a file, or "
            'executor="threads"'
        )
    voxel_bytes = volume.dtype.itemsize + int(source.copies) + needs.voxel_bytes
    return plan_slabs(
        volume.shape,
        Needs(voxel_bytes, needs.fixed_bytes, needs.result_bytes, needs.plane_bytes),
        places_of(pool, workers, memory),
        chunk_planes=volume.chunks[0] if volume.chunks else 1,
        multiple=multiple,
        planes=planes,
        cut=cut,
    )


def places_of(pool: Pool, workers: int | None, memory: int | None) -> Places:
    """What a pool has for the workers and the memory given."""
    workers = pool.workers if workers is None else min(workers, pool.workers)
    return Places(workers, pool.share(memory), machines=pool.machines, processes=pool.kind == "processes")
