"""The one loop over blocks: a bounded window of submitted tasks, retries, events for listeners, a clean stop."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from cytolith.axes import Region
from cytolith.engine.events import BlockDone, BlockStarted, Failed, Finished, Listener, Planned, Retried
from cytolith.engine.executors import Pool, Slot
from cytolith.engine.grid import Block, Plan
from cytolith.engine.queue import BlockQueue
from cytolith.engine.worker import Failure, LostWorkerError, Outcome, Task, call, call_parcel, pack
from cytolith.errors import CytolithError

R = TypeVar("R")


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
        yield from _Loop(task, blocks, plan.workers, pool, given, policy, in_order=in_order, listener=listener).run()
    listener(Finished(time.monotonic() - begin))


class _Loop(Generic[R]):
    def __init__(
        self,
        task: Task[R],
        blocks: list[Block],
        workers: int,
        pool: Pool,
        given: Callable[[Block], Any],
        policy: Policy,
        *,
        in_order: bool,
        listener: Listener,
    ) -> None:
        self._call: Callable[[Block, Block | None, Any], Outcome[R]]
        self._call = partial(call_parcel, pack(task)) if pool.travels else partial(call, task)
        self._blocks, self._workers, self._pool = blocks, workers, pool
        self._given, self._policy, self._in_order, self._listener = given, policy, in_order, listener
        self._queue = BlockQueue(blocks, workers if pool.keeps and not in_order else 1)
        self._place = {block.index: place for place, block in enumerate(blocks)}
        self._running: dict[Future[Outcome[R]], tuple[Slot, Block]] = {}
        self._next: dict[Slot, Block] = {}  # what a slot was told that it gets next
        self._tries: Counter[int] = Counter()
        self._again: list[tuple[float, int, Block]] = []  # heap of when to try a block again
        self._failed: list[FailedBlock] = []
        self._taken = 0  # results that were given out
        self._succeeded = 0

    def run(self) -> Iterator[tuple[Block, R]]:
        waiting: dict[int, tuple[Block, R]] = {}
        try:
            while True:
                self._submit()
                if not self._running and not self._again:
                    break
                for block, result in self._completed():
                    if not self._in_order:
                        yield block, result
                        continue
                    waiting[self._place[block.index]] = block, result
                    while self._taken in waiting:
                        ready = waiting.pop(self._taken)
                        self._taken += 1
                        yield ready
                    if self._failed:  # nothing comes in order any more
                        waiting.clear()
        finally:
            for future in self._running:
                future.cancel()
        if self._failed:
            raise BlocksFailedError(self._failed, len(self._blocks))

    def _submit(self) -> None:
        """Give every free slot a block."""
        slots = self._pool.slots(self._workers)
        busy = {id(slot) for slot, _ in self._running.values()}
        window = 2 * len(slots) + 2
        for lane, slot in enumerate(slots):
            if id(slot) in busy:
                continue
            block = self._take(slot, lane, window)
            if block is None:
                continue
            ahead = self._next.get(slot)
            if ahead is None and self._pool.keeps and not self._in_order:
                ahead = self._queue.take_own(lane)
                if ahead is not None:
                    self._next[slot] = ahead
            self._tries[block.index] += 1
            self._listener(BlockStarted(block))
            future = slot.submit(self._call, block, ahead, self._given(block))
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

    def _completed(self) -> Iterator[tuple[Block, R]]:
        """Wait for blocks; those that gave a result."""
        until = self._again[0][0] - time.monotonic() if self._again else None
        if not self._running:
            time.sleep(max(until or 0.0, 0.0))
            return
        done, _ = wait(self._running, timeout=None if until is None else max(until, 0.0), return_when=FIRST_COMPLETED)
        for future in done:
            slot, block = self._running.pop(future)
            outcome = self._outcome(future, slot, block)
            if outcome.failure is not None:
                self._handle(block, outcome.failure)
                continue
            self._succeeded += 1
            result: Any = outcome.result
            self._listener(BlockDone(block, outcome.seconds))
            del future, outcome  # they would hold the result
            yield block, result

    def _outcome(self, future: Future[Outcome[R]], slot: Slot, block: Block) -> Outcome[R]:
        try:
            return future.result()
        except Exception as error:
            # what a task raises comes as an outcome: this is the executor's own trouble
            slot.restart()
            lost = LostWorkerError(
                f"the worker of {planes_text(block.read)} was lost ({type(error).__name__}): was it killed for its "
                "memory? Give less --memory or fewer --workers"
            )
            return Outcome(None, Failure(lost, transient=True, details=str(error)), 0.0, "")

    def _handle(self, block: Block, failure: Failure) -> None:
        pause = self._policy.wait(failure, self._tries[block.index])
        if pause is not None:
            self._listener(Retried(block, failure.message))
            heapq.heappush(self._again, (time.monotonic() + pause, block.index, block))
            return
        if failure.fatal or not self._policy.finish_others:
            raise failure.error
        self._listener(Failed(block, failure.message))
        self._failed.append(FailedBlock(block, failure))
        if not self._succeeded and len(self._failed) >= max(4, 2 * self._workers):
            raise BlocksFailedError(self._failed, len(self._blocks))  # every block meets it: the rest would too
