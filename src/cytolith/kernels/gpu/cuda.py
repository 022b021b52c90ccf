"""CUDA sources and the kernels compiled from them, which are kept on disk beside those of CuPy."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
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
    found = _kernel(cupy, device.id, source, name, tuple(sorted(defines.items())))
    if shared > max(DEFAULT_SHARED, found.max_dynamic_shared_size_bytes):
        # all that there is, as others share the kernel and may launch it with more in the same moment
        found.max_dynamic_shared_size_bytes = device.attributes["MaxSharedMemoryPerBlockOptin"]
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
    # CuPy compiles what RawModule is given as text with -ftz=true behind all options, and the last one counts.
    options = (*OPTIONS, *(f"-D{macro}={value}" for macro, value in defines))
    text, kind = source_text(source), cupy.cuda.Device(device).compute_capability
    key = repr((text, options, kind, cupy.cuda.nvrtc.getVersion()))
    name = f"cytolith-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.cubin"
    path = _cache_folder() / name
    if not path.exists():
        code, _ = cupy.cuda.compiler.compile_using_nvrtc(text, options)
        path = _keep(path, code)
    return cupy.RawModule(path=str(path))


def _cache_folder() -> Path:
    """Where CuPy keeps what it compiles."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def _keep(path: Path, code: bytes) -> Path:
    """Write machine code to a file that appears whole, or to one that goes with the process; gives its path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(code)
            file.flush()
            os.fsync(file.fileno())
        try:
            Path(file.name).replace(path)
        except OSError:
            with suppress(OSError):
                Path(file.name).unlink()
            raise
    except OSError:
        path = Path(_folder_of_process().name) / path.name
        path.write_bytes(code)
    return path


@functools.cache
def _folder_of_process() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cytolith-", ignore_cleanup_errors=True)


@functools.cache
def source_text(source: str) -> str:
    """Text of a source file, with what all share in front of it."""
    folder = resources.files(__package__)
    return "".join((folder / f"{each}.cu").read_text(encoding="utf-8") for each in ("shared", source))
