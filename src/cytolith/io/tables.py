"""Tables of cells and points on disk: parquet, csv and structured .npy, to and from one array a column.

Positions are also read from files of other tools, see `read_points`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from cytolith.axes import AXES, VoxelSize
from cytolith.errors import OutputError, VolumeError
from cytolith.io.files import written_aside
from cytolith.io.table_writer import Table, checked_table, count_rows, for_suffix
from cytolith.io.table_writer import TableWriter as TableWriter  # this is where it is looked for

_POINT_COLUMNS = {
    axis: (axis, f"centroid-{number}", f"axis-{number}") for number, axis in enumerate(AXES)
}  # ours and ClearMap's; scikit-image regionprops_table; napari
_Reader = Callable[[Path], tuple[Table, dict[str, str]]]


def write_table(
    columns: Mapping[str, NDArray[Any]], path: Path | str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a table, whole or not at all; the same table gives the same bytes.

    Parameters
    ----------
    columns : mapping of str to ndarray
        One-dimensional arrays of one length: bool, integer, float or text. Tables without rows are fine.
    path : path
        ``.parquet`` (zstd; dtypes kept), ``.csv`` (header; floats with the fewest digits that give the same number
        back, NaN empty, true and false, lines end in a line feed) or ``.npy`` (structured array).
    metadata : mapping of str to str, optional
        Written to the file's own key-value metadata; parquet only, the others have no place for it.

    Raises
    ------
    OutputError
        A suffix that is not known, or a file that cannot be written.

    See Also
    --------
    TableWriter : the same file from parts.

    Examples
    --------
    >>> write_table({"z": np.array([1.5]), "size": np.array([30])}, "cells.csv")  # doctest: +SKIP
    """
    path = Path(path)
    if for_suffix(path, _READERS, OutputError) is _read_npy:
        arrays = checked_table(columns)
        with written_aside(path) as aside, aside.open("wb") as file:
            _write_npy(arrays, file)
        return
    with TableWriter(path, metadata) as writer:
        writer.write(columns)


def read_table(path: Path | str) -> tuple[Table, dict[str, str]]:
    """Columns and metadata of a ``.parquet``, ``.csv`` or structured ``.npy`` file.

    Missing numbers become NaN (and an integer column that has them, floats), missing texts empty. Columns of a csv
    without rows are floats. Dates and the like come as text, bytes in a .npy too.

    Raises
    ------
    VolumeError
        A file that is missing, of another kind, or cannot be read.
    """
    path = Path(path)
    read: _Reader = known_for(path, _READERS)
    try:
        return read(path)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VolumeError(f"{path}: cannot be read as a table: {reason}") from error


def known_for(path: Path, known: Mapping[str, Any]) -> Any:
    """What is known for the ending of a table that is to be read.

    Raises
    ------
    VolumeError
        A folder, which is no table, or another ending; of a path that is not there it says so instead.
    """
    if path.is_dir():
        inside = next((path / name for name in ("cells.parquet", "cells.csv") if (path / name).is_file()), None)
        raise VolumeError(f"{path}: is a folder; give {inside or 'the table in it'}")
    if path.suffix.lower() not in known and not path.exists():
        raise VolumeError(f"{path}: no such file")
    return for_suffix(path, known, VolumeError)


def read_points(path: Path | str, marker_type: int | None = None) -> NDArray[np.float64]:
    """Positions (n, 3) as z, y, x in voxels from a table, or from a file of points of another tool.

    Parameters
    ----------
    path : path
        ``.parquet``, ``.csv`` or structured ``.npy`` (ClearMap 2 among them): columns named z, y, x in either case,
        centroid-0, -1, -2 (scikit-image) or axis-0, -1, -2 (napari). A plain ``.npy`` of shape (n, 3): x, y, z, as
        ClearMap 1 saves it. ``.xml`` of cellfinder or ImageJ's Cell Counter: see
        :func:`cytolith.io.points.markers.read_markers`.
    marker_type : int, optional
        The type of the markers to read; .xml only.

    Raises
    ------
    VolumeError
        A file that cannot be read, a column that is missing or no numbers, a position that is not finite.
    """
    path = Path(path)
    if path.suffix.lower() == ".xml":
        from cytolith.io.points.markers import read_markers  # few have one

        return read_markers(path, marker_type)
    if marker_type is not None:
        raise VolumeError(f"{path}: has no types of markers; leave the type out, it is for .xml files")
    plain = _plain_points(path) if path.suffix.lower() == ".npy" else None
    return points_of(read_table(path)[0], path) if plain is None else _finite(plain, path)


def points_of(table: Mapping[str, NDArray[Any]], name: Path | str) -> NDArray[np.float64]:
    """Positions (n, 3) as z, y, x in voxels from the columns of a table, which messages call `name`.

    Raises
    ------
    VolumeError
        See `read_points`.
    """
    columns = position_columns(table)
    points = np.empty((count_rows(table), 3))
    for number, axis in enumerate(AXES):
        if axis not in columns:
            raise VolumeError(f"{name}: no column {axis!r} for positions; it has {_listed(table)}")
        column = columns[axis]
        if table[column].dtype.kind not in "iuf":
            raise VolumeError(f"{name}: column {column!r} holds {table[column].dtype.name}, not numbers")
        points[:, number] = table[column]
    return _finite(points, name)


def position_columns(names: Iterable[str]) -> dict[str, str]:
    """Which columns hold z, y and x: name of the column by axis, without the axes that have none."""
    names = list(names)
    known = {name.strip().lower(): name for name in reversed(names)} | {name: name for name in names}
    found = {axis: next((known[n] for n in options if n in known), None) for axis, options in _POINT_COLUMNS.items()}
    return {axis: name for axis, name in found.items() if name is not None}


def _plain_points(path: Path) -> NDArray[np.float64] | None:
    """Positions of an array without names; None where the columns have names, or the file is for others to refuse."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.dtype.names is not None:
        return None
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iuf":
        raise VolumeError(
            f"{path}: an array of {array.dtype} and shape {array.shape}; positions are rows of x, y, z, shape (n, 3)"
        )
    return np.ascontiguousarray(array[:, ::-1], np.float64)


def _finite(points: NDArray[np.float64], name: Path | str) -> NDArray[np.float64]:
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        raise VolumeError(f"{name}: row {bad[0] + 1} has no position: {bad.size} of {len(points)} rows are not finite")
    return points


def read_voxel_size(path: Path | str) -> VoxelSize | None:
    """Edges (z, y, x) in micrometres that a run of cytolith noted in its table, None where there is no such note."""
    return voxel_size_of(read_table(path)[1])


def voxel_size_of(metadata: Mapping[str, str]) -> VoxelSize | None:
    """Edges (z, y, x) in micrometres as noted in the metadata of a table, None where there is no such note."""
    try:
        z, y, x = (float(edge) for edge in json.loads(metadata["voxel_size_um"]))
    except (KeyError, ValueError, TypeError):
        return None
    return (z, y, x) if all(math.isfinite(edge) and edge > 0 for edge in (z, y, x)) else None


def _write_npy(columns: Table, file: BinaryIO) -> None:
    array = np.empty(count_rows(columns), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        array[name] = column
    np.lib.format.write_array(file, array, allow_pickle=False)


def _read_parquet(path: Path) -> tuple[Table, dict[str, str]]:
    with path.open("rb") as file:
        table = pyarrow.parquet.read_table(file)
    metadata = metadata_of(table.schema)
    return columns_of(table), metadata


def _read_csv(path: Path) -> tuple[Table, dict[str, str]]:
    with path.open("rb") as file:
        return columns_of(pyarrow.csv.read_csv(file)), {}


def _read_npy(path: Path) -> tuple[Table, dict[str, str]]:
    array = np.load(path, allow_pickle=False)
    return columns_of_rows(array), {}


def columns_of_rows(array: NDArray[Any]) -> Table:
    """One array a column of a structured array; ValueError where there are no columns, or none that a table takes."""
    if array.dtype.names is None or array.ndim != 1:
        raise ValueError(f"an array of {array.dtype} and shape {array.shape}, not rows with named columns")
    return {name: _number_or_text(array[name], name) for name in array.dtype.names}


def _number_or_text(column: NDArray[Any], name: str) -> NDArray[Any]:
    kind = column.dtype.kind
    if column.ndim != 1 or kind not in "SmMbiufU":
        raise ValueError(f"column {name!r} holds {column.dtype} of shape {column.shape[1:]}; leave that column out")
    if kind == "S":  # ClearMap's names of regions; a letter that is no UTF-8 is no reason to refuse the positions
        column = np.char.decode(column, "utf-8", "replace")
    elif kind in "mM":
        column = column.astype(str)
    elif kind == "f" and column.dtype.itemsize not in (4, 8):
        column = column.astype(np.float32 if column.dtype.itemsize < 4 else np.float64)
    return np.ascontiguousarray(column)


def metadata_of(schema: pa.Schema) -> dict[str, str]:
    """Notes in the metadata of a parquet file, without those of the libraries that wrote it."""
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return {key: value for key, value in metadata.items() if key not in {"ARROW:schema", "pandas"}}


def columns_of(table: pa.Table) -> Table:
    """One array a column; see `read_table`."""
    names = table.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the column {twice!r} is there {names.count(twice)} times")
    return {name: _array(table.column(name)) for name in names}


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_boolean(kind) and column.null_count:
        column = column.cast(pa.int8())
    elif not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return np.array(column.cast(pa.string()).fill_null("").to_pylist(), dtype=str)
    array: NDArray[Any] = np.ascontiguousarray(column.to_numpy())
    return array


def _listed(table: Mapping[str, NDArray[Any]]) -> str:
    return "the columns " + ", ".join(table) if table else "no columns"


_READERS: dict[str, _Reader] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".npy": _read_npy,
}
