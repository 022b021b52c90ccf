"""Which cells are shown closely: some at random, and those that only just passed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import VoxelSize
from cytolith.cells.config import CellsConfig
from cytolith.io.volume import Volume
from cytolith.report.cutouts import FINAL, PANE, Cutter, draw, half_of
from cytolith.report.images import image_uri
from cytolith.report.page import number

SHOWN = 20
"""Cells of each kind."""
SEED = 20
_CANDIDATES = 60
"""Cells whose peak is computed again to find those nearest to the threshold."""
_DECODED = 1_500_000_000
"""Voxels that may be read or decoded for all of this."""
_LEAST = 6
_NARROWEST_UM, _NARROWEST_VOXELS = 40.0, 24.0
_PROXIES = (FINAL, "smoothing", "equalization", "background_correction", "source")


@dataclass(frozen=True)
class CloseUps:
    """Pictures of cells with their captions."""

    random: list[dict[str, str]]
    borderline: list[dict[str, str]]
    width: str
    """Edge of each plane, with its unit."""
    outlines: bool
    """Whether the outlines of the run could be computed again."""
    candidates: int
    """Cells among which the borderline ones were looked for."""
    proxy: str
    """Column by which those were chosen."""
    threshold: float | None


def close_ups(
    record: Mapping[str, Any],
    table: Mapping[str, NDArray[Any]],
    centres: NDArray[np.float64],
    volume: Volume,
    config: CellsConfig,
    size: VoxelSize | None,
) -> CloseUps:
    """Random and borderline cells of a run.

    Borderline are those whose peak, in the image that maxima are looked for in, exceeds the threshold least. The table
    does not hold it: it is computed again for the cells that are lowest in the nearest measure that the table has.

    Raises
    ------
    VolumeError, ConfigError
        The volume, or a file that a step needs, cannot be read.
    """
    width = _width(table, size)
    cutter = Cutter(volume, config, record.get("noise"), half_of(width, size))
    affordable = max(_DECODED // cutter.decoded, 1)
    count = len(centres)
    shown = int(min(SHOWN, count, max(_LEAST, affordable // 4)))
    generator = np.random.default_rng(SEED)
    random = np.sort(generator.choice(count, shown, replace=False))
    pictures = [_picture(cutter, table, centres, row, width, size, None) for row in random]
    outlines = any(outlined for _, outlined in pictures)
    threshold = record.get("thresholds", {}).get("maxima_detection.threshold")
    proxy = next((name for name in _PROXIES if name in table), "")
    candidates = int(min(count, max(shown, min(_CANDIDATES, affordable // 2))))
    borderline: list[dict[str, str]] = []
    if outlines and threshold is not None:
        order = table[proxy] if proxy else generator.random(count)
        lowest = np.argpartition(order, candidates - 1)[:candidates]
        peaks = {int(row): cutter.look(centres[row], shown=False).peak for row in np.sort(lowest)}
        known = sorted((peak, row) for row, peak in peaks.items() if peak is not None)
        borderline = [_picture(cutter, table, centres, row, width, size, peak)[0] for peak, row in known[:shown]]
    unit = "voxels" if size is None else "µm"
    return CloseUps(
        [picture for picture, _ in pictures],
        borderline,
        f"{width:g} {unit}",
        outlines,
        candidates,
        proxy.replace("_", " "),
        threshold,
    )


def _width(table: Mapping[str, NDArray[Any]], size: VoxelSize | None) -> float:
    """Edge of what is shown around a cell: a few times the diameter of a large one."""
    narrowest = _NARROWEST_VOXELS if size is None else _NARROWEST_UM
    sizes = np.asarray(table.get("size", np.empty(0)), np.float64)
    if not sizes.size:
        return narrowest
    volume = float(np.percentile(sizes, 90)) * math.prod(size or (1.0, 1.0, 1.0))
    diameter = 2 * (3 * volume / (4 * math.pi)) ** (1 / 3)
    return float(np.clip(math.ceil(2.5 * diameter / 10) * 10, narrowest, 5 * narrowest))


def _picture(
    cutter: Cutter,
    table: Mapping[str, NDArray[Any]],
    centres: NDArray[np.float64],
    row: int,
    width: float,
    size: VoxelSize | None,
    peak: float | None,
) -> tuple[dict[str, str], bool]:
    """Image and captions of a cell, and whether it has an outline."""
    centre = centres[row]
    look = cutter.look(centre)
    place = ", ".join(f"{axis} {round(float(value), 1):g}" for axis, value in zip("zyx", centre, strict=True))
    facts = [f"{int(table['size'][row]):,} voxels"] if "size" in table else []
    if peak is not None:
        facts.append(f"peak {number(peak)}")
    elif (column := next((name for name in ("source", "background_correction") if name in table), "")) != "":
        facts.append(f"{column.replace('_', ' ')} {number(float(table[column][row]))}")
    if "truncated" in table and bool(table["truncated"][row]):
        facts.append("truncated")
    uri = image_uri(draw(look, centre, width, size))
    alt = f"Planes z, y and x through the cell at {place}"
    caption = {"uri": uri, "place": place, "facts": " · ".join(facts), "alt": alt, "height": str(PANE)}
    return caption, look.labels is not None
