"""Imaris files (``.ims``): where channels, timepoints and levels lie, and how large the image in them is.

The layout is that of Imaris 5.5 files, https://imaris.oxinst.com/support/imaris-file-format. Stored arrays are padded
to whole chunks; attributes say what of them is image. Attributes are arrays of single characters.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np

from cytolith.errors import VolumeError
from cytolith.io.hdf5 import Found
from cytolith.io.volume import UNKNOWN_VOXEL_SIZE, PartialVoxelSize, Selection, shape_text
from cytolith.io.voxel_sizes import to_micrometres


def is_imaris(file: h5py.File) -> bool:
    """Whether the groups of a file are those of Imaris."""
    return isinstance(file.get("DataSet/ResolutionLevel 0"), h5py.Group) and "DataSetInfo" in file


def find(file: h5py.File, name: str, selection: Selection) -> Found:
    """The dataset of one channel, timepoint and level; where it is padded, the extent of the image in it."""
    levels = _count(file["DataSet"], "ResolutionLevel")
    first = file["DataSet/ResolutionLevel 0"]
    timepoints = _count(first, "TimePoint")
    channels = _count(first.get("TimePoint 0"), "Channel")
    if not timepoints or not channels:
        raise VolumeError(f"{name} is an Imaris file without an image; export it again")
    timepoint = selection.index("timepoint", timepoints, name)
    channel = selection.index("channel", channels, name)
    shapes = tuple(
        _shape(file, f"DataSet/ResolutionLevel {level}/TimePoint {timepoint}/Channel {channel}", name)
        for level in range(levels)
    )
    level = selection.index("level", levels, name, f" ({', '.join(shape_text(shape) for shape in shapes)})")
    return Found(
        f"DataSet/ResolutionLevel {level}/TimePoint {timepoint}/Channel {channel}/Data",
        "Imaris",
        (None, None, None),
        shape=shapes[level],
        voxel_size=_voxel_size(file, shapes[level]),
        channels=channels,
        timepoints=timepoints,
        levels=shapes,
    )


def _count(group: Any, kind: str) -> int:
    """How many members ``kind 0``, ``kind 1``, ... there are without a gap."""
    count = 0
    while isinstance(group, h5py.Group) and f"{kind} {count}" in group:
        count += 1
    return count


def _shape(file: h5py.File, place: str, name: str) -> tuple[int, ...]:
    """Extent (z, y, x) of the image in a channel."""
    channel = file.get(place)
    data = None if channel is None else channel.get("Data")
    if not isinstance(data, h5py.Dataset) or data.ndim != 3:
        raise VolumeError(f"{name} lacks {place}/Data: it was not written to its end; export it again")
    texts = [_text(channel.attrs.get(f"ImageSize{axis}")) for axis in "ZYX"]
    if None in texts and "ResolutionLevel 0/" in place:  # early versions have the extent in one place only
        image = file.get("DataSetInfo/Image")
        texts = [None if image is None else _text(image.attrs.get(axis)) for axis in "ZYX"]
    try:
        return tuple(int(text or "") for text in texts)
    except ValueError:
        raise VolumeError(
            f"{name} does not say how large the image in {place} is (ImageSizeX, Y, Z); export it again"
        ) from None


def _voxel_size(file: h5py.File, shape: tuple[int, ...]) -> PartialVoxelSize:
    """Extent of the image, from ``ExtMin0`` (x) to ``ExtMax2`` (z), divided by its voxels."""
    image = file.get("DataSetInfo/Image")
    if image is None:
        return UNKNOWN_VOXEL_SIZE
    unit = _text(image.attrs.get("Unit")) or "um"
    lengths: list[float | None] = []
    for number, voxels in zip((2, 1, 0), shape, strict=True):
        try:
            low, high = (float(_text(image.attrs.get(f"{end}{number}")) or "") for end in ("ExtMin", "ExtMax"))
        except ValueError:
            low = high = math.nan
        lengths.append(to_micrometres((high - low) / voxels if voxels else math.nan, unit))
    z, y, x = lengths
    return z, y, x


def _text(value: Any) -> str | None:
    """An attribute as text: an array of single characters, or what others write; None where there is none."""
    if value is None:
        return None
    if isinstance(value, str | bytes):
        parts: Any = [value]
    else:
        array = np.asarray(value)
        parts = array.ravel().tolist() if array.dtype.kind in "SUO" else [str(item) for item in array.ravel().tolist()]
    joined = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    try:
        return joined.decode().strip("\0 ")
    except UnicodeDecodeError:
        return joined.decode("latin-1").strip("\0 ")
