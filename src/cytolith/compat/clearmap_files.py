"""What ClearMap's functions take and give: arrays and files in the order (x, y, z), tables as structured arrays.

A ClearMap array (x, y, z) in Fortran order has the same bytes as one (z, y, x) in C order: it is turned, not copied.
TIFF files hold planes, and so does everything else that is no ``.npy``: they are (z, y, x) on disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, full_region
from cytolith.errors import OutputError, VolumeError
from cytolith.io.files import output_error, written_aside
from cytolith.io.volume import Storage, Volume, one_line, open_volume

DTYPES = ("bool", "uint8", "uint16", "int16", "float32", "float64")
_MAPPED_BYTES = 8 * 2**20
"""Memory-mapped bytes that a read holds at a time."""


@dataclass(frozen=True)
class Source:
    """An input of ClearMap's functions."""

    volume: Volume
    """In the order (z, y, x)."""
    slowest: Literal[0, 2]
    """Axis of (x, y, z) along which neighbours lie farthest apart in memory."""
    files: list[Path]
    """What it is read from, as far as it is known: nothing may be written there."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent (x, y, z)."""
        z, y, x = self.volume.shape
        return x, y, z

    def read(self) -> NDArray[Any]:
        """All voxels, (z, y, x); uint8, uint16, int16 or float32."""
        return self.volume.read(full_region(self.volume.shape))


def open_source(source: Any) -> Source:
    """The input that a ClearMap script gives.

    Parameters
    ----------
    source
        Array (x, y, z), or anything with shape, dtype and slicing; path of a ``.npy`` file of such an array; any other
        path, pattern or list of paths that `cytolith.open_volume` reads, or a volume that it opened, (z, y, x) on disk.

    Raises
    ------
    VolumeError
        The input cannot be read, or has voxels of a kind that is not computed on.
    """
    found: Source
    files = [Path(each) for each in (source if isinstance(source, (list, tuple)) else [source]) if _is_path(each)]
    if _is_path(source) and _is_npy(Path(source)):
        volume = _XyzFile(Path(source))
        found = Source(volume, 2 if volume.is_fortran else 0, files)
    elif _is_path(source) and "<" in Path(source).name:
        raise VolumeError(
            f"{source}: is an expression of ClearMap; give the folder, or a pattern such as planes/Z*.tif"
        )
    elif isinstance(source, np.ndarray):
        if source.ndim != 3:
            raise VolumeError(
                f"an array of shape {source.shape} has {source.ndim} axes, three (x, y, z) are needed: give "
                "array[..., None] for a single plane"
            )
        files = [Path(name) for name in [getattr(source, "filename", None)] if name is not None]  # of a memory map
        found = Source(open_volume(source.T), 2 if source.flags.f_contiguous else 0, files)
    elif _is_path(source) or isinstance(source, (list, tuple, Volume)):
        found = Source(open_volume(source), 2, files or [Path(source.name)] if isinstance(source, Volume) else files)
    elif all(hasattr(source, name) for name in ("shape", "dtype", "__getitem__")):
        found = Source(open_volume(_Turned(source)), 0, [])
    else:
        raise VolumeError(
            f"cannot read a volume from {type(source).__name__}: give an array (x, y, z), a .npy or a .tif path"
        )
    if found.volume.stored_dtype.name not in DTYPES:
        raise VolumeError(
            f"{found.volume.name} holds {found.volume.stored_dtype} voxels: convert to one of {', '.join(DTYPES)}"
        )
    return found


def _is_path(given: Any) -> bool:
    return isinstance(given, (str, PathLike))


def _is_npy(path: Path) -> bool:
    """Whether a file holds an array of NumPy, whatever it is called."""
    if path.suffix.lower() == ".npy":
        return True
    try:
        with path.expanduser().open("rb") as file:
            is_npy = file.read(6) == b"\x93NUMPY"
    except (OSError, ValueError):
        return False
    if is_npy:
        raise VolumeError(f"{path}: is an array of NumPy (x, y, z) by another name; give it the ending .npy")
    return False


class _Turned:
    """An array-like (x, y, z) seen as (z, y, x)."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape, self.dtype = tuple(array.shape)[::-1], np.dtype(array.dtype)

    def __getitem__(self, region: Region) -> NDArray[Any]:
        return np.asarray(self._array[region[::-1]]).T


class _XyzFile(Volume):
    """A ``.npy`` file that holds (x, y, z), as a volume (z, y, x)."""

    def __init__(self, path: Path) -> None:
        stored = open_volume(path)  # says what is wrong with the file
        self._path = path.expanduser()
        shape = stored.shape[::-1]
        super().__init__(str(path), shape, stored.stored_dtype, Storage("npy", chunks=None))
        array = self._mapped()
        self.is_fortran = bool(array.flags.c_contiguous)  # turned
        self._kept = array.shape, array.dtype

    def _mapped(self) -> NDArray[Any]:
        try:
            return np.asarray(np.lib.format.open_memmap(self._path, mode="r")).T
        except (OSError, ValueError) as error:
            raise VolumeError(f"{self._path} cannot be read: {one_line(error)}") from error

    def _read_into(self, region: Region, out: NDArray[Any]) -> None:
        # Pages of a map count as memory of the process until it is unmapped: each piece is mapped anew, along the axis
        # whose layers lie together in the file.
        axis = 0 if self.is_fortran else 2
        target, begin = np.moveaxis(out, axis, 0), region[axis].start
        step = max(1, _MAPPED_BYTES * len(target) // out.nbytes)
        others = tuple(side for n, side in enumerate(region) if n != axis)
        for first in range(0, len(target), step):
            stored = self._mapped()
            if (stored.shape, stored.dtype) != self._kept:
                raise VolumeError(f"{self.name} has changed since it was opened; open it again")
            last = min(first + step, len(target))
            layers = np.moveaxis(stored, axis, 0)[(slice(begin + first, begin + last), *others)]
            np.copyto(target[first:last], layers, casting="unsafe")


def read_table(source: Any) -> NDArray[Any]:
    """Structured array of cells from an array or a ``.npy`` file."""
    table = source
    if isinstance(source, (str, PathLike)):
        try:
            table = np.load(Path(source).expanduser(), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = "it is no .npy file" if not isinstance(error, OSError) else one_line(error)
            raise VolumeError(f"{source}: cannot be read as a table of cells: {reason}") from error
    table = np.asarray(table)
    if table.dtype.names is None or table.ndim != 1:
        raise VolumeError(
            f"{source if isinstance(source, (str, PathLike)) else 'source'}: an array of {table.dtype} with the shape "
            f"{table.shape} is no table of cells; a structured array with named columns is needed"
        )
    return table


def check_table_sink(sink: Any) -> Path | None:
    """Refuse what no table can be written to, before any work, with an OutputError; the path of a file."""
    if isinstance(sink, np.ndarray) and not sink.flags.writeable:
        raise OutputError("sink: the array is read-only; give one that can be written, or None")
    if sink is None or isinstance(sink, np.ndarray):
        return None
    if not isinstance(sink, (str, PathLike)):
        raise OutputError(f"sink: a {type(sink).__name__} given; None, a path that ends in .npy, or an array is needed")
    if Path(sink).suffix.lower() != ".npy":
        raise OutputError(f"{sink}: a table of cells is written as .npy; give the path this ending")
    try:
        path = Path(sink).expanduser().resolve()  # a link stays one
        if path.is_dir():
            raise OutputError(f"{sink}: is a folder; give another path")
        there = next(each for each in path.parents if each.exists())
    except (OSError, ValueError) as error:
        raise OutputError(f"{str(sink)[:80]!r}: is no path of a file: {one_line(error)}") from None
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "cannot be written in" if there.is_dir() else "is no folder"
        raise OutputError(f"{sink}: {there} {reason}; give another path")
    return path


def write_table(sink: Any, table: NDArray[Any]) -> Any:
    """Give a table to a sink, and return the sink; None: return the table.

    A ``.npy`` file that is there is replaced, an array of the same length has its columns filled.
    """
    if sink is None:
        return table
    if isinstance(sink, np.ndarray):
        if sink.shape != table.shape or sink.dtype.names != table.dtype.names:
            raise OutputError(
                f"sink: an array of shape {sink.shape} with columns {sink.dtype.names} given; the result has "
                f"{table.shape} and {table.dtype.names}; give None to get it as a new array"
            )
        sink[:] = table
        return sink
    path = Path(sink).expanduser().resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside, aside.open("wb") as file:
            np.save(file, table)
    except OSError as error:
        raise output_error(path, error) from error
    return sink
