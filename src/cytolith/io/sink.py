"""Where a volume is written block by block: ``.npy``, TIFF or OME-Zarr, aside, and put in place when it is whole."""

from __future__ import annotations

import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytolith.axes import AXES, Region, Shape, VoxelSize, region_shape
from cytolith.errors import OutputError
from cytolith.io.files import flush, move, output_error, patiently
from cytolith.io.zarr_stores import is_node

SUFFIXES = (".npy", ".tif", ".tiff", ".zarr")


def create_sink(
    path: str | Path,
    shape: Shape,
    dtype: DTypeLike,
    block_shape: Shape,
    *,
    overwrite: bool = False,
    voxel_size: VoxelSize | None = None,
    resume: bool = False,
) -> Sink:
    """Create a volume on disk that blocks are written into.

    Parameters
    ----------
    path : str or Path
        Ends in ``.npy`` (one array), ``.tif`` or ``.tiff`` (uncompressed, a page a plane, BigTIFF where
        it must be; uint8, uint16, int16, int32, uint32 or float32) or ``.zarr`` (OME-Zarr 0.5 with one level,
        compressed).
    shape : tuple of int
        Extent of the whole volume, (z, y, x).
    dtype : dtype
        Of the voxels.
    block_shape : tuple of int
        Extent of the regions that will be written, (z, y, x), laid from 0 on along each axis and clipped at the end of
        the volume. Chunks of zarr are laid out so that each lies in one block: no two writers ever share one.
    overwrite : bool
        Replace what is at `path`; it stays until `Sink.close`.
    voxel_size : tuple of float, optional
        (z, y, x) in micrometres, kept in the metadata of zarr and TIFF; ``.npy`` has no place for it.
    resume : bool
        Go on with what a run that was killed, or that has called `Sink.leave`, left beside `path`; where there is
        nothing, the volume is created anew. `Sink.resumed` tells which.

    Returns
    -------
    Sink
        Written to with ``write(region, array)``; ``close()`` puts the volume in place, ``discard()`` removes it.

    Raises
    ------
    OutputError
        The suffix is unknown, something is at `path` already, there is no room for it, the format does not know the
        dtype, or what is to be resumed has another extent, dtype or layout.

    Notes
    -----
    The work lies in ``<path>.partial`` until it is closed; one that a killed run left there is replaced, unless it is
    resumed.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with create_sink(f"{folder}/a.npy", (4, 5, 6), "uint8", block_shape=(2, 5, 6)) as sink:
    ...         sink.write((slice(0, 2), slice(0, 5), slice(0, 6)), np.ones((2, 5, 6), np.uint8))
    """
    path = check_place(path, overwrite=overwrite)
    kind = _kind_of(path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return kind(path, shape, np.dtype(dtype), block_shape, voxel_size, resume=resume)
    except OSError as error:
        raise output_error(path, error) from error


def check_place(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path of a volume that will be written, once it is known that it can be.

    Raises
    ------
    OutputError
        The suffix is unknown, or something is there that is not to be replaced, or never is.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise OutputError(
            f"{path}: a volume is written as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; give the path one of these "
            "endings"
        )
    if path.exists():
        if not overwrite:
            raise OutputError(f"{path} exists already; choose another path, or --overwrite (overwrite=True)")
        if path.is_dir() and (path.suffix != ".zarr" or not is_node(path)):
            raise OutputError(f"{path} is a folder that is no zarr store, and is not overwritten; choose another path")
    return path


def _kind_of(suffix: str) -> type[Sink]:
    """Class for a suffix; they build on this module, and the library of zarr takes a while to be loaded."""
    if suffix == ".zarr":
        from cytolith.io.zarr_sink import ZarrSink

        return ZarrSink
    if suffix == ".npy":
        from cytolith.io.flat_sink import NpySink

        return NpySink
    from cytolith.io.tiff_sink import TiffSink

    return TiffSink


class Sink(ABC):
    """A volume that is being written; made by `create_sink`.

    Attributes
    ----------
    path : Path
        Where the volume will be.
    shape : tuple of int
        (z, y, x).
    dtype : numpy.dtype
        Of the voxels.
    resumed : bool
        Whether what an earlier run has written is there.

    Notes
    -----
    `write` may be called from several threads at once, and from several processes, for regions that do not overlap.
    A sink can be pickled: the copy writes and reads the same storage, while closing, leaving or discarding it ends
    the copy only. What is written has left the process when `write` returns, and is on the disk after `flush`.
    """

    def __init__(
        self,
        path: Path,
        shape: Shape,
        dtype: np.dtype[Any],
        block_shape: Shape,
        voxel_size: VoxelSize | None,
        *,
        resume: bool = False,
    ) -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self._block_shape = block_shape
        self._voxel_size = voxel_size
        # absolute, as a worker may run in another folder
        self._partial = path.with_name(f"{path.name}{self._partial_ending()}").absolute()
        self._owner = True
        self._open = True
        self._writers = 0
        self._turn = threading.Condition()
        self.resumed = resume and os.path.lexists(self._partial)
        if self.resumed:
            self._reopen()
        else:
            self._begin_anew()

    def _partial_ending(self) -> str:
        """What is added to the name of the volume while it is in progress: always the same, to be found again."""
        return ".partial"

    def _begin_anew(self) -> None:
        # Renamed when it is made: a partial volume that is there can always be resumed.
        making = self._partial.with_name(f"{self._partial.name}.making")
        _remove(making)
        _remove(self._partial)
        try:
            self._create(making)
            move(making, self._partial)
        except BaseException:
            with suppress(OSError):
                _remove(making)
            raise

    @abstractmethod
    def _create(self, at: Path) -> None:
        """Create the storage, in which all voxels are 0."""

    @abstractmethod
    def _reopen(self) -> None:
        """Take the partial storage as it is, or raise what `_unlike` gives when it is not what would be created."""

    def _unlike(self, reason: str) -> OutputError:
        return OutputError(
            f"{self.path} cannot be resumed: {self._partial} {reason}; delete it to begin anew, or choose another path"
        )

    def _check_room(self, needed: int) -> None:
        # A file that is made at its full length, with holes, fills the disk in the middle of the work.
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise OutputError(f"{self.path} needs {needed} bytes, but {free} are free there; choose another disk")

    @abstractmethod
    def _write(self, region: Region, array: NDArray[Any]) -> None:
        """Write a box whose extent and dtype were checked."""

    @abstractmethod
    def _read(self, region: Region) -> NDArray[Any]:
        """Read a box."""

    @abstractmethod
    def _flush(self, region: Region) -> None:
        """Bring a box that was written to the disk."""

    def _tidy(self) -> None:  # noqa: B027 (a file has nothing to remove)
        """Remove from the partial storage what does not belong to the volume."""

    def write(self, region: Region, array: NDArray[Any]) -> None:
        """Write one box of voxels.

        Parameters
        ----------
        region : tuple of slice
            Three slices with explicit start and stop, (z, y, x). For zarr, a block as announced, or several of them.
        array : ndarray
            Of the region's extent and the volume's dtype.

        Raises
        ------
        OutputError
            The region lies outside the volume or does not fit the blocks, the array does not fit the region, the sink
            is closed, or the disk is full.
        """
        self._refuse_outside(region)
        if array.shape != region_shape(region) or array.dtype != self.dtype:
            raise OutputError(
                f"{self.path}: the block is {array.shape} {array.dtype}, the region {region_shape(region)} {self.dtype}"
            )
        if not array.size:
            return
        with self._writing():
            self._write(region, array)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What is written meanwhile is waited for before the sink is let go of; what the system raises is named."""
        with self._turn:
            if not self._open:
                raise OutputError(f"{self.path} is closed; nothing more can be written to it")
            self._writers += 1
        try:
            yield
        except OSError as error:
            raise output_error(self.path, error) from error
        finally:
            with self._turn:
                self._writers -= 1
                self._turn.notify_all()

    def flush(self, region: Region) -> None:
        """Bring a box that was written to the disk, before anything there says that it is done.

        Raises
        ------
        OutputError
            The disk is full or fails.
        """
        self._refuse_outside(region)
        if 0 in region_shape(region):
            return
        try:
            self._flush(region)
        except OSError as error:
            raise output_error(self.path, error) from error

    def read(self, region: Region) -> NDArray[Any]:
        """Read back a box of voxels that was written before; 0 where nothing was."""
        if not self._open:
            raise OutputError(f"{self.path} is closed; open it as a volume to read it")
        self._refuse_outside(region)
        if 0 in region_shape(region):
            return np.empty(region_shape(region), self.dtype)
        try:
            return self._read(region)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be read back: {error.strerror or error}") from error

    def _refuse_outside(self, region: Region) -> None:
        for axis, part, extent in zip(AXES, region, self.shape, strict=True):
            if not 0 <= part.start <= part.stop <= extent:
                raise OutputError(f"{self.path}: region {axis} {part.start}:{part.stop} is not inside 0:{extent}")

    def close(self) -> None:
        """Put the volume in place; closing twice is harmless."""
        if not self._shut():
            return
        try:
            self._tidy()
            if self._partial.is_file():
                flush(self._partial)
            replaced = self.path.with_name(f"{self.path.name}.replaced")
            if self.path.is_dir():  # a folder cannot be replaced in one step
                _remove(replaced)
                move(self.path, replaced)
            try:
                move(self._partial, self.path)
            except OSError:
                if replaced.exists() and not self.path.exists():
                    move(replaced, self.path)
                raise
            _remove(replaced)
        except OSError as error:
            raise output_error(self.path, error) from error

    def leave(self) -> None:
        """Let go of what was written, which stays for a run that resumes it; nothing comes to be at the path."""
        self._shut()

    def discard(self) -> None:
        """Remove what was written; what was at the path before stays."""
        if self._shut():
            _remove(self._partial)

    def _shut(self) -> bool:
        """Refuse new writes and wait for those under way; whether it is for the caller to say what becomes of it."""
        with self._turn:
            was_open, self._open = self._open, False
            while self._writers:
                self._turn.wait()
        return was_open and self._owner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_turn"} | {"_owner": False, "_writers": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._turn = threading.Condition()


def _remove(path: Path) -> None:
    if path.is_dir():
        patiently(lambda: shutil.rmtree(path))
    else:
        patiently(lambda: path.unlink(missing_ok=True))
