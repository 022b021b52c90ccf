"""Every command and every line of Python on the pages runs, and prints what the page shows."""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cytolith.cli import app

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(
    page
    for pattern in (
        "start.md",
        "tutorials/*.md",
        "howto/*.md",
        "moving/*.md",
        "detection.md",
        "tuning.md",
        "regions.md",
    )
    for page in DOCS.glob(pattern)
    if page.name != "index.md"
)
"""Of the others, docs/cluster.md has a test of its own, docs/gpu.md needs a GPU, and the rest shows no commands."""
MOST_NOT_RUN = 4

_BLOCK = re.compile(r"(?:^<!-- (not run|needs|fails): ([^\n]+) -->\n)?^```(sh|python|text)\n(.*?)^```$", re.M | re.S)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_TIMES = re.compile(r"[\d.]+ s\b|\([\d.]+ Mvoxel/s\)")


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    mark: str
    why: str
    language: str
    code: str


def blocks_of(page):
    return [Block(mark or "", why or "", *rest) for mark, why, *rest in _BLOCK.findall(page.read_text("utf-8"))]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """What a reader is taken to have: what the commands of the first how-to page make (planes, marked cells, the result
    of a run, a stack of a rock), and labels of regions."""
    folder = tmp_path_factory.mktemp("sample")
    with contextlib.chdir(folder):
        for block in blocks_of(DOCS / "howto" / "index.md"):
            run_shell(block.code, 0)
    assert {"planes", "marked.csv", "OUT", "fracture.tif"} <= {path.name for path in folder.iterdir()}
    halves = np.repeat(np.arange(1, 3, dtype=np.uint16), 4) * np.ones((6, 8, 1), np.uint16)
    tifffile.imwrite(folder / "annotation.tif", halves)
    (folder / "cell_map_params.cfg").write_text(
        "[detection]\n[[background_correction]]\ndiameter = [10, 10]\n[[shape_detection]]\nthreshold = 500\n"
    )
    (folder / "structures.csv").write_text("id,name\n1,left half\n2,right half\n")
    shutil.rmtree(folder / "rock")  # tutorials make one of their own
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the pages show commands of a POSIX shell")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_page_runs(page, sample, tmp_path, monkeypatch, capfd):
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    printed, ran = "", False
    for block in blocks_of(page):
        if block.language == "text":
            if ran:
                assert_shown(block.code, printed)
            continue
        ran = not (block.mark == "not run" or (block.mark == "needs" and importlib.util.find_spec(block.why) is None))
        if ran:
            capfd.readouterr()
            if block.language == "python":
                exec(compile(block.code, page.name, "exec"), names)
            else:
                run_shell(block.code, 1 if block.mark == "fails" else 0)
            printed = "".join(capfd.readouterr())


def run_shell(code, expected):
    """Run commands one by one: ours in this process, where nothing need be imported again, others in a shell."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "cytolith" and not {">", "|", "&&"} & set(words):
            try:
                result = app(words[1:]) or 0
            except Exception as error:
                if not expected:
                    raise
                sys.stderr.write(f"cytolith: {error}\n")
                result = 1
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            result = subprocess.run(["bash", "-ec", line], env=os.environ | {"PATH": path}, check=False).returncode
        assert result == expected, line


def assert_shown(shown, printed):
    """Assert that the lines on the page are printed in this order, but for times, and numbers to a hundredth."""
    lines = iter(printed.splitlines())
    for line in shown.splitlines():
        if line.strip() not in ("", "..."):
            assert any(_same(line, other) for other in lines), f"{line!r} is not (or not there) in:\n{printed}"


def _same(one, other):
    words = [_NUMBER.sub("#", _TIMES.sub("T", text)).split() for text in (one, other)]
    numbers = [[float(n.replace(",", "")) for n in _NUMBER.findall(_TIMES.sub("", text))] for text in (one, other)]
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], rel=0.01, abs=0.011)


def test_few_blocks_are_not_run_and_each_says_why():
    marks = [block for page in PAGES for block in blocks_of(page) if block.mark]
    assert all(block.why for block in marks)
    assert sum(block.mark == "not run" for block in marks) <= MOST_NOT_RUN


def test_the_pages_have_blocks_that_run():
    for page in PAGES:
        assert any(block.language in ("sh", "python") and not block.mark for block in blocks_of(page)), page.name


def test_every_fence_is_a_block_or_of_another_language():
    for page in PAGES:
        fences = re.findall(r"^```(\S*)$", page.read_text("utf-8"), re.M)
        assert set(fences[::2]) <= {"sh", "python", "text", "toml", "xml", "{toctree}"}, page.name
        assert len(blocks_of(page)) == sum(fence in ("sh", "python", "text") for fence in fences[::2]), page.name


def test_what_is_shown_is_compared():
    assert_shown(
        "886 cells in 1.7 s (2 Mvoxel/s)\n...\nmean 8.05", "886 cells in 9.9 s (7 Mvoxel/s)\nnoise\nmean 8.052\n"
    )
    for wrong in ("787 cells in 1.7 s", "886 rows in 1.7 s"):
        with pytest.raises(AssertionError):
            assert_shown(wrong, "886 cells in 1.7 s\n")
