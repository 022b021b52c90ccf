"""Python processes that meet what a program meets on Windows (`sitecustomize` in this folder), and what they leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

OF_THE_RUN = ("run.json", "run.log", "summary.json", "report.html")
"""Files that hold times, and so are never the same twice."""


def python(*arguments, folder, windows=True, **variables):
    """A Python process in a folder; with `windows` one that meets there what it would meet on Windows."""
    environment = os.environ | {"WINDOWS_ROOT": str(folder), **variables}
    if windows:
        paths = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def ended(process, code=0):
    """What a process printed, on both streams."""
    out, problems = process.communicate(timeout=400)
    assert process.returncode == code, out + problems
    assert "Traceback" not in problems, problems
    return out + problems


def commands(*lines, **options):
    """Run command lines one after the other in one process, as `python` does; all must be done."""
    code = (
        "import json, sys; from cytolith.cli import app\n"
        "for line in json.loads(sys.argv[1]): assert app(line) == 0, line"
    )
    return ended(python("-c", code, json.dumps([[str(word) for word in line] for line in lines]), **options))


def contents(folder):
    """All files below a folder but those that hold times, by their names with / between their parts."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if path.name not in OF_THE_RUN}


def wait_for_blocks(pattern, folder, process, count):
    """Wait until so many blocks are finished."""
    end = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no blocks"
        time.sleep(0.005)


KILLED = """
import os, sys
from pathlib import Path
from cytolith import convert_volume, run_fracture
from cytolith.convert import plan
from cytolith.engine.events import BlockDone

plan._FILE_BLOCK_BYTES = 1 << 20
seen = []

def listen(event):
    if isinstance(event, BlockDone):
        seen.append(event)
        if len(seen) == int(os.environ.get("DIE", 0)):
            os._exit(9)

what, source, out, *again = sys.argv[1:]
for force in (False, True)[: 1 + len(again)]:
    if what == "fracture":
        run_fracture(source, out, n=1, cluster_image=True, map_images=True, planes=6, workers=1, force=force,
                     voxel_size=(25, 25, 25), listener=listen)
    else:
        options = {"chunks": (4, 16, 16), "shards": (8, 32, 32)} if out.endswith(".zarr") else {}
        convert_volume(source, out, workers=1, voxel_size=(6, 1.62, 1.62), overwrite=force, listener=listen, **options)
"""
"""Source of a program: what, input, output, and "again" to replace the output in the same process. It dies in the
middle of its work, after as many blocks as DIE says."""
