"""``--device``: what a user is told, what is recorded, and a run that changes it on the way."""

import json

import numpy as np
import pytest

from cytolith.cli import app
from cytolith.engine import worker
from cytolith.errors import ConfigError
from cytolith.testing.phantoms import cells_phantom


@pytest.fixture
def volume(tmp_path):
    voxels, _ = cells_phantom((18, 60, 64), seed=2)
    np.save(tmp_path / "v.npy", voxels)
    return tmp_path / "v.npy"


def cells(volume, out, *more):
    # app gives the exit code, or ends with it
    command = ["cells", str(volume), "-o", str(out), "--voxel-size", "6,1.62,1.62", "--no-report"]
    assert app([*command, *map(str, more)], exit_on_error=False, result_action="return_value") == 0


def record(out):
    return json.loads((out / "run.json").read_text())


def test_the_table_and_the_record_of_a_run_on_a_gpu(stand_in, volume, tmp_path):
    cells(volume, tmp_path / "cpu")
    cells(volume, tmp_path / "gpu", "--device", "gpu", "--block", "9,40,40")
    assert (tmp_path / "gpu" / "cells.csv").read_bytes() == (tmp_path / "cpu" / "cells.csv").read_bytes()
    assert (tmp_path / "gpu" / "cells.parquet").read_bytes() == (tmp_path / "cpu" / "cells.parquet").read_bytes()
    assert record(tmp_path / "gpu")["plan"]["gpus"] == ["GPU 0 on the CPU"]
    assert record(tmp_path / "cpu")["plan"]["gpus"] == []
    steps = record(tmp_path / "gpu")["seconds"]
    for name in ("upload", "background_correction", "smoothing", "finding", "download", "shape_detection"):
        assert name in steps
    # what a run is does not depend on where it ran
    assert record(tmp_path / "gpu")["identity"] == record(tmp_path / "cpu")["identity"]
    assert "device" not in (tmp_path / "gpu" / "config.toml").read_text()


def test_without_a_gpu_a_run_does_not_begin_or_says_that_it_has_none(stand_in, volume, tmp_path, capsys):
    stand_in.memory.clear()
    with pytest.raises(ConfigError, match=r"--device gpu: CuPy finds no GPU .*; --device auto uses the CPU then"):
        cells(volume, tmp_path / "out", "--device", "gpu")
    assert not (tmp_path / "out").exists()
    cells(volume, tmp_path / "out", "--device", "auto")
    assert "no GPU is used: CuPy finds no GPU" in capsys.readouterr().err
    assert "no GPU is used: CuPy finds no GPU" in (tmp_path / "out" / "run.log").read_text()


def test_a_run_goes_on_elsewhere(stand_in, volume, tmp_path, monkeypatch):
    """Half of the blocks on a GPU, the rest on the CPU."""
    cells(volume, tmp_path / "whole")
    done, call = [], worker.call

    def stop(task, block, ahead, given):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(block)
        return call(task, block, ahead, given)

    with monkeypatch.context() as patch:
        patch.setattr("cytolith.engine.run.call", stop)
        with pytest.raises(KeyboardInterrupt):
            cells(volume, tmp_path / "out", "--device", "gpu", "--block", "9,40,40", "--executor", "serial")
    assert stand_in.launches
    stand_in.launches.clear()
    cells(volume, tmp_path / "out", "--device", "cpu")
    assert not stand_in.launches
    assert record(tmp_path / "out")["plan"]["blocks"] == 8
    assert (tmp_path / "out" / "cells.parquet").read_bytes() == (tmp_path / "whole" / "cells.parquet").read_bytes()
