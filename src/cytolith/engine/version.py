"""Which code runs here: results of two versions are never mixed."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from pathlib import Path


@functools.cache
def code_version() -> str:
    """Version of the package and a digest of its sources, such as ``0.1.0 (1f2e3d4c)``.

    A run that goes on, and every worker of a run, must have the one that the run began with: another may compute other
    last digits.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.cu")]):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return f"{importlib.metadata.version('cytolith')} ({digest.hexdigest()})"
