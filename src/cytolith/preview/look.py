"""The steps on one part of a volume: pictures of each, its cells as in a run on the whole volume, heights of maxima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_origin, region_shape
from cytolith.cells.block import BlockCells, Table, cells_in_images
from cytolith.cells.config import IMAGE_STEPS, CellsConfig
from cytolith.cells.images import Image, Setting, run_image_steps
from cytolith.cells.owners import inside_region, places
from cytolith.cells.pipeline import Prepared
from cytolith.cells.widen import settle
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.preview.png import grey_uri, layer_uri
from cytolith.quantities import Threshold

MOST_PIXELS = 1024
"""Pixels that a picture has along an edge; of larger ones every second voxel is shown, or every third, ..."""
_TAILS = (0.5, 99.8)
"""Percentiles that are shown as black and as white."""
_MAXIMUM, _OUTLINE = (255, 80, 40), (60, 220, 255)
TITLES = {
    "source": "As read",
    "illumination_correction": "Illumination corrected",
    "background": "Background",
    "background_correction": "Background taken off",
    "equalization": "Equalized",
    "smoothing": "Smoothed",
    "dog_filter": "Difference of Gaussians",
}


@dataclass(frozen=True)
class Panel:
    """One step, seen in each view."""

    name: str
    title: str
    low: float
    """Grey value that is shown as black."""
    high: float
    """Grey value that is shown as white."""
    pictures: list[str]
    layers: list[str]
    """What lies over each picture; empty where nothing does."""


@dataclass(frozen=True)
class Look:
    """What a page shows."""

    panels: list[Panel]
    views: list[str]
    table: Table
    """Cells of the region, as a run on the whole volume gives them."""
    heights: NDArray[np.float64]
    """Of all maxima of the region above a low floor, ascending."""
    size: tuple[int, int]
    """Columns and rows of the pictures."""


def look_at(
    prepared: Prepared, config: CellsConfig, block: Block, floor: float, *, most_voxels: int, halo: Shape
) -> Look:
    """The steps on the core of a block.

    Parameters
    ----------
    prepared
        A run of the volume, for its reader and its flat field.
    config
        Lengths in voxels, thresholds in grey values.
    block
        The region as its core, and what is read around it.
    floor
        Grey value from which on maxima are counted.
    most_voxels
        Voxels that memory holds when cells that go on beyond the block are read again.
    halo
        Voxels around the region that are read.
    """
    setting = replace(prepared.setting, config=config)
    workspace = Workspace()
    image, mask = prepared.reader.read(block, workspace)
    images = run_image_steps(image, block.read, setting, workspace, mask=mask)
    heights = _heights(images, block, setting, floor)
    cells = cells_in_images(images, block, setting, Workspace())
    planes = _planes(block.core[0])
    step = -(-max(region_shape(block.core)[1:]) // MOST_PIXELS)
    panels = _panels(images, cells, block, config, planes, step, setting)
    cells = settle(
        cells, block, setting, Workspace(), lambda each: prepared.reader.read(each, Workspace()),
        most_voxels=most_voxels, halo=halo, chunks=prepared.reader.volume.chunks,
    )  # fmt: skip
    rows, columns = (-(-extent // step) for extent in region_shape(block.core)[1:])
    views = ["largest along z", *(f"plane {z}" for z in planes)]
    return Look(panels, views, cells.table, heights, (columns, rows))


def _planes(part: slice) -> list[int]:
    """Planes that are shown: a quarter, half and three quarters of the way."""
    count = part.stop - part.start
    return sorted({int(part.start + count * share // 4) for share in (1, 2, 3)})


def _heights(images: dict[str, Image], block: Block, setting: Setting, floor: float) -> NDArray[np.float64]:
    """Heights of the maxima that would be cells at a threshold below them, ascending."""
    config = setting.config
    if config.maxima_detection is None:
        return np.empty(0)
    maxima = config.maxima_detection.model_copy(update={"threshold": Threshold(floor)})
    update = {"maxima_detection": maxima, "shape_detection": None, "intensity_detection": None}
    cells = cells_in_images(images, block, replace(setting, config=config.model_copy(update=update)), Workspace())
    z, y, x = (places(cells.keys, setting.shape) - np.array(region_origin(block.read))).T
    return np.sort(images["dog_filter"][z, y, x].astype(np.float64))


def _panels(
    images: dict[str, Image],
    cells: BlockCells,
    block: Block,
    config: CellsConfig,
    planes: Sequence[int],
    step: int,
    setting: Setting,
) -> list[Panel]:
    inner = block.inner
    shown: dict[str, Image] = {"source": images["source"][inner]}
    before = images["source"]
    for name in IMAGE_STEPS:
        if images[name] is not before:
            if name == "background_correction":
                background = before[inner].astype(np.float32)
                background -= images[name][inner]
                shown["background"] = background
            shown[name] = images[name][inner]
        before = images[name]
    offsets = [z - block.core[0].start for z in planes]
    panels = [_panel(name, TITLES[name], image, offsets, step) for name, image in shown.items()]
    if config.maxima_detection is None:
        return panels
    final = panels[-1]
    centres = np.stack([cells.table[axis] for axis in "zyx"], 1)
    crosses = _layers(_crosses(centres, block.core, planes, step), _MAXIMUM)
    panels.append(replace(final, name="maxima", title=f"Maxima, over: {final.title.lower()}", layers=crosses))
    labels = _labels(cells, block, setting)
    if labels is not None:
        views = [labels.max(0), *(labels[offset] for offset in offsets)]
        outlines = _layers([_outline(view[::step, ::step]) for view in views], _OUTLINE)
        panels.append(replace(panels[0], name="outlines", title="Outlines of the cells", layers=outlines))
    return panels


def _panel(name: str, title: str, image: Image, offsets: Sequence[int], step: int) -> Panel:
    stride = max(1, int((image.size / 500_000) ** (1 / 3)))  # percentiles of half a million voxels are close enough
    low, high = (float(v) for v in np.percentile(image[::stride, ::stride, ::stride], _TAILS))
    largest = image.max(0)
    if not high > low:
        high = max(float(largest.max()), low + 1)
    pictures = []
    for view in (largest, *(image[offset] for offset in offsets)):
        # the largest values along z lie higher: they are shown up to their own end
        end = max(float(np.percentile(view, _TAILS[1])), high) if view is largest else high
        share = (view[::step, ::step].astype(np.float32) - low) / (end - low)
        pictures.append(grey_uri((np.clip(share, 0, 1) * 255).astype(np.uint8)))
    return Panel(name, title, low, high, pictures, [""] * len(pictures))


def _layers(marks: Sequence[NDArray[np.bool_]], colour: tuple[int, int, int]) -> list[str]:
    return [layer_uri(mark.astype(np.uint8), (colour,)) for mark in marks]


def _crosses(centres: NDArray[np.float64], core: Region, planes: Sequence[int], step: int) -> list[NDArray[np.bool_]]:
    """Crosses at the centres, in the view along z and near each plane."""
    rows, columns = (-(-(part.stop - part.start) // step) for part in core[1:])
    at = np.floor((centres[:, 1:] - region_origin(core)[1:]) / step + 0.5).astype(np.int64)
    marks = []
    for near in [np.ones(len(centres), bool), *(np.abs(centres[:, 0] - z) <= 1 for z in planes)]:
        mark = np.zeros((rows + 6, columns + 6), bool)  # room for arms beyond the rim
        y, x = at[near].T + 3
        y, x = np.clip(y, 3, rows + 2), np.clip(x, 3, columns + 2)
        for arm in (-3, -2, 2, 3):  # the middle stays free: it is what is looked at
            mark[y + arm, x] = True
            mark[y, x + arm] = True
        marks.append(mark[3:-3, 3:-3])
    return marks


def _labels(cells: BlockCells, block: Block, setting: Setting) -> NDArray[np.int32] | None:
    """Labels of the cells over the core, 0 elsewhere; a cell whose middle lies beyond the core has its own too."""
    if cells.shapes is None or cells.trusted is None:
        return None
    wanted = np.zeros(cells.shapes.count + 1, np.int32)
    # where a step drops maxima, the keys of those that are no rows are -1
    kept = cells.maxima_keys >= 0
    if setting.config.background_jump is not None:
        kept &= np.isin(cells.maxima_keys, cells.keys) | ~inside_region(
            places(np.maximum(cells.maxima_keys, 0), setting.shape), block.core
        )
    wanted[1:][kept] = np.flatnonzero(kept) + 1
    return np.asarray(wanted[cells.shapes.to_dense()[cells.trusted.inner]])


def _outline(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Voxels of a cell beside one that is not of the same cell."""
    rim = np.zeros(labels.shape, bool)
    across, along = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    rim[1:] |= across
    rim[:-1] |= across
    rim[:, 1:] |= along
    rim[:, :-1] |= along
    return rim & (labels > 0)


def what_if(heights: NDArray[np.float64], levels: Sequence[float]) -> list[int]:
    """How many of the ascending heights reach each level."""
    return [int(heights.size - np.searchsorted(heights, level, side="left")) for level in levels]


def histogram_bars(heights: NDArray[np.float64], level: float, bins: int = 48) -> list[dict[str, Any]]:
    """Bars of a histogram of heights, both scales logarithmic: x, width, height in per cent, whether below `level`."""
    if heights.size == 0:
        return []
    low, high = max(float(heights[0]), 1e-12), max(float(heights[-1]), level, 1e-12) * 1.0001
    if high <= low:
        return []
    edges = np.geomspace(low, high, bins + 1)
    counts = np.histogram(np.maximum(heights, low), edges)[0]
    tall = np.log1p(counts) / max(math.log1p(int(counts.max())), 1e-12)
    return [
        {"x": 100 * i / bins, "width": 100 / bins, "height": 100 * float(tall[i]), "count": int(counts[i]),
         "from": float(edges[i]), "below": bool(edges[i + 1] <= level)}
        for i in range(bins)
    ]  # fmt: skip
