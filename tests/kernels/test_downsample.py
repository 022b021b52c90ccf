"""Levels of pyramids against exact arithmetic and counting."""

from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import block_reduce

from cytolith.kernels.downsample import downsample_labels, downsample_mean, halved_shape

INTEGERS = ("uint8", "uint16", "int16", "int8", "uint32", "int32", "int64", "uint64")
FACTORS = [(2, 2, 2), (1, 2, 2), (2, 1, 2), (2, 2, 1), (1, 1, 2), (2, 1, 1)]
SHAPES = [(5, 4, 7), (1, 1, 1), (3, 2, 1), (2, 1, 9)]


def boxes(image, factors):
    """For each voxel of the halved image, in raster order, the voxels that it stands for, in raster order."""
    counts = [-(-extent // factor) for extent, factor in zip(image.shape, factors, strict=True)]
    for place in product(*map(range, counts)):
        yield image[tuple(slice(n * f, n * f + f) for n, f in zip(place, factors, strict=True))].ravel().tolist()


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("factors", FACTORS)
def test_means_of_integers_are_exact_and_rounded_half_to_even(dtype, factors):
    rng = np.random.default_rng(1)
    limits = np.iinfo(dtype)
    for shape in SHAPES:
        for low, high in ((limits.min, limits.max), (0, 4), (limits.max - 3, limits.max)):
            image = rng.integers(low, high, shape, dtype, endpoint=True)
            found = downsample_mean(image, factors)
            # Python's round of a fraction is exact, and takes halves to the even number
            expected = [round(Fraction(sum(box), len(box))) for box in boxes(image, factors)]
            assert found.ravel().tolist() == expected
            assert found.dtype == dtype
            assert found.shape == halved_shape(shape, factors)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factors", FACTORS)
def test_means_of_floating_point(dtype, factors):
    image = np.random.default_rng(2).normal(0, 1e3, (6, 8, 10)).astype(dtype)
    expected = block_reduce(image.astype("float64"), factors, np.mean).astype(dtype)
    np.testing.assert_allclose(downsample_mean(image, factors), expected, rtol=1e-6 if dtype == "float32" else 1e-12)


def test_odd_extents_average_what_there_is():
    image = np.arange(5, dtype="float32").reshape(1, 1, 5)
    assert downsample_mean(image, (2, 2, 2)).tolist() == [[[0.5, 2.5, 4.0]]]


def test_nan_and_infinity_stay():
    image = np.ones((2, 2, 6), "float32")
    image[0, 1, 1], image[1, 1, 4] = np.nan, np.inf
    assert np.array_equal(downsample_mean(image), [[[np.nan, 1, np.inf]]], equal_nan=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int64", "float32"])
@pytest.mark.parametrize("factors", FACTORS)
def test_labels_are_the_most_frequent_and_of_equals_the_first(dtype, factors):
    rng = np.random.default_rng(3)
    for shape in SHAPES:
        image = (rng.integers(0, 4, shape) * 31).astype(dtype)
        # most_common keeps the order of first appearance among equals
        expected = [Counter(box).most_common(1)[0][0] for box in boxes(image, factors)]
        assert downsample_labels(image, factors).ravel().tolist() == expected


def test_labels_beyond_what_float32_holds():
    image = np.full((2, 2, 2), 2**24 + 1, "uint32")
    assert downsample_labels(image).tolist() == [[[2**24 + 1]]]


@given(st.data())
def test_blocks_cut_at_even_places_give_the_same(data):
    shape = data.draw(st.tuples(*[st.integers(1, 12)] * 3))
    factors = data.draw(st.sampled_from(FACTORS))
    image = np.random.default_rng(shape).integers(0, 9, shape).astype("uint16")
    cut = 2 * data.draw(st.integers(0, 6))
    axis = data.draw(st.integers(0, 2))
    parts = [part for part in np.split(image, [min(cut, shape[axis])], axis) if part.size]
    for halve in (downsample_mean, downsample_labels):
        joined = np.concatenate([halve(part, factors) for part in parts], axis)
        np.testing.assert_array_equal(joined, halve(image, factors))


def test_out_is_filled_and_views_are_taken():
    image = np.random.default_rng(4).integers(0, 99, (4, 6, 8)).astype("uint16")
    out = np.zeros((2, 3, 4), "uint16")
    assert downsample_mean(image, out=out) is out
    np.testing.assert_array_equal(downsample_mean(image.T), out.T)


@pytest.mark.parametrize(
    ("image", "factors", "out", "text"),
    [
        (np.zeros((2, 2)), (2, 2, 2), None, "three axes"),
        (np.zeros((2, 2, 2)), (2, 3, 2), None, "1 or 2 each"),
        (np.zeros((2, 2, 2)), (2, 2, 2), np.zeros((1, 1, 1), "uint8"), "out is uint8"),
        (np.zeros((2, 2, 2)), (2, 2, 2), np.zeros((2, 1, 1)), r"out is float64 of shape \(2, 1, 1\)"),
        (np.zeros((2, 2, 2), bool), (2, 2, 2), None, "dtype bool"),
    ],
)
def test_wrong_arguments(image, factors, out, text):
    with pytest.raises(ValueError, match=text):
        downsample_mean(image, factors, out)
