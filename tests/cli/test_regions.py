"""``cytolith regions`` as scripts call it."""

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import tifffile
from command_line import cytolith

from cytolith.cli.regions import regions
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.tables import write_table


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Cells, an annotation of 50 um with an id of Allen's, and names."""
    folder = tmp_path_factory.mktemp("régions")
    points = np.random.default_rng(4).uniform(0, 1, (300, 3)) * (240, 320, 400)
    write_table(dict(zip(("z_um", "y_um", "x_um"), points.T, strict=True)) | {"size": np.arange(300)},
                folder / "cells.csv")  # fmt: skip
    annotation = np.zeros((4, 6, 8), np.uint32)
    annotation[:, :3] = 614454277
    annotation[:2, 3:] = 8
    annotation[3, 3:, 4:] = 42
    tifffile.imwrite(folder / "annotation.tif", annotation, photometric="minisblack")
    (folder / "names.csv").write_text(
        "id,name,acronym,parent_structure_id\n997,root,root,\n8,grey,g,997\n614454277,cortex,CTX,8\n"
    )
    return folder, points, annotation


def test_counts_per_region(files, tmp_path, capsys):
    folder, points, annotation = files
    out = tmp_path / "counts.csv"
    arguments = ["regions", folder / "cells.csv", folder / "annotation.tif", "--names", folder / "names.csv",
                 "--voxel-size", "50 um"]  # fmt: skip
    done = cytolith(*arguments, "-o", out, fresh=True)
    table = pyarrow.csv.read_csv(out).to_pydict()
    voxels = np.floor(points / 50).astype(int)
    inside = (voxels < annotation.shape).all(axis=1)
    found = np.where(inside, annotation[tuple(np.minimum(voxels, np.array(annotation.shape) - 1).T)], 0)
    expected = {int(region): int((found == region).sum()) for region in (0, 997, 8, 614454277, 42)}
    assert dict(zip(table["id"], table["cells"], strict=True)) == expected
    assert table["id"] == [0, 997, 8, 614454277, 42]
    assert table["name"] == ["outside", "root", "grey", "cortex", "unknown"]
    assert table["cells_with_children"][1] == expected[8] + expected[614454277]
    assert sum(table["cells"]) == 300
    assert f"{300 - expected[0]:,} of 300 cells" in done.stdout
    assert f"{(~inside).sum()} cells lie beyond the annotation" in done.stderr
    assert "does not name 1 ids of the annotation: 42" in done.stderr
    regions(folder / "cells.csv", str(folder / "annotation.tif"), names=folder / "names.csv", voxel_size="50")
    assert "cortex" in capsys.readouterr().out
    tifffile.imwrite(tmp_path / "sides.tif", np.broadcast_to(np.arange(8) // 4 + 1, (4, 6, 8)).astype(np.uint8),
                     photometric="minisblack")  # fmt: skip
    cytolith(*arguments, "-o", tmp_path / "c.parquet", "--hemispheres", tmp_path / "sides.tif", "--offset", "-50,0,0")
    halves = pyarrow.parquet.read_table(tmp_path / "c.parquet").to_pydict()
    assert sorted(set(halves["hemisphere"])) == [0, 1, 2]
    assert sum(halves["cells"]) == 300


def test_mistakes_are_one_line(files, tmp_path):
    folder, _, _ = files
    table, annotation = folder / "cells.csv", folder / "annotation.tif"
    for message, error, options in [
        ("--voxel-size", ConfigError, {"voxel_size": None}),
        ("--offset", ConfigError, {"offset": "1,2"}),
        ("no such file", VolumeError, {"names": folder / "none.csv"}),
        (".csv or .parquet", ConfigError, {"output": tmp_path / "c.txt"}),
        ("is an input", ConfigError, {"output": table}),
    ]:
        with pytest.raises(error, match=message) as caught:
            regions(table, str(annotation), **{"voxel_size": "50"} | options)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert "does not exist" in cytolith("regions", table, folder / "none.tif", "--voxel-size", "9", code=1).stderr
    (tmp_path / "c.csv").write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        regions(table, str(annotation), voxel_size="50", output=tmp_path / "c.csv")
    assert (tmp_path / "c.csv").read_text() == "mine"
