"""The page of a fracture run: maps read back, what was filled in, and what it does with files that are gone."""

import html
import json
import os
import shutil

import numpy as np
import pytest
import tifffile

from cytolith.errors import VolumeError
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.maps import OffsetSettings
from cytolith.fracture.pipeline import run_fracture
from cytolith.fracture.source import Source
from cytolith.io.volume import open_volume
from cytolith.report.fracture import locate
from cytolith.report.fracture_maps import find_patches, first_voxels, map_rows, read_small
from cytolith.report.write import write_report


@pytest.mark.parametrize("axis", "zyx")
def test_what_was_filled_in_is_found_again(tmp_path, axis):
    image = np.zeros((20, 24, 28), np.uint8)
    along = "zyx".index(axis)
    generator = np.random.default_rng(1)
    first = np.moveaxis(image, along, 0)
    first[8:12] = 255
    for row, column in generator.integers(3, 17, (6, 2)):
        first[:, row, column] = 0  # no fracture
    first[3, 10, 10] = 255  # far too steep
    tifffile.imwrite(tmp_path / "stack.tif", image)
    run_fracture(
        tmp_path / "stack.tif",
        tmp_path / "run",
        FractureConfig(axis=axis, offsets=OffsetSettings(percentile=97)),
        workers=1,
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    raw = np.where((image > 0).any(along), (image > 0).argmax(along), -1)
    source = Source(open_volume(tmp_path / "stack.tif"))
    np.testing.assert_array_equal(first_voxels(source, axis, 0, len(raw)), raw)
    maps = [locate(tmp_path / "run", summary, name) for name in ("aperture_map", "offset_map")]
    patches = find_patches(*maps, raw.shape, source, axis)
    np.testing.assert_array_equal(patches.missing > 0, raw < 0)
    final = np.loadtxt(maps[1])
    np.testing.assert_array_equal(patches.removed > 0, (raw >= 0) & ~np.isclose(final, raw, atol=1e-5))
    assert patches.removed.any()
    assert find_patches(*maps, raw.shape, None, axis).removed is None


def test_maps_are_read_strip_by_strip(tmp_path, monkeypatch):
    monkeypatch.setattr("cytolith.report.fracture_maps._CELLS_AT_ONCE", 20)
    values = np.random.default_rng(0).normal(size=(13, 7))
    values[3, 4] = np.nan
    path = tmp_path / "map.txt"
    np.savetxt(path, values, "%f", delimiter="\t")
    strips = list(map_rows(path, (13, 7)))
    assert [len(strip) for strip in strips] == [2, 2, 2, 2, 2, 2, 1]
    np.testing.assert_allclose(np.concatenate(strips), values, atol=1e-6)
    np.testing.assert_allclose(read_small(path, (13, 7)).image, values, atol=1e-6)
    for shape, words in (((14, 7), "13 rows"), ((13, 8), "rows of 7 cells")):
        with pytest.raises(VolumeError, match=words):
            list(map_rows(path, shape))
    path.write_text("1\t2\nx\t3\n")
    with pytest.raises(VolumeError, match="no map of numbers"):
        list(map_rows(path, (2, 2)))


def test_the_page_shows_the_numbers_of_the_summary(fracture_run, fracture_report):
    text = fracture_report.read_text(encoding="utf-8")
    summary = json.loads((fracture_run / "summary.json").read_text())
    assert f"1 of {summary['clusters']}" in text
    assert f"{summary['voxels_kept']:,} voxels" in text
    assert f"{summary['aperture_um']['mean']:,.4g} µm" in text
    for words in ("Map of the aperture", "Show what was patched", "replaced by the filter", "Histogram of apertures"):
        assert words in text
    assert "<script" not in text


def test_files_that_are_gone_are_named(fracture_run, tmp_path):
    run = tmp_path / ("möved & b" if os.name == "nt" else "möved <b>")
    shutil.copytree(fracture_run, run)
    stack = next(run.glob("*-processed.tif"))
    stack.unlink()
    summary = json.loads((run / "summary.json").read_text())
    gone = str(tmp_path / "elsewhere")
    summary["outputs"] = {name: path.replace(str(fracture_run), gone) for name, path in summary["outputs"].items()}
    (run / "summary.json").write_text(json.dumps(summary))
    text = write_report(run).read_text(encoding="utf-8")
    assert html.escape(run.name) in text
    assert "which are not marked" in text or summary["offset"]["removed_share"] == 0
    next(run.glob("*-offset-map.txt")).unlink()
    (run / "clusters.csv").unlink()
    text = write_report(run).read_text(encoding="utf-8")
    assert text.count("is not there any more") == 2
    assert "Map of the aperture" in text
    assert "Map of the offset" not in text
    (run / "summary.json").write_text('{"shape": [1, 2]}')
    with pytest.raises(VolumeError, match="is not the summary"):
        write_report(run)


def test_a_stack_without_fracture(tmp_path):
    tifffile.imwrite(tmp_path / "empty.tif", np.zeros((5, 6, 7), np.uint8))
    run_fracture(tmp_path / "empty.tif", tmp_path / "run", FractureConfig(), workers=1)
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "no voxel is fracture" in text
    assert "0 of 0" in text
