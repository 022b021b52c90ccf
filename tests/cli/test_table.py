"""``cytolith filter`` as scripts call it, and what ClearMap saves in the hands of all commands that read tables."""

import numpy as np
import pytest
import tifffile
from command_line import cytolith

from cytolith.io.tables import read_table, write_table

TABLE = {"z": np.arange(5.0), "y": np.arange(5.0), "x": np.arange(5.0), "size": np.arange(5)}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_table(TABLE, folder / "cells.parquet", {"voxel_size_um": "[6.0, 2.0, 2.0]"})
    return folder


def test_the_folder_of_a_run(run, tmp_path):
    out = tmp_path / "kept.parquet"
    done = cytolith("filter", run, "-o", out, "--size", "2,4")
    assert done.stdout == f"2 of 5 rows kept: {out}\n"
    table, metadata = read_table(out)
    assert table["size"].tolist() == [2, 3]
    assert metadata == {"voxel_size_um": "[6.0, 2.0, 2.0]"}


@pytest.mark.parametrize("command", ["filter", "export", "density"])
def test_what_is_not_there(tmp_path, command):
    more = {"filter": ["--size", "1,"], "density": ["--voxel-size", "25"]}.get(command, [])
    done = cytolith(command, tmp_path / "nofolder", "-o", tmp_path / "a.csv", *more, code=1)
    assert f"{tmp_path / 'nofolder'}: no such file\n" in done.stderr


def test_a_folder_without_a_table(tmp_path):
    done = cytolith("filter", tmp_path, "-o", tmp_path / "a.csv", "--size", "1,", code=1)
    assert "holds no cells.parquet; give the folder of a finished run of cells, or a table" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate", "s4.npy"],
        ["export", "s4.npy", "-o", "a.csv"],
        ["export", "s4.npy", "-o", "a.xml"],
        ["filter", "s4.npy", "-o", "a.csv", "--source", "0,"],
        ["density", "s4.npy", "-o", "a.tif", "--voxel-size", "25", "--volume-voxel-size", "5,5,5", "--shape", "3,4,5"],
        ["score", "s4.npy", "s4.npy", "--voxel-size", "5,5,5"],
        ["regions", "s4.npy", "labels.tif", "--voxel-size", "5,5,5", "--volume-voxel-size", "5,5,5"],
    ],
    ids=" ".join,
)
def test_names_in_bytes_as_clearmap_writes_them(tmp_path, arguments):
    fields = [("x", float), ("y", float), ("z", float), ("source", "f4"), ("name", "S256")]
    np.save(tmp_path / "s4.npy", np.zeros(3, fields))
    tifffile.imwrite(tmp_path / "labels.tif", np.ones((4, 5, 6), np.uint16), photometric="minisblack")
    assert "3" in cytolith(*arguments, cwd=tmp_path).stdout
