"""The shell of preview: a part of a volume in, one page out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cytolith.axes import Region, Shape, VoxelSize, region_shape
from cytolith.cells.config import CellsConfig
from cytolith.cells.costs import block_halo, bytes_per_voxel
from cytolith.cells.pipeline import PROCESS_BYTES, grey_thresholds, prepare, sample_noise
from cytolith.cells.resolve import in_voxels, noise_scaled, with_noise
from cytolith.engine.grid import Block, halo_block
from cytolith.engine.machine import default_memory
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError
from cytolith.io.files import write_text
from cytolith.io.volume import open_volume
from cytolith.preview.look import Look, histogram_bars, look_at, what_if
from cytolith.quantities import format_bytes, format_region, parse_region
from cytolith.tune.chain import unsaved
from cytolith.tune.regions import largest_inside

_MIDDLE: Shape = (64, 512, 512)
"""Extent of the region that is shown when none is given."""
_MULTIPLES = (7.0, 9.0, 14.0)
"""Multiples of the noise that are always in the table: where annotators of c-Fos volumes drew the line."""
_STEPS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""What the threshold is multiplied by in the table."""


@dataclass(frozen=True)
class PreviewReport:
    """What a command tells of a page."""

    path: Path
    cells: int
    region: Region
    noise: float | None
    seconds: float
    look: Look


def preview_cells(
    source: Any,
    output: Path,
    *,
    region: str | Region | None = None,
    config: CellsConfig | None = None,
    voxel_size: VoxelSize | None = None,
    options: Mapping[str, Any] | None = None,
    noise: float | None = None,
    memory: int | None = None,
    overwrite: bool = False,
) -> PreviewReport:
    """Write a page that shows what each step does to a part of a volume.

    Parameters
    ----------
    source
        What :func:`cytolith.open_volume` reads.
    output
        File for the page, .html.
    region
        The part, as slices or ``z0:z1,y0:y1,x0:x1``; default: 64 x 512 x 512 voxels in the middle.
    config
        Parameters; default: the defaults.
    voxel_size
        Edges (z, y, x) of a voxel in micrometres; default: from the metadata.
    options
        Channel, timepoint, level and dataset of the source.
    noise
        Grey value that a multiple of the noise counts; default: that of the whole volume, as in a run.
    memory
        Bytes to stay below; default: half of the machine's.
    overwrite
        Replace an existing page.

    Returns
    -------
    PreviewReport
        The cells of the part are those that a run on the whole volume finds there.

    Raises
    ------
    VolumeError, ConfigError
        Input that cannot be read, parameters that cannot be used, jinja2 missing.
    MemoryBudgetError
        A region that memory does not hold; the largest that fits is named.
    OutputError
        A page that is there already, or cannot be written.
    """
    begin = time.perf_counter()
    template = _template()
    if output.is_dir():
        raise OutputError(f"{output}: is a folder; give a file for the page, for example {output / 'preview.html'}")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists; give another file, or --overwrite to replace it")
    if noise is not None and not (math.isfinite(noise) and noise >= 0):
        raise ConfigError(f"--noise {noise:g}: give a grey value from 0")
    volume = open_volume(source, voxel_size=voxel_size, **dict(options or {}))
    if region is None:
        part = _middle(volume.shape)
    else:
        part = parse_region(region, volume.shape) if isinstance(region, str) else region
    given = unsaved(config if config is not None else CellsConfig())
    resolved = in_voxels(given, volume.voxel_size)
    halo = block_halo(resolved, volume.voxel_size)
    budget = default_memory() if memory is None else memory
    block = halo_block(0, part, halo, volume.shape)
    per_voxel = bytes_per_voxel(resolved, volume.dtype) + 8  # labels and the background as an image
    most_voxels = int((budget - PROCESS_BYTES - volume.read_bytes) / per_voxel)
    _refuse_too_large(block, halo, volume.shape, most_voxels, budget)
    prepared = prepare(volume, given, workers=1, memory=2**62)
    if noise is None and noise_scaled(resolved):
        noise = sample_noise(prepared)
    level = grey_thresholds(with_noise(resolved, noise or 0.0))
    threshold = max(level.get("maxima_detection.threshold", 0.0), level.get("shape_detection.threshold", 0.0))
    multiples = [] if not noise else [m * noise for m in _MULTIPLES]
    levels = sorted({*multiples, *(threshold * step for step in _STEPS)} - {0.0})
    floor = min(levels, default=1.0) / 2
    look = look_at(
        prepared, with_noise(resolved, noise or 0.0), block, floor, most_voxels=max(most_voxels, 1), halo=halo
    )
    page = _page(look, volume.name, part, resolved, volume.voxel_size, noise, threshold, levels)
    write_text(output, template.render(page))
    count = len(next(iter(look.table.values())))
    return PreviewReport(output, count, part, noise, time.perf_counter() - begin, look)


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise ConfigError("preview needs jinja2, which is not installed: pip install 'cytolith[report]'") from None
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True)
    return environment.get_template("preview.html")


def _middle(shape: Shape) -> Region:
    parts = []
    for extent, wanted in zip(shape, _MIDDLE, strict=True):
        length = min(extent, wanted)
        parts.append(slice((extent - length) // 2, (extent - length) // 2 + length))
    return parts[0], parts[1], parts[2]


def _refuse_too_large(block: Block, halo: Shape, shape: Shape, most_voxels: int, budget: int) -> None:
    if math.prod(region_shape(block.read)) <= most_voxels:
        return
    fits = largest_inside(block.core, halo, shape, most_voxels)
    advice = "give more --memory" if fits is None else f"the largest that fits is --region {format_region(fits)}"
    raise MemoryBudgetError(
        f"--region {format_region(block.core)}: more than --memory {format_bytes(budget)} holds; {advice}"
    )


def _page(
    look: Look,
    name: str,
    region: Region,
    config: CellsConfig,
    voxel_size: VoxelSize | None,
    noise: float | None,
    threshold: float,
    levels: list[float],
) -> dict[str, Any]:
    from cytolith.preview.steps import step_rows

    bars = histogram_bars(look.heights, threshold)
    mark = None
    if bars and threshold > 0:
        low, high = max(float(look.heights[0]), 1e-12), max(float(look.heights[-1]), threshold) * 1.0001
        mark = 100 * float(np.clip(math.log(threshold / low) / math.log(high / low), 0, 1))
    rows = [
        {
            "level": level,
            "multiple": level / noise if noise else None,
            "count": count,
            "own": math.isclose(level, threshold),
        }
        for level, count in zip(levels, what_if(look.heights, levels), strict=True)
    ]
    return {
        "name": name,
        "title": Path(name).name or name,
        "region": format_region(region),
        "shape": region_shape(region),
        "voxel_size": voxel_size,
        "noise": noise,
        "threshold": threshold,
        "cells": len(next(iter(look.table.values()))),
        "truncated": int(look.table["truncated"].sum()),
        "panels": look.panels,
        "views": look.views,
        "size": look.size,
        "bars": bars,
        "mark": mark,
        "rows": rows,
        "parameters": step_rows(config),
    }
