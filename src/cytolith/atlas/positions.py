"""Where the cells of a table lie, in micrometres from the corner of the volume, part by part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, Shape, VoxelSize
from cytolith.errors import ConfigError, VolumeError
from cytolith.io.table_parts import TableParts, open_parts, parts_of
from cytolith.io.tables import position_columns, read_points, voxel_size_of

_UM_COLUMNS = tuple(f"{axis}_um" for axis in AXES)
_SIZE_OPTION = "--volume-voxel-size Z,Y,X"


@dataclass(frozen=True)
class Cells:
    """Rows of a table with their positions; made by `cells_of`.

    Attributes
    ----------
    parts : TableParts
        The table.
    voxel_size : tuple of float or None
        Of the volume that the cells were found in, (z, y, x) in micrometres; None where nothing says.
    shape : tuple of int or None
        Of that volume, (z, y, x).
    """

    parts: TableParts
    voxel_size: VoxelSize | None
    shape: Shape | None
    _columns: tuple[str, ...]
    _edges: VoxelSize
    _shift: VoxelSize

    @property
    def total(self) -> int:
        """Number of rows."""
        return self.parts.total

    @property
    def measures(self) -> tuple[str, ...]:
        """Columns of numbers that are no positions."""
        positions = {*_UM_COLUMNS, *position_columns(self.parts.columns).values(), *self._columns}
        return tuple(name for name in self.parts.columns if name not in positions)

    @property
    def extent(self) -> VoxelSize | None:
        """Extent of the volume in micrometres, (z, y, x), where it is known."""
        if self.shape is None or self.voxel_size is None:
            return None
        z, y, x = (count * edge for count, edge in zip(self.shape, self.voxel_size, strict=True))
        return z, y, x

    def positions(self, part: int) -> NDArray[np.float64]:
        """Positions of the rows of a part, (n, 3), in micrometres from the corner of the volume.

        Raises
        ------
        VolumeError
            A row without a position, a table that can no longer be read.
        """
        columns = self.parts.read(part, self._columns)
        points = np.column_stack([columns[name] for name in self._columns])
        bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if bad.size:
            row = self.parts.first_row(part) + int(bad[0]) + 1
            raise VolumeError(f"{self.parts.name}: row {row} has no position: it is not finite")
        return points * self._edges + self._shift


def cells_of(source: Any, *, voxel_size: Sequence[float] | None = None) -> Cells:
    """The cells of a run, a table or an array, with what is known of the volume that they were found in.

    Parameters
    ----------
    source : path, mapping of str to ndarray, or array of shape (n, 3)
        Folder of a run, table (``.parquet``, ``.csv``, structured ``.npy``), columns as `cytolith.detect_cells` gives
        them, or positions (z, y, x) in micrometres from the corner of the volume.
    voxel_size : three floats, optional
        Edges (z, y, x) in micrometres of a voxel of the volume, over what the table says; columns z, y, x are voxels of
        that size then.

    Returns
    -------
    Cells

    Raises
    ------
    VolumeError
        A table that is missing, cannot be read or has no positions.
    ConfigError
        Positions in voxels whose size is unknown.

    Notes
    -----
    Positions in tables count from the centre of the first voxel, as everywhere in cytolith. A map of another voxel size
    has its corner in common with the volume, not that centre, so half a voxel of the volume is added to them. Where the
    size of a voxel is unknown and there are columns z_um, y_um and x_um alone, they are taken to count from the corner.
    """
    size = None if voxel_size is None else _checked_size(voxel_size)
    if isinstance(source, Mapping):
        return _cells(parts_of(source), size, None)
    if not isinstance(source, (str, Path)):
        points = np.asarray(source, np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise VolumeError(f"positions have the shape {points.shape}: (n, 3) is needed, as z, y, x in micrometres")
        columns = dict(zip(_UM_COLUMNS, points.T, strict=True))
        return Cells(parts_of(columns, "positions"), size, None, _UM_COLUMNS, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    path = Path(source).expanduser()
    table, record = _places(path)
    parts = _other_parts(table) if _holds_points(table) else open_parts(table)
    noted, shape = _recorded(record) if record is not None else (None, None)
    return _cells(parts, size, shape, noted)


def _places(path: Path) -> tuple[Path, Path | None]:
    """The table meant by a path, and the record of its run where there is one."""
    if path.is_dir():
        table = next((path / name for name in ("cells.parquet", "cells.csv") if (path / name).is_file()), None)
        if table is None:
            raise VolumeError(f"{path}: no cells.parquet in it; give the folder of a finished run, or a table")
        return table, path / "run.json"
    if path.stem == "cells":  # the table of a run; any other may be of other rows, but lies where it was put
        return path, path.parent / "run.json"
    return path, None


def _holds_points(path: Path) -> bool:
    """Whether a file holds positions in voxels and no columns: a plain array, markers of cellfinder or ImageJ."""
    if path.suffix.lower() != ".npy":
        return path.suffix.lower() == ".xml"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).dtype.names is None
    except (OSError, ValueError, EOFError):  # for the reader to name
        return False


def _other_parts(path: Path) -> TableParts:
    points = read_points(path)
    return parts_of(dict(zip(AXES, points.T, strict=True)), str(path))


def _recorded(path: Path) -> tuple[VoxelSize | None, Shape | None]:
    """Voxel size and shape of the input of a run; None for what its record does not say."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        # one that did not finish may lie beside the tables of an earlier run
        record = document["input"] if document["state"] == "finished" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    return (
        (_triple(record.get("voxel_size_um")), _shape(record.get("shape")))
        if isinstance(record, dict)
        else (None, None)
    )


def _cells(parts: TableParts, given: VoxelSize | None, shape: Shape | None, recorded: VoxelSize | None = None) -> Cells:
    noted = voxel_size_of(parts.metadata) or recorded
    shape = shape or _shape(_json(parts.metadata.get("shape")))
    voxels = _voxel_columns(parts)
    has_um = set(_UM_COLUMNS) <= set(parts.columns)
    size = given or noted
    if size is None and has_um and voxels is not None:
        size = _ratio(parts, voxels)
    half = (0.0, 0.0, 0.0) if size is None else (size[0] / 2, size[1] / 2, size[2] / 2)
    if has_um and (given is None or voxels is None):
        return Cells(parts, size, shape, _UM_COLUMNS, (1.0, 1.0, 1.0), half)
    if voxels is None:
        there = ", ".join((*parts.columns, *parts.others)) or "none"
        raise VolumeError(f"{parts.name}: no columns z_um, y_um, x_um or z, y, x for positions; its columns: {there}")
    if size is None:
        raise ConfigError(f"{parts.name}: its positions are in voxels of unknown size: add {_SIZE_OPTION}")
    return Cells(parts, size, shape, voxels, size, half)


def _voxel_columns(parts: TableParts) -> tuple[str, ...] | None:
    columns = position_columns(parts.columns)
    return tuple(columns[axis] for axis in AXES) if len(columns) == len(AXES) else None


def _ratio(parts: TableParts, voxels: Sequence[str]) -> VoxelSize | None:
    """Voxel size of a table that has positions in both units, from rows far from 0; a csv says it in no other way."""
    if not parts.total:
        return None
    columns = parts.read(0, [*_UM_COLUMNS, *voxels])
    edges = []
    for um, voxel in zip(_UM_COLUMNS, voxels, strict=True):
        row = int(np.argmax(np.nan_to_num(columns[voxel])))
        # twelve digits: 1.62 where the division gives 1.6200000000000001
        edges.append(float(f"{columns[um][row] / columns[voxel][row]:.12g}") if columns[voxel][row] > 0 else math.nan)
    return _triple(edges)


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _triple(values: Any) -> VoxelSize | None:
    try:
        z, y, x = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if all(math.isfinite(edge) and edge > 0 for edge in (z, y, x)) else None


def _shape(values: Any) -> Shape | None:
    size = _triple(values)
    return None if size is None else (int(size[0]), int(size[1]), int(size[2]))


def _checked_size(voxel_size: Sequence[float]) -> VoxelSize:
    size = _triple(voxel_size)
    if size is None:
        raise ConfigError(f"voxel size {voxel_size!r}: give three lengths above 0 in micrometres, (z, y, x)")
    return size
