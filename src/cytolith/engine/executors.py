"""Where blocks run: on threads of this process, as the kernels release the GIL."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor


def make_executor(workers: int) -> Executor:
    """Executor of `workers` blocks at once.

    A single worker is a thread too: an interrupt reaches the main thread while the worker is in a compiled loop.
    """
    return ThreadPoolExecutor(workers, thread_name_prefix="block")
