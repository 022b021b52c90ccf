"""Equalization against its formula in float64, and in blocks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.kernels.equalization import equalize, equalize_reach
from cytolith.kernels.percentile import local_percentile

DTYPES = [np.bool_, np.uint8, np.uint16, np.int16, np.float32, np.float64]

shapes = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 60))
windows = st.tuples(st.integers(1, 5), st.integers(1, 14), st.integers(1, 20))
steps = st.tuples(st.integers(2, 6), st.integers(3, 12), st.integers(3, 15))
limits = st.sampled_from([None, 0.3, 1.5, 20.0])


def random_image(shape, dtype, seed=0, spread=1.0):
    """Bright and dark regions, so that all branches of the gain are met."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.7, 3000 * spread, shape) * rng.choice([0.0003, 0.1, 1], (shape[0], 1, shape[2]))
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return values > 100
    if dtype.kind in "if":
        values -= 300 * spread
    if dtype.kind == "f":
        return values.astype(dtype)
    info = np.iinfo(dtype)
    return values.clip(info.min, info.max).astype(dtype)


@st.composite
def images(draw, of_shapes=shapes, dtypes=DTYPES):
    return random_image(
        draw(of_shapes),
        draw(st.sampled_from(dtypes)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([0.01, 1.0, 20.0])),
    )


def gain(lower, upper, max_value):
    """As the original has it."""
    f = 1 / np.maximum(lower, 1)
    if max_value is None:
        return f
    high = upper * f > max_value
    return np.where(high, max_value / np.where(high, upper, 1), f)


@settings(max_examples=60, deadline=None)
@given(images(), limits, windows, steps, st.sampled_from([0, 1, "nearest", "linear"]))
def test_equalize_is_its_formula(image, max_value, selem, spacing, interpolate):
    result = equalize(image, (0.4, 0.9), max_value, selem, spacing, interpolate)
    assert result.dtype == np.float32
    percentiles, _ = local_percentile(image, (0.4, 0.9), selem, spacing, interpolate=interpolate)
    percentiles = percentiles.astype(np.float64)
    expected = image.astype(np.float64) * gain(percentiles[..., 0], percentiles[..., 1], max_value)
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-30)


def blocks(shape, reach, seed):
    """Blocks at every kind of place with their halo: origin, block, core in the block, core in the volume."""
    rng = np.random.default_rng(seed)
    for _ in range(6):
        lower = [int(rng.integers(0, n)) for n in shape]
        upper = [int(rng.integers(a + 1, n + 1)) for a, n in zip(lower, shape, strict=True)]
        block = [slice(max(0, a - r), min(n, b + r)) for a, b, r, n in zip(lower, upper, reach, shape, strict=True)]
        inner = [slice(a - s.start, b - s.start) for a, b, s in zip(lower, upper, block, strict=True)]
        core = [slice(a, b) for a, b in zip(lower, upper, strict=True)]
        yield tuple(s.start for s in block), tuple(block), tuple(inner), tuple(core)


@settings(max_examples=40, deadline=None)
@given(
    images(st.tuples(st.integers(4, 14), st.integers(20, 50), st.integers(30, 70))),
    limits,
    windows,
    steps,
    st.sampled_from([0, 1]),
    st.sampled_from([None, 0.01, 0.5]),
    st.integers(0, 10**6),
)
def test_blocks_are_equal_to_the_bit(image, max_value, selem, spacing, interpolate, density, seed):
    mask = None if density is None else np.random.default_rng(seed).random(image.shape) < density
    whole = equalize(image, (0.5, 0.9), max_value, selem, spacing, interpolate, mask)
    for origin, block, inner, core in blocks(image.shape, equalize_reach(selem, spacing), seed):
        part = equalize(
            image[block],
            (0.5, 0.9),
            max_value,
            selem,
            spacing,
            interpolate,
            None if mask is None else mask[block],
            origin=origin,
            volume_shape=image.shape,
        )
        assert part[inner].tobytes() == whole[core].tobytes()


def test_brightness_evens_out():
    """Noise of one relative strength on a ramp of brightness comes to one level."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(200, 4000, 300)
    image = (rng.normal(1, 0.1, (6, 90, 300)) * ramp).astype(np.uint16)
    result = equalize(image, selem=(5, 40, 40), spacing=(5, 20, 20))
    columns = np.median(result[:, :, 20:-20], axis=(0, 1))
    assert abs(columns - 1).max() < 0.1


def test_upper_percentile_is_limited():
    image = np.full((5, 40, 40), 100, np.uint16)
    image[:, ::4] = 10000
    result = equalize(image, (0.5, 0.95), 1.5, (5, 40, 40), (5, 40, 40))
    assert result.max() == pytest.approx(1.5, rel=1e-6)
    unlimited = equalize(image, (0.5, 0.95), None, (5, 40, 40), (5, 40, 40))
    assert unlimited.max() == 100


def test_dark_images_stay():
    for dtype in DTYPES:
        image = random_image((3, 9, 20), np.bool_).astype(dtype)
        np.testing.assert_array_equal(equalize(image, (0.5, 0.5)), image.astype(np.float32))


def test_windows_outside_the_mask_do_not_count():
    """Between a window that counts and one that is empty the percentile of the first holds."""
    image = np.full((1, 1, 40), 300, np.uint16)
    image[..., 10:] = 60000
    mask = np.zeros(image.shape, bool)
    mask[..., :10] = True
    result = equalize(image, (0.5, 0.5), None, (1, 1, 10), (1, 1, 10), mask=mask)[0, 0]
    # points at 5, 15, 25, 35; windows 0-9, 10-19, ...: only the first counts
    np.testing.assert_allclose(result[:10], 1, rtol=1e-6)
    np.testing.assert_allclose(result[10:15], 200, rtol=1e-6)
    np.testing.assert_array_equal(result[15:], 60000)


def test_nan_is_left_out_like_a_mask():
    image = random_image((6, 40, 50), np.float32, 2)
    mask = np.random.default_rng(0).random(image.shape) < 0.6
    holed = np.where(mask, image, np.float32(np.nan))
    arguments = {"selem": (5, 13, 14), "spacing": (3, 9, 10)}
    masked = equalize(image, **arguments, mask=mask)
    np.testing.assert_array_equal(equalize(holed, **arguments), np.where(mask, masked, np.nan))


def test_swapped_axes():
    image = random_image((9, 31, 47), np.uint16)
    result = equalize(image, selem=(3, 8, 15), spacing=(2, 7, 10))
    turned = equalize(image.T, selem=(15, 8, 3), spacing=(10, 7, 2)).T
    np.testing.assert_allclose(turned, result, rtol=3e-6)


def test_layouts_and_out():
    image = random_image((6, 14, 22), np.uint16)
    arguments = {"selem": (5, 6, 7), "spacing": (2, 3, 4)}
    expected = equalize(image, **arguments)
    out = np.full(image.shape, -7, np.float32)
    assert equalize(image, **arguments, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(equalize(np.asfortranarray(image), **arguments), expected)
    np.testing.assert_array_equal(equalize(image.astype(">u2"), **arguments), expected)
    floating = image.astype(np.float32)
    np.testing.assert_array_equal(equalize(floating, **arguments), expected)
    with pytest.raises(ValueError, match="overlaps"):
        equalize(floating, **arguments, out=floating)


def test_reach():
    assert equalize_reach((5, 200, 200), (5, 50, 50)) == (6, 149, 149)


def test_wrong_arguments():
    image = random_image((4, 20, 30), np.uint16)
    for percentile in (0.5, (0.95, 0.5), (50, 95), (0.1, 0.2, 0.3), (0.5, math.nan)):
        with pytest.raises(ValueError, match="percentile is"):
            equalize(image, percentile)
    for max_value in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_value is"):
            equalize(image, max_value=max_value)
    with pytest.raises(ValueError, match="mask is"):
        equalize(image, mask=np.ones(image.shape, np.uint8))
    with pytest.raises(ValueError, match="out is"):
        equalize(image, out=np.empty(image.shape))
    with pytest.raises(ValueError, match="selem is"):
        equalize_reach(0, 5)


def test_near_clearmap(shared):
    """The recorded result stretches the percentiles over the image, so that it is near ours but not equal."""
    folder = shared / "golden" / "clearmap"
    if not folder.is_dir():
        pytest.skip("no recorded outputs of ClearMap")
    recorded = np.load(folder / "signal_crop.npz")
    image = recorded["bg_disk10"].T
    result = equalize(image, selem=(5, 60, 60), spacing=(5, 30, 30))[:, -80:, -80:]
    expected = recorded["equalized_f32_crop80"].T
    bright = image[:, -80:, -80:] > 100
    ratio = result[bright] / expected[bright]
    assert 0.95 < np.median(ratio) < 1.05
    assert np.mean(abs(ratio - 1) < 0.25) > 0.9
