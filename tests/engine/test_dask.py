"""Blocks on a Dask cluster: real schedulers and workers on loopback, that are lost, come and go."""

import builtins
import json
import os
import re
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from engine_tasks import Counting, GiveLock, KillOnce, Look, Open, RaiseOdd, Report, plan_of
from processes import HERE, alive, reported, started, until

from cytolith.engine import dask_pool, worker
from cytolith.engine.dask_pool import open_dask
from cytolith.engine.events import Retried, Stalled
from cytolith.engine.machine import default_memory
from cytolith.engine.run import KEEP_GOING, BlocksFailedError, Policy, run_blocks
from cytolith.engine.worker import WorkerError
from cytolith.errors import ConfigError

pytest.importorskip("distributed")

SCRIPT = HERE / "engine_script.py"


def indices(results):
    return sorted(block.index for block, _ in results)


def listening():
    """Addresses of all sockets of this machine that listen for TCP."""
    sockets = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                sockets.add(local)
    return sockets


@contextmanager
def cluster(folder):
    """A scheduler, and a function that starts another worker; both as their users start them."""
    file = folder / "scheduler.json"
    with ExitStack() as stack:
        command = ["-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        stack.enter_context(started(*command, "--scheduler-file", file, "--dashboard-address", "127.0.0.1:0"))

        def add(*options):
            command = ["-m", "dask", "worker", "--scheduler-file", file, "--no-dashboard", "--host", "127.0.0.1"]
            return stack.enter_context(started(*command, "--local-directory", folder, *options))

        add.file = file
        until(file.exists)
        yield add


@pytest.fixture(scope="module")
def local():
    """Two worker processes of this machine."""
    before = listening()
    with open_dask("local:2", None) as pool:
        pool.sockets = listening() - before
        yield pool


def test_what_is_started_here_listens_on_loopback_only(local):
    assert len(local.sockets) >= 3
    assert {address.split(":")[0] for address in local.sockets} <= {"0100007F", "0" * 24 + "01000000"}


def test_a_local_cluster_has_processes_of_one_thread(local):
    assert (local.kind, local.workers, local.machines) == ("dask", 1, 2)
    assert (local.local, local.memory, local.share(3 * 2**30)) == (True, None, 2**30)
    assert local.share(None) == default_memory() // 3
    found = list(run_blocks(Look(0.02), plan_of(20, 1), local, given=lambda b: -b.index))
    assert indices(found) == list(range(20))
    assert len({seen.process for _, seen in found} - {os.getpid()}) == 2
    assert all(seen.given == -seen.index and seen.ahead is None for _, seen in found)
    assert [b.index for b, _ in run_blocks(Look(), plan_of(9, 1), local, in_order=True)] == list(range(9))


def test_two_blocks_a_thread_are_sent_and_no_more(local):
    assert len(local.slots(1)) == 4


def test_a_worker_that_is_killed_in_a_block_is_started_anew(local, tmp_path):
    pids = set(local._client.run(os.getpid).values())
    found = list(run_blocks(KillOnce(0.02, tmp_path), plan_of(16, 1), local, policy=KEEP_GOING))
    assert indices(found) == list(range(16))
    until(lambda: len(new := set(local._client.run(os.getpid).values())) == 2 and new != pids)


def test_workers_never_get_an_interrupt_not_even_those_that_come_later(local):
    for pid in local._client.run(os.getpid).values():
        blocked = re.search(r"SigBlk:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
        assert int(blocked[1], 16) >> (signal.SIGINT - 1) & 1


def test_a_block_that_always_kills_its_worker_fails_and_the_others_do_not(local, tmp_path):
    events = []
    with pytest.raises(BlocksFailedError, match=r"1 of 6 blocks failed; plane 3: the worker of plane 3 was lost") as e:
        for _ in run_blocks(
            KillOnce(0.0, tmp_path, times=99),
            plan_of(6, 1),
            local,
            # as often as in a run: a block that waits at a worker that is killed is lost with it, by chance twice
            policy=Policy(2, (0.05,) * 3, finish_others=True),
            listener=events.append,
        ):
            pass
    assert [each.block.index for each in e.value.failed] == [3]
    assert "the worker of plane 3 was lost (KilledWorker)" in {
        e.message.partition(":")[0] for e in events if isinstance(e, Retried)
    }  # with it, blocks that waited at the same worker
    assert len(list(tmp_path.iterdir())) == 8  # four tries of the run, two of Dask each


def test_errors_of_a_worker_come_back_in_one_line(local, tmp_path, monkeypatch):
    once = Policy(1, finish_others=True)
    with pytest.raises(BlocksFailedError, match=r"process \d+; the path must be reachable from every worker"):
        list(run_blocks(Open(tmp_path / "away"), plan_of(2, 1), local, policy=once))
    with pytest.raises(BlocksFailedError, match="plane 0: OddError: one and two"):
        list(run_blocks(RaiseOdd(ours=False), plan_of(2, 1), local, policy=once))
    with pytest.raises(ConfigError, match="or --executor threads"):
        list(run_blocks(lambda *_: None, plan_of(3, 1), local))
    with pytest.raises(WorkerError, match="cannot travel"):
        list(run_blocks(GiveLock(), plan_of(2, 1), local, policy=KEEP_GOING))
    monkeypatch.setattr(worker, "code_version", lambda: "0.0.1 (other)")
    with pytest.raises(WorkerError, match=r"the worker on .*, this run 0\.0\.1 \(other\): install the same version"):
        list(run_blocks(Look(0.123), plan_of(9, 1), local, policy=KEEP_GOING))


def test_an_error_waits_for_blocks_under_way_and_an_interrupt_takes_them_back(tmp_path):
    for error, most in ((ValueError, 4.0), (KeyboardInterrupt, 3.0)):
        folder = tmp_path / error.__name__
        folder.mkdir()
        pool = open_dask("local:2", None)
        next(run_blocks(Report(1.0, folder), plan_of(30, 1), pool))
        begin = time.monotonic()
        pool.__exit__(error, error(), None)
        assert time.monotonic() - begin < most
        started_blocks = len((folder / "done").read_text().split())
        assert started_blocks <= 6
        pids = reported(folder)
        until(lambda pids=pids: not any(map(alive, pids)), 10.0)


def test_two_real_workers_and_one_is_killed_in_the_middle(tmp_path):
    with cluster(tmp_path) as add:
        add("--nthreads", "1", "--no-nanny", "--memory-limit", "3GiB")
        add("--nthreads", "1", "--no-nanny", "--memory-limit", "2GiB")
        address = json.loads(add.file.read_text())["address"]
        with open_dask(address, None) as pool:
            until(lambda: (pool.slots(1), len(pool._threads) == 2)[1])
        with open_dask(None, add.file) as pool:
            assert (pool.workers, pool.machines, pool.local) == (1, 2, False)
            assert pool.share(None) == pool.memory == int(0.6 * 2 * 2**30)
            assert pool.share(2**30) == 2**30
            found = []
            for block, seen in run_blocks(Report(0.05, tmp_path), plan_of(60, 1), pool, policy=KEEP_GOING):
                found.append((block, seen))
                if len(found) == 15:
                    os.kill(found[3][1].process, signal.SIGKILL)
            assert indices(found) == list(range(60))
            assert {seen.process for _, seen in found[40:]} < {seen.process for _, seen in found[:15]}
            until(lambda: len(pool.slots(1)) == 2)

        # the cluster was left running; when its last worker is lost, the run waits for one that comes
        last = found[-1][1].process
        events = []

        def listen(event):
            events.append(event)
            if isinstance(event, Stalled):
                add("--nthreads", "2", "--no-nanny")

        with open_dask(None, add.file) as pool, pytest.MonkeyPatch.context() as patch:
            assert pool.machines == 1
            patch.setattr("cytolith.engine.run._PATIENCE", 0.2)
            found = []
            for each in run_blocks(Look(0.05), plan_of(30, 1), pool, policy=KEEP_GOING, listener=listen):
                found.append(each)
                if len(found) == 4:
                    os.kill(last, signal.SIGKILL)
            assert indices(found) == list(range(30))
            assert len({seen.process for _, seen in found}) == 2
            assert len([e for e in events if isinstance(e, Stalled)]) == 1
            # a worker with two threads works on one block at a time when its memory holds no more
            assert all(most == 1 for _, most in run_blocks(Counting(), plan_of(6, 1), pool))
        with open_dask(None, add.file) as pool:
            assert pool.workers == 2
            assert max(most for _, most in run_blocks(Counting(), plan_of(8, 2), pool)) == 2


def test_a_scheduler_that_is_gone_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_pool, "CONNECT_SECONDS", 1)
    with ExitStack() as stack:
        file = tmp_path / "scheduler.json"
        scheduler = stack.enter_context(
            started("-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                    "--dashboard-address", "127.0.0.1:0", "--scheduler-file", file)
        )  # fmt: skip
        until(file.exists)
        stack.enter_context(started("-m", "dask", "worker", "--scheduler-file", file, "--no-nanny", "--no-dashboard",
                                    "--nthreads", "1", "--host", "127.0.0.1", "--death-timeout", "1"))  # fmt: skip
        with open_dask(None, file) as pool:
            address = pool.address
            run = run_blocks(Look(0.1), plan_of(50, 1), pool, policy=KEEP_GOING)
            next(run)
            scheduler.kill()
            with pytest.raises(WorkerError) as caught:
                list(run)
    assert str(caught.value) == f"the Dask scheduler at {address} has gone: start it again and give the same command"


def test_an_interrupt_ends_a_local_run_soon_and_quietly(tmp_path):
    with started(SCRIPT, "local:2", tmp_path, 60) as process:
        pids = until(lambda: len(found := reported(tmp_path)) == 2 and found)
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - begin < 3.0
        assert (process.returncode, errors) == (130, "")
        until(lambda: not any(map(alive, pids)), 10.0)


def test_no_worker_outlives_a_parent_that_is_killed(tmp_path):
    with started(SCRIPT, "local:2", tmp_path, 60) as process:
        pids = until(lambda: len(found := reported(tmp_path)) == 2 and found)
        process.kill()
        until(lambda: not any(map(alive, pids)), 10.0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:9", r"--dask tcp://127.0.0.1:9: no Dask scheduler answers there .*; give tcp://HOST:PORT"),
        ("nonsense://x", "--dask nonsense://x: no Dask scheduler answers there"),
        ("local:", "--dask local:: give the number of worker processes, such as --dask local:4"),
        ("local:0", "--dask local:0: give the number"),
        ("local:two", "--dask local:two: give the number"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(address, message, monkeypatch):
    monkeypatch.setattr(dask_pool, "CONNECT_SECONDS", 0.5)
    with pytest.raises(ConfigError, match=message) as caught:
        open_dask(address, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", "\x00"])
def test_a_scheduler_file_that_is_none_is_one_line(content, tmp_path):
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    expected = "there is no such file; start" if content is None else "is not what a Dask scheduler writes; give"
    with pytest.raises(ConfigError) as caught:
        open_dask(None, file)
    assert str(caught.value).startswith(f"--dask-scheduler-file {file}: {expected}")


def test_dask_that_is_not_installed_is_one_line(monkeypatch):
    def without(name, *rest, imported=builtins.__import__):
        if name == "distributed":
            raise ImportError("No module named 'distributed'")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"--dask local:2: Dask is not installed; pip install 'cytolith\[dask\]'"):
        open_dask("local:2", None)


def test_dask_is_imported_when_it_is_asked_for():
    with started(
        "-c", "import sys, cytolith.engine.dask_pool, cytolith.cli.where; print('distributed' in sys.modules)"
    ) as p:
        assert p.communicate()[0] == "False\n"
