"""``cytolith export`` as scripts call it."""

import json

import numpy as np
import pytest
from command_line import cytolith

from cytolith.io.tables import read_points, write_table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    points = np.random.default_rng(0).uniform(0, 50, (20, 3))
    table = {axis: points[:, i] for i, axis in enumerate("zyx")} | {"size": np.arange(20)}
    write_table(table, folder / "cells.parquet", {"voxel_size_um": "[6.0, 2.0, 2.0]"})
    return folder


def test_export(run, tmp_path):
    done = cytolith("export", run, "-o", tmp_path / "cells.xml")
    assert done.stdout == f"20 rows: {tmp_path / 'cells.xml'}\n"
    np.testing.assert_array_equal(read_points(tmp_path / "cells.xml"), np.rint(read_points(run / "cells.parquet")))
    cytolith("export", run / "cells.parquet", "-o", tmp_path / "points.csv", "--format", "napari")
    assert (tmp_path / "points.csv").read_text().startswith("index,axis-0,axis-1,axis-2,size\n0,")
    cytolith("export", run, "-o", tmp_path / "ng", "--voxel-size", "5,4,3")
    assert json.loads((tmp_path / "ng" / "info").read_text())["dimensions"]["z"] == [5e-6, "m"]


def test_mistakes(run, tmp_path):
    (tmp_path / "there.xml").write_text("mine")
    assert "--overwrite" in cytolith("export", run, "-o", tmp_path / "there.xml", code=1).stderr
    assert (tmp_path / "there.xml").read_text() == "mine"
    assert "add --format" in cytolith("export", run, "-o", tmp_path / "a.txt", code=2).stderr
    assert "one of clearmap" in cytolith("export", run, "-o", tmp_path / "a", "--format", "ims", code=2).stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there.xml"]
