"""A volume written block by block as a multi-page TIFF: every voxel has its place before the first one is written."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from cytolith.axes import Shape, VoxelSize
from cytolith.errors import OutputError
from cytolith.io.files import allow_holes
from cytolith.io.flat_sink import FlatSink
from cytolith.io.volume import one_line, shape_text

DTYPES = ("uint8", "uint16", "int16", "int32", "uint32", "float32")
_HEADER_BYTES = 512  # more than the header of one page takes, in BigTIFF too
_CLASSIC_BYTES = (1 << 32) - (1 << 25)  # offsets have 32 bits; beyond, the file is a BigTIFF
_SHORTEST, _LONGEST = 1e-6, 1e6  # micrometres


class TiffSink(FlatSink):
    """An uncompressed little-endian TIFF, one page a plane in one strip each, the pages' voxels end to end.

    Voxel sizes are written as ImageJ does (``spacing`` and ``unit`` in the description, the resolution tags for y and
    x): ImageJ, Fiji, Bio-Formats and tifffile read this back, while ImageJ's own reader does not look at OME-XML.
    """

    @property
    def _stored(self) -> np.dtype[Any]:
        return self.dtype.newbyteorder("<")

    def _create(self, at: Path) -> None:
        if self.dtype.name not in DTYPES:
            raise OutputError(
                f"{self.path}: {self.dtype.name} voxels are not written as TIFF, only {', '.join(DTYPES)}; "
                "choose .zarr or .npy"
            )
        if 0 in self.shape:
            raise OutputError(f"{self.path}: a volume of {self.shape} has no voxels, and TIFF no empty pages")
        self._check_room(file_bytes(self.shape, self.dtype))
        self._begin = reserve(at, self.shape, self.dtype, _calibration(self.shape[0], self._voxel_size))

    def _reopen(self) -> None:
        tags = _calibration(self.shape[0], self._voxel_size)
        try:
            with tifffile.TiffFile(self._partial, is_ome=False) as tif:
                page = tif.pages.first
                shape, dtype = (len(tif.pages), *page.shape), page.dtype
                resolution = tuple(page.tags.valueof(name) for name in ("XResolution", "YResolution"))
                said, (self._begin, *strips), size = page.description, page.dataoffsets, tif.filehandle.size
        except Exception as error:
            raise self._unlike(f"is no TIFF file that can be read ({one_line(error)})") from error
        if (shape, dtype) != (self.shape, self.dtype) or strips or size < self._begin + self._bytes:
            raise self._unlike(f"holds {shape_text(shape)} {dtype}, not {shape_text(self.shape)} {self.dtype}")
        if said.strip() != tags.get("description", "").strip() or (tags and resolution != tags["resolution"]):
            raise self._unlike("has another voxel size")
        self._check_rest()


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
    big = file_bytes(shape, dtype) > _CLASSIC_BYTES
    with path.open("wb+") as file:
        allow_holes(file.fileno())
        with tifffile.TiffWriter(file, bigtiff=big, byteorder="<") as tif:
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
    z, y, x = (float(edge) for edge in voxel_size)
    return {
        "description": f"ImageJ=1.11a\nimages={planes}\nslices={planes}\nunit=micron\nspacing={z!r}\nloop=false\n",
        "resolution": (_per_micrometre(x), _per_micrometre(y)),
        "resolutionunit": "NONE",  # the unit is in the description
    }


def _per_micrometre(length: float) -> tuple[int, int]:
    """1 / length as the two 32-bit numbers of the tag, so that lengths such as 1.62 come back as they were."""
    edge = Fraction(length).limit_denominator(int((1 << 31) / max(1.0, length)))
    return edge.denominator, edge.numerator
