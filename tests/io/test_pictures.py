"""Pictures of maps: what is drawn where, in which colours, and that any map gives one."""

import errno

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cytolith.errors import OutputError
from cytolith.io import pictures
from cytolith.io.pictures import reduce_map, write_map_picture

GREY = (190, 190, 190)
DARK, MIDDLE, BRIGHT = (68, 1, 84), (33, 144, 141), (253, 231, 37)


def picture(path, image, **options):
    write_map_picture(path, image, **{"title": "core: aperture", "label": "aperture (voxels)", **options})
    with Image.open(path) as drawn:
        assert drawn.format == "PNG"
        return np.array(drawn.convert("RGB"))


@given(
    arrays(
        np.float64, st.tuples(st.integers(1, 23), st.integers(1, 31)), elements=st.floats(-1e6, 1e6) | st.just(np.nan)
    ),
    st.integers(1, 12),
    st.integers(1, 9),
)
@settings(max_examples=100)
def test_reduced_maps_are_means_of_blocks(image, longest, height):
    strips = (image[row : row + height] for row in range(0, len(image), height))
    reduced = reduce_map(strips, image.shape, longest)
    edge = -(-max(image.shape) // longest)
    assert max(reduced.shape) <= longest
    for row in range(-(-image.shape[0] // edge)):
        for column in range(-(-image.shape[1] // edge)):
            block = image[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge]
            valid = block[np.isfinite(block)]
            expected = valid.mean() if valid.size else np.nan
            np.testing.assert_allclose(reduced[row, column], expected, rtol=1e-9, atol=1e-6)


def test_small_integer_maps_are_not_changed():
    image = np.random.default_rng(1).integers(-5, 99, (12, 17), "int32")
    np.testing.assert_array_equal(reduce_map([image[:5], image[5:]], image.shape), image)
    with pytest.raises(ValueError, match=r"the strips hold 5 rows of a map of \(12, 17\)"):
        reduce_map([image[:5]], image.shape)


def test_every_cell_is_a_block_of_its_colour_in_its_place(tmp_path):
    image = np.array([[0, 1, 2, 3], [4, 5, np.nan, 7], [8, 9, 10, 11.0]])
    pixels = picture(tmp_path / "a.png", image)
    cells = np.delete(np.arange(12), 6)
    steps = np.linspace(0, len(pictures._ANCHORS) - 1, 256)
    table = np.array([np.interp(steps, range(9), band) for band in np.transpose(pictures._ANCHORS)]).T.round()
    top, bottom, left, right = 80, 80 + 3 * 250, 120, 120 + 4 * 250
    drawn = pixels[top:bottom, left:right].reshape(3, 250, 4, 250, 3)
    assert (drawn == drawn[:, :1, :, :1]).all()
    colours = drawn[:, 0, :, 0].reshape(12, 3)
    np.testing.assert_array_equal(colours[cells], table[np.rint(cells / 11 * 255).astype(int)])
    assert tuple(colours[6]) == GREY
    assert (pixels[top - 1, left:right] == pictures._INK).all()  # the frame fits closely
    assert (pixels[top:bottom, right] == pictures._INK).all()


@pytest.mark.parametrize("cell_size", [(30.0, 10.0), (10.0, 30.0), (7.0, 9.0)])
@pytest.mark.parametrize("shape", [(40, 60), (900, 1000), (30, 17)])
def test_cells_keep_their_proportions(tmp_path, cell_size, shape):
    pixels = picture(tmp_path / "a.png", np.ones(shape), cell_size=cell_size)
    inside = (pixels == MIDDLE).all(axis=-1)
    left = np.argmax(inside.any(axis=0))
    top, height = np.argmax(inside[:, left]), inside[:, left].sum()
    width = np.argmin(inside[top, left:])  # up to the frame; the colour bar comes later
    expected = shape[0] * cell_size[0] / (shape[1] * cell_size[1])
    assert height / width == pytest.approx(expected, abs=2 / width * (1 + expected))
    assert max(height / 900, width / 1000) > 0.5


def test_a_far_outlier_does_not_take_the_colours(tmp_path):
    image = np.tile(np.arange(100.0), (100, 1))
    image[50, 3] = 1e6
    pixels = picture(tmp_path / "a.png", image)
    assert tuple(pixels[82, 122]) == DARK
    assert tuple(pixels[82, 120 + 9 * 100 - 2]) == BRIGHT
    assert tuple(pixels[80 + 9 * 50 + 2, 120 + 9 * 3 + 2]) == BRIGHT


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (300, 1), (2, 3), (1000, 40), (37, 1000)])
@pytest.mark.parametrize(
    "fill",
    [
        lambda n: np.arange(n, dtype=float),
        lambda n: np.full(n, 7),
        lambda n: np.zeros(n, "int32"),
        lambda n: np.full(n, np.nan),
        lambda n: np.where(np.arange(n) % 3, np.nan, 0.25),
        lambda n: -1e9 * np.arange(n),
        lambda n: np.where(np.arange(n) % 2, np.inf, 1e-12 * np.arange(n)),
    ],
)
def test_any_map_gives_a_picture_of_a_size_to_look_at(tmp_path, shape, fill):
    pixels = picture(tmp_path / "a.png", fill(np.prod(shape)).reshape(shape), title="name " * 60, cell_size=(3.0, 2.0))
    height, width, _ = pixels.shape
    assert 900 <= width <= 1400
    assert 400 <= height <= 1200
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edges == 255).all()  # nothing is cut off at the rim


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(4, 12))
def test_ticks_are_round_even_and_inside(low, length, most):
    high = low + length
    if not length > 1e-9 * max(abs(low), abs(high)):
        return
    ticks = pictures._ticks(low, high, most)
    assert 2 <= len(ticks) <= 10
    shares = [share for _, share in ticks]
    assert all(-1e-6 <= share <= 1 + 1e-6 for share in shares)
    assert np.ptp(np.diff(shares)) < 1e-3 if len(shares) > 2 else True
    assert len({text for text, _ in ticks}) == len(ticks)
    for text, share in ticks:
        assert float(text) == pytest.approx(low + share * length, abs=1e-3 * length + 1e-12)


def test_scales_of_voxels_have_no_fractions():
    assert [text for text, _ in pictures._ticks(0, 2, 8, whole=True)] == ["0", "1", "2"]
    assert [text for text, _ in pictures._ticks(0, 2, 8)] == ["0.0", "0.5", "1.0", "1.5", "2.0"]


def test_what_the_disk_says_is_told(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match=r"a\.png: cannot be written: No such file or directory"):
        picture(tmp_path / "no" / "a.png", np.eye(3))

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"a\.png: cannot be written: the disk is full"):
        picture(tmp_path / "a.png", np.eye(3))
