"""CUDA sources and the kernels compiled from them, which are kept on disk beside those of CuPy."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = Any
"""A CuPy array, C-contiguous."""
Allocate: TypeAlias = Callable[[str, tuple[int, ...], Any], Array]
"""Gives scratch memory of a name, shape and dtype, full of anything; what it gave for another name stays as it is."""

C_TYPES = {"uint8": "uint8", "uint16": "uint16", "int16": "int16", "float32": "float"}
"""Names in the sources (``shared.cu``) of the types of voxels."""

OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false")
"""A product and a sum in one rounding would give other last digits than a CPU does, and so would small numbers that are
taken for 0."""
_DIGEST = 16
"""Bytes in front of machine code that is kept, by which it is known to be whole."""
_compiling = threading.Lock()
DEFAULT_SHARED = 48 << 10
"""Bytes of shared memory that a block may have unless its kernel asks for more."""


def array_module() -> Any:
    """CuPy, imported at the first call."""
    import cupy

    return cupy


def allocate(name: str, shape: tuple[int, ...], dtype: Any) -> Array:  # noqa: ARG001 - as lanes of a device have it
    """New memory on the current device."""
    return array_module().empty(shape, dtype)


def to_host(array: Array, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Copy of an array in memory of the CPU, when all that was sent before is done; `out` when given.

    The core that waits is free meanwhile: CUDA's own waiting keeps it busy.
    """
    done = array_module().cuda.Event(block=True, disable_timing=True)
    done.record()
    done.synchronize()
    host: NDArray[Any] = array.get(out=out)
    return host


def kernel(source: str, name: str, *, shared: int = 0, **defines: str | int) -> Any:
    """Kernel of a source file of this folder, compiled with the given macros; called with grid, block and arguments.

    Parameters
    ----------
    source
        Name of the file, without its ending ``.cu``.
    name
        Name of a function in it that is ``extern "C" __global__ void``.
    shared
        Bytes of dynamic shared memory that it will be launched with.
    **defines
        Macros.
    """
    cupy = array_module()
    device = cupy.cuda.Device()
    with _compiling:  # all lanes need the same kernels when they begin
        found = _kernel(cupy, device.id, source, name, tuple(sorted(defines.items())))
        driver = cupy.cuda.driver
        most = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if shared > max(DEFAULT_SHARED, driver.funcGetAttribute(most, found.ptr)):
            # all that there is, as others share the kernel and may launch it with more in the same moment
            driver.funcSetAttribute(found.ptr, most, device.attributes["MaxSharedMemoryPerBlockOptin"])
    return found


def c_type(dtype: Any) -> str:
    """Name in C of a type of voxels; ValueError names those that kernels take."""
    name = np.dtype(dtype).name
    if name not in C_TYPES:
        raise ValueError(f"image has dtype {name}; allowed on a GPU are {', '.join(C_TYPES)}")
    return C_TYPES[name]


@functools.cache
def _kernel(cupy: Any, device: int, source: str, name: str, defines: tuple[tuple[str, str | int], ...]) -> Any:
    return _module(cupy, device, source, defines).get_function(name)


@functools.cache
def _module(cupy: Any, device: int, source: str, defines: tuple[tuple[str, str | int], ...]) -> Any:
    # CuPy compiles what its RawModule is given with -ftz=true behind all options, and the last one counts.
    options = (*OPTIONS, *(f"-D{macro}={value}" for macro, value in defines))
    text, kind = source_text(source), cupy.cuda.Device(device).compute_capability
    key = repr((text, options, kind, cupy.cuda.nvrtc.getVersion(), cupy.__version__))
    path = _cache_folder() / f"cytolith-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.kernels"
    code = _kept(path)
    if code is None:
        code, _ = cupy.cuda.compiler.compile_using_nvrtc(text, options)
        with suppress(OSError):  # it is compiled again next time then
            _keep(path, code)
    module = cupy.cuda.Module()
    module.load(code)
    return module


def _cache_folder() -> Path:
    """Where CuPy keeps what it compiles."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache"))  # noqa: PTH111 (no home)


def _kept(path: Path) -> bytes | None:
    """Machine code that was kept; None where there is none that is whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, code = data[:_DIGEST], data[_DIGEST:]
    return code if digest == hashlib.blake2b(code, digest_size=_DIGEST).digest() else None


def _keep(path: Path, code: bytes) -> None:
    """Write machine code to a file that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.blake2b(code, digest_size=_DIGEST).digest() + code)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


@functools.cache
def source_text(source: str) -> str:
    """Text of a source file, with what all share in front of it."""
    folder = resources.files(__package__)
    return "".join((folder / f"{each}.cu").read_text(encoding="utf-8") for each in ("shared", source))
