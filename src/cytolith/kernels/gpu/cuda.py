"""CUDA sources and the kernels compiled from them, by CuPy, which keeps what it has compiled on disk."""

from __future__ import annotations

import functools
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

_OPTIONS = ("--std=c++17", "--fmad=false")  # a product and a sum in one rounding would give other last digits
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
    found = _kernel(array_module(), source, name, tuple(sorted(defines.items())))
    if shared > max(DEFAULT_SHARED, found.max_dynamic_shared_size_bytes):
        found.max_dynamic_shared_size_bytes = shared
    return found


def c_type(dtype: Any) -> str:
    """Name in C of a type of voxels; ValueError names those that kernels take."""
    name = np.dtype(dtype).name
    if name not in C_TYPES:
        raise ValueError(f"image has dtype {name}; allowed on a GPU are {', '.join(C_TYPES)}")
    return C_TYPES[name]


@functools.cache
def _kernel(cupy: Any, source: str, name: str, defines: tuple[tuple[str, str | int], ...]) -> Any:
    return _module(cupy, source, defines).get_function(name)


@functools.cache
def _module(cupy: Any, source: str, defines: tuple[tuple[str, str | int], ...]) -> Any:
    macros = tuple(f"-D{macro}={value}" for macro, value in defines)
    return cupy.RawModule(code=source_text(source), options=_OPTIONS + macros)


@functools.cache
def source_text(source: str) -> str:
    """Text of a source file, with what all share in front of it."""
    folder = resources.files(__package__)
    return "".join((folder / f"{each}.cu").read_text(encoding="utf-8") for each in ("shared", source))
