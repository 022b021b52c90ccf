"""A stand-in for CuPy on machines without a GPU: the part of it that cytolith uses, on the CPU.

Kernels are the same CUDA sources, compiled with g++ and run thread by thread (``cuda_on_cpu.h``). Arrays of this
device are no NumPy arrays and refuse to be taken for some, as CuPy's do. Memory has guards on both sides that are
looked at after each kernel; what is allocated is full of rubbish; there is as much of it as a test wants.

What it cannot tell: speed, true races between warps, and whether a copy was waited for that should have been.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from typing import Any, Self

import numpy as np

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") if sys.platform == "linux" else None
_GUARD = 256
_RUBBISH = 0xA5
_DEFAULT_SHARED = 48 << 10
_WRONG = {
    1: "threads of a block wait for each other in different places",
    2: "wrote behind the end of its shared memory",
    3: "launched with more threads or shared memory than a block may have",
}


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime.CUDARuntimeError."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Machine:
    """GPUs that the stand-in has; tests set it up."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, memory: int = 1 << 30, count: int = 1) -> None:
        """So many GPUs with so much free memory each."""
        self.memory = [memory] * count
        self.free = [memory] * count
        self.launches: list[str] = []
        """Names of the kernels that ran."""
        self.streams: set[int] = set()
        """Numbers of the streams that were used."""
        self.used: set[int] = set()
        """Numbers of the devices that kernels ran on."""
        self.contexts: set[int] = set()
        """Numbers of the devices that something was made on."""
        self.dead: set[int] = set()
        """Numbers of the devices that nothing can be made on."""
        self.uploaded = self.downloaded = 0
        """Bytes."""
        self.fail_at: int | None = None
        """Kernel, counted from now, that fails as one does that reads where it must not."""

    def take(self, device: int, size: int) -> None:
        """Take memory of a device, or raise."""
        if size > self.free[device]:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory", 2)
        self.free[device] -= size


machine = Machine()
_local = threading.local()


def _set_device(number: int) -> None:
    """As cupy.cuda.runtime.setDevice, which makes a context there with CUDA 12 and newer."""
    if number in machine.dead:
        raise CUDARuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable")
    machine.contexts.add(number)
    _local.device = number


def _get_device() -> int:
    return getattr(_local, "device", 0)


def _current_context() -> int:
    return 1 if hasattr(_local, "device") else 0


class Device:
    """As cupy.cuda.Device; not to be entered, as to leave it makes a context on the one before, GPU 0 at first."""

    def __init__(self, device: int | None = None) -> None:
        self.id = _get_device() if device is None else device

    def use(self) -> None:
        _set_device(self.id)

    def synchronize(self) -> None: ...

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02x}:00.0"

    @property
    def compute_capability(self) -> str:
        return "90"

    @property
    def attributes(self) -> dict[str, int]:
        return {"MaxSharedMemoryPerBlockOptin": 232448, "MaxSharedMemoryPerBlock": _DEFAULT_SHARED}


class Memory:
    """As cupy.cuda.Memory: bytes on the device, with guards around them."""

    def __init__(self, size: int) -> None:
        self.size, self.device_id = size, Device().id
        machine.take(self.device_id, size)
        self.whole = np.full(size + 2 * _GUARD, _RUBBISH, np.uint8)
        self.ptr = self.whole.ctypes.data + _GUARD
        _alive[id(self)] = self.whole

    def __del__(self) -> None:
        if hasattr(self, "whole"):
            machine.free[self.device_id] += self.size
            _alive.pop(id(self), None)


_alive: dict[int, np.ndarray] = {}


def _check_guards(name: str) -> None:
    for whole in list(_alive.values()):
        if (whole[:_GUARD] != _RUBBISH).any() or (whole[-_GUARD:] != _RUBBISH).any():
            raise AssertionError(f"kernel {name} wrote outside an array")


class MemoryPointer:
    """As cupy.cuda.MemoryPointer."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem, self.offset = mem, offset
        self.ptr = mem.ptr + offset


class ndarray:  # noqa: N801 - CuPy's name
    """As cupy.ndarray: C-contiguous arrays, or slices of them that are."""

    def __init__(self, shape: Any, dtype: Any = float, memptr: MemoryPointer | None = None) -> None:
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        self.dtype = np.dtype(dtype)
        size = math.prod(shape) * self.dtype.itemsize
        self.data = MemoryPointer(Memory(size), 0) if memptr is None else memptr
        begin = self.data.ptr - self.data.mem.whole.ctypes.data
        assert begin + size <= self.data.mem.size + _GUARD, "array larger than its memory"
        self._host = self.data.mem.whole[begin : begin + size].view(self.dtype).reshape(shape)

    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: Device(self.data.mem.device_id))

    def __len__(self) -> int:
        return len(self._host)

    def _like(self, host: np.ndarray) -> ndarray:
        assert host.flags.c_contiguous, "the stand-in has no strided arrays"
        offset = host.ctypes.data - self.data.mem.ptr if host.size else 0
        return ndarray(host.shape, host.dtype, MemoryPointer(self.data.mem, offset))

    def __getitem__(self, index: Any) -> ndarray:
        return self._like(self._host[index])

    def view(self, dtype: Any) -> ndarray:
        return self._like(self._host.view(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        return self._like(self._host.reshape(*shape))

    def ravel(self) -> ndarray:
        return self._like(self._host.reshape(-1))

    def fill(self, value: Any) -> None:
        self._host.fill(value)

    def set(self, host: np.ndarray, stream: Any = None) -> None:
        assert isinstance(host, np.ndarray)
        assert host.shape == self.shape
        assert host.dtype == self.dtype
        self._host[...] = host
        machine.uploaded += self.nbytes

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        machine.downloaded += self.nbytes
        if out is None:
            return self._host.copy()
        assert isinstance(out, np.ndarray)
        assert out.flags.c_contiguous
        assert out.shape == self.shape
        assert out.dtype == self.dtype
        out[...] = self._host
        return out

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __bool__(self) -> bool:
        raise TypeError("a test of a device array would wait for the device")

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Array full of rubbish."""
    return ndarray(shape, dtype)


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    """Array of zeros."""
    array = ndarray(shape, dtype)
    array.fill(0)
    return array


def asarray(host: Any, dtype: Any = None) -> ndarray:
    """Copy to the device."""
    if isinstance(host, ndarray):
        return host
    host = np.ascontiguousarray(host, dtype)
    array = ndarray(host.shape, host.dtype)
    array.set(host)
    return array


def asnumpy(array: Any) -> np.ndarray:
    """Copy from the device."""
    return array.get() if isinstance(array, ndarray) else np.asarray(array)


class Stream:
    """As cupy.cuda.Stream; what is sent is done at once."""

    _numbers = itertools.count(1)

    def __init__(self, null: bool = False, non_blocking: bool = False, **_: Any) -> None:
        self.ptr = 0 if null else next(self._numbers)
        self.device_id = Device().id

    def __enter__(self) -> Self:
        self._before = getattr(_local, "stream", None)
        _local.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        _local.stream = self._before

    def synchronize(self) -> None: ...


class Event:
    """As cupy.cuda.Event."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None: ...

    def synchronize(self) -> None: ...

    def record(self, stream: Any = None) -> None:
        self.time = time.perf_counter()


class RawModule:
    """As cupy.RawModule, of sources with ``extern "C"`` kernels."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        self._library = _compile(code, tuple(options))
        self._names = _kernels(code)

    def get_function(self, name: str) -> Function:
        assert name in self._names, f"no kernel {name}"
        return Function(self._library, name)


class Module:
    """As cupy.cuda.Module, of what `_compile_using_nvrtc` makes."""

    def load(self, cubin: bytes) -> None:
        code, options = json.loads(cubin)
        self._module = RawModule(code=code, options=tuple(options))

    def get_function(self, name: str) -> Function:
        return self._module.get_function(name)


class Function:
    """As cupy.cuda.Function: a kernel of a module."""

    def __init__(self, library: ctypes.PyDLL, name: str) -> None:
        self.name = name
        self._launch = getattr(library, f"launch_{name}")
        sizes = (ctypes.c_int * 64)()
        count = getattr(library, f"sizes_{name}")(sizes)
        self._sizes = list(sizes[:count])
        self.ptr = self
        self._most_shared = _DEFAULT_SHARED

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        assert len(args) == len(self._sizes), f"{self.name} takes {len(self._sizes)} arguments, {len(args)} given"
        packed = [_pack(each) for each in args]
        for place, (value, size) in enumerate(zip(packed, self._sizes, strict=True)):
            assert ctypes.sizeof(value) == size, f"{self.name}: argument {place} has another size than its parameter"
        if shared_mem > self._most_shared:
            raise CUDARuntimeError("cudaErrorInvalidValue: invalid argument (shared memory)")
        if machine.fail_at is not None:
            machine.fail_at -= 1
            if machine.fail_at < 0:
                raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
        pointers = (ctypes.c_void_p * max(len(packed), 1))(*(ctypes.addressof(value) for value in packed))
        seed = len(machine.launches) * 2654435761 & 0xFFFFFFFF
        wrong = self._launch(_three(grid), _three(block), int(shared_mem), pointers, ctypes.c_uint32(seed))
        if wrong:
            raise AssertionError(f"kernel {self.name} {_WRONG[wrong]}")
        machine.launches.append(self.name)
        machine.used.add(Device().id)
        machine.contexts.add(Device().id)
        stream = getattr(_local, "stream", None)
        machine.streams.add(0 if stream is None else stream.ptr)
        _check_guards(self.name)


def _three(extents: Any) -> Any:
    extents = (extents,) if isinstance(extents, int) else tuple(extents)
    values = [int(v) for v in (*extents, 1, 1)[:3]]
    assert all(v > 0 for v in values), "a launch of nothing is an error of CUDA"
    assert values[1] <= 65535, "CUDA allows 65535 blocks along y and z"
    assert values[2] <= 65535, "CUDA allows 65535 blocks along y and z"
    return (ctypes.c_uint * 3)(*values)


def _pack(value: Any) -> Any:
    if isinstance(value, ndarray):
        assert value.flags.c_contiguous
        assert value.device.id == Device().id, "an array of another device"
        return ctypes.c_void_p(value.data.ptr)
    if isinstance(value, np.ndarray):
        assert value.size == 1, "CuPy passes arrays of the host by value if they have one element"
        return (ctypes.c_ubyte * value.itemsize).from_buffer_copy(value.tobytes())
    if isinstance(value, (bool, np.bool_)):
        return ctypes.c_bool(bool(value))
    if isinstance(value, int):
        return ctypes.c_longlong(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    assert isinstance(value, np.generic), f"CuPy takes no {type(value).__name__} as an argument of a kernel"
    return (ctypes.c_ubyte * value.itemsize).from_buffer_copy(value.tobytes())


_KERNEL = re.compile(r'extern "C" __global__ void\s*(?:__launch_bounds__\([^)]*\))?\s*(\w+)\s*\(')


def _kernels(code: str) -> list[str]:
    return _KERNEL.findall(code)


def folder() -> Path:
    """Where all processes keep what is compiled."""
    path = Path(tempfile.gettempdir()) / f"cytolith-cuda-on-cpu-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _compile_using_nvrtc(source: str, options: tuple[str, ...] = ()) -> tuple[bytes, None]:
    """As cupy.cuda.compiler.compile_using_nvrtc; what it makes is compiled when it is loaded."""
    return json.dumps([source, options]).encode(), None


def _compile(code: str, options: tuple[str, ...]) -> ctypes.PyDLL:
    """Library of a source; compiled once for all processes, as CuPy keeps what it has compiled."""
    assert COMPILER is not None
    defines = [option for option in options if option.startswith("-D")]
    header = HERE / "cuda_on_cpu.h"
    key = hashlib.sha256(repr((code, defines, header.read_bytes(), sys.version)).encode()).hexdigest()[:24]
    target = folder() / f"{key}.so"
    if not target.exists():
        launchers = "".join(
            f'extern "C" int launch_{name}(unsigned const* g, unsigned const* b, int s, void** a, unsigned seed) {{\n'
            f"    auto call = [](void** p) {{ cuda_on_cpu::apply(&{name}, p); }};\n"
            f"    return cuda_on_cpu::launch(call, g, b, s, a, seed);\n}}\n"
            f'extern "C" int sizes_{name}(int* out) {{ return cuda_on_cpu::sizes(&{name}, out); }}\n'
            for name in _kernels(code)
        )
        source = folder() / f"{key}.{os.getpid()}.{threading.get_ident()}.cpp"
        macros = "".join(f"#define {each[2:].replace('=', ' ', 1)}\n" for each in defines)
        source.write_text(f'#include "{header}"\n{macros}{code}\n{launchers}')
        made = source.with_suffix(".so")
        flags = ["-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-std=c++17", "-shared", "-fPIC", "-w"]
        done = subprocess.run([COMPILER, *flags, str(source), "-o", str(made)], capture_output=True, text=True)
        assert done.returncode == 0, f"g++ does not compile it:\n{done.stderr[:4000]}"
        source.unlink()
        made.replace(target)
    return ctypes.PyDLL(str(target))  # holds the GIL: the threads of a block are fibers of one thread


class PinnedMemory:
    """As cupy.cuda.PinnedMemory."""

    def __init__(self, size: int, flags: int = 0) -> None:
        self.size = size


def PinnedMemoryPointer(mem: PinnedMemory, offset: int) -> memoryview:  # noqa: N802 - CuPy's name
    """As cupy.cuda.PinnedMemoryPointer, which has the buffer protocol too."""
    return memoryview(bytearray(mem.size))[offset:]


class CompileError(Exception):
    """As cupy.cuda.compiler.CompileException."""


def _device_count() -> int:
    if not machine.memory:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return len(machine.memory)


def make_module() -> types.ModuleType:
    """The stand-in as a module that can take CuPy's place in ``sys.modules``."""
    cupy = types.ModuleType("cupy")
    for each in (ndarray, empty, zeros, asarray, asnumpy, RawModule):
        setattr(cupy, each.__name__, each)
    cupy.__version__ = "0 (on the CPU)"  # type: ignore[attr-defined]
    cupy.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        Device=Device,
        Stream=Stream,
        Event=Event,
        get_elapsed_time=lambda begin, end: 1000 * (end.time - begin.time),
        Memory=Memory,
        MemoryPointer=MemoryPointer,
        PinnedMemory=PinnedMemory,
        PinnedMemoryPointer=PinnedMemoryPointer,
        runtime=types.SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=_device_count,
            getDevice=_get_device,
            setDevice=_set_device,
            memGetInfo=lambda: (machine.free[_get_device()], machine.memory[_get_device()]),
            getDeviceProperties=lambda n: {"name": f"GPU {n} on the CPU".encode()},
        ),
        compiler=types.SimpleNamespace(CompileException=CompileError, compile_using_nvrtc=_compile_using_nvrtc),
        nvrtc=types.SimpleNamespace(getVersion=lambda: (0, 0)),
        Module=Module,
        Function=Function,
        driver=types.SimpleNamespace(
            ctxGetCurrent=_current_context,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
            funcGetAttribute=lambda _, function: function._most_shared,
            funcSetAttribute=lambda function, _, value: setattr(function, "_most_shared", value),
        ),
    )
    return cupy
