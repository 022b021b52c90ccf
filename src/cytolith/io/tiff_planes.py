"""One gray plane of a TIFF file: where its bytes are, and reading any rectangle of it without the rest.

Headers are parsed by tifffile once. A plane that is stored raw and in one piece is then read with plain file reads
straight into the caller's array; of one in strips or tiles only those that overlap the rectangle are decoded.

Planes in which white is 0 (MINISWHITE) are read as displayed, so that the brightest voxel has the highest value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.errors import VolumeError
from cytolith.io.volume import READ_AS_FLOAT, one_line

# What tifffile logs about a damaged file comes again as one VolumeError; without a handler Python prints it as well.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
log = logging.getLogger(__name__)

SCRATCH_BYTES = 1 << 18  # rows read at a time where they cannot go straight to the caller: stays in a core's cache
GAP_BYTES = 1 << 16  # strips this close together are read in one go

_CCITT = (2, 3, 4)
_PHOTOMETRIC_TAG = 262
_PHOTOMETRIC = {0: "miniswhite", 2: "RGB", 3: "palette"}
_AS_READ = {"miniswhite": "miniswhite, read as displayed", "palette": "palette, read as indices"}


class PageLayout:
    """What pages stored in the same way share: extent, dtype, and how strips or tiles become voxels.

    Attributes
    ----------
    rows, columns : int
        Extent of the plane.
    dtype : numpy.dtype
        As stored, with the file's byte order.
    segment_rows, segment_columns : int
        Extent of a strip or tile, clipped to the plane.
    raw : bool
        Voxels are stored as they are: no compression, prediction, bit packing or tiling.
    compression : str
        Name of the compression, "none" for none.
    photometric : str
        "miniswhite", "RGB", "palette" or "minisblack", which stands for all others.
    white : int
        With what the bits of voxels are exchanged for them to be as displayed: 0, or all bits of a miniswhite voxel.
        uint8 ``v`` becomes ``255 - v``, uint16 ``65535 - v``, int16 ``-1 - v``, bilevel ``1 - v``.
    kind : str
        What all planes of a volume must have in common; see `plane_kind`.
    key : tuple
        Equal for pages that may share a layout.
    """

    def __init__(self, page: tifffile.TiffPage, path: str) -> None:
        _refuse_unusual(page, f"{path}, page {page.index}")
        self.rows, self.columns = page.imagelength, page.imagewidth
        self.dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        self.raw = page.is_final and self.dtype.kind != "b"
        self.compression = (
            "none" if page.compression == 1 else getattr(page.compression, "name", str(page.compression)).lower()
        )
        self.photometric = _photometric(page)
        self.kind = plane_kind(page)
        self.white = 0
        if self.photometric == "miniswhite":
            self.white = -1 if self.dtype.kind == "i" else (1 << page.bitspersample) - 1
        self.tiled = page.is_tiled
        self.segment_rows = page.tilelength if page.is_tiled else page.rowsperstrip
        self.segment_columns = page.tilewidth if page.is_tiled else page.imagewidth
        self.key = layout_key(page)
        self._header = (path, page.offset)
        self._decode: Callable[..., Any] | None = page.decode

    @property
    def chunk(self) -> Shape:
        """The box of voxels, (z, y, x), that costs one read or one decompression."""
        if self.raw:
            return 1, 1, self.columns
        return 1, min(self.segment_rows, self.rows), min(self.segment_columns, self.columns)

    @property
    def display(self) -> str | None:
        """How voxels relate to what is displayed; None where they are the same as a matter of course."""
        return _AS_READ.get(self.photometric)

    def segments(self, rows: slice, columns: slice) -> list[int]:
        """Numbers of the strips or tiles that overlap a rectangle."""
        across = -(-self.columns // self.segment_columns)
        return [
            down * across + along
            for down in range(rows.start // self.segment_rows, -(-rows.stop // self.segment_rows))
            for along in range(columns.start // self.segment_columns, -(-columns.stop // self.segment_columns))
        ]

    def decode(self, data: bytes, segment: int, jpegtables: bytes | None) -> tuple[NDArray[Any], int, int]:
        """Voxels of one strip or tile as (rows, columns), and its first row and column."""
        decode = self._decode
        if decode is None:  # after unpickling: tifffile's decoders cannot be pickled, so the header is parsed again
            path, offset = self._header
            with tifffile.TiffFile(path, is_ome=False) as tif:
                tif.filehandle.seek(offset)
                decode = self._decode = tifffile.TiffPage(tif, 0).decode
        voxels, (_, _, row, column, _), _ = decode(data, segment, jpegtables=jpegtables)
        return np.asarray(voxels)[0, :, :, 0], row, column

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decode": None}


def layout_key(page: tifffile.TiffPage) -> tuple[Any, ...]:
    """All that decides how a page's bytes become voxels; equal keys may share a `PageLayout`."""
    return (
        page.parent.byteorder,
        page.shaped,
        str(page.dtype),
        _photometric(page),
        page.is_final,
        *(int(number) for number in (page.compression, page.predictor, page.fillorder, page.sampleformat)),
        page.bitspersample,
        *(page.rowsperstrip, page.tilelength, page.tilewidth),
    )


def _photometric(page: tifffile.TiffPage) -> str:
    if _PHOTOMETRIC_TAG not in page.tags:  # what libtiff and its viewers assume; tifffile says 0 in any case
        return "miniswhite" if page.compression in _CCITT else "minisblack"
    return _PHOTOMETRIC.get(page.photometric, "minisblack")


def plane_kind(page: tifffile.TiffPage) -> str:
    """Extent, dtype, and how grey values are displayed where that is unusual, as messages give them."""
    photometric = _photometric(page)
    unusual = "" if photometric == "minisblack" else f" {photometric}"
    return f"{page.imagelength} x {page.imagewidth} {page.dtype}{unusual}"


def log_display(layout: PageLayout, name: str) -> None:
    """Say in the log, once a volume, that what is read is not what is stored."""
    if layout.white:
        log.info("%s: white is stored as 0 (miniswhite); voxels are read as displayed, inverted", name)


def _refuse_unusual(page: tifffile.TiffPage, name: str) -> None:
    if page.dtype is None or page.imagelength == 0 or page.imagewidth == 0:
        raise VolumeError(
            f"{name} holds no image that can be read ({page.bitspersample} bits); export it as uint16 gray"
        )
    if page.samplesperpixel != 1:
        raise VolumeError(
            f"{name} holds {page.samplesperpixel} samples a pixel (RGB or interleaved channels): "
            "split it into gray planes"
        )
    if page.imagedepth != 1 or page.is_subsampled:
        raise VolumeError(
            f"{name} is stored in a way that is not supported (volumetric or subsampled); export gray planes"
        )
    if _photometric(page) == "miniswhite" and (page.dtype.kind == "f" or page.dtype.name in READ_AS_FLOAT):
        raise VolumeError(
            f"{name} holds {page.dtype.name} voxels with white as 0 (miniswhite), which are read as floating point: "
            "that has no highest value to invert from, save it as minisblack"
        )


@dataclass(slots=True)
class StoredPlane:
    """Where one plane lies: the byte ranges of its strips or tiles, a single one where it is raw and in one piece."""

    name: str
    path: str
    layout: PageLayout
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    contiguous: bool
    jpegtables: bytes | None = None

    def check(self, file_bytes: int) -> None:
        """Refuse a plane with strips that were never written or that lie beyond the end of its file."""
        if (self.sizes == 0).any() or (self.offsets == 0).any():
            raise VolumeError(f"{self.name} was not written to its end (empty strips); copy or export it again")
        end = int((self.offsets + self.sizes).max())
        if end > file_bytes:
            raise VolumeError(
                f"{self.name} is cut off: needs {end} bytes, the file has {file_bytes}; copy or export it again"
            )


def stored_plane(
    name: str,
    path: str,
    layout: PageLayout,
    offsets: Sequence[int],
    sizes: Sequence[int],
    jpegtables: bytes | None = None,
) -> StoredPlane:
    """The place of a plane from the offsets and byte counts of its page; strips that lie end to end become one."""
    begins, counts = np.array(offsets, np.int64), np.array(sizes, np.int64)
    if begins.size == 0 or begins.size != counts.size:
        raise VolumeError(f"{name} names no image data; copy or export it again")
    contiguous = layout.raw and bool((begins[:-1] + counts[:-1] == begins[1:]).all())
    if contiguous:
        # Byte counts of raw pages are often wrong (0, or of another page); the extent is what says how much there is.
        begins, counts = begins[:1], np.array([layout.rows * layout.columns * layout.dtype.itemsize])
    return StoredPlane(name, path, layout, begins, counts, contiguous, jpegtables)


class PlaneReader:
    """Reads rectangles of planes, one file open at a time; made anew for every read, so threads never share one."""

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self._path = ""
        self._scratch: NDArray[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, plane: StoredPlane, rows: slice, columns: slice, out: NDArray[Any]) -> None:
        """Fill `out`, C-contiguous (rows, columns) of the volume's dtype, from one rectangle of a plane."""
        try:
            self._read(self._open(plane.path), plane, rows, columns, out)
        except FileNotFoundError as error:
            raise VolumeError(f"{plane.name} is no longer there; put it back and run again") from error
        except OSError as error:
            raise VolumeError(f"{plane.name} cannot be read: {error.strerror or error}") from error
        if plane.layout.white:
            np.bitwise_xor(out, plane.layout.white, out=out)

    def _read(self, file: FileIO, plane: StoredPlane, rows: slice, columns: slice, out: NDArray[Any]) -> None:
        layout = plane.layout
        if not plane.contiguous:
            self._read_segments(file, plane, rows, columns, out)
            return
        begin = int(plane.offsets[0]) + rows.start * layout.columns * layout.dtype.itemsize
        if columns == slice(0, layout.columns) and layout.dtype == out.dtype:
            self._fill(file, begin, out, plane)
        else:
            self._read_rows(file, plane, begin, columns, out)

    def _open(self, path: str) -> FileIO:
        if self._file is None or path != self._path:
            if self._file is not None:
                self._file.close()
            self._file = FileIO(path)
            self._path = path
        return self._file

    def _fill(self, file: FileIO, begin: int, out: NDArray[Any], plane: StoredPlane) -> None:
        file.seek(begin)
        view = out.reshape(-1).view(np.uint8).data
        while view.nbytes:
            count = file.readinto(view)
            if not count:
                raise VolumeError(f"{plane.name} is cut off inside its image data; copy or export it again")
            view = view[count:]

    def _read_rows(self, file: FileIO, plane: StoredPlane, begin: int, columns: slice, out: NDArray[Any]) -> None:
        """Whole rows through a small scratch, for what needs cropping, byte swapping or conversion."""
        layout = plane.layout
        row_bytes = layout.columns * layout.dtype.itemsize
        scratch = self._scratch
        if scratch is None or scratch.shape[1] != layout.columns or scratch.dtype != layout.dtype:
            rows_at_once = max(1, SCRATCH_BYTES // row_bytes)
            scratch = self._scratch = np.empty((rows_at_once, layout.columns), layout.dtype)
        for first in range(0, out.shape[0], scratch.shape[0]):
            part = out[first : first + scratch.shape[0]]
            rows = scratch[: part.shape[0]]
            self._fill(file, begin + first * row_bytes, rows, plane)
            np.copyto(part, rows[:, columns], casting="unsafe")

    def _read_segments(self, file: FileIO, plane: StoredPlane, rows: slice, columns: slice, out: NDArray[Any]) -> None:
        """Decode the strips or tiles that overlap the rectangle, those that lie close together read in one go."""
        wanted = plane.layout.segments(rows, columns)
        if wanted[-1] >= plane.offsets.size:
            raise VolumeError(f"{plane.name} names too few strips for its extent; copy or export it again")
        wanted.sort(key=lambda segment: int(plane.offsets[segment]))
        for group in _neighbours(wanted, plane):
            begin = int(plane.offsets[group[0]])
            data = np.empty(int(plane.offsets[group[-1]] + plane.sizes[group[-1]]) - begin, np.uint8)
            self._fill(file, begin, data, plane)
            for segment in group:
                start = int(plane.offsets[segment]) - begin
                encoded = data[start : start + int(plane.sizes[segment])].tobytes()
                try:
                    voxels, row, column = plane.layout.decode(encoded, segment, plane.jpegtables)
                except OSError:  # the path went away between two reads
                    raise
                except Exception as error:
                    raise VolumeError(
                        f"{plane.name} is damaged: strip or tile {segment} does not decode ({one_line(error)}); "
                        "copy or export it again"
                    ) from error
                _place(voxels, row - rows.start, column - columns.start, out)


def _neighbours(segments: list[int], plane: StoredPlane) -> list[list[int]]:
    """Segments, sorted by place in the file, in groups that are worth one read."""
    groups = [[segments[0]]]
    for segment in segments[1:]:
        last = groups[-1][-1]
        gap = int(plane.offsets[segment] - plane.offsets[last] - plane.sizes[last])
        if 0 <= gap <= GAP_BYTES:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return groups


def _place(voxels: NDArray[Any], row: int, column: int, out: NDArray[Any]) -> None:
    """Copy the part of a decoded segment that overlaps `out`, whose first voxel it lies (row, column) away from."""
    top, left = max(row, 0), max(column, 0)
    bottom = min(row + voxels.shape[0], out.shape[0])
    right = min(column + voxels.shape[1], out.shape[1])
    out[top:bottom, left:right] = voxels[top - row : bottom - row, left - column : right - column]


def first_page(tif: tifffile.TiffFile, path: str) -> tifffile.TiffPage:
    """The first page of an open file as a full page."""
    page = tif.pages[0]
    if not isinstance(page, tifffile.TiffPage):
        raise VolumeError(f"{path} has no readable first page; copy or export it again")
    return page


def tiff_error(path: Path | str, error: Exception) -> VolumeError:
    """What tifffile or the system raised on opening a file, as one line."""
    if isinstance(error, FileNotFoundError):
        return VolumeError(f"{path} does not exist; check the path, or put the file back")
    if isinstance(error, OSError):
        return VolumeError(f"{path} cannot be opened: {error.strerror or error}")
    if Path(path).exists() and Path(path).stat().st_size == 0:
        return VolumeError(f"{path} is empty (0 bytes); copy or export it again")
    return VolumeError(f"{path} is cut off or not a TIFF file ({one_line(error)}); copy or export it again")
