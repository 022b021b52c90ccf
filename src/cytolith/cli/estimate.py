"""What a run of ``cytolith cells`` would take, without running it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cytolith.axes import Shape
from cytolith.cells.config import CellsConfig
from cytolith.cells.noise import READ_VOXELS
from cytolith.cells.pipeline import Prepared, execute, prepare
from cytolith.engine.grid import _smallest_bytes
from cytolith.engine.machine import default_workers
from cytolith.io.volume import Volume, open_volume
from cytolith.kernels.jit import compiled_before

_CROP = (64, 384, 384)
"""Voxels (z, y, x) that the time is measured on."""
_START_SECONDS = 2.0
"""Time of a run before and after its blocks."""


@dataclass(frozen=True)
class Estimate:
    """What a run with the default parameters would take on this machine."""

    least_bytes: int
    """Memory of one worker on the smallest blocks: what ``--memory`` must be at least."""
    planned_bytes: int
    """Memory that a run plans without ``--memory``."""
    workers: int
    blocks: int
    core: Shape
    seconds: float | None
    """Time, from a small part of this volume; None where the kernels are not compiled yet."""


def estimate_cells(volume: Volume, prepared: Prepared, read_seconds_per_voxel: float) -> Estimate:
    """Memory, blocks and time of a run that is prepared.

    Parameters
    ----------
    volume
        The volume; a part from its middle is read.
    prepared
        From :func:`cytolith.cells.pipeline.prepare`.
    read_seconds_per_voxel
        How long reading takes, as it was measured on the same volume.
    """
    plan = prepared.plan
    least = _smallest_bytes(volume.shape, prepared.costs)
    seconds = None
    if compiled_before():
        per_voxel = _seconds_per_voxel(volume) + read_seconds_per_voxel
        noise = min(max(READ_VOXELS, math.prod(volume.shape) // 50), math.prod(volume.shape))
        at_once = min(plan.workers, default_workers())
        seconds = _START_SECONDS + (plan.voxels_read + noise) * per_voxel / at_once
    return Estimate(least, plan.bytes_total, plan.workers, len(plan.blocks), plan.core, seconds)


def _seconds_per_voxel(volume: Volume) -> float:
    """Time of one thread for a voxel, all steps, in the middle of the volume."""
    _run(volume, (16, 48, 48))  # loads what is compiled
    return _run(volume, _CROP)


def _run(volume: Volume, extent: Shape) -> float:
    """Find the cells of a part of a volume; the time of the steps for each of its voxels."""
    z, y, x = (slice((s - min(e, s)) // 2, (s + min(e, s)) // 2) for e, s in zip(extent, volume.shape, strict=True))
    voxels = volume.read((z, y, x))
    if voxels.dtype.kind == "f":  # a run refuses them; here it is about time
        voxels = np.nan_to_num(voxels, nan=0, posinf=0, neginf=0)
    part = open_volume(voxels, voxel_size=volume.voxel_size)
    seconds = execute(prepare(part, CellsConfig(), workers=1, block=part.shape, memory=2**62)).seconds
    # what is left of the time by the clock does not grow with the volume
    return sum(time for step, time in seconds.items() if step not in ("read", "run")) / math.prod(part.shape)
