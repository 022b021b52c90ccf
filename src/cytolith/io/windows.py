"""What only Windows has to be asked for in its own words: processes that run, memory, and files with holes.

Called on Windows alone. There is no ``/proc`` there, no ``sysconf`` and no ``getrusage``, and `os.kill` with 0, which
elsewhere asks whether a process is there, is Ctrl-C.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

_QUERY, _WAIT = 0x1000, 0x100000  # PROCESS_QUERY_LIMITED_INFORMATION, SYNCHRONIZE
_RUNS = 0x102  # WAIT_TIMEOUT: the process has not ended yet
_NOT_ALLOWED = 5  # ERROR_ACCESS_DENIED
_SET_SPARSE = 0x900C4  # FSCTL_SET_SPARSE


class _Time(ctypes.Structure):
    """FILETIME: steps of 100 ns since 1601, in two halves."""

    _fields_ = (("low", ctypes.c_uint32), ("high", ctypes.c_uint32))


class _Memory(ctypes.Structure):
    """MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    )


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def process_runs(number: int) -> bool:
    """Whether a process of this machine runs, whoever's it is."""
    kernel = _kernel()
    with _process(kernel, number) as process:
        if process is None:
            return bool(cast("Any", ctypes).get_last_error() == _NOT_ALLOWED)
        return bool(kernel.WaitForSingleObject(process, 0) == _RUNS)


def process_start(number: int) -> int | None:
    """When a process started, in steps of 100 ns since 1601; None where the system does not say."""
    kernel = _kernel()
    with _process(kernel, number) as process:
        start, *others = (_Time() for _ in range(4))
        if process is None or not kernel.GetProcessTimes(process, *map(ctypes.byref, (start, *others))):
            return None
        return int(start.high) << 32 | int(start.low)


def memory_bytes() -> int | None:
    """Memory of the machine; None where the system does not say."""
    memory = _Memory(length=ctypes.sizeof(_Memory))
    return int(memory.total) if _kernel().GlobalMemoryStatusEx(ctypes.byref(memory)) else None


def peak_bytes() -> int | None:
    """Most memory that this process has held; None where the system does not say."""
    kernel, counters = _kernel(), _Counters(length=ctypes.sizeof(_Counters))
    done = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.length)
    return int(counters.peak) if done else None


def make_sparse(descriptor: int) -> bool:
    """Let a file that is open have holes, which take neither room nor time; whether its disk knows them."""
    import msvcrt

    handle, moved = cast("Any", msvcrt).get_osfhandle(descriptor), ctypes.c_uint32()
    return bool(_kernel().DeviceIoControl(handle, _SET_SPARSE, None, 0, None, 0, ctypes.byref(moved), None))


@contextmanager
def _process(kernel: Any, number: int) -> Iterator[int | None]:
    """Handle of a process; None where there is none with this number, or it may not be asked."""
    process: int | None = kernel.OpenProcess(_QUERY | _WAIT, False, number) or None
    try:
        yield process
    finally:
        if process is not None:
            kernel.CloseHandle(process)


def _kernel() -> Any:
    """The library of the system, told what a handle is: by itself ctypes cuts it to 32 bits."""
    kernel = cast("Any", ctypes).WinDLL("kernel32", use_last_error=True)
    handle, number, any_pointer = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p
    kernel.OpenProcess.argtypes, kernel.OpenProcess.restype = [number, ctypes.c_int, number], handle
    kernel.CloseHandle.argtypes = [handle]
    kernel.WaitForSingleObject.argtypes, kernel.WaitForSingleObject.restype = [handle, number], number
    kernel.GetProcessTimes.argtypes = [handle] + [any_pointer] * 4
    kernel.GetCurrentProcess.restype = handle
    kernel.K32GetProcessMemoryInfo.argtypes = [handle, any_pointer, number]
    kernel.DeviceIoControl.argtypes = [handle, number, *[any_pointer, number] * 2, any_pointer, any_pointer]
    return kernel
