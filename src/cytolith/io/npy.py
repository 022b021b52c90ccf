"""``.npy`` files, memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, VoxelSize
from cytolith.errors import VolumeError
from cytolith.io.arrays import ArrayVolume
from cytolith.io.volume import Selection, Volume, one_line


def open_npy(path: Path, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume over the 3-d array of a ``.npy`` file, (z, y, x)."""
    selection.refuse(str(path), "channel", "timepoint", "level", "dataset")
    return NpyVolume(path, voxel_size)


_MAPPED_BYTES = 8 * 2**20
"""Memory-mapped bytes that a read holds at a time."""


class NpyVolume(ArrayVolume):
    """A memory-mapped ``.npy`` file; pickled as its path."""

    def __init__(self, path: Path, voxel_size: VoxelSize | None) -> None:
        self._path = path
        super().__init__(_map(path), str(path), voxel_size, "npy")

    def check(self) -> None:
        """Verify that the file is still there, whole and of the same kind; see `Volume.check`."""
        array = _map(self._path)
        if array.shape != self._array.shape or array.dtype != self._array.dtype:
            raise VolumeError(f"{self.name} has changed since it was opened; open it again")

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
                stored = _map(self._path)[z0 + z :, y0 + y :, region[2]][: part.shape[0], : part.shape[1]]
                np.copyto(part, stored, casting="unsafe")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._array = _map(self._path)


def _map(path: Path) -> NDArray[Any]:
    try:
        # A plain ndarray over the map: slices of np.memmap cost a Python call each and carry the subclass along.
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except OSError as error:
        raise VolumeError(f"{path} cannot be opened: {error.strerror or error}") from error
    except ValueError as error:  # a short file, a broken header, or pickled objects
        raise VolumeError(
            f"{path} is cut off or not a plain array ({one_line(error)}); copy or export it again"
        ) from error
