"""What shapes grow from: which maxima can become rows, and the voxels of their seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.cells.config import CellsConfig
from cytolith.cells.resolve import whole

CROSS_ARM = 1
"""Voxels that a cross reaches beyond its centre."""
_CROSS = np.array([[0, 0, 0], [-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])


def seed_threshold(config: CellsConfig) -> float | None:
    """Least value of a maximum that can become a row.

    A local maximum that is not above the shape threshold is outside the mask, gets size 0 and is dropped in the end:
    not looking for it saves most of the work when its own threshold is low, and the memory of a plateau where an image
    is flat. Not so with a height, where a maximum is a region; nor with crosses, where maxima are saved, those without
    a row too, or where the window is smaller than the cross, so that an arm of it may lie in the mask.
    """
    step = config.maxima_detection
    assert step is not None
    own = step.threshold
    shape = config.shape_detection.threshold if config.shape_detection is not None else None
    if step.h_max is not None or shape is None or _needs_all(config):
        return None if own is None else own.value
    # a maximum counts from its threshold on, a mask above its own
    above = float(np.float32(shape.value))
    if above <= shape.value:
        above = float(np.nextafter(np.float32(above), np.float32(math.inf)))
    return above if own is None else max(own.value, above)


def lists_flat(config: CellsConfig) -> bool:
    """Whether every voxel of a part that is flat at 0, as after its background was taken off, is a maximum."""
    step = config.maxima_detection
    if step is None or step.merge_plateaus or step.h_max is not None:
        return False
    lowest = seed_threshold(config)
    return lowest is None or lowest <= 0


def crosses(centres: NDArray[Any], shape: Shape) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Seeds of seven voxels, the voxel of a centre and its face neighbours, clipped to the image.

    Parameters
    ----------
    centres
        (n, 3): z, y, x in voxels of the image; parts of a voxel are cut off.
    shape
        Extent of the image (z, y, x).

    Returns
    -------
    starts, voxels
        int64: seed i has the flat indices ``voxels[starts[i]:starts[i + 1]]``.
    """
    voxels = centres.astype(np.int64)[:, None] + _CROSS
    inside = ((voxels >= 0) & (voxels < shape)).all(2)
    flat = (voxels[..., 0] * shape[1] + voxels[..., 1]) * shape[2] + voxels[..., 2]
    return np.concatenate([[0], np.cumsum(inside.sum(1))]), flat[inside]


def seed_reach(config: CellsConfig) -> int:
    """Voxels that a seed may reach beyond its maximum."""
    return CROSS_ARM if config.shape_detection is not None and config.shape_detection.from_crosses else 0


def _needs_all(config: CellsConfig) -> bool:
    """Whether maxima outside the mask make a difference."""
    step = config.maxima_detection
    assert step is not None
    if seed_reach(config) == 0:
        return False
    return step.save is not None or step.shape is None or min(whole(step.shape)) < 2 * CROSS_ARM + 1
