"""What a user should know about a result, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cytolith.cells.config import CellsConfig
from cytolith.cells.results import Tally
from cytolith.cells.task import MASK_SHARE
from cytolith.io.volume import Volume


def hints_of(
    config: CellsConfig, volume: Volume, noise: float | None, thresholds: Mapping[str, float], tally: Tally
) -> list[str]:
    """One sentence for each thing worth knowing about a finished run."""
    hints = []
    if volume.voxel_size is None:
        hints.append(
            "the voxel size is unknown: lengths that were not given are those for voxels of about 6 x 1.6 x 1.6 um, "
            "and the table has no micrometres; add --voxel-size Z,Y,X"
        )
    if noise == 0:
        hints.append(
            "the noise is 0 (the volume is flat, or most of it has one grey value), so thresholds in mad are 0 too; "
            "give grey values"
        )
    if config.maxima_detection is None:
        hints.append("maxima_detection is off: no cells were looked for")
    elif tally.rows == 0:
        shown = ", ".join(f"{name} = {value:.6g}" for name, value in thresholds.items()) or "no threshold"
        hints.append(
            f"no cells: nothing reached {shown}; the largest value of the image they apply to is "
            f"{tally.brightest:.6g}: "
            + (
                "lower --maxima-detection.threshold or --shape-detection.threshold"
                if tally.brightest > 0
                else "it is flat, or the footprint of the background correction is smaller than a cell"
            )
        )
    lowest, mask = (thresholds.get(f"{name}_detection.threshold") for name in ("maxima", "shape"))
    if lowest is not None and mask is not None and 0 < lowest < mask:
        hints.append(
            f"maxima count from {lowest:.6g} on, but shapes lie above {mask:.6g}: dimmer cells have no shape and are "
            "not listed; lower --shape-detection.threshold too"
        )
    voxels = math.prod(volume.shape)
    if voxels and tally.mask_voxels > MASK_SHARE * voxels:
        hints.append(
            f"{tally.mask_voxels:,} voxels ({100 * tally.mask_voxels / voxels:.0f} %) lie above the shape threshold: "
            "cells will run into each other; raise --shape-detection.threshold"
        )
    if tally.truncated:
        hints.append(
            f"{tally.truncated:,} of {tally.rows:,} cells are marked truncated: they go on beyond what memory holds "
            "at once; give more --memory or fewer --workers"
        )
    return hints
