"""What happens where a block runs: the task is called, and what it gives or raises travels back as one value.

A task for other processes is pickled once. Its bytes go with each block, but a process unpickles them once, so that
files it opened and buffers it made stay with it from block to block.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import threading
import time
import traceback
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

from cytolith.engine.grid import Block
from cytolith.engine.version import code_version
from cytolith.errors import ConfigError, CytolithError, OutputError, VolumeError
from cytolith.quantities import format_bytes

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Task(Protocol[R_co]):
    """What is done with a block. Pickled where blocks run in other processes: it carries paths, never voxels."""

    def __call__(self, block: Block, ahead: Block | None, given: Any) -> R_co:
        """Result of a block.

        Parameters
        ----------
        block
            Where to work.
        ahead
            The block that the same worker gets next, so that it can be read meanwhile; None when that is not known.
        given
            What the run has for this block, from its `given`; None when there is nothing.
        """


class WorkerError(CytolithError):
    """A worker that cannot work for this run at all; names the worker and the fix."""


class LostWorkerError(CytolithError):
    """A worker ended in the middle of a block."""


FATAL = (ConfigError, OutputError, WorkerError)
"""What ends a run at once: every other block would meet it too."""


@dataclass(frozen=True)
class Failure:
    """Why a block has no result."""

    error: Exception
    transient: bool = False
    """Whether it may pass by itself: the system refused, as when a network path has gone away."""
    details: str = ""
    """Traceback of an error that is not the user's."""

    @property
    def fatal(self) -> bool:
        """Whether the run ends at once."""
        return isinstance(self.error, FATAL)

    @property
    def message(self) -> str:
        """The error in one line."""
        text = " ".join(str(self.error).split())
        if isinstance(self.error, MemoryError):
            return "the machine has no memory left" + (f": {text}" if text else "")
        return text if isinstance(self.error, (CytolithError, RemoteError)) else f"{type(self.error).__name__}: {text}"


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What became of a block."""

    result: R | None
    failure: Failure | None
    seconds: float
    worker: str
    """Host and process."""


def worker_name() -> str:
    """Host and process of the caller."""
    return f"{platform.node()}, process {os.getpid()}"


def call(task: Task[R], block: Block, ahead: Block | None, given: Any) -> Outcome[R]:
    """Outcome of a task on a block; an interrupt is raised, everything else comes back."""
    begin = time.perf_counter()
    result, failure = None, None
    try:
        result = task(block, ahead, given)
    except Exception as error:
        failure = failure_of(error)
    return Outcome(result, failure, time.perf_counter() - begin, worker_name())


def failure_of(error: Exception) -> Failure:
    """An error as what a run keeps of it."""
    transient = any(isinstance(cause, OSError) for cause in _causes(error))
    known = isinstance(error, (CytolithError, MemoryError))
    return Failure(error, transient, "" if known else "".join(traceback.format_exception(error)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


@dataclass(frozen=True)
class Parcel:
    """A task as it travels."""

    version: str
    digest: bytes
    content: bytes


_LARGEST_TASK = 256 * 2**20
"""Bytes of a task: images for flat-field correction may travel, volumes may not."""


def pack(task: Task[Any]) -> Parcel:
    """A task as bytes.

    Raises
    ------
    ConfigError
        It holds something that only this process has, such as an open file, or an array of the size of a volume.
    """
    try:
        pickled = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise ConfigError(
            f"this run cannot be sent to other processes ({' '.join(str(error).split())}): give paths instead of open "
            "objects, or --executor threads"
        ) from error
    if len(pickled) > _LARGEST_TASK:
        raise ConfigError(
            f"this run would send {format_bytes(len(pickled))} to another process with each block: give the path of a "
            "file instead of an array, or --executor threads"
        )
    content = zlib.compress(pickled, 1)
    return Parcel(code_version(), hashlib.blake2b(content, digest_size=16).digest(), content)


def call_parcel(parcel: Parcel, block: Block, ahead: Block | None, given: Any) -> Outcome[Any]:
    """Outcome of a packed task on a block, in whatever process this is called."""
    try:
        task = _unpack(parcel)
    except WorkerError as error:
        return Outcome(None, Failure(error), 0.0, worker_name())
    return _portable(call(task, block, ahead, given))


_OPEN_WAITS = (0.5, 2.0)
"""Seconds to wait before a task is loaded again when the system refused, as when a network path has gone away."""
_kept: tuple[bytes, Task[Any]] | None = None
_lock = threading.Lock()


def _unpack(parcel: Parcel) -> Task[Any]:
    """The task of a parcel: the one that was used last is kept, and no other, as its buffers take memory."""
    global _kept
    with _lock:
        if _kept is not None and _kept[0] == parcel.digest:
            return _kept[1]
        if parcel.version != code_version():
            raise WorkerError(
                f"the worker on {worker_name()} has cytolith {code_version()}, this run {parcel.version}: install the "
                "same version everywhere"
            )
        _kept = None
        task = _load(parcel.content)
        _kept = parcel.digest, task
        return task


def forget_task() -> None:
    """Let go of the task that is kept in this process, and of the memory that it holds, of GPUs too."""
    global _kept
    with _lock:
        _kept = None


def _load(content: bytes) -> Task[Any]:
    for pause in (*_OPEN_WAITS, None):
        try:
            return cast("Task[Any]", pickle.loads(zlib.decompress(content)))  # noqa: S301 - from our own run
        except CytolithError as error:
            if pause is None or not failure_of(error).transient:
                raise WorkerError(f"the worker on {worker_name()} cannot begin: {error}{_hint(error)}") from error
            time.sleep(pause)
        except Exception as error:
            raise WorkerError(
                f"the worker on {worker_name()} cannot load what it is to do ({type(error).__name__}: {error}): "
                "install the same version of cytolith and its libraries everywhere"
            ) from error
    raise AssertionError


_UNREACHABLE = "; the path must be reachable from every worker"


def _hint(error: Exception) -> str:
    """What to do about an input that this worker does not find, though the run did."""
    missing = "does not exist" in str(error) or any(isinstance(each, FileNotFoundError) for each in _causes(error))
    return _UNREACHABLE if missing and isinstance(error, VolumeError) else ""


def _portable(outcome: Outcome[R]) -> Outcome[R]:
    """An outcome whose error survives the journey, whatever class a library gave it, and says where it happened."""
    failure = outcome.failure
    if failure is None:
        return outcome
    error = failure.error
    hint = _hint(error)
    if hint:
        error = VolumeError(f"{error} (seen by the worker on {outcome.worker}{hint})")
    elif not _survives(error):
        error = _plain(error)
    return Outcome(None, Failure(error, failure.transient, failure.details), outcome.seconds, outcome.worker)


def _survives(error: Exception) -> bool:
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:
        return False
    return type(copy) is type(error) and str(copy) == str(error)


class RemoteError(Exception):
    """An error of another process that stayed there, as text."""


def _plain(error: Exception) -> Exception:
    """An error of the nearest class of ours that takes a text, so that it still ends a run or not."""
    for kind in type(error).__mro__:
        if issubclass(kind, CytolithError):
            with suppress(Exception):
                plain = kind(str(error))
                if _survives(plain):
                    return plain
    return RemoteError(f"{type(error).__name__}: {error}")
