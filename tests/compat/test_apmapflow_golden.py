"""The command on the inputs of recorded runs of apmapflow: the same files."""

import json
import lzma

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cytolith.compat.apmapflow import main

RUNS = {
    "default": ("binary-fracture-small", ""),
    "n1": ("binary-fracture-small", "-n 1"),
    "n5": ("binary-fracture-small", "-n 5 --gen-cluster-img"),
    "n1000": ("binary-fracture-small", "-n 1000 --gen-cluster-img"),
    "invert": ("binary-fracture-small", "-i"),
    "invert_n1": ("binary-fracture-small", "-i -n 1 --gen-cluster-img"),
    "synth200_default": ("synth200", ""),
    "synth200_n1": ("synth200", "-n 1"),
    "synth200_n5": ("synth200", "-n 5 --gen-cluster-img"),
    "edge_random_default": ("edge-random", ""),
    "edge_random_n1": ("edge-random", "-n 1 --gen-cluster-img"),
    "edge_random_n5": ("edge-random", "-n 5 --gen-cluster-img"),
    "edge_fault_default": ("edge-fault", ""),
    "edge_fault_n1": ("edge-fault", "-n 1 --gen-cluster-img"),
    "edge_fault_i": ("edge-fault", "-i"),
    "edge_holes_default": ("edge-holes", ""),
    "edge_holes_n1": ("edge-holes", "-n 1 --gen-cluster-img"),
    "edge_conn_n3": ("edge-conn", "-n 3 --gen-cluster-img --no-offset-map"),
}
OFFSETS_OF_OTHERS = {"n1000": "default", "synth200_n1": "synth200_n5"}
"""Runs whose offset maps take seconds and show nothing that those of the others do not."""


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden" / "apmapflow"
    if not folder.is_dir():
        pytest.skip("no recorded runs of apmapflow in the folder 'shared'")
    return folder


def unpack(packed, path):
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


def assert_same_colours(found, expected):
    """Each cluster has one colour, the one recorded; clusters of one size may have exchanged theirs."""
    labels, count = ndimage.label(expected, np.ones((3, 3, 3)))
    np.testing.assert_array_equal(found > 0, labels > 0)
    numbers = np.arange(1, count + 1)
    colours = ndimage.minimum(found, labels, numbers)
    np.testing.assert_array_equal(ndimage.maximum(found, labels, numbers), colours)
    size = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    of_recorded = ndimage.minimum(expected, labels, numbers)
    assert sorted(zip(size, colours, strict=True)) == sorted(zip(size, of_recorded, strict=True))


def test_all_recorded_runs_are_here(golden):
    manifest = json.loads((golden / "manifest.json").read_text())
    assert {run["dir"]: (run["input"].removesuffix(".tif"), run["args"]) for run in manifest["runs"]} == RUNS


@pytest.mark.parametrize("run", RUNS)
def test_recorded_run(golden, tmp_path, run):
    name, arguments = RUNS[run]
    stack = unpack(golden / "inputs" / f"{name}.tif.xz", tmp_path / f"{name}.tif")
    no_offset = ["--no-offset-map"] if run in OFFSETS_OF_OTHERS else []
    assert main([str(stack), "-o", str(tmp_path / "out"), *arguments.split(), *no_offset]) == 0
    recorded = sorted(path for path in (golden / run).iterdir() if not (no_offset and "offset" in path.name))
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [path.stem for path in recorded]
    for packed in recorded:
        expected, found = unpack(packed, tmp_path / packed.stem), tmp_path / "out" / packed.stem
        if "clusters" in found.name:
            assert_same_colours(tifffile.imread(found), tifffile.imread(expected))
        elif found.suffix == ".tif":
            np.testing.assert_array_equal(tifffile.imread(found), tifffile.imread(expected), err_msg=found.name)
        else:
            assert found.read_bytes() == expected.read_bytes(), found.name
