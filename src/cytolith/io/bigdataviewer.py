"""BigDataViewer HDF5 files: setups, timepoints and levels, with the ``.xml`` beside them where it is there.

The layout is that of Pietzsch et al., Nature Methods 12, 481 (2015): ``t00000/s00/0/cells`` is level 0 of setup 0 at
timepoint 0, ``s00/resolutions`` the factors (x, y, z) of its levels. Java has no unsigned integers: what is stored as
int16 means uint16. The voxel size is in the ``.xml`` only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import h5py
import numpy as np

from cytolith.errors import VolumeError
from cytolith.io.hdf5 import Found
from cytolith.io.volume import UNKNOWN_VOXEL_SIZE, PartialVoxelSize, Selection, one_line, shape_text
from cytolith.io.voxel_sizes import to_micrometres

_MOST_XML_BYTES = 256 * 2**20
_TIMEPOINT = re.compile(r"t\d{5,}")
_SETUP = re.compile(r"s\d{2,}")


def is_bigdataviewer(file: h5py.File) -> bool:
    """Whether the groups of a file are those of BigDataViewer."""
    return any(
        f"{setup}/0/cells" in file[timepoint]
        for timepoint in _members(file, _TIMEPOINT)
        for setup in _members(file[timepoint], _SETUP)
    )


def find(file: h5py.File, path: Path, selection: Selection) -> Found:
    """The dataset of one setup (channel), timepoint and level."""
    name = str(path)
    timepoints = _members(file, _TIMEPOINT)
    timepoint = timepoints[selection.index("timepoint", len(timepoints), name)]
    setups = _members(file[timepoint], _SETUP)
    setup = setups[selection.index("channel", len(setups), name)]
    stored: list[h5py.Dataset] = []
    while f"{timepoint}/{setup}/{len(stored)}/cells" in file:
        stored.append(file[f"{timepoint}/{setup}/{len(stored)}/cells"])
    if not stored:
        raise VolumeError(f"{name} lacks {timepoint}/{setup}/0/cells: it was not written to its end; export it again")
    shapes = [tuple(int(extent) for extent in each.shape) for each in stored]
    size: PartialVoxelSize = UNKNOWN_VOXEL_SIZE
    described = _described(path, int(setup[1:]))
    if described is not None:
        shape, size = described
        if shape is not None and any(said > there for said, there in zip(shape, shapes[0], strict=True)):
            raise VolumeError(
                f"{name} holds {shape_text(shapes[0])} voxels in {setup}, but {path.with_suffix('.xml')} says "
                f"{shape_text(shape)}: it is of another file; put the right one there, or move it away"
            )
        shapes[0] = shape or shapes[0]
    level = selection.index("level", len(shapes), name, f" ({', '.join(shape_text(shape) for shape in shapes)})")
    return Found(
        f"{timepoint}/{setup}/{level}/cells",
        "BigDataViewer HDF5",
        (None, None, None),
        shape=shapes[level],
        view="uint16" if stored[level].dtype == np.dtype("int16") else None,
        voxel_size=_coarser(size, file, setup, level),
        channels=len(setups),
        timepoints=len(timepoints),
        levels=tuple(shapes),
    )


def _members(group: Any, pattern: re.Pattern[str]) -> list[str]:
    found = [key for key in group if pattern.fullmatch(key) and isinstance(group.get(key), h5py.Group)]
    return sorted(found, key=lambda key: int(key[1:]))


def _coarser(size: PartialVoxelSize, file: h5py.File, setup: str, level: int) -> PartialVoxelSize:
    """The voxel size of a level from that of level 0."""
    if level == 0 or size == UNKNOWN_VOXEL_SIZE:
        return size
    factors = file.get(f"{setup}/resolutions")
    if not isinstance(factors, h5py.Dataset) or factors.ndim != 2 or level >= factors.shape[0]:
        return UNKNOWN_VOXEL_SIZE
    z, y, x = (
        None if length is None else length * float(factor)
        for length, factor in zip(size, factors[level][::-1], strict=True)
    )
    return z, y, x


def _described(path: Path, setup: int) -> tuple[tuple[int, ...] | None, PartialVoxelSize] | None:
    """Extent (z, y, x) and voxel size of a setup from the ``.xml`` beside a file; None where there is none."""
    xml = path.with_suffix(".xml")
    try:
        if xml.stat().st_size > _MOST_XML_BYTES:
            raise VolumeError(f"{xml} is too large for the description of an image; move it away, or export it again")
        text = xml.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VolumeError(f"{xml} cannot be read: {error.strerror or error}") from error
    try:
        root = parse_xml(text)
    except (expat.ExpatError, ValueError) as error:
        raise VolumeError(
            f"{xml} is no XML that can be read ({one_line(error)}); put it right or move it away"
        ) from error
    for entry in root.iter("ViewSetup"):
        if (entry.findtext("id") or "").strip() == str(setup):
            return _extents(entry.findtext("size")), _voxel_size(entry)
    return None


def _extents(text: str | None) -> tuple[int, ...] | None:
    """``"x y z"`` as (z, y, x)."""
    try:
        x, y, z = (int(part) for part in (text or "").split())
    except ValueError:
        return None
    return (z, y, x) if min(z, y, x) > 0 else None


def _voxel_size(setup: Element) -> PartialVoxelSize:
    unit = (setup.findtext("voxelSize/unit") or "").strip()
    parts = (setup.findtext("voxelSize/size") or "").split()
    if len(parts) != 3:
        return UNKNOWN_VOXEL_SIZE
    z, y, x = (to_micrometres(part, unit) for part in parts[::-1])
    return z, y, x


def parse_xml(text: bytes) -> Element:
    """Root of an XML text, which may define no entities: a few lines of those can expand to gigabytes.

    Raises
    ------
    ValueError, xml.parsers.expat.ExpatError
        It has a document type, or is no XML.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(text, True)
    return builder.close()


def _refuse_doctype(*_: object) -> NoReturn:
    raise ValueError("a document type is not allowed")
