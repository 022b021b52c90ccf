"""Local maxima against SciPy: which voxels, which plateaus, what a block may claim, and where the centres are."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.kernels.local_maxima import scan_maxima
from cytolith.kernels.maxima import Maxima, detect_maxima, maxima_reach, search

DTYPES = [np.uint8, np.uint16, np.int16, np.float32]
NEIGHBOURS = np.ones((3, 3, 3))
CLOSED = (False,) * 6


@st.composite
def images(draw, largest=9):
    """Images of few values, so that ties and plateaus are common; rough, smooth or constant."""
    shape = draw(st.tuples(*[st.integers(1, largest)] * 3))
    dtype = draw(st.sampled_from(DTYPES))
    levels = draw(st.sampled_from([1, 2, 3, 8, 100]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = rng.integers(0, levels, shape)
    if draw(st.booleans()):
        image = ndi.uniform_filter(50 * image, 3) // 10
    if np.dtype(dtype).kind != "u":
        image = image - levels // 2
    return image.astype(dtype)


windows = st.tuples(*[st.integers(1, 7)] * 3)
thresholds = st.one_of(st.none(), st.integers(-3, 20), st.floats(-3, 20))


def voxels_of(maxima: Maxima) -> list[frozenset]:
    """The voxels of each maximum as sets of (z, y, x)."""
    places = np.stack(np.unravel_index(maxima.voxels, maxima.shape), axis=1).tolist()
    bounds = zip(maxima.starts[:-1], maxima.starts[1:], strict=True)
    return [frozenset(map(tuple, places[a:b])) for a, b in bounds]


def check_form(maxima: Maxima, image: np.ndarray) -> None:
    n = len(maxima)
    assert maxima.starts.dtype == maxima.voxels.dtype == np.int64
    assert maxima.starts.shape == (n + 1,)
    assert maxima.starts[0] == 0
    assert maxima.starts[-1] == maxima.voxels.size
    assert maxima.values.dtype == image.dtype
    assert maxima.open.shape == (n,)
    assert maxima.open.dtype == bool
    assert maxima.shape == image.shape
    firsts = maxima.voxels[maxima.starts[:-1]]
    assert (np.diff(firsts) > 0).all()
    for i in range(n):
        voxels = maxima.voxels[maxima.starts[i] : maxima.starts[i + 1]]
        assert voxels.size > 0
        assert (np.diff(voxels) > 0).all()
        assert image.ravel()[voxels].max() == maxima.values[i]


def window_maxima(image, window, threshold=None):
    mask = ndi.maximum_filter(image, size=window) == image
    return mask if threshold is None else mask & (image >= threshold)


def plateaus(image, mask):
    """26-connected sets of marked voxels of equal value."""
    found = []
    for value in np.unique(image[mask]):
        labels, n = ndi.label(mask & (image == value), NEIGHBOURS)
        found += [frozenset(map(tuple, np.argwhere(labels == i + 1).tolist())) for i in range(n)]
    return found


@given(images(), windows, thresholds)
@settings(max_examples=200)
def test_voxels_are_those_of_the_maximum_filter(image, window, threshold):
    maxima = detect_maxima(image, shape=window, threshold=threshold, merge_plateaus=False)
    check_form(maxima, image)
    expected = np.flatnonzero(window_maxima(image, window, threshold))
    np.testing.assert_array_equal(maxima.voxels, expected)
    np.testing.assert_array_equal(maxima.starts, np.arange(expected.size + 1))


@given(images(), windows, thresholds)
@settings(max_examples=200)
def test_neighbours_of_equal_value_are_one_maximum(image, window, threshold):
    maxima = detect_maxima(image, shape=window, threshold=threshold)
    check_form(maxima, image)
    found = voxels_of(maxima)
    assert set(found) == set(plateaus(image, window_maxima(image, window, threshold)))
    assert not maxima.open.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [3, 4, 5, (3, 5, 7), (6, 1, 2), (1, 1, 1), (25, 9, 31), 10**9])
def test_larger_images_with_and_without_threshold(dtype, window):
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 120, (11, 37, 70))
    smooth = ndi.gaussian_filter(noise.astype(float), 1.5)
    size = window if window != 10**9 else 141
    for image in (noise.astype(dtype), (smooth * 2 if dtype is not np.float32 else smooth).astype(dtype)):
        for threshold in (None, np.percentile(image, 50), np.percentile(image, 97)):
            maxima = detect_maxima(image, shape=window, threshold=threshold, merge_plateaus=False)
            expected = np.flatnonzero(window_maxima(image, size, threshold))
            np.testing.assert_array_equal(maxima.voxels, expected)


def test_a_row_longer_and_shorter_than_eight_and_an_axis_of_one():
    rng = np.random.default_rng(1)
    for shape in [(1, 1, 1), (1, 1, 2), (1, 1, 17), (1, 17, 1), (17, 1, 1), (1, 5, 8), (2, 3, 9), (1, 30, 16)]:
        image = rng.integers(0, 9, shape).astype(np.uint16)
        maxima = detect_maxima(image, shape=3, merge_plateaus=False)
        np.testing.assert_array_equal(maxima.voxels, np.flatnonzero(window_maxima(image, 3)))


def test_default_window_is_five():
    image = np.random.default_rng(0).integers(0, 1000, (9, 12, 15)).astype(np.uint16)
    np.testing.assert_array_equal(detect_maxima(image).voxels, detect_maxima(image, shape=(5, 5, 5)).voxels)


def test_axes_of_the_window_are_z_y_x():
    image = np.zeros((9, 9, 9), np.uint16)
    image[4, 4, 4] = 9
    image[4, 4, 1] = image[4, 1, 4] = image[1, 4, 4] = 5
    for axis, place in enumerate([(1, 4, 4), (4, 1, 4), (4, 4, 1)]):
        window = [3, 3, 3]
        window[axis] = 7
        found = detect_maxima(image, shape=window, threshold=1).centres().tolist()
        assert list(place) not in found
        assert len(found) == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_image_is_one_maximum(dtype):
    image = np.full((12, 20, 33), 7, dtype)
    for options in ({}, {"h_max": 2}, {"h_max": 2, "shape": 3}):
        maxima = detect_maxima(image, threshold=7, **options)
        assert len(maxima) == 1
        np.testing.assert_array_equal(maxima.voxels, np.arange(image.size))
        np.testing.assert_array_equal(maxima.centres(), [[5.5, 9.5, 16.0]])
        assert len(detect_maxima(image, threshold=7.01, **options)) == 0


@pytest.mark.parametrize("shape", [(0, 4, 5), (4, 0, 5), (4, 5, 0), (0, 0, 0)])
def test_an_empty_image_has_no_maxima(shape):
    for options in ({}, {"h_max": 2}):
        maxima = detect_maxima(np.zeros(shape, np.uint16), **options)
        check_form(maxima, np.zeros(shape, np.uint16))
        assert len(maxima) == 0
        assert maxima.centres().shape == (0, 3)


def test_thresholds_outside_the_range_of_the_dtype():
    image = np.array([[[0, 255, 0]]], np.uint8)
    assert len(detect_maxima(image, shape=3, threshold=-1e9)) == 1
    assert len(detect_maxima(image, shape=3, threshold=255)) == 1
    assert len(detect_maxima(image, shape=3, threshold=255.5)) == 0
    assert len(detect_maxima(image, shape=3, threshold=np.inf)) == 0
    assert len(detect_maxima(image.astype(np.float32), shape=3, threshold=1e300)) == 0
    assert len(detect_maxima(image.astype(np.float32), shape=3, threshold=-np.inf)) == 1
    single = np.full((1, 1, 1), 0.7, np.float32)
    assert len(detect_maxima(single, threshold=0.7)) == 1


@pytest.mark.parametrize("options", [{"shape": 3}, {"shape": (3, 4, 5)}, {"h_max": 1.0}])
def test_nan_is_no_maximum_and_hides_none(options):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 9, (7, 9, 20)).astype(np.float32)
    holes = rng.random(image.shape) < 0.3
    lowest = np.where(holes, -1000, image)
    with_nan = np.where(holes, np.nan, image).astype(np.float32)
    maxima = detect_maxima(with_nan, **options)
    expected = detect_maxima(lowest, threshold=-10, **options)
    assert voxels_of(maxima) == voxels_of(expected)
    assert len(detect_maxima(np.full((3, 4, 5), np.nan, np.float32), **options)) == 0


def test_infinities():
    image = np.full((3, 4, 5), -np.inf, np.float32)
    assert len(detect_maxima(image)) == 1
    image[1, 2, 3] = np.inf
    for options in ({"shape": 9}, {"h_max": 3.0}):
        assert voxels_of(detect_maxima(image, **options)) == [frozenset({(1, 2, 3)})]


def test_any_memory_layout_byte_order_and_convertible_dtype():
    image = np.random.default_rng(2).integers(0, 50, (6, 7, 8)).astype(np.uint16)
    expected = detect_maxima(image, shape=3)
    frozen = image.copy()
    frozen.flags.writeable = False
    for other in (np.asfortranarray(image), image.astype(">u2"), frozen, np.repeat(image, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(detect_maxima(other, shape=3).voxels, expected.voxels)
    assert detect_maxima(image.astype(np.float64), shape=3).values.dtype == np.float32
    assert detect_maxima(image > 40, shape=3).values.dtype == np.uint8


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((4, 5), np.uint16), {}, "2 axes given"),
        (np.zeros((3, 4, 5), np.int64), {}, "dtype int64"),
        (np.zeros((3, 4, 5), complex), {}, "dtype complex128"),
        (np.zeros((3, 4, 5), np.uint16), {"shape": 0}, "shape must be"),
        (np.zeros((3, 4, 5), np.uint16), {"shape": (3, 3)}, "shape must be"),
        (np.zeros((3, 4, 5), np.uint16), {"shape": (3, 3, 2.5)}, "shape must be"),
        (np.zeros((3, 4, 5), np.uint16), {"h_max": 0}, "h_max must be"),
        (np.zeros((3, 4, 5), np.uint16), {"h_max": -2}, "h_max must be"),
        (np.zeros((3, 4, 5), np.uint16), {"h_max": np.nan}, "h_max must be"),
        (np.zeros((3, 4, 5), np.uint16), {"threshold": np.nan}, "threshold must be"),
        (np.zeros((3, 4, 5), np.uint16), {"open_margins": (True,) * 5}, "open_margins must be"),
        (np.zeros((3, 4, 5), np.uint16), {"h_max": 2, "merge_plateaus": False}, "merge_plateaus"),
    ],
)
def test_what_is_refused(image, options, message):
    with pytest.raises(ValueError, match=message):
        detect_maxima(image, **options)


def test_reach():
    assert maxima_reach() == (2, 2, 2)
    assert maxima_reach((3, 4, 9)) == (1, 2, 4)
    assert maxima_reach(1) == (1, 1, 1)
    assert maxima_reach(h_max=10) == (1, 1, 1)
    assert maxima_reach((3, 4, 9), h_max=10) == (1, 2, 4)


# --- what others have found


@given(images(), windows, thresholds, st.booleans(), st.tuples(*[st.integers(0, 2)] * 6))
@settings(max_examples=200)
def test_what_was_found_is_taken_and_the_image_is_read_there_alone(image, window, threshold, merge, margins):
    options = {"shape": window, "threshold": threshold, "merge_plateaus": merge, "open_margins": margins}
    expected = detect_maxima(image, **options)
    found = np.flatnonzero(window_maxima(image, window, threshold))
    rest = np.ones(image.size, bool)
    rest[found] = False
    other = image.copy()
    other.ravel()[rest] = 101  # more than any maximum
    maxima = detect_maxima(other, found=found, **options)
    check_form(maxima, image)
    for name in ("starts", "voxels", "values", "open"):
        np.testing.assert_array_equal(getattr(maxima, name), getattr(expected, name))


@given(images(), windows, thresholds)
@settings(max_examples=100)
def test_a_scan_for_what_search_says_finds_the_voxels_of_the_maxima(image, window, threshold):
    reach, lowest = search(image.dtype, window, threshold, image.shape)
    assert reach.dtype == np.int64
    assert (reach <= np.repeat(image.shape, 2)).all()
    found = np.empty(0, np.int64) if lowest is None else scan_maxima(image, lowest, reach, False)
    np.testing.assert_array_equal(found, np.flatnonzero(window_maxima(image, window, threshold)))


def test_search_has_the_default_window_and_knows_thresholds_that_no_voxel_reaches():
    reach, lowest = search(np.uint8, None, 255.5, (9, 1, 12))
    assert reach.tolist() == [2, 2, 1, 1, 2, 2]
    assert lowest is None
    assert search(np.uint16, (4, 1, 3), 2.5, (9, 9, 9))[0].tolist() == [2, 1, 0, 0, 1, 1]
    assert search(np.uint16, 3, 2.5, (9, 9, 9))[1] == np.uint16(3)
    assert search(np.float32, 3, None, (9, 9, 9))[1] == -np.inf
    for dtype in DTYPES:
        assert search(dtype, 3, 7, (9, 9, 9))[1].dtype == dtype


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([3, 3], "ascending int64"),
        ([5, 3], "ascending int64"),
        ([-1, 3], "from 0 to 59"),
        ([3, 60], "from 0 to 59"),
        ([[3, 4]], "ascending int64"),
        ([3.0, 4.0], "ascending int64"),
    ],
)
def test_what_cannot_have_been_found_is_refused(found, message):
    with pytest.raises(ValueError, match=f"found must be .*{message}"):
        detect_maxima(np.zeros((3, 4, 5), np.uint16), found=np.array(found))


def test_extended_maxima_are_not_found_elsewhere():
    with pytest.raises(ValueError, match="found needs h_max=None"):
        detect_maxima(np.zeros((3, 4, 5), np.uint16), h_max=2, found=np.empty(0, np.int64))


# --- blocks: what is not open holds for the whole volume


@given(
    images(largest=12),
    windows,
    st.sampled_from([{}, {"h_max": 1}, {"h_max": 3}, {"h_max": 2, "windowed": True}]),
    st.tuples(*[st.floats(0, 1)] * 6),
    thresholds,
)
@settings(max_examples=300)
def test_maxima_of_a_block_that_are_not_open_are_those_of_the_volume(volume, window, options, cut, threshold):
    options = dict(options)
    if "h_max" not in options or options.pop("windowed", False):
        options["shape"] = window
    box, faces = [], []
    for n, a, b in zip(volume.shape, cut[::2], cut[1::2], strict=True):
        start, stop = sorted((round(a * (n - 1)), round(b * (n - 1))))
        box.append(slice(start, stop + 1))
        faces += [start > 0, stop + 1 < n]
    block = volume[tuple(box)]
    origin = [s.start for s in box]
    whole = detect_maxima(volume, threshold=threshold, **options)
    part = detect_maxima(block, threshold=threshold, open_margins=faces, **options)
    check_form(part, block)
    of_whole = dict(zip(voxels_of(whole), zip(whole.values, whole.centres(volume).tolist(), strict=True), strict=True))
    shifted = [frozenset(tuple(np.add(p, origin).tolist()) for p in voxels) for voxels in voxels_of(part)]
    for voxels, value, centre, is_open in zip(
        shifted, part.values, part.centres(block, origin).tolist(), part.open, strict=True
    ):
        if not is_open:
            assert of_whole[voxels] == (value, centre)
    # And none is missing: a maximum of the volume that lies within the block, further from its open faces than the
    # step looks, is there. It may be open only as part of a plateau that goes on to the face.
    reach = maxima_reach(options.get("shape"), options.get("h_max"))
    settled = {voxels for voxels, is_open in zip(shifted, part.open, strict=True) if not is_open}
    unsettled = [voxels for voxels, is_open in zip(shifted, part.open, strict=True) if is_open]
    for voxels in of_whole:
        places = np.array(sorted(voxels))
        inside = all(
            (places[:, k] >= box[k].start + reach[k] * faces[2 * k]).all()
            and (places[:, k] < box[k].stop - reach[k] * faces[2 * k + 1]).all()
            for k in range(3)
        )
        if inside:
            assert voxels in settled or ("h_max" not in options and any(voxels < other for other in unsettled))


def test_a_plateau_that_touches_an_open_face_is_open():
    image = np.zeros((5, 6, 20), np.uint16)
    image[2, 3, 4:] = 8
    image[2, 3, 0] = 5
    for options in ({"shape": 3}, {"h_max": 2}):
        maxima = detect_maxima(image, threshold=1, open_margins=(False,) * 5 + (True,), **options)
        assert maxima.values.tolist() == [5, 8]
        assert maxima.open.tolist() == [False, True]
        maxima = detect_maxima(image, threshold=1, open_margins=(False,) * 4 + (True, False), **options)
        assert maxima.open.tolist() == [True, False]


# --- centres


@given(images(), windows)
@settings(max_examples=100)
def test_centres_are_the_centres_of_mass(image, window):
    maxima = detect_maxima(image, shape=window)
    labels = np.zeros(image.size, np.int64)
    labels[maxima.voxels] = np.repeat(np.arange(len(maxima)) + 1, np.diff(maxima.starts))
    labels = labels.reshape(image.shape)
    index = np.arange(len(maxima)) + 1
    expected = ndi.center_of_mass(np.ones(image.shape), labels, index)
    np.testing.assert_allclose(maxima.centres(), expected, atol=1e-9)
    np.testing.assert_array_equal(np.asarray(maxima), maxima.centres())
    rng = np.random.default_rng(0)
    for weights in (rng.integers(1, 65535, image.shape).astype(np.uint16), rng.random(image.shape, np.float32)):
        expected = ndi.center_of_mass(weights.astype(float), labels, index)
        np.testing.assert_allclose(maxima.centres(weights, (100, 20, 3)), np.add(expected, (100, 20, 3)), atol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_centres_have_the_same_bits_in_every_block(dtype):
    rng = np.random.default_rng(8)
    volume = np.zeros((40, 50, 60), np.uint16)
    volume[20:23, 25:29, 30:37] = 500
    weights = (rng.random(volume.shape) * 30000).astype(dtype)
    expected = detect_maxima(volume, h_max=10, threshold=1).centres(weights)
    for _ in range(20):
        start, stop = rng.integers(0, 20, 3), rng.integers(38, 41, 3)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        maxima = detect_maxima(volume[box], h_max=10, threshold=1)
        assert maxima.centres(weights[box], start).tobytes() == expected.tobytes()


def test_weights_of_zero_negative_weights_and_large_sums():
    image = np.zeros((1, 3, 9), np.uint16)
    image[0, 1, 2:6] = 9
    maxima = detect_maxima(image, shape=3, threshold=1)
    np.testing.assert_array_equal(maxima.centres(np.zeros(image.shape, np.uint16)), [[0, 1, 3.5]])
    weights = np.zeros(image.shape, np.float32)
    weights[0, 1, 2:6] = [np.nan, 1, -100, 3]
    np.testing.assert_array_equal(maxima.centres(weights), [[0, 1, 4.5]])
    np.testing.assert_array_equal(maxima.centres(-np.ones(image.shape, np.int16)), [[0, 1, 3.5]])
    weights[0, 1, 2] = np.inf
    np.testing.assert_array_equal(maxima.centres(weights), [[0, 1, 3.5]])
    # Sums that float32 could not hold exactly.
    long = np.full((1, 1, 70001), 65535, np.uint16)
    np.testing.assert_array_equal(detect_maxima(long).centres(long, (0, 2**40, 7)), [[0, 2**40, 35007]])


def test_weights_of_another_shape_or_dtype_and_an_array_without_copy_are_refused():
    maxima = detect_maxima(np.zeros((3, 4, 5), np.uint16))
    with pytest.raises(ValueError, match="weights have shape"):
        maxima.centres(np.zeros((4, 3, 5), np.uint16))
    with pytest.raises(ValueError, match="weights: dtype"):
        maxima.centres(np.zeros((3, 4, 5), np.int64))
    with pytest.raises(ValueError, match="copy"):
        np.asarray(maxima, copy=False)
    assert np.asarray(maxima, dtype=np.float32).dtype == np.float32


# --- recorded outputs of ClearMap


@pytest.mark.parametrize(
    ("key", "source", "window", "threshold"),
    [
        ("maxima_bg", "bg_disk10", 5, 200),
        ("maxima_bg0", "bg_disk10", 5, 0),
        ("maxima_bg_shape3", "bg_disk10", 3, 200),
        ("maxima_bg_shape4", "bg_disk10", 4, 200),
        ("maxima_dog", "dog775_f32", 5, 10),
    ],
)
def test_one_maximum_a_voxel_is_what_clearmap_finds(shared, key, source, window, threshold):
    recorded = np.load(shared / "golden" / "clearmap" / "signal_crop.npz")
    image = recorded[source].T
    maxima = detect_maxima(image, shape=window, threshold=threshold, merge_plateaus=False)
    expected = np.zeros(image.shape, bool)
    expected[tuple(recorded[key][:, ::-1].T)] = True
    np.testing.assert_array_equal(maxima.voxels, np.flatnonzero(expected))


def test_a_plateau_that_a_wrong_rim_value_shortens_is_open():
    """The rim hides voxel 1 of the plateau 1..3; what is left of it lies a layer further in and must be unsure too."""
    block = np.array([[[9, 5, 5, 5, 0, 0]]], np.uint16)
    maxima = detect_maxima(block, shape=3, threshold=1, open_margins=(0, 0, 0, 0, 2, 0))
    assert maxima.open[maxima.values == 5].all()
    assert (maxima.values == 5).any()


def test_an_extended_maximum_that_beyond_an_open_face_may_have_a_voxel_that_is_greatest_of_its_window_is_listed():
    volume = np.zeros((1, 7, 60), np.uint16)
    volume[0, 3, 10:50] = 60
    volume[0, 3, [12, 47]] = 80
    volume[0, 6, 12] = 100  # in the window of the first peak, but not connected
    options = {"h_max": 30, "shape": (1, 7, 3), "threshold": 50}
    assert detect_maxima(volume, **options).values.tolist() == [80, 100]
    part = detect_maxima(volume[..., :30], **options, open_margins=(0, 0, 0, 0, 0, 1))
    assert part.values.tolist() == [80, 100]
    assert part.open.tolist() == [True, False]
