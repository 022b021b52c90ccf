"""Density maps: how many cells lie within a ball around each voxel of a coarser grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.atlas.positions import Cells, cells_of
from cytolith.axes import Region, Shape, VoxelSize, full_region, region_origin, region_shape
from cytolith.engine.grid import tile
from cytolith.errors import ConfigError
from cytolith.io.sink import create_sink
from cytolith.kernels.voxelization import add_balls, ball_runs, ball_voxels_inside
from cytolith.quantities import parse_lengths

PART_BYTES = 256 * 2**20
"""Memory of the part of a map that is filled at a time."""
_PLANES = 32  # planes and rows of a part are multiples of it, so that chunks of zarr fit
_LARGEST_RADIUS = 128  # voxels: 9 million voxels in a ball
_MOST_EXTENT = 2**31 - 1


@dataclass(frozen=True)
class DensityMap:
    """What was written.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        (z, y, x) in voxels of the map.
    voxel_size : tuple of float
        (z, y, x) in micrometres.
    cells : int
        Cells that lie in the map.
    outside : int
        Cells that lie outside it and were left out.
    highest : float
        Largest value.
    """

    path: Path
    shape: Shape
    voxel_size: VoxelSize
    cells: int
    outside: int
    highest: float


def density_map(
    points_um: ArrayLike,
    shape: Sequence[int],
    voxel_size: Sequence[float],
    *,
    radius: Any = None,
    weights: ArrayLike | None = None,
    per_mm3: bool = False,
) -> NDArray[Any]:
    """Density map of positions: every cell adds 1, or its weight, to the voxels of a ball around it.

    Parameters
    ----------
    points_um : array of shape (n, 3)
        Positions (z, y, x) in micrometres from the corner of the map: voxel i covers ``i * edge <= position <
        (i + 1) * edge``. A table of cells counts from the centre of the first voxel of its volume: add half of the
        volume's voxel size to its z_um, y_um, x_um. Positions outside the map are left out.
    shape : three ints
        Extent of the map in voxels, (z, y, x).
    voxel_size : three floats
        Edges (z, y, x) of a voxel of the map in micrometres.
    radius : float, str or three of them, optional
        Radius of the ball in voxels of the map (2) or micrometres ("50 um"). The ball lies around the centre of the
        voxel that holds the cell and has the voxels whose centres are not farther away. None or 0: that voxel alone.
    weights : array of shape (n,), optional
        What each cell adds; default: 1.
    per_mm3 : bool
        Divide by the volume in mm3 of the ball, of its part in the map near the faces: cells per mm3.

    Returns
    -------
    ndarray of shape `shape`
        uint32, the number of cells in the ball around each voxel; float32 with weights or `per_mm3`. Sums of weights
        are added up in float64 in the order of the points.

    Raises
    ------
    ConfigError
        A shape, voxel size, radius or weight that cannot be used.

    Notes
    -----
    With a radius this is the voxelization of ClearMap (Renier et al., Cell 165, 2016): a map of counts in balls, whose
    sum is the number of cells times the voxels of the ball, less what lies outside.

    Examples
    --------
    >>> density_map([[5, 5, 5], [12, 5, 5]], (2, 1, 3), (10, 10, 10), radius=1)
    array([[[2, 1, 0]],
    <BLANKLINE>
           [[2, 1, 0]]], dtype=uint32)
    """
    cells = cells_of(np.asarray(points_um, np.float64).reshape(-1, 3) if np.size(points_um) == 0 else points_um)
    values = None if weights is None else np.asarray(weights, np.float64)
    if values is not None and values.shape != (cells.total,):
        raise ConfigError(f"weights have the shape {values.shape}, but there are {cells.total} positions")
    grid = _Grid.checked(shape, voxel_size, radius)

    def weigh(part: int) -> NDArray[np.float64] | None:
        begin = cells.parts.first_row(part)
        return None if values is None else values[begin : begin + cells.parts.rows[part]]

    rows = _Rows(cells, grid, weigh)
    return _finished(
        _filled(rows, full_region(grid.shape), weights is not None), full_region(grid.shape), grid, per_mm3
    )


def write_density_map(
    cells: Cells,
    output: Path | str,
    voxel_size: Sequence[float],
    *,
    shape: Sequence[int] | None = None,
    radius: Any = None,
    weights: str | None = None,
    per_mm3: bool = False,
    overwrite: bool = False,
    part_bytes: int = PART_BYTES,
) -> DensityMap:
    """Write the density map of a table part by part, so that neither the map nor a parquet table must fit into memory.

    Parameters
    ----------
    cells : Cells
        From `cytolith.atlas.positions.cells_of`.
    output : path
        ``.tif``, ``.zarr`` (OME-Zarr) or ``.npy``; uint32, or float32 with weights or `per_mm3`.
    voxel_size : three floats
        Edges (z, y, x) of a voxel of the map in micrometres.
    shape : three ints, optional
        Extent of the map in voxels; default: what covers the volume that the cells were found in.
    radius, per_mm3
        As for `density_map`.
    weights : str, optional
        Column with what each cell adds.
    overwrite : bool
        Replace what is at `output`.
    part_bytes : int
        Memory for a part of the map. Never changes the result.

    Returns
    -------
    DensityMap

    Raises
    ------
    ConfigError, VolumeError, OutputError
        A parameter that cannot be used, a table that cannot be read, a file that cannot be written.
    """
    if weights is not None and weights not in cells.parts.columns:
        there = ", ".join(cells.measures) or "none"
        raise ConfigError(f"--weights {weights}: {cells.parts.name} has no such column of numbers; it has {there}")
    size = _checked_edges(voxel_size)
    grid = _Grid.checked(shape if shape is not None else _covering(cells, size), size, radius)
    dtype = np.dtype(np.float32 if weights is not None or per_mm3 else np.uint32)
    core = _part_shape(grid.shape, part_bytes)

    def weigh(part: int) -> NDArray[np.float64] | None:
        return None if weights is None else cells.parts.read(part, [weights])[weights]

    rows = _Rows(cells, grid, weigh)
    highest = -math.inf
    with create_sink(output, grid.shape, dtype, core, overwrite=overwrite, voxel_size=grid.voxel_size) as sink:
        for block in tile(grid.shape, core, (0, 0, 0)):
            part = _finished(_filled(rows, block.core, weights is not None), block.core, grid, per_mm3)
            highest = max(highest, float(part.max()))
            sink.write(block.core, part)
    return DensityMap(Path(output), grid.shape, grid.voxel_size, rows.inside, cells.total - rows.inside, highest)


@dataclass(frozen=True)
class _Grid:
    shape: Shape
    voxel_size: VoxelSize
    runs: NDArray[np.int64]

    @classmethod
    def checked(cls, shape: Sequence[int], voxel_size: Sequence[float], radius: Any) -> _Grid:
        extents = np.asarray(shape)
        if extents.shape != (3,) or not (np.isfinite(extents) & (extents == np.floor(extents))).all():
            raise ConfigError(f"shape {shape!r}: give three whole numbers Z,Y,X")
        if (extents < 1).any() or (extents > _MOST_EXTENT).any():
            raise ConfigError(f"shape {shape!r}: each extent must be from 1 to {_MOST_EXTENT}")
        z, y, x = (int(extent) for extent in extents)
        size = _checked_edges(voxel_size)
        return cls((z, y, x), size, ball_runs(_radii(radius, size)))

    @property
    def reach(self) -> int:
        """Planes that a ball goes beyond its centre."""
        return int(self.runs[:, 0].max())


def _radii(radius: Any, size: VoxelSize) -> tuple[float, ...] | None:
    """Radius in voxels of the map along each axis; None for no ball."""
    if radius is None:
        return None
    try:
        lengths = parse_lengths(radius, 3)
    except ConfigError as error:
        raise ConfigError(f"radius: {error}") from None
    radii = tuple(length.in_voxels(edge) for length, edge in zip(lengths, size, strict=True))
    if max(radii) > _LARGEST_RADIUS:
        raise ConfigError(
            f"radius {radius}: is {max(radii):.0f} voxels of the map, more than {_LARGEST_RADIUS}: give a coarser "
            "--voxel-size, or a smaller radius"
        )
    if not any(radii):
        return None
    if not all(radii):
        raise ConfigError(f"radius {radius}: is 0 along one axis and not along others; give three above 0")
    return radii


def _checked_edges(voxel_size: Sequence[float]) -> VoxelSize:
    try:
        z, y, x = (float(edge) for edge in voxel_size)
    except (TypeError, ValueError):
        z = y = x = math.nan
    if not all(math.isfinite(edge) and edge > 0 for edge in (z, y, x)):
        raise ConfigError(f"voxel size {voxel_size!r}: give three lengths above 0 in micrometres, (z, y, x)")
    return z, y, x


def _covering(cells: Cells, size: VoxelSize) -> Shape:
    """Voxels of a map that cover the volume."""
    extent = cells.extent
    if extent is None:
        raise ConfigError(
            f"{cells.parts.name}: the extent of its volume is unknown: add --shape Z,Y,X of the map, or give the "
            "folder of the run"
        )
    counts = []
    for length, edge in zip(extent, size, strict=True):
        count = length / edge
        # 324.0000000001 um in voxels of 3.24 um are 100 voxels
        counts.append(max(round(count) if abs(count - round(count)) < 1e-6 else math.ceil(count), 1))
    return counts[0], counts[1], counts[2]


def _part_shape(shape: Shape, part_bytes: int) -> Shape:
    """Extent of the parts of a map: whole planes where memory holds some, else rows of a few planes."""
    z, y, x = shape
    plane = y * x * 8
    planes = part_bytes // plane
    if planes >= z:
        return shape
    if planes >= _PLANES:
        return planes // _PLANES * _PLANES, y, x
    rows = part_bytes // (min(_PLANES, z) * x * 8) // _PLANES * _PLANES
    return min(_PLANES, z), min(max(rows, _PLANES), y), x


class _Rows:
    """Rows of a table as voxels of the map; parts of the table that hold nothing for a part of the map are not read."""

    def __init__(self, cells: Cells, grid: _Grid, weigh: Callable[[int], NDArray[np.float64] | None]) -> None:
        self._cells, self.grid, self._weigh = cells, grid, weigh
        self._planes: list[tuple[int, int]] = []
        self._last: tuple[int, NDArray[np.int64], NDArray[np.float64] | None] | None = None
        self.inside = 0
        for part in range(len(cells.parts.rows)):
            centres, _ = self._read(part)
            self.inside += len(centres)
            z = centres[:, 0]
            self._planes.append((int(z.min()), int(z.max())) if z.size else (1, 0))

    def near(self, planes: slice) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64] | None]]:
        """Voxels and weights of all rows whose balls may reach into some planes, in the order of the table."""
        reach = self.grid.reach
        for part, (first, last) in enumerate(self._planes):
            if first <= last and first - reach < planes.stop and last + reach >= planes.start:
                yield self._read(part)

    def _read(self, part: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        if self._last is None or self._last[0] != part:  # neighbouring parts of the map often need the same rows
            places = np.floor(self._cells.positions(part) / self.grid.voxel_size)
            inside = ((places >= 0) & (places < self.grid.shape)).all(axis=1)
            weights = self._weigh(part)
            if weights is not None and not np.isfinite(weights).all():
                row = self._cells.parts.first_row(part) + int(np.flatnonzero(~np.isfinite(weights))[0]) + 1
                raise ConfigError(
                    f"{self._cells.parts.name}: the weight of row {row} is not finite; filter such rows out"
                )
            kept = None if weights is None else np.ascontiguousarray(weights[inside])
            self._last = part, places[inside].astype(np.int64), kept
        return self._last[1], self._last[2]


def _filled(rows: _Rows, region: Region, weighted: bool) -> NDArray[Any]:
    """Counts (uint32) or sums of weights (float64) of one part of the map."""
    image: NDArray[Any] = np.zeros(region_shape(region), np.float64 if weighted else np.uint32)
    for centres, weights in rows.near(region[0]):
        ones = np.ones(len(centres), np.uint32) if weights is None else weights
        add_balls(image, region_origin(region), centres, ones, rows.grid.runs)
    return image


def _finished(image: NDArray[Any], region: Region, grid: _Grid, per_mm3: bool) -> NDArray[Any]:
    """The part of the map as it is given back."""
    if not per_mm3:
        return image if image.dtype == np.uint32 else image.astype(np.float32)
    voxel_mm3 = math.prod(grid.voxel_size) * 1e-9
    result = np.empty(image.shape, np.float32)
    volumes: dict[tuple[int, int], NDArray[Any]] = {}
    for plane, z in enumerate(range(region[0].start, region[0].stop)):
        to_faces = min(z, grid.reach), min(grid.shape[0] - 1 - z, grid.reach)
        if to_faces not in volumes:  # planes that are as far from both faces as a ball reaches are all alike
            volumes = {to_faces: ball_voxels_inside(grid.runs, grid.shape, z, region[1]) * voxel_mm3}
        np.divide(image[plane], volumes[to_faces], out=result[plane], casting="unsafe")
    return result
