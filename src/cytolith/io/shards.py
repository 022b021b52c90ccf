"""Chunks and shards of a zarr array (format 3) written straight to files, each by one writer, whole or not at all.

zarr's own writer holds a shard three times in memory and encodes its chunks at half the speed. What is written here is
laid out as its specification says, and read back with zarr.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
from numcodecs import Blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import BloscCname, BloscCodec, BloscShuffle

from cytolith.axes import Region, Shape
from cytolith.errors import ConfigError
from cytolith.io.files import flush, flush_folder, move

COMPRESSIONS = ("zstd", "lz4", "none")
LARGEST_CHUNK_BYTES = 2**31 - 2**16
"""Blosc compresses no more at once."""
_BLOSC = {"zstd": 1, "lz4": 5}  # levels: higher ones of zstd take twice as long for a few percent
_MISSING = 2**64 - 1

Encode: TypeAlias = Callable[[NDArray[Any]], Any]
"""From the voxels of a chunk, C-contiguous, to the bytes that are stored."""


def zarr_codecs(compression: str, dtype: np.dtype[Any]) -> list[BloscCodec]:
    """The compressors of an array as zarr takes them.

    Raises
    ------
    ConfigError
        The compression is not known.
    """
    if compression == "none":
        return []
    if compression not in _BLOSC:
        raise ConfigError(f"--compression {compression}: give {', '.join(COMPRESSIONS[:-1])} or {COMPRESSIONS[-1]}")
    return [
        BloscCodec(
            cname=BloscCname(compression),
            clevel=_BLOSC[compression],
            shuffle=BloscShuffle.bitshuffle if _by_bits(compression, dtype) else BloscShuffle.shuffle,
            typesize=dtype.itemsize,
        )
    ]


def encoder(compression: str, dtype: np.dtype[Any]) -> Encode:
    """What encodes a chunk as `zarr_codecs` says; for several threads at once."""
    if compression == "none":
        return lambda chunk: chunk.reshape(-1).view(np.uint8).data
    shuffle = Blosc.BITSHUFFLE if _by_bits(compression, dtype) else Blosc.SHUFFLE
    encode: Encode = Blosc(cname=compression, clevel=_BLOSC[compression], shuffle=shuffle).encode
    return encode


def _by_bits(compression: str, dtype: np.dtype[Any]) -> bool:
    """Whether bits are sorted rather than bytes: zstd packs bytes itself, and there is only one in uint8."""
    return compression == "lz4" or dtype.itemsize == 1


@dataclass(frozen=True)
class Grid:
    """How an array is cut into files, and those into chunks."""

    shape: Shape
    chunks: Shape
    shards: Shape | None
    """Extent of a shard, a multiple of that of a chunk; None: each chunk is a file."""

    @property
    def files(self) -> Shape:
        """Extent of what lies in one file."""
        return self.shards or self.chunks

    def aligned(self, region: Region) -> bool:
        """Whether a region shares no file with what is around it."""
        return all(
            part.start % step == 0 and (part.stop % step == 0 or part.stop == extent)
            for part, step, extent in zip(region, self.files, self.shape, strict=True)
        )

    def paths(self, at: Path, region: Region) -> Iterator[tuple[Path, Region]]:
        """The files that a region lies in, with the part of the region that each of them holds."""
        numbers = (
            range(part.start // step, -(-part.stop // step)) for part, step in zip(region, self.files, strict=True)
        )
        for place in product(*numbers):
            z, y, x = (
                slice(max(number * step, part.start), min((number + 1) * step, part.stop))
                for number, step, part in zip(place, self.files, region, strict=True)
            )
            yield at / "c" / str(place[0]) / str(place[1]) / str(place[2]), (z, y, x)


def write_chunks(at: Path, grid: Grid, region: Region, array: NDArray[Any], encode: Encode) -> None:
    """Write a region of an array whose metadata lies at a path.

    Parameters
    ----------
    at : Path
        Folder of the array.
    grid : Grid
        As its metadata says.
    region : tuple of slice
        (z, y, x), aligned with the files.
    array : ndarray
        The voxels of the region, of the dtype of the array.
    encode : callable
        From `encoder`.

    Notes
    -----
    A file is written aside and renamed. Chunks of nothing but zero bits are not stored, nor are shards of such chunks:
    they read as the fill value 0. Besides the array one chunk is held in memory, twice.
    """
    stored = array.dtype.newbyteorder("<")
    for path, part in grid.paths(at, region):
        box = array[tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True))]
        aside = path.with_name(f"{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if _write_file(aside, box, grid, stored, encode):
                move(aside, path)
            else:
                path.unlink(missing_ok=True)  # of a block that is written again
        finally:
            aside.unlink(missing_ok=True)


def _write_file(path: Path, box: NDArray[Any], grid: Grid, stored: np.dtype[Any], encode: Encode) -> bool:
    """Write a chunk, or a shard with its index at the end; False when there is nothing to store."""
    counts = [files // chunk for files, chunk in zip(grid.files, grid.chunks, strict=True)]
    index: list[tuple[int, int]] = []
    end = 0
    with path.open("wb") as file:
        for place in np.ndindex(*counts):
            origin = [number * chunk for number, chunk in zip(place, grid.chunks, strict=True)]
            chunk = _chunk(box, origin, grid.chunks, stored)
            if chunk is None:
                index.append((_MISSING, _MISSING))
                continue
            data = memoryview(encode(chunk))
            file.write(data)
            index.append((end, data.nbytes))
            end += data.nbytes
        if end and grid.shards is not None:
            packed = struct.pack(f"<{2 * len(index)}Q", *(number for entry in index for number in entry))
            file.write(packed + struct.pack("<I", google_crc32c.value(packed)))
    return end > 0


def _chunk(box: NDArray[Any], origin: Iterable[int], shape: Shape, stored: np.dtype[Any]) -> NDArray[Any] | None:
    """A chunk as it is stored, with zeros beyond the end of the volume; None when all its bits are 0."""
    voxels = box[tuple(slice(first, first + extent) for first, extent in zip(origin, shape, strict=True))]
    if not voxels.size:
        return None
    if voxels.shape == shape:
        chunk = np.ascontiguousarray(voxels, stored)
    else:
        chunk = np.zeros(shape, stored)
        chunk[tuple(slice(0, extent) for extent in voxels.shape)] = voxels
    bits = chunk.reshape(-1).view(np.uint8)  # of which a negative zero has one
    return chunk if (bits.view(np.uint64) if bits.size % 8 == 0 else bits).any() else None


def flush_chunks(at: Path, grid: Grid, region: Region) -> None:
    """Bring the files of a region to the disk, and their names."""
    folders: set[Path] = set()
    for path, _ in grid.paths(at, region):
        if path.exists():  # chunks of nothing but 0 are not stored
            flush(path)
            folders.update(path.parents[:4])
    for folder in sorted(folders):  # the names of the files are kept there
        flush_folder(folder)


def remove_asides(at: Path) -> None:
    """Remove what writers that were killed have left half-written."""
    for left in at.glob("c/*/*/*.partial"):
        left.unlink(missing_ok=True)
