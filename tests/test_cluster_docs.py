"""The commands of docs/cluster.md that one machine can run do run, and give one table, and its Python is Python."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from cytolith.testing.phantoms import write_sample

pytest.importorskip("distributed")

DOCS = Path(__file__).parents[1] / "docs" / "cluster.md"
TEXT = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")  # a command a line
FOREGROUND = "<!-- runs in tests/test_cluster_docs.py -->"
BACKGROUND = "<!-- runs in tests/test_cluster_docs.py: background -->"
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def commands(mark):
    blocks = re.findall(rf"{re.escape(mark)}\n```sh\n(.*?)```", TEXT, re.S)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    write_sample(folder, (24, 120, 130), 2)
    return folder


def test_commands_give_the_same_table_wherever_blocks_run(folder):
    assert len(commands(FOREGROUND)) == 3
    assert len(commands(BACKGROUND)) == 2
    with ExitStack() as stack:
        for command in commands(BACKGROUND):
            process = subprocess.Popen(
                shlex.split(command),
                cwd=folder,
                env=ENVIRONMENT,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(_kill, process.pid)
            end = time.monotonic() + 60
            while not (folder / "scheduler.json").exists():
                assert time.monotonic() < end
                time.sleep(0.05)
        # blocks small enough that each worker has some, and no page each time, which would take most of the time
        for command in [*commands(FOREGROUND), "cytolith cells planes -o by-threads --voxel-size 6,1.62,1.62"]:
            done = subprocess.run(
                [*shlex.split(command), "--block", "24,40,50", "--no-report"],
                cwd=folder,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert "distributed" not in done.stderr
    tables = {path.parent.name: path.read_bytes() for path in folder.glob("by-*/cells.csv")}
    assert set(tables) == {"by-processes", "by-dask", "by-file", "by-threads"}
    assert len(set(tables.values())) == 1
    assert len(tables["by-dask"].splitlines()) > 5


def _kill(group):
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def test_python_is_python_and_each_flag_of_ours_exists():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)
    command = [sys.executable, "-m", "cytolith", "cells", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    flags = {flag for line in TEXT.splitlines() if "cytolith cells" in line for flag in re.findall(r"--[a-z-]+", line)}
    assert len(flags) >= 6
    assert all(flag in shown for flag in flags)
