"""What a fracture run found, in numbers and words."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.engine.grid import Plan
from cytolith.fracture.clusters import Table
from cytolith.fracture.config import FractureConfig
from cytolith.io.volume import Volume

PERCENTILES = (1, 5, 25, 75, 95, 99)
REMOVED_SHARE = 0.05
"""Share of the offset map from which a run warns that the filter removed it."""
SOLID_SHARE = 0.5
"""Share of the volume from which a run asks whether rock was taken for fracture."""


def count_values(strips: Iterable[NDArray[Any]]) -> NDArray[np.int64]:
    """How often each value 0, 1, 2, ... occurs in strips of a map of non-negative integers."""
    counts = np.zeros(1, np.int64)
    for strip in strips:
        more = np.bincount(strip.ravel(), minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    return counts


def aperture_statistics(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Statistics of a map of apertures from how often each value occurs in it.

    Parameters
    ----------
    counts
        (largest aperture + 1,): cells of each aperture, closed ones (0) included.

    Returns
    -------
    dict
        ``mean``, ``median``, ``percentiles`` (linear between neighbours, as NumPy's), ``max`` over all cells;
        ``mean_open`` over those that are not closed (None when all are); ``zero_share``, a share of 1.
    """
    cells = int(counts.sum())
    total = int((counts * np.arange(len(counts))).sum())
    is_open = cells - int(counts[0])
    below = np.cumsum(counts)

    def percentile(q: float) -> float:
        place = (cells - 1) * q / 100
        low, high = (int(np.searchsorted(below, k, side="right")) for k in (math.floor(place), math.ceil(place)))
        return low + (high - low) * (place - math.floor(place))

    return {
        "mean": total / cells,
        "median": percentile(50),
        "percentiles": {str(q): percentile(q) for q in PERCENTILES},
        "max": int(np.flatnonzero(counts)[-1]),
        "mean_open": total / is_open if is_open else None,
        "zero_share": int(counts[0]) / cells,
    }


def in_micrometres(statistics: dict[str, Any], edge: float) -> dict[str, Any]:
    """Statistics of apertures in voxels, in micrometres for an edge of a voxel along the opening axis."""
    scaled = {name: None if value is None else value * edge for name, value in statistics.items() if name in _LENGTHS}
    return {**scaled, "percentiles": {q: value * edge for q, value in statistics["percentiles"].items()}}


_LENGTHS = ("mean", "median", "max", "mean_open")


def summarize(
    volume: Volume, config: FractureConfig, plan: Plan, paths: dict[str, Path], table: Table, kept: int
) -> dict[str, Any]:
    """What ``summary.json`` says of the input, the parameters and the clusters."""
    voxels = int(table["size"].sum())
    voxels_kept = int(table["size"][:kept].sum())
    return {
        "cytolith": importlib.metadata.version("cytolith"),
        "input": volume.name,
        "shape": list(volume.shape),
        "voxel_size_um": None if volume.voxel_size is None else list(volume.voxel_size),
        "axis": config.axis,
        "n": config.n,
        "threshold": config.threshold,
        "invert": config.invert,
        "clusters": len(table["id"]),
        "clusters_kept": kept,
        "voxels": voxels,
        "voxels_share": voxels / math.prod(volume.shape),
        "voxels_kept": voxels_kept,
        "voxels_removed": voxels - voxels_kept,
        "kept_percent": 100 * voxels_kept / voxels if voxels else None,
        "plan": {
            "blocks": len(plan.blocks),
            "planes": plan.core[0],
            "workers": plan.workers,
            "bytes": plan.bytes_total,
        },
        "outputs": {key: str(path) for key, path in paths.items()},
    }


def hints_of(summary: dict[str, Any], config: FractureConfig) -> list[str]:
    """What a user should know about a result, in words."""
    hints = []
    if summary["voxels"] == 0:
        hints.append(
            "no voxel is fracture: apertures are 0 and there is no offset; is it the other way round (--invert), or is "
            "--threshold too high?"
        )
    elif summary["voxels_share"] > SOLID_SHARE:
        hints.append(
            f"{100 * summary['voxels_share']:.0f} % of the volume is fracture: was rock taken for it? --invert "
            "exchanges the two"
        )
    if config.n is not None and 0 < summary["clusters"] < config.n:
        hints.append(f"-n {config.n}, but the stack holds only {summary['clusters']}: all were kept")
    removed = summary.get("offset", {}).get("removed_share", 0)
    if removed > REMOVED_SHARE:
        hints.append(
            f"the filter removed {100 * removed:.0f} % of the offset map and patching filled it again: --filter steep "
            "keeps what only steep cells cut off, --filter none keeps all"
        )
    return hints
