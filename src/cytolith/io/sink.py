"""Where a volume is written block by block: ``.npy``, TIFF or OME-Zarr, aside, and put in place when it is whole."""

from __future__ import annotations

import math
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytolith.axes import AXES, Region, Shape, VoxelSize, region_shape
from cytolith.errors import OutputError
from cytolith.io.files import flush, output_error
from cytolith.io.zarr_stores import is_node

SUFFIXES = (".npy", ".tif", ".tiff", ".zarr")
_CHUNK = 128  # voxels along an edge: 4 MiB of uint16, quick to look at in a viewer and few files
_SMALLEST_CHUNK = 32
_LARGEST_CHUNK = 512


def create_sink(
    path: str | Path,
    shape: Shape,
    dtype: DTypeLike,
    block_shape: Shape,
    *,
    overwrite: bool = False,
    voxel_size: VoxelSize | None = None,
) -> Sink:
    """Create a volume on disk that blocks are written into.

    Parameters
    ----------
    path : str or Path
        Ends in ``.npy`` (one array, memory-mapped), ``.tif`` or ``.tiff`` (uncompressed, a page a plane, BigTIFF where
        it must be; uint8, uint16, int16, int32, uint32 or float32) or ``.zarr`` (OME-Zarr 0.5 with one level,
        compressed).
    shape : tuple of int
        Extent of the whole volume, (z, y, x).
    dtype : dtype
        Of the voxels.
    block_shape : tuple of int
        Extent of the regions that will be written, (z, y, x); zarr chunks are laid out so that each lies in one block.
    overwrite : bool
        Replace what is at `path`; it stays until `Sink.close`.
    voxel_size : tuple of float, optional
        (z, y, x) in micrometres, kept in the metadata of zarr and TIFF; ``.npy`` has no place for it.

    Returns
    -------
    Sink
        Written to with ``write(region, array)``; ``close()`` puts the volume in place, ``discard()`` removes it.

    Raises
    ------
    OutputError
        The suffix is unknown, something is at `path` already, there is no room for it, or the format does not know
        the dtype.

    Notes
    -----
    The work lies in ``<path>.partial`` until it is closed; one that a killed run left there is replaced.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with create_sink(f"{folder}/a.npy", (4, 5, 6), "uint8", block_shape=(2, 5, 6)) as sink:
    ...         sink.write((slice(0, 2), slice(0, 5), slice(0, 6)), np.ones((2, 5, 6), np.uint8))
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
    from cytolith.io.tiff_sink import TiffSink  # builds on this module

    kinds: dict[str, type[Sink]] = {".npy": NpySink, ".zarr": ZarrSink}
    kind = kinds.get(path.suffix, TiffSink)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(_partial(path))
        return kind(path, shape, np.dtype(dtype), block_shape, voxel_size)
    except OSError as error:
        with suppress(OSError):
            _remove(_partial(path))
        raise output_error(path, error) from error


class Sink(ABC):
    """A volume that is being written; made by `create_sink`.

    `write` may be called from several threads at once for regions that do not overlap.
    """

    def __init__(
        self, path: Path, shape: Shape, dtype: np.dtype[Any], block_shape: Shape, voxel_size: VoxelSize | None
    ) -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self._partial = _partial(path)
        self._open = True
        self._writers = 0
        self._turn = threading.Condition()
        self._create(block_shape, voxel_size)

    @abstractmethod
    def _create(self, block_shape: Shape, voxel_size: VoxelSize | None) -> None:
        """Create the storage at the partial path."""

    def _check_room(self, needed: int) -> None:
        # A file that is made at its full length, with holes, fills the disk in the middle of the work; and a full disk
        # under a memory map kills the process without a message.
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
    def _finish(self) -> None:
        """Let go of the storage."""

    def write(self, region: Region, array: NDArray[Any]) -> None:
        """Write one box of voxels, of the region's extent and the volume's dtype."""
        for axis, part, extent in zip(AXES, region, self.shape, strict=True):
            if not 0 <= part.start <= part.stop <= extent:
                raise OutputError(f"{self.path}: region {axis} {part.start}:{part.stop} is not inside 0:{extent}")
        if array.shape != region_shape(region) or array.dtype != self.dtype:
            raise OutputError(
                f"{self.path}: the block is {array.shape} {array.dtype}, the region {region_shape(region)} {self.dtype}"
            )
        if not array.size:
            return
        with self._turn:
            if not self._open:
                raise OutputError(f"{self.path} is closed; nothing more can be written to it")
            self._writers += 1
        try:
            self._write(region, array)
        except OSError as error:
            raise output_error(self.path, error) from error
        finally:
            with self._turn:
                self._writers -= 1
                self._turn.notify_all()

    def read(self, region: Region) -> NDArray[Any]:
        """Read back a box of voxels that was written before."""
        if not self._open:
            raise OutputError(f"{self.path} is closed; open it as a volume to read it")
        return self._read(region)

    def close(self) -> None:
        """Put the volume in place; closing twice is harmless."""
        if not self._shut():
            return
        try:
            self._finish()
            if self._partial.is_file():
                flush(self._partial)
            replaced = self.path.with_name(f"{self.path.name}.replaced")
            if self.path.is_dir():  # a folder cannot be replaced in one step
                _remove(replaced)
                self.path.rename(replaced)
            self._partial.replace(self.path)
            _remove(replaced)
        except OSError as error:
            raise output_error(self.path, error) from error

    def discard(self) -> None:
        """Remove what was written; what was at the path before stays."""
        if self._shut():
            self._finish()
            _remove(self._partial)

    def _shut(self) -> bool:
        """Refuse new writes and wait for those under way: a descriptor closed under one may be another file's next."""
        with self._turn:
            was_open, self._open = self._open, False
            while self._writers:
                self._turn.wait()
        return was_open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


class NpySink(Sink):
    """A ``.npy`` file."""

    _array: NDArray[Any] | None

    def _create(self, block_shape: Shape, voxel_size: VoxelSize | None) -> None:  # noqa: ARG002
        self._check_room(math.prod(self.shape) * self.dtype.itemsize)
        array = np.lib.format.open_memmap(self._partial, "w+", self.dtype, self.shape)
        self._array, self._begin = array, int(array.offset)

    def _write(self, region: Region, array: NDArray[Any]) -> None:
        planes, rows, columns = region
        _, height, width = self.shape
        if columns == slice(0, width):
            # Whole rows of a plane lie end to end: writing them costs a fifth of touching fresh pages of the map.
            with self._partial.open("r+b") as file:
                for z, plane in zip(range(planes.start, planes.stop), array, strict=True):
                    file.seek(self._begin + (z * height + rows.start) * width * self.dtype.itemsize)
                    file.write(np.ascontiguousarray(plane).data)
        elif self._array is not None:
            self._array[region] = array

    def _read(self, region: Region) -> NDArray[Any]:
        return np.array(np.load(self._partial, mmap_mode="r")[region])

    def _finish(self) -> None:
        self._array = None


class ZarrSink(Sink):
    """An OME-Zarr 0.5 image of one level."""

    def _create(self, block_shape: Shape, voxel_size: VoxelSize | None) -> None:
        import zarr
        from zarr.codecs import BloscCodec

        self._chunks = chunk_shape(block_shape, self.shape)
        self._lock = threading.Lock()
        group = zarr.open_group(self._partial, mode="w", zarr_format=3)
        group.attrs["ome"] = _ome_metadata(self.path.stem, voxel_size)
        self._array = group.create_array(
            "0",
            shape=self.shape,
            chunks=self._chunks,
            dtype=self.dtype,
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
            dimension_names=AXES,
        )

    def _write(self, region: Region, array: NDArray[Any]) -> None:
        # Two writers in one chunk lose data. Whoever shares a chunk covers a part of it only, and so comes here too.
        with nullcontext() if self._covers_chunks(region) else self._lock:
            self._array[region] = array

    def _read(self, region: Region) -> NDArray[Any]:
        return np.asarray(self._array[region])

    def _covers_chunks(self, region: Region) -> bool:
        return all(
            part.start % chunk == 0 and (part.stop % chunk == 0 or part.stop == extent)
            for part, chunk, extent in zip(region, self._chunks, self.shape, strict=True)
        )

    def _finish(self) -> None:
        """Nothing is held open between writes."""


def chunk_shape(block_shape: Sequence[int], shape: Sequence[int]) -> Shape:
    """Extents of chunks, about 128 along an axis, that divide blocks of `block_shape` wherever that is sensible."""
    z, y, x = (_chunk_extent(min(block, extent), extent) for block, extent in zip(block_shape, shape, strict=True))
    return z, y, x


def _chunk_extent(block: int, extent: int) -> int:
    if block == extent:  # a single block along this axis: any chunk lies inside it
        return min(_CHUNK, extent)
    fitting = [part for part in range(_SMALLEST_CHUNK, _CHUNK + 1) if block % part == 0]
    if fitting:
        return fitting[-1]
    return block if block <= _LARGEST_CHUNK else _CHUNK


def _ome_metadata(name: str, voxel_size: VoxelSize | None) -> dict[str, Any]:
    unit = {} if voxel_size is None else {"unit": "micrometer"}
    scale = [1.0, 1.0, 1.0] if voxel_size is None else [float(length) for length in voxel_size]
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": axis, "type": "space", **unit} for axis in AXES],
                "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
            }
        ],
    }


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
