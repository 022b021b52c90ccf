"""The command line: thin functions around the public API; heavy imports wait until a command needs them."""

import io
import os
import re
import signal
import sys
from contextlib import suppress

from cyclopts import App

from cytolith import __version__
from cytolith.errors import ConfigError, CytolithError

# Lazily imported commands: their text stands here, so that `cytolith --help` need not import them.
_CELLS = """Find, outline and measure the cells of a volume.

Writes cells.parquet and cells.csv (one row a cell), config.toml (runs again as it is), run.json and run.log into the
output folder. Lengths are voxels (5) or micrometres ("8 um") in the order Z,Y,X, or one for all axes; thresholds are
grey values (700) or multiples of the noise ("6 mad"). `none` skips a step: --smoothing none.
"""
_FRACTURE = """Clean a binary stack of a fractured rock and map its aperture and its offset.

Writes into the output folder, NAME being the name of the input: NAME-processed.tif (with -n: what is kept, 0 and 255),
NAME-aperture-map.txt and NAME-offset-map.txt (a row of numbers a plane) with a picture (.png) of each, clusters.csv and
summary.json. A voxel is fracture where it is not 0.
"""

app = App(
    name="cytolith",
    help="Tables and maps from 3-D image stacks of any size: cells of a brain, the fracture of a rock.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command("cytolith.cli.cells:cells", name="cells", help=_CELLS)
app.command("cytolith.cli.fracture:fracture", name="fracture", help=_FRACTURE)
app.command("cytolith.cli.table:filter_table", name="filter", help="Keep the rows of a table of cells within limits.")
app.command(
    "cytolith.cli.score:score", name="score", help="Compare cells with annotated centres, in all and by region."
)
app.command("cytolith.cli.report:report", name="report", help="Show what a run found as one HTML page.")
app.command("cytolith.cli.tune:tune", name="tune", help="Find parameters for annotated cells.")
app.command("cytolith.cli.preview:preview", name="preview", help="Show the steps side by side on a crop.")
app.command("cytolith.cli.train:train", name="train", help="Train a filter on annotated cells of your own sample.")
app.command(
    "cytolith.cli.export:export",
    name="export",
    help="Write a table of cells for ClearMap, cellfinder, napari or neuroglancer.",
)
app.command("cytolith.cli.density:density", name="density", help="Write a map of how many cells lie where.")
app.command("cytolith.cli.regions:regions", name="regions", help="Count the cells in each region of an annotation.")
app.command(
    "cytolith.cli.convert:convert",
    name="convert",
    help="Write a volume as OME-Zarr with coarser levels, BigTIFF or .npy.",
)
app.command(
    "cytolith.cli.info:info",
    name="info",
    help="Show what a volume is, which planes cannot be read, and what a run would take.",
)
app.command(
    "cytolith.cli.migrate:migrate",
    name="migrate",
    help="Take over a file of ClearMap, cellfinder or apmapflow.",
)
app.command("cytolith.cli.sample:sample", name="sample", help="Write synthetic volumes with known truth.")


def main(tokens: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    code: int | None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names that the terminal's encoding lacks are no failure
            stream.reconfigure(errors="backslashreplace")
    # what batch systems send, and Ctrl-Break: clean up as after Ctrl-C (a closed window of Windows leaves no time to)
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _terminated)
    try:
        code = app(tokens)
    except SystemExit as end:  # wrong usage, help and version end so
        code = end.code if isinstance(end.code, int) else 0
    except ConfigError as error:
        code = _fail(str(error), 2)
    except CytolithError as error:
        code = _fail(str(error), 1)
    except _TerminatedError as error:
        code = _fail(f"terminated; {_left(error)}", 128 + error.number)
    except KeyboardInterrupt as error:
        code = _fail(f"interrupted; {_left(error)}", 130)
    except BrokenPipeError:  # the reader of our text has gone; the results are in place
        code = 0
    except MemoryError:
        code = _fail("the machine has no memory left: give less --memory or fewer --workers", 1)
    except OSError as error:
        code = _fail(_os_error(error), 1)
    _leave(code or 0)


def _fail(message: str, code: int) -> int:
    # the library names its arguments as Python does: here they are flags
    message = re.sub(r"\b(channel|timepoint|level|dataset)=", r"--\1 ", message)
    print(f"cytolith: {message}", file=sys.stderr)
    return code


def _left(interrupt: KeyboardInterrupt) -> str:
    """What an interrupted command has left; one that can go on has noted that."""
    return next(iter(getattr(interrupt, "__notes__", [])), "nothing half-written is left")


def _os_error(error: OSError) -> str:
    if error.filename is None:
        return f"{error.strerror or error}"
    return f"{error.filename}: {error.strerror}"


def _leave(code: int) -> None:
    """End the process without waiting for threads: ours may be deep in a compiled loop, a library's abort at exit."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # closed
            stream.flush()
    os._exit(code)


class _TerminatedError(KeyboardInterrupt):
    """A signal asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _terminated(number: int, _: object) -> None:
    raise _TerminatedError(number)
