"""Runs and their components against NumPy comparisons and scipy.ndimage.label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytolith.kernels.components import MaskTooLargeError, Runs, connect_runs, mask_runs, scatter

DTYPES = ["uint8", "uint16", "int16", "float32"]
RANKS = {6: 1, 18: 2, 26: 3}


def paint(runs: Runs, per_run: np.ndarray) -> np.ndarray:
    """Image that holds a value a run and 0 elsewhere, written run by run from the definition."""
    Z, Y, X = runs.shape
    out = np.zeros((Z * Y, X), per_run.dtype)
    for row in range(Z * Y):
        for r in range(runs.row_start[row], runs.row_start[row + 1]):
            out[row, runs.start[r] : runs.stop[r]] = per_run[r]
    return out.reshape(runs.shape)


def check(runs: Runs, mask: np.ndarray) -> None:
    """The runs are those of the mask, maximal and in order."""
    assert runs.shape == mask.shape
    assert (runs.row_start.dtype, runs.start.dtype, runs.stop.dtype, runs.offset.dtype) == tuple(
        map(np.dtype, ("int64", "int32", "int32", "int64"))
    )
    np.testing.assert_array_equal(paint(runs, np.ones(runs.n_runs, bool)), mask)
    edges = np.diff(mask.astype(np.int8), axis=2, prepend=0)
    assert runs.n_runs == (edges == 1).sum()
    assert runs.row_start[-1] == runs.n_runs
    np.testing.assert_array_equal(np.diff(runs.offset), runs.stop - runs.start)
    assert runs.offset[0] == 0
    assert runs.n_voxels == mask.sum()


@st.composite
def images(draw, dtypes=DTYPES):
    """Small images of few values, so that runs, ties and touching corners are common."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 6), st.sampled_from([0, 1, 2, 7, 8, 9, 15, 16, 17, 31])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = 0 if dtype.kind == "u" else -5
    return rng.integers(low, low + draw(st.integers(1, 10)), shape).astype(dtype)


@given(images(), st.one_of(st.none(), st.integers(-6, 10), st.floats(-6, 10)))
@settings(max_examples=150)
def test_runs_are_those_of_the_mask(image, threshold):
    if threshold is None:
        mask = np.ones(image.shape, bool)
    else:
        mask = image > (np.float32(threshold) if image.dtype.kind == "f" else np.float64(threshold))
    check(mask_runs(image, threshold), mask)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [-1e30, -70000, -1, -0.5, 0, 0.5, 254, 255, 300.5, 65535, 1e30, np.inf, -np.inf])
def test_thresholds_outside_and_between_the_values_of_a_dtype(dtype, threshold):
    info = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    image = np.array([[[info.min, 0, 1, info.max, 0]]], dtype)
    expected = [[[float(value) > threshold for value in image.ravel()]]]
    check(mask_runs(image, threshold), np.array(expected))


def test_a_float_threshold_is_compared_in_the_dtype_of_the_image():
    image = np.full((1, 1, 2), 0.1, np.float32)
    assert mask_runs(image, 0.1).n_voxels == 0
    assert mask_runs(image, float(np.nextafter(np.float32(0.1), np.float32(0)))).n_voxels == 2


@pytest.mark.parametrize("threshold", [None, -np.inf, 0])
def test_nan_never_belongs_to_the_mask(threshold):
    image = np.array([[[np.nan, 1, np.nan, np.nan, 2]]], np.float32)
    check(mask_runs(image, threshold), ~np.isnan(image))


def test_memory_orders_and_related_dtypes_are_accepted():
    image = np.random.default_rng(3).integers(0, 4, (3, 5, 11)).astype(np.uint16)
    mask = image > 1
    readonly = image.copy()
    readonly.flags.writeable = False
    for same in (np.asfortranarray(image), image.astype(">u2"), image.astype(np.float64), readonly):
        check(mask_runs(same, 1), mask)
    check(mask_runs(mask, 0), mask)
    check(mask_runs(np.repeat(image, 2, axis=2)[:, :, ::2], 1), mask)
    check(mask_runs(image.T, 1), mask.T)


def test_a_mask_of_everything_is_a_run_a_row():
    runs = mask_runs(np.zeros((3, 4, 21), np.uint8), None)
    assert runs.n_runs == 12
    assert connect_runs(runs)[1] == 1


def test_the_limit_is_checked_before_anything_large_is_made():
    image = np.ones((3, 4, 5), np.uint8)
    assert mask_runs(image, 0, limit=60).n_voxels == 60
    with pytest.raises(MaskTooLargeError, match="60 voxels are above it, only 59 are allowed") as error:
        mask_runs(image, 0, limit=59)
    assert (error.value.voxels, error.value.limit) == (60, 59)


@given(images(), st.integers(-6, 10))
@settings(max_examples=100)
def test_values_go_back_to_the_voxels_of_the_mask(image, threshold):
    out = np.full(image.shape, 77, image.dtype)
    scatter(mask_runs(image, threshold), image[image > threshold], out)
    np.testing.assert_array_equal(out, np.where(image > threshold, image, np.array(77, image.dtype)))


def test_values_that_do_not_fit_a_mask_or_an_image_are_refused():
    image = np.ones((3, 4, 5), np.uint16)
    runs, values = mask_runs(image, 0), np.ones(60, np.uint16)
    with pytest.raises(ValueError, match=r"values: shape \(59,\) given, one for each of 60 voxels"):
        scatter(runs, values[1:], image)
    for out in (image[:2], image.astype(np.float32), np.asfortranarray(image)):
        with pytest.raises(ValueError, match=r"out: .* C-contiguous uint16"):
            scatter(runs, values, out)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "complex64", "float16"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=f"image: dtype {dtype} is not one of"):
        mask_runs(np.zeros((2, 3, 4), dtype), 0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="image: 2 axes given, 3"):
        mask_runs(np.zeros((3, 4), np.uint8), 0)
    with pytest.raises(ValueError, match="threshold: nan"):
        mask_runs(np.zeros((2, 3, 4), np.uint8), np.nan)
    with pytest.raises(ValueError, match="connectivity: 8 is not one of 6, 18, 26"):
        connect_runs(mask_runs(np.zeros((2, 3, 4), np.uint8), 0), 8)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@given(data=st.data())
@settings(max_examples=80)
def test_components_are_those_of_scipy(connectivity, data):
    image = data.draw(images(["uint8"]))
    mask = image > data.draw(st.integers(-1, 8))
    runs = mask_runs(mask, 0)
    component, count = connect_runs(runs, connectivity)
    structure = ndimage.generate_binary_structure(3, RANKS[connectivity])
    expected, n = ndimage.label(mask, structure) if mask.size else (np.zeros(mask.shape, np.int32), 0)
    assert count == n
    assert component.dtype == np.int32
    np.testing.assert_array_equal(paint(runs, component + 1), expected)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("fill", [0.05, 0.2, 0.5])
def test_components_of_larger_masks_and_of_swapped_axes(connectivity, fill):
    mask = np.random.default_rng(5).random((13, 21, 67)) < fill
    structure = ndimage.generate_binary_structure(3, RANKS[connectivity])
    for axes in ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
        turned = mask.transpose(axes)
        runs = mask_runs(turned, 0)
        expected, n = ndimage.label(turned, structure)
        component, count = connect_runs(runs, connectivity)
        assert count == n
        np.testing.assert_array_equal(paint(runs, component + 1), expected)


@pytest.mark.parametrize("step", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_two_voxels_touch_as_the_connectivity_says(step, connectivity):
    for signs in np.ndindex(2, 2, 2):
        mask = np.zeros((3, 4, 5), bool)
        mask[1, 1, 1] = True
        mask[tuple(1 + np.array(step) * (1 - 2 * np.array(signs)))] = True
        assert connect_runs(mask_runs(mask, 0), connectivity)[1] == (1 if sum(step) <= RANKS[connectivity] else 2)


def test_a_comb_joins_late():
    mask = np.zeros((2, 40, 41), bool)
    mask[0, :-1, ::2] = True  # teeth that meet in the last row only
    mask[0, -1] = True
    mask[1, 0, 1] = True
    runs = mask_runs(mask, 0)
    component, count = connect_runs(runs, 6)
    assert count == 2
    assert (component[:-1] == 0).all()
    assert component[-1] == 1
    assert connect_runs(runs, 18)[1] == 1
