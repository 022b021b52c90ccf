"""One run at a time in a folder: a lock file that says who writes there."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cytolith.errors import OutputError
from cytolith.io.files import BINARY, output_error, patiently
from cytolith.io.windows import process_runs, process_start

LOCK_NAME = ".cytolith.lock"
_LOCKED_BYTE = 1 << 30
"""The byte that is locked on Windows, far behind the content: what is locked there nobody else can read."""
_ENDED = "ZX"  # states of a process that runs no more, though it is still listed


@dataclass(frozen=True)
class _Holder:
    """Who wrote a lock file. Times are for people: which run is alive is never decided by a clock."""

    host: str
    pid: int
    start: int | None
    """When the process started, as the system counts, which tells it from a later one of the same number."""
    started: str

    @classmethod
    def own(cls) -> _Holder:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _process_start(os.getpid()), now)

    @classmethod
    def parse(cls, text: bytes) -> _Holder | None:
        """What a lock file says; None where it says nothing that can be understood."""
        try:
            fields = json.loads(text)
            host, pid, start, started = (fields[name] for name in ("host", "pid", "start", "started"))
        except (ValueError, KeyError, TypeError):
            return None
        # a boolean is an integer too, and process 0 and below stand for groups of processes
        if type(pid) is not int or pid <= 0 or not (start is None or type(start) is int):
            return None
        return cls(" ".join(str(host).split()), pid, start, " ".join(str(started).split()))

    @property
    def alive(self) -> bool:
        """Whether the process still runs, on this machine."""
        if not _process_runs(self.pid) or _process_state(self.pid) in _ENDED:
            return False
        start = _process_start(self.pid)
        return self.start is None or start is None or self.start == start

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


class FolderLock:
    """Keeps other runs out of a folder, as a context or from `acquire` to `release`.

    A file ``.cytolith.lock`` in the folder is locked by the system where the file system can do that; the system lets
    go when the process ends, however it ends. Elsewhere the file being there is the lock, and its content (host,
    process, when that process started) tells whether the run that made it is still at work.

    Parameters
    ----------
    folder : Path
        It must be there.
    name : str
        Name of the lock file: locks of different names do not keep each other out.

    Attributes
    ----------
    folder : Path
    stale : str or None
        One sentence for the log when the lock of a run that was killed was found and taken over.

    Raises
    ------
    OutputError
        On entering: another run writes there, or the folder cannot be written in.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, FolderLock(Path(folder)):
    ...     pass  # no other run writes here
    """

    def __init__(self, folder: Path, name: str = LOCK_NAME) -> None:
        self.folder = folder
        self.stale: str | None = None
        self._path = folder.absolute() / name
        self._descriptor: int | None = None
        self._locked = False

    def acquire(self) -> None:
        """Take the lock, or raise `OutputError` when another run holds it; nothing happens when it is ours already."""
        if self._descriptor is not None:
            return
        self.stale = None
        try:
            while self._descriptor is None:
                self._descriptor = self._try()
        except OSError as error:
            raise output_error(self.folder, error) from error

    def release(self) -> None:
        """Remove the lock file and let go; harmless when the lock is not ours."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            # Removed while it is held: whoever opened it before sees that the path is another file now, or none. And
            # never the file of another run, should a person have deleted ours.
            with suppress(OSError):
                if sys.platform != "win32" and self._is_at_path(descriptor):
                    self._path.unlink()
            if self._locked:
                _unlock(descriptor)
        finally:
            os.close(descriptor)
        if sys.platform == "win32":  # removes no file that is open: not before, and not when another run has it by now
            with suppress(OSError):
                self._path.unlink()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _try(self) -> int | None:
        """Descriptor of the lock file, now ours; None: it changed meanwhile, try again."""
        try:
            descriptor, made = self._open(os.O_CREAT | os.O_EXCL), True
        except FileExistsError:
            try:
                descriptor, made = self._open(), False
            except FileNotFoundError:
                return None
        kept = False
        try:
            self._locked = self._lock(descriptor)
            if self._locked and not self._is_at_path(descriptor):
                return None
            content = _content(descriptor)
            kept = self._locked or made
            if self._locked:
                self._note_stale(_Holder.parse(content), made=made)
            if kept:
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, json.dumps(asdict(_Holder.own())).encode())
                os.fsync(descriptor)
        except BaseException:
            kept = False
            raise
        finally:
            if not kept:
                with suppress(OSError):
                    os.close(descriptor)
        if kept:
            return descriptor
        self._remove_stale(content)
        return None

    def _open(self, how: int = 0) -> int:
        return patiently(lambda: os.open(self._path, os.O_RDWR | BINARY | how, 0o644))

    def _lock(self, descriptor: int) -> bool:
        try:
            return _lock_file(descriptor)
        except BlockingIOError:
            raise self._refusal(_Holder.parse(_content(descriptor))) from None

    def _note_stale(self, holder: _Holder | None, *, made: bool) -> None:
        # A run that has just made the file, but was not as quick as this one to lock it, was no run before this one.
        if made or (holder is not None and holder.host == socket.gethostname() and holder.alive):
            return
        who = f" ({holder})" if holder else ""
        self.stale = f"{self.folder}: a run{who} ended without letting go of the folder; its lock was taken over"

    def _remove_stale(self, content: bytes) -> None:
        """Judge by its content a lock file that the system cannot lock, and remove it when its run is dead."""
        self._refuse_living(content)
        # One at a time: another run may have found it dead as well, removed it, and made its own in its place.
        guard = self._path.with_name(f"{self._path.name}.stale")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | BINARY))
        except FileExistsError:
            raise self._refusal(None, f"; when no run is there, delete {guard}") from None
        try:
            holder = self._refuse_living(self._path.read_bytes())
            self._path.unlink()
        except FileNotFoundError:
            return
        finally:
            guard.unlink()
        self._note_stale(holder, made=False)

    def _refuse_living(self, text: bytes) -> _Holder:
        holder = _Holder.parse(text)
        if holder is None or holder.host != socket.gethostname():
            raise self._refusal(holder, f"; when that run is gone, delete {self._path}")
        if holder.alive:
            raise self._refusal(holder)
        return holder

    def _refusal(self, holder: _Holder | None, more: str = "") -> OutputError:
        who = f" ({holder})" if holder else ""
        return OutputError(
            f"{self.folder}: another run{who} writes here; wait for it, or give another folder with -o{more}"
        )

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            # on Windows a file that is open stays where it is
            return sys.platform == "win32" or os.path.samestat(os.stat(self._path), os.fstat(descriptor))  # noqa: PTH116
        except FileNotFoundError:
            return False


def _lock_file(descriptor: int) -> bool:
    """Lock an open file until it is closed or its process ends; False where the file system does not know how.

    Raises
    ------
    BlockingIOError
        Another process has locked it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno == errno.EACCES:  # what Windows and its shares say for locked
            raise BlockingIOError from error
        return False
    return True


def _unlock(descriptor: int) -> None:
    with suppress(OSError):  # closing it does the same, unless a forked process has it too
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _content(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 4096)


def _process_runs(pid: int) -> bool:
    """Whether there is a process of this number, maybe one that has ended and is still listed."""
    if sys.platform == "win32":
        return process_runs(pid)
    else:  # noqa: RET505 - what a type checker of another system does not look at
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:  # of another user
            pass
        return True


def _process_start(pid: int) -> int | None:
    """When a process started: on Linux in ticks since the machine did; None where the system does not say."""
    if sys.platform == "win32":
        return process_start(pid)
    else:  # noqa: RET505 - what a type checker of another system does not look at
        fields = _process_fields(pid)
        return int(fields[19]) if len(fields) > 19 else None


def _process_state(pid: int) -> str:
    fields = _process_fields(pid)
    return fields[0] if fields else "?"


def _process_fields(pid: int) -> list[str]:
    """What ``/proc/PID/stat`` says after the name of the program, which may hold blanks and brackets itself."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
