"""Sizes and intensities against scipy.ndimage, and against sums written voxel by voxel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytolith.kernels.footprints import ball_offsets
from cytolith.kernels.measure import (
    find_intensity,
    find_size,
    measure_balls,
    measure_shapes,
    shape_boxes,
)
from cytolith.kernels.watershed import detect_shape, grow_shapes

DTYPES = ["uint8", "uint16", "int16", "float32"]
METHODS = ["max", "min", "mean", "sum"]
REDUCE = {"max": max, "min": min, "sum": sum}


def reference(image, labels, n, method):
    """Per label in raster order, in Python's own numbers: exact integers, or float64 one addition at a time."""
    values = [[] for _ in range(n)]
    for label, value in zip(labels.ravel().tolist(), image.ravel().tolist(), strict=True):
        if label:
            values[label - 1].append(value)
    if method == "mean":
        return np.array([added(v) / len(v) if v else np.nan for v in values])
    if method == "sum":
        return np.array([float(added(v)) for v in values])
    return np.array([float(REDUCE[method](v)) if v else np.nan for v in values])


def added(values):
    """One addition after the other; the built-in sum may compensate."""
    total = 0
    for value in values:
        total += value
    return total


def noise(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0, 1000, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


@st.composite
def labelled(draw):
    """An image and labels in stretches along x, some labels missing."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 17)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(0, 6))
    labels = np.repeat(rng.integers(0, n + 1, shape), 3, axis=2)[:, :, : shape[2]]
    return noise(shape, dtype, rng), labels.astype(draw(st.sampled_from(["int32", "uint8", "int64"]))), n


@given(labelled(), st.sampled_from(METHODS))
@settings(max_examples=200)
def test_labels_are_measured_to_the_last_bit(case, method):
    image, labels, n = case
    np.testing.assert_array_equal(
        find_intensity(image, labels, method=method, n=n), reference(image, labels, n, method)
    )
    size = find_size(labels, n)
    assert size.dtype == np.int64
    np.testing.assert_array_equal(size, np.bincount(labels.ravel(), minlength=n + 1)[1:])
    assert len(find_size(labels)) == labels.max(initial=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_are_measured_as_scipy_does(dtype):
    labels = np.random.default_rng(0).integers(0, 30, (6, 17, 29)).astype(np.int32)
    image = noise(labels.shape, dtype, 1)
    index = np.arange(1, 30)
    wide = image.astype(np.float64)
    for method, oracle in (("max", ndimage.maximum), ("min", ndimage.minimum), ("sum", ndimage.sum_labels)):
        np.testing.assert_allclose(find_intensity(image, labels, method=method), oracle(wide, labels, index), 1e-9)
    np.testing.assert_allclose(
        find_intensity(image, labels, method="MEAN"), ndimage.mean(wide, labels, index), 1e-9, 1e-9
    )


@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.sampled_from(METHODS), st.sampled_from([None, 0, 3, 6]))
@settings(max_examples=120)
def test_shapes_are_measured_as_their_labels(seed, dtype, method, threshold):
    rng = np.random.default_rng(seed)
    grown = rng.integers(0, 9, (4, 7, 19)).astype(np.uint8)
    image = noise(grown.shape, dtype, rng)
    n = int(rng.integers(0, 12))
    shapes = grow_shapes(grown, np.arange(n + 1), rng.integers(0, grown.size, n), threshold)
    labels = shapes.to_dense()
    measured = measure_shapes(shapes, image, method.upper())
    assert measured.dtype == np.float64
    np.testing.assert_array_equal(measured, reference(image, labels, n, method))
    np.testing.assert_array_equal(shapes.size, find_size(labels, n))
    boxes = shape_boxes(shapes)
    expected = [(0,) * 6 if s is None else (*(a.start for a in s), *(a.stop for a in s)) for s in find_boxes(labels, n)]
    np.testing.assert_array_equal(boxes, np.array(expected, np.int64).reshape(n, 6))


def find_boxes(labels, n):
    found = ndimage.find_objects(labels, n) if n else []
    return [*found, *[None] * (n - len(found))]


@pytest.mark.parametrize("method", METHODS)
def test_a_result_has_the_same_bits_in_every_block(method):
    grown = np.random.default_rng(3).integers(0, 100, (9, 21, 35)).astype(np.uint8)
    grown[:, 10], grown[:, :, 17] = 0, 0  # what lies before row 10 and behind column 17 is a component of its own
    image = noise(grown.shape, "float32", 4)
    points = np.argwhere(grown == 99)
    points = points[(points[:, 1] < 10) & (points[:, 2] > 17)]
    whole = grow_shapes(grown, np.arange(len(points) + 1), np.ravel_multi_index(points.T, grown.shape), 20)
    block = (slice(0, 9), slice(0, 12), slice(16, 35))
    points -= (0, 0, 16)
    part = grow_shapes(grown[block], np.arange(len(points) + 1), np.ravel_multi_index(points.T, grown[block].shape), 20)
    expected = measure_shapes(whole, image, method)
    assert whole.size.max() > 50
    np.testing.assert_array_equal(measure_shapes(part, image[block], method), expected)
    np.testing.assert_array_equal(find_intensity(image[block], part.to_dense(), method=method), expected)


def test_sums_of_integers_are_exact():
    labels = np.ones((2, 3, 5), np.uint16)
    image = np.full(labels.shape, 65535, np.uint16)
    assert find_intensity(image, labels, method="sum").tolist() == [30 * 65535]
    assert find_intensity(image, labels, method="mean").tolist() == [65535]
    low = np.full(labels.shape, -32768, np.int16)
    assert find_intensity(low, labels, method="max").tolist() == [-32768]
    assert find_intensity(low, labels, method="sum").tolist() == [-32768 * 30]


def test_nan_is_handed_on():
    labels = np.array([[[1, 1, 1, 2, 2, 0, 3]]])
    image = np.array([[[5, np.nan, 7, 1, 2, np.nan, -np.inf]]], np.float32)
    for method, expected in (("max", 2), ("min", 1), ("mean", 1.5), ("sum", 3)):
        np.testing.assert_array_equal(find_intensity(image, labels, method=method), [np.nan, expected, -np.inf])


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(DTYPES),
    st.sampled_from(METHODS),
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7)),
)
@settings(max_examples=120)
def test_balls_hold_the_voxels_within_their_radius(seed, dtype, method, diameters):
    rng = np.random.default_rng(seed)
    image = noise((4, 6, 9), dtype, rng)
    centres = rng.integers(-2, np.array(image.shape) + 2, (5, 3))
    expected = []
    for centre in centres:
        radius = np.array(diameters) / 2
        distance = sum(((g - c) / r) ** 2 for g, c, r in zip(np.indices(image.shape), centre, radius, strict=True))
        expected.append(reference(image, (distance <= 1).astype(int), 1, method)[0])
    jitter = rng.uniform(-0.5, 0.499, centres.shape)
    np.testing.assert_array_equal(
        find_intensity(image, centres=centres + jitter, method=method, shape=diameters), expected
    )
    np.testing.assert_array_equal(measure_balls(image, centres, ball_offsets(diameters), method), expected)


def test_axes_of_balls_and_labels_can_be_swapped():
    image = noise((5, 8, 11), "uint16", 0)
    centres = np.array([[2, 3, 4], [0, 7, 1], [4, 0, 10]])
    labels = np.random.default_rng(1).integers(0, 5, image.shape)
    for axes in ((2, 1, 0), (1, 2, 0), (0, 2, 1)):
        turned, diameters = image.transpose(axes), np.array((3, 4, 6))
        np.testing.assert_array_equal(
            find_intensity(turned, centres=centres[:, axes], shape=tuple(diameters[list(axes)]), method="sum"),
            find_intensity(image, centres=centres, shape=tuple(diameters), method="sum"),
        )
        np.testing.assert_array_equal(
            find_intensity(turned, labels.transpose(axes), method="sum"), find_intensity(image, labels, method="sum")
        )


def test_nothing_to_measure():
    image = np.ones((3, 4, 5), np.uint8)
    labels = np.zeros(image.shape, np.int32)
    assert find_size(labels).shape == (0,)
    assert find_size(labels, 2).tolist() == [0, 0]
    assert find_intensity(image, labels).shape == (0,)
    assert find_intensity(image, labels, method="sum", n=1).tolist() == [0]
    assert find_intensity(image, centres=np.zeros((0, 3))).shape == (0,)
    assert np.isnan(find_intensity(image, centres=[[9, 9, 9]], method="mean")).all()
    for method in METHODS:
        for shape in ((0, 4, 5), (3, 0, 5), (3, 4, 0)):
            empty = np.zeros(shape, np.float32)
            assert find_intensity(empty, np.zeros(shape, int), method=method).shape == (0,)
            assert find_size(np.zeros(shape, int), 1).tolist() == [0]
            value = measure_shapes(grow_shapes(empty, [0, 0], []), empty, method)
            np.testing.assert_array_equal(value, [0.0 if method == "sum" else np.nan])


@pytest.mark.parametrize(
    ("name", "hint"), [("maximum", "did you mean 'max'"), ("avg", "not one of"), ("means", "did you mean 'mean'")]
)
def test_unknown_methods_are_named(name, hint):
    image = np.ones((2, 3, 4), np.uint8)
    shapes = grow_shapes(image, [0, 1], [0])
    for call in (
        lambda: find_intensity(image, image, method=name),
        lambda: find_intensity(image, centres=[[0, 0, 0]], method=name),
        lambda: measure_shapes(shapes, image, name),
        lambda: measure_balls(image, [[0, 0, 0]], [[0, 0, 0]], name),
    ):
        with pytest.raises(ValueError, match=f"method: .*{hint}"):
            call()


def test_wrong_arguments_are_named():
    image = np.ones((2, 3, 4), np.uint8)
    with pytest.raises(ValueError, match="labels: neither labels nor centres"):
        find_intensity(image)
    with pytest.raises(ValueError, match=r"image: extent \(2, 3, 3\) given"):
        find_intensity(image[:, :, :3], np.ones(image.shape, int))
    with pytest.raises(ValueError, match=r"image: extent \(2, 3, 3\) given"):
        measure_shapes(grow_shapes(image, [0, 1], [0]), image[:, :, :3])
    with pytest.raises(ValueError, match="3-D image of integers"):
        find_size(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="3-D image of integers"):
        find_intensity(image, np.ones((3, 4), int))
    with pytest.raises(ValueError, match=r"labels: 5 found, 0 \.\.\. 4"):
        find_size(np.full((2, 3, 4), 5), 4)
    with pytest.raises(ValueError, match=r"labels: -3 found"):
        find_intensity(image, np.full((2, 3, 4), -3))
    with pytest.raises(ValueError, match="image: dtype int64"):
        find_intensity(image.astype(np.int64), np.full((2, 3, 4), 1))


def golden(shared):
    path = shared / "golden" / "clearmap" / "signal_crop.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the checkout")
    return np.load(path)


@pytest.mark.parametrize(("name", "filtered", "threshold"), [("bg", "bg_disk10", 200), ("dog", "dog775_f32", 5)])
@pytest.mark.parametrize("method", METHODS)
def test_intensities_agree_with_clearmap(shared, name, filtered, threshold, method):
    with golden(shared) as data:
        source, labels, sizes = data["input"].T, data[f"labels_{name}"].T, data[f"sizes_{name}"]
        expected = data[f"intensity_{name}_{method}_source"]
        image, points = data[filtered].T, data[f"maxima_{name}"][:, ::-1]
    n, found = len(sizes), sizes > 0
    kept = np.where(labels > n, 0, labels)  # labels made by adding up seeds, see its quirks
    np.testing.assert_array_equal(find_size(kept, n), sizes)
    np.testing.assert_allclose(find_intensity(source, kept, method=method, n=n)[found], expected[found], 1e-15)
    alone = (
        np.abs(points[:, None].astype(int) - points).sum(2) + 3 * np.eye(n, dtype=int) >= 3
    )  # crosses that do not meet
    rows = alone.all(1) & found
    ours = find_intensity(source, detect_shape(image, points, threshold), method=method, n=n)
    assert np.isclose(ours[rows], expected[rows], 1e-15).mean() >= 0.99


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("method", ["max", "min"])
def test_balls_agree_with_clearmap(shared, radius, method):
    with golden(shared) as data:
        image, points = data["input"].T, data["maxima_bg"][:, ::-1]
        expected = data[f"expression_{method}_r{radius}"]
    np.testing.assert_array_equal(find_intensity(image, centres=points, method=method, shape=2 * radius), expected)
