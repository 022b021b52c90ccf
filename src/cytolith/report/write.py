"""``write_report``: the page of a run, whatever kind of run it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cytolith.errors import OutputError, VolumeError
from cytolith.io.files import write_text
from cytolith.report.page import render, require_libraries

NAME = "report.html"
_SUFFIXES = (".html", ".htm")


def write_report(
    run_folder: Path | str, path: Path | str | None = None, notes: Callable[[list[str]], None] = lambda _: None
) -> Path:
    """Write what a run found as one HTML page that needs nothing else: no network, no other file.

    Parameters
    ----------
    run_folder
        What ``cytolith cells`` or ``cytolith fracture`` wrote.
    path
        File to write, ``.html``; default: ``report.html`` in the folder. What is there is replaced.
    notes
        Gets what could not be shown, in words.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ConfigError
        matplotlib or jinja2 is not installed.
    VolumeError
        The folder holds no finished run, or a table of it cannot be read.
    OutputError
        The page cannot be written.
    """
    require_libraries()
    folder = Path(run_folder)
    target = folder / NAME if path is None else Path(path)
    if not folder.is_dir():
        raise VolumeError(f"{folder}: there is no such folder; give the one that cytolith cells or fracture wrote")
    if target.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"{target}: a report is an HTML page; give a name that ends in .html")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; give a file name that ends in .html")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: there is no folder {target.parent}; make it first, or give another")
    if (folder / "run.json").exists():
        from cytolith.report.cells import cells_page

        text = render("cells.html", cells_page(folder, notes))
    elif (folder / "summary.json").exists():
        from cytolith.report.fracture import fracture_page

        text = render("fracture.html", fracture_page(folder, notes))
    else:
        raise VolumeError(
            f"{folder}: holds no run (neither run.json nor summary.json); give the folder that cytolith cells or "
            "cytolith fracture wrote"
        )
    write_text(target, text)
    return target
