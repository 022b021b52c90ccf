"""The one loop over blocks: a bounded window of submitted tasks, retries, events for listeners, a clean stop."""

from __future__ import annotations

import heapq
import logging
import math
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from cytolith.axes import Region
from cytolith.engine.events import BlockDone, BlockStarted, Failed, Finished, Listener, Planned, Retried, Stalled
from cytolith.engine.executors import Pool, Slot
from cytolith.engine.grid import Block, Plan
from cytolith.engine.queue import BlockQueue
from cytolith.engine.worker import (
    Failure,
    LostWorkerError,
    Outcome,
    Task,
    WorkerError,
    call,
    call_parcel,
    failure_of,
    pack,
)
from cytolith.errors import CytolithError

R = TypeVar("R")

log = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds without workers after which a run says that it waits."""
_ANSWERED = 0.2 if sys.platform == "win32" else None
"""Seconds after which Ctrl-C is answered while blocks are at work; None: at once. Windows holds it back from a thread
that waits for another."""


@dataclass(frozen=True)
class Policy:
    """What is done about a block that goes wrong."""

    attempts: int = 1
    """How often a block is tried."""
    waits: tuple[float, ...] = ()
    """Seconds to wait before each further try of what may pass by itself; such blocks have these tries in all."""
    finish_others: bool = False
    """Go on with the other blocks when one has failed for good."""

    def wait(self, failure: Failure, tries: int) -> float | None:
        """Seconds until a block that has failed so many times is tried again; None: not any more."""
        if failure.fatal:
            return None
        if failure.transient and tries <= len(self.waits):
            return self.waits[tries - 1]
        return 0.0 if tries < self.attempts else None


STOP_AT_ONCE = Policy()
"""The first error ends the run and is raised as it is."""
KEEP_GOING = Policy(2, (0.5, 2.0, 8.0), finish_others=True)
"""A block is tried again, after a pause where the system refused; a run with failed blocks finishes all others."""


@dataclass(frozen=True)
class FailedBlock:
    """A block without a result."""

    block: Block
    failure: Failure


class BlocksFailedError(CytolithError):
    """Some blocks have no result; the others do."""

    def __init__(self, failed: Sequence[FailedBlock], total: int) -> None:
        self.failed = sorted(failed, key=lambda each: each.block.index)
        first = self.failed[0]
        count = f"{len(self.failed)} of {total} blocks failed" if total > 1 else "the block failed"
        super().__init__(f"{count}; {planes_text(first.block.read)}: {first.failure.message}")


def planes_text(region: Region) -> str:
    """The planes of a region as messages give them."""
    first, last = region[0].start, region[0].stop - 1
    return f"plane {first}" if first == last else f"planes {first} to {last}"


def run_blocks(
    task: Task[R],
    plan: Plan,
    pool: Pool,
    *,
    todo: Sequence[Block] | None = None,
    given: Callable[[Block], Any] = lambda _: None,
    policy: Policy = STOP_AT_ONCE,
    in_order: bool = False,
    listener: Listener = lambda _: None,
    name: str = "",
) -> Iterator[tuple[Block, R]]:
    """Blocks with the results of a task, as they are finished.

    A slot has one block at work. Where slots stay on one worker each has a stretch of the volume, and a worker is told
    which block it gets next. Results that are not taken wait, at most about twice as many as there are slots, so
    memory does not grow with the number of blocks.

    Parameters
    ----------
    task
        What is done with a block.
    plan
        The blocks.
    pool
        Where they run.
    todo
        Blocks to do; default: all of the plan.
    given
        What travels to the task with a block.
    policy
        What is done about a block that goes wrong.
    in_order
        Results come in the order of the blocks.
    listener
        Gets the events.
    name
        What is done, in a word, for listeners.

    Yields
    ------
    tuple of Block and result

    Raises
    ------
    BlocksFailedError
        With ``policy.finish_others``, after all others are done.
    Exception
        Otherwise the first error, as it is; and any error that every block would meet (`FATAL`).
    """
    begin = time.monotonic()
    blocks = list(plan.blocks if todo is None else todo)
    listener(Planned(plan, name, None if todo is None else blocks))
    if blocks:
        yield from _Loop(task, plan, blocks, pool, given, policy, in_order=in_order, listener=listener).run()
    listener(Finished(time.monotonic() - begin))


class _Loop(Generic[R]):
    def __init__(
        self,
        task: Task[R],
        plan: Plan,
        blocks: list[Block],
        pool: Pool,
        given: Callable[[Block], Any],
        policy: Policy,
        *,
        in_order: bool,
        listener: Listener,
    ) -> None:
        self._call: Callable[[Block, Block | None, Any], Outcome[R]]
        self._call = partial(call_parcel, pack(task)) if pool.travels else partial(call, task)
        self._blocks, self._workers, self._pool = blocks, plan.workers, pool
        self._given, self._policy, self._in_order, self._listener = given, policy, in_order, listener
        self._stays = pool.keeps and not in_order  # whether each slot has a stretch of its own
        self._queue = BlockQueue(blocks, plan.workers if self._stays else 1)
        self._place = {block.index: place for place, block in enumerate(blocks)}
        self._running: dict[Future[Outcome[R]], tuple[Slot, Block]] = {}
        self._next: dict[Slot, Block] = {}  # what a slot was told that it gets next
        self._tries: Counter[int] = Counter()
        self._again: list[tuple[float, int, Block]] = []  # heap of when to try a block again
        self._idle = False  # whether a slot had nothing to do when blocks were last given out
        self._stalled: float | None = None  # since when there are no slots
        self._results: dict[int, tuple[Block, R]] = {}  # by place, until the caller takes them
        self._taken = 0  # results that were given out
        self._failed: list[FailedBlock] = []
        self._succeeded = len(blocks) < len(plan.blocks)  # of a run that goes on some did before
        self._first: set[int] = set()  # as many blocks as there are workers, those that were begun first

    def run(self) -> Iterator[tuple[Block, R]]:
        try:
            while True:
                self._submit()
                if not (self._running or self._again or self._next or len(self._queue)):
                    break
                self._collect()
                self._submit()  # workers go on while the caller does something with the results
                yield from self._give()
        finally:
            for future in self._running:
                future.cancel()
        if self._failed:
            raise BlocksFailedError(self._failed, len(self._blocks))

    def _submit(self) -> None:
        """Give every free slot a block."""
        slots = self._pool.slots(self._workers)
        self._note_stall(stalled=not slots)
        busy = {slot for slot, _ in self._running.values()}
        free = [(lane, slot) for lane, slot in enumerate(slots) if slot not in busy]
        free.sort(key=lambda each: each[1] not in self._next)  # nobody takes what a free slot has read ahead
        self._idle = not slots
        for lane, slot in free:
            block = self._take(slot, lane, 2 * len(slots) + 2)
            if block is None:
                self._idle = True
                continue
            ahead = self._queue.take_own(lane) if self._stays else None
            if ahead is not None:
                self._next[slot] = ahead
            self._tries[block.index] += 1
            if len(self._first) < self._workers:
                self._first.add(block.index)
            self._listener(BlockStarted(block))
            try:
                future = slot.submit(self._call, block, ahead, self._given(block))
            except BrokenExecutor as error:  # its worker ended between two blocks
                future = Future()
                future.set_exception(error)
            self._running[future] = slot, block

    def _take(self, slot: Slot, lane: int, window: int) -> Block | None:
        if slot in self._next:
            return self._next.pop(slot)
        if self._again and self._again[0][0] <= time.monotonic():
            return heapq.heappop(self._again)[2]
        if self._in_order and not self._failed:
            first = self._queue.peek()
            if first is not None and self._place[first.index] >= self._taken + window:
                return None
        block = self._queue.take(lane)
        if block is None and self._next:  # the last blocks, promised to slots that are still busy
            return self._next.pop(next(iter(self._next)))
        return block

    def _note_stall(self, *, stalled: bool) -> None:
        if not stalled:
            self._stalled = None
            return
        now = time.monotonic()
        if self._stalled is None:
            self._stalled = now
        elif now - self._stalled > _PATIENCE:
            log.warning("no workers are left; the run waits for some and goes on then")
            self._listener(Stalled(now - self._stalled))
            self._stalled = math.inf  # said once

    def _collect(self) -> None:
        """Wait until blocks are done, or until others may be given out."""
        pauses = [each for each in (self._pool.refresh, _ANSWERED) if each is not None]
        if self._again and self._idle:
            pauses.append(max(self._again[0][0] - time.monotonic(), 0.0))
        pause = min(pauses, default=None)
        if not self._running:
            assert pause is not None, "blocks are left that no slot takes"
            time.sleep(pause)
            return
        done, _ = wait(self._running, timeout=pause, return_when=FIRST_COMPLETED)
        while done:
            future = done.pop()
            slot, block = self._running.pop(future)
            outcome = self._outcome(future, slot, block)
            if outcome.failure is not None:
                self._handle(block, outcome.failure)
                continue
            self._succeeded = True
            self._listener(BlockDone(block, outcome.seconds))
            result: Any = outcome.result
            self._results[self._place[block.index]] = block, result

    def _give(self) -> Iterator[tuple[Block, R]]:
        """Results that the caller may have now; none is held on to when it asks for the next."""
        if not self._in_order:
            while self._results:
                yield self._results.popitem()[1]
            return
        while self._taken in self._results:
            self._taken += 1
            yield self._results.pop(self._taken - 1)
        if self._failed:  # what comes after a block that failed is not given out
            self._results.clear()

    def _outcome(self, future: Future[Outcome[R]], slot: Slot, block: Block) -> Outcome[R]:
        try:
            return future.result()
        except Exception as error:
            # what a task raises comes as an outcome: this is the executor's own trouble
            return Outcome(None, self._trouble(error, slot, block), 0.0, "")

    def _trouble(self, error: Exception, slot: Slot, block: Block) -> Failure:
        if isinstance(error, MemoryError):
            return failure_of(error)
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        unfit = (pickle.PicklingError, TypeError, AttributeError, ImportError)
        if isinstance(error, unfit) or "serializ" in str(error):
            return Failure(
                WorkerError(
                    f"a block or its result cannot travel ({text}): install the same version of cytolith and its "
                    "libraries for every worker and the scheduler"
                )
            )
        slot.restart()
        where = planes_text(block.read)
        if isinstance(error, CancelledError):  # a cluster forgets all that was sent when its scheduler is lost
            lost = LostWorkerError(f"the cluster has given up {where}; is its scheduler still there?")
        else:
            lost = LostWorkerError(
                f"the worker of {where} was lost ({type(error).__name__}): was it killed for its memory? Give less "
                "--memory or fewer workers"
            )
        return Failure(lost, transient=True, details=text)

    def _handle(self, block: Block, failure: Failure) -> None:
        pause = self._policy.wait(failure, self._tries[block.index])
        if pause is not None:
            self._listener(Retried(block, failure.message))
            heapq.heappush(self._again, (time.monotonic() + pause, block.index, block))
            return
        if failure.fatal or not self._policy.finish_others:
            if failure.details and failure.error.__traceback__ is None:  # it stayed behind in another process
                failure.error.add_note(failure.details)
            raise failure.error
        self._listener(Failed(block, failure.message))
        self._failed.append(FailedBlock(block, failure))
        # Many failed and none did not: every block meets it, and the rest would too. Unless they are of one part of the
        # volume, and another worker is still at its first block.
        hopeless = not self._succeeded and self._first <= {each.block.index for each in self._failed}
        if hopeless and len(self._failed) >= max(4, 2 * self._workers):
            raise BlocksFailedError(self._failed, len(self._blocks))
