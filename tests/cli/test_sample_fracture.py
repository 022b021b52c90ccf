"""``cytolith sample fracture`` as scripts call it."""

import json

import numpy as np
import pytest
import tifffile
from command_line import cytolith


def sample_fracture(*arguments, **options):
    return cytolith("sample", "fracture", *arguments, **options)


def test_stack_and_truth_are_written_and_named(tmp_path):
    done = sample_fracture(tmp_path / "a", "--shape", "20,30,45", "--seed", "5", fresh=True)
    names = ["fracture.tif", "truth-aperture-map.txt", "truth-offset-map.txt", "truth.json"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert name in done.stdout
    stack = tifffile.imread(tmp_path / "a" / "fracture.tif")
    assert stack.shape == (20, 30, 45)
    truth = json.loads((tmp_path / "a" / "truth.json").read_text())
    assert np.count_nonzero(stack) == truth["fracture_voxels"] + truth["speckle_voxels"]
    sample_fracture(tmp_path / "b", "--shape", "20,30,45", "--seed", "5")
    for name in names:
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_sample_is_replaced_only_when_told(tmp_path):
    sample_fracture(tmp_path, "--shape", "20,30,45")
    assert "--overwrite" in sample_fracture(tmp_path, "--shape", "21,30,45", code=1).stderr
    sample_fracture(tmp_path, "--shape", "21,30,45", "--overwrite")
    assert tifffile.imread(tmp_path / "fracture.tif").shape == (21, 30, 45)


@pytest.mark.parametrize("shape", ["1,1,1", "3,4", "20,30,0", "1000000000,100,1000000000", "20,x,30"])
def test_shapes_that_cannot_be_are_refused_in_one_line(tmp_path, shape):
    error = sample_fracture(tmp_path / "x", "--shape", shape, code=2).stderr
    assert "shape" in error
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()
