"""A table of cells in the format of another tool: which there are, and how a file of one comes to be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import VoxelSize
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.files import move, output_error, same_place, written_aside
from cytolith.io.points.clearmap import write_clearmap
from cytolith.io.points.markers import write_markers
from cytolith.io.points.napari import write_napari
from cytolith.io.points.neuroglancer import TYPE, write_neuroglancer
from cytolith.io.points.rows import Rows, look_through
from cytolith.io.table_writer import TableWriter

FORMATS = ("clearmap", "cellfinder", "napari", "neuroglancer", "csv", "parquet")
"""What a table can be exported to."""

RUN_FILES = {
    "clearmap": "cells.npy",
    "cellfinder": "cells.xml",
    "napari": "cells-napari.csv",
    "neuroglancer": "cells.precomputed",
}
"""What the exports of a run are called in its folder."""

_OF_SUFFIX = {
    ".npy": "clearmap",
    ".xml": "cellfinder",
    ".csv": "csv",
    ".parquet": "parquet",
    ".precomputed": "neuroglancer",
    "": "neuroglancer",
}


def export_table(
    table: Path | str,
    output: Path | str,
    format: str | None = None,  # noqa: A002
    *,
    voxel_size: VoxelSize | None = None,
    overwrite: bool = False,
) -> int:
    """Write a table of cells in the format of another tool, whole or not at all.

    Parameters
    ----------
    table : path
        The folder of a run (its cells.parquet), or a ``.parquet``, ``.csv`` or structured ``.npy`` with columns z, y, x
        in voxels.
    output : path
        File, or for neuroglancer folder.
    format : str, optional
        ``"clearmap"`` (structured .npy), ``"cellfinder"`` (XML, also of ImageJ's Cell Counter), ``"napari"`` (csv
        of a layer of points), ``"neuroglancer"`` (folder of precomputed annotations), ``"csv"`` or ``"parquet"``.
        Default: by the ending of `output`; .csv is the plain table, a name without ending a folder for neuroglancer.
    voxel_size : tuple of float, optional
        Edges (z, y, x) in micrometres; default: what the run noted in its table. For neuroglancer.
    overwrite : bool
        Replace an existing file, or a folder of annotations.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    ConfigError
        A format that is not known, or that the ending does not tell.
    VolumeError
        A table that cannot be read, or has no positions.
    OutputError
        `output` exists, or cannot be written.

    Notes
    -----
    Rows of parquet and .npy pass through in parts, so memory does not grow with their number; of csv, and for
    neuroglancer (60 bytes a row), it does.

    Examples
    --------
    >>> export_table("OUT", "cells.xml")  # doctest: +SKIP
    """
    output = Path(output)
    kind = check_format(format) if format is not None else _guessed(output)
    if kind in ("csv", "parquet") and output.suffix.lower() != f".{kind}":
        raise ConfigError(f"{output}: a table is .csv or .parquet by its ending; give the file that ending")
    source = table_path(Path(table))
    if same_place(output, source):
        raise OutputError(f"{output}: is the table itself; give another file")
    _refuse_existing(output, kind, overwrite=overwrite)
    rows = look_through(source)
    if kind == "neuroglancer":
        _write_folder(output, rows, voxel_size or rows.voxel_size)
    elif kind in ("csv", "parquet"):
        metadata = rows.metadata
        if voxel_size is not None:
            metadata = metadata | {"voxel_size_um": json.dumps(list(voxel_size))}
        _write_table(output, rows, metadata)
    else:
        with written_aside(output) as aside, aside.open("wb") as file:
            if kind == "clearmap":
                write_clearmap(file, rows)
            elif kind == "cellfinder":
                write_markers(file, rows.parts())
            else:
                write_napari(file, rows)
    return rows.count


def export_run(
    folder: Path | str,
    formats: Iterable[str],
    *,
    voxel_size: VoxelSize | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the table of a run into its folder in other formats; see `export_table`.

    Parameters
    ----------
    folder : path
        The folder of the run, with cells.parquet.
    formats : iterable of str
        ``"clearmap"`` (cells.npy), ``"cellfinder"`` (cells.xml), ``"napari"`` (cells-napari.csv), ``"neuroglancer"``
        (cells.precomputed/).
    voxel_size, overwrite
        As in `export_table`.

    Returns
    -------
    list of Path
        What was written.
    """
    folder = Path(folder)
    paths = []
    for kind in formats:
        if check_format(kind) not in RUN_FILES:
            raise ConfigError(f"export {kind!r}: is written by every run; known are {', '.join(RUN_FILES)}")
        paths.append(folder / RUN_FILES[kind])
        export_table(folder, paths[-1], kind, voxel_size=voxel_size, overwrite=overwrite)
    return paths


def check_format(name: str) -> str:
    """The name of a format, in lower case; ConfigError that lists them where there is no such one."""
    if name.strip().lower() not in FORMATS:
        raise ConfigError(f"format {name!r} is not known: give one of {', '.join(FORMATS)}")
    return name.strip().lower()


def table_path(path: Path) -> Path:
    """The table of a run when its folder is given, else the path itself; VolumeError where a folder has none."""
    if not path.is_dir():
        return path
    for name in ("cells.parquet", "cells.csv"):
        if (path / name).is_file():
            return path / name
    raise VolumeError(f"{path}: holds no cells.parquet; give the folder of a finished run of cells, or a table")


def _guessed(output: Path) -> str:
    try:
        return _OF_SUFFIX[output.suffix.lower()]
    except KeyError:
        raise ConfigError(
            f"{output}: {output.suffix} does not tell the format; add --format, one of {', '.join(FORMATS)}"
        ) from None


def _refuse_existing(output: Path, kind: str, *, overwrite: bool) -> None:
    if not output.exists() and not output.is_symlink():
        return
    if output.is_dir():
        if kind != "neuroglancer":
            raise OutputError(f"{output}: is a folder; give a file, or --format neuroglancer")
        if not any(output.iterdir()):
            return
        if not overwrite:
            raise OutputError(f"{output}: exists; give another folder, or --overwrite to replace it")
        if not _is_annotations(output):  # what else is in it would be lost
            raise OutputError(f"{output}: is no folder of annotations; give another one")
    elif kind == "neuroglancer":
        raise OutputError(f"{output}: is a file; give a folder")
    elif not overwrite:
        raise OutputError(f"{output}: exists; give another file, or --overwrite to replace it")


def _is_annotations(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "info").read_text(encoding="utf-8"))["@type"] == TYPE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_table(output: Path, rows: Rows, metadata: dict[str, str]) -> None:
    with TableWriter(output, metadata) as writer:
        for table in rows.tables():
            writer.write({name: _as_kind(column, rows.columns[name].kind) for name, column in table.items()})


def _as_kind(column: NDArray[Any], kind: str) -> NDArray[Any]:
    """A part of a column as all of them are: integers of which some are missing are floats in every part."""
    if kind == "f" and column.dtype.kind != "f":
        return column.astype(np.float64)
    return column.astype(str) if kind == "U" and column.dtype.kind != "U" else column


def _write_folder(output: Path, rows: Rows, voxel_size: VoxelSize | None) -> None:
    """Write annotations beside their place, then put them there; an earlier folder goes when the new one is whole."""
    aside, old = (output.with_name(f".{output.name}.{word}") for word in ("partial", "replaced"))
    try:
        for stale in (aside, old):  # of a run that was killed
            if stale.exists():
                shutil.rmtree(stale)
        aside.mkdir()
        write_neuroglancer(aside, rows, voxel_size)
        if output.exists():
            move(output, old)
        try:
            move(aside, output)
        except OSError:
            if old.exists():
                move(old, output)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise output_error(output, error) from error
    finally:
        with suppress(OSError):
            if aside.exists():
                shutil.rmtree(aside)
