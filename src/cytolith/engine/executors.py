"""Where blocks run: in this thread, on threads, in processes of this machine, on any executor, on a Dask cluster.

A pool is a set of slots. A slot runs one block at a time; where it stays on one worker, what that worker read for a
block is at hand for the next.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from cytolith.engine.gpus import Gpu, find_gpus
from cytolith.engine.machine import default_memory, default_workers
from cytolith.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

KINDS = ("threads", "processes", "serial")
"""What ``--executor`` takes."""


class SerialExecutor(Executor):
    """Runs what is submitted at once, in the thread of the caller."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Future that is done when this returns; an interrupt is raised here."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Slot:
    """A place for one block at a time."""

    def __init__(self, make: Callable[[], Executor]) -> None:
        self._make = make
        self._executor: Executor | None = None

    def submit(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        """Future of a call in this place."""
        if self._executor is None:
            self._executor = self._make()
        return self._executor.submit(fn, *args)

    def restart(self) -> None:
        """Make the place anew after its worker was lost."""
        self.close(now=True)

    def close(self, *, now: bool) -> None:
        """Let go of the worker; `now`: without waiting for what it does."""
        if self._executor is not None:
            self._executor.shutdown(wait=not now, cancel_futures=True)
            self._executor = None


class Pool(ABC):
    """Slots of one kind, as a context.

    Attributes
    ----------
    kind
        What the pool is called in messages.
    workers
        Blocks at work at once on a machine.
    machines
        Machines with so many workers each, as far as is known.
    travels
        Whether tasks go to other processes.
    keeps
        Whether a slot stays on one worker, so that it can read ahead and reuse what it read.
    refresh : float or None
        Seconds after which slots are asked for again although none became free; None: their number never changes.
    """

    kind = ""
    travels = False
    keeps = True
    machines = 1
    refresh: float | None = None

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"--workers {workers}: give at least 1")
        self.workers = workers
        self._slots: list[Slot] = []

    def slots(self, count: int) -> Sequence[Slot]:
        """So many slots, or as many as there are; asked again whenever some are free, as a cluster may grow."""
        while len(self._slots) < count:
            self._slots.append(self._slot())
        return self._slots[:count]

    def share(self, memory: int | None) -> int:
        """Bytes that the workers of a machine may take together when a run may take `memory`; None: what is left to us.

        The budget of a plan, whatever the pool is.
        """
        return default_memory() if memory is None else memory

    def gpus(self) -> list[list[Gpu]]:
        """For each process that blocks run in, the GPUs that it sees.

        Raises
        ------
        GpuError
            There are none; says why.
        """
        return [find_gpus()] * (self.workers if self.travels else 1)

    @property
    def threads(self) -> int:
        """Blocks at work at once in each process."""
        return 1 if self.travels else self.workers

    @abstractmethod
    def _slot(self) -> Slot:
        """A new slot."""

    def close(self, *, now: bool) -> None:
        """Let go of all workers; `now`: what they do is given up."""
        for slot in self._slots:
            slot.close(now=now)
        self._slots.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # An interrupt is answered at once. After an error no worker may write into what is discarded next.
        self.close(now=error is not None and not isinstance(error, Exception))


class ThreadPool(Pool):
    """Threads of this process: the kernels release the GIL."""

    kind = "threads"

    def _slot(self) -> Slot:
        # A single worker is a thread too: an interrupt reaches the main thread while it is in a compiled loop.
        return Slot(lambda: ThreadPoolExecutor(1, thread_name_prefix="block"))


class SerialPool(Pool):
    """The calling thread."""

    kind = "serial"

    def __init__(self, workers: int = 1) -> None:  # noqa: ARG002 - whatever was asked for, there is one
        super().__init__(1)

    def _slot(self) -> Slot:
        return Slot(SerialExecutor)


class ProcessPool(Pool):
    """Processes of this machine, one a slot, so that a lost one is known by its block."""

    kind = "processes"
    travels = True

    def _slot(self) -> Slot:
        return _ProcessSlot()


class _ProcessSlot(Slot):
    def __init__(self) -> None:
        super().__init__(self._start)

    def _start(self) -> Executor:
        # spawned: a fork of a process with threads, which numba and zarr have, may hang
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=begin_worker)

    def submit(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        with interrupts_held():  # the process starts with its first call
            return super().submit(fn, *args)

    def close(self, *, now: bool) -> None:
        executor = self._executor
        if now and executor is not None:
            for process in list((getattr(executor, "_processes", None) or {}).values()):
                with suppress(OSError, ValueError):
                    process.kill()
            self._executor = None
            # its semaphores are let go of, or Python complains of them in the end; but an interrupt does not wait long
            ending = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": True}, daemon=True)
            ending.start()
            ending.join(_PATIENCE)
            return
        super().close(now=now)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes that are started here never get Ctrl-C, not even while they start: it is the parent's to answer.

    Threads that are started here hand that down to the processes that they start.
    """
    if sys.platform == "win32":  # holds nothing back: a process that is just starting may say that it was interrupted
        yield
    else:
        resource_tracker.ensure_running()  # when it starts together with a process, it lets interrupts through again
        # A thread of a library may take the signal, and then Python answers it here: it waits too.
        came: list[tuple[Any, ...]] = []
        is_main = threading.current_thread() is threading.main_thread()
        answer = signal.getsignal(signal.SIGINT) if is_main else None
        if answer is not None:
            signal.signal(signal.SIGINT, lambda *given: came.append(given))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if answer is not None:
                signal.signal(signal.SIGINT, answer)
                if came and callable(answer):
                    answer(*came[0])


_PATIENCE = 1.0
"""Seconds that the end of a killed worker may take."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def begin_worker() -> None:
    """Set up a worker process: interrupts are the parent's to answer, and it ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when the parent has ended, however that came about: nobody else would tell it."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class ExecutorPool(Pool):
    """Any `concurrent.futures.Executor` that the caller made and will shut down."""

    keeps = False

    def __init__(self, executor: Executor, workers: int) -> None:
        super().__init__(workers)
        self.kind = type(executor).__name__
        self.travels = not isinstance(executor, (ThreadPoolExecutor, SerialExecutor))
        self._given = executor

    def gpus(self) -> list[list[Gpu]]:
        """As one of its workers sees them; how many processes there are is not known, only how many may be needed."""
        return [self._given.submit(find_gpus).result()] * (self.workers if self.travels else 1)

    def _slot(self) -> Slot:
        return _SharedSlot(self._given)


class _SharedSlot(Slot):
    """A place on an executor that others use too."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(lambda: executor)

    def close(self, *, now: bool) -> None:  # noqa: ARG002
        self._executor = None


def open_pool(executor: str | Executor | Pool, workers: int) -> Pool:
    """Pool of so many workers.

    Parameters
    ----------
    executor
        ``"threads"``, ``"processes"`` or ``"serial"``; an executor, which is not shut down; or a pool, as it is.
    workers
        Blocks at work at once.

    Raises
    ------
    ConfigError
        The executor is not known, or there is no worker.
    """
    if isinstance(executor, Pool):
        return executor
    if isinstance(executor, Executor):
        return ExecutorPool(executor, workers)
    kinds: dict[str, type[Pool]] = {"threads": ThreadPool, "processes": ProcessPool, "serial": SerialPool}
    if executor not in kinds:
        raise ConfigError(f"--executor {executor}: give {', '.join(KINDS)}, or --dask for a cluster")
    return kinds[executor](workers)


@contextmanager
def lend_pool(executor: str | Executor | Pool, workers: int | None) -> Iterator[Pool]:
    """Pool for a run, closed after it; one that the caller has made is the caller's to close.

    Takes and raises what :func:`open_pool` does; no number of workers: all cores.
    """
    if isinstance(executor, Pool):
        yield executor
        return
    with open_pool(executor, default_workers() if workers is None else workers) as pool:
        yield pool
