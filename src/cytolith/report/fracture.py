"""What the page of a fracture run shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, Shape, VoxelSize
from cytolith.errors import CytolithError, VolumeError
from cytolith.fracture.source import Source
from cytolith.io.tables import read_table
from cytolith.kernels.projection import map_shape
from cytolith.report.charts import BLUE, GREY, INK, ORANGE, new_figure, style
from cytolith.report.fracture_maps import (
    PROJECTED_VOXELS,
    Patches,
    SmallMap,
    count_apertures,
    find_patches,
    read_small,
)
from cytolith.report.images import contrast, figure_uri
from cytolith.report.page import TIMES, duration, number, share
from cytolith.report.run_record import open_first, read_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING, REMOVED = (255, 255, 255), (224, 33, 138)
"""White and magenta: told apart from each other and from the colours of the map, also by the colour-blind."""
_LARGEST = 10
_WIDTH = 7.4
_DOTS = 140
_MOST_POINTS = 2000
_MM_FROM = 5000
"""Micrometres from which scales are in millimetres."""


def fracture_page(folder: Path, notes: Callable[[list[str]], None]) -> dict[str, Any]:
    """Values for the template of a fracture run.

    Parameters
    ----------
    folder
        What the run wrote.
    notes
        Gets what cannot be shown, in words.

    Raises
    ------
    VolumeError
        ``summary.json`` cannot be read.
    """
    summary = read_record(folder / "summary.json")
    try:
        shape: Shape = (int(summary["shape"][0]), int(summary["shape"][1]), int(summary["shape"][2]))
        axis = str(summary["axis"])
        counts = int(summary["clusters"]), int(summary["clusters_kept"])
    except (KeyError, TypeError, ValueError, IndexError):
        raise VolumeError(f"{folder / 'summary.json'}: is not the summary of a fracture run") from None
    size: VoxelSize | None = None if summary.get("voxel_size_um") is None else tuple(summary["voxel_size_um"])
    remarks = [str(hint) for hint in summary.get("hints", ())]
    cells = map_shape(shape, axis)
    files = {name: locate(folder, summary, name) for name in ("aperture_map", "offset_map", "clusters", "stack")}

    def shown(name: str, make: Callable[[Path], Any]) -> Any:
        """What is made of a file; a remark when it was written and is gone, or cannot be read."""
        path = files[name]
        if path is None:
            if name in summary.get("outputs", {}):
                remarks.append(f"{summary['outputs'][name]} is not there any more, so what it holds is not shown.")
            return None
        try:
            return make(path)
        except CytolithError as error:
            remarks.append(f"{error}.")
            notes([str(error)])
            return None

    aperture = shown("aperture_map", lambda path: read_small(path, cells))
    apertures = shown("aperture_map", lambda path: count_apertures(path, cells)) if aperture else None
    offset = shown("offset_map", lambda path: read_small(path, cells))
    clusters = shown("clusters", lambda path: read_table(path)[0])
    patches = None
    if aperture and offset and files["aperture_map"] and files["offset_map"]:
        source = _projected(folder, summary, files["stack"], shape, size)
        patches = find_patches(files["aperture_map"], files["offset_map"], cells, source, axis)
    names = [name for name in AXES if name != axis]
    edges = None if size is None else (size[AXES.index(names[0])], size[AXES.index(names[1])])
    opening = None if size is None else size[AXES.index(axis)]
    return {
        "title": folder.resolve().name,
        "input": summary.get("input", ""),
        "started": "",
        "version": summary.get("cytolith", ""),
        "facts": _facts(summary, shape, size, counts),
        "remarks": remarks,
        "axis": axis,
        "aperture": None if aperture is None else _map_uri(aperture, names, edges, "aperture (voxels)"),
        "offset": None if offset is None else _map_uri(offset, names, edges, "offset (voxels)"),
        "patches": None if patches is None or offset is None else _layer_uri(offset, edges, patches),
        "knows_removed": patches is not None and patches.removed is not None,
        "histogram": None if apertures is None else figure_uri(_aperture_histogram(apertures, opening)),
        "statistics": _statistics(summary, opening),
        "offset_summary": summary.get("offset"),
        "share": share,
        "cluster_chart": None if clusters is None or not counts[0] else figure_uri(_cluster_chart(clusters)),
        "clusters": [] if clusters is None else _largest(clusters),
        "counts": counts,
        "summary": summary,
        "seconds": {name: duration(float(value)) for name, value in summary.get("seconds", {}).items()},
        "settings": _settings(summary),
    }


def locate(folder: Path, summary: Mapping[str, Any], name: str) -> Path | None:
    """Where a file of a run is now, which may have been moved with its folder; None when it is nowhere."""
    outputs = summary.get("outputs", {})
    if name not in outputs:
        return None
    written = Path(outputs[name])
    places = [folder / written.name]
    if "summary" in outputs:
        base = Path(outputs["summary"]).parent
        if written.is_relative_to(base):
            places.insert(0, folder / written.relative_to(base))
    return next((place for place in [*places, written] if place.exists()), None)


def _projected(
    folder: Path, summary: Mapping[str, Any], stack: Path | None, shape: Shape, size: VoxelSize | None
) -> Source | None:
    """What the maps are of: the stack that was kept, or the input when all of it was; None when that is not at hand."""
    if math.prod(shape) > PROJECTED_VOXELS:
        return None
    try:
        if summary.get("n") is None:
            volume, _ = open_first([str(summary.get("input", ""))], folder, size, {})
            source = Source(volume, summary.get("threshold"), bool(summary.get("invert")))
        elif stack is not None:
            source = Source(open_first([str(stack)], folder, size, {})[0])
        else:
            return None
    except CytolithError:
        return None
    return source if source.volume.shape == shape else None


def _facts(
    summary: Mapping[str, Any], shape: Shape, size: VoxelSize | None, counts: tuple[int, int]
) -> list[tuple[str, str, str]]:
    aperture, kept = summary.get("aperture") or {}, int(summary.get("voxels_kept", 0))
    in_um = summary.get("aperture_um") or {}
    edges = "voxel size unknown" if size is None else f"{TIMES.join(f'{e:g}' for e in size)} µm (z, y, x)"
    seconds = sum(float(value) for value in summary.get("seconds", {}).values())
    facts = [("Volume", TIMES.join(f"{n:,}" for n in shape), edges)]
    if aperture:
        micrometres = f"{number(in_um['mean'])} µm, " if in_um.get("mean") is not None else ""
        facts.append(("Mean aperture", f"{number(aperture['mean'])} voxels", f"{micrometres}over all cells of the map"))
        facts.append(("Closed", share(aperture["zero_share"], 1), "of the cells of the map"))
    facts.append(("Kept", f"{kept:,} voxels", share(kept, int(summary.get("voxels", 0))) + " of the fracture"))
    facts.append(("Clusters kept", f"{counts[1]:,} of {counts[0]:,}", ""))
    if seconds:
        facts.append(("Time", duration(seconds), f"{number(math.prod(shape) / seconds / 1e6)} Mvoxel/s"))
    return facts


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    threshold = "not 0" if summary.get("threshold") is None else f"above {summary['threshold']:g}"
    if summary.get("invert"):
        threshold = "0" if summary.get("threshold") is None else f"not above {summary['threshold']:g}"
    n = summary.get("n")
    plan = summary.get("plan", {})
    rows = [
        ("a voxel is fracture where it is", threshold),
        ("opening axis", str(summary.get("axis"))),
        ("clusters to keep", "all" if n is None else str(n)),
    ]
    if plan:
        rows.append(("blocks", f"{plan.get('blocks', 0):,} of {plan.get('planes', 0):,} planes"))
        rows.append(("workers", str(plan.get("workers", ""))))
    offset = summary.get("offset") or {}
    if offset:
        rows.append(("interpolation of holes", str(offset.get("interpolation"))))
        rows.append(("filter", f"{offset.get('filter')}, percentile {offset.get('percentile', 0):g}"))
    return rows


def _statistics(summary: Mapping[str, Any], edge: float | None) -> list[tuple[str, str, str]]:
    """Rows of the aperture's statistics: name, voxels, micrometres."""
    found = summary.get("aperture")
    if not found:
        return []
    rows = [("mean", found["mean"]), ("mean of open cells", found["mean_open"])]
    rows += [(f"{q}th percentile" if q != "1" else "1st percentile", v) for q, v in found["percentiles"].items()]
    rows.insert(5 if len(rows) > 5 else len(rows), ("median", found["median"]))
    rows.append(("largest", found["max"]))
    return [
        (name, number(value), "" if edge is None or value is None else number(float(value) * edge))
        for name, value in rows
    ]


def _largest(clusters: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """The largest clusters, as rows."""
    rows = []
    for k in range(min(len(clusters["voxels"]), _LARGEST)):
        spans = [axis for axis in AXES if f"spans_{axis}" in clusters and bool(clusters[f"spans_{axis}"][k])]
        rows.append(
            {
                "id": int(clusters["id"][k]),
                "voxels": int(clusters["voxels"][k]),
                "share": share(float(clusters["share"][k]), 1),
                "kept": bool(clusters["kept"][k]),
                "spans": ", ".join(spans) or "none",
            }
        )
    return rows


def _map_figure(small: SmallMap, edges: tuple[float, float] | None) -> tuple[Figure, Any, float]:
    """Empty figure for a map with its axes, which lie at one place for the map and for what is laid over it."""
    rows, columns = small.shape
    height, width = (rows, columns) if edges is None else (rows * edges[0], columns * edges[1])
    unit = 1000.0 if edges is not None and max(height, width) >= _MM_FROM else 1.0
    left, right, bottom, top = 0.75, 1.25, 0.6, 0.15  # inches around the map
    wide = _WIDTH - left - right
    tall = float(np.clip(wide * height / width, 0.6, 6.5))
    wide = min(wide, max(tall * width / height, 1.0))
    figure = new_figure(_WIDTH, tall + bottom + top)
    figure.set_layout_engine("none")
    total = tall + bottom + top
    axes = figure.add_axes((left / _WIDTH, bottom / total, wide / _WIDTH, tall / total))
    axes.set_xlim(0, width / unit)
    axes.set_ylim(height / unit, 0)
    return figure, axes, unit


def _map_uri(small: SmallMap, names: list[str], edges: tuple[float, float] | None, label: str) -> str:
    figure, axes, unit = _map_figure(small, edges)
    style(axes)
    finite = small.image[np.isfinite(small.image)]
    low, high = contrast(small.image, (1.0, 99.0)) if finite.size else (0.0, 1.0)
    if finite.size and finite.max() - finite.min() <= 2 * (high - low):
        low, high = float(finite.min()), float(finite.max())
    box = (0, axes.get_xlim()[1], axes.get_ylim()[0], 0)
    axes.set_facecolor("#bebebe")
    image = axes.imshow(small.image, extent=box, cmap="viridis", vmin=low, vmax=max(high, low + 1e-9), aspect="auto")
    shown = "voxels" if edges is None else "mm" if unit > 1 else "µm"
    axes.set(xlabel=f"{names[1]} ({shown})", ylabel=f"{names[0]} ({shown})")
    place = axes.get_position()
    beyond = finite.size > 0 and (finite.min() < low or finite.max() > high)
    side = figure.add_axes((place.x1 + 0.02, place.y0, 0.018, place.height))
    bar = figure.colorbar(image, cax=side, extend="both" if beyond else "neither")
    bar.set_label(label, size=10, color=INK)
    bar.ax.tick_params(labelsize=9)
    return figure_uri(figure, dots=_DOTS)


def _layer_uri(small: SmallMap, edges: tuple[float, float] | None, patches: Patches) -> str:
    """Layer over the offset map that shows what was filled in."""
    figure, axes, _ = _map_figure(small, edges)
    axes.set_axis_off()
    layer = np.zeros((*patches.missing.shape, 4), np.uint8)
    for shares, colour in ((patches.missing, MISSING), (patches.removed, REMOVED)):
        if shares is not None:
            marked = shares > 0  # a single cell is seen, however far the map is reduced
            layer[marked, :3] = colour
            layer[marked, 3] = 235
    box = (0, axes.get_xlim()[1], axes.get_ylim()[0], 0)
    axes.imshow(layer, extent=box, aspect="auto", interpolation="nearest")
    return figure_uri(figure, dots=_DOTS, transparent=True)


def _aperture_histogram(counts: NDArray[np.int64], edge: float | None) -> Figure:
    figure = new_figure(4.6, 3.0)
    axes = style(figure.add_subplot())
    open_cells = counts.copy()
    open_cells[0] = 0
    step = max(1, -(-len(counts) // 120))
    starts = np.arange(0, len(counts), step)
    axes.stairs(np.add.reduceat(open_cells, starts), np.r_[starts, starts[-1] + step] - 0.5, fill=True, color=BLUE)
    if counts[0]:
        axes.bar(0, counts[0], width=max(step, 1), color=ORANGE, label=f"closed: {counts[0]:,} cells")
        axes.legend(fontsize=8, frameon=False, loc="upper right")
    axes.set(xlabel="aperture (voxels)", ylabel="cells of the map")
    if edge is not None:
        upper = axes.secondary_xaxis("top", functions=(partial(np.multiply, edge), partial(np.multiply, 1 / edge)))
        upper.set_xlabel("aperture (µm)", size=10, color=INK)
        upper.tick_params(labelsize=9, colors=INK)
        axes.spines["top"].set_visible(False)
    return figure


def _cluster_chart(clusters: Mapping[str, NDArray[Any]]) -> Figure:
    """Sizes of clusters by their rank, kept ones and removed ones."""
    figure = new_figure(4.6, 3.0)
    axes = style(figure.add_subplot())
    sizes, kept = np.asarray(clusters["voxels"]), np.asarray(clusters["kept"], bool)
    ranks = np.arange(1, len(sizes) + 1)
    if len(sizes) > _MOST_POINTS:  # evenly on a logarithmic scale
        few = np.unique(np.rint(np.geomspace(1, len(sizes), _MOST_POINTS)).astype(np.int64)) - 1
        few = np.union1d(few, [max(int(kept.sum()) - 1, 0), min(int(kept.sum()), len(sizes) - 1)])
        sizes, kept, ranks = sizes[few], kept[few], ranks[few]
    axes.loglog(ranks[~kept], sizes[~kept], "o", ms=4, color=GREY, label="removed")
    axes.loglog(ranks[kept], sizes[kept], "D", ms=6, color=ORANGE, label="kept")
    axes.set(xlabel="rank", ylabel="voxels")
    axes.set_xlim(0.8, max(len(clusters["voxels"]), 10) * 1.3)
    axes.legend(fontsize=8, frameon=False)
    return figure
