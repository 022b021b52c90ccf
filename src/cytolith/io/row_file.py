"""A map too large for memory, as a scratch file of rows."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cytolith.errors import OutputError
from cytolith.io.files import BINARY, read_at, reason_of, write_at


class RowFile:
    """Plain binary file of the rows of a map, read and written a few whole rows at a time.

    Rows may be read and written in any order and from several threads at once, as long as no row is written while
    another thread reads or writes it. Rows never written are 0. The file has no header: it is scratch, not a result.

    Parameters
    ----------
    path
        Where the file is made; what is there is replaced.
    shape
        (rows, columns), each at least 1.
    dtype
        Of the cells.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        (rows, columns).
    dtype : numpy.dtype

    Raises
    ------
    OutputError
        The file cannot be made, read or written; says so when the disk is full.
    ValueError
        An extent is below 1.

    Notes
    -----
    Not memory-mapped: pages of a map that were touched count as memory of the process, and a full disk under a map
    kills it without a message.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: DTypeLike) -> None:
        if min(shape) < 1:
            raise ValueError(f"shape is {shape}; at least one row and one column are needed")
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._row_bytes = shape[1] * self.dtype.itemsize
        # Windows has one position in an open file, which threads move one after the other
        self._turn: AbstractContextManager[Any] = nullcontext() if hasattr(os, "preadv") else threading.Lock()
        with self._named("written"):
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | BINARY, 0o600)
        try:
            with self._named("written"):
                os.ftruncate(self._descriptor, shape[0] * self._row_bytes)
        except OutputError:
            self.remove()
            raise

    @classmethod
    def temporary(cls, folder: Path, shape: tuple[int, int], dtype: DTypeLike) -> Self:
        """Row file with a name of its own in a folder that exists; `remove` it after use."""
        try:
            descriptor, path = tempfile.mkstemp(suffix=".rows", dir=folder)
        except OSError as error:
            raise OutputError(f"{folder}: no scratch file can be made there: {error.strerror or error}") from error
        os.close(descriptor)
        return cls(Path(path), shape, dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` ... `stop` - 1 as a new array (stop - start, columns)."""
        self._check(start, stop)
        rows = np.empty((stop - start, self.shape[1]), self.dtype)
        data = rows.reshape(-1).view(np.uint8).data
        with self._named("read"), self._turn:
            found = read_at(self._open(), data, start * self._row_bytes)
        if found < len(data):
            raise OutputError(f"{self.path}: was cut off while in use; leave scratch files alone during a run")
        return rows

    def write(self, start: int, rows: ArrayLike) -> None:
        """Write whole rows, from row `start` on; they are converted to the dtype of the file."""
        array = np.ascontiguousarray(rows, self.dtype)
        if array.ndim != 2 or array.shape[1] != self.shape[1]:
            raise ValueError(f"{self.path}: rows of {self.shape[1]} cells are needed, shape {array.shape} given")
        self._check(start, start + len(array))
        with self._named("written"), self._turn:
            write_at(self._open(), array.reshape(-1).view(np.uint8).data, start * self._row_bytes)

    def strips(self, rows_at_once: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """All rows in order, as (first row, array) of at most `rows_at_once` rows."""
        for start in range(0, self.shape[0], rows_at_once):
            yield start, self.read(start, min(start + rows_at_once, self.shape[0]))

    def close(self) -> None:
        """Let go of the file, which stays on disk; closing twice is harmless."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def remove(self) -> None:
        """Close and delete the file; harmless when it is gone."""
        self.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        return self._descriptor

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"{self.path}: rows {start}:{stop} are not inside 0:{self.shape[0]}")

    @contextmanager
    def _named(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be {done}: {reason_of(error)}") from error
