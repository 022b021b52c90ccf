"""Runs of the mask of an image on a GPU, and values at its voxels: bit-equal with those of the CPU."""

import numpy as np
import pytest

from cytolith.kernels.components import MaskTooLargeError, scatter
from cytolith.kernels.components import mask_runs as on_cpu
from cytolith.kernels.gpu.components import mask_runs, masked_values
from cytolith.kernels.gpu.cuda import array_module

DTYPES = ["uint8", "uint16", "int16", "float32"]


def check(image, threshold):
    """The runs are those of the CPU and the values those of the image at its mask."""
    there = array_module().asarray(image)
    found = mask_runs(there, threshold)
    expected = on_cpu(image, threshold)
    assert found.runs.shape == expected.shape
    for name in ("row_start", "start", "stop", "offset"):
        ours, theirs = getattr(found.runs, name), getattr(expected, name)
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    values = masked_values(there, found)
    assert values.dtype == image.dtype
    with np.errstate(invalid="ignore"):
        mask = image == image if threshold is None else image > np.float32(threshold)
    np.testing.assert_array_equal(values, image[mask])
    return expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("X", [1, 2, 31, 32, 33, 64, 95, 127, 128, 129, 300])
def test_equals_cpu(gpu, rng, dtype, X):
    image = rng.integers(0, 100, (3, 7, X)).astype(dtype)
    for threshold in (20, 90):
        assert check(image, threshold).n_runs > 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 70), (1, 40, 1), (20, 1, 1), (1, 9, 70), (9, 1, 70)])
def test_one_plane_one_row_one_voxel(gpu, rng, shape):
    check(rng.integers(0, 100, shape).astype(np.uint16), 30)


def test_runs_that_touch_the_ends_of_words_and_rows(gpu):
    image = np.zeros((1, 8, 160), np.uint8)
    for row, (first, behind) in enumerate([(0, 160), (0, 1), (159, 160), (31, 33), (32, 64), (63, 129), (96, 128)]):
        image[0, row, first:behind] = 9
    runs = check(image, 0)
    assert runs.start.tolist() == [0, 0, 159, 31, 32, 63, 96]
    assert runs.stop.tolist() == [160, 1, 160, 33, 64, 129, 128]
    check(np.tile(np.array([0, 9], np.uint8), 80)[None, None], 0)


def test_long_runs_and_many_rows_without_any(gpu, rng):
    image = np.zeros((6, 50, 90), np.uint16)
    image[rng.integers(0, 6, 20), rng.integers(0, 50, 20), 3:71] = rng.integers(1, 60000, (20, 68))
    assert 0 < check(image, 0).n_runs < 150


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [None, -1e30, -70000, -1, -0.5, 0, 0.5, 254, 255, 300.5, 65535, 1e30, np.inf])
def test_thresholds_outside_and_between_the_values_of_a_dtype(gpu, dtype, threshold):
    info = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    check(np.array([[[info.min, 0, 1, info.max, 0]]], dtype), threshold)


@pytest.mark.parametrize("threshold", [None, -np.inf, 0])
def test_nan_never_belongs_to_the_mask(gpu, threshold):
    image = np.array([[[np.nan, 1, np.nan, np.nan, 2, -np.inf, np.inf]]], np.float32)
    assert check(image, threshold).n_voxels in (3, 4)


def test_values_of_other_images_at_the_mask(gpu, rng):
    image = rng.integers(0, 100, (4, 9, 77)).astype(np.uint16)
    mask = mask_runs(array_module().asarray(image), 70)
    for dtype in DTYPES:
        other = rng.integers(0, 100, image.shape).astype(dtype)
        values = masked_values(array_module().asarray(other), mask)
        np.testing.assert_array_equal(values, other[image > 70])
        out = np.zeros(image.shape, dtype)
        scatter(mask.runs, values, out)
        np.testing.assert_array_equal(out, np.where(image > 70, other, 0))
    with pytest.raises(ValueError, match=r"shape \(4, 9, 70\) given, that of the mask is \(4, 9, 77\)"):
        masked_values(array_module().zeros((4, 9, 70), np.uint16), mask)


def test_the_limit_is_checked_before_anything_of_the_size_of_the_mask_is_made(gpu):
    sizes = {}

    def allocate(name, shape, dtype):
        assert name not in sizes, "two arrays of one name at the same time"
        sizes[name] = array_module().empty(shape, dtype)
        return sizes[name]

    image = array_module().asarray(np.ones((3, 4, 500), np.uint8))
    with pytest.raises(MaskTooLargeError, match="6000 voxels are above it, only 5999 are allowed") as error:
        mask_runs(image, 0, limit=5999, allocate=allocate)
    assert (error.value.voxels, error.value.limit) == (6000, 5999)
    assert sum(array.nbytes for array in sizes.values()) < 6000
    sizes.clear()
    mask = mask_runs(image, 0, limit=6000, allocate=allocate)
    np.testing.assert_array_equal(masked_values(image, mask, allocate=allocate), np.ones(6000, np.uint8))


@pytest.mark.parametrize("shape", [(0, 4, 5), (4, 0, 5), (4, 5, 0), (2, 3, 4)])
def test_nothing_in_the_mask(gpu, shape):
    image = np.zeros(shape, np.float32)
    assert check(image, 0).n_runs == 0
    if 0 in shape:
        check(image, None)


def test_what_is_refused(gpu):
    with pytest.raises(ValueError, match="dtype int32"):
        mask_runs(array_module().zeros((2, 3, 4), np.int32), 0)
    with pytest.raises(ValueError, match=r"shape \(3, 4\) given, three axes"):
        mask_runs(array_module().zeros((3, 4), np.uint16), 0)
    with pytest.raises(ValueError, match="threshold: nan"):
        mask_runs(array_module().zeros((2, 3, 4), np.uint16), np.nan)
