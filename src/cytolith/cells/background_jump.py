"""The rule about what lies beside a brighter background: of all rules about surroundings the one that carried over."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, region_origin
from cytolith.cells.config import CellsConfig
from cytolith.cells.images import Image, triple
from cytolith.engine.grid import Block
from cytolith.kernels.surroundings import background_near

Backgrounds: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]


def backgrounds(
    images: dict[str, Image], block: Block, known: Region, at: NDArray[np.int64], config: CellsConfig
) -> Backgrounds:
    """Background at positions in the volume and the largest one near them, in the part of it that is known."""
    assert config.background_jump is not None
    assert config.background_jump.radius is not None
    origin = region_origin(block.read)
    before, after = images["illumination_correction"], images["background_correction"]
    return background_near(
        before, after, at - np.array(origin), triple(config.background_jump.radius), inside(known, block.read)
    )


def inside(region: Region, outer: Region) -> Region:
    """A region as seen from one around it."""
    z, y, x = (slice(r.start - o.start, r.stop - o.start) for r, o in zip(region, outer, strict=True))
    return z, y, x


def beside_brighter(
    images: dict[str, Image],
    block: Block,
    known: Region,
    at: NDArray[np.int64],
    config: CellsConfig,
    seen: Backgrounds | None = None,
) -> NDArray[np.bool_]:
    """Whether positions in the volume lie beside a much brighter background, as far as it is known.

    The background at the positions and the largest one near them may have been `seen` already.
    """
    assert config.background_jump is not None
    assert config.background_jump.ratio is not None
    assert config.background_jump.radius is not None
    assert config.maxima_detection is not None
    own, largest = backgrounds(images, block, known, at, config) if seen is None else seen
    # A rim that passes the threshold needs a step that does. So the noise of a dark background is no jump; and where
    # the camera's offset was taken off, a ratio says nothing.
    threshold = config.maxima_detection.threshold
    step = 0.0 if threshold is None else threshold.value
    return (own > 0) & (largest > config.background_jump.ratio * own) & (largest - own > step)
