"""The page of a run of cells: what is on it, what is escaped, and what it does without its input."""

import importlib.util
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from cytolith.cells.build import build_config
from cytolith.cells.config import CellsConfig
from cytolith.cells.pipeline import detect_cells
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.tables import read_table
from cytolith.io.volume import open_volume
from cytolith.report.cutouts import Cutter, draw, half_of
from cytolith.report.write import write_report

SIZE = (6.0, 1.62, 1.62)


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.images = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(cells_report):
    return Page(cells_report.read_text(encoding="utf-8"))


def test_the_page_says_what_the_run_found(cells_run, page):
    record = json.loads((cells_run / "run.json").read_text())
    text = re.sub(r"\s+", " ", page.text)
    assert f"{record['cells']:,}" in text
    assert "6 mad" in text
    assert "background correction" in text
    assert "20 cells at random" in text
    assert "20 borderline cells" in text
    assert record["versions"]["numpy"] in text
    assert "default:" not in text  # nothing differs
    mm3 = np.prod((20, 90, 110)) * np.prod(SIZE) * 1e-9
    assert f"{record['cells'] / mm3:,.0f}" in text


def test_the_page_needs_nothing_else_and_is_accessible(cells_run, cells_report, page):
    text = cells_report.read_text(encoding="utf-8")
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert page.images
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.images)
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert page.tags.count("h1") == 1
    assert cells_run.name in page.text  # as text, not as a tag
    assert "<script>" not in text


def test_the_same_run_gives_the_same_page(cells_run, cells_report, tmp_path):
    write_report(cells_run, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == cells_report.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.html"]


def test_outlines_and_peaks_are_those_of_the_run(cells_run, tmp_path):
    record = json.loads((cells_run / "run.json").read_text())
    volume = open_volume(record["identity"]["input"]["path"], voxel_size=SIZE)
    saved = detect_cells(
        volume,
        shape_detection={"save": str(tmp_path / "labels.npy")},
        intensity_detection={"measure": ("smoothing",)},
    )
    labels = np.load(tmp_path / "labels.npy")
    table, _ = read_table(cells_run / "cells.parquet")
    centres = np.column_stack([table[axis] for axis in "zyx"])
    config = CellsConfig.model_validate(record["config"])
    cutter = Cutter(volume, config, record["noise"], half_of(40.0, SIZE))
    for row in range(0, len(centres), 9):
        look = cutter.look(centres[row])
        box = tuple(slice(o, o + n) for o, n in zip(look.origin, look.image.shape, strict=True))
        np.testing.assert_array_equal(look.image, volume.read(box))
        np.testing.assert_array_equal(look.labels == 1, labels[box] == row + 1)
        assert look.peak == saved["smoothing"][row]
        picture = draw(look, centres[row], 40.0, SIZE)
        assert (picture == (255, 140, 40)).all(-1).any()


def test_what_differs_from_the_defaults_is_marked(make_cells_run, tmp_path):
    config = build_config(
        ("", {"maxima_detection": {"threshold": "2 mad"}, "dog_filter": {"shape": "18,8,8 um"}, "smoothing": None})
    )
    text = Page(write_report(make_cells_run(tmp_path, shape=(8, 60, 70), config=config)).read_text()).text
    assert "default: 6 mad" in text
    assert "default: on" in text
    assert "lies within the noise" in text


def test_without_its_input_the_rest_is_shown(cells_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(cells_run, run)
    record = json.loads((run / "run.json").read_text())
    gone = str(tmp_path / "gone <b>")
    record["input"]["source"] = record["identity"]["input"]["path"] = gone
    (run / "run.json").write_text(json.dumps(record))
    (run / "config.toml").unlink()
    notes = []
    page = Page(write_report(run, notes=notes.extend).read_text(encoding="utf-8"))
    assert "cannot be read any more" in notes[0]
    assert gone in page.text
    assert "The volume and its cells" not in page.text
    assert "Size and intensity" in page.text
    record["identity"]["input"]["path"] = str(tmp_path / "other.npy")
    np.save(tmp_path / "other.npy", np.zeros((3, 4, 5), np.uint8))
    (run / "run.json").write_text(json.dumps(record))
    assert "has changed since the run" in Page(write_report(run).read_text(encoding="utf-8")).text


def test_no_cells_in_a_single_plane(make_cells_run, tmp_path):
    run = make_cells_run(
        tmp_path, shape=(1, 40, 50), config=build_config(("", {"maxima_detection": {"threshold": 1e6}}))
    )
    page = Page(write_report(run).read_text())
    assert "no cells" in page.text
    assert "too flat for views" in page.text
    assert "Size and intensity" not in page.text


def test_steps_that_are_off(make_cells_run, tmp_path):
    config = build_config(("", {"shape_detection": None, "background_correction": None}))
    page = Page(write_report(make_cells_run(tmp_path, shape=(8, 60, 70), config=config)).read_text())
    assert "at random" in page.text
    assert "off" in page.text


def test_mistakes_are_one_line_and_leave_nothing(cells_run, tmp_path, monkeypatch):
    with pytest.raises(VolumeError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(VolumeError, match="holds no run"):
        write_report(tmp_path)
    for target, words in (("a.txt", "html"), ("no/a.html", "no folder"), ("dir.html", "is a folder")):
        (tmp_path / "dir.html").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match=words):
            write_report(cells_run, tmp_path / target)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(VolumeError, match=r"run\.json: is not JSON"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text('{"state": "interrupted"}')
    with pytest.raises(VolumeError, match=r"not finished \(interrupted\)"):
        write_report(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.html", "run.json"]


def test_missing_libraries_are_named(cells_run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jinja2" else find(name, *a))
    with pytest.raises(ConfigError, match=r"no report: jinja2 not installed: pip install 'cytolith\[report\]'"):
        write_report(cells_run)
