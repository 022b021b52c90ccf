"""The numbers of a table, part by part, so that a table of any length can be gone through in little memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from cytolith.errors import VolumeError
from cytolith.io.table_writer import ROWS_IN_GROUP, checked_table, count_rows
from cytolith.io.tables import read_table

Numbers = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class TableParts:
    """A table whose columns of numbers are read part by part; made by `open_parts` or `parts_of`.

    Attributes
    ----------
    name : str
        What messages call it.
    columns : tuple of str
        Names of the columns of numbers: integers and floats.
    others : tuple of str
        Names of the other columns.
    rows : tuple of int
        Rows of each part.
    metadata : dict of str to str
        What is said about the table in its file.
    """

    name: str
    columns: tuple[str, ...]
    others: tuple[str, ...]
    rows: tuple[int, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    _table: Mapping[str, NDArray[Any]] | None = None
    _path: Path | None = None

    @property
    def total(self) -> int:
        """Rows of the table."""
        return sum(self.rows)

    def first_row(self, part: int) -> int:
        """Number of the first row of a part."""
        return sum(self.rows[:part])

    def read(self, part: int, names: Sequence[str]) -> Numbers:
        """Columns of one part as float64, NaN where a number is missing.

        Raises
        ------
        VolumeError
            The file can no longer be read, or has changed.
        """
        if self._table is not None:
            begin = self.first_row(part)
            rows = slice(begin, begin + self.rows[part])
            return {name: np.asarray(self._table[name][rows], np.float64) for name in names}
        assert self._path is not None
        try:
            with self._path.open("rb") as file:
                group = pyarrow.parquet.ParquetFile(file).read_row_group(part, columns=list(names))
                columns = {
                    name: np.array(group.column(name).cast(pa.float64(), safe=False).to_numpy(), np.float64)
                    for name in names
                }
        except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
            raise _unreadable(self._path, error) from error
        if count_rows(columns) != self.rows[part] and names:
            raise VolumeError(f"{self.name}: has changed while it was read; run again")
        return columns


def open_parts(path: Path | str) -> TableParts:
    """The columns of numbers of a table on disk.

    Parameters
    ----------
    path : path
        ``.parquet``, of which one row group is in memory at a time; ``.csv`` or structured ``.npy``, which are read
        whole.

    Raises
    ------
    VolumeError
        A file that is missing, of another kind, or cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() != ".parquet":
        table, metadata = read_table(path)
        return parts_of(table, str(path), metadata)
    try:
        with path.open("rb") as file:
            stored = pyarrow.parquet.ParquetFile(file)
            schema = stored.schema_arrow
            rows = tuple(stored.metadata.row_group(group).num_rows for group in range(stored.num_row_groups))
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    numbers = [each.name for each in schema if pa.types.is_integer(each.type) or pa.types.is_floating(each.type)]
    others = [name for name in schema.names if name not in numbers]
    metadata = {
        key.decode(errors="replace"): value.decode(errors="replace") for key, value in (schema.metadata or {}).items()
    }
    return TableParts(str(path), tuple(numbers), tuple(others), rows, metadata, _path=path)


def parts_of(
    table: Mapping[str, NDArray[Any]], name: str = "table", metadata: Mapping[str, str] | None = None
) -> TableParts:
    """The columns of numbers of a table in memory, in parts of the same rows as those of a parquet file."""
    arrays = checked_table(table)
    total = count_rows(arrays)
    rows = tuple(min(ROWS_IN_GROUP, total - begin) for begin in range(0, total, ROWS_IN_GROUP))
    numbers = tuple(name for name, column in arrays.items() if column.dtype.kind in "iuf")
    others = tuple(name for name in arrays if name not in numbers)
    return TableParts(name, numbers, others, rows, dict(metadata or {}), _table=arrays)


def _unreadable(path: Path, error: Exception) -> VolumeError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return VolumeError(f"{path}: cannot be read as a table: {reason}")
