"""Cells that other programs have found, as the tables of a run: cells.parquet and cells.csv."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, VoxelSize
from cytolith.errors import ConfigError, VolumeError
from cytolith.io.points.markers import take_markers
from cytolith.io.points.rows import ROWS_AT_ONCE, look_through
from cytolith.io.table_writer import Table, TableWriter, count_rows

_MEASURES = {2: ("source", "size"), 4: ("source", "dog_filter", "background_correction", "size")}
"""Columns of ClearMap 1's intensities, by their number: after ilastik, and after its own detection of spots."""


def cells_of_clearmap(path: Path, intensities: Path | None) -> tuple[str, Iterator[Table]]:
    """What a .npy file of ClearMap is, and its rows, part by part.

    Parameters
    ----------
    path
        Structured array with columns x, y, z (ClearMap 2 and 3), or coordinates (n, 3) as x, y, z (ClearMap 1).
    intensities
        Intensities of the same rows, (n,) or (n, k), of ClearMap 1.

    Raises
    ------
    VolumeError
        A file that cannot be read, that has no positions, or intensities of other rows.
    ConfigError
        Intensities where the cells have columns of their own.
    """
    array = _mapped(path)
    if array.dtype.names is not None:
        if intensities is not None:
            raise ConfigError(f"--intensities {intensities}: {path} has columns of its own; leave it out")
        rows = look_through(path)
        return "ClearMap 2", ({**_positions(points), **_in_order(table)} for points, table in rows.parts())
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iuf":
        raise VolumeError(
            f"{path}: an array of {array.dtype} and shape {array.shape}, neither rows with named columns nor "
            "coordinates (n, 3): give the cells or coordinates, and their intensities with --intensities"
        )
    measures = None if intensities is None else _measures(intensities, len(array), path)
    return "ClearMap 1", _coordinates(array, measures, path)


def cells_of_markers(path: Path, marker_type: int | None) -> tuple[str, Iterator[Table], list[str]]:
    """What a file of markers in XML is, its rows, part by part, and notes on which were taken.

    See :func:`cytolith.io.points.markers.take_markers`.
    """
    points, notes = take_markers(path, marker_type)
    return "cellfinder or Cell Counter", (_positions(part) for part in _parts(points)), notes


def write_cells(paths: Sequence[Path], parts: Iterator[Table], voxel_size: VoxelSize | None) -> int:
    """Write rows to tables, .parquet or .csv, whole or not at all; their number.

    Columns are z, y, x (float64, voxels), z_um, y_um, x_um where the voxel size is known, and the others.
    """
    metadata = {} if voxel_size is None else {"voxel_size_um": json.dumps(list(voxel_size))}
    rows = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(TableWriter(path, metadata)) for path in paths]
        for part in parts:
            table = _with_micrometres(part, voxel_size)
            rows += count_rows(table)
            for writer in writers:
                writer.write(table)
    return rows


def _with_micrometres(table: Table, voxel_size: VoxelSize | None) -> Table:
    if voxel_size is None:
        return table
    lengths = {f"{axis}_um": table[axis] * edge for axis, edge in zip(AXES, voxel_size, strict=True)}
    return (
        {axis: table[axis] for axis in AXES} | lengths | {k: v for k, v in table.items() if k not in {*AXES, *lengths}}
    )


def _positions(points: NDArray[Any]) -> Table:
    return {axis: np.ascontiguousarray(points[:, number], np.float64) for number, axis in enumerate(AXES)}


def _in_order(table: Table) -> Table:
    """The columns with the size first, as runs write them."""
    return {name: table[name] for name in sorted(table, key=lambda name: name != "size")}


def _coordinates(array: NDArray[Any], measures: Table | None, path: Path) -> Iterator[Table]:
    for start in range(0, max(len(array), 1), ROWS_AT_ONCE):
        part = np.asarray(array[start : start + ROWS_AT_ONCE, ::-1], np.float64)
        bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
        if bad.size:
            raise VolumeError(f"{path}: row {start + bad[0] + 1} has no position: it is not finite")
        others = {name: column[start : start + ROWS_AT_ONCE] for name, column in (measures or {}).items()}
        yield _positions(part) | _in_order(others)


def _measures(path: Path, rows: int, coordinates: Path) -> Table:
    array = _mapped(path)
    if array.dtype.names is not None or array.ndim not in (1, 2) or array.dtype.kind not in "iuf":
        raise VolumeError(
            f"{path}: an array of {array.dtype} and shape {array.shape}; intensities are numbers, (n,) or (n, k)"
        )
    if len(array) != rows:
        raise VolumeError(
            f"{path}: has {len(array):,} rows, but {coordinates} has {rows:,}: give those of the same run"
        )
    columns = array if array.ndim == 2 else array[:, np.newaxis]
    count = columns.shape[1]
    names = _MEASURES.get(count) or (("intensity",) if count == 1 else tuple(f"intensity_{k}" for k in range(count)))
    table = {name: np.ascontiguousarray(columns[:, k]) for k, name in enumerate(names)}
    if "size" in table and np.array_equal(table["size"], np.rint(table["size"])):
        table["size"] = table["size"].astype(np.int64)
    return table


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise VolumeError(f"{path}: cannot be read as .npy: {str(error).splitlines()[0]}") from error
    return array


def _parts(points: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, max(len(points), 1), ROWS_AT_ONCE):
        yield points[start : start + ROWS_AT_ONCE]
