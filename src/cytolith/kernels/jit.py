"""One decorator for every compiled loop, so that all of them release the GIL and are cached on disk.

No ``parallel=True``: threads belong to the engine. No fast mathematics: contraction and reassociation give other last
digits on other machines, and a last digit decides ties. No closures: they never hit the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

NO_CACHE = "there is no folder that numba can keep them in: set NUMBA_CACHE_DIR to one that can be written"
"""What to do about kernels that are compiled in each process."""


def jit(function: F) -> F:
    """Compile a module-level loop with numba: no GIL, cached on disk, IEEE arithmetic, no zero-division checks."""
    return _compile(function)


def jit_inline(function: F) -> F:
    """Compile a small scalar helper that is inlined into the loops that call it."""
    return _compile(function, inline="always")


def _compile(function: F, **options: Any) -> F:
    try:
        return cast("F", numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function))
    except RuntimeError:  # no folder that can be written, as on some nodes of clusters: compiled anew in each process
        return cast("F", numba.njit(nogil=True, error_model="numpy", **options)(function))


@jit
def _probe(x: int) -> int:
    return x + 1


def _cache_folder() -> Path | None:
    path = cast("Any", _probe).stats.cache_path
    return None if path is None else Path(path)


def compiled_before() -> bool:
    """Whether this installation has compiled kernels in numba's cache, so that a run starts at once."""
    folder = _cache_folder()
    return folder is not None and any(folder.glob("*.nbi"))


def keeps_compiled() -> bool:
    """Whether there is a folder for numba's cache; without one each process compiles the kernels anew."""
    return _cache_folder() is not None


def _forget_stale() -> None:
    """Empty the cache when any kernel's source has changed since it was filled.

    numba looks only at the file of the function that is called: after an upgrade it would go on using compiled code
    with an old version of a helper from another file inlined, and results would silently be those of the old version.
    """
    source = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    digest = hashlib.sha256(source).hexdigest()
    folder = _cache_folder()
    if folder is None:
        return
    mark = folder / "kernels.sha256"
    try:
        if mark.is_file() and mark.read_text(encoding="ascii") == digest:
            return
        for index in folder.glob("*.nbi"):
            index.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(digest, encoding="ascii", newline="\n")
    except OSError:
        return  # a folder that cannot be written holds what was installed with it


_forget_stale()
