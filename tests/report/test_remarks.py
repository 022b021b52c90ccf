"""Warnings in words, marks and figures."""

import io
import xml.etree.ElementTree as ET
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cytolith.io.volume import open_volume
from cytolith.report.charts import bins_of, histogram
from cytolith.report.images import figure_uri, image_uri, stretch
from cytolith.report.marks import mark_cells
from cytolith.report.overview import look_over
from cytolith.report.page import duration, number
from cytolith.report.remarks import cells_remarks, ranges_text, saturated_voxels, silent_planes


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(b64decode(uri.split(",", 1)[1]))))


def remarks_of(record, cells, image=None, truncated=0, missing=None):
    seen = None if image is None else look_over(open_volume(image))
    return " ".join(cells_remarks(record, cells, truncated, seen, missing))


def test_what_is_wrong_with_a_volume_is_said():
    image = np.random.default_rng(0).integers(10, 4000, (9, 20, 20)).astype(np.uint16)
    cells = np.full(9, 30)
    assert remarks_of({}, cells, image) == ""
    image[3:5] = 7
    image[8, :3, :4] = 65_535
    text = remarks_of({"hints": ["a hint"]}, cells, image, truncated=4)
    assert "a hint" in text
    assert "2 planes without signal (a single grey value): 3\N{EN DASH}4." in text
    assert "12 voxels (0.333 %) are saturated" in text
    assert "65,535" in text
    assert "4 of 270 cells are marked truncated" in text
    assert "gone" in remarks_of({}, cells, missing="The file is gone.")


def test_a_threshold_within_the_noise_is_said():
    record = {"noise": 10.0, "thresholds": {"maxima_detection.threshold": 29.0}}
    assert "lies within the noise" in remarks_of(record, np.ones(3, int))
    record["thresholds"]["maxima_detection.threshold"] = 31.0
    assert remarks_of(record, np.ones(3, int)) == ""


@pytest.mark.parametrize(
    ("top", "count", "dtype", "expected"),
    [(4095, 12, np.uint16, 12), (4095, 2, np.uint16, 0), (4000, 50, np.uint16, 0), (255, 1, np.uint8, 1)],
)
def test_saturation_is_where_a_camera_ends(top, count, dtype, expected):
    image = np.zeros((4, 30, 30), dtype)
    image[0, 0, :count] = image[1, 3, : max(count - 30, 0)] = top
    assert saturated_voxels(look_over(open_volume(image))) == min(expected, 30 + max(count - 30, 0))


def test_planes_that_stay_silent():
    cells = np.full(40, 25)
    cells[[17, 18]] = 0
    assert list(silent_planes(cells, np.array([18]))) == [17]
    assert not silent_planes(np.zeros(3, int), np.array([], int)).size
    assert ranges_text([1, 2, 3, 9]) == "1\N{EN DASH}3, 9"
    assert ranges_text(range(0, 100, 2), most=2) == "0, 2 and 48 more ranges"


def test_a_circle_is_around_its_cell():
    layer, kind = mark_cells(np.array([[0.5, 0.25], [2.0, 0.1]]), (100, 200), 8.0)
    assert kind == "circles"
    drawn = layer[..., 3] > 128
    assert ndimage.label(drawn, np.ones((3, 3)))[1] == 1  # what lies outside is not drawn
    assert ndimage.center_of_mass(drawn) == pytest.approx((49.5, 49.5), abs=0.1)
    away = np.hypot(*(np.argwhere(drawn) - (49.5, 49.5)).T)
    assert 6.5 < away.min() < away.max() < 9.5


def test_many_cells_are_shading_that_follows_their_density():
    places = np.random.default_rng(0).uniform(0, 1, (50_000, 2)) * (1, 0.5)
    layer, kind = mark_cells(places, (300, 400), 5.0)
    assert kind == "density"
    assert layer[:, :190, 3].mean() > 100
    assert layer[:, 230:, 3].max() == 0
    assert not mark_cells(np.empty((0, 2)), (30, 40), 5.0)[0][..., 3].any()


def test_images_come_back_as_they_were():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    pixels[..., 3] = 255
    np.testing.assert_array_equal(decoded(image_uri(pixels, lossless=True))[..., :3], pixels[..., :3])
    grey = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[:, np.newaxis], 30, 1)
    assert np.abs(decoded(image_uri(grey))[..., 0].astype(int) - grey).max() < 12
    np.testing.assert_array_equal(stretch(np.array([0, 10, 15, 20, 99.0]), 10, 20), [0, 0, 128, 255, 255])


@pytest.mark.parametrize("values", [[], [3], [np.nan, np.inf], [0, 0, 5], np.geomspace(1, 1e6, 99)])
def test_histograms_of_all_kinds_of_values(values):
    figure = histogram(np.array(values, float), "size <b>", (2.0, None))
    root = ET.fromstring(b64decode(figure_uri(figure).split(",", 1)[1]))
    assert root.tag.endswith("svg")
    again = histogram(np.array(values, float), "size <b>", (2.0, None))
    assert figure_uri(histogram(np.array(values, float), "size <b>", (2.0, None))) == figure_uri(again)
    finite = np.array(values, float)[np.isfinite(values)]
    if finite.size:
        assert np.histogram(finite, bins_of(finite)[0])[0].sum() == finite.size


def test_numbers_as_people_read_them():
    assert [number(v) for v in (1234567, 0.123456, 12345.6, None, float("nan"))] == [
        "1,234,567", "0.1235", "12,346", "\N{EN DASH}", "\N{EN DASH}"]  # fmt: skip
    assert [duration(s) for s in (0.5163, 200, 7500)] == ["0.516 s", "3 min 20 s", "2 h 5 min"]
