"""Files that are whole or absent: written aside, flushed, renamed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cytolith.errors import OutputError


@contextmanager
def written_aside(path: Path, *, unique: bool = False) -> Iterator[Path]:
    """Path beside `path` to write to; it takes the place of `path` when the block ends well, and is removed if not.

    Parameters
    ----------
    path
        The file to make or to replace.
    unique
        Write under a name that no other process uses, ``.NAME.RANDOM.partial``, for a file that two may write at the
        same time: the last one stays, whole. Otherwise the name is ``NAME.partial``, and what a killed run left there
        is replaced.

    Raises
    ------
    OutputError
        The file cannot be written; says so when the disk is full.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial" if unique else f"{path.name}.partial")
    try:
        yield aside
        flush(aside)
        aside.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def output_error(path: Path, error: OSError) -> OutputError:
    """What the system raised on writing a file, as one line; says so when the disk is full."""
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    return OutputError(f"{path}: cannot be written: {reason}")


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Bring a file that was written to the disk."""
    with path.open("rb+") as written:
        os.fsync(written.fileno())
