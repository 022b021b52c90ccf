"""What this machine has to give: cores and memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cytolith.io import windows


def default_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_memory() -> int:
    """Half of the memory that this process may take, in bytes: the machine's, or what its container or job has."""
    return min([_machine_bytes() or 8 * 2**30, *_job_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]) // 2


def peak_bytes() -> int | None:
    """Most memory that this process has held, and the largest of its children that have ended; None where unknown.

    Windows does not keep count of children.
    """
    if sys.platform == "win32":
        return windows.peak_bytes()
    else:  # noqa: RET505 - what a type checker of another system does not look at
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return unit * max(resource.getrusage(each).ru_maxrss for each in who)


def _machine_bytes() -> int | None:
    """Memory of the machine; None where the system does not say."""
    if sys.platform == "win32":
        return windows.memory_bytes()
    else:  # noqa: RET505 - what a type checker of another system does not look at
        try:
            return max(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 0)
        except (ValueError, OSError):
            return None


def _job_limits(groups: Path, root: Path) -> Iterator[int]:
    """Limits of the control groups around this process: containers and batch systems allow less than there is."""
    try:
        lines = groups.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
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
                yield int((each / name).read_text(encoding="ascii"))
            if each == top:
                break
