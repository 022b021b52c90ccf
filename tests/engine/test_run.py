"""The loop over blocks: order, window, lanes, tries, ends."""

import gc
import itertools
import threading
import time
import weakref
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from functools import partial

import pytest
from engine_tasks import Flaky, Look, OurError, Raise, plan_of

from cytolith.engine.events import BlockDone, BlockStarted, Failed, Finished, Planned, Retried, Stalled
from cytolith.engine.executors import (
    ExecutorPool,
    SerialExecutor,
    SerialPool,
    Slot,
    ThreadPool,
    open_pool,
)
from cytolith.engine.run import KEEP_GOING, BlocksFailedError, Policy, run_blocks
from cytolith.engine.worker import WorkerError
from cytolith.errors import ConfigError, OutputError, VolumeError

POOLS = {
    "serial": lambda: open_pool("serial", 1),
    "threads": lambda: open_pool("threads", 3),
    "executor": lambda: ExecutorPool(ThreadPoolExecutor(3), 3),
}


def indices(results):
    return [block.index for block, _ in results]


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("in_order", [False, True])
def test_every_block_has_one_result_and_its_events(kind, in_order):
    plan = plan_of(20, workers=3)
    events = []

    def task(block, ahead, given):
        time.sleep(0.003 * (block.index % 3))
        return block.index * given

    with POOLS[kind]() as pool:
        found = list(
            run_blocks(task, plan, pool, given=lambda b: b.index, in_order=in_order, listener=events.append, name="x")
        )
    assert sorted(indices(found)) == list(range(20))
    assert all(result == block.index**2 for block, result in found)
    if in_order:
        assert indices(found) == list(range(20))
    assert events[0] == Planned(plan, "x", None)
    assert isinstance(events[-1], Finished)
    for kind_of_event in (BlockStarted, BlockDone):
        assert sorted(e.block.index for e in events if isinstance(e, kind_of_event)) == list(range(20))


def test_only_what_is_still_to_do_is_done():
    plan = plan_of(9)
    events = []
    todo = [plan.blocks[n] for n in (7, 2, 5)]
    with ThreadPool(2) as pool:
        found = list(run_blocks(Look(), plan, pool, todo=todo, in_order=True, listener=events.append))
        assert indices(found) == [7, 2, 5]
        assert list(run_blocks(Look(), plan, pool, todo=[], listener=events.append)) == []
    assert [e.todo for e in events if isinstance(e, Planned)] == [todo, []]
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("slow", [0, 7])
def test_in_order_no_more_than_a_window_is_worked_on_ahead(slow):
    ahead, most, done = set(), 0, set()

    def task(block, ahead, given):
        if block.index == slow:
            time.sleep(0.3)

    def listen(event):
        nonlocal most
        if isinstance(event, BlockStarted):
            ahead.add(event.block.index)
            most = max(most, len(ahead - done))

    with ThreadPool(2) as pool:
        for block, _ in run_blocks(task, plan_of(60), pool, in_order=True, listener=listen):
            done.add(block.index)
    assert len(done) == 60
    assert 5 <= most <= 2 * 2 + 2


def test_workers_go_on_while_the_caller_looks_at_a_result():
    started = []

    def listen(event):
        if isinstance(event, BlockStarted):
            started.append(event.block.index)

    with ThreadPool(2) as pool:
        run = run_blocks(Look(0.02), plan_of(12), pool, listener=listen)
        next(run)
        assert len(started) >= 3
        time.sleep(0.2)
        assert len(started) <= 4
        run.close()


class Together(SerialPool):
    """Slots whose blocks are all done at once, in this thread."""

    def __init__(self, count):
        super().__init__()
        self.workers = count
        self.at_work = 0

    def slots(self, count):
        slots = super().slots(count)
        for number, slot in enumerate(slots):
            slot.submit = partial(self._submit, number)
        return slots

    def _submit(self, number, fn, *args):
        self.at_work = number
        return SerialExecutor().submit(fn, *args)


class Big:
    """A result whose end can be seen."""


@pytest.mark.parametrize("in_order", [False, True])
def test_a_result_that_was_taken_is_held_by_nobody(in_order, own_objects):
    refs = []
    with Together(3) as pool:
        for _block, result in run_blocks(lambda *_: Big(), plan_of(8, 3), pool, in_order=in_order):
            gc.collect()
            assert all(ref() is None for ref in refs[:-1])
            refs.append(weakref.ref(result))
            del result
    assert len(refs) == 8


def test_each_slot_has_a_stretch_and_knows_what_it_gets_next():
    with ThreadPool(3) as pool:
        found = list(run_blocks(Look(0.005), plan_of(60, 3), pool))
    by_thread = {}
    for _, seen in sorted(((seen.thread, n), seen) for n, (_, seen) in enumerate(found)):
        by_thread.setdefault(seen.thread, []).append(seen)
    assert len(by_thread) == 3
    kept = 0
    for seen in by_thread.values():
        for now, then in itertools.pairwise(seen):
            if now.ahead is not None:
                assert now.ahead == then.index
                kept += 1
    assert kept >= 50
    assert {seen[0].index for seen in by_thread.values()} == {0, 20, 40}


def test_the_slow_lane_is_relieved_to_its_last_block():
    ran = {}

    def task(block, ahead, given):
        ran.setdefault(threading.get_ident(), []).append(block.index)
        time.sleep(0.08 if block.index >= 10 else 0.001)

    begin = time.monotonic()
    with ThreadPool(2) as pool:
        assert sorted(indices(run_blocks(task, plan_of(20), pool))) == list(range(20))
    shares = sorted(sum(n >= 10 for n in each) for each in ran.values())
    assert shares in ([4, 6], [5, 5])
    assert time.monotonic() - begin < 0.75


def test_what_a_free_slot_has_read_ahead_is_taken_by_itself():
    """Both slots become free at once and nothing is left but what the second was promised."""
    with Together(2) as pool:
        ran = {}

        def task(block, ahead, given):
            ran.setdefault(pool.at_work, []).append(block.index)

        list(run_blocks(task, plan_of(3), pool))
    assert ran == {0: [0], 1: [1, 2]}


def test_a_block_is_tried_as_often_as_the_policy_says():
    events = []
    with SerialPool() as pool:
        task = Flaky(ValueError("odd"), 2)
        assert [r for _, r in run_blocks(task, plan_of(3, 1), pool, policy=Policy(3), listener=events.append)] == [
            3
        ] * 3
        assert len([e for e in events if isinstance(e, Retried)]) == 6
        assert events[2] == Retried(plan_of(3, 1).blocks[0], "ValueError: odd")
        with pytest.raises(ValueError, match="odd"):
            list(run_blocks(Flaky(ValueError("odd"), 2), plan_of(3, 1), pool, policy=Policy(2)))


def test_what_may_pass_by_itself_is_tried_again_after_pauses():
    policy = Policy(1, (0.05, 0.15))
    begin = time.monotonic()
    with ThreadPool(2) as pool:
        assert [r for _, r in run_blocks(Flaky(OSError("gone"), 2), plan_of(1), pool, policy=policy)] == [3]
        assert 0.2 <= time.monotonic() - begin < 1.0
        with pytest.raises(OSError, match="gone"):
            list(run_blocks(Flaky(OSError("gone"), 3), plan_of(1), pool, policy=policy))


def test_others_are_done_while_one_block_waits_for_its_next_try():
    order = []

    def task(block, ahead, given):
        order.append(block.index)
        if block.index == 0 and order.count(0) == 1:
            raise VolumeError("away") from TimeoutError()

    with ThreadPool(1) as pool:
        list(run_blocks(task, plan_of(5, 1), pool, policy=Policy(1, (0.1,))))
    assert order == [0, 1, 2, 3, 4, 0]


class Asked(ThreadPool):
    asked = 0

    def slots(self, count):
        self.asked += 1
        return super().slots(count)


def test_a_try_that_is_due_while_all_are_busy_is_waited_for_without_spinning():
    def task(block, ahead, given):
        if block.index == 0 and not tried:
            tried.append(1)
            raise OSError
        time.sleep(0.2)

    tried = []
    with Asked(1) as pool:
        list(run_blocks(task, plan_of(4, 1), pool, policy=Policy(1, (0.01,))))
    assert pool.asked < 20


@pytest.mark.parametrize("in_order", [False, True])
def test_all_others_are_finished_and_those_that_failed_named(in_order):
    events, ran = [], []

    def task(block, ahead, given):
        ran.append(block.index)
        if block.index in (4, 9):
            raise OurError(f"plane {block.index} is bad")

    policy = Policy(2, finish_others=True)
    with (
        ThreadPool(2) as pool,
        pytest.raises(BlocksFailedError, match=r"2 of 12 blocks failed; plane 4: plane 4 is") as e,
    ):
        for _ in run_blocks(task, plan_of(12), pool, policy=policy, in_order=in_order, listener=events.append):
            pass
    assert sorted(set(ran)) == list(range(12))
    assert ran.count(4) == ran.count(9) == 2
    assert [each.block.index for each in e.value.failed] == [4, 9]
    assert sorted(e.block.index for e in events if isinstance(e, Failed)) == [4, 9]
    assert not any(isinstance(e, Finished) for e in events)


def test_in_order_nothing_comes_after_a_block_that_failed():
    came = []
    task, policy = Raise(OurError("bad"), (5,)), Policy(1, finish_others=True)
    with ThreadPool(2) as pool, pytest.raises(BlocksFailedError):
        came.extend(block.index for block, _ in run_blocks(task, plan_of(30), pool, policy=policy, in_order=True))
    assert came == list(range(len(came)))
    assert len(came) <= 5


def test_results_that_nobody_will_get_are_not_kept(own_objects):
    alive = weakref.WeakSet()
    most = 0

    def task(block, ahead, given):
        nonlocal most
        if block.index == 1:
            raise OurError("bad")
        gc.collect()
        most = max(most, len(alive))
        result = Big()
        alive.add(result)
        return result

    with SerialPool() as pool, pytest.raises(BlocksFailedError):
        list(run_blocks(task, plan_of(30, 1), pool, policy=Policy(1, finish_others=True), in_order=True))
    assert most <= 3


def test_a_run_in_which_every_block_fails_stops_early():
    ran = []

    def task(block, ahead, given):
        ran.append(block.index)
        raise OurError("the network path has gone away")

    with ThreadPool(2) as pool, pytest.raises(BlocksFailedError, match="4 of 500 blocks failed; plane 0: the network"):
        list(run_blocks(task, plan_of(500), pool, policy=Policy(1, finish_others=True)))
    assert len(ran) < 10


def test_a_bad_part_of_the_volume_does_not_end_a_run_whose_other_worker_is_at_its_first_block():
    bad = threading.Event()

    def task(block, ahead, given):
        if block.index < 5:
            if block.index == 4:
                bad.set()
            raise OurError("a bad plane")
        assert bad.wait(10)
        time.sleep(0.1)

    events = []
    with ThreadPool(2) as pool, pytest.raises(BlocksFailedError, match="5 of 20 blocks failed"):
        list(run_blocks(task, plan_of(20), pool, policy=Policy(1, finish_others=True), listener=events.append))
    assert sorted(e.block.index for e in events if isinstance(e, BlockDone)) == list(range(5, 20))


@pytest.mark.parametrize("kind", [ConfigError, OutputError, WorkerError])
def test_what_every_block_would_meet_ends_the_run_at_once(kind):
    ran = []

    def task(block, ahead, given):
        ran.append(block.index)
        raise kind("the disk is full")

    with ThreadPool(2) as pool, pytest.raises(kind, match="the disk is full"):
        list(run_blocks(task, plan_of(50), pool, policy=KEEP_GOING))
    assert len(ran) <= 4


def test_an_error_is_raised_as_it_is_and_stops_what_has_not_begun():
    error = RuntimeError("plane 2 is bad")
    ran = []

    def task(block, ahead, given):
        ran.append(block.index)
        if block.index == 2:
            raise error

    with ThreadPool(1) as pool, pytest.raises(RuntimeError) as caught:
        list(run_blocks(task, plan_of(50, 1), pool))
    assert caught.value is error
    assert len(ran) < 6


def test_a_caller_that_stops_leaves_a_pool_that_can_be_used_again():
    ran = []

    def task(block, ahead, given):
        ran.append(block.index)
        time.sleep(0.01)
        return block.index

    with ThreadPool(2) as pool:
        for _ in run_blocks(task, plan_of(100), pool):
            break
        time.sleep(0.1)
        assert len(ran) <= 6
        assert sorted(r for _, r in run_blocks(task, plan_of(10), pool)) == list(range(10))


class Coming(ThreadPool):
    """A cluster whose workers come and go."""

    keeps = False
    refresh = 0.02

    def __init__(self, counts):
        super().__init__(2)
        self.counts = counts

    def slots(self, count):
        return super().slots(self.counts.pop(0) if len(self.counts) > 1 else self.counts[0])


def test_slots_that_come_and_go_are_followed_and_waited_for(monkeypatch):
    monkeypatch.setattr("cytolith.engine.run._PATIENCE", 0.05)
    events = []
    with Coming([0] * 10 + [1, 3, 0, 0, 0, 0, 2]) as pool:
        found = list(run_blocks(Look(0.01), plan_of(20), pool, listener=events.append))
    assert sorted(indices(found)) == list(range(20))
    assert len([e for e in events if isinstance(e, Stalled)]) == 1
    assert len({seen.thread for _, seen in found}) >= 2


def test_slots_that_come_while_all_are_busy_are_used():
    with Coming([1, 1, 1, 4]) as pool:
        begin = time.monotonic()
        found = list(run_blocks(Look(0.4), plan_of(4), pool))
        assert time.monotonic() - begin < 1.0
    assert len(found) == 4


class Breaking(Executor):
    """Loses what it is given, now and then."""

    def __init__(self, errors):
        self.errors = errors

    def submit(self, fn, /, *args):
        future = Future()
        if self.errors:
            future.set_exception(self.errors.pop())
        else:
            future.set_result(fn(*args))
        return future


@pytest.mark.parametrize(
    ("error", "name"), [(ConnectionError("reset"), "ConnectionError"), (RuntimeError("killed"), "RuntimeError")]
)
def test_a_lost_worker_is_told_by_its_planes_and_its_block_done_again(error, name):
    events = []
    with ExecutorPool(Breaking([error]), 2) as pool:
        found = list(run_blocks(Look(), plan_of(6), pool, policy=KEEP_GOING, listener=events.append))
        assert sorted(indices(found)) == list(range(6))
    assert [e.message for e in events if isinstance(e, Retried)] == [
        f"the worker of plane 0 was lost ({name}): was it killed for its memory? Give less --memory or fewer workers"
    ]


def test_blocks_that_a_cluster_forgets_are_done_again():
    events = []
    with ExecutorPool(Breaking([CancelledError()]), 1) as pool:
        found = list(run_blocks(Look(), plan_of(3, 1), pool, policy=KEEP_GOING, listener=events.append))
    assert sorted(indices(found)) == [0, 1, 2]
    (message,) = [e.message for e in events if isinstance(e, Retried)]
    assert message == "the cluster has given up plane 0; is its scheduler still there?"


def test_what_cannot_travel_is_no_lost_worker():
    refused = pytest.raises(WorkerError, match=r"cannot travel \(TypeError: cannot pickle 'lock' object\)")
    with ExecutorPool(Breaking([TypeError("cannot pickle 'lock'\nobject")]), 1) as pool, refused:
        list(run_blocks(Look(), plan_of(6, 1), pool, policy=KEEP_GOING))


def test_a_slot_is_restarted_only_when_its_worker_was_lost(monkeypatch):
    restarted = []
    monkeypatch.setattr(Slot, "restart", lambda slot: restarted.append(slot))
    with ThreadPool(1) as pool:
        list(run_blocks(Flaky(OSError(), 1), plan_of(2, 1), pool, policy=Policy(1, (0.0,))))
    assert not restarted
