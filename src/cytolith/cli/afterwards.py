"""What a run leaves beside its tables: a page to look at, and tables for other tools."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cytolith.errors import CytolithError

REPORT_BYTES = 2**30
"""Memory that a report may take, beside what a finished run still holds."""


def write_page(folder: Path, notes: Callable[[list[str]], None], memory: int | None = None) -> Path | None:
    """The report of a finished run; None, and a note why, where there can be none: the run has succeeded anyway.

    A budget of memory that was given holds for all that the command does, so below `REPORT_BYTES` there is no report.
    """
    if memory is not None and memory < REPORT_BYTES:
        notes([f"no report: it may take 1 GiB, more than --memory; write it with cytolith report {folder}"])
        return None
    from cytolith.report.write import write_report

    try:
        return write_report(folder, notes=notes)
    except CytolithError as error:
        notes([str(error)])
        return None


def write_exports(folder: Path, formats: Sequence[str]) -> list[Path]:
    """Tables for other tools in the folder of a run; what is there is replaced."""
    if not formats:
        return []
    from cytolith.io.points.export import RUN_FILES, export_table

    paths = [folder / RUN_FILES[name] for name in formats]
    for name, path in zip(formats, paths, strict=True):
        export_table(folder, path, name, overwrite=True)
    return paths
