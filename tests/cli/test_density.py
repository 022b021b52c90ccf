"""``cytolith density`` as scripts call it."""

import json

import numpy as np
import pytest
import tifffile
from command_line import cytolith

from cytolith.cli.density import density
from cytolith.cli.lengths import shift, voxel_edges
from cytolith.errors import ConfigError, OutputError
from cytolith.io.tables import write_table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves: 200 cells in 20 x 30 x 40 voxels of 6 x 2 x 2 um."""
    folder = tmp_path_factory.mktemp("Läufe") / "out"
    folder.mkdir()
    points = np.sort(np.random.default_rng(2).uniform(0, 1, (200, 3)) * (19, 29, 39), axis=0)
    table = dict(zip("zyx", points.T, strict=True))
    table |= dict(zip(("z_um", "y_um", "x_um"), (points * (6, 2, 2)).T, strict=True)) | {"size": np.arange(200)}
    write_table(table, folder / "cells.parquet", {"voxel_size_um": "[6, 2, 2]"})
    record = {"state": "finished", "input": {"shape": [20, 30, 40], "voxel_size_um": [6, 2, 2]}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_density_of_a_run(run, tmp_path):
    out = tmp_path / "map.tif"
    done = cytolith("density", run, "-o", out, "--voxel-size", "20 um")
    image = tifffile.imread(out)
    assert image.shape == (6, 3, 4)
    assert image.dtype == np.uint32
    assert image.sum() == 200
    assert "200 cells in 6 x 3 x 4 voxels of 20 x 20 x 20 um" in done.stdout
    assert str(out) in done.stdout
    density(run / "cells.parquet", output=tmp_path / "w.tif", voxel_size="20,20,20", radius="30 um", weights="size",
            per_mm3=True, shape="6,3,3")  # fmt: skip
    assert tifffile.imread(tmp_path / "w.tif").dtype == np.float32


def test_mistakes_are_one_line(run, tmp_path):
    out = tmp_path / "map.tif"
    for message, options in [
        ("--voxel-size", {"voxel_size": "0"}),
        ("--weights sizes", {"weights": "sizes"}),
        ("radius", {"radius": "2 furlongs"}),
        ("--shape", {"shape": "1,2"}),
    ]:
        with pytest.raises(ConfigError, match=message):
            density(run, output=out, **{"voxel_size": "20"} | options)
        assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="is the table"):
        density(run / "cells.parquet", output=run / "cells.parquet", voxel_size="20")
    assert "--voxel-size" in cytolith("density", run, "-o", out, "--voxel-size", "-1", code=2).stderr
    assert "no such file" in cytolith("density", tmp_path / "n.csv", "-o", out, "--voxel-size", "9", code=1).stderr
    out.write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        density(run, output=out, voxel_size="20")
    assert out.read_text() == "mine"
    density(run, output=out, voxel_size="20", overwrite=True)
    assert tifffile.imread(out).sum() == 200


def test_lengths():
    assert voxel_edges("25 um", "-") == voxel_edges("25", "-") == voxel_edges("25,25,25 µm", "-") == (25, 25, 25)
    assert voxel_edges("(6, 1.62, 1.62)", "-") == (6, 1.62, 1.62)
    assert shift("-3, 4.5 um, 0", "-") == (-3, 4.5, 0)
    for text in ("", "a", "0", "-1", "1,2", "nan", "inf", "1 mm", "1,2,3,4"):
        with pytest.raises(ConfigError, match="--x"):
            voxel_edges(text, "--x")
        with pytest.raises(ConfigError, match="--x"):
            shift(text, "--x")
