"""Rows of a table on disk, part by part, and what must be known of them before the first is written elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from cytolith.axes import AXES, VoxelSize
from cytolith.errors import VolumeError
from cytolith.io.table_writer import Table, count_rows
from cytolith.io.tables import (
    columns_of,
    columns_of_rows,
    known_for,
    metadata_of,
    points_of,
    position_columns,
    read_table,
    voxel_size_of,
)

ROWS_AT_ONCE = 1 << 16
"""Rows of a part."""


@dataclass(frozen=True)
class Column:
    """What a column holds over all rows.

    Attributes
    ----------
    kind : str
        ``"b"`` bool, ``"i"`` integers, ``"f"`` floats, ``"U"`` text. Integers of which some are missing are floats.
    low, high : float
        Least and largest value that is a number; low is above high where there is none.
    """

    kind: str
    low: float = math.inf
    high: float = -math.inf

    def __add__(self, other: Column) -> Column:
        kind = self.kind if self.kind == other.kind else "U" if "U" in (self.kind, other.kind) else "f"
        return Column(kind, min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class Rows:
    """A table on disk: its rows in parts, and what was found when all were looked at once.

    Attributes
    ----------
    path : Path
        The table.
    metadata : dict of str to str
        Notes in it.
    count : int
        Rows.
    columns : dict of str to Column
        All columns, those of the positions included.
    low, high : tuple of float
        Least and largest z, y, x in voxels; low is above high without rows.
    """

    path: Path
    metadata: dict[str, str]
    count: int
    columns: dict[str, Column]
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    @property
    def voxel_size(self) -> VoxelSize | None:
        """Edges (z, y, x) in micrometres that the run noted."""
        return voxel_size_of(self.metadata)

    @property
    def others(self) -> dict[str, Column]:
        """Columns that are not the positions."""
        taken = set(position_columns(self.columns).values())
        return {name: column for name, column in self.columns.items() if name not in taken}

    def tables(self) -> Iterator[Table]:
        """All rows, a part at a time, with all columns; there is one part at least."""
        return _tables(self.path)

    def parts(self) -> Iterator[tuple[NDArray[np.float64], Table]]:
        """Positions (n, 3) z, y, x in voxels and the other columns of all rows, a part at a time."""
        for table in self.tables():
            taken = set(position_columns(table).values())
            yield points_of(table, self.path), {name: c for name, c in table.items() if name not in taken}


def look_through(path: Path) -> Rows:
    """The rows of a table, after one look at all of them.

    Parquet and .npy are read part by part, csv at once: its types are known only at its end.

    Raises
    ------
    VolumeError
        See :func:`cytolith.io.tables.read_points`; of a position that is not finite it says the row.
    """
    count, columns, metadata = 0, dict[str, Column](), dict[str, str]()
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for table in _tables(path, metadata):
        try:
            points = points_of(table, path)
        except VolumeError:
            _refuse_from(table, path, count)
            raise
        count += len(points)
        if len(points):
            low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
        seen = {name: _look(column) for name, column in table.items()}
        columns = {name: columns[name] + column for name, column in seen.items()} if columns else seen
    return Rows(path, metadata, count, columns, _triple(low), _triple(high))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    z, y, x = values.tolist()
    return z, y, x


def _refuse_from(table: Table, path: Path, before: int) -> None:
    """The error of a position that is not finite, with the row counted in the whole table."""
    names = position_columns(table)
    if len(names) < len(AXES) or any(table[name].dtype.kind not in "iuf" for name in names.values()):
        return
    bad = np.flatnonzero(~np.all([np.isfinite(table[name]) for name in names.values()], axis=0))
    if bad.size:
        raise VolumeError(f"{path}: row {before + bad[0] + 1} has no position: it is not finite")


def _look(column: NDArray[Any]) -> Column:
    kind = {"u": "i"}.get(column.dtype.kind, column.dtype.kind)
    if kind == "U" or not len(column):
        return Column(kind)
    if kind == "f":
        column = column[np.isfinite(column)]
        if not len(column):
            return Column(kind)
    return Column(kind, float(column.min()), float(column.max()))


def _tables(path: Path, metadata: dict[str, str] | None = None) -> Iterator[Table]:
    """Parts of a table; its metadata is added to what is given."""
    notes: dict[str, str] = {} if metadata is None else metadata
    parts = known_for(path, _PARTS)
    try:
        yield from parts(path, notes)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VolumeError(f"{path}: cannot be read as a table: {reason}") from error


def _parquet(path: Path, metadata: dict[str, str]) -> Iterator[Table]:
    with path.open("rb") as file:
        source = pyarrow.parquet.ParquetFile(file, pre_buffer=False)  # or all of the file is read ahead
        metadata |= metadata_of(source.schema_arrow)
        if source.metadata.num_rows == 0:
            yield columns_of(source.read())
            return
        for batch in source.iter_batches(ROWS_AT_ONCE):
            yield columns_of(pa.Table.from_batches([batch]))


def _npy(path: Path, _: dict[str, str]) -> Iterator[Table]:
    array = np.load(path, mmap_mode="r", allow_pickle=False) if path.stat().st_size else np.load(path)
    if array.ndim != 1:
        columns_of_rows(array)  # says what is wrong; an array without axes has no length
    for start in range(0, max(len(array), 1), ROWS_AT_ONCE):
        yield columns_of_rows(array[start : start + ROWS_AT_ONCE])


def _csv(path: Path, _: dict[str, str]) -> Iterator[Table]:
    table = read_table(path)[0]
    for start in range(0, max(count_rows(table), 1), ROWS_AT_ONCE):
        yield {name: column[start : start + ROWS_AT_ONCE] for name, column in table.items()}


_PARTS = {".parquet": _parquet, ".csv": _csv, ".npy": _npy}
