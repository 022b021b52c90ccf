"""One run at a time in a folder: against real processes that hold it, die with it, and share their number."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cytolith.errors import OutputError
from cytolith.io import lock as module
from cytolith.io.lock import LOCK_NAME, FolderLock

HOLD = """
import sys
from pathlib import Path
from cytolith.io import lock
if sys.argv[2] == "content":
    lock._lock_file = lambda descriptor: False
held = lock.FolderLock(Path(sys.argv[1]))
held.acquire()
print(held.stale, flush=True)
sys.stdin.read()
held.release()
"""


@pytest.fixture(params=["flock", "content"])
def way(request, monkeypatch):
    """Both ways to lock: by the system, and by the content where the file system knows no locks."""
    if request.param == "content":
        monkeypatch.setattr(module, "_lock_file", lambda descriptor: False)
    return request.param


@pytest.fixture
def hold(way):
    """Start another process that holds a folder; it is gone after the test."""
    processes = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        process.said = process.stdout.readline().strip()
        assert process.said, "the holder has failed"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def holder(folder):
    return json.loads((folder / LOCK_NAME).read_text())


def write(folder, **changes):
    fields = {"host": socket.gethostname(), "pid": os.getpid(), "start": None, "started": "2026-01-02T03:04:05+00:00"}
    (folder / LOCK_NAME).write_text(json.dumps(fields | changes))


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_file_says_who_holds_the_folder_and_goes_with_them(tmp_path, way):
    with FolderLock(tmp_path) as lock:
        assert lock.stale is None
        said = holder(tmp_path)
        assert (said["host"], said["pid"]) == (socket.gethostname(), os.getpid())
        # field 22 of the file, counted by hand: the name of this program has no blanks
        assert said["start"] == int(Path(f"/proc/{os.getpid()}/stat").read_text().split()[21])
        lock.acquire()  # ours already
    assert not list(tmp_path.iterdir())
    lock.release()
    with lock:
        assert holder(tmp_path)["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_process(tmp_path, way):
    with FolderLock(tmp_path), pytest.raises(OutputError, match=rf"another run \(process {os.getpid()} on "):
        FolderLock(tmp_path).acquire()
    assert not list(tmp_path.iterdir())


def test_another_process_is_refused_until_the_first_lets_go(tmp_path, hold):
    process = hold(tmp_path)
    assert process.said == "None"
    with pytest.raises(OutputError) as caught:
        FolderLock(tmp_path).acquire()
    assert str(caught.value) == (
        f"{tmp_path}: another run (process {process.pid} on {socket.gethostname()}, "
        f"since {holder(tmp_path)['started']}) writes here; wait for it, or give another folder with -o"
    )
    assert holder(tmp_path)["pid"] == process.pid, "who was refused has written over the lock"
    process.communicate("")
    with FolderLock(tmp_path) as lock:
        assert lock.stale is None


def test_a_killed_holder_is_taken_over(tmp_path, hold):
    process = hold(tmp_path)
    started = holder(tmp_path)["started"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with FolderLock(tmp_path) as lock:
        assert lock.stale == (
            f"{tmp_path}: a run (process {process.pid} on {socket.gethostname()}, since {started}) ended without "
            "letting go of the folder; its lock was taken over"
        )
        assert holder(tmp_path)["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())
    with lock:
        assert lock.stale is None


def test_a_killed_holder_that_nobody_has_waited_for(tmp_path, hold):
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    for _ in range(500):  # a zombie: listed, and signals reach it
        if module._process_state(process.pid) == "Z":
            break
        time.sleep(0.01)
    with FolderLock(tmp_path) as lock:
        assert f"process {process.pid} " in lock.stale


def test_the_number_of_a_dead_process_used_again(tmp_path, way):
    write(tmp_path, start=module._process_start(os.getpid()) - 1)
    with FolderLock(tmp_path) as lock:
        assert f"process {os.getpid()} " in lock.stale
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "taken"), [({"pid": "dead"}, True), ({"start": "own"}, False), ({"start": None}, False)]
)
def test_without_locks_the_content_decides(tmp_path, monkeypatch, changes, taken):
    monkeypatch.setattr(module, "_lock_file", lambda descriptor: False)
    values = {"dead": dead_pid(), "own": module._process_start(os.getpid())}
    write(tmp_path, **{name: values.get(value, value) for name, value in changes.items()})
    if taken:
        with FolderLock(tmp_path) as lock:
            assert lock.stale
        assert not list(tmp_path.iterdir())
    else:
        with pytest.raises(OutputError, match=r"another run \(process .* -o$"):
            FolderLock(tmp_path).acquire()
        assert (tmp_path / LOCK_NAME).exists()


def test_another_machine_is_asked_for_only_without_locks(tmp_path, monkeypatch):
    write(tmp_path, host="rock", pid=dead_pid())
    with FolderLock(tmp_path) as lock:  # the system has let go of it, so that run is dead
        assert " on rock, since 2026-01-02T03:04:05+00:00)" in lock.stale
    write(tmp_path, host="rock", pid=dead_pid())
    monkeypatch.setattr(module, "_lock_file", lambda descriptor: False)
    with pytest.raises(OutputError) as caught:
        FolderLock(tmp_path).acquire()
    assert f"; when that run is gone, delete {tmp_path / LOCK_NAME}" in str(caught.value)
    assert (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00garbage", b"[]", b"null", b"{}", b'{"host": 1, "pid": "x", "start": 0, "started": 0}',
     b'{"host": "a", "pid": true, "start": 0, "started": ""}', b'{"host": "a", "pid": -1, "start": 0, "started": ""}',
     b'{"host": "a", "pid": 1, "start": 1.5, "started": ""}', b'{"host"' * 2000],
)  # fmt: skip
def test_content_that_says_nothing(tmp_path, monkeypatch, content):
    (tmp_path / LOCK_NAME).write_bytes(content)
    with FolderLock(tmp_path) as lock:
        assert lock.stale == f"{tmp_path}: a run ended without letting go of the folder; its lock was taken over"
    (tmp_path / LOCK_NAME).write_bytes(content)
    monkeypatch.setattr(module, "_lock_file", lambda descriptor: False)
    with pytest.raises(OutputError, match=r": another run writes here; .*; when that run is gone, delete .*lock$"):
        FolderLock(tmp_path).acquire()


def test_messages_stay_one_line(tmp_path, monkeypatch):
    write(tmp_path, host="a\nb", started="x\ty\n")
    with FolderLock(tmp_path) as lock:
        assert " on a b, since x y)" in lock.stale


@pytest.mark.parametrize("content", [None, "dead"])
def test_of_many_at_once_one_gets_it(tmp_path, way, content):
    """Also when all of them find the lock of a dead run."""
    for _ in range(30):
        if content:
            write(tmp_path, pid=dead_pid() if way == "content" else 1, start=0)

        def attempt(_):
            lock = FolderLock(tmp_path)
            try:
                lock.acquire()
            except OutputError:
                return None
            return lock

        with ThreadPoolExecutor(8) as pool:
            got = [lock for lock in pool.map(attempt, range(8)) if lock]
        assert len(got) <= 1
        if way == "flock":
            assert len(got) == 1
        for lock in got:
            assert holder(tmp_path)["pid"] == os.getpid()
            lock.release()
        if got:
            assert not list(tmp_path.iterdir())
        (tmp_path / LOCK_NAME).unlink(missing_ok=True)


def test_a_lock_removed_between_opening_and_locking(tmp_path, monkeypatch):
    """The holder removes the file while another waits with it open: what was opened is no longer the lock."""
    first = FolderLock(tmp_path)
    first.acquire()
    lock_file, seen = module._lock_file, []

    def late(descriptor):
        seen.append(descriptor)
        first.release()
        return lock_file(descriptor)

    monkeypatch.setattr(module, "_lock_file", late)
    with FolderLock(tmp_path):
        assert len(seen) == 2
        monkeypatch.undo()
        with pytest.raises(OutputError, match="another run"):
            FolderLock(tmp_path).acquire()


def test_releasing_leaves_the_lock_of_another_run(tmp_path, way):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    (tmp_path / LOCK_NAME).unlink()  # by a person
    second.acquire()
    first.release()
    assert (tmp_path / LOCK_NAME).exists()
    second.release()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"none: cannot be written: No such file"):
        FolderLock(tmp_path / "none").acquire()


def test_shares_that_say_permission_denied_for_locked(tmp_path, monkeypatch):
    import fcntl

    def denied(*arguments):
        raise PermissionError(13, "Permission denied")

    write(tmp_path)
    monkeypatch.setattr(fcntl, "flock", denied)
    with pytest.raises(OutputError, match="another run"):
        FolderLock(tmp_path).acquire()
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(OSError(37, "No locks available")))
    write(tmp_path, host="rock")
    with pytest.raises(OutputError, match="when that run is gone, delete"):
        FolderLock(tmp_path).acquire()
