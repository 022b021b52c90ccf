"""The one loop over blocks: a bounded window of submitted tasks, events for listeners, a clean stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from cytolith.engine.grid import Block, Plan

R = TypeVar("R")


@dataclass(frozen=True)
class Planned:
    """A run, or a pass of it, begins."""

    plan: Plan
    name: str = ""
    """What is done, in a word."""


@dataclass(frozen=True)
class BlockDone(Generic[R]):
    """A block is finished."""

    block: Block
    result: R
    seconds: float


@dataclass(frozen=True)
class Finished:
    """All blocks are finished."""

    seconds: float


Event: TypeAlias = "Planned | BlockDone[object] | Finished"
Listener: TypeAlias = Callable[[Event], None]


def run_blocks(
    task: Callable[[Block], R],
    plan: Plan,
    executor: Executor,
    listener: Listener = lambda _: None,
    name: str = "",
) -> list[R]:
    """Results of `task` on every block of the plan, in the order of the blocks; `name` is for listeners.

    At most one block more than there are workers is submitted at a time, so that an interrupt leaves little to wait
    for. The first error cancels what has not begun and is raised as it is.
    """
    begin = time.monotonic()
    listener(Planned(plan, name))
    results: dict[int, R] = {}
    waiting = list(reversed(plan.blocks))
    running: dict[Future[tuple[R, float]], Block] = {}
    try:
        while waiting or running:
            while waiting and len(running) < plan.workers + 1:
                block = waiting.pop()
                running[executor.submit(_timed, task, block)] = block
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                block = running.pop(future)
                result, seconds = future.result()
                results[block.index] = result
                listener(BlockDone(block, result, seconds))
    finally:
        for future in running:
            future.cancel()
    listener(Finished(time.monotonic() - begin))
    return in_order(results, plan.blocks)


def iter_blocks(
    task: Callable[[Block], R],
    plan: Plan,
    executor: Executor,
    listener: Listener = lambda _: None,
    name: str = "",
) -> Iterator[R]:
    """Results of `task` on every block of the plan, one by one in the order of the blocks.

    For results that are folded into something smaller as they come: two blocks more than there are workers are under
    way or wait to be taken, so memory does not grow with the number of blocks. The first error cancels what has not
    begun and is raised as it is.
    """
    begin = time.monotonic()
    listener(Planned(plan, name))
    running: deque[tuple[Block, Future[tuple[R, float]]]] = deque()
    waiting = deque(plan.blocks)
    try:
        while waiting or running:
            while waiting and len(running) < plan.workers + 2:
                block = waiting.popleft()
                running.append((block, executor.submit(_timed, task, block)))
            block, future = running.popleft()
            result, seconds = future.result()
            del future  # it would hold the result
            listener(BlockDone(block, None, seconds))
            yield result
    finally:
        for _, future in running:
            future.cancel()
    listener(Finished(time.monotonic() - begin))


def in_order(results: dict[int, R], blocks: Sequence[Block]) -> list[R]:
    """Results in the order of the blocks, whatever order they came in."""
    return [results[block.index] for block in blocks]


def _timed(task: Callable[[Block], R], block: Block) -> tuple[R, float]:
    begin = time.perf_counter()
    return task(block), time.perf_counter() - begin
