"""Detections and annotations as users have them: a run, a table, markers of another tool, labels, a mask."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, Shape, VoxelSize
from cytolith.errors import VolumeError
from cytolith.io.points.export import table_path
from cytolith.io.table_writer import Table
from cytolith.io.tables import points_of, position_columns, read_points, read_table, voxel_size_of
from cytolith.score.centroids import read_centroids

_TABLES = frozenset({".parquet", ".csv", ".npy"})
_UM = tuple(f"{axis}_um" for axis in AXES)


@dataclass(frozen=True, eq=False)
class Positions:
    """Cells, or annotations of cells, and where they lie.

    Attributes
    ----------
    name : str
        What messages call them.
    voxels : float64 ndarray of shape (n, 3), or None
        z, y, x in voxels.
    um : float64 ndarray of shape (n, 3), or None
        z, y, x in micrometres, where the table has such columns. One of the two is there.
    columns : dict of str to ndarray
        The other columns of the table.
    voxel_size : tuple of float or None
        Edges (z, y, x) in micrometres, where a run noted them.
    source : str or None
        The volume that a run of cells read.
    shape : tuple of int or None
        Its extent in voxels, (z, y, x).
    """

    name: str
    voxels: NDArray[np.float64] | None
    um: NDArray[np.float64] | None = None
    columns: Table = field(default_factory=dict)
    voxel_size: VoxelSize | None = None
    source: str | None = None
    shape: Shape | None = None

    def __len__(self) -> int:
        points = self.um if self.voxels is None else self.voxels
        return 0 if points is None else len(points)

    def in_voxels(self, voxel_size: VoxelSize | None) -> NDArray[np.float64]:
        """Positions in voxels of the given edges; VolumeError where there are only micrometres and no edges."""
        if self.voxels is not None:
            return self.voxels
        assert self.um is not None
        if voxel_size is None:
            raise VolumeError(f"{self.name}: has positions in micrometres only; add --voxel-size Z,Y,X")
        return np.asarray(self.um / voxel_size)


def read_positions(path: Path | str, marker_type: int | None = None) -> Positions:
    """Positions of cells from anything that holds them.

    Parameters
    ----------
    path : path
        The folder of a run of cells; ``.parquet``, ``.csv`` (napari's points among them) or ``.npy`` (ClearMap's) and
        ``.xml`` (cellfinder, ImageJ's Cell Counter), see :func:`cytolith.io.tables.read_points`; or a volume of labels
        or a mask (.tif, 3-D .npy, zarr, anything that :func:`cytolith.open_volume` reads), see
        :func:`cytolith.score.centroids.read_centroids`.
    marker_type : int, optional
        Type of the markers to read from .xml.

    Raises
    ------
    VolumeError
        A file that is missing, cannot be read or holds no positions.

    Examples
    --------
    >>> read_positions("truth.xml").voxels  # doctest: +SKIP
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir() and any((path / name).exists() for name in ("cells.parquet", "cells.csv", "run.json")):
        return _from_table(table_path(path))
    if suffix == ".xml" or marker_type is not None:
        return Positions(str(path), read_points(path, marker_type))
    if suffix == ".npy":
        form = _form(path)
        if form == "volume":
            return Positions(str(path), read_centroids(path))
        if form == "plain":
            return Positions(str(path), read_points(path))
    if suffix in _TABLES and not path.is_dir():
        return _from_table(path)
    return Positions(str(path), read_centroids(path))


def _form(path: Path) -> str:
    """What a .npy holds: rows with named columns, plain rows, or a volume."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return "rows"  # whose reader says what is wrong
    if array.dtype.names is not None:
        return "rows"
    return "volume" if array.ndim == 3 else "plain"


def _from_table(path: Path) -> Positions:
    table, metadata = read_table(path)
    record = _record(path)
    taken = position_columns(table)
    # columns in micrometres do without those in voxels, but not the other way round
    voxels = points_of(table, path) if len(taken) == len(AXES) or not _has_um(table) else None
    um = np.stack([np.asarray(table[name], np.float64) for name in _UM], axis=1) if _has_um(table) else None
    if um is not None and not np.isfinite(um).all():
        if voxels is None:
            row = int(np.flatnonzero(~np.isfinite(um).all(axis=1))[0])
            raise VolumeError(f"{path}: row {row + 1} has no position: it is not finite")
        um = None
    columns = {name: column for name, column in table.items() if name not in set(taken.values())}
    size = voxel_size_of(metadata) or _triple(record.get("voxel_size_um"))
    shape = _triple(record.get("shape"))
    source = record.get("source")
    return Positions(
        str(path),
        voxels,
        um,
        columns,
        size,
        source if isinstance(source, str) else None,
        None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2])),
    )


def _has_um(table: Table) -> bool:
    return all(name in table and table[name].dtype.kind in "iuf" for name in _UM)


def _record(path: Path) -> Mapping[str, Any]:
    """What the run that made a table says of its input; nothing where no run did."""
    if path.stem != "cells":
        return {}
    try:
        record = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))["input"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return record if isinstance(record, dict) else {}


def _triple(values: Any) -> VoxelSize | None:
    try:
        z, y, x = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if all(math.isfinite(v) and v > 0 for v in (z, y, x)) else None
