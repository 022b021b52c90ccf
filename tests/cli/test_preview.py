"""The page of preview: the cells of a whole run, pictures as they should be, and a real browser that shows it."""

import base64
import io
import os
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command_line import cytolith
from PIL import Image

from cytolith import detect_cells
from cytolith.axes import full_region
from cytolith.cells.build import build_config
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError
from cytolith.io.volume import open_volume
from cytolith.preview.look import histogram_bars, what_if
from cytolith.preview.png import grey_uri, layer_uri
from cytolith.preview.run import preview_cells
from cytolith.testing.phantoms import cells_phantom
from cytolith.tune.regions import inside

SIZE = (6.0, 1.62, 1.62)
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    image, _ = cells_phantom((24, 140, 150), seed=8)
    name = "Gehirn & más.npy" if os.name == "nt" else "<b>Gehirn & más.npy"
    path = tmp_path_factory.mktemp("preview") / name
    np.save(path, image)
    return path


DOG = {
    "dog_filter": {"shape": "18 um,12 um,12 um"},
    "maxima_detection": {"h_max": 3, "threshold": 60},
    "shape_detection": {"threshold": 20},
}


@pytest.mark.parametrize("steps", [{}, DOG], ids=["defaults", "difference of Gaussians"])
def test_the_cells_of_a_part_are_those_of_a_whole_run(volume, tmp_path, steps):
    region = (slice(5, 17), slice(30, 90), slice(0, 81))
    config = build_config(("", steps))
    report = preview_cells(volume, tmp_path / "p.html", region=region, config=config, voxel_size=SIZE)
    whole = detect_cells(open_volume(volume, voxel_size=SIZE), config=config)
    names = [name for name in report.look.table if name in whole]
    assert {"z", "size", "source", "truncated"} <= set(names)
    rows = {tuple(row) for row in zip(*(whole[name] for name in names), strict=True)}
    shown = {tuple(row) for row in zip(*(report.look.table[name] for name in names), strict=True)}
    assert shown <= rows
    assert len(shown) == report.cells > 5
    at = np.stack([whole[axis] for axis in "zyx"], 1)
    middle = (slice(7, 15), slice(33, 87), slice(0, 78))  # a cell belongs where its highest voxel is, near its centre
    assert {row for row, there in zip(zip(*(whole[n] for n in names), strict=True), inside(at, [middle]), strict=True)
            if there} <= shown  # fmt: skip


def test_the_table_counts_what_runs_at_those_thresholds_find(volume, tmp_path):
    opened = open_volume(volume, voxel_size=SIZE)
    report = preview_cells(volume, tmp_path / "p.html", region=full_region(opened.shape), voxel_size=SIZE)
    for multiple in (7, 9, 14):
        steps = {"maxima_detection": {"threshold": f"{multiple} mad"}}
        expected = len(detect_cells(opened, config=build_config(("", steps)))["z"])
        assert what_if(report.look.heights, [np.float32(multiple * report.noise)]) == [expected]
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert f'<td class="n">{expected:,}</td>' in page


def test_pictures_are_what_another_reader_sees():
    grey = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(grey_uri(grey).split(",")[1]))))
    np.testing.assert_array_equal(seen, grey // 4 * 4)
    layer = np.zeros((5, 7), np.uint8)
    layer[2, 3], layer[0, 6] = 1, 2
    image = Image.open(io.BytesIO(base64.b64decode(layer_uri(layer, [(255, 0, 9), (1, 2, 3)]).split(",")[1])))
    seen = np.asarray(image.convert("RGBA"))
    assert seen[2, 3].tolist() == [255, 0, 9, 255]
    assert seen[0, 6].tolist() == [1, 2, 3, 255]
    assert seen[..., 3].sum() == 2 * 255


@pytest.mark.parametrize(
    ("shape", "value"), [((1, 40, 50), 7), ((3, 40, 50), 0)], ids=["one plane", "nothing but zeros"]
)
def test_volumes_with_nothing_in_them(tmp_path, shape, value):
    report = preview_cells(np.full(shape, value, np.uint16), tmp_path / "p.html")
    assert report.cells == 0
    assert "There are no maxima here" in (tmp_path / "p.html").read_text()
    assert histogram_bars(np.empty(0), 1.0) == []


def test_no_maxima_wanted(volume, tmp_path):
    config = build_config(("", {"maxima_detection": "none", "shape_detection": "none", "intensity_detection": "none"}))
    report = preview_cells(volume, tmp_path / "p.html", config=config, voxel_size=SIZE)
    assert [panel.name for panel in report.look.panels] == [
        "source", "background", "background_correction", "smoothing",
    ]  # fmt: skip


def test_mistakes_are_named(volume, tmp_path, monkeypatch):
    out = tmp_path / "p.html"
    with pytest.raises(ConfigError, match="--region"):
        preview_cells(volume, out, region="0:99,:,:")
    with pytest.raises(ConfigError, match="--noise"):
        preview_cells(volume, out, noise=float("nan"))
    with pytest.raises(MemoryBudgetError, match="the largest that fits is --region"):
        preview_cells(volume, out, memory=360 * 2**20, voxel_size=SIZE)
    with pytest.raises(OutputError, match="folder"):
        preview_cells(volume, tmp_path)
    out.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        preview_cells(volume, out)
    assert out.read_text() == "mine"
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r"cytolith\[report\]"):
        preview_cells(volume, out, overwrite=True)


def test_a_browser_shows_the_page(volume, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("there is no /usr/bin/chromium to show the page")
    page_path = tmp_path / "seite.html"
    preview_cells(volume, page_path, voxel_size=SIZE)
    messages, requests = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_path.as_uri())
        assert page.inner_text("h1") == volume.name  # what users name files is shown, never taken for markup
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("figure").count() == 6
        broken = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
        assert page.evaluate(broken) == 0
        assert page.locator(".in0").first.is_visible()
        assert not page.locator(".in1").first.is_visible()
        page.click("label[for=view1]")
        assert page.locator(".in1").first.is_visible()
        assert not page.locator(".in0").first.is_visible()
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [page_path.as_uri()]


def test_the_command(volume, tmp_path):
    out = tmp_path / "p.html"
    run = partial(cytolith, "preview", volume, "-o", out, "--voxel-size", "6,1.62,1.62")
    done = run("--region", "0:20,10:100,:", "--set", "maxima_detection.threshold=9mad", "--set", "dog-filter=none")
    assert re.search(r"\d+ cells in 0:20,10:100,0:150", done.stdout)
    assert "9 mad" in out.read_text()
    assert "--overwrite" in run(code=1).stderr
    assert "STEP.FIELD=VALUE" in run("--set", "threshold", "--overwrite", code=2).stderr
    assert "maxima_detection" in run("--set", "maxima.threshold=3", "--overwrite", code=2).stderr
