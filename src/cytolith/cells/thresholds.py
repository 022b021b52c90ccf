"""The threshold that decides which maxima can become rows."""

from __future__ import annotations

import math

import numpy as np

from cytolith.cells.config import CellsConfig


def seed_threshold(config: CellsConfig) -> float | None:
    """Least value of a maximum that can become a row.

    A local maximum that is not above the shape threshold is outside the mask, gets size 0 and is dropped in the end:
    not looking for it saves most of the work when its own threshold is low, and the memory of a plateau where an image
    is flat. Not so with a height, where a maximum is a region.
    """
    assert config.maxima_detection is not None
    own = config.maxima_detection.threshold
    shape = config.shape_detection.threshold if config.shape_detection is not None else None
    if config.maxima_detection.h_max is not None or shape is None:
        return None if own is None else own.value
    # a maximum counts from its threshold on, a mask above its own
    above = float(np.float32(shape.value))
    if above <= shape.value:
        above = float(np.nextafter(np.float32(above), np.float32(math.inf)))
    return above if own is None else max(own.value, above)
