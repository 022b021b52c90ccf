"""What this machine has to give: cores and memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def default_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_memory() -> int:
    """Half of the memory that this process may take, in bytes: the machine's, or what its container or job has."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        size = 8 * 2**30
    return min([size, *_job_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]) // 2


def peak_bytes() -> int | None:
    """Most memory that this process has held, and the largest of its children that have ended; None where unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return unit * max(resource.getrusage(each).ru_maxrss for each in who)


def _job_limits(groups: Path, root: Path) -> Iterator[int]:
    """Limits of the control groups around this process: containers and batch systems allow less than there is."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        # version 2 has one tree, version 1 one for each resource
        top, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        folder = top / place.strip("/")
        for each in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # "max" is no number
                yield int((each / name).read_text())
            if each == top:
                break
