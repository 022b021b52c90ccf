"""Whether a run uses GPUs, and how large its blocks may be for them: arithmetic before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cytolith.axes import Shape
from cytolith.cells.config import CellsConfig
from cytolith.cells.images import image_dtypes
from cytolith.engine.executors import Pool
from cytolith.engine.gpus import DEVICES, GpuError, GpuPlan, plan_lanes
from cytolith.engine.grid import Costs, largest_read, smallest_voxels, tile
from cytolith.errors import ConfigError
from cytolith.io.volume import Volume

SPARSE_BYTES = 6.0
"""Memory on a GPU for each voxel of a block besides its images: lists of maxima, and of what is above the threshold
where that is a fifth of all voxels."""


@dataclass(frozen=True)
class GpuUse:
    """What GPUs do in a run."""

    plan: GpuPlan
    most_voxels: int
    """Voxels of the largest block that a lane holds."""


def gpu_bytes_per_voxel(config: CellsConfig, dtype: np.dtype[Any]) -> float:
    """Memory of a lane for each voxel of a block: the source, an image a step, and lists."""
    total = dtype.itemsize + sum(each.itemsize for each in image_dtypes(config, dtype).values()) + SPARSE_BYTES
    if config.background_correction is not None:
        # what is eroded: of all planes at most, and for footprints too large for tiles of few planes with surroundings
        total += dtype.itemsize if config.illumination_correction is None else 4
    if config.equalization is not None and config.equalization.mask is not None:
        total += 1.0
    return total


def plan_gpus(
    device: str, pool: Pool, config: CellsConfig, volume: Volume, costs: Costs, core: Shape | None
) -> tuple[Costs, GpuUse | None, tuple[str, ...]]:
    """Costs of a run with the limit that GPUs set, what they do in it, and what the user should know.

    Parameters
    ----------
    device
        ``"cpu"``, ``"gpu"`` or ``"auto"``.
    pool
        Where blocks run.
    config
        Parameters in voxels.
    volume
        The volume.
    costs
        Without GPUs.
    core
        Extent of a block's core, where the user gave it.

    Raises
    ------
    ConfigError
        The device is none of these, or a GPU is asked for and there is none of use; says why.
    """
    if device not in DEVICES:
        raise ConfigError(f"--device {device}: give {', '.join(DEVICES)}")
    if device == "cpu":
        return costs, None, ()
    each = gpu_bytes_per_voxel(config, volume.dtype)
    if core is None:
        least = smallest_voxels(volume.shape, costs)
    else:
        least = largest_read(tile(volume.shape, core, costs.halo))
    try:
        plan = plan_lanes(pool.gpus(), threads=pool.threads, least=math.ceil(least * each))
    except GpuError as error:
        if device == "gpu":
            raise ConfigError(f"--device gpu: {error}; --device auto uses the CPU then") from error
        return costs, None, (f"no GPU is used: {error}",)
    most = int(plan.bytes_lane / each)
    return replace(costs, most_voxels=most), GpuUse(plan, most), ()
