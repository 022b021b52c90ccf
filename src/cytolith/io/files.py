"""Files as every system has them: whole or absent (written aside, flushed, renamed), read and written at places."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from cytolith.errors import OutputError
from cytolith.io.windows import make_sparse

T = TypeVar("T")

BINARY: int = getattr(os, "O_BINARY", 0)
"""Flag of `os.open` without which Windows takes a file for text and writes other bytes than it is given."""
_AT_ONCE = 1 << 30  # Linux moves less than 2 GiB in a call, macOS refuses a call that would move more
_PAUSES: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0) if sys.platform == "win32" else ()
_DENIED, _IN_USE = 5, 32  # errors of Windows
_LONG_PATH = 160  # letters; 259 are allowed in all, and what is written aside and in folders adds to them


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
        move(aside, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def output_error(path: Path, error: OSError) -> OutputError:
    """What the system raised on writing a file, as one line; says so when the disk is full."""
    reason = reason_of(error)
    if sys.platform == "win32" and isinstance(error, FileNotFoundError) and len(str(path.absolute())) > _LONG_PATH:
        reason = "the path may be too long for Windows; choose a shorter one"
    return OutputError(f"{path}: cannot be written: {reason}")


def reason_of(error: OSError) -> str:
    """What the system raised, in words: whether the disk is full, whether another program has the file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    text = error.strerror or str(error)
    number = getattr(error, "winerror", None)
    if number == _IN_USE:
        return "another program has it open; close it there, and run again"
    return f"{text.rstrip('.')}; is it open in another program?" if number == _DENIED else text


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8 with the same bytes on every system, whole or not at all.

    Names of files that the locale of the process has no letters for are written as the system has them.
    """
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def move(path: Path, target: Path) -> None:
    """Give a file or a folder another name in one step; a file that has the name is replaced.

    Raises
    ------
    OSError
        The system refuses.
    """
    patiently(lambda: path.replace(target))


def same_place(path: Path, other: Path) -> bool:
    """Whether two paths lead to the same: by links, and in other letters where upper and lower case are one.

    Resolving a path does not tell the latter on macOS.
    """
    try:
        return path.samefile(other)
    except OSError:  # at least one is not there
        return path.resolve() == other.resolve()


def one_spelling(path: str | Path) -> str:
    """A path or pattern, absolute and without links among its folders, which on Windows has one case then."""
    folder, name = os.path.split(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 (it may be a pattern)
    return str(Path(os.path.realpath(folder), name))


def patiently(call: Callable[[], T]) -> T:
    """Result of a call that renames, opens or removes a file.

    Windows refuses while any program has the file open, and scanners for viruses open what was just written for a
    moment. There the call is made again for a second and a half before its refusal is believed.
    """
    for pause in _PAUSES:
        try:
            return call()
        except PermissionError:
            time.sleep(pause)
    return call()


def allow_holes(descriptor: int) -> None:
    """Let a file that was made have parts that were never written, and take no room; files of POSIX have them anyway.

    Without it Windows fills with zeros what lies in front of the first byte that is written.
    """
    if sys.platform == "win32":
        make_sparse(descriptor)


def sync(descriptor: int) -> None:
    """Bring a file that is open to the disk, on macOS to more than the memory of the disk as well."""
    os.fsync(descriptor)
    if sys.platform == "darwin":
        import fcntl

        with suppress(OSError):  # shares and some disks do not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)


def flush(path: Path) -> None:
    """Bring a file that was written to the disk."""
    with path.open("rb+") as written:
        sync(written.fileno())


def flush_folder(folder: Path) -> None:
    """Bring the names of the files in a folder to the disk; nothing on Windows, which opens no folders."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def write_at(descriptor: int, data: memoryview, place: int) -> None:
    """Write bytes into a file that is open, from an offset on.

    Where the system can, many threads may do so with one descriptor. Windows has but one position in an open file:
    there each thread needs a descriptor, or its turn.
    """
    while data:
        if hasattr(os, "pwrite"):
            moved = os.pwrite(descriptor, data[:_AT_ONCE], place)
        else:
            os.lseek(descriptor, place, os.SEEK_SET)
            moved = os.write(descriptor, data[:_AT_ONCE])
        data, place = data[moved:], place + moved


def read_at(descriptor: int, into: memoryview, place: int) -> int:
    """Read bytes of a file that is open, from an offset on; how many there were, fewer than asked for at its end.

    As for `write_at`, threads take turns on Windows.
    """
    rest = into
    while rest:
        if hasattr(os, "preadv"):
            moved = os.preadv(descriptor, [rest[:_AT_ONCE]], place)
        else:
            os.lseek(descriptor, place, os.SEEK_SET)
            data = os.read(descriptor, min(len(rest), _AT_ONCE))
            moved = len(data)
            rest[:moved] = data
        if not moved:
            break
        rest, place = rest[moved:], place + moved
    return len(into) - len(rest)
