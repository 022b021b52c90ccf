"""``cytolith score`` as scripts call it."""

import json
import re
import sys

import numpy as np
import pyarrow.csv
import pytest
import tifffile
from command_line import cytolith

from cytolith.cli.score import score
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.tables import write_table


@pytest.fixture
def data(tmp_path):
    """A run of three cells, of which two are annotated, and an annotation that is not found."""
    folder = tmp_path / "run"
    folder.mkdir()
    volume = np.random.default_rng(0).integers(0, 99, (12, 30, 40)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "brain.tif", volume)
    points = np.array([[2, 5, 5], [4, 20, 30], [9, 9, 9]], float)
    table = {axis: points[:, i] for i, axis in enumerate("zyx")} | {"size": np.array([10, 20, 30])}
    write_table(table, folder / "cells.parquet", {"voxel_size_um": "[6.0, 2.0, 2.0]"})
    read = {"source": str(tmp_path / "brain.tif"), "shape": [12, 30, 40], "voxel_size_um": [6, 2, 2]}
    (folder / "run.json").write_text(json.dumps({"input": read}))
    (tmp_path / "truth.csv").write_text("z,y,x\n2,5,6\n4,22,30\n11,1,1\n")
    return tmp_path


LINE = re.compile(
    r"precision (\S+)  recall (\S+)  F1 (\S+)  \(matched 2, only detected 1, only annotated 1; within 8 um\)"
)


def test_the_line_that_scripts_read(data, capsys):
    done = cytolith("score", data / "run", data / "truth.csv")
    first, second = done.stdout.splitlines()
    assert LINE.fullmatch(first).groups() == ("0.667", "0.667", "0.667")
    assert second == "mean distance 3.00 um"
    score(data / "run" / "cells.parquet", data / "truth.csv", tolerance="1")
    tight = capsys.readouterr().out
    assert "F1 0.333" in tight
    assert "within 1)" in tight


def test_folder_of_results(data):
    pytest.importorskip("matplotlib")
    regions = ("--region", "Größe=0:3,:,:", "--region", "b=:,10:,:")
    done = cytolith("score", data / "run", data / "truth.csv", "-o", data / "out", *regions)
    assert "Größe" in done.stdout
    assert "regions together" in done.stdout
    out = data / "out"
    assert sorted(p.name for p in out.iterdir()) == ["matches.csv", "score.csv", "score.json", "score.png"]
    record = json.loads((out / "score.json").read_text(encoding="utf-8"))
    assert record["matched"] == 2
    assert [r["region"] for r in record["regions"]] == ["Größe", "b", "regions together"]
    matches = pyarrow.csv.read_csv(out / "matches.csv").to_pydict()
    assert sorted(matches["outcome"]) == ["false alarm", "hit", "hit", "miss"]
    assert pyarrow.csv.read_csv(out / "score.csv").to_pydict()["matched"] == [2, 1, 1, 2]
    from PIL import Image

    with Image.open(out / "score.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in ((0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)):
        assert (np.abs(pixels.astype(int) - colour).sum(axis=1) < 30).sum() > 5
    with pytest.raises(OutputError, match="--overwrite"):
        score(data / "run", data / "truth.csv", output=out)


def test_regions_from_labels(data, capsys):
    labels = np.zeros((12, 30, 40), np.uint32)
    labels[:, :, :20], labels[:6, :, 20:] = 614454277, 5
    tifffile.imwrite(data / "labels.tif", labels)
    (data / "names.csv").write_text("id,name\n5,CA1\n")
    score(data / "run", data / "truth.csv", regions=data / "labels.tif", region_names=data / "names.csv", json_=True)
    regions = {r["region"]: r for r in json.loads(capsys.readouterr().out)["regions"]}
    assert list(regions) == ["CA1", "614454277", "regions together"]
    assert (regions["CA1"]["matched"], regions["614454277"]["only_annotated"]) == (1, 1)


def test_truth_of_other_tools(data, capsys):
    mask = np.zeros((12, 30, 40), np.uint8)
    mask[2, 5, 5:8] = mask[4, 22, 30] = mask[11, 1, 1] = 255
    tifffile.imwrite(data / "mask.tif", mask, photometric="minisblack")
    marker = "<Marker><MarkerX>{}</MarkerX><MarkerY>{}</MarkerY><MarkerZ>{}</MarkerZ></Marker>"
    kinds = {2: [(6, 5, 2), (30, 22, 4), (1, 1, 11)], 1: [(9, 9, 9)]}
    body = "".join(
        f"<Marker_Type><Type>{kind}</Type>{''.join(marker.format(*p) for p in points)}</Marker_Type>"
        for kind, points in kinds.items()
    )
    (data / "truth.xml").write_text(
        "<CellCounter_Marker_File><Image_Properties><Image_Filename>placeholder.tif</Image_Filename></Image_Properties>"
        f"<Marker_Data>{body}</Marker_Data></CellCounter_Marker_File>"
    )
    for name in ("mask.tif", "truth.xml"):
        score(data / "run", data / name)
        assert LINE.match(capsys.readouterr().out)
    score(data / "run", data / "truth.xml", marker_type=1)
    assert "matched 1, only detected 2, only annotated 0" in capsys.readouterr().out


def test_without_matplotlib_the_rest_is_written(data, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    score(data / "run", data / "truth.csv", output=data / "out")
    assert sorted(p.name for p in (data / "out").iterdir()) == ["matches.csv", "score.csv", "score.json"]
    error = capsys.readouterr().err
    assert "pip install 'cytolith[report]'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("source", ["gone", "other shape", "broken"])
def test_a_picture_without_its_volume(data, source):
    pytest.importorskip("matplotlib")
    if source == "gone":
        (data / "brain.tif").unlink()
    elif source == "broken":
        (data / "brain.tif").write_bytes(b"II*\0")
    else:
        tifffile.imwrite(data / "brain.tif", np.zeros((5, 6, 7), np.uint8))
    score(data / "run", data / "truth.csv", output=data / "out")
    assert (data / "out" / "score.png").stat().st_size > 1000


def test_mistakes(data):
    with pytest.raises(ConfigError, match=r"--region-names: .*add --regions"):
        score(data / "run", data / "truth.csv", region_names=data / "names.csv")
    with pytest.raises(ConfigError, match=r"--type: is for markers in \.xml"):
        score(data / "run", data / "truth.csv", marker_type=2)
    with pytest.raises(ConfigError, match="the voxel size is unknown; add --voxel-size"):
        score(data / "truth.csv", data / "truth.csv")
    (data / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        score(data / "run", data / "truth.csv", output=data / "file")
    assert "--region" in cytolith("score", data / "run", data / "truth.csv", "--region", "a=1:2", code=2).stderr
    with pytest.raises(VolumeError, match="does not exist"):
        score(data / "run", data / "none.tif")
