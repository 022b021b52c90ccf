"""CUDA sources and the kernels compiled from them, in each process anew: 0.4 s or less a source."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from importlib import resources
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
def _module(cupy: Any, device: int, source: str, defines: tuple[tuple[str, str | int], ...]) -> Any:  # noqa: ARG001
    # A module is one of the GPU that is current when it is loaded.
    # CuPy compiles what its RawModule is given with -ftz=true behind all options, and the last one counts.
    options = (*OPTIONS, *(f"-D{macro}={value}" for macro, value in defines))
    code, _ = cupy.cuda.compiler.compile_using_nvrtc(source_text(source), options)
    module = cupy.cuda.Module()
    module.load(code)
    return module


@functools.cache
def source_text(source: str) -> str:
    """Text of a source file, with what all share in front of it."""
    folder = resources.files(__package__)
    return "".join((folder / f"{each}.cu").read_text(encoding="utf-8") for each in ("shared", source))
