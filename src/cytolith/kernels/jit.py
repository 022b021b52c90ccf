"""One decorator for every compiled loop, so that all of them release the GIL and are cached on disk.

No ``parallel=True``: threads belong to the engine. No fast mathematics: contraction and reassociation give other last
digits on other machines, and a last digit decides ties. No closures: they never hit the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a module-level loop with numba: no GIL, cached on disk, IEEE arithmetic, no zero-division checks."""
    return cast("F", numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def jit_inline(function: F) -> F:
    """Compile a small scalar helper that is inlined into the loops that call it."""
    return cast("F", numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")(function))
