"""You give the memory: peak resident memory of a run stays below the number given, on volumes of any size."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zarr
from command_line import cytolith

from cytolith.testing.phantoms import cells_phantom

MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
PROC = Path("/proc/self/task")

pytestmark = pytest.mark.skipif(not PROC.exists(), reason="the system does not tell the memory of processes in /proc")


def family(pid):
    """A process and all its descendants."""
    found = [pid]
    with suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - it shares the machine with what it watches
            for child in said(f"/proc/{pid}/task/{task}/children"):
                found += family(int(child))
    return found


def resident(pid):
    numbers = said(f"/proc/{pid}/statm")
    return int(numbers[1]) * PAGE if numbers else 0


def said(path):
    """The words of a file of /proc; none when the process has ended."""
    try:
        with open(path, "rb", 0) as file:  # noqa: PTH123
            return file.read().split()
    except OSError:
        return []


def peak_of(*arguments):
    """Greatest sum of the resident memory of a command and all its processes, looked at every few milliseconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cytolith", *map(str, arguments), "-q"], stderr=subprocess.PIPE, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident, family(process.pid))))
        time.sleep(0.005)
    _, text = process.communicate()
    return process.returncode, peak, text


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Cells on noise, 247 MiB."""
    path = tmp_path_factory.mktemp("volume") / "v.npy"
    tile = cells_phantom((40, 225, 225), seed=6)[0]
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(160, 900, 900))
    for z in range(0, 160, 40):
        array[z : z + 40] = np.tile(tile, (1, 4, 4))
    array.flush()
    return path


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (550, []),
        (800, ["--dog-filter.shape", "6", "--maxima-detection.h-max", "200"]),
        (1300, ["--equalization.selem", "5,60,60", "--equalization.spacing", "5,30,30", "--executor", "processes"]),
    ],
)
def test_three_budgets(volume, tmp_path, budget, steps):
    # the first run on a machine compiles the kernels, which takes memory of its own
    np.save(tmp_path / "small.npy", np.load(volume, mmap_mode="r")[:20, :90, :110])
    cytolith("cells", tmp_path / "small.npy", "-o", tmp_path / "first", "--no-report", *steps)
    out = tmp_path / "out"
    code, peak, text = peak_of("cells", volume, "-o", out, "--memory", f"{budget}MiB", "--workers", "2", *steps)
    assert code == 0, text
    plan = json.loads((out / "run.json").read_text())["plan"]
    assert peak < budget * MIB
    assert plan["bytes_total"] <= budget * MIB
    assert plan["blocks"] > 1


def test_a_volume_of_thirty_times_its_memory(tmp_path):
    """18 GiB on a few MiB of disk: most chunks are fill values, cells lie across seams of blocks and of chunks."""
    path = tmp_path / "big.zarr"
    array = zarr.create_array(
        path, shape=(1900, 2250, 2250), chunks=(64, 256, 256), dtype="uint16", fill_value=100,
        dimension_names=("z", "y", "x"),
    )  # fmt: skip
    budget = 600 * MIB
    assert array.nbytes > 30 * budget
    tile = cells_phantom((48, 200, 200), seed=1)[0]
    corners = [(0, 0, 0), (960, 1380, 1280), (1852, 2050, 2050)]
    for z, y, x in corners:
        array[z : z + 48, y : y + 200, x : x + 200] = tile
    options = [
        "--voxel-size",
        "6,1.62,1.62",
        "--maxima-detection.threshold",
        "300",
        "--shape-detection.threshold",
        "200",
    ]
    code, peak, text = peak_of("cells", path, "-o", tmp_path / "out", "--memory", budget, "--workers", "2", *options)
    assert code == 0, text
    assert peak < budget
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["truncated"] == 0
    assert record["plan"]["core"][1] < 2250  # planes are cut too
    # the tile in the middle of the volume gives the rows of a small volume around it
    from cytolith import detect_cells
    from cytolith.io.tables import read_table

    small = np.full((48 + 80, 200 + 120, 200 + 120), 100, np.uint16)
    small[40:88, 60:260, 60:260] = tile
    steps = {"maxima_detection": {"threshold": 300}, "shape_detection": {"threshold": 200}}
    wanted = detect_cells(small, voxel_size=(6, 1.62, 1.62), **steps)
    found, _ = read_table(tmp_path / "out" / "cells.parquet")
    middle = (found["z"] > 900) & (found["z"] < 1100)
    assert middle.sum() == len(wanted["z"]) > 50
    for name in ("size", "source", "background_correction", "truncated"):
        np.testing.assert_array_equal(found[name][middle], wanted[name])
    for axis, offset in (("z", 920), ("y", 1320), ("x", 1220)):
        np.testing.assert_allclose(found[axis][middle], wanted[axis] + offset, atol=1e-9)


def test_too_little_memory_is_refused_with_the_smallest_budget_that_does(volume, tmp_path):
    text = cytolith("cells", volume, "-o", tmp_path / "out", "--memory", "100MiB", code=1).stderr
    assert "give at least --memory " in text
    least = text.split("give at least --memory ")[1].split("MiB")[0]
    assert not (tmp_path / "out").exists()
    tight = ["--memory", f"{least}MiB"]
    source = np.load(volume, mmap_mode="r")[:40, :300, :300]
    np.save(tmp_path / "small.npy", source)
    cytolith("cells", tmp_path / "small.npy", "-o", tmp_path / "out", *tight)
    cytolith("cells", volume, "-o", tmp_path / "not", "--memory", f"{int(least) - 1}MiB", code=1)
