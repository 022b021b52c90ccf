"""``cytolith tune`` as a user calls it: the file it writes runs as it is."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import cytolith

from cytolith.io.tables import read_table
from cytolith.testing.phantoms import cells_phantom


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    image, truth = cells_phantom((26, 170, 180), seed=4)
    np.save(folder / "volume.npy", image)
    rows = np.stack([truth[axis] for axis in "zyx"], 1)
    np.savetxt(folder / "truth.csv", rows, delimiter=",", header="z,y,x", comments="", fmt="%.3f")
    (folder / "start.toml").write_text('[maxima_detection]\nthreshold = "25 mad"\n')
    return folder


def command(*arguments):
    return [sys.executable, "-m", "cytolith", *map(str, arguments)]


def test_the_file_that_is_written_runs_as_it_is(sample, tmp_path):
    out = tmp_path / "tuned.toml"
    options = ("--voxel-size", "6,1.62,1.62", "--config", sample / "start.toml", "--trials", 6)
    done = cytolith("tune", sample / "volume.npy", sample / "truth.csv", "-o", out, *options)
    scores = dict(re.findall(r"^(\w+, [\w ]+?)\s+F1 ([\d.]+)", done.stdout, re.MULTILINE))
    assert set(scores) == {"start, fitted", "tuned, fitted", "start, held out", "tuned, held out"}
    assert float(scores["tuned, held out"]) > float(scores["start, held out"])
    cytolith("cells", "--config", out, "-o", tmp_path / "run", "--no-report")
    done = cytolith("score", tmp_path / "run" / "cells.parquet", sample / "truth.csv")
    assert f"F1 {scores['tuned, fitted']}" in done.stdout
    trials, _ = read_table(tmp_path / "tuned.trials.csv")
    assert len(trials["trial"]) == 6
    assert "--overwrite" in cytolith("tune", sample / "volume.npy", sample / "truth.csv", "-o", out, code=1).stderr
    inputs = sample / "volume.npy", sample / "truth.csv"
    done = cytolith("tune", *inputs, "-o", tmp_path / "x", "--only", "dig", *options, code=2)
    assert "--only dig" in done.stderr
    assert not (tmp_path / "x").exists()


def test_an_interrupt_keeps_the_best_so_far(sample, tmp_path):
    process = subprocess.Popen(
        command("tune", sample / "volume.npy", sample / "truth.csv", "-o", tmp_path / "out", "--voxel-size",
                "6,1.62,1.62", "--config", sample / "start.toml", "--trials", 100000),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert "trial" in process.stderr.readline()  # it searches, and tells so every few seconds
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()  # it would go on for hours
    assert process.returncode == 130, out + err
    assert "the best so far is kept" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.toml", "trials.csv", "tune.json"]
