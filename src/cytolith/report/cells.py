"""What the page of a run of cells shows."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, VoxelSize
from cytolith.errors import CytolithError, VolumeError
from cytolith.io.tables import read_table
from cytolith.io.volume import Volume
from cytolith.report.charts import density_maps, histogram, plane_profiles
from cytolith.report.close_ups import CloseUps, close_ups
from cytolith.report.images import contrast, figure_uri, image_uri, stretch
from cytolith.report.marks import mark_cells
from cytolith.report.overview import Overview, extent_of, look_over_source, side_axes
from cytolith.report.page import TIMES, duration, number
from cytolith.report.remarks import cells_remarks
from cytolith.report.run_record import (
    config_of,
    memory_text,
    open_input,
    parameter_rows,
    read_record,
    step_bars,
    volume_mm3,
)

LAYER = 1200
"""Pixels of the longest edge of a layer of cells."""
GAMMA = 0.7
"""Of the projections: cells are far dimmer than vessels and rims."""
DEEP = 1.2
"""Depth over width from which views from the side lie below each other."""
_NOT_MEASURES = ("z", "y", "x", "z_um", "y_um", "x_um", "size", "truncated")
_MOST_HISTOGRAMS = 13
_WHOLE_BARS = (1, 2, 5)


def cells_page(folder: Path, notes: Callable[[list[str]], None]) -> dict[str, Any]:
    """Values for the template of a run of cells.

    Parameters
    ----------
    folder
        What the run wrote.
    notes
        Gets what cannot be shown, in words.

    Raises
    ------
    VolumeError
        The run is not finished, or its table cannot be read.
    """
    record = read_record(folder / "run.json")
    if record.get("state") != "finished":
        state = record.get("state", "unknown")
        raise VolumeError(f"{folder}: the run is not finished ({state}); give its command again, then the report")
    table, _ = read_table(folder / "cells.parquet")
    missing_columns = [name for name in AXES if name not in table]
    if missing_columns:
        raise VolumeError(f"{folder / 'cells.parquet'}: no column {missing_columns[0]!r}; is it a table of cells?")
    asked = record["input"]
    shape = tuple(int(n) for n in asked["shape"])
    size: VoxelSize | None = None if asked.get("voxel_size_um") is None else tuple(asked["voxel_size_um"])
    centres = np.column_stack([np.asarray(table[axis], np.float64) for axis in AXES])
    per_plane = np.bincount(np.clip(np.rint(centres[:, 0]), 0, shape[0] - 1).astype(np.int64), minlength=shape[0])
    seen, volume, missing = _look(folder, record)
    if missing is not None:
        notes([missing])
    unit = "µm" if size is not None else "voxels"
    ups = _close_ups(record, table, centres, volume, size, notes)
    truncated = int(np.count_nonzero(table["truncated"])) if "truncated" in table else 0
    places = (centres + 0.5) * np.array(size or (1.0, 1.0, 1.0))
    extents = extent_of((shape[0], shape[1], shape[2]), size)
    radius = _radius_um(table, size)
    mm3 = volume_mm3(shape, size)
    return {
        "title": folder.resolve().name,
        "input": asked["source"],
        "started": _date(record.get("started")),
        "facts": _facts(record, len(centres), shape, size, mm3),
        "remarks": cells_remarks(record, per_plane, truncated, seen, missing),
        "count": len(centres),
        "gamma": GAMMA,
        "views": None if seen is None else _views(seen, places, extents, unit, radius),
        "note": "" if seen is None else seen.note,
        "close_ups": ups,
        "histograms": _histograms(record, table, size),
        "planes": figure_uri(plane_profiles(per_plane, *((seen.planes, seen.mean) if seen else (None, None)))),
        "density": figure_uri(density_maps(places, extents, unit)) if len(centres) else None,
        "bars": step_bars(record.get("seconds", {})),
        "parameters": parameter_rows(record),
        "thresholds": {name.replace("_", " "): value for name, value in record.get("thresholds", {}).items()},
        "noise": record.get("noise"),
        "versions": record.get("versions", {}),
        "plan": record.get("plan", {}),
        "version": record.get("versions", {}).get("cytolith", ""),
    }


def _look(folder: Path, record: Mapping[str, Any]) -> tuple[Overview | None, Volume | None, str | None]:
    """What the volume is like; without it when it is gone or cannot be read, and then why."""
    try:
        volume, source, options = open_input(folder, record)
        return look_over_source(volume, source, options), volume, None
    except CytolithError as error:
        return None, None, f"The input cannot be read any more: {error}."


def _close_ups(
    record: Mapping[str, Any],
    table: Mapping[str, NDArray[Any]],
    centres: NDArray[np.float64],
    volume: Volume | None,
    size: VoxelSize | None,
    notes: Callable[[list[str]], None],
) -> CloseUps | None:
    config = config_of(record)
    if volume is None or not len(centres) or config is None:
        return None
    try:
        return close_ups(record, table, centres, volume, config, size)
    except CytolithError as error:
        notes([f"the report has no close views of cells: {error}"])
        return None


def _facts(
    record: Mapping[str, Any], count: int, shape: tuple[int, ...], size: VoxelSize | None, mm3: float | None
) -> list[tuple[str, str, str]]:
    """Numbers for the head of the page: what, value, and what to say below it."""
    voxels = math.prod(shape)
    seconds = float(record.get("seconds", {}).get("run", 0.0))
    planned, used = memory_text(record)
    extent = TIMES.join(f"{n:,}" for n in shape)
    edges = "voxel size unknown" if size is None else f"{TIMES.join(f'{e:g}' for e in size)} µm (z, y, x)"
    density = (f"{number(count / mm3)}", "per mm³ of the volume") if mm3 else (
        number(1e6 * count / voxels), "per million voxels")  # fmt: skip
    facts = [
        ("Cells", f"{count:,}", ""),
        ("Density", *density),
        ("Volume", extent, f"{record['input']['dtype']}, {edges}" + (f", {number(mm3)} mm³" if mm3 else "")),
        ("Time", duration(seconds), f"{number(voxels / seconds / 1e6)} Mvoxel/s" if seconds else ""),
    ]
    facts.append(("Memory", used or planned, f"used, of {planned} planned" if used else "planned"))
    return facts


def _radius_um(table: Mapping[str, NDArray[Any]], size: VoxelSize | None) -> float:
    """Radius of a ball as large as the cell in the middle, in micrometres (or voxels)."""
    sizes = np.asarray(table.get("size", np.array([33.0])), np.float64)
    middle = float(np.median(sizes)) if sizes.size else 33.0
    return float((3 * middle * math.prod(size or (1.0, 1.0, 1.0)) / (4 * math.pi)) ** (1 / 3))


def _views(
    seen: Overview, places: NDArray[np.float64], extents: tuple[float, ...], unit: str, radius: float
) -> dict[str, Any]:
    """The three projections with their layers, and how they lie beside each other."""
    views: dict[str, Any] = {"unit": unit, "kinds": set()}
    is_deep = extents[0] > DEEP * max(extents[1:])
    views["flat"] = seen.shape[0] < 2 or extents[0] < 0.02 * max(extents[1:])
    views["deep"] = is_deep
    for axis in AXES:
        rows, columns = side_axes(axis)
        across = [AXES.index(rows), AXES.index(columns)]
        image = seen.projections[axis]
        if axis == "x" or (axis == "y" and is_deep):  # beside the view along z: planes run to the right
            image, across = image.T, across[::-1]
        # side by side all have one scale; a deep volume is shown with each view as large as it may be
        scale = LAYER / max(extents[k] for k in (across if is_deep else range(3)))
        height, width = (max(round(extents[k] * scale), 1) for k in across)
        shares = places[:, across] / np.array([extents[k] for k in across])
        layer, kind = mark_cells(shares, (height, width), max(0.75 * radius * scale, 4.0))
        low, high = contrast(image)
        bar = scale_bar(extents[across[1]])
        views[axis] = {
            "base": image_uri(stretch(image, low, high, GAMMA)),
            "layer": image_uri(layer, lossless=kind == "circles"),
            "width": extents[across[1]],
            "height": extents[across[0]],
            "rows": AXES[across[0]],
            "columns": AXES[across[1]],
            "low": low,
            "high": high,
            "bar": bar,
            "bar_percent": 100 * bar / extents[across[1]],
        }
        views["kinds"].add(kind)
    return views


def scale_bar(width: float) -> float:
    """Round length of about a fifth of a width."""
    power = 10.0 ** math.floor(math.log10(width / 5))
    return max(factor * power for factor in _WHOLE_BARS if factor * power <= width / 5 * 1.0001)


def _histograms(
    record: Mapping[str, Any], table: Mapping[str, NDArray[Any]], size: VoxelSize | None
) -> list[dict[str, str]]:
    """Figures of size and of each measure, with the limits of a filter where the run had one."""
    limits = record.get("limits") or {}
    config = record.get("config", {}).get("intensity_detection") or {}
    method = str(config.get("method", "")) if isinstance(config, Mapping) else ""
    measures = tuple(config.get("measure", ())) if isinstance(config, Mapping) else ()
    figures = []
    for name in ["size", *(name for name in table if name not in _NOT_MEASURES)][:_MOST_HISTOGRAMS]:
        if name not in table or table[name].dtype.kind not in "iuf":
            continue
        label = f"{name.replace('_', ' ')}, {method} of a cell (grey values)" if name in measures else name
        if name == "size":
            voxel = "" if size is None else f"; 1 voxel = {number(math.prod(size))} µm³"
            label = f"size (voxels{voxel})"
        bounds = tuple(limits.get(name, (None, None)))
        text = f"Histogram of {label}, {len(table[name]):,} cells"
        figures.append({"uri": figure_uri(histogram(table[name], label, bounds)), "alt": text})
    return figures


def _date(text: Any) -> str:
    try:
        return datetime.datetime.fromisoformat(str(text)).strftime("%d %B %Y, %H:%M UTC")
    except ValueError:
        return ""
