"""Flat fields against the formula in double precision and the original's recorded outputs."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.kernels.illumination import (
    FlatField,
    apply_flat_field,
    correct_illumination,
    flat_field,
    flatfield_from_line,
    flatfield_line_from_regression,
)

DTYPES = [np.uint8, np.uint16, np.int16, np.float32]

shapes = st.tuples(st.integers(1, 4), st.integers(1, 23), st.integers(1, 40))


def random_image(seed, shape, dtype):
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.normal(500, 300, shape).astype(dtype)
    bounds = np.iinfo(dtype)
    return rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)


@given(st.integers(0, 999), shapes, st.sampled_from(DTYPES), st.sampled_from(["mean", "max", None, 2.5]))
@settings(max_examples=80)
def test_the_formula(seed, shape, dtype, scaling):
    rng = np.random.default_rng(seed)
    image, flat = random_image(seed, shape, dtype), rng.uniform(50, 400, shape[1:])
    factor = {"mean": flat.mean(), "max": flat.max(), None: 1.0, 2.5: 2.5}[scaling]
    for background in (None, 20, 7.5, rng.uniform(0, 45, shape[1:])):
        below = 0.0 if background is None else np.asarray(background)
        expected = (image.astype(np.float64) - below) / (flat - below) * factor
        result = correct_illumination(image, flat, background=background, scaling=scaling)
        assert result.dtype == np.float32
        largest = np.abs(image.astype(np.float64)).max() + 400
        np.testing.assert_allclose(result, expected, rtol=3e-7, atol=1e-6 * largest * factor / (flat - below).min())


def test_planes_larger_than_a_chunk():
    image, flat = random_image(0, (2, 211, 320), np.uint16), np.random.default_rng(1).uniform(1, 2, (211, 320))
    for background in (None, 0.25):
        below = background or 0.0
        expected = (image - below) / (flat - below) * flat.mean()
        np.testing.assert_allclose(correct_illumination(image, flat, background=background), expected, rtol=3e-7)


def test_as_the_original_in_float(shared):
    crop = np.load(shared / "golden" / "clearmap" / "signal_crop.npz")
    image, flat = crop["input"].T[:3].astype(np.float32), crop["flatfield"].T
    np.testing.assert_allclose(correct_illumination(image, flat), crop["illum_f32_mean"].T, rtol=5e-7)
    with_background = correct_illumination(image, flat, background=20, scaling="max")
    np.testing.assert_allclose(with_background, crop["illum_f32_bg"].T, rtol=5e-7)


def test_as_the_original_on_integers_but_for_its_truncation(shared):
    crop = np.load(shared / "golden" / "clearmap" / "signal_crop.npz")
    image, flat = crop["input"].T[:3], crop["flatfield"].T
    # it cuts the fractions of the flat field, and then those of the quotient
    quotient = correct_illumination(image, np.trunc(flat), scaling=None)
    lost = quotient - crop["illum_none"].T
    assert lost.min() > -1e-6
    assert lost.max() < 1
    assert np.array_equal(np.floor(quotient + 1e-6), crop["illum_none"].T)
    scaled = np.floor(quotient + 1e-6) * np.trunc(flat).mean()
    np.testing.assert_allclose(scaled, crop["illum_mean"].T, rtol=1e-6)
    assert np.abs(correct_illumination(image, flat, scaling=None) - quotient).max() < image.max() / flat.min() ** 2


def test_nothing_is_truncated():
    flat = np.linspace(0.5, 2, 12)
    image = np.full((2, 5, 12), 1000, np.uint16)
    np.testing.assert_allclose(
        correct_illumination(image, flat, scaling=None), np.broadcast_to(1000 / flat, (2, 5, 12)), rtol=3e-7
    )
    np.testing.assert_allclose(correct_illumination(image, np.full((5, 12), 300)), image, rtol=3e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.uint32])
def test_an_integer_result_is_rounded_and_clipped(dtype):
    image = random_image(4, (3, 7, 11), np.int16)
    flat = np.random.default_rng(5).uniform(0.1, 9, (7, 11))
    exact = correct_illumination(image, flat, scaling=None).astype(np.float64)
    result = correct_illumination(image, flat, scaling=None, dtype=dtype)
    assert result.dtype == dtype
    assert np.array_equal(result, np.clip(np.rint(exact), np.iinfo(dtype).min, np.iinfo(dtype).max))
    out = np.empty(image.shape, dtype)
    assert correct_illumination(image, flat, scaling=None, dtype=dtype, out=out) is out
    assert np.array_equal(out, result)
    assert np.array_equal(correct_illumination(image[1], flat, scaling=None, dtype=dtype), result[1])


def test_a_profile_varies_along_its_axis():
    image = random_image(2, (2, 6, 9), np.uint16)
    along_y, along_x = np.arange(1.0, 7), np.arange(2.0, 11)
    by_y = correct_illumination(image, along_y, scaling=None)
    by_x = correct_illumination(image, along_x, scaling=None)
    np.testing.assert_allclose(by_y, image / along_y[:, None], rtol=3e-7)
    np.testing.assert_allclose(by_x, image / along_x, rtol=3e-7)
    assert np.array_equal(correct_illumination(image, along_y, scaling=None, axis="y"), by_y)
    square = random_image(3, (2, 6, 6), np.uint16)
    with pytest.raises(ValueError, match="6 values, fits both axes of planes of \\(6, 6\\)"):
        correct_illumination(square, along_y)
    swapped = correct_illumination(np.ascontiguousarray(square.transpose(0, 2, 1)), along_y, axis="x")
    assert np.array_equal(correct_illumination(square, along_y, axis="y"), swapped.transpose(0, 2, 1))


def test_line_spread_over_a_plane():
    assert flatfield_from_line([1, 2], (2, 3), "y").tolist() == [[1, 1, 1], [2, 2, 2]]
    assert flatfield_from_line([1, 2, 3], (2, 3), "x").tolist() == [[1, 2, 3], [1, 2, 3]]
    with pytest.raises(ValueError, match=re.escape("line has the shape (2,), the planes have 3 voxels along x")):
        flatfield_from_line([1, 2], (2, 3), "x")
    with pytest.raises(ValueError, match="axis must be 'y' or 'x', got 'z'"):
        flatfield_from_line([1, 2], (2, 3), "z")


@given(st.integers(0, 999), st.sampled_from(DTYPES), st.booleans(), st.data())
@settings(max_examples=40)
def test_a_block_is_corrected_as_the_whole(seed, dtype, with_background, data):
    image = random_image(seed, (3, 17, 26), dtype)
    rng = np.random.default_rng(seed)
    field = flat_field(
        rng.uniform(1, 3, (17, 26)), (17, 26), rng.uniform(0, 0.9, (17, 26)) if with_background else None
    )
    y0, x0 = data.draw(st.integers(0, 16)), data.draw(st.integers(0, 25))
    y, x = slice(y0, data.draw(st.integers(y0 + 1, 17))), slice(x0, data.draw(st.integers(x0 + 1, 26)))
    block = apply_flat_field(np.ascontiguousarray(image[:, y, x]), field.crop(y, x))
    assert np.array_equal(block, apply_flat_field(image, field)[:, y, x])


def test_kinds_of_input():
    image = random_image(6, (2, 8, 5), np.uint16)
    field = flat_field(np.arange(1.0, 41).reshape(8, 5), (8, 5), 0.5)
    expected = apply_flat_field(image, field)
    for same in (np.asfortranarray(image), image.astype(">u2"), image.astype(np.float64)):
        assert np.array_equal(apply_flat_field(same, field), expected)
    assert np.array_equal(apply_flat_field(image[1], field), expected[1])
    out = np.empty(image.shape, np.float32)
    assert apply_flat_field(image, field, out=out) is out
    assert np.array_equal(out, expected)
    in_place = image.astype(np.float32)
    apply_flat_field(in_place, field, out=in_place)
    assert np.array_equal(in_place, expected)
    by_hand = FlatField(np.asfortranarray(field.gain), np.asfortranarray(field.offset))
    assert np.array_equal(apply_flat_field(image, by_hand), expected)
    assert apply_flat_field(image[:0], field).shape == (0, 8, 5)
    assert set(np.unique(apply_flat_field(image > 30_000, FlatField(np.full((8, 5), 2, np.float32))))) == {0, 2}


def test_bad_voxels_of_the_flat_field_are_counted():
    flat = np.full((4, 6), 100.0)
    flat[0, 0], flat[1, 2], flat[3, 5], flat[2, 2] = 0, -1, np.nan, np.inf
    with pytest.raises(ValueError, match="flatfield is zero, negative or not finite at 4 of 24 voxels; replace"):
        flat_field(flat, (4, 6))
    background = np.zeros((4, 6))
    background[1, :2] = 100
    with pytest.raises(ValueError, match="flatfield - background is zero, negative or not finite at 2 of 24 voxels"):
        flat_field(np.full((4, 6), 100.0), (4, 6), background)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda im: correct_illumination(im, np.ones((6, 4))),
            "flatfield has the shape (6, 4), the planes have (4, 6)",
        ),
        (lambda im: correct_illumination(im, np.ones((2, 4, 6))), "flatfield has the shape (2, 4, 6)"),
        (lambda im: correct_illumination(im, 3.0), "flatfield has the shape ()"),
        (lambda im: correct_illumination(im, np.ones(5)), "5 values, fits no axis of planes of (4, 6)"),
        (lambda im: correct_illumination(im, np.ones(4), axis="x"), "the planes have 6 voxels along x"),
        (
            lambda im: correct_illumination(im, np.ones((4, 6)), background=np.ones(6)),
            "background has the shape (6,), the planes have (4, 6)",
        ),
        (lambda im: correct_illumination(im, np.ones((4, 6)), scaling="median"), "scaling must be"),
        (lambda im: correct_illumination(im, np.ones((4, 6)), scaling=True), "scaling must be"),
        (lambda im: correct_illumination(im, np.ones((4, 6)), scaling=0), "scaling must be"),
        (lambda im: correct_illumination(im, np.ones((4, 6)), dtype=np.float64), "dtype must be"),
        (lambda im: correct_illumination(im, np.ones((4, 6)), dtype=np.uint64), "dtype must be"),
        (lambda im: correct_illumination(im, np.ones((4, 6)), out=np.empty(im.shape)), "out must be"),
        (lambda im: correct_illumination(im, np.ones((4, 6)), out=np.empty((4, 6), np.float32)), "out must be"),
        (lambda im: correct_illumination(im[0, 0], np.ones(6)), "image must be"),
        (lambda im: correct_illumination(im.astype(np.int64), np.ones((4, 6))), "got int64"),
        (lambda im: apply_flat_field(im, FlatField(np.ones((6, 4), np.float32))), "field has the shape (6, 4)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(np.ones((2, 4, 6), np.uint16))


@given(st.floats(-0.5, 0.5), st.floats(0.2, 1.5), st.floats(0.1, 1), st.floats(0.5, 3), st.sampled_from([1e-3, 1, 1e4]))
@settings(max_examples=25)
def test_a_gaussian_is_recovered(centre, sigma, amplitude, base, unit):
    x = np.linspace(-200, 900, 111)
    u = (x - 350) / 550
    for sign in (1, -0.4):
        line = (base + sign * amplitude * np.exp(-0.5 * ((u - centre) / sigma) ** 2)) * unit
        fit = flatfield_line_from_regression(line, x, "gaussian")
        np.testing.assert_allclose(fit, line, atol=1e-7 * np.abs(line).max())


@given(st.floats(-0.6, 0.6), st.tuples(st.floats(1, 3), *[st.floats(-1, 1)] * 3), st.sampled_from([1e-3, 1, 1e4]))
@settings(max_examples=25)
def test_a_polynomial_is_recovered(centre, coefficients, unit):
    u = np.linspace(-1, 1, 90)
    a, b, c, e = coefficients
    d = u - centre
    line = (a + b * d**2 + c * d**4 + e * d**6) * unit
    fit = flatfield_line_from_regression(line)
    np.testing.assert_allclose(fit, line, atol=1e-6 * np.abs(line).max())


def test_regression_of_noisy_lines():
    x = np.arange(400.0)
    line = 900 * np.exp(-((x - 180) ** 2) / 2 / 120**2) + 150
    noisy = line[:, None] + np.random.default_rng(0).normal(0, 20, (400, 9))
    for method in ("gaussian", "polynomial"):
        fit = flatfield_line_from_regression(noisy, method=method)
        assert fit.shape == (400,)
        assert np.abs(fit - line).max() < 12
        # a profile is a profile, and the mean of several is one of them
        np.testing.assert_allclose(flatfield_line_from_regression(noisy.mean(axis=1), method=method), fit, rtol=1e-9)
        reverse = flatfield_line_from_regression(noisy, method=method, reverse=True)
        assert np.array_equal(reverse, fit[::-1])
        few = flatfield_line_from_regression(noisy[::5], x[::5], method, at=x)
        assert np.abs(few - line).max() < 25


def test_regression_of_degenerate_lines():
    for method in ("gaussian", "polynomial"):
        for value in (0.0, 3.5):
            fit = flatfield_line_from_regression(np.full(20, value), method=method)
            np.testing.assert_allclose(fit, value, atol=1e-9)
        slope = np.arange(30.0) + 5
        np.testing.assert_allclose(flatfield_line_from_regression(slope, method=method), slope, rtol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(4),), "at least 5 finite samples for a polynomial, got 4"),
        ((np.ones(3), None, "gaussian"), "at least 4 finite samples"),
        ((np.array([1, 2, np.nan, 3, 4, 5]),), "finite"),
        ((np.ones(9), np.arange(8)), "data must be (n,) or (n, m) with n positions, got (9,) and (8,)"),
        ((np.ones((9, 0)),), "data must be"),
        ((np.ones((9, 2, 2)),), "data must be"),
        ((3.0,), "data must be"),
        ((np.ones(9), None, "linear"), "method must be 'polynomial' or 'gaussian', got 'linear'"),
    ],
)
def test_bad_regressions(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        flatfield_line_from_regression(*arguments)
