"""Which paths are zarr stores, known without loading zarr."""

from __future__ import annotations

from pathlib import Path

_METADATA_FILES = ("zarr.json", ".zarray", ".zgroup")


def is_node(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return any((path / name).is_file() for name in _METADATA_FILES)


def inside_store(path: Path) -> bool:
    """Whether a path is, or would be, an array or group of a zarr store."""
    return is_node(path) or (not path.exists() and any(is_node(parent) for parent in path.parents))
