"""The loop over blocks: order, bounded window, errors."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cytolith.engine.executors import make_executor
from cytolith.engine.grid import Costs, plan_blocks
from cytolith.engine.run import BlockDone, Finished, Planned, run_blocks


def plan_of(count, workers=2):
    return plan_blocks((count, 1, 1), Costs((0, 0, 0), 1.0), memory=2**20, workers=workers, core=(1, 1, 1))


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_blocks(workers):
    plan = plan_of(20)
    events = []
    with make_executor(workers) as pool:
        results = run_blocks(lambda b: (time.sleep(0.002 * (b.index % 3)), b.index)[1], plan, pool, events.append)
    assert results == list(range(20))
    assert isinstance(events[0], Planned)
    assert isinstance(events[-1], Finished)
    assert sorted(e.block.index for e in events if isinstance(e, BlockDone)) == list(range(20))


def test_no_more_is_submitted_than_one_block_beyond_the_workers():
    plan = plan_of(30, workers=2)
    submitted, done, most = 0, 0, 0

    class Counting(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            nonlocal submitted, most
            submitted += 1
            most = max(most, submitted - done)
            return super().submit(fn, *args, **kwargs)

    def listen(event):
        nonlocal done
        done += isinstance(event, BlockDone)

    with Counting(2) as pool:
        run_blocks(lambda b: b.index, plan, pool, listen)
    assert most == 3


def test_an_error_is_raised_as_it_is_and_stops_what_has_not_begun():
    plan = plan_of(50, workers=1)
    ran = []
    lock = threading.Lock()

    def task(block):
        with lock:
            ran.append(block.index)
        if block.index == 2:
            raise RuntimeError("plane 2 is bad")

    with make_executor(1) as pool, pytest.raises(RuntimeError, match="plane 2 is bad"):
        run_blocks(task, plan, pool)
    assert len(ran) < 6
