"""The maps of a fracture run read back row by row, reduced for pictures, with what was filled in between."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, Shape
from cytolith.engine.workspace import Workspace
from cytolith.errors import CytolithError, VolumeError
from cytolith.fracture.source import Source
from cytolith.fracture.summary import count_values
from cytolith.io.pictures import reduce_map
from cytolith.kernels.projection import map_shape

LONGEST = 1000
"""Cells that the longer side of a picture of a map has at most."""
PROJECTED_VOXELS = 2_000_000_000
"""Voxels up to which the stack is projected again, to see what the filter replaced."""
_CELLS_AT_ONCE = 1 << 18
_BLOCK_VOXELS = 1 << 22


@dataclass(frozen=True)
class SmallMap:
    """A map, reduced."""

    image: NDArray[np.float64]
    """Means over square blocks of cells; NaN where there is no value."""
    shape: tuple[int, int]
    """Extent of the whole map."""


@dataclass(frozen=True)
class Patches:
    """Where the offset map was filled in: shares 0 ... 1 of the cells of each block, as large as the reduced map."""

    missing: NDArray[np.float64]
    """Cells in whose column there is no fracture."""
    removed: NDArray[np.float64] | None
    """Cells whose own offset the filter replaced; None where that is not known."""


def map_rows(path: Path, shape: tuple[int, int]) -> Iterator[NDArray[np.float64]]:
    """Strips of rows of a map on disk as text, from top to bottom; only a strip is in memory.

    Raises
    ------
    VolumeError
        The file cannot be read, or does not hold so many rows and columns.
    """
    rows, columns = shape
    done, at_once = 0, max(_CELLS_AT_ONCE // columns, 1)
    try:
        with path.open("rb") as file:
            while done < rows:
                lines = list(islice(file, min(at_once, rows - done)))
                if not lines:
                    break
                strip = np.loadtxt(io.BytesIO(b"".join(lines)), np.float64, comments=None, ndmin=2)
                if strip.shape != (len(lines), columns):
                    raise VolumeError(f"{path}: rows of {strip.shape[1]} cells, but the summary says {columns}")
                done += len(lines)
                yield strip
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise VolumeError(f"{path}: rows {done + 1} and on are no map of numbers ({error})") from error
    if done != rows:
        raise VolumeError(f"{path}: {done} rows, but the summary says {rows}")


def read_small(path: Path, shape: tuple[int, int]) -> SmallMap:
    """A map on disk, reduced for a picture."""
    return SmallMap(reduce_map(map_rows(path, shape), shape, LONGEST), shape)


def count_apertures(path: Path, shape: tuple[int, int]) -> NDArray[np.int64]:
    """How often each aperture 0, 1, 2, ... occurs in a map on disk."""
    return count_values(strip.astype(np.int64) for strip in map_rows(path, shape))


def find_patches(aperture: Path, offset: Path, shape: tuple[int, int], source: Source | None, axis: str) -> Patches:
    """Where an offset map was filled in.

    Parameters
    ----------
    aperture, offset
        The maps on disk.
    shape
        Of the maps.
    source
        What the maps are of, to tell what the filter replaced: those cells whose first fracture voxel is elsewhere.
        None: only cells without fracture are told.
    axis
        Opening axis.
    """
    missing = reduce_map((strip == 0 for strip in map_rows(aperture, shape)), shape, LONGEST)
    if source is None:
        return Patches(missing, None)
    try:
        removed = reduce_map(_removed(map_rows(offset, shape), source, axis), shape, LONGEST)
    except CytolithError:  # what is marked then is still right
        return Patches(missing, None)
    return Patches(missing, removed)


def _removed(settled: Iterator[NDArray[np.float64]], source: Source, axis: str) -> Iterator[NDArray[np.bool_]]:
    row = 0
    for strip in settled:
        first = first_voxels(source, axis, row, row + len(strip))
        # six decimals are written
        yield (first >= 0) & ~(np.abs(strip - first) < 1e-5)
        row += len(strip)


def first_voxels(source: Source, axis: str, start: int, stop: int) -> NDArray[np.int64]:
    """Rows of the map of first fracture voxels.

    Parameters
    ----------
    source
        Volume and what is fracture in it.
    axis
        Opening axis.
    start, stop
        Rows of the map.

    Returns
    -------
    ndarray of int64
        (stop - start, columns): index of the first fracture voxel along the axis, -1 where there is none.
    """
    shape: Shape = source.volume.shape
    along, rows = AXES.index(axis), 1 if axis == "z" else 0
    columns = map_shape(shape, axis)[1]
    first = np.full((stop - start, columns), -1, np.int64)
    at_once = max(_BLOCK_VOXELS // (shape[along] * columns), 1)
    workspace = Workspace()
    for low in range(start, stop, at_once):
        high = min(low + at_once, stop)
        region = [slice(0, extent) for extent in shape]
        region[rows] = slice(low, high)
        image, level = source.read((region[0], region[1], region[2]), workspace)
        inside: NDArray[Any] = image > level
        found = inside.any(along)
        first[low - start : high - start] = np.where(found, inside.argmax(along), -1)
    return first
