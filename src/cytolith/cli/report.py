"""``cytolith report``: what a run found, as one page to look at and to pass on."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(
    run: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
) -> int:
    """Show what a run found as one HTML page that needs no network: pictures, histograms, warnings, parameters.

    Parameters
    ----------
    run
        Folder that cytolith cells or cytolith fracture wrote.
    output
        File to write, .html. Default: report.html in the folder, which is replaced.
    overwrite
        Replace an existing file given with --output.
    quiet
        Print errors only.
    """
    from cytolith.errors import OutputError
    from cytolith.report.write import write_report

    if output is not None and output.exists() and not overwrite:
        raise OutputError(f"{output}: exists; give another file, or --overwrite to replace it")

    def note(lines: list[str]) -> None:
        for line in lines:
            print(f"cytolith: {line}", file=sys.stderr)

    path = write_report(run, output, notes=(lambda _: None) if quiet else note)
    if not quiet:
        print(f"Report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
