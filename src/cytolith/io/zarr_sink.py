"""A volume written block by block as OME-Zarr, in chunks that no two blocks share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from cytolith.axes import AXES, Region, Shape, VoxelSize
from cytolith.errors import OutputError
from cytolith.io.files import patiently
from cytolith.io.shards import Grid, flush_chunks, remove_asides
from cytolith.io.sink import Sink
from cytolith.io.volume import one_line, region_text, shape_text

_CHUNK = 128  # voxels along an edge: 4 MiB of uint16, quick to look at in a viewer and few files
_SMALLEST_CHUNK = 32
_LARGEST_CHUNK = 512
_MOST_VOXELS = 1 << 27  # 1 GiB of 8-byte voxels: Blosc compresses no more than 2 GiB at once


class ZarrSink(Sink):
    """An OME-Zarr 0.5 image of one level.

    Processes cannot lock each other out of a chunk, and two writers in one chunk lose data. So chunks divide the
    blocks, and a region that would share chunks with its neighbours is refused.
    """

    _array: zarr.Array[Any] | None = None

    def _create(self, at: Path) -> None:
        group = zarr.open_group(at, mode="w", zarr_format=3)
        group.attrs["ome"] = ome_metadata(self.path.stem, self._voxel_size)
        group.create_array(
            "0",
            shape=self.shape,
            chunks=self._chunks,
            dtype=self.dtype,
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
            dimension_names=AXES,
        )

    def _reopen(self) -> None:
        try:
            group = zarr.open_group(self._partial, mode="r")
            array = group["0"]
        except Exception as error:
            raise self._unlike(f"is no zarr group that can be read ({one_line(error)})") from error
        if not isinstance(array, zarr.Array) or (array.shape, array.dtype) != (self.shape, self.dtype):
            raise self._unlike(f"holds {_text(array)}, not {shape_text(self.shape)} {self.dtype}")
        if array.chunks != self._chunks:
            raise self._unlike(f"has chunks of {shape_text(array.chunks)}, not {shape_text(self._chunks)}")
        if group.attrs.get("ome") != ome_metadata(self.path.stem, self._voxel_size):
            raise self._unlike("has another voxel size or name")

    @property
    def _chunks(self) -> Shape:
        return chunk_shape(self._block_shape, self.shape)

    @property
    def _at(self) -> Path:
        return self._partial / "0"

    def _stored(self) -> zarr.Array[Any]:
        os.stat(self._at / "zarr.json")  # noqa: PTH116 (zarr would make the folder of one that has gone, and read 0)
        if self._array is None:  # two threads may both open it; they come to the same
            self._array = zarr.open_array(self._at, mode="r+")
        return self._array

    def _write(self, region: Region, array: NDArray[Any]) -> None:
        if not self._covers_chunks(region):
            raise OutputError(
                f"{self.path}: the region {region_text(region)} shares chunks with its neighbours; write blocks of "
                f"{shape_text(self._block_shape)}, laid from 0 on, or whole chunks of {shape_text(self._chunks)}"
            )
        patiently(lambda: self._stored().set_basic_selection(region, array))

    def _covers_chunks(self, region: Region) -> bool:
        return Grid(self.shape, self._chunks, None).aligned(region)

    def _read(self, region: Region) -> NDArray[Any]:
        return np.asarray(self._stored()[region])

    def _flush(self, region: Region) -> None:
        flush_chunks(self._at, Grid(self.shape, self._chunks, None), region)

    def _tidy(self) -> None:
        if self.resumed:  # what zarr writes aside, left by a run that was killed
            remove_asides(self._at)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_array": None}


def chunk_shape(block_shape: Sequence[int], shape: Sequence[int]) -> Shape:
    """Extents of chunks, about 128 along an axis, such that each chunk lies in one block.

    Along an axis with a single block any chunk does. Along others it is the divisor of the block's extent from 32 to
    512 that is nearest to 128, the larger of two; where there is none, the extent itself.
    """
    z, y, x = (_chunk_extent(min(block, extent), extent) for block, extent in zip(block_shape, shape, strict=True))
    if z * y * x > _MOST_VOXELS:  # blocks with extents that have no divisors: 1 divides them all
        z = 1
    return z, y if z * y * x <= _MOST_VOXELS else 1, x


def _chunk_extent(block: int, extent: int) -> int:
    if block == extent:  # a single block along this axis: any chunk lies inside it
        return min(_CHUNK, extent)
    fitting = [part for part in range(_SMALLEST_CHUNK, _LARGEST_CHUNK + 1) if block % part == 0]
    return min(fitting, key=lambda part: (abs(part - _CHUNK), -part), default=block)


def _text(node: object) -> str:
    return f"{shape_text(node.shape)} {node.dtype}" if isinstance(node, zarr.Array) else "no array"


def ome_metadata(
    name: str,
    voxel_size: VoxelSize | None,
    factors: Sequence[Shape] = ((1, 1, 1),),
    *,
    origin: Shape = (0, 0, 0),
    labels: bool = False,
) -> dict[str, Any]:
    """Metadata of an OME-Zarr 0.5 image, the attribute ``ome`` of its group.

    Parameters
    ----------
    name : str
        Of the image.
    voxel_size : tuple of float, optional
        (z, y, x) of the finest level in micrometres; without it lengths are in voxels of that level, without a unit.
    factors : sequence of tuple of int
        For each level how many voxels of the finest one lie along an edge of one of its own, (z, y, x).
    origin : tuple of int
        Where the image lies in the one that it was cut from, in voxels of the finest level.
    labels : bool
        Whether voxels are labels, for viewers; levels are then made by the most frequent label, otherwise by the mean.

    Returns
    -------
    dict
        Levels are called 0, 1, 2... Scales are edges of voxels. A translation is the place of the centre of the first
        voxel: a voxel that stands for f of them has its centre (f - 1) / 2 voxels behind the centre of the first.
    """
    unit = {} if voxel_size is None else {"unit": "micrometer"}
    edges = (1.0, 1.0, 1.0) if voxel_size is None else tuple(float(length) for length in voxel_size)
    datasets = []
    for number, factor in enumerate(factors):
        scale = [edge * each for edge, each in zip(edges, factor, strict=True)]
        shift = [edge * (first + (each - 1) / 2) for edge, each, first in zip(edges, factor, origin, strict=True)]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if any(shift):
            transformations.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    image = {
        "name": name,
        "axes": [{"name": axis, "type": "space", **unit} for axis in AXES],
        "datasets": datasets,
        **({"type": "mode" if labels else "mean"} if len(factors) > 1 else {}),
    }
    return {"version": "0.5", "multiscales": [image], **({"image-label": {}} if labels else {})}
