"""An HDF5 file that several threads read: opened once, opened again where it has changed, closed when it goes away."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import h5py

from cytolith.errors import VolumeError
from cytolith.io.volume import one_line

_FILTERS = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32016: "b3d",
    32017: "sz",
    32026: "blosc2",
}
"""Names of registered filters by their number."""
_BUILT_IN = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


class HeldFile:
    """A file that stays open between reads, for as long as the path leads to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: h5py.File | None = None
        self._state: tuple[int, ...] = ()

    @contextlib.contextmanager
    def opened(self) -> Iterator[h5py.File]:
        """The open file, for one thread at a time.

        Raises
        ------
        VolumeError
            The path is gone, or the file is damaged.
        """
        with self._lock:
            try:
                state = self._path.stat()
            except OSError as error:
                self._drop()
                raise hdf5_error(self._path, error) from error
            # an open file can be read on after another has taken its place: it would not be what the path names
            now = state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
            if self._file is None or now != self._state:
                self._drop()
                try:
                    # the lock is shared among readers; where there is none (network paths) it is done without
                    self._file = h5py.File(self._path, "r", locking="best-effort")
                except Exception as error:  # a damaged header may raise anything
                    raise hdf5_error(self._path, error) from error
                self._state = now
            yield self._file

    def close(self) -> None:
        """Close the file; `opened` opens it again."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # of a share that has gone away
                file.close()


def hdf5_error(path: Path, error: Exception) -> VolumeError:
    """What h5py or the system raised on a file, as one line."""
    if isinstance(error, FileNotFoundError):
        return VolumeError(f"{path} is no longer there; put it back and run again")
    text = one_line(error)
    number = getattr(error, "errno", None)
    if isinstance(error, BlockingIOError) or number == errno.EAGAIN or "unable to lock file" in text:
        return VolumeError(f"{path} is open for writing in another program; close it there and run again")
    if isinstance(error, OSError) and error.strerror:
        return VolumeError(f"{path} cannot be opened: {error.strerror}")
    return VolumeError(f"{path} is cut off or damaged ({text}); copy or export it again")


def compression_text(dataset: h5py.Dataset) -> str:
    """Names of what voxels are stored with, ``gzip, shuffle``; "none" for nothing."""
    return ", ".join(_filter_name(number, name) for number, name in _filters(dataset)) or "none"


def refuse_missing_filter(dataset: h5py.Dataset, name: str) -> None:
    """Refuse a dataset whose voxels this installation of HDF5 cannot decode; says how it can."""
    missing = [entry for entry in _filters(dataset) if not h5py.h5z.filter_avail(entry[0])]
    if not missing:
        return
    with contextlib.suppress(ImportError):
        import hdf5plugin  # type: ignore[import-not-found, unused-ignore] # noqa: F401 - it registers its filters

        missing = [entry for entry in missing if not h5py.h5z.filter_avail(entry[0])]
    for number, stored_name in missing:
        raise VolumeError(
            f"{name} is compressed with HDF5 filter {number} ({_filter_name(number, stored_name)}), which is not "
            "installed: pip install hdf5plugin"
        )


def _filters(dataset: h5py.Dataset) -> list[tuple[int, bytes]]:
    plist = dataset.id.get_create_plist()
    entries = (plist.get_filter(place) for place in range(plist.get_nfilters()))
    return [(number, name) for number, _, _, name in entries]


def _filter_name(number: int, stored_name: bytes) -> str:
    known = _BUILT_IN.get(number) or _FILTERS.get(number)
    return known or stored_name.decode("utf-8", "replace") or f"filter {number}"


def other_files(dataset: h5py.Dataset, path: Path) -> list[Path]:
    """Other files that a virtual dataset takes voxels from; one that is not there would be read as fill values."""
    names = {source.file_name for source in dataset.virtual_sources()} if dataset.is_virtual else set()
    found = []
    for name in sorted(names - {".", ""}):
        if "%b" not in name:  # a series of files, as many as there are
            beside, here = path.parent / name, Path(name)
            found.append(here if here.exists() and not beside.exists() else beside)
    return found
