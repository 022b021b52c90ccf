"""Where blocks run: here, on threads, in processes that may be lost, and how all of it ends."""

import itertools
import multiprocessing
import os
import re
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from engine_tasks import GiveLock, KillOnce, Look, NoRoom, Open, RaiseOdd, plan_of
from processes import HERE, alive, reported, started, until

from cytolith.engine import worker
from cytolith.engine.events import Retried
from cytolith.engine.executors import ExecutorPool, ProcessPool, SerialExecutor, SerialPool, ThreadPool, open_pool
from cytolith.engine.run import KEEP_GOING, BlocksFailedError, Policy, run_blocks
from cytolith.engine.worker import LostWorkerError, WorkerError
from cytolith.errors import ConfigError

SCRIPT = HERE / "engine_script.py"


def indices(results):
    return sorted(block.index for block, _ in results)


def test_pools_by_name():
    assert type(open_pool("threads", 3)) is ThreadPool
    assert type(open_pool("processes", 3)) is ProcessPool
    assert open_pool("serial", 3).workers == 1
    pool = SerialPool()
    assert open_pool(pool, 9) is pool
    with pytest.raises(
        ConfigError, match="--executor thread: give threads, processes, serial, or --dask for a cluster"
    ):
        open_pool("thread", 1)
    with pytest.raises(ConfigError, match="--workers 0: give at least 1"):
        open_pool("threads", 0)


def test_an_executor_that_is_given_is_used_and_left_open():
    with ThreadPoolExecutor(2) as executor:
        with open_pool(executor, 2) as pool:
            assert isinstance(pool, ExecutorPool)
            assert not pool.travels
            assert not pool.keeps
            found = list(run_blocks(Look(), plan_of(5), pool))
            assert indices(found) == list(range(5))
            assert all(seen.ahead is None for _, seen in found)
        assert executor.submit(int, "7").result() == 7


def test_a_serial_executor_raises_interrupts_and_keeps_errors():
    def interrupted():
        raise KeyboardInterrupt

    executor = SerialExecutor()
    assert isinstance(executor.submit(int, "x").exception(), ValueError)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(interrupted)


def test_a_pool_waits_for_its_workers_after_an_error_and_not_after_an_interrupt():
    for error, waits in ((ValueError, True), (KeyboardInterrupt, False)):
        ended = threading.Event()
        pool = ThreadPool(1)
        pool.slots(1)[0].submit(lambda e=ended: (time.sleep(0.2), e.set()))
        pool.__exit__(error, error(), None)
        assert ended.is_set() == waits
        ended.wait(1)


@pytest.fixture(scope="module")
def processes():
    with ProcessPool(2) as pool:
        yield pool


def test_processes_work_on_their_stretches_and_know_what_is_next(processes):
    found = list(run_blocks(Look(0.02), plan_of(30), processes, given=lambda b: b.index))
    assert indices(found) == list(range(30))
    by_process = {}
    for _, seen in found:
        by_process.setdefault(seen.process, []).append(seen)
        assert seen.given == seen.index
    assert len(by_process) == 2
    assert os.getpid() not in by_process
    kept = sum(now.ahead == then.index for each in by_process.values() for now, then in itertools.pairwise(each))
    assert kept >= 20


def test_threads_of_libraries_are_off_and_interrupts_left_to_the_parent(processes):
    slot = processes.slots(1)[0]
    assert slot.submit(os.getenv, "OMP_NUM_THREADS").result() == os.getenv("OMP_NUM_THREADS", "1")
    pid = slot.submit(os.getpid).result()
    os.kill(pid, signal.SIGINT)
    assert slot.submit(os.getpid).result() == pid
    # from its first instruction, before it could say so itself
    blocked = re.search(r"SigBlk:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    assert int(blocked[1], 16) >> (signal.SIGINT - 1) & 1


def test_a_task_that_cannot_travel_is_refused_before_any_work(processes):
    with pytest.raises(ConfigError, match="or --executor threads"):
        list(run_blocks(lambda *_: None, plan_of(3), processes, policy=KEEP_GOING))


def test_errors_of_a_worker_come_back_in_one_line(processes, tmp_path):
    once = Policy(1, finish_others=True)
    with pytest.raises(BlocksFailedError, match=r"process \d+; the path must be reachable from every worker"):
        list(run_blocks(Open(tmp_path / "away"), plan_of(2), processes, policy=once))
    with pytest.raises(BlocksFailedError, match="plane 0: OddError: one and two"):
        list(run_blocks(RaiseOdd(ours=False), plan_of(2), processes, policy=once))
    with pytest.raises(BlocksFailedError, match="plane 0: the machine has no memory left"):
        list(run_blocks(NoRoom(), plan_of(2), processes, policy=once))
    with pytest.raises(Exception, match="one and two") as caught:
        list(run_blocks(RaiseOdd(ours=False), plan_of(2), processes))
    assert "engine_tasks.py" in caught.value.__notes__[0]


def test_another_version_in_a_worker_ends_the_run(processes, monkeypatch):
    mine = worker.code_version()
    monkeypatch.setattr(worker, "code_version", lambda: "0.0.1 (other)")
    with pytest.raises(WorkerError) as caught:
        list(run_blocks(Look(0.123), plan_of(9), processes, policy=KEEP_GOING))
    assert f"has cytolith {mine}, this run 0.0.1 (other): install the same version" in str(caught.value)


def test_a_process_that_is_killed_in_a_block_is_replaced(tmp_path):
    events = []
    with ProcessPool(2) as pool:
        found = list(
            run_blocks(KillOnce(0.01, tmp_path), plan_of(12), pool, policy=Policy(1, (0.0,)), listener=events.append)
        )
    assert indices(found) == list(range(12))
    (retried,) = [e.message for e in events if isinstance(e, Retried)]
    assert retried.startswith("the worker of plane 3 was lost (BrokenProcessPool): was it killed for its memory? Give")


def test_a_block_that_always_kills_its_process_fails_and_the_others_do_not(tmp_path):
    with (
        ProcessPool(1) as pool,
        pytest.raises(BlocksFailedError, match="1 of 5 blocks failed; plane 3: the worker") as e,
    ):
        list(run_blocks(KillOnce(0.0, tmp_path, times=9), plan_of(5, 1), pool, policy=Policy(2, finish_others=True)))
    assert isinstance(e.value.failed[0].failure.error, LostWorkerError)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_process_that_died_between_blocks_costs_no_error():
    with ProcessPool(1) as pool:
        slot = pool.slots(1)[0]
        pid = slot.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        until(lambda: slot._executor._broken)
        assert indices(run_blocks(Look(), plan_of(3, 1), pool, policy=KEEP_GOING)) == [0, 1, 2]


def test_a_result_that_cannot_travel_is_no_lost_worker(processes):
    with pytest.raises(WorkerError, match=r"cannot travel \(TypeError: cannot pickle .*lock"):
        list(run_blocks(GiveLock(), plan_of(2), processes, policy=KEEP_GOING))


def test_an_executor_of_others_that_breaks_ends_with_one_line():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor, ExecutorPool(executor, 1) as pool:
        os.kill(executor.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(LostWorkerError, match="the worker of plane 0 was lost"):
            list(run_blocks(Look(), plan_of(3, 1), pool))


def test_no_process_outlives_a_parent_that_is_killed(tmp_path):
    with started(SCRIPT, "processes", tmp_path, 60) as process:
        pids = until(lambda: len(found := reported(tmp_path)) == 2 and found)
        assert all(map(alive, pids))
        process.kill()
        until(lambda: not any(map(alive, pids)), 10.0)


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_an_interrupt_ends_a_run_soon_and_quietly(kind, tmp_path):
    with started(SCRIPT, kind, tmp_path, 60) as process:
        expected = 2 if kind == "processes" else 1
        pids = until(lambda: len(found := reported(tmp_path)) == expected and found)
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - begin < 3.0
        assert process.returncode == 130
        assert errors == ""
        until(lambda: not any(map(alive, pids)), 10.0)


def test_an_interrupt_while_processes_start_is_quiet(tmp_path):
    with started(SCRIPT, "processes", tmp_path, 60) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: len(children.read_text().split()) >= 2)  # the tracker and a worker that has just begun
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - begin < 3.0
        assert (process.returncode, errors) == (130, "")
