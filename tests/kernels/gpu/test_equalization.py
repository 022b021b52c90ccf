"""Equalization on a GPU: bit-equal with that on the CPU."""

import numpy as np
import pytest

from cytolith.kernels.equalization import equalize as on_cpu
from cytolith.kernels.gpu.cuda import array_module
from cytolith.kernels.gpu.equalization import equalize
from cytolith.kernels.gpu.window_percentiles import window_percentiles
from cytolith.kernels.percentile_grid import percentile_grid
from cytolith.kernels.window_percentiles import window_percentiles as percentiles_on_cpu

DTYPES = ["uint8", "uint16", "int16", "float32"]


def random_image(rng, shape, dtype):
    """Values over the whole range."""
    if dtype == "float32":
        return rng.normal(0, 3000, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def narrow_image(rng, shape, dtype):
    """Values as those of microscopes: few leading digits, many equal ones, a few bright voxels."""
    values = rng.normal(120, 8, shape) + np.linspace(0, 90, shape[2])
    values[rng.random(shape) < 0.02] += 3000
    return values.clip(0, 255).astype(dtype) if dtype == "uint8" else values.astype(dtype)


def check(image, mask=None, **options):
    """Both give the same bits."""
    upload = array_module().asarray
    found = equalize(upload(image), mask=None if mask is None else upload(mask), **options).get()
    expected = on_cpu(image, mask=None if mask is None else mask.astype(bool), **options)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert not (found == image).all()  # something was divided by


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [narrow_image, random_image])
def test_equals_cpu(gpu, rng, dtype, make):
    """Windows overlap and are cut off at the faces; ranks of a window share their leading digits or do not."""
    image = make(rng, (5, 37, 60), dtype)
    check(image, selem=(3, 20, 24), spacing=(2, 9, 13))


@pytest.mark.parametrize("options", [{"interpolate": 0}, {"max_value": None}, {"percentile": (0, 1)}], ids=str)
def test_options(gpu, rng, options):
    """Rows of more than one block of threads."""
    check(random_image(rng, (2, 35, 260), "uint16"), selem=(2, 15, 70), spacing=(1, 12, 50), **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mask_that_leaves_windows_empty(gpu, rng, dtype):
    image = random_image(rng, (3, 30, 40), dtype)
    mask = rng.random(image.shape) < 0.3
    mask[:, :20] = False
    check(image, mask, selem=(2, 9, 10), spacing=(2, 8, 9))
    check(image, mask.astype(np.uint8), selem=(2, 9, 10), spacing=(2, 8, 9), interpolate=0)
    upload = array_module().asarray
    nothing = equalize(upload(image), mask=upload(np.zeros_like(mask)), selem=9, spacing=9).get()
    np.testing.assert_array_equal(nothing, image.astype(np.float32))


def test_a_mask_over_windows_wider_than_a_warp(gpu, rng):
    image = random_image(rng, (2, 9, 150), "uint16")
    check(image, rng.random(image.shape) < 0.3, selem=(2, 9, 140), spacing=(2, 8, 50))


def test_values_that_are_no_numbers(gpu, rng):
    """NaN is left out; what lies beside an infinite percentile is no number, what lies on a point is."""
    image = random_image(rng, (7, 30, 40), "float32")
    image[rng.random(image.shape) < 0.2] = np.nan
    image[:, :20, :20] = np.nan
    image[5, 5:, 30:] = np.inf
    image[2, 25, ::7] = -np.inf
    image[0, 26, ::5] = -0.0
    for spacing in ((2, 8, 9), (2, 3, 4)):
        check(image, selem=(2, 9, 10), spacing=spacing, percentile=(0, 0.9))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 9), (6, 1, 5), (2, 3, 70)])
def test_thin_images(gpu, rng, shape):
    check(random_image(rng, shape, "uint16"), selem=(3, 20, 24), spacing=(2, 7, 9))


def test_a_block_of_a_volume(gpu, rng):
    image = random_image(rng, (6, 40, 50), "uint16")
    check(image, selem=(3, 10, 12), spacing=(2, 8, 9), origin=(10, 33, 7), volume_shape=(20, 200, 57))


@pytest.mark.parametrize("value", [np.float32(0), np.finfo(np.float32).tiny, -np.float32(0), np.float32(-7.25)])
def test_percentiles_of_one_value(gpu, value):
    """Every digit of a key comes back, and the sign of zero."""
    image = np.full((2, 5, 7), value, np.float32)
    grid = percentile_grid(image.shape, 4, 3)
    fractions = np.array([0.5, 0.95])
    found = window_percentiles(array_module().asarray(image), fractions, grid)
    expected = percentiles_on_cpu(image, fractions, grid)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_scratch_memory_is_asked_for_by_name(gpu, rng):
    asked = []

    def allocate(name, shape, dtype):
        asked.append(name)
        return array_module().empty(shape, dtype)

    image = array_module().asarray(random_image(rng, (2, 9, 9), "uint16"))
    out = array_module().empty(image.shape, np.float32)
    assert equalize(image, selem=3, spacing=3, allocate=allocate, out=out) is out
    assert len(asked) == len(set(asked)) == 2


def test_what_does_not_fit_is_refused(gpu):
    empty = array_module().empty
    image = empty((2, 3, 4), np.uint16)
    with pytest.raises(ValueError, match=r"mask is float32 of shape \(2, 3, 4\); bool or uint8"):
        equalize(image, mask=empty((2, 3, 4), np.float32))
    with pytest.raises(ValueError, match=r"mask is bool of shape \(2, 3, 5\)"):
        equalize(image, mask=empty((2, 3, 5), np.bool_))
    with pytest.raises(ValueError, match=r"out is float64 of shape \(2, 3, 4\)"):
        equalize(image, out=empty((2, 3, 4), np.float64))
    with pytest.raises(ValueError, match="image has 2 dimensions"):
        equalize(image[0])
    with pytest.raises(ValueError, match="image has dtype float64"):
        equalize(empty((2, 3, 4), np.float64))
    with pytest.raises(ValueError, match="percentile is"):
        equalize(image, percentile=(0.9, 0.1))
