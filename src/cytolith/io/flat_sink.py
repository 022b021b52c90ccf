"""Volumes whose voxels lie end to end in one file, so that every block has its places before the first is written."""

from __future__ import annotations

import io
import math
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region
from cytolith.io.files import BINARY, allow_holes, sync, write_at
from cytolith.io.sink import Sink


class FlatSink(Sink):
    """A file that is made at its full length, with holes that read as 0, and filled with positioned writes.

    These share neither a file position nor a lock: threads and processes write at once, in any order. Nor do they read
    and write back whole pages as memory maps do, which loses data when two machines write to one page over a network;
    and a full disk is an error, not the end of the process. The file is open during a write only, as network file
    systems bring voxels to where other machines see them when it is closed.
    """

    _begin: int
    """Bytes in front of the first voxel."""

    @property
    @abstractmethod
    def _stored(self) -> np.dtype[Any]:
        """Of the voxels in the file: the dtype with its byte order."""

    @property
    def _bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def _write(self, region: Region, array: NDArray[Any]) -> None:
        descriptor = os.open(self._partial, os.O_WRONLY | BINARY)
        try:
            self._put_box(descriptor, region, np.ascontiguousarray(array, self._stored))
        finally:
            os.close(descriptor)

    def _put_box(self, descriptor: int, region: Region, voxels: NDArray[Any]) -> None:
        planes, rows, columns = region
        _, height, width = self.shape
        whole_rows = columns == slice(0, width)
        if whole_rows and rows == slice(0, height):
            self._put(descriptor, planes.start, 0, 0, voxels)
            return
        for z, plane in zip(range(planes.start, planes.stop), voxels, strict=True):
            if whole_rows:
                self._put(descriptor, z, rows.start, 0, plane)
                continue
            for y, row in zip(range(rows.start, rows.stop), plane, strict=True):
                self._put(descriptor, z, y, columns.start, row)

    def _put(self, descriptor: int, z: int, y: int, x: int, voxels: NDArray[Any]) -> None:
        """Write voxels that lie end to end in the file, from one on."""
        _, height, width = self.shape
        place = self._begin + ((z * height + y) * width + x) * self.dtype.itemsize
        write_at(descriptor, voxels.reshape(-1).view(np.uint8).data, place)

    def _read(self, region: Region) -> NDArray[Any]:
        return np.array(np.memmap(self._partial, self._stored, "r", self._begin, self.shape)[region], self.dtype)

    def _flush(self, region: Region) -> None:  # noqa: ARG002 (the system knows whole files only)
        descriptor = os.open(self._partial, os.O_WRONLY | BINARY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)

    def _check_rest(self) -> None:
        """Check that there is room for what a resumed file has as holes, where the system says how much that is."""
        state = self._partial.stat()
        self._check_room(self._begin + self._bytes - 512 * getattr(state, "st_blocks", state.st_size // 512))


class NpySink(FlatSink):
    """A ``.npy`` file."""

    @property
    def _stored(self) -> np.dtype[Any]:
        return self.dtype

    def _create(self, at: Path) -> None:
        self._check_room(self._bytes)
        header = self._header()
        self._begin = len(header)
        with at.open("wb") as file:
            allow_holes(file.fileno())
            file.write(header)
            if self._bytes:  # not truncate, which writes all zeros on Windows
                file.seek(self._bytes - 1, os.SEEK_CUR)
                file.write(b"\0")

    def _reopen(self) -> None:
        header = self._header()
        self._begin = len(header)
        with self._partial.open("rb") as file:
            found = file.read(self._begin)
        if found != header or self._partial.stat().st_size != self._begin + self._bytes:
            raise self._unlike(f"is no array of {self.shape} {self.dtype}")
        self._check_rest()

    def _header(self) -> bytes:
        file = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": self.shape})
        return file.getvalue()
