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
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

from cytolith.engine.grid import Block
from cytolith.engine.version import code_version
from cytolith.errors import ConfigError, CytolithError, OutputError

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
        return text if isinstance(self.error, CytolithError) else f"{type(self.error).__name__}: {text}"


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
    cause: BaseException | None = error
    transient = False
    while cause is not None and not transient:
        transient = isinstance(cause, OSError)
        cause = cause.__cause__ or cause.__context__
    known = isinstance(error, (CytolithError, MemoryError))
    return Failure(error, transient, "" if known else "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Parcel:
    """A task as it travels."""

    version: str
    digest: bytes
    content: bytes


def pack(task: Task[Any]) -> Parcel:
    """A task as bytes.

    Raises
    ------
    ConfigError
        It holds something that only this process has: an array in memory, an open file.
    """
    try:
        pickled = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"this run cannot be sent to other processes ({error}): give paths instead of open objects, or --executor "
            "threads"
        ) from error
    content = zlib.compress(pickled, 1)
    return Parcel(code_version(), hashlib.blake2b(content, digest_size=16).digest(), content)


def call_parcel(parcel: Parcel, block: Block, ahead: Block | None, given: Any) -> Outcome[Any]:
    """Outcome of a packed task on a block, in whatever process this is called."""
    try:
        task = _unpack(parcel)
    except WorkerError as error:
        return Outcome(None, Failure(error), 0.0, worker_name())
    return _portable(call(task, block, ahead, given))


_KEPT_TASKS = 4
_tasks: OrderedDict[bytes, Task[Any]] = OrderedDict()
_lock = threading.Lock()


def _unpack(parcel: Parcel) -> Task[Any]:
    with _lock:
        task = _tasks.get(parcel.digest)
        if task is not None:
            _tasks.move_to_end(parcel.digest)
            return task
        if parcel.version != code_version():
            raise WorkerError(
                f"the worker on {worker_name()} has cytolith {code_version()}, this run {parcel.version}: install the "
                "same version everywhere"
            )
        try:
            task = cast("Task[Any]", pickle.loads(zlib.decompress(parcel.content)))  # noqa: S301 - from our own run
        except CytolithError as error:
            raise WorkerError(f"the worker on {worker_name()} cannot begin: {error}") from error
        except Exception as error:
            raise WorkerError(
                f"the worker on {worker_name()} cannot load what it is to do ({type(error).__name__}: {error}): "
                "install the same version of cytolith and its libraries everywhere"
            ) from error
        _tasks[parcel.digest] = task
        while len(_tasks) > _KEPT_TASKS:
            _tasks.popitem(last=False)
        return task


def _portable(outcome: Outcome[R]) -> Outcome[R]:
    """An outcome whose error survives the journey, whatever class a library gave it."""
    failure = outcome.failure
    if failure is None:
        return outcome
    try:
        if str(pickle.loads(pickle.dumps(failure.error))) == str(failure.error):  # noqa: S301 - our own bytes
            return outcome
    except Exception:  # noqa: S110 - an error that cannot be pickled: its text goes instead
        pass
    plain = RuntimeError(f"{type(failure.error).__name__}: {failure.error}")
    return Outcome(None, Failure(plain, failure.transient, failure.details), outcome.seconds, outcome.worker)
