"""Markers of cells in XML, as cellfinder (BrainGlobe) and ImageJ's Cell Counter write and read them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from cytolith.errors import VolumeError
from cytolith.io.table_writer import Table

CELL_TYPE = 2
"""Type of a marker that is a cell, for cellfinder; 1 is what it rejected."""

_ROOT = "CellCounter_Marker_File"
_NO_IMAGE = "placeholder.tif"
"""What cellfinder writes where Cell Counter names the image."""
_PART = 1 << 16


def read_markers(path: Path, marker_type: int | None = None) -> NDArray[np.float64]:
    """Positions (n, 3) of markers, z, y, x in voxels counted from 0.

    Parameters
    ----------
    path
        File that cellfinder or Cell Counter wrote.
    marker_type
        Take the markers of this type. Default: of a file of cellfinder those of type 2, which are its cells, also when
        there are none of them; where it does not name that type, all; of a file of Cell Counter all.

    Raises
    ------
    VolumeError
        No such file, no XML, XML of another kind or with a document type, a marker that lacks a coordinate, no marker
        of the type.

    Notes
    -----
    Cell Counter counts slices from 1, cellfinder planes from 0; nothing in the file says so. A file is taken as
    cellfinder's when its image is called "placeholder.tif", as cellfinder does, and as Cell Counter's otherwise.

    A document type is refused, because entities are defined there: nothing can be expanded, and no other file is read.
    The file is read as a stream; memory holds the positions alone.
    """
    return take_markers(path, marker_type)[0]


def take_markers(path: Path, marker_type: int | None = None) -> tuple[NDArray[np.float64], list[str]]:
    """As `read_markers`, with notes on what was taken where the file does not say which of its markers are cells."""
    found = _Markers(path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = found.refuse
    parser.StartElementHandler = found.start
    parser.EndElementHandler = found.end
    found.parser = parser
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file") from None
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except expat.ExpatError as error:
        raise VolumeError(f"{path}: is no whole XML: {error}") from None
    return found.taken(marker_type)


class _Markers:
    """What the parser has met so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.parser: Any = None
        self._depth = 0
        self._text: list[str] = []
        self._type: int | None = None
        self._marker: dict[str, float] | None = None
        self._image = ""
        self._types: dict[int, array[float]] = {}

    def refuse(self, *_: object) -> None:
        raise VolumeError(f"{self._path}: has a document type (DOCTYPE), which is not read from files of others")

    def start(self, name: str, _: object) -> None:
        if self._depth == 0 and name != _ROOT:
            raise VolumeError(f"{self._path}: is XML of {name[:60]!r}; cellfinder and ImageJ write {_ROOT}")
        self._depth += 1
        if name == "Marker":
            self._marker = {}
        elif name == "Marker_Type":
            self._type = None
        elif name in _LEAVES:
            self._text = []
            self.parser.CharacterDataHandler = self._text.append  # only here: most of a file is white space

    def end(self, name: str) -> None:
        self._depth -= 1
        if name == "Marker":
            self._keep()
        elif name in _LEAVES:
            text = "".join(self._text).strip()
            self.parser.CharacterDataHandler = None
            if name == "Image_Filename":
                self._image = text
            elif name == "Type":
                self._type = int(self._number(name, text))
                self._types.setdefault(self._type, array("d"))
            elif self._marker is not None:
                self._marker[name] = self._number(name, text)

    def _number(self, name: str, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._wrong(f"{name} {text[:30]!r} is not a number")
        return number

    def _keep(self) -> None:
        marker, self._marker = self._marker or {}, None
        if self._type is None:
            raise self._wrong("a marker without a type")
        try:
            self._types[self._type].extend((marker["MarkerZ"], marker["MarkerY"], marker["MarkerX"]))
        except KeyError as missing:
            raise self._wrong(f"a marker without {missing.args[0]}") from None

    def _wrong(self, what: str) -> VolumeError:
        return VolumeError(f"{self._path}: line {self.parser.CurrentLineNumber}: {what}")

    def taken(self, marker_type: int | None) -> tuple[NDArray[np.float64], list[str]]:
        of_cellfinder = self._image == _NO_IMAGE
        notes = []
        filled = [kind for kind, values in self._types.items() if values]
        if marker_type is not None:
            if marker_type not in self._types:
                held = (
                    ", ".join(f"{kind} ({len(self._types[kind]) // 3:,} markers)" for kind in sorted(filled)) or "none"
                )
                raise VolumeError(f"{self._path}: has no markers of type {marker_type}; its types: {held}")
            filled = [marker_type]
        elif of_cellfinder and CELL_TYPE in self._types:
            filled = [CELL_TYPE]
        elif of_cellfinder and filled:
            types = f"type{'s' if len(filled) > 1 else ''} {' and '.join(map(str, sorted(filled)))}"
            meaning = f"for cellfinder {CELL_TYPE} is a cell, 1 a candidate that it rejected or did not classify"
            notes = [f"no type {CELL_TYPE}; took {types} ({meaning})"]
        parts = [np.frombuffer(self._types[kind], np.float64) for kind in filled if self._types.get(kind)]
        points = np.concatenate([np.empty(0), *parts]).reshape(-1, 3)
        if not of_cellfinder:
            points[:, 0] -= 1
        return points, notes


_LEAVES = frozenset({"Image_Filename", "Type", "MarkerX", "MarkerY", "MarkerZ"})


def write_markers(file: BinaryIO, parts: Iterator[tuple[NDArray[np.float64], Table]]) -> None:
    """Write rows as markers of cells (type 2) that cellfinder and its napari plugin read.

    Parameters
    ----------
    file
        Open for writing.
    parts
        Positions (n, 3) z, y, x in voxels, and the other columns, which the format has no place for. A position is
        rounded to the nearest voxel, halves to the even one.
    """
    file.write(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{_ROOT}>\n'
        f"  <Image_Properties>\n    <Image_Filename>{_NO_IMAGE}</Image_Filename>\n  </Image_Properties>\n"
        f"  <Marker_Data>\n    <Current_Type>1</Current_Type>\n"
        f"    <Marker_Type>\n      <Type>{CELL_TYPE}</Type>\n".encode()
    )
    for points, _ in parts:
        for start in range(0, len(points), _PART):
            voxels = np.rint(points[start : start + _PART]).astype(np.int64).tolist()
            text = "".join(
                f"      <Marker>\n        <MarkerX>{x}</MarkerX>\n        <MarkerY>{y}</MarkerY>\n"
                f"        <MarkerZ>{z}</MarkerZ>\n      </Marker>\n"
                for z, y, x in voxels
            )
            file.write(text.encode())
    file.write(f"    </Marker_Type>\n  </Marker_Data>\n</{_ROOT}>\n".encode())
