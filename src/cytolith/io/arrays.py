"""Arrays that are already open: NumPy, and anything that is sliced like it (dask array, h5py dataset, zarr array)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, VoxelSize
from cytolith.errors import VolumeError
from cytolith.io.volume import Selection, Storage, Volume, one_line, region_text


def open_array(array: Any, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume over a 3-d array-like, (z, y, x); nothing is read or copied."""
    name = f"{type(array).__module__.partition('.')[0]} array"
    selection.refuse(name, "channel", "timepoint", "level", "dataset")
    if isinstance(array, np.ma.MaskedArray):
        raise VolumeError(f"{name} is masked, and a mask would be lost: give array.filled(value)")
    return ArrayVolume(array, name, voxel_size)


class ArrayVolume(Volume):
    """A volume over an array-like with ``shape``, ``dtype`` and slicing."""

    def __init__(self, array: Any, name: str, voxel_size: VoxelSize | None, array_format: str = "array") -> None:
        shape = check_three_axes(array.shape, name)
        storage = Storage(array_format, chunks=_chunks(array))
        super().__init__(name, shape, array.dtype, storage, voxel_size=voxel_size)
        self._array = array

    def read(self, region: Region, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read one box of voxels; see `Volume.read`. Without `out`, whole planes of a NumPy array are not copied."""
        if out is None and isinstance(self._array, np.ndarray) and self._array.flags.writeable:
            # Read-only views are copied instead: compiled loops would be compiled once more for them.
            self._checked_extent(region)
            return np.ascontiguousarray(self._array[region], self.dtype)
        return super().read(region, out)

    def _read_into(self, region: Region, out: NDArray[Any]) -> None:
        if isinstance(self._array, np.ndarray):
            np.copyto(out, self._array[region], casting="unsafe")
            return
        try:
            box = self._array[region]
            if hasattr(box, "__dask_graph__"):
                box = box.compute(scheduler="synchronous")  # blocks already run in parallel
            box = np.asarray(box)
        except Exception as error:
            raise VolumeError(f"{self.name}: reading {region_text(region)} failed: {one_line(error)}") from error
        if box.shape != out.shape:
            raise VolumeError(
                f"{self.name}: {region_text(region)} gave {box.shape} voxels, not {out.shape}; its shape is wrong"
            )
        np.copyto(out, box, casting="unsafe")


def check_three_axes(shape: Any, name: str) -> Shape:
    """The shape of a 3-d array as integers; a VolumeError that says how to get there otherwise."""
    try:
        extents = tuple(int(extent) for extent in shape)
    except (TypeError, ValueError) as error:
        raise VolumeError(f"{name}: its shape {shape} is not known; compute the chunk sizes first") from error
    if len(extents) == 2:
        raise VolumeError(
            f"{name} is 2-d, {extents}: stack planes as (z, y, x), or give array[None] for a single plane"
        )
    if len(extents) != 3:
        raise VolumeError(
            f"{name} is {len(extents)}-d, {extents}: choose one channel and timepoint so that (z, y, x) is left"
        )
    return extents[0], extents[1], extents[2]


def _chunks(array: Any) -> Shape | None:
    if isinstance(array, np.ndarray):
        return 1, 1, array.shape[2]
    chunks = getattr(array, "chunksize", None) or getattr(array, "chunks", None)
    if isinstance(chunks, tuple) and len(chunks) == 3 and all(isinstance(extent, int) for extent in chunks):
        return chunks
    return None
