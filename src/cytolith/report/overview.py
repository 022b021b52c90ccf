"""One pass over a volume, block by block: its largest values along each axis, and what its planes are like.

Reading is most of the cost. Up to `FULL_VOXELS` every voxel is looked at. Beyond that a level of the volume's pyramid
that is small enough stands for it; where there is none, slabs at regular distances do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, Shape, region_origin
from cytolith.engine.executors import open_pool
from cytolith.engine.grid import Block, Costs, Plan, plan_blocks
from cytolith.engine.machine import default_memory, default_workers
from cytolith.engine.run import run_blocks
from cytolith.errors import MemoryBudgetError
from cytolith.io.volume import Volume, open_volume

FULL_VOXELS = 2_000_000_000
"""Voxels up to which all are looked at: half a minute or so, where the run itself took minutes."""
LONGEST = 1000
"""Pixels that the longer side of a projection has at most."""
_MEMORY = 96 * 2**20
"""What the pass may take: it comes after a run, in the room that the run had."""


@dataclass(frozen=True)
class Overview:
    """What a pass over a volume gives."""

    shape: Shape
    """Extent of what was read, in voxels (z, y, x): of the volume, or of a level of its pyramid."""
    projections: dict[str, NDArray[Any]]
    """Largest value along each axis, by its name: (y, x) for z, (z, x) for y, (z, y) for x. Each pixel has the largest
    value of its voxels, so that nothing bright is lost."""
    planes: NDArray[np.int64]
    """Planes that were looked at, ascending; lowest, highest and mean are theirs."""
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    mean: NDArray[np.float64]
    dtype: np.dtype[Any]
    top_count: int
    """Voxels that have the largest value of all."""
    level: int = 0
    """Level of the pyramid that was read."""

    @property
    def voxels(self) -> int:
        """Voxels that were looked at."""
        return len(self.planes) * self.shape[1] * self.shape[2]

    @property
    def top(self) -> float:
        """Largest value of all."""
        return float(self.highest.max())

    @property
    def note(self) -> str:
        """What a reader must know of how the pictures came about."""
        if self.level:
            return f"from level {self.level} of the pyramid ({' x '.join(map(str, self.shape))} voxels), which averages"
        if len(self.planes) < self.shape[0]:
            return f"from {len(self.planes):,} of {self.shape[0]:,} planes at regular distances"
        return "from every voxel"


@dataclass
class _Part:
    """What a block gives: projections of it, reduced, and numbers of its planes."""

    projections: dict[str, NDArray[Any]]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    total: NDArray[np.float64]
    top: float
    top_count: int


class _Look:
    """Task of the engine: reads a block and reduces it."""

    def __init__(self, volume: Volume, edges: Shape) -> None:
        self._volume, self._edges = volume, edges

    def __call__(self, block: Block, ahead: Block | None, given: Any) -> _Part:  # noqa: ARG002 - the engine gives them
        image = self._volume.read(block.core)
        if image.dtype.kind == "f":  # a NaN must not swallow what is beside it
            image = np.nan_to_num(image, copy=True, nan=0.0)
        Z, Y, X = image.shape
        through = image[0].copy()
        rows, columns = np.empty((Z, X), image.dtype), np.empty((Z, Y), image.dtype)
        lowest, highest, total = np.empty(Z), np.empty(Z), np.empty(Z)
        for z, plane in enumerate(image):  # plane by plane, so that each is in the cache for all that is asked of it
            np.maximum(through, plane, out=through)
            plane.max(0, out=rows[z])
            plane.max(1, out=columns[z])
            lowest[z], highest[z], total[z] = plane.min(), rows[z].max(), plane.sum(dtype=np.float64)
        top = highest.max()
        count = sum(int(np.count_nonzero(image[z] == top)) for z in np.flatnonzero(highest == top))
        origin, edges = region_origin(block.core), self._edges
        projections = {
            "z": pool_max(through, origin[1:], edges[1:]),
            "y": pool_max(rows, origin[::2], edges[::2]),
            "x": pool_max(columns, origin[:2], edges[:2]),
        }
        return _Part(projections, lowest, highest, total, float(top), count)


def pool_max(image: NDArray[Any], origin: tuple[int, ...], edges: tuple[int, ...]) -> NDArray[Any]:
    """Largest values over rectangles of a grid, in an image that begins anywhere on it.

    Parameters
    ----------
    image
        (rows, columns), not empty.
    origin
        Place of the first pixel in the grid, (row, column).
    edges
        Extent of a rectangle, (rows, columns); rectangles begin at multiples of it.

    Returns
    -------
    ndarray
        Same dtype; one value a rectangle that the image has a part of.
    """
    for axis in (0, 1):
        first, edge = origin[axis], edges[axis]
        starts = np.r_[0, np.arange(-first % edge or edge, image.shape[axis], edge)]
        image = np.maximum.reduceat(image, starts, axis=axis)
    return image


def look_over(volume: Volume, full_voxels: int = FULL_VOXELS, longest: int = LONGEST) -> Overview:
    """Projections and numbers of a volume, in one pass with bounded memory.

    Parameters
    ----------
    volume
        What to read.
    full_voxels
        Above so many voxels only slabs of planes at regular distances are read, about so many voxels in all.
    longest
        Pixels that a side of a projection has at most.

    Raises
    ------
    VolumeError
        The volume cannot be read.
    """
    shape = volume.shape
    edges = -(-shape[0] // longest), -(-shape[1] // longest), -(-shape[2] // longest)
    plan = _plan(volume)
    thin = max(1, math.ceil(math.prod(shape) / full_voxels))
    todo = plan.blocks
    if thin > 1:
        unit = min(volume.chunks[0] if volume.chunks else 1, shape[0])  # a chunk is decoded whole, or not at all
        plan = _plan(volume, (unit, plan.core[1], plan.core[2]))
        todo = [block for block in plan.blocks if block.core[0].start // unit % thin == 0]
    dtype = np.dtype(volume.dtype)
    floor = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
    cells = [-(-extent // edge) for extent, edge in zip(shape, edges, strict=True)]
    across = {"z": (1, 2), "y": (0, 2), "x": (0, 1)}
    projections = {axis: np.full((cells[r], cells[c]), floor, dtype) for axis, (r, c) in across.items()}
    lowest, highest, total = np.full(shape[0], np.inf), np.full(shape[0], -np.inf), np.zeros(shape[0])
    top, top_count = -math.inf, 0
    with open_pool("threads", plan.workers) as pool:
        for block, part in run_blocks(_Look(volume, edges), plan, pool, todo=todo, name="report"):
            origin, planes = region_origin(block.core), block.core[0]
            for axis, (r, c) in across.items():
                row, column = origin[r] // edges[r], origin[c] // edges[c]
                new = part.projections[axis]
                place = projections[axis][row : row + new.shape[0], column : column + new.shape[1]]
                np.maximum(place, new, out=place)
            np.minimum(lowest[planes], part.lowest, out=lowest[planes])
            np.maximum(highest[planes], part.highest, out=highest[planes])
            total[planes] += part.total
            if part.top > top:
                top, top_count = part.top, 0
            top_count += part.top_count if part.top == top else 0
    seen = np.flatnonzero(np.isfinite(lowest))
    if thin > 1:
        rows = np.unique(seen // edges[0])
        nearest = rows[np.abs(np.subtract.outer(np.arange(cells[0]), rows)).argmin(1)]
        projections["y"], projections["x"] = projections["y"][nearest], projections["x"][nearest]
    mean = total[seen] / (shape[1] * shape[2])
    return Overview(shape, projections, seen, lowest[seen], highest[seen], mean, dtype, top_count)


def look_over_source(
    volume: Volume, source: Any, options: Mapping[str, Any], full_voxels: int = FULL_VOXELS
) -> Overview:
    """The same of a level of the volume's pyramid, when the volume is too large to be read whole and has one.

    Parameters
    ----------
    volume
        What was analysed.
    source, options
        What it was opened from, and which channel, timepoint and dataset of it.
    full_voxels
        As in :func:`look_over`.
    """
    levels = volume.storage.levels or ()
    if math.prod(volume.shape) > full_voxels and options.get("level") in (None, 0):
        for level in range(1, len(levels)):
            coarse = open_volume(source, **{**options, "level": level})
            if math.prod(coarse.shape) <= full_voxels:
                seen = look_over(coarse, full_voxels)
                return Overview(**{**seen.__dict__, "level": level})
    return look_over(volume, full_voxels)


def _plan(volume: Volume, core: Shape | None = None) -> Plan:
    workers = default_workers()
    costs = Costs((0, 0, 0), 2.0 * volume.dtype.itemsize, bytes_worker=volume.read_bytes)
    try:
        return plan_blocks(volume.shape, costs, memory=_MEMORY, workers=workers, chunks=volume.chunks, core=core)
    except MemoryBudgetError:  # chunks are large
        return plan_blocks(
            volume.shape, costs, memory=max(default_memory(), _MEMORY), workers=1, chunks=volume.chunks, core=core
        )


def side_axes(axis: str) -> tuple[str, str]:
    """Axes down the rows and along the columns of the projection along an axis."""
    rows, columns = (name for name in AXES if name != axis)
    return rows, columns


def extent_of(shape: Shape, voxel_size: tuple[float, float, float] | None) -> tuple[float, float, float]:
    """Edges of a volume (z, y, x) in micrometres, or in voxels where their size is unknown."""
    z, y, x = (n * e for n, e in zip(shape, voxel_size or (1.0, 1.0, 1.0), strict=True))
    return z, y, x
