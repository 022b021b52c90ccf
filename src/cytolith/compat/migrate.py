"""Files of ClearMap, cellfinder and apmapflow as files of this package; what one is, its content tells."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cytolith.axes import VoxelSize
from cytolith.compat.migrate_config import is_config, read_cell_map
from cytolith.compat.migrate_tables import cells_of_clearmap, cells_of_markers, write_cells
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.files import output_error, same_place, write_text, written_aside
from cytolith.io.map_files import read_map_text, write_map_tiff

_BEGINNING = 1 << 16
_SIX_DECIMALS = re.compile(rb"\s*(?:(?:-?\d+\.\d{6}|nan)\s+)*(?:-?\d+\.\d{6}|nan)\s*")
_KNOWN = (
    "a configuration of ClearMap (.cfg), its cells or coordinates (.npy), markers of cellfinder (.xml) or a map of "
    "apmapflow (text)"
)


@dataclass(frozen=True)
class Migrated:
    """What a file was, what was made of it, and what should be known about that."""

    what: str
    paths: list[Path]
    left_out: list[str] = field(default_factory=list)
    """Lines about what has no equivalent, or what was taken where the file does not say."""


def migrate(
    file: Path | str,
    output: Path | str = ".",
    *,
    intensities: Path | str | None = None,
    voxel_size: VoxelSize | None = None,
    channel: str | None = None,
    marker_type: int | None = None,
    keep_values: bool = False,
    overwrite: bool = False,
) -> Migrated:
    """Make files of this package from a file of ClearMap, cellfinder or apmapflow.

    Parameters
    ----------
    file : path
        - configuration of ClearMap 2.1 or 3 with a cell map section (.cfg): becomes ``config.toml``;
        - cells of ClearMap 2 or 3 (structured .npy), coordinates of ClearMap 1 (.npy of shape (n, 3)), or markers of
          cellfinder or ImageJ's Cell Counter (XML): become ``cells.parquet`` and ``cells.csv``;
        - map of apmapflow (text): becomes an image of the same name, .tif, as ``cytolith fracture --map-images`` writes
          it.
    output : path
        Folder for the results, made when it is not there; or a file: .toml for a configuration, .parquet or .csv for
        cells, .tif or .npy for a map.
    intensities : path, optional
        ClearMap 1: the intensities of the same cells.
    voxel_size : tuple of float, optional
        Edges (z, y, x) of a voxel in micrometres: for columns in micrometres, the configuration, or the image of a map.
    channel : str, optional
        ClearMap 3: the channel of the configuration, where several have cells.
    marker_type : int, optional
        Markers: the type to take. Default: cells; of a file that does not name their type, all, and a note says so.
    keep_values : bool
        Maps: leave offsets as they are. apmapflow counts rows from 1, this package from 0, so 1 is taken off otherwise.
    overwrite : bool
        Replace existing files.

    Returns
    -------
    Migrated

    Raises
    ------
    VolumeError
        A file that is none of these, or cannot be read: names what is wrong in it.
    ConfigError
        An option that means nothing for such a file, an ending that is not written from it, or a value of a
        configuration that no step takes.
    OutputError
        A file that exists, is the input, or cannot be written.

    Notes
    -----
    A map of apmapflow is taken for one of offsets when all numbers have six decimals and none is below 1.
    """
    path, target = Path(file).expanduser(), Path(output).expanduser()
    kind = kind_of(path)
    for option, given, kinds in (
        ("--intensities", intensities, {"cells"}),
        ("--channel", channel, {"configuration"}),
        ("--type", marker_type, {"markers"}),
        ("--keep-values", keep_values or None, {"map"}),
    ):
        if given is not None and kind not in kinds:
            raise ConfigError(f"{option}: means nothing for {path}, which is {_ARTICLE[kind]}; leave it out")
    if kind == "configuration":
        (made,) = _places(path, target, ["config.toml"], (".toml",), overwrite=overwrite)
        found = read_cell_map(path, channel)
        write_text(made, found.to_toml(path.name, voxel_size))
        return Migrated("configuration of ClearMap", [made], found.left_out)
    if kind == "map":
        return _migrate_map(path, target, voxel_size, keep_values=keep_values, overwrite=overwrite)
    paths = _places(path, target, ["cells.parquet", "cells.csv"], (".parquet", ".csv"), overwrite=overwrite)
    notes: list[str] = []
    if kind == "markers":
        origin, parts, notes = cells_of_markers(path, marker_type)
    else:
        origin, parts = cells_of_clearmap(path, None if intensities is None else Path(intensities).expanduser())
    rows = write_cells(paths, parts, voxel_size)
    return Migrated(f"{rows:,} cells of {origin}", paths, notes)


_ARTICLE = {
    "configuration": "a configuration",
    "map": "a map",
    "markers": "a file of markers",
    "cells": "a table of cells",
}


def kind_of(path: Path) -> str:
    """What a file is by its content: ``"configuration"``, ``"cells"``, ``"markers"`` or ``"map"``.

    Raises
    ------
    VolumeError
        It is none of these, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_BEGINNING)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file") from None
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror or error}") from None
    if data.startswith(b"\x93NUMPY"):
        return "cells"
    text = data.decode("utf-8-sig", "replace")
    if text.lstrip().startswith("<"):
        return "markers"
    first = next((line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")), "")
    if is_config(first):
        return "configuration"
    if first and all(_is_number(cell) for cell in first.split()):
        return "map"
    raise VolumeError(f"{path}: is none of what can be migrated: {_KNOWN}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _places(source: Path, target: Path, names: list[str], suffixes: tuple[str, ...], *, overwrite: bool) -> list[Path]:
    """Files to be made: the target where its ending is one of theirs, or those in the folder that it is."""
    is_file = target.suffix.lower() in suffixes and not target.is_dir()
    paths = [target] if is_file else [target / name for name in names]
    for path in (target, *paths):
        if same_place(source, path):
            raise OutputError(f"{path}: is the input; give another place with -o")
    if not is_file and not target.is_dir() and _ENDING.fullmatch(target.suffix):
        raise ConfigError(
            f"--output {target}: such a file becomes {', '.join(suffixes)}; give that ending, or a folder (a new one "
            "has no ending)"
        )
    for path in paths:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give another place with -o")
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists; give another place with -o, or --overwrite to replace it")
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(paths[0].parent, error) from None
    return paths


_ENDING = re.compile(r"\.(?:[a-z]{2,5}|parquet|h5|hdf5|n5|mp4)", re.IGNORECASE)
"""What is meant as the ending of a file; folders are called run.1 or brain.v2 as well."""


def _migrate_map(
    path: Path, target: Path, voxel_size: VoxelSize | None, *, keep_values: bool, overwrite: bool
) -> Migrated:
    (made,) = _places(path, target, [f"{path.stem}.tif"], (".tif", ".tiff", ".npy"), overwrite=overwrite)
    image = read_map_text(path)
    left_out = []
    what = "map of whole numbers"
    if image.dtype.kind == "f":
        what = "map"
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        is_offset = np.nanmin(image, initial=np.inf) >= 1 and _SIX_DECIMALS.fullmatch(text) is not None
        if is_offset and not keep_values:
            image, what = image - 1, "map of offsets"
            left_out.append("apmapflow counts rows from 1, cytolith from 0: 1 was taken off (--keep-values leaves it)")
    elif image.size and max(abs(int(image.min())), abs(int(image.max()))) > np.iinfo(np.int32).max:
        raise VolumeError(f"{path}: holds numbers beyond 32 bits, which no map of apertures has; mend the map")
    else:
        image = image.astype(np.int32)
    with written_aside(made) as aside:
        if made.suffix.lower() == ".npy":
            with aside.open("wb") as file:
                np.save(file, image)
        else:
            dtype = np.int32 if image.dtype.kind == "i" else np.float32
            cell = None if voxel_size is None else (voxel_size[0], voxel_size[2])  # the opening axis is y
            shape = image.shape[0], image.shape[1]
            write_map_tiff(aside, [image], shape, dtype, cell)
    return Migrated(f"{what} of apmapflow, {image.shape[0]:,} x {image.shape[1]:,}", [made], left_out)
