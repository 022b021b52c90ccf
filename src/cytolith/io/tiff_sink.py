"""A volume written block by block as a multi-page TIFF: every voxel has its place before the first one is written."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, VoxelSize
from cytolith.errors import OutputError
from cytolith.io.sink import Sink

DTYPES = ("uint8", "uint16", "int16", "int32", "uint32", "float32")
_HEADER_BYTES = 512  # more than the header of one page takes, in BigTIFF too
_CLASSIC_BYTES = (1 << 32) - (1 << 25)  # offsets have 32 bits; beyond, the file is a BigTIFF
_SHORTEST, _LONGEST = 1e-6, 1e6  # micrometres


class TiffSink(Sink):
    """An uncompressed little-endian TIFF, one page a plane in one strip each, the pages' voxels end to end.

    The file is made at its full length, with holes that read as 0. A block is then put at its offsets with positioned
    writes, which share neither a file position nor a lock: threads write at once, in any order.

    Voxel sizes are written as ImageJ does (``spacing`` and ``unit`` in the description, the resolution tags for y and
    x): ImageJ, Fiji, Bio-Formats and tifffile read this back, while ImageJ's own reader does not look at OME-XML.
    """

    _descriptor: int

    def _create(self, block_shape: Shape, voxel_size: VoxelSize | None) -> None:  # noqa: ARG002
        if self.dtype.name not in DTYPES:
            raise OutputError(
                f"{self.path}: {self.dtype.name} voxels are not written as TIFF, only {', '.join(DTYPES)}; "
                "choose .zarr or .npy"
            )
        if 0 in self.shape:
            raise OutputError(f"{self.path}: a volume of {self.shape} has no voxels, and TIFF no empty pages")
        self._check_room(file_bytes(self.shape, self.dtype))
        self._begin = reserve(self._partial, self.shape, self.dtype, _calibration(self.shape[0], voxel_size))
        self._descriptor = os.open(self._partial, os.O_WRONLY)

    def _write(self, region: Region, array: NDArray[Any]) -> None:
        planes, rows, columns = region
        _, height, width = self.shape
        stored = np.ascontiguousarray(array, self.dtype.newbyteorder("<"))
        whole_rows = columns == slice(0, width)
        if whole_rows and rows == slice(0, height):
            self._put(planes.start, 0, 0, stored)
            return
        for z, plane in zip(range(planes.start, planes.stop), stored, strict=True):
            if whole_rows:
                self._put(z, rows.start, 0, plane)
                continue
            for y, row in zip(range(rows.start, rows.stop), plane, strict=True):
                self._put(z, y, columns.start, row)

    def _put(self, z: int, y: int, x: int, voxels: NDArray[Any]) -> None:
        """Write voxels that lie end to end in the file, from one on."""
        _, height, width = self.shape
        place = self._begin + ((z * height + y) * width + x) * self.dtype.itemsize
        rest = voxels.reshape(-1).view(np.uint8).data
        while rest:  # one call moves 2 GiB at most
            moved = os.pwrite(self._descriptor, rest, place)
            rest, place = rest[moved:], place + moved

    def _read(self, region: Region) -> NDArray[Any]:
        stored = self.dtype.newbyteorder("<")
        return np.array(np.memmap(self._partial, stored, "r", self._begin, self.shape)[region], self.dtype)

    def _finish(self) -> None:
        os.close(self._descriptor)


def file_bytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    """Bytes of the file of a volume, headers rounded up."""
    return math.prod(shape) * dtype.itemsize + shape[0] * _HEADER_BYTES


def reserve(path: Path, shape: Shape, dtype: np.dtype[Any], tags: dict[str, Any]) -> int:
    """Make a TIFF file of pages of zeros that take no room yet, and return the offset of its first voxel.

    Parameters
    ----------
    path : Path
        File to make.
    shape : tuple of int
        Extent, (z, y, x); a page a plane.
    dtype : numpy.dtype
        Of the voxels, which are stored little-endian and end to end.
    tags : dict
        Further arguments of ``tifffile.TiffWriter.write``: description, resolution.

    Returns
    -------
    int
        Bytes in front of the voxels.
    """
    with tifffile.TiffWriter(path, bigtiff=file_bytes(shape, dtype) > _CLASSIC_BYTES, byteorder="<") as tif:
        place = tif.write(
            shape=shape,
            dtype=dtype.newbyteorder("<"),
            photometric="minisblack",
            rowsperstrip=shape[1],
            metadata=None,
            software="cytolith",
            returnoffset=True,
            **tags,
        )
    if place is None:
        raise OutputError(f"{path}: tifffile has not laid the voxels end to end")
    return place[0]


def _calibration(planes: int, voxel_size: VoxelSize | None) -> dict[str, Any]:
    """Description and resolution tags that give a voxel size as ImageJ does; nothing where the tags cannot hold it."""
    if voxel_size is None or not all(_SHORTEST <= edge <= _LONGEST for edge in voxel_size):
        return {}
    z, y, x = voxel_size
    return {
        "description": f"ImageJ=1.11a\nimages={planes}\nslices={planes}\nunit=micron\nspacing={z!r}\nloop=false\n",
        "resolution": (_per_micrometre(x), _per_micrometre(y)),
        "resolutionunit": "NONE",  # the unit is in the description
    }


def _per_micrometre(length: float) -> tuple[int, int]:
    """1 / length as the two 32-bit numbers of the tag, so that lengths such as 1.62 come back as they were."""
    edge = Fraction(length).limit_denominator(int((1 << 31) / max(1.0, length)))
    return edge.denominator, edge.numerator
