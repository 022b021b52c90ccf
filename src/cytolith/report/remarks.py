"""What a reader of a report should know about a result, in words: what a run noted, and what the volume shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.report.overview import Overview
from cytolith.report.page import DASH, share

WITHIN_NOISE = 3.0
"""Multiple of the noise below which a threshold for maxima lets noise pass."""
_FULL_SCALES = {2**bits - 1 for bits in (8, 10, 12, 14, 15, 16)}
_FEW = 10
"""Voxels of one largest value that may be chance where it is not the largest that the type has."""


def saturated_voxels(seen: Overview) -> int:
    """Voxels at the end of the camera's range; 0 where the largest value is none that a camera ends at."""
    if seen.dtype.kind not in "ui" or int(seen.top) not in _FULL_SCALES:
        return 0
    is_limit = int(seen.top) == np.iinfo(seen.dtype).max
    return seen.top_count if is_limit or seen.top_count >= _FEW else 0


def flat_planes(seen: Overview) -> NDArray[np.int64]:
    """Planes of a single grey value."""
    flat: NDArray[np.int64] = seen.planes[seen.highest <= seen.lowest]
    return flat


def silent_planes(cells: NDArray[np.int64], flat: NDArray[np.int64]) -> NDArray[np.int64]:
    """Planes without a cell where their neighbourhood has many: out of focus, dark or damaged; flat ones left out.

    Parameters
    ----------
    cells
        Cells of each plane.
    flat
        Planes that are known to be empty.
    """
    reach = 5
    padded = np.pad(cells.astype(np.float64), reach, mode="reflect" if len(cells) > reach else "edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    found = np.flatnonzero((cells == 0) & (np.median(around, axis=1) >= 20))
    return np.setdiff1d(found, flat)


def ranges_text(numbers: Sequence[int] | NDArray[np.int64], most: int = 12) -> str:
    """Whole numbers as people list them: ``0-3, 17, 20-21``; shortened after so many ranges."""
    values = np.unique(np.asarray(numbers, np.int64))
    if not values.size:
        return ""
    parts = [(int(run[0]), int(run[-1])) for run in np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)]
    texts = [f"{first}" if first == last else f"{first}{DASH}{last}" for first, last in parts]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more ranges" if len(texts) > most else "")


def cells_remarks(
    record: Mapping[str, Any], cells: NDArray[np.int64], truncated: int, seen: Overview | None, missing: str | None
) -> list[str]:
    """Sentences for a run of cells.

    Parameters
    ----------
    record
        ``run.json``.
    cells
        Cells of each plane.
    truncated
        Rows that are marked so.
    seen
        What the volume is like; None when it could not be read.
    missing
        Why that is.
    """
    remarks = [str(hint) for hint in record.get("hints", ())]
    if truncated and not any("truncated" in hint for hint in remarks):
        remarks.append(
            f"{truncated:,} of {int(cells.sum()):,} cells are marked truncated: they go on beyond what memory held at "
            "once, so their sizes and intensities may be of a part of them. More memory or fewer workers settles them."
        )
    noise = record.get("noise")
    threshold = record.get("thresholds", {}).get("maxima_detection.threshold")
    if noise and threshold is not None and threshold < WITHIN_NOISE * noise:
        remarks.append(
            f"The threshold for maxima ({threshold:.4g}) lies within the noise: it is {threshold / noise:.2g} times "
            f"the noise of {noise:.4g}, so that many cells may be chance. Raise --maxima-detection.threshold."
        )
    if missing is not None:
        remarks.append(f"{missing} This page shows what the run folder holds; pictures of the volume are left out.")
    if seen is None:
        return remarks
    saturated = saturated_voxels(seen)
    if saturated:
        of = share(saturated, seen.voxels)
        remarks.append(
            f"{saturated:,} voxels ({of}) are saturated: they have the largest grey value, {int(seen.top):,}. "
            "Intensities of cells there are too low, and neighbours may run into each other."
        )
    flat = flat_planes(seen)
    if flat.size:
        one = flat.size == 1
        remarks.append(
            f"{flat.size:,} plane{'' if one else 's'} without signal (a single grey value): {ranges_text(flat)}. "
            "No cell can be found there."
        )
    silent = silent_planes(cells, flat)
    if silent.size:
        remarks.append(
            f"No cell in plane{'s' if silent.size > 1 else ''} {ranges_text(silent)}, while the planes around have "
            "many: look whether they are out of focus or dark."
        )
    return remarks
