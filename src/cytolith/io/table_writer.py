"""Tables written part by part: parquet and csv, the same file however the rows are dealt out to parts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from cytolith.errors import CytolithError, OutputError
from cytolith.io.files import output_error, written_aside

ROWS_IN_GROUP = 1 << 17
"""Rows of a row group of a parquet file, the last one excepted; what a `TableWriter` holds at most."""
_ROWS_AT_ONCE = 8_192
Table = dict[str, NDArray[Any]]


class TableWriter:
    """A table written part by part, as a context: the file is there, whole, when it is left well, and else not.

    The bytes of the file depend on the rows alone, not on how they were dealt out to parts; they are what `write_table`
    writes of all rows at once. Memory holds `ROWS_IN_GROUP` rows at most beside the part that is being written.

    Parameters
    ----------
    path : path
        ``.parquet`` or ``.csv``; see `write_table`.
    metadata : mapping of str to str, optional
        Written to the file's own key-value metadata; parquet only.

    Attributes
    ----------
    rows : int
        Written so far.

    Raises
    ------
    OutputError
        A suffix that is not known; on entering, writing or leaving, a file that cannot be written.

    Examples
    --------
    >>> with TableWriter("cells.parquet") as writer:  # doctest: +SKIP
    ...     writer.write({"z": np.array([1.5]), "size": np.array([30])})
    ...     writer.write({"z": np.array([2.0, 4.5]), "size": np.array([12, 7])})
    """

    def __init__(self, path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self.rows = 0
        self._format: type[_Parquet | _Csv] = for_suffix(self.path, _FORMATS, OutputError)
        self._metadata = dict(metadata or {})
        self._files = ExitStack()
        self._file: BinaryIO | None = None
        self._parts: _Parquet | _Csv | None = None
        self._kinds: dict[str, str] = {}
        self._held: Table = {}
        self._count = 0

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows.

        Parameters
        ----------
        columns : mapping of str to ndarray
            As for `write_table`; names, their order and dtypes are those of the first part. Texts may be of any length.

        Raises
        ------
        OutputError
            The file cannot be written; says so when the disk is full.
        ValueError
            The columns are no table, or others than before; or the writer has not been entered.
        """
        arrays = checked_table(columns)
        kinds = {name: "text" if column.dtype.kind == "U" else column.dtype.name for name, column in arrays.items()}
        try:
            if self._parts is None:
                self._begin(arrays, kinds)
            if list(kinds.items()) != list(self._kinds.items()):
                raise ValueError(
                    f"{self.path}: the columns are {_kinds_text(kinds)}, but were {_kinds_text(self._kinds)}"
                )
            start, rows = 0, count_rows(arrays)
            while start < rows:
                stop = min(rows, start + ROWS_IN_GROUP - self._count)
                self._add({name: column[start:stop] for name, column in arrays.items()}, stop - start)
                start = stop
        except OSError as error:
            raise output_error(self.path, error) from error

    def _begin(self, arrays: Table, kinds: dict[str, str]) -> None:
        if self._file is None:
            raise ValueError(f"{self.path}: a TableWriter is used as a context, with TableWriter(path) as writer")
        self._kinds = kinds
        self._held = {name: column[:0] for name, column in arrays.items()}
        self._parts = self._format(self._file, self._held, self._metadata)

    def _add(self, part: Table, rows: int) -> None:
        self.rows += rows
        if rows == ROWS_IN_GROUP:
            self._put(part)
            return
        end = self._count + rows
        for name, column in part.items():
            held = self._held[name]
            dtype = np.promote_types(held.dtype, column.dtype)  # texts may become longer
            if end > len(held) or dtype != held.dtype:
                grown = np.empty(min(max(2 * len(held), end), ROWS_IN_GROUP), dtype)
                grown[: self._count] = held[: self._count]
                held = self._held[name] = grown
            held[self._count : end] = column
        self._count = end
        if end == ROWS_IN_GROUP:
            self._put_held()

    def _put_held(self) -> None:
        self._put({name: column[: self._count] for name, column in self._held.items()})
        self._count = 0

    def _put(self, group: Table) -> None:
        assert self._parts is not None
        self._parts.write(group)

    def __enter__(self) -> Self:
        with ExitStack() as files:
            aside = files.enter_context(written_aside(self.path))
            self._file = files.enter_context(aside.open("wb"))
            self._files = files.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failed:
            self._give_up()
            if isinstance(failed, OSError):
                raise output_error(self.path, failed) from failed
            raise
        if error is None:
            self._files.close()
        else:
            self._give_up()

    def _finish(self) -> None:
        if self._parts is None:
            self._begin({}, {})
        assert self._parts is not None
        if self._count or not self.rows:
            self._put_held()
        self._parts.close()

    def _give_up(self) -> None:
        if self._parts is not None:
            self._parts.abandon()
        stop = _GivenUpError()
        with suppress(OSError):  # not what went wrong first
            self._files.__exit__(_GivenUpError, stop, None)


class _GivenUpError(Exception):
    """Makes a file that is written aside go away, and says nothing."""


class _Parquet:
    def __init__(self, file: BinaryIO, columns: Table, metadata: dict[str, str]) -> None:
        schema = pa.schema([(name, pa.array(column).type) for name, column in columns.items()], metadata or None)
        self._writer = pyarrow.parquet.ParquetWriter(file, schema, compression="zstd")

    def write(self, group: Table) -> None:
        table = pa.table({name: pa.array(column) for name, column in group.items()}, schema=self._writer.schema)
        self._writer.write_table(table, row_group_size=ROWS_IN_GROUP)

    def close(self) -> None:
        self._writer.close()

    def abandon(self) -> None:
        with suppress(Exception):
            self._writer.close()
        self._writer.is_open = False  # or it would try once more when it is collected, and complain


class _Csv:
    # not pyarrow's writer: it prints 1.0 as 1, and a column of whole floats would come back as integers
    def __init__(self, file: BinaryIO, columns: Table, _: dict[str, str]) -> None:
        self._file = file
        # numbers need no quotes, and joining them takes half the time; but a row of a single empty text is written ""
        self._plain = len(columns) > 1 and all(column.dtype.kind != "U" for column in columns.values())
        self._put([list(columns)])

    def write(self, group: Table) -> None:
        for start in range(0, count_rows(group), _ROWS_AT_ONCE):
            rows = zip(*(_texts(column[start : start + _ROWS_AT_ONCE]) for column in group.values()), strict=True)
            if self._plain:
                self._file.write(("\n".join(map(",".join, rows)) + "\n").encode())
            else:
                self._put(rows)

    def _put(self, rows: Iterable[Iterable[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue().encode())

    def close(self) -> None:
        """Nothing follows the rows."""

    def abandon(self) -> None:
        """Nothing is held open."""


def _texts(column: NDArray[Any]) -> list[str]:
    kind = column.dtype.kind
    if kind == "U":
        return list(column.tolist())
    if kind == "b":
        return list(np.where(column, "true", "false").tolist())
    if kind != "f":
        return list(map(str, column.tolist()))
    # the fewest digits that give back the float32, not the float64 that it becomes in a list
    texts = list(map(repr, column.tolist()) if column.dtype == np.float64 else map(str, column))
    for row in np.flatnonzero(np.isnan(column)).tolist():
        texts[row] = ""
    return texts


def checked_table(columns: Mapping[str, NDArray[Any]]) -> Table:
    """Columns of one length and of dtypes that can be written, in native byte order."""
    arrays = {name: _checked(name, column) for name, column in columns.items()}
    if len({len(column) for column in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in arrays.items())
        raise ValueError(f"columns must have the same length, not {lengths}")
    return arrays


def _checked(name: str, column: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(column)
    if array.ndim != 1:
        raise ValueError(f"column {name!r} has the shape {array.shape}: a column has one axis")
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array):
        array = array.astype(str)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind not in "biuU" and array.dtype not in (np.float32, np.float64):
        raise ValueError(f"column {name!r} holds {array.dtype}: give bool, integers, float32, float64 or text")
    return np.ascontiguousarray(array)


def for_suffix(path: Path, known: Mapping[str, Any], error: type[CytolithError]) -> Any:
    """What is known for the ending of a path; an error that names the kinds of table there are."""
    try:
        return known[path.suffix.lower()]
    except KeyError:
        raise error(f"{path}: {path.suffix or 'no suffix'} is no kind of table; known: {', '.join(known)}") from None


def count_rows(table: Mapping[str, NDArray[Any]]) -> int:
    """Rows of a table whose columns have one length."""
    return len(next(iter(table.values()))) if table else 0


def _kinds_text(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in kinds.items()) or "none"


_FORMATS: dict[str, type[_Parquet | _Csv]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
}
