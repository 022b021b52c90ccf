"""The noise of a volume from a fixed sample of it: one number, the same whatever the blocks are.

The sample is a set of tiles of single planes, spread over the volume by a rule that knows only its shape. Each is
read with the halo that the image steps need, run through them, and the core voxels of all tiles together give the
median absolute deviation. On annotated brains a threshold in multiples of this number carried over between samples
where grey values did not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.engine.grid import Block, halo_block

TILE = 512
"""Largest extent of a tile in y and x."""
MOST_TILES = 32
"""Tiles at most: the standard error of the noise is then far below one per cent."""
READ_VOXELS = 2_000_000
"""Voxels that the sample may read, halos included, unless one in fifty of the volume is more."""
_R2 = (0.7548776662466927, 0.5698402909980532)
"""Steps of the two-dimensional low-discrepancy sequence R2 (Roberts 2018): tiles spread evenly without a pattern."""


def sample_blocks(shape: Shape, halo: Shape) -> list[Block]:
    """Tiles of the sample as blocks: the core is what is sampled, `read` what the image steps need for it."""
    z, y, x = shape
    core = (1, min(TILE, y), min(TILE, x))
    cost = math.prod(min(c + 2 * h, s) for c, h, s in zip(core, halo, shape, strict=True))
    budget = max(READ_VOXELS, z * y * x // 50)
    count = max(1, min(MOST_TILES, z, budget // cost))
    blocks = []
    for index in range(count):
        # whole arithmetic up to the last step: the same tiles on every machine
        origin = (
            (2 * index + 1) * z // (2 * count),
            int((0.5 + index * _R2[0]) % 1 * (y - core[1] + 1)),
            int((0.5 + index * _R2[1]) % 1 * (x - core[2] + 1)),
        )
        tz, ty, tx = (slice(at, at + extent) for at, extent in zip(origin, core, strict=True))
        blocks.append(halo_block(index, (tz, ty, tx), halo, shape))
    return blocks


def robust_noise(values: NDArray[Any]) -> float:
    """Standard deviation of normal noise with the median absolute deviation of these values; 0 without values."""
    if values.size == 0:
        return 0.0
    if values.dtype.kind in "iu":  # few different values: counting is several times faster than sorting
        lowest = int(values.min())
        counts = np.bincount(values.ravel().astype(np.int64) - lowest)
        levels = np.arange(counts.size, dtype=np.float64)
        middle = _median(levels, counts)
        return 1.4826 * _median(np.abs(levels - middle), counts)
    sample = values.astype(np.float64)
    sample -= np.median(sample)
    return 1.4826 * float(np.median(np.abs(sample, out=sample)))


def _median(levels: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Median of levels that occur so many times each."""
    order = np.argsort(levels, kind="stable")
    ends = np.cumsum(counts[order])
    lower, upper = np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")
    return float(levels[order[lower]] + levels[order[upper]]) / 2
