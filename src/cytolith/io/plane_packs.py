"""Where the planes of a file lie, small enough to travel with every task to another process."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cytolith.io.tiff_planes import PageLayout, StoredPlane

_T = TypeVar("_T", bound=Hashable)


@dataclass(frozen=True)
class PackedPlanes:
    """Planes of one volume, with what many of them share held once; tifffile makes their paths absolute."""

    paths: list[str]
    layouts: list[PageLayout]
    tables: list[bytes | None]
    numbers: bytes
    """A row a plane: which of the above, whether it lies in one piece, and in how many strips or tiles."""
    places: bytes
    """Offsets and byte counts of all strips or tiles, one plane after the other."""


def pack_planes(planes: Sequence[StoredPlane]) -> PackedPlanes:
    """Planes as they are pickled."""
    paths, path = _numbered(plane.path for plane in planes)
    keys, layout = _numbered(plane.layout.key for plane in planes)
    layouts = {plane.layout.key: plane.layout for plane in planes}
    tables, table = _numbered(plane.jpegtables for plane in planes)
    pieces = [plane.offsets.size for plane in planes]
    numbers = np.array([path, layout, table, [plane.contiguous for plane in planes], pieces], np.int64)
    places = np.stack([np.concatenate([getattr(plane, name) for plane in planes]) for name in ("offsets", "sizes")])
    return PackedPlanes(paths, [layouts[key] for key in keys], tables, _packed(numbers), _packed(places))


def unpack_planes(packed: PackedPlanes, name: str) -> list[StoredPlane]:
    """The same planes again, of the volume that messages call `name`."""
    path, layout, table, contiguous, pieces = _unpacked(packed.numbers, 5).tolist()
    offsets, sizes = _unpacked(packed.places, 2)
    ends = np.cumsum(pieces).tolist()
    return [
        StoredPlane(
            f"{name}, plane {z}",
            packed.paths[path[z]],
            packed.layouts[layout[z]],
            offsets[end - pieces[z] : end],
            sizes[end - pieces[z] : end],
            bool(contiguous[z]),
            packed.tables[table[z]],
        )
        for z, end in enumerate(ends)
    ]


def _numbered(values: Iterable[_T]) -> tuple[list[_T], list[int]]:
    """Distinct values, and for each value given its number among them."""
    known: dict[_T, int] = {}
    numbers = [known.setdefault(value, len(known)) for value in values]
    return list(known), numbers


def _packed(rows: NDArray[np.int64]) -> bytes:
    """Rows of numbers that grow evenly, compressed: differences, their low bytes together and their high bytes."""
    steps = np.diff(rows, axis=1, prepend=0)
    return zlib.compress(np.ascontiguousarray(steps.view(np.uint8).reshape(-1, 8).T).data, 1)


def _unpacked(data: bytes, rows: int) -> NDArray[Any]:
    low_first = np.frombuffer(zlib.decompress(data), np.uint8).reshape(8, -1)
    return np.cumsum(np.ascontiguousarray(low_first.T).view(np.int64).reshape(rows, -1), axis=1)
