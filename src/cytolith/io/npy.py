"""``.npy`` files, memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, VoxelSize
from cytolith.errors import VolumeError
from cytolith.io.arrays import check_three_axes
from cytolith.io.stamps import Stamps, stamp_files
from cytolith.io.volume import Selection, Storage, Volume, one_line


def open_npy(path: Path, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume over the 3-d array of a ``.npy`` file, (z, y, x)."""
    selection.refuse(str(path), "channel", "timepoint", "level", "dataset")
    return NpyVolume(path, voxel_size)


_MAPPED_BYTES = 8 * 2**20
"""Memory-mapped bytes that a read holds at a time."""


_LONGER_THAN_ITS_FILE = 8
"""What Windows says of a map that is ("not enough memory resources"); elsewhere it is a ValueError."""


class NpyVolume(Volume):
    """A memory-mapped ``.npy`` file; pickled as its path."""

    def __init__(self, path: Path, voxel_size: VoxelSize | None) -> None:
        array = _map(path)
        name = str(path)
        self._path = path
        self._stored = array.shape, array.dtype
        shape = check_three_axes(array.shape, name)
        super().__init__(name, shape, array.dtype, Storage("npy", chunks=(1, 1, shape[2])), voxel_size=voxel_size)

    def check(self) -> None:
        """Verify that the file is still there, whole and of the same kind; see `Volume.check`."""
        self._open()

    def stamps(self) -> Stamps:
        """The file, with all planes; see `Volume.stamps`."""
        return stamp_files([(self._path, 0, self.shape[0])])

    def _open(self) -> NDArray[Any]:
        array = _map(self._path)
        if (array.shape, array.dtype) != self._stored:
            raise VolumeError(f"{self.name} has changed since it was opened; open it again")
        return array

    def _read_into(self, region: Region, out: NDArray[Any]) -> None:
        # Pages of a map count as memory of the process until it is unmapped, and the system maps more than is touched:
        # a map kept for long grows to the size of the file and past any budget. So each piece is mapped anew.
        row_bytes = self.shape[2] * self.dtype.itemsize
        rows = min(out.shape[1], max(1, _MAPPED_BYTES // row_bytes))
        planes = max(1, _MAPPED_BYTES // (self.shape[1] * row_bytes))
        z0, y0 = region[0].start, region[1].start
        for z in range(0, out.shape[0], planes):
            for y in range(0, out.shape[1], rows):
                part = out[z : z + planes, y : y + rows]
                stored = self._open()[z0 + z :, y0 + y :, region[2]][: part.shape[0], : part.shape[1]]
                np.copyto(part, stored, casting="unsafe")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_path": self._path.absolute()}  # a worker may run in another folder


def _map(path: Path) -> NDArray[Any]:
    try:
        # A plain ndarray over the map: slices of np.memmap cost a Python call each and carry the subclass along.
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except OSError as error:
        if getattr(error, "winerror", None) == _LONGER_THAN_ITS_FILE:
            raise VolumeError(f"{path} is cut off; copy or export it again") from error
        raise VolumeError(f"{path} cannot be opened: {error.strerror or error}") from error
    except ValueError as error:  # a short file, a broken header, or pickled objects
        raise VolumeError(
            f"{path} is cut off or not a plain array ({one_line(error)}); copy or export it again"
        ) from error
