"""What travels to a worker and comes back: tasks, versions, errors."""

import os
import platform
import threading

import pytest
from engine_tasks import Look, Open, OurError, Picky, Raise, RaiseOdd, plan_of

from cytolith.engine import worker
from cytolith.engine.version import code_version
from cytolith.engine.worker import Failure, Parcel, WorkerError, call, call_parcel, failure_of, pack
from cytolith.errors import ConfigError, CytolithError, OutputError, VolumeError

BLOCK = plan_of(1, 1).blocks[0]


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(worker, "_kept", None)
    monkeypatch.setattr(worker, "_OPEN_WAITS", (0.01, 0.01))


def outcome_of(task):
    return call_parcel(pack(task), BLOCK, None, None)


def test_a_task_is_loaded_once_and_the_one_before_is_let_go():
    one, two = pack(Look(0.0)), pack(Look(0.001))
    call_parcel(one, BLOCK, None, None)
    task = worker._kept[1]
    call_parcel(one, BLOCK, None, None)
    assert worker._kept[1] is task
    call_parcel(two, BLOCK, None, None)
    assert worker._kept == (two.digest, Look(0.001))


def test_a_task_that_cannot_be_pickled_is_one_line_of_advice():
    class Local:
        lock = None

        def __init__(self):
            self.lock = threading.Lock()

    for task in (Local(), Raise(OurError("x"), threading.Lock()), lambda *_: None):
        with pytest.raises(ConfigError, match="give paths instead of open objects, or --executor threads") as caught:
            pack(task)
        assert "\n" not in str(caught.value)


def test_a_task_that_carries_a_volume_is_refused(monkeypatch):
    monkeypatch.setattr(worker, "_LARGEST_TASK", 2**20)
    with pytest.raises(ConfigError, match=r"would send 1\.\d MiB to another process .* give the path"):
        pack(Raise(OurError("x" * (2**20 + 2**18))))


def test_another_version_names_both_and_the_worker():
    parcel = pack(Look())
    other = Parcel("0.0.1 (01234567)", parcel.digest, parcel.content)
    failure = call_parcel(other, BLOCK, None, None).failure
    assert isinstance(failure.error, WorkerError)
    assert failure.fatal
    assert str(failure.error) == (
        f"the worker on {worker.worker_name()} has cytolith {code_version()}, this run 0.0.1 (01234567): install the "
        "same version everywhere"
    )


def test_a_task_whose_code_is_not_there_is_said_so():
    parcel = pack(Look())
    content = worker.zlib.compress(worker.zlib.decompress(parcel.content).replace(b"engine_tasks", b"engine_taskz"))
    failure = call_parcel(Parcel(parcel.version, b"", content), BLOCK, None, None).failure
    assert isinstance(failure.error, WorkerError)
    assert "cannot load what it is to do (ModuleNotFoundError: No module named 'engine_taskz')" in failure.message


def test_a_path_that_a_worker_does_not_find_names_the_worker_and_the_fix(tmp_path):
    away = tmp_path / "away.tif"
    seen = f"seen by the worker on {platform.node()}, process {os.getpid()}"
    failure = outcome_of(Open(away)).failure
    assert type(failure.error) is VolumeError
    assert not failure.fatal
    assert failure.message == (
        f"{away} does not exist; check the path ({seen}; the path must be reachable from every worker)"
    )
    assert str(call(Open(away), BLOCK, None, None).failure.error) == f"{away} does not exist; check the path"
    # what every worker finds is no question of paths
    assert outcome_of(Raise(VolumeError("plane 3 is cut off"))).failure.message == "plane 3 is cut off"


def test_a_path_that_is_missing_when_a_task_is_loaded_ends_the_run(tmp_path):
    path = tmp_path / "input"
    path.touch()
    parcel = pack(Picky(str(path)))
    path.unlink()
    failure = call_parcel(parcel, BLOCK, None, None).failure
    assert isinstance(failure.error, WorkerError)
    assert failure.message.startswith(f"the worker on {worker.worker_name()} cannot begin: {path} does not exist;")
    assert failure.message.endswith("the path must be reachable from every worker")


def test_a_path_that_comes_back_while_a_task_is_loaded_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_OPEN_WAITS", (0.2, 0.2))
    calls = []

    def loads(content, loads=worker.pickle.loads):
        calls.append(1)
        if len(calls) == 1:
            raise VolumeError("stale file handle") from OSError()
        return loads(content)

    parcel = pack(Look())
    monkeypatch.setattr(worker.pickle, "loads", loads)
    assert call_parcel(parcel, BLOCK, None, None).result.index == 0
    assert len(calls) == 2


def test_an_error_that_cannot_be_unpickled_comes_back_as_text():
    failure = outcome_of(RaiseOdd(ours=False)).failure
    assert failure.message == "OddError: one and two"
    assert "raise (OddVolumeError" in failure.details
    failure = outcome_of(RaiseOdd(ours=True)).failure
    assert isinstance(failure.error, VolumeError)  # where Dask is at work its own class survives, with tblib
    assert failure.message == "one and two"


def _raise_from(cause):
    try:
        raise TimeoutError
    except TimeoutError:
        raise VolumeError("away") from cause


def test_errors_that_may_pass_are_known_through_what_they_came_from():
    assert failure_of(OSError()).transient
    assert not failure_of(VolumeError("cut off")).transient
    for cause in (TimeoutError(), None):
        with pytest.raises(VolumeError) as caught:
            _raise_from(cause)
        assert failure_of(caught.value).transient
    itself = VolumeError("its own cause")
    itself.__cause__ = itself
    assert not failure_of(itself).transient


@pytest.mark.parametrize(
    ("error", "message", "fatal"),
    [
        (OurError("one\nline"), "one line", False),
        (ValueError("odd"), "ValueError: odd", False),
        (MemoryError(), "the machine has no memory left", False),
        (OutputError("the disk is full"), "the disk is full", True),
    ],
)
def test_a_failure_is_one_line(error, message, fatal):
    failure = failure_of(error)
    assert (failure.message, failure.fatal) == (message, fatal)
    assert bool(failure.details) == isinstance(error, ValueError)
    assert outcome_of(Raise(error)).failure.message == message


def test_an_interrupt_is_not_an_outcome():
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(interrupted, BLOCK, None, None)


def test_failures_of_every_class_of_ours_survive_the_journey():
    for kind in CytolithError.__subclasses__():
        if kind.__module__ == "cytolith.errors":
            failure = outcome_of(Raise(kind("text"))).failure
            assert isinstance(failure, Failure)
            assert type(failure.error) is kind
