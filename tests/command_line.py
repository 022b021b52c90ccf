"""``cytolith`` as a shell calls it, in a process of its own with exit code and text, but without a second of imports.

Each command is forked from a process that has the package loaded. Where the process itself is looked at (its memory,
signals, children, what it imports) tests start one as a shell does, and so they do at least once for each command.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path

MODULES = (
    "cytolith.cells.run", "cytolith.cli.afterwards", "cytolith.cli.cells", "cytolith.cli.console",
    "cytolith.cli.fracture", "cytolith.cli.info", "cytolith.convert.pipeline", "cytolith.fracture.pipeline",
    "cytolith.io.points.export", "cytolith.io.tiff_folder", "cytolith.io.zarr_sink", "cytolith.preview.run",
    "cytolith.report.cells", "cytolith.report.fracture", "cytolith.train.training", "cytolith.tune.run",
    "matplotlib.backends.backend_agg", "optuna",
)  # fmt: skip
"""Loaded before the first command, as far as they are installed."""
SECONDS = 300
"""A command that takes longer is killed."""


def call(*arguments, cwd=None, env=None, fresh=False):
    """What a command left: `returncode`, negative for a signal, `stdout` and `stderr`.

    With `fresh` its process is one that has loaded nothing.
    """
    arguments = [str(each) for each in arguments]
    if fresh or sys.platform != "linux":  # the libraries of Apple do not stand a fork
        command = [sys.executable, "-m", "cytolith", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=cwd, env=env)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        order = [arguments, str(cwd or Path.cwd()), dict(env or os.environ), str(out), str(err)]
        server = _server()
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(["cytolith", *arguments], code, out.read_text(), err.read_text())


def cytolith(*arguments, code=0, **options):
    """What a command left that ends with this exit code and never with a traceback."""
    done = call(*arguments, **options)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@functools.cache
def _server():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", __file__]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def _serve():
    from cytolith import detect_cells, fracture_maps
    from cytolith.cli import main
    from cytolith.testing.phantoms import cells_phantom

    for module in MODULES:
        with suppress(ImportError):
            importlib.import_module(module)
    volume, _ = cells_phantom((8, 60, 70))
    detect_cells(volume, workers=1)  # loads the kernels
    fracture_maps((volume > volume.mean()).astype("uint8"), workers=1)
    assert threading.active_count() == 1, "a thread would be missing in every command"
    gc.freeze()
    for order in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(main, *json.loads(order))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _run(main, arguments, cwd, env, out, err):
    """Become the command; ends the process."""
    try:
        signal.alarm(SECONDS)
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, out, os.O_WRONLY | os.O_CREAT),
            (2, err, os.O_WRONLY | os.O_CREAT),
        ):
            os.dup2(os.open(path, flags), number)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.argv[1:] = arguments
        main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    _serve()
