"""Extended maxima against the regional maxima of a reconstruction by scikit-image."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import local_maxima, reconstruction

from cytolith.kernels.maxima import Maxima, detect_maxima

DTYPES = [np.uint8, np.uint16, np.int16, np.float32]
NEIGHBOURS = np.ones((3, 3, 3))


def regional_maxima(image):
    """Labels of the 26-connected plateaus with nothing greater beside them."""
    mask = np.zeros(image.shape, bool)
    highest = ndi.maximum_filter(image, size=3)
    for value in np.unique(image):
        labels, n = ndi.label(image == value, NEIGHBOURS)
        overtopped = np.unique(labels[(labels > 0) & (highest > value)])
        mask |= np.isin(labels, np.setdiff1d(np.arange(1, n + 1), overtopped))
    return ndi.label(mask, NEIGHBOURS)


def h_max_transform(image, h):
    # Without wrapping for integers, in float32 for float32.
    exact = image if image.dtype == np.float32 else image.astype(np.float64)
    return reconstruction(exact - exact.dtype.type(h), exact, footprint=NEIGHBOURS)


def expected_maxima(image, h, threshold=None, window=None):
    """Sets of flat indices, from the definition."""
    labels, n = regional_maxima(h_max_transform(image, h))
    in_window = np.ones(image.shape, bool) if window is None else ndi.maximum_filter(image, size=window) == image
    found = {}
    for i in range(1, n + 1):
        inside = labels == i
        value = image[inside].max()
        if (threshold is None or value >= threshold) and (inside & in_window & (image == value)).any():
            found[frozenset(np.flatnonzero(inside).tolist())] = value
    return found


def as_sets(maxima: Maxima):
    sets = [frozenset(v.tolist()) for v in np.split(maxima.voxels, maxima.starts[1:-1])] if len(maxima) else []
    firsts = [min(s) for s in sets]
    assert firsts == sorted(firsts)
    assert all((np.diff(v) > 0).all() for v in np.split(maxima.voxels, maxima.starts[1:-1]))
    return dict(zip(sets, maxima.values.tolist(), strict=True))


@st.composite
def images(draw):
    """Small ranges, so that ties, plateaus and rejected floods are common."""
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    dtype = draw(st.sampled_from(DTYPES))
    top = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = rng.integers(0, top + 1, shape)
    form = draw(st.sampled_from(["rough", "smooth", "sparse"]))
    if form == "smooth":
        image = ndi.uniform_filter(image * 9, 3) // 5
    elif form == "sparse":
        image = image * (rng.random(shape) < 0.2)
    if np.dtype(dtype).kind != "u":
        image = image - top // 2
    return image.astype(dtype)


@given(images(), st.sampled_from([1, 2, 3]))
@settings(max_examples=300)
def test_mask_and_count_are_those_of_the_reconstruction(image, h):
    assert as_sets(detect_maxima(image, h_max=h)) == expected_maxima(image, h)


@given(
    images(),
    st.sampled_from([0.5, 1, 1.5, 2, 3, 1000]),
    st.integers(-2, 8),
    st.one_of(st.none(), st.tuples(*[st.integers(1, 6)] * 3)),
)
@settings(max_examples=300)
def test_threshold_and_window(image, h, threshold, window):
    maxima = detect_maxima(image, h_max=h, threshold=threshold, shape=window)
    assert as_sets(maxima) == expected_maxima(image, h, threshold, window)


@given(st.integers(0, 2**32), st.floats(0.01, 3))
@settings(max_examples=50)
def test_float_images_are_rounded_as_the_reconstruction_rounds(seed, h):
    rng = np.random.default_rng(seed)
    image = (rng.random((5, 7, 9)) * rng.choice([1, 1e3, 1e7])).astype(np.float32)
    assert as_sets(detect_maxima(image, h_max=h)) == expected_maxima(image, h)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("h", [3, 20])
def test_larger_images(dtype, h):
    rng = np.random.default_rng(4)
    image = ndi.gaussian_filter(rng.random((12, 40, 30)) * 900, (0.7, 1.2, 1.0))
    image = np.clip(np.round(image - 380), 0, 255).astype(dtype)
    for threshold in (None, 60):
        assert as_sets(detect_maxima(image, h_max=h, threshold=threshold)) == expected_maxima(image, h, threshold)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(np.uint8, 0, 255), (np.uint16, 0, 65535), (np.int16, -32768, 32767)]
)
def test_heights_beyond_the_range_of_the_dtype_do_not_wrap(dtype, low, high):
    image = np.full((3, 4, 9), low, dtype)
    image[1, 1, 1] = low + 3
    image[1, 1, 7] = high
    assert detect_maxima(image, h_max=2).values.tolist() == [low + 3, high]
    for h in (5, 60000, 1e12):
        assert detect_maxima(image, h_max=h).values.tolist() == [high]


def test_two_equal_peaks_are_one_maximum_until_the_valley_is_deeper_than_h():
    image = np.array([[[0, 9, 6, 9, 0, 0, 9, 0]]], np.uint16)
    assert detect_maxima(image, h_max=2).starts.tolist() == [0, 1, 2, 3]
    maxima = detect_maxima(image, h_max=3)
    assert maxima.voxels.tolist() == [1, 2, 3, 6]
    assert maxima.starts.tolist() == [0, 3, 4]
    np.testing.assert_array_equal(maxima.centres(image), [[0, 0, 2], [0, 0, 6]])


def test_the_last_maximum_is_not_lost():
    image = np.zeros((3, 4, 5), np.float32)
    image[1, 2, 3] = 7
    maxima = detect_maxima(image, h_max=2, threshold=1)
    np.testing.assert_array_equal(maxima.centres(), [[1, 2, 3]])


def test_a_wide_plateau_with_one_voxel_above_it():
    # Thousands of candidates, all of the same rejected plateau, and a maximum of more voxels than the first list holds.
    image = np.full((5, 60, 70), 4, np.uint16)
    image[4, 59, 69] = 5
    maxima = detect_maxima(image, h_max=1)
    assert as_sets(maxima) == {frozenset(range(image.size)): 5}
    image[4, 59, 69] = 6
    assert as_sets(detect_maxima(image, h_max=1)) == {frozenset([image.size - 1]): 6}


def test_a_flood_that_meets_a_plateau_rejected_before_stops_there():
    # The 8 finds the 10 after it has marked the 5 and the 6 on its left; the 7 meets that 6 before anything above 7.
    image = np.array([[[0, 7, 6, 5, 8, 6, 10, 0]]], np.uint16)
    assert as_sets(detect_maxima(image, h_max=3)) == expected_maxima(image, 3) == {frozenset([6]): 10}


def test_an_extended_maximum_at_an_open_face_is_open():
    image = np.zeros((4, 6, 8), np.uint16)
    image[2, 3, 3] = 10
    image[2, 3, 4:] = 7
    faces = (False, False, False, False, False, True)
    assert detect_maxima(image, h_max=2, threshold=1, open_margins=faces).open.tolist() == [False]
    assert detect_maxima(image, h_max=3, threshold=1, open_margins=faces).open.tolist() == [True]
    assert detect_maxima(image, h_max=3, threshold=1).open.tolist() == [False]


@pytest.mark.parametrize(
    ("key", "source", "h", "threshold"), [("extmax_dog", "dog775_f32", 5, 10), ("extmax_bg", "bg_disk10", 200, 200)]
)
def test_clearmap_also_marks_plateaus_of_the_transform_that_are_no_maxima(shared, key, source, h, threshold):
    recorded = np.load(shared / "golden" / "clearmap" / "signal_crop.npz")
    x_first = recorded[source]
    image = np.ascontiguousarray(x_first.T)
    clearmap = np.unpackbits(recorded[key])[: x_first.size].reshape(x_first.shape).astype(bool).T
    maxima = detect_maxima(image, h_max=h, threshold=threshold)
    found = np.zeros(image.size, bool)
    found[maxima.voxels] = True
    found = found.reshape(image.shape)
    transform = h_max_transform(image, h)
    # Its rule: box maxima of the transform where the image itself is above the threshold.
    in_window = ndi.maximum_filter(transform, size=5) == transform
    np.testing.assert_array_equal(clearmap, in_window & (image >= threshold))
    # Ours, where that rule looks, are all among them, and what is left over has a way up.
    ours = found & in_window & (image >= threshold)
    assert not (ours & ~clearmap).any()
    np.testing.assert_array_equal(clearmap & ~ours, clearmap & (local_maxima(transform, connectivity=3) == 0))
