"""What this machine has to give: cores and memory."""

from __future__ import annotations

import os
from pathlib import Path


def default_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_memory() -> int:
    """Half of the machine's memory, in bytes."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        size = 8 * 2**30
    limit = Path("/sys/fs/cgroup/memory.max")  # containers and batch systems allow less than the machine has
    text = limit.read_text().strip() if limit.is_file() else "max"
    return (min(size, int(text)) if text.isdigit() else size) // 2
