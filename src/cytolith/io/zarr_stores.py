"""Which paths are zarr stores, known without loading zarr."""

from __future__ import annotations

from pathlib import Path

_ARRAY_METADATA_FILES = ("zarr.json", ".zarray")
_METADATA_FILES = (*_ARRAY_METADATA_FILES, ".zgroup")


def is_node(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return any((path / name).is_file() for name in _METADATA_FILES)


def inside_store(path: Path) -> bool:
    """Whether a path is, or would be, an array or group of a zarr store."""
    return is_node(path) or (not path.exists() and any(is_node(parent) for parent in path.parents))


def array_metadata(path: Path) -> Path | None:
    """The metadata file of a zarr array; None where the metadata lies elsewhere (consolidated)."""
    return next((path / name for name in _ARRAY_METADATA_FILES if (path / name).is_file()), None)
