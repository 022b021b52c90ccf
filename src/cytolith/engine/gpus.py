"""GPUs and their lanes: streams with memory of their own, which workers borrow for the dense part of a block.

Each worker reads a block into pinned memory, borrows a lane, and gives it back when what is left is work for the CPU.
So while one block is uploaded another is computed on, and cores flood what came down from a third::

    worker 1   read | upload, compute | watershed, measure | read | ...
    worker 2          read | (waits)  | upload, compute    | watershed ...

A GPU that fails is given up, not the run: what a lane would have done is done on the CPU, with the same result.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import queue
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytolith.axes import Shape
from cytolith.engine.workspace import Workspace
from cytolith.errors import CytolithError

DEVICES = ("cpu", "gpu", "auto")
"""What ``--device`` takes."""
LANES = 3
"""Blocks on a GPU at once: one on its way there, one computed on, one on its way back."""
_SHARE = 0.85
"""Share of the memory that is free which lanes take: small arrays and others need some too."""
_CONTEXT = 512 << 20
"""Bytes that CUDA takes on a GPU for each process, where several use it."""
_PIECE = 16 << 20
"""Bytes that are uploaded in one go, so that what other lanes upload in between, often a few bytes, need not wait."""
_OUT_OF_MEMORY = 2
"""Status of errors of CUDA's runtime and driver."""


class GpuError(CytolithError):
    """A GPU that is not there, has no room, or has failed; its text says which."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process sees."""

    index: int
    name: str
    free: int
    """Bytes of its memory that nobody has taken."""
    host: str = ""
    """Machine that it is in."""
    bus: str = ""
    """Where it is in that machine, whatever number it has for a process."""


@dataclass(frozen=True)
class GpuPlan:
    """What the lanes of each process are like. Travels to workers, which have GPUs of their own."""

    lanes: int
    """Lanes a GPU, in each process."""
    bytes_lane: int
    """Memory of a lane."""
    names: tuple[str, ...]
    """The GPUs, for messages."""
    alone: bool = True
    """Whether each process has all GPUs it sees to itself; otherwise it takes one of them."""


def find_gpus(number: int | None = None) -> list[Gpu]:
    """GPUs that this process sees and can use.

    Parameters
    ----------
    number
        Of a process among those that share the GPUs: it looks at one of them alone, as looking takes memory there.

    Raises
    ------
    GpuError
        There is none, or CuPy or a driver is missing; says which, and what to do about it.
    """
    try:
        import cupy
    except ImportError as error:
        raise GpuError("CuPy is not installed: pip install 'cytolith[gpu]'") from error
    except Exception as error:  # it makes a folder for what it compiles
        raise GpuError(
            f"CuPy cannot be loaded ({_one_line(error)}): set CUPY_CACHE_DIR to a folder that can be written in"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise GpuError(f"CuPy finds no GPU ({_one_line(error)}): is NVIDIA's driver installed?") from error
    if not count:
        raise GpuError("CuPy finds no GPU: is NVIDIA's driver installed, or CUDA_VISIBLE_DEVICES set?")
    found: list[Gpu] = []
    trouble: list[str] = []
    for index in range(count) if number is None else [(number + n) % count for n in range(count)]:
        if number is not None and found:
            break
        try:
            with _current(index):
                free, _ = cupy.cuda.runtime.memGetInfo()
            name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
            found.append(Gpu(index, name, int(free), platform.node(), cupy.cuda.Device(index).pci_bus_id))
        except Exception as error:  # one that is full, or that another process has to itself
            trouble.append(f"GPU {index}: {_one_line(error)}")
    if not found:
        raise GpuError(f"no GPU can be used ({'; '.join(trouble)})")
    try:
        with _current(found[0].index):
            code, _ = cupy.cuda.compiler.compile_using_nvrtc('extern "C" __global__ void probe() {}')
            cupy.cuda.Module().load(code)
    except Exception as error:
        raise GpuError(
            f"CuPy cannot compile for the GPU ({_one_line(error)}): pip install 'cytolith[gpu]' brings the compiler"
        ) from error
    return found


@contextmanager
def _current(index: int) -> Iterator[None]:
    """A GPU as that of this thread.

    Not by CuPy's `Device`, which goes back to GPU 0 where the thread had none: that makes a context there, and fails
    where that GPU does.
    """
    import cupy

    runtime = cupy.cuda.runtime
    before = runtime.getDevice() if cupy.cuda.driver.ctxGetCurrent() else index
    runtime.setDevice(index)
    try:
        yield
    finally:
        if before != index:
            with suppress(RuntimeError):
                runtime.setDevice(before)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def plan_lanes(workers: Sequence[Sequence[Gpu]], *, threads: int, least: int) -> GpuPlan:
    """Lanes for the processes of a run.

    Parameters
    ----------
    workers
        For each process the GPUs that it sees.
    threads
        Blocks at work at once in each process.
    least
        Bytes that a lane must have to be of use.

    Raises
    ------
    GpuError
        The memory that is free does not hold one lane.
    """
    processes = Counter(gpus[0].host for gpus in workers)
    places = Counter(host for host, _ in {(gpu.host, gpu.bus) for gpus in workers for gpu in gpus})
    alone = max(processes.values()) == 1
    sharing = max(math.ceil(count / places[host]) for host, count in processes.items())
    scarcest = min((gpu for gpus in workers for gpu in gpus), key=lambda gpu: gpu.free)
    names = tuple(gpu.name for gpu in workers[0])
    contexts = 0 if sharing == 1 else sharing * _CONTEXT
    for lanes in range(min(LANES, threads), 0, -1):
        room = (int(_SHARE * scarcest.free) - contexts) // (lanes * sharing)
        if room >= least:
            return GpuPlan(lanes, room, names, alone)
    shared = "" if sharing == 1 else f", shared by {sharing} processes"
    raise GpuError(
        f"{scarcest.name} has {scarcest.free / 2**20:,.0f} MiB of memory left{shared}; the smallest block takes "
        f"{(least * sharing + contexts) / _SHARE / 2**20:,.0f} MiB"
    )


class Lane:
    """A stream of a GPU and buffers that are kept from block to block. Used by one worker at a time, as a context."""

    def __init__(self, gpu: Gpu, most: int) -> None:
        import cupy

        self._cupy, self.gpu, self._most = cupy, gpu, most
        self.compile_error: type[Exception] = cupy.cuda.compiler.CompileException
        self._buffers: dict[str, Any] = {}
        self._marks: list[tuple[str, Any]] = []
        self._entered = ExitStack()
        with _current(gpu.index):
            self._stream = cupy.cuda.Stream(non_blocking=True)

    def __enter__(self) -> Self:
        self._marks.clear()  # of a block that was given up
        with ExitStack() as stack:
            stack.enter_context(_current(self.gpu.index))
            stack.enter_context(self._stream)
            self._entered = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._entered.close()

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Uninitialised array on the GPU in the buffer of this name, which grows when it must.

        Raises
        ------
        GpuError
            The lane has no room for it.
        """
        size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            self._buffers.pop(name, None)  # free the old one first
            if size + sum(each.size for each in self._buffers.values()) > self._most:
                raise GpuError(f"a block needs more than the {self._most / 2**20:,.0f} MiB of a lane")
            # not from CuPy's pool, which would keep what is let go of
            pointer = self._cupy.cuda.MemoryPointer(self._cupy.cuda.Memory(size), 0)
            buffer = self._buffers[name] = self._cupy.ndarray((size,), np.uint8, pointer)
        return buffer[: math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)

    def upload(self, name: str, host: NDArray[Any]) -> Any:
        """Array on the GPU that receives one of the host; the host's must stay until the lane has been waited for."""
        array = self.array(name, host.shape, host.dtype)
        assert host.flags.c_contiguous, "a copy would be gone before it is uploaded"
        here, there, piece = host.reshape(-1), array.reshape(-1), _PIECE // host.itemsize
        for at in range(0, host.size, piece):
            there[at : at + piece].set(here[at : at + piece], stream=self._stream)
        return array

    def mark(self, name: str) -> None:
        """What was sent since the last mark is the step of this name."""
        event = self._cupy.cuda.Event(block=True)  # whoever waits for it leaves the core to others
        event.record()
        self._marks.append((name, event))

    def wait(self, seconds: dict[str, float]) -> None:
        """Wait for what was sent before the last mark; the time of each step on the GPU is added to `seconds`."""
        if self._marks:
            self._marks[-1][1].synchronize()
        for (_, begin), (name, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[name] = seconds.get(name, 0.0) + self._cupy.cuda.get_elapsed_time(begin, end) / 1000
        self._marks.clear()

    def forget(self) -> None:
        """Let go of the buffers."""
        self._marks.clear()
        self._buffers.clear()


class Lanes:
    """The lanes of all GPUs of this process."""

    def __init__(self, plan: GpuPlan) -> None:
        gpus = find_gpus(None if plan.alone else _number_of_process())
        self.device = gpus[0].index
        """Number of one of the GPUs."""
        self._left = {gpu.index for gpu in gpus}
        self._free: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()
        for _ in range(plan.lanes):  # one of each GPU first, so that all are busy soon
            for gpu in gpus:
                try:
                    self._free.put(Lane(gpu, plan.bytes_lane))
                except (MemoryError, RuntimeError) as error:
                    raise GpuError(f"{gpu.name} cannot be used ({_one_line(error)})") from error

    @contextmanager
    def borrow(self) -> Iterator[Lane]:
        """A lane, as soon as there is one, entered.

        Raises
        ------
        GpuError
            The GPU has failed or has no memory left. One that fails is not used again, and when none is left this is
            raised at once.
        """
        lane = self._free.get()
        while lane is not None and lane.gpu.index not in self._left:
            _forget(lane)
            lane = self._free.get()
        if lane is None:
            self._free.put(None)  # for whoever waits too
            raise GpuError("no GPU is left that works")
        try:
            with lane:
                yield lane
        except GpuError:
            _forget(lane)
            raise
        except (MemoryError, RuntimeError, lane.compile_error) as error:  # errors of CUDA are RuntimeErrors
            _forget(lane)
            if isinstance(error, MemoryError) or getattr(error, "status", None) == _OUT_OF_MEMORY:
                # whoever else works on this GPU may have taken what the plan had counted on
                raise GpuError(f"{lane.gpu.name} has no memory left") from error
            self._give_up(lane.gpu)
            raise GpuError(f"{lane.gpu.name} has failed ({_one_line(error)})") from error
        finally:
            self._free.put(lane)

    def _give_up(self, gpu: Gpu) -> None:
        self._left.discard(gpu.index)
        if not self._left:
            self._free.put(None)


def _forget(lane: Lane) -> None:
    with suppress(Exception), _current(lane.gpu.index):  # nothing is sure of a GPU that has failed
        lane.forget()


def _number_of_process() -> int:
    """A number of this process, consecutive among those that were started one after the other for a pool."""
    digits = re.search(r"\d+$", multiprocessing.current_process().name)
    return os.getpid() if digits is None else int(digits[0])


class PinnedWorkspace(Workspace):
    """Buffers that a GPU reads by itself, while the CPU does something else: four times as fast as from others."""

    def __init__(self, device: int = 0) -> None:
        """`device`: number of a GPU that is used anyway, as to pin memory takes some of a GPU too."""
        super().__init__()
        self._device = device

    def array(self, name: str, shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
        """As of any workspace."""
        with _current(self._device):  # what is made, and what is let go of
            return super().array(name, shape, dtype)

    def _make(self, size: int) -> NDArray[np.uint8]:
        import cupy

        try:
            # not from CuPy's pool, which would keep what is let go of
            pinned = cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(size), 0)
        except (RuntimeError, MemoryError):  # the system pins no more: uploads are slower then
            return super()._make(size)
        return np.frombuffer(pinned, np.uint8, size)
