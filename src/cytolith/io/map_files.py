"""Maps (rows, columns) as text and as TIFF images, written strip by strip so that one need never be whole in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytolith.errors import VolumeError
from cytolith.io.files import output_error
from cytolith.io.tiff_sink import reserve
from cytolith.io.volume import one_line

_DIGITS = 19
"""Of the largest integer of 64 bits."""
_MARKS_OF_FLOATS = b".eEnN"  # of 1.5, 1e3, nan and inf


def write_map_text(path: Path, strips: Iterable[NDArray[Any]], number: str) -> None:
    """Write a map as text: a line a row, tabs between cells, no header.

    Parameters
    ----------
    path : Path
        File to write; an existing one is replaced. It is written to directly: give a name aside and rename it when all
        is well.
    strips : iterable of ndarray
        Rows of the map from top to bottom, (rows, columns) each.
    number : str
        How C's ``printf`` writes a cell: ``"%d"`` for integers, ``"%f"`` for floating point (six decimals, NaN as
        ``nan``). The bytes are those of ``np.savetxt`` with that ``fmt`` and a tab as delimiter.

    Raises
    ------
    OutputError
        The file cannot be written; says so when the disk is full.
    """
    try:
        with path.open("w", encoding="ascii", newline="\n") as file:
            for strip in strips:
                line = "\t".join([number] * strip.shape[1]) + "\n"
                file.writelines(line % tuple(row) for row in strip.tolist())
    except OSError as error:
        raise output_error(path, error) from error


def read_map_text(path: Path) -> NDArray[Any]:
    """Read a map of numbers between tabs or blanks, a line a row.

    Parameters
    ----------
    path : Path
        File as :func:`write_map_text` or the original tools for fracture maps leave it.

    Returns
    -------
    ndarray of shape (rows, columns)
        int64 where every cell is an integer, float64 otherwise. A byte order mark at the beginning is no part of it.

    Raises
    ------
    VolumeError
        The file cannot be read, or names the line that is empty, longer or shorter than the first, no number, or
        an integer beyond 64 bits.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        lines = data.decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise VolumeError(f"{path} is not text; give a map of numbers with tabs between them") from error
    if not lines:
        raise VolumeError(f"{path} is empty; give a map of numbers with tabs between them")
    blank = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if blank is not None:
        raise VolumeError(f"{path}, line {blank} is empty, but a map has a row in every line; remove it")
    dtype = np.float64 if any(mark in data for mark in _MARKS_OF_FLOATS) else np.int64
    try:
        return np.loadtxt(lines, dtype, comments=None, ndmin=2)
    except ValueError as error:
        raise _first_problem(path, lines, error, whole=dtype is np.int64) from error


def _first_problem(path: Path, lines: list[str], error: ValueError, *, whole: bool) -> VolumeError:
    columns = len(lines[0].split())
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if len(cells) != columns:
            return VolumeError(
                f"{path}, line {number} has {len(cells)} cells, but the first has {columns}: mend the map"
            )
        for cell in cells:
            if not _is_number(cell):
                return VolumeError(f"{path}, line {number}: {cell[:40]!r} is not a number; mend the map")
            digits = cell.lstrip("+-0")
            if whole and (len(digits) > _DIGITS or not -(2**63) <= int(cell) < 2**63):
                return VolumeError(f"{path}, line {number}: {cell[:40]} is an integer beyond 64 bits; mend the map")
    return VolumeError(f"{path} is not a map of numbers ({one_line(error)})")


def _is_number(cell: str) -> bool:
    """Whether a text is a number in a file; Python takes 1_000 and the digits of all alphabets too."""
    try:
        float(cell)
    except ValueError:
        return False
    return cell.isascii() and "_" not in cell


def write_map_tiff(
    path: Path,
    strips: Iterable[NDArray[Any]],
    shape: tuple[int, int],
    dtype: DTypeLike,
    cell_size: tuple[float, float] | None = None,
) -> None:
    """Write a map as a grey image, one uncompressed page; BigTIFF above 4 GiB.

    Parameters
    ----------
    path : Path
        File to write; an existing one is replaced. It is written to directly: give a name aside and rename it when all
        is well.
    strips : iterable of ndarray
        Rows of the map from top to bottom, (rows, columns) each; cast to `dtype`.
    shape : tuple of int
        Extent of the whole map, (rows, columns).
    dtype : dtype
        int32 or float32.
    cell_size : tuple of float, optional
        Edges (row, column) of a cell in micrometres, for the resolution tags.

    Raises
    ------
    OutputError
        The file cannot be written; says so when the disk is full.
    ValueError
        The strips do not make up the map.
    """
    rows, columns = shape
    stored = np.dtype(dtype).newbyteorder("<")
    tags: dict[str, Any] = {}
    if cell_size is not None:
        high, wide = cell_size
        tags = {"resolution": (1e4 / wide, 1e4 / high), "resolutionunit": "CENTIMETER"}
    written = 0
    try:
        begin = reserve(path, (1, rows, columns), stored, tags)
        with path.open("r+b") as file:
            file.seek(begin)
            for strip in strips:
                written += len(strip)
                if strip.shape[1:] != (columns,) or written > rows:
                    raise ValueError(f"strip of shape {strip.shape} ends at row {written} of a map of {shape}")
                file.write(np.ascontiguousarray(strip, stored).data)
    except OSError as error:
        raise output_error(path, error) from error
    if written != rows:
        raise ValueError(f"the strips hold {written} rows of a map of {shape}")
