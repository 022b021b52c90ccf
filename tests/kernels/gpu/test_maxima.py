"""Local maxima on a GPU: the voxels that the CPU lists, or none where it is asked to look itself."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from cytolith.kernels.gpu import maxima as on_gpu
from cytolith.kernels.gpu.cuda import array_module
from cytolith.kernels.gpu.maxima import scan_maxima
from cytolith.kernels.local_maxima import scan_maxima as on_cpu
from cytolith.kernels.maxima import search

DTYPES = ["uint8", "uint16", "int16", "float32"]


def check(image, window, threshold, *, least=1, most=None):
    """The voxels are those of the CPU; there are so many of them that the comparison means something."""
    reach, lowest = search(image.dtype, window, threshold, image.shape)
    expected = on_cpu(image, lowest, reach, False)
    assert expected.size >= least
    found = scan_maxima(array_module().asarray(image), lowest, reach, most=most)
    assert found is not None
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def blobs(rng, shape, dtype):
    """Smooth, of few values: plateaus and ties."""
    image = ndi.gaussian_filter(rng.uniform(0, 1, shape), 0.8)
    image = np.round(100 * (image - image.min()) / (image.max() - image.min()))
    return (image - 50 if np.dtype(dtype).kind != "u" else image).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [3, 5, (2, 4, 7), (1, 1, 9), (4, 1, 1), (1, 6, 1), (9, 11, 15)])
def test_equals_cpu(gpu, rng, dtype, window):
    image = blobs(rng, (6, 9, 150), dtype)
    check(image, window, np.percentile(image, 60), least=4, most=image.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("X", [1, 2, 31, 32, 33, 64, 127, 128, 129, 1025, 2100])
def test_rows_of_every_length(gpu, rng, dtype, X):
    check(rng.integers(0, 100, (3, 4, X)).astype(dtype), 3, 30, most=12 * X)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 70), (1, 40, 1), (20, 1, 1), (1, 9, 70), (9, 1, 70), (9, 40, 1)])
def test_one_plane_one_row_one_voxel(gpu, rng, shape):
    for window in (3, (3, 4, 5)):
        check(rng.integers(0, 100, shape).astype(np.uint16), window, None, most=1000)


def test_the_window_is_clipped_at_the_image_and_may_be_larger(gpu, rng):
    image = blobs(rng, (5, 7, 40), "uint16")
    for window in (25, 10**9, 10**12):
        check(image, window, int(np.percentile(image, 80)))


def test_reach_need_not_be_clipped(gpu, rng):
    image = blobs(rng, (5, 7, 40), "uint16")
    reach = np.array([2, 10**12, 1, 3, 10**12, 4])
    found = scan_maxima(array_module().asarray(image), np.uint16(60), reach)
    expected = on_cpu(image, np.uint16(60), np.minimum(reach, 40), False)
    assert expected.size > 0
    np.testing.assert_array_equal(found, expected)


def test_each_warp_takes_several_rows(gpu, rng, monkeypatch):
    monkeypatch.setattr(on_gpu, "_MOST_BLOCKS", 2)
    check(blobs(rng, (9, 11, 70), "uint16"), 5, 40, least=20)


@pytest.mark.parametrize("threshold", [0, 1e30, -1e30, None])
def test_extremes_of_float(gpu, rng, threshold):
    image = blobs(rng, (4, 6, 50), "float32")
    image[rng.random(image.shape) < 0.1] = np.nan
    image[rng.random(image.shape) < 0.05] = np.inf
    image[rng.random(image.shape) < 0.05] = -np.inf
    check(image, 3, threshold, most=image.size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plateaus(gpu, dtype):
    image = np.zeros((5, 6, 80), dtype)
    image[1:4, 2:4, 10:50] = 100  # a saturated cell, with its rim
    image[4, 5, 60:] = 100
    check(image, (3, 3, 5), 1, least=250, most=image.size)


def test_a_constant_image(gpu):
    image = np.full((4, 5, 40), 7, np.uint16)
    check(image, 3, 7, least=image.size, most=image.size)
    assert scan_maxima(array_module().asarray(image), np.uint16(8), np.ones(6, np.int64)).tolist() == []


def test_more_than_most_are_left_to_the_cpu(gpu, rng):
    image = rng.integers(0, 60000, (4, 5, 60)).astype(np.uint16)
    reach, lowest = search(image.dtype, 3, 100, image.shape)
    n = on_cpu(image, lowest, reach, False).size
    there = array_module().asarray(image)
    assert scan_maxima(there, lowest, reach, most=n).size == n
    assert scan_maxima(there, lowest, reach, most=n - 1) is None
    assert scan_maxima(there, lowest, reach, most=0) is None
    flat = array_module().asarray(np.full(image.shape, 7, np.uint16))
    assert scan_maxima(flat, lowest.dtype.type(0), np.zeros(6, np.int64)) is None  # one in eight by default


def test_too_many_comparisons_are_left_to_the_cpu(stand_in):
    """Windows of a plateau are compared voxel by voxel: what that would take is known before."""
    image = array_module().asarray(np.full((9, 20, 64), 7, np.uint16))
    reach, lowest = search(np.uint16, 9, 1, image.shape)
    assert scan_maxima(image, lowest, reach, most=image.size) is None
    assert stand_in.launches == ["mark_candidates"]


def test_a_window_that_one_thread_cannot_compare_is_left_to_the_cpu(stand_in, rng):
    image = rng.integers(0, 60000, (40, 30, 40)).astype(np.uint16)
    reach, lowest = search(np.uint16, (39, 29, 29), 59990, image.shape)
    check(image, (39, 29, 28), 59990)
    launches = len(stand_in.launches)
    assert scan_maxima(array_module().asarray(image), lowest, reach) is None
    assert len(stand_in.launches) == launches


@pytest.mark.parametrize("shape", [(0, 4, 5), (4, 0, 5), (4, 5, 0)])
def test_an_empty_image_has_none(gpu, shape):
    found = scan_maxima(array_module().zeros(shape, np.uint16), np.uint16(0), np.ones(6, np.int64))
    assert found.size == 0
    assert found.dtype == np.int64


def test_what_is_refused(gpu):
    with pytest.raises(ValueError, match="dtype int32"):
        scan_maxima(array_module().zeros((2, 3, 4), np.int32), 0, np.ones(6, np.int64))
    with pytest.raises(ValueError, match=r"shape \(3, 4\) given, three axes"):
        scan_maxima(array_module().zeros((3, 4), np.uint16), 0, np.ones(6, np.int64))
