"""Which places are zarr stores, on disk or behind a URL, known without loading zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cytolith.io.remote import Place, UrlPath

_ARRAY_METADATA_FILES = ("zarr.json", ".zarray")
_METADATA_FILES = (*_ARRAY_METADATA_FILES, ".zgroup")


def is_node(place: Place) -> bool:
    """Whether a folder is a zarr array or group."""
    return any(_is_file(place / name) for name in _METADATA_FILES)


def inside_store(path: Path) -> bool:
    """Whether a path is, or would be, an array or group of a zarr store."""
    return is_node(path) or (not path.exists() and any(is_node(parent) for parent in path.parents))


def array_metadata(place: Place) -> Place | None:
    """The metadata file of a zarr array; None where the metadata lies elsewhere (consolidated)."""
    return next((place / name for name in _ARRAY_METADATA_FILES if _is_file(place / name)), None)


def openable(place: Place) -> Any:
    """What zarr opens a place by: the path, or a store for a URL."""
    if isinstance(place, Path):
        return place
    from cytolith.io.remote_store import open_store

    return open_store(place)


def _is_file(place: Place) -> bool:
    if isinstance(place, UrlPath):
        from cytolith.io.remote_store import read_content

        return read_content(place) is not None
    return place.is_file()
