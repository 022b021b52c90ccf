"""The rule about what lies beside a brighter background: of all rules about surroundings the one that carried over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, region_origin
from cytolith.cells.config import CellsConfig
from cytolith.cells.images import Image, triple
from cytolith.engine.grid import Block
from cytolith.kernels.surroundings import background_near


def beside_brighter(
    images: dict[str, Image], block: Block, known: Region, at: NDArray[np.int64], config: CellsConfig
) -> NDArray[np.bool_]:
    """Whether positions in the volume lie beside a much brighter background, as far as it is known."""
    assert config.background_jump is not None
    assert config.background_jump.ratio is not None
    assert config.background_jump.radius is not None
    assert config.maxima_detection is not None
    origin = region_origin(block.read)
    z, y, x = (slice(k.start - o, k.stop - o) for k, o in zip(known, origin, strict=True))
    before, after = images["illumination_correction"], images["background_correction"]
    radius = triple(config.background_jump.radius)
    own, largest = background_near(before, after, at - np.array(origin), radius, (z, y, x))
    # A rim that passes the threshold needs a step that does. So the noise of a dark background is no jump; and where
    # the camera's offset was taken off, a ratio says nothing.
    threshold = config.maxima_detection.threshold
    step = 0.0 if threshold is None else threshold.value
    return (own > 0) & (largest > config.background_jump.ratio * own) & (largest - own > step)
