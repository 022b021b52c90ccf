"""One lazy 3-d image whatever it is stored as: extent, dtype, voxel size, and reading of any box of voxels."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytolith.axes import AXES, Region, Shape, VoxelSize, region_shape
from cytolith.errors import VolumeError
from cytolith.io.remote import Place, UrlPath, place_of, squeezed_hint
from cytolith.io.stamps import Stamps
from cytolith.io.zarr_stores import inside_store

SUPPORTED_DTYPES = ("uint8", "uint16", "int16", "float32")
READ_AS_FLOAT = ("float64", "int8", "int32", "uint32", "int64", "uint64")
_READ_AS = {"bool": "uint8"} | dict.fromkeys(READ_AS_FLOAT, "float32")

PartialVoxelSize = tuple[float | None, float | None, float | None]
"""What metadata says about the voxel size in micrometres, (z, y, x); None where it says nothing usable."""

UNKNOWN_VOXEL_SIZE: PartialVoxelSize = (None, None, None)


@dataclass(frozen=True)
class Storage:
    """How a volume is stored, for reading plans and for ``cytolith info``.

    `display` says what was done to voxels for them to be as displayed; None where that is a matter of course.
    """

    format: str
    chunks: Shape | None = None
    compression: str = "none"
    channels: tuple[int, ...] = (0,)
    timepoints: tuple[int, ...] = (0,)
    levels: tuple[tuple[int, ...], ...] | None = None
    display: str | None = None


class Volume(ABC):
    """A 3-d image that is read box by box; made by `open_volume`.

    Attributes
    ----------
    name : str
        What messages call it: a path, or the kind of array.
    shape : tuple of int
        Extent in voxels, (z, y, x); never empty.
    dtype : numpy.dtype
        dtype of what `read` returns, in native byte order: uint8, uint16, int16 or float32.
    voxel_size : tuple of float or None
        Edge lengths of a voxel in micrometres, (z, y, x); None where neither metadata nor the caller gave them.
    chunks : tuple of int or None
        The box of voxels, (z, y, x), that costs one read or one decompression: a strip, a tile, a zarr chunk, a row
        of an uncompressed plane. None where the source does not say.

    Notes
    -----
    `read` may be called from several threads at once. Volumes that are made from a path can be pickled: they carry
    the path and what is known of the file, and open it again where they are read. A path that goes away (a network
    share) is a VolumeError at the next read, caused by an OSError where there was one; when it is back, the same
    volume reads on.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        stored_dtype: DTypeLike,
        storage: Storage,
        *,
        voxel_size: VoxelSize | None = None,
        metadata_voxel_size: PartialVoxelSize = UNKNOWN_VOXEL_SIZE,
    ) -> None:
        z, y, x = (int(extent) for extent in shape)
        if 0 in (z, y, x):
            raise VolumeError(f"{name}: the volume is empty, its shape is {(z, y, x)}; give one with voxels in it")
        self.name = name
        self.shape: Shape = (z, y, x)
        self.stored_dtype = np.dtype(stored_dtype).newbyteorder("=")
        self.dtype = read_dtype(stored_dtype, name)
        self.metadata_voxel_size = metadata_voxel_size
        self.voxel_size = voxel_size or _complete(metadata_voxel_size)
        self.storage = storage
        self.chunks = storage.chunks

    @property
    def read_bytes(self) -> int:
        """Memory that a read takes besides its result: chunks as they are stored and decoded, one at a time."""
        return 0 if self.chunks is None else 2 * math.prod(self.chunks) * self.dtype.itemsize

    def read(self, region: Region, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read one box of voxels.

        Parameters
        ----------
        region : tuple of slice
            Three slices with explicit start and stop inside the volume, (z, y, x).
        out : ndarray, optional
            C-contiguous array of exactly the region's shape and the volume's dtype; it is filled and returned. Reusing
            one saves the first touch of fresh memory, which costs more than the copy itself.

        Returns
        -------
        ndarray
            C-contiguous (z, y, x) array of `dtype`. Without `out` it may be a view of a NumPy array or memory map that
            the volume was made from: treat it as read-only.

        Raises
        ------
        VolumeError
            The region lies outside the volume, `out` does not fit, or the file cannot be read or decoded.
        """
        extent = self._checked_extent(region)
        if out is None:
            out = np.empty(extent, self.dtype)
        elif out.shape != extent or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise VolumeError(
                f"{self.name}: out is {out.shape} {out.dtype}, but the region needs C-contiguous {extent} {self.dtype}"
            )
        if out.size:
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity
                self._read_into(region, out)
        return out

    @abstractmethod
    def _read_into(self, region: Region, out: NDArray[Any]) -> None:
        """Fill `out`, which is C-contiguous, not empty and of the region's shape and the volume's dtype."""

    def _checked_extent(self, region: Region) -> Shape:
        for axis, part, extent in zip(AXES, region, self.shape, strict=True):
            if part.step not in (None, 1) or not 0 <= part.start <= part.stop <= extent:
                raise VolumeError(f"{self.name}: region {axis} {part.start}:{part.stop} is not inside 0:{extent}")
        return region_shape(region)

    def check(self) -> None:  # noqa: B027 (arrays have nothing to check)
        """Verify before a run what can be known without decoding: every plane there, whole, and like the first.

        Raises
        ------
        VolumeError
            Names the first file or plane that is missing, cut off or different, and the fix.
        """

    def stamps(self) -> Stamps | None:
        """What identifies the files behind the volume, each with the planes it holds; no voxel is read.

        Returns
        -------
        Stamps or None
            None for arrays in memory. For zarr it is the metadata of the array that stands for all its planes.

        Raises
        ------
        VolumeError
            Names a file that is gone.
        """
        return None

    def describe(self) -> dict[str, object]:
        """Plain values for a listing: what the source is, how it is stored and what can be chosen in it."""
        return {
            "source": self.name,
            "format": self.storage.format,
            "shape": self.shape,
            "dtype": str(self.dtype),
            **({"display": self.storage.display} if self.storage.display else {}),
            "voxel_size": self.voxel_size or _unknown_text(self.metadata_voxel_size),
            "chunks": self.chunks or "unknown",
            "compression": self.storage.compression,
            "channels": list(self.storage.channels),
            "timepoints": list(self.storage.timepoints),
            "levels": list(self.storage.levels or (self.shape,)),
            "bytes": math.prod(self.shape) * self.dtype.itemsize,
        }

    def close(self) -> None:  # noqa: B027 (most sources hold nothing open between reads)
        """Let go of open files; reading opens them again."""

    def __copy__(self) -> Self:
        # not by way of the pickle, which leaves out what another process finds again
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.shape} {self.dtype}>"


@dataclass(frozen=True)
class Selection:
    """What a caller chose in a source that holds several images."""

    channel: int | None = None
    timepoint: int | None = None
    level: int | None = None
    dataset: str | None = None

    def __post_init__(self) -> None:
        for option in ("channel", "timepoint", "level"):
            given = getattr(self, option)
            if given is None:
                continue
            if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 0:
                raise VolumeError(f"{option}={given!r} is not a whole number of 0 or more")

    def index(self, option: str, size: int, name: str, listing: str = "") -> int:
        """The one chosen of `size` channels, timepoints or levels; an error where the choice is open or wrong."""
        given = getattr(self, option)
        if given is None:
            if size != 1 and option != "level":  # full resolution is what everyone expects
                raise VolumeError(f"{name} holds {size} {option}s: choose one with {option}=0 to {size - 1}")
            return 0
        if given >= size:
            allowed = f"give {option}=0 to {size - 1}" if size > 1 else f"leave {option} out or give 0"
            held = f"{size} {option}{'s' if size > 1 else ''}{listing}"
            raise VolumeError(f"{option}={given} is not in {name}, which holds {held}: {allowed}")
        return int(given)

    def refuse(self, name: str, *options: str) -> None:
        """Refuse options that mean nothing for this kind of source; 0 is the only channel, timepoint or level."""
        for option in options:
            if option == "dataset":
                if self.dataset is not None:
                    raise VolumeError(f"dataset={self.dataset!r}: {name} holds a single image; leave dataset out")
            else:
                self.index(option, 1, name)


def open_volume(
    source: object,
    voxel_size: Sequence[float] | None = None,
    *,
    channel: int | None = None,
    timepoint: int | None = None,
    level: int | None = None,
    dataset: str | int | None = None,
) -> Volume:
    """Open an image of any supported kind as one lazy volume; only headers are read.

    Parameters
    ----------
    source : str, Path, list of path, array-like or Volume
        A folder of single-plane TIFF files, or a pattern of them such as ``brain/*_C00_*.tif`` (planes in natural
        order: 10 comes after 9), or a list of them in the order wanted; a multi-page, BigTIFF, OME-TIFF or ImageJ
        TIFF file; a ``.npy`` file; an OME-Zarr image (0.4 or 0.5), a zarr array, or a path inside a zarr store, on
        disk or as a URL (``https://``, ``s3://``); an HDF5, Imaris (``.ims``) or BigDataViewer file; a NumPy
        array, or anything with ``shape``, ``dtype`` and slicing (dask array, h5py dataset), (z, y, x).
    voxel_size : three floats, optional
        (z, y, x) in micrometres; overrides what the metadata says.
    channel, timepoint : int, optional
        Which of several; there is no default where there are several. For a folder whose file names number the
        channels (``_C00_``, ``ch1_``) the number in the name.
    level : int, optional
        Resolution level of a pyramid; the default is 0, full resolution.
    dataset : str or int, optional
        Which array or image of a zarr group, which dataset of an HDF5 file, or which image of a TIFF file, that holds
        several.

    Returns
    -------
    Volume
        With ``shape``, ``dtype``, ``voxel_size`` and ``read(region)``. float64 and integers that labels are stored as
        (8 bits signed, 32, 64) are read as float32, which keeps whole numbers up to 2^24; bool and bilevel TIFF as
        uint8 of 0 and 1, and TIFF in which white is 0 (miniswhite) as displayed: inverted. tifffile writes bool arrays
        that way unless it is told ``photometric="minisblack"``.

    Raises
    ------
    VolumeError
        One line that names the file, plane or option that is wrong, and the fix.

    Examples
    --------
    >>> import numpy as np
    >>> volume = open_volume(np.zeros((4, 5, 6), np.uint16), voxel_size=(5, 2, 2))
    >>> volume.read((slice(1, 3), slice(0, 5), slice(2, 4))).shape
    (2, 5, 2)
    """
    size = None if voxel_size is None else check_voxel_size(voxel_size)
    selection = Selection(channel, timepoint, level, None if dataset is None else str(dataset))
    if isinstance(source, Volume):
        selection.refuse(source.name, "channel", "timepoint", "level", "dataset")
        volume = copy.copy(source)
        volume.voxel_size = size or source.voxel_size
        return volume
    if isinstance(source, str) and not source.strip():
        raise VolumeError("the input is an empty name; give a path")
    if isinstance(source, str | PathLike):
        place = place_of(source) if isinstance(source, str) else None
        return _open_path(place or Path(source).expanduser(), size, selection)
    if isinstance(source, list | tuple) and source and all(isinstance(item, str | PathLike) for item in source):
        from cytolith.io.tiff_folder import open_listed_planes

        return open_listed_planes([Path(item) for item in source], size, selection)
    if hasattr(source, "shape") and hasattr(source, "dtype") and hasattr(source, "__getitem__"):
        from cytolith.io.arrays import open_array

        return open_array(source, size, selection)
    raise VolumeError(
        f"cannot read a volume from {type(source).__name__}: give a path, a pattern, a list of paths or a 3-d array"
    )


def _open_path(path: Place, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    # The formats' modules build on this one, and their libraries are loaded only where they are needed.
    if isinstance(path, UrlPath) or inside_store(path):
        from cytolith.io.zarr import open_zarr

        return open_zarr(path, voxel_size, selection)
    if path.is_dir():
        from cytolith.io.tiff_folder import open_folder

        return open_folder(path, voxel_size, selection)
    if path.exists():
        return _open_file(path, voxel_size, selection)
    if any(mark in str(path) for mark in "*?["):
        from cytolith.io.tiff_folder import open_pattern

        return open_pattern(path, voxel_size, selection)
    raise VolumeError(f"{path} does not exist; check the path{squeezed_hint(path) or _nearest_folder(path)}")


def _open_file(path: Path, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise VolumeError(f"{path} cannot be opened: {error.strerror or error}") from error
    if magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        from cytolith.io.tiff_file import open_tiff

        return open_tiff(path, voxel_size, selection)
    if magic[:6] == b"\x93NUMPY":
        from cytolith.io.npy import open_npy

        return open_npy(path, voxel_size, selection)
    if not magic:
        raise VolumeError(f"{path} is empty (0 bytes); copy or export it again")
    if magic == b"\x89HDF\r\n\x1a\n":
        from cytolith.io.hdf5 import open_hdf5

        return open_hdf5(path, voxel_size, selection)
    raise VolumeError(f"{path} is neither TIFF nor .npy nor zarr nor HDF5; convert it to one of them")


def _nearest_folder(path: Path) -> str:
    parent = next((folder for folder in path.parents if folder.is_dir()), None)
    return "" if parent is None or parent in (path.parent, Path()) else f" ({parent} is there, what follows it is not)"


def check_voxel_size(voxel_size: Sequence[float]) -> VoxelSize:
    """Three lengths above 0 in micrometres, (z, y, x), as floats; anything else is a VolumeError."""
    try:
        z, y, x = (float(length) for length in voxel_size)
    except (TypeError, ValueError):
        z = y = x = math.nan
    if not all(math.isfinite(length) and length > 0 for length in (z, y, x)):
        raise VolumeError(f"voxel_size={voxel_size!r} is not three lengths above 0 in micrometres, (z, y, x)")
    return z, y, x


def read_dtype(stored: DTypeLike, name: str) -> np.dtype[Any]:
    """The native dtype that voxels stored as `stored` are read as; a VolumeError where there is none."""
    dtype = np.dtype(stored)
    known = _READ_AS.get(dtype.name, dtype.name)
    if known not in SUPPORTED_DTYPES:
        raise VolumeError(
            f"{name} holds {dtype.name} voxels, which are not supported: convert to one of "
            f"{', '.join(SUPPORTED_DTYPES)}"
        )
    return np.dtype(known)


def shape_text(shape: Sequence[int]) -> str:
    """A shape as messages give it, ``64 x 1024 x 1024``."""
    return " x ".join(str(extent) for extent in shape)


def region_text(region: Region) -> str:
    """A region as messages give it, ``[0:4, 0:5, 2:4]``."""
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in region) + "]"


def one_line(error: Exception) -> str:
    """What a library raised, as the part of a message: on one line, its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def _complete(size: PartialVoxelSize) -> VoxelSize | None:
    z, y, x = size
    return None if z is None or y is None or x is None else (z, y, x)


def _unknown_text(size: PartialVoxelSize) -> str:
    if all(length is None for length in size):
        return "unknown"
    parts = (
        f"{axis} {'missing' if length is None else f'{length:g} um'}" for axis, length in zip(AXES, size, strict=True)
    )
    return f"unknown (metadata: {', '.join(parts)})"
