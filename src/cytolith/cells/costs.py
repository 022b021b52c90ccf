"""What a block must read around its core, and the memory it takes: arithmetic on the parameters, before any work."""

from __future__ import annotations

from typing import Any

import numpy as np

from cytolith.axes import Shape, VoxelSize
from cytolith.cells.config import CellsConfig
from cytolith.cells.features import features_reach
from cytolith.cells.images import dense_halo, image_dtypes, triple
from cytolith.cells.seeds import lists_flat, seed_reach
from cytolith.kernels.maxima import maxima_reach

ROOM_UM = 32.0
"""Room for a cell around a core, in micrometres. It changes no row: who needs more is read again. On a phantom of
13,000 cells a cubic millimetre, cut into cores of 64 x 256 x 256 voxels of 6 x 1.62 x 1.62 um, the blocks read 1.45,
1.38, 1.32, 1.27 times the volume with 32, 24, 16, 12 um, and 0.03, 0.08, 0.26, 0.49 times again in 7, 21, 46, 57
regions: the time is least with 32 or 24, and planes that are decoded again for single regions speak for 32."""
ROOM_VOXELS = 16
"""The same when the voxel size is unknown."""


def clear_reach(config: CellsConfig) -> Shape:
    """Voxels around a maximum within which something unknown makes it, or its shape, unknown: the least halo."""
    arm = seed_reach(config)
    z, y, x = (
        d + max(w + arm, n) for d, w, n in zip(dense_halo(config), _window(config), near_reach(config), strict=True)
    )
    return z, y, x


def near_reach(config: CellsConfig) -> Shape:
    """Voxels around a maximum that decide whether it is kept, beside the images' own reach."""
    reaches: list[tuple[int, ...]] = [(0, 0, 0)]
    if config.background_jump is not None and config.background_jump.radius is not None:
        reaches.append(triple(config.background_jump.radius))
    if config.features is not None and config.maxima_detection is not None:
        reaches.append(features_reach(config.features))
    z, y, x = (max(axis) for axis in zip(*reaches, strict=True))
    return z, y, x


def _window(config: CellsConfig) -> Shape:
    if config.maxima_detection is None or config.maxima_detection.shape is None:
        return 0, 0, 0
    return maxima_reach(triple(config.maxima_detection.shape))


def block_halo(config: CellsConfig, voxel_size: VoxelSize | None) -> Shape:
    """Voxels that a block reads around its core: reach of the image steps, of the maxima, and room for cells."""
    window = _window(config)
    ball = (0, 0, 0)
    if config.intensity_detection is not None and config.intensity_detection.shape is not None:
        ball = triple(config.intensity_detection.shape)
    room = [ROOM_VOXELS] * 3 if voxel_size is None else [max(2, round(ROOM_UM / edge)) for edge in voxel_size]
    z, y, x = (d + w + max(r, 2 * w, b) for d, w, r, b in zip(dense_halo(config), window, room, ball, strict=True))
    near = clear_reach(config)
    z, y, x = max(z, near[0]), max(y, near[1]), max(x, near[2])
    return z, y, x


def bytes_per_voxel(config: CellsConfig, dtype: np.dtype[Any]) -> float:
    """Memory of a block for each voxel that it reads.

    The source and that of the next block, an image a step, and what follows the thresholds.
    """
    total = 2.0 * dtype.itemsize + sum(d.itemsize for d in image_dtypes(config, dtype).values())
    if config.equalization is not None:
        total += 4.0  # sorted copies of the windows
        total += 2.0 if config.equalization.mask is not None else 0.0
    if config.features is not None:
        total += 16.0  # two more smoothings, the background, and the image as real numbers
    maxima, shapes = config.maxima_detection, config.shape_detection
    if maxima is not None:
        total += (1.0 if maxima.h_max is not None else 0.0) + (2.0 if maxima.save else 0.0)
        if lists_flat(config):
            total += 370.0 if seed_reach(config) else 230.0  # every voxel with its seed and its row
    if shapes is not None:
        total += 48.0 if shapes.threshold is None else 0.0  # all of the block is flooded
        total += 4.0  # runs, labels and flood of a fifth of the voxels
        total += 8.0  # the box around the largest group of touching cells, which may be all of the block
        total += 16.0 if shapes.save else 0.0  # dense labels and keys
    return total
