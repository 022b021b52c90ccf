"""Tasks and plans for the tests of the engine; importable by name, so that worker processes find them."""

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from cytolith.engine.grid import Costs, plan_blocks
from cytolith.errors import CytolithError, VolumeError


def plan_of(count, workers=2):
    """A plan of so many blocks of a voxel."""
    return plan_blocks((count, 1, 1), Costs((0, 0, 0), 1.0), memory=2**20, workers=workers, core=(1, 1, 1))


@dataclass(frozen=True)
class Seen:
    """What a task was called with, and where."""

    index: int
    ahead: int | None
    given: object
    process: int
    thread: int


@dataclass
class Look:
    """Says what it was called with, after a while."""

    seconds: float = 0.0

    def __call__(self, block, ahead, given):
        time.sleep(self.seconds)
        return Seen(
            block.index,
            None if ahead is None else ahead.index,
            given,
            os.getpid(),
            threading.get_ident(),
        )


@dataclass
class KillOnce(Look):
    """Kills its own process in the middle of one block, the first `times` times that it is there."""

    folder: Path = Path()
    index: int = 3
    times: int = 1

    def __call__(self, block, ahead, given):
        if block.index == self.index:
            for n in range(self.times):
                flag = self.folder / f"killed{n}"
                if not flag.exists():
                    flag.touch()
                    time.sleep(0.1)
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(block, ahead, given)


@dataclass
class Report(Look):
    """Notes its process and each block that it does in a folder, then works long."""

    folder: Path = Path()

    def __call__(self, block, ahead, given):
        (self.folder / f"{os.getpid()}.pid").touch()
        with (self.folder / "done").open("a") as file:
            file.write(f"{block.index}\n")
        return super().__call__(block, ahead, given)


@dataclass
class Raise:
    """Raises an error on some blocks."""

    error: Exception
    indices: tuple[int, ...] | None = None

    def __call__(self, block, ahead, given):
        if self.indices is None or block.index in self.indices:
            raise self.error
        return block.index


@dataclass
class Open:
    """Looks for its file in the process that runs it, as volumes do."""

    path: Path

    def __call__(self, block, ahead, given):
        if not self.path.exists():
            raise VolumeError(f"{self.path} does not exist; check the path")
        return block.index


class OddError(Exception):
    """An error that cannot be unpickled: its class wants more than its text."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class OddVolumeError(VolumeError):
    """One of ours that cannot be unpickled either."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@dataclass
class RaiseOdd:
    """Raises an odd error."""

    ours: bool

    def __call__(self, block, ahead, given):
        raise (OddVolumeError if self.ours else OddError)("one", "two")


class Picky:
    """A task that cannot begin where a file is missing: found when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return _load, (self.path,)

    def __call__(self, block, ahead, given):
        return block.index


def _load(path):
    if not Path(path).exists():
        raise VolumeError(f"{path} does not exist; check the path")
    return Picky(path)


class NoRoom:
    """A task of which the process has no memory left."""

    def __call__(self, block, ahead, given):
        raise MemoryError


@dataclass
class Counting:
    """Counts how many of its calls run at once in its process."""

    seconds: float = 0.05

    def __call__(self, block, ahead, given):
        global _running, _most
        with _lock:
            _running += 1
            _most = max(_most, _running)
        time.sleep(self.seconds)
        with _lock:
            _running -= 1
            return _most


_lock = threading.Lock()
_running = _most = 0


class GiveLock:
    """A task whose result cannot be pickled."""

    def __call__(self, block, ahead, given):
        return threading.Lock()


@dataclass
class Flaky:
    """Fails so many times on each block, in this process."""

    error: Exception
    times: int
    seen: dict = field(default_factory=dict)

    def __call__(self, block, ahead, given):
        count = self.seen[block.index] = self.seen.get(block.index, 0) + 1
        if count <= self.times:
            raise self.error
        return count


class OurError(CytolithError):
    """One line for the user."""
