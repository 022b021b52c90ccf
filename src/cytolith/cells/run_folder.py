"""The folder of a run: what may be in it, its log, and what its record says of the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
import platform
from pathlib import Path

from cytolith.errors import OutputError
from cytolith.io.files import same_place

FILES = ("cells.parquet", "cells.csv", "config.toml", "run.json", "run.log")
"""What a finished run has in its folder."""

log = logging.getLogger("cytolith")


def refuse_folder(output: Path, source: str | Path) -> None:
    """Refuse a folder that cannot be one for results; OutputError."""
    if same_place(output, Path(source)):
        raise OutputError(f"{output}: is the input; give another folder for the results")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give a folder for the results")


def refuse_earlier_result(output: Path, *, unfinished: bool, overwrite: bool) -> None:
    """Refuse before any work what would replace an earlier result.

    What a run that failed or was interrupted has left is no result. Earlier tables stay until the new ones are written.
    """
    tables = [name for name in FILES if name.startswith("cells.") and (output / name).exists()]
    if tables and not overwrite and not unfinished:
        raise OutputError(
            f"{output}: holds an earlier result ({', '.join(tables)}); give another folder, or --overwrite"
        )


def make_folder(output: Path) -> None:
    """Make the folder; OutputError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be used for the results: {error.strerror}") from None


class _Log(logging.FileHandler):
    """A log file; one that cannot be written, as on a full disk, is no reason to print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Let it be."""


def log_to(path: Path, *, go_on: bool) -> logging.Handler:
    """Handler that writes the log of the package to a file, at its end if the run goes on; OutputError."""
    try:
        handler = _Log(path, mode="a" if go_on else "w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    return handler


def now() -> str:
    """Date and time, for people."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of this package and of what it computes and stores with."""
    names = ("cytolith", "numpy", "numba", "scipy", "tifffile", "zarr", "pyarrow")
    return {name: importlib.metadata.version(name) for name in names} | {"python": platform.python_version()}
