"""Grown shapes against a priority queue written from the rule, and against scikit-image."""

import heapq
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import watershed

from cytolith.kernels.components import MaskTooLargeError, mask_runs
from cytolith.kernels.watershed import Shapes, detect_shape, grow_shapes

DTYPES = ["uint8", "uint16", "int16", "float32"]
STEPS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0))
CROSS = np.array([(0, 0, 0), *STEPS])


def flood(image, starts, voxels, mask, clamp=True):
    """The rule as it is written, voxel by voxel with a heap of (-value, age)."""
    labels = np.zeros(image.shape, np.int32)
    queue, age = [], 0
    for i in range(len(starts) - 1):
        for voxel in voxels[starts[i] : starts[i + 1]]:
            p = np.unravel_index(voxel, image.shape)
            if mask[p] and labels[p] == 0:
                labels[p] = i + 1
                heapq.heappush(queue, (-float(image[p]), age, p))
                age += 1
    while queue:
        level, _, p = heapq.heappop(queue)
        for step in STEPS:
            q = tuple(np.add(p, step))
            if min(q) < 0 or any(np.greater_equal(q, image.shape)) or not mask[q] or labels[q]:
                continue
            labels[q] = labels[p]
            value = -float(image[q])
            heapq.heappush(queue, (max(value, level) if clamp else value, age, q))
            age += 1
    return labels


def check(shapes: Shapes, expected: np.ndarray, count: int) -> None:
    dense = shapes.to_dense()
    assert dense.dtype == np.int32
    np.testing.assert_array_equal(dense, expected)
    assert shapes.count == count
    assert shapes.size.dtype == np.int64
    np.testing.assert_array_equal(shapes.size, np.bincount(expected.ravel(), minlength=count + 1)[1:])
    assert shapes.open.shape == (count,)


def lists(groups):
    """Seeds of one or more voxels each as starts and voxels."""
    starts = np.concatenate([[0], np.cumsum([len(g) for g in groups])]).astype(np.int64)
    return starts, np.concatenate([np.zeros(0, np.int64), *groups]).astype(np.int64)


def singles(points, shape):
    return np.arange(len(points) + 1), np.ravel_multi_index(tuple(np.asarray(points).T), shape)


def bumps(shape, seed, n=40, dtype=np.uint16):
    """Smooth blobs with noise, like cells."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    image[tuple(rng.integers(0, shape, (n, 3)).T)] = rng.uniform(500, 3000, n)
    image = ndimage.gaussian_filter(image, (1.0, 1.6, 1.6)) * 30
    return (image + rng.uniform(0, 30, shape)).astype(dtype)


def peaks(image, threshold):
    return np.argwhere((ndimage.maximum_filter(image, (3, 5, 5)) == image) & (image > threshold))


@st.composite
def problems(draw):
    """An image of few values and seeds of none to three voxels anywhere, also twice and outside the mask."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 13)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = 0 if dtype.kind == "u" else -6
    image = rng.integers(low, low + draw(st.integers(1, 12)), shape).astype(dtype)
    if dtype.kind == "f":
        image *= np.float32(1.3)
        image[(image == 0) & (rng.random(shape) < 0.5)] = -0.0
    sizes = draw(st.lists(st.integers(0, 3), max_size=9))
    starts, voxels = lists([rng.integers(0, image.size, k) for k in sizes])
    return image, starts, voxels, draw(st.sampled_from([None, -100, -0.5, 0, 1, 2.5, 4, 100]))


@given(problems())
@settings(max_examples=300)
def test_the_rule_holds_voxel_for_voxel(problem):
    image, starts, voxels, threshold = problem
    mask = np.ones(image.shape, bool) if threshold is None else image > threshold
    check(grow_shapes(image, starts, voxels, threshold), flood(image, starts, voxels, mask), len(starts) - 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [None, 5])
def test_the_rule_holds_where_many_seeds_share_a_component(dtype, threshold):
    rng = np.random.default_rng(11)
    image = rng.integers(0, 40, (7, 15, 29)).astype(dtype)
    groups = [rng.integers(0, image.size, rng.integers(1, 4)) for _ in range(60)]
    starts, voxels = lists(groups)
    mask = np.ones(image.shape, bool) if threshold is None else image > threshold
    check(grow_shapes(image, starts, voxels, threshold), flood(image, starts, voxels, mask), 60)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_the_rule_holds_over_the_whole_range_of_values(dtype):
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 256, (4, 9, 11 * np.dtype(dtype).itemsize), dtype=np.uint8)
    image = np.nan_to_num(bits.view(dtype), nan=1.5)  # every sign and exponent of a float, and infinities cut
    starts, voxels = singles(rng.integers(0, image.shape, (25, 3)), image.shape)
    check(grow_shapes(image, starts, voxels), flood(image, starts, voxels, np.ones(image.shape, bool)), 25)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_scikit_image_where_no_two_seeds_are_equal(dtype, seed):
    image = bumps((11, 40, 57), seed, dtype=dtype)
    points = peaks(image, 300)
    _, first = np.unique(image[tuple(points.T)], return_index=True)
    points = points[np.sort(first)]
    assert len(points) > 10
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(points.T)] = np.arange(1, len(points) + 1)
    expected = watershed(-image.astype(np.float64), markers, mask=image > 100)
    check(grow_shapes(image, *singles(points, image.shape), 100), expected, len(points))


def test_equal_to_scikit_image_with_the_order_of_equal_seeds_given():
    image = bumps((11, 40, 57), 6, 90) // 150  # many peaks of few heights, all with lower neighbours
    footprint = ndimage.generate_binary_structure(3, 1)
    footprint[1, 1, 1] = False
    points = np.argwhere((image > ndimage.maximum_filter(image, footprint=footprint)) & (image > 1))
    n = len(points)
    assert len(np.unique(image[tuple(points.T)])) < n / 3
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(points.T)] = np.arange(1, n + 1)
    ranked = -image.astype(np.float64)
    ranked[tuple(points.T)] -= 0.5 * (1 - np.arange(n) / n)
    check(grow_shapes(image, *singles(points, image.shape), 0), watershed(ranked, markers, mask=image > 0), n)


@pytest.mark.parametrize("highest", [2, 6, 60000])
def test_axes_can_be_swapped(highest):
    """Also where values are equal: only the order of the seeds decides."""
    rng = np.random.default_rng(8)
    shape = (5, 9, 14)
    image = rng.integers(0, highest, shape).astype(np.uint16)
    points = rng.integers(0, shape, (30, 3))
    threshold = highest // 4 - 1
    expected = grow_shapes(image, *singles(points, shape), threshold).to_dense()
    assert len(np.unique(expected)) > 15
    for axes in ((2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1)):
        turned = image.transpose(axes)
        shapes = grow_shapes(turned, *singles(points[:, axes], turned.shape), threshold)
        np.testing.assert_array_equal(shapes.to_dense(), expected.transpose(axes))
        mirrored = grow_shapes(
            turned[::-1, :, ::-1], *singles(flip(points[:, axes], turned.shape), turned.shape), threshold
        )
        np.testing.assert_array_equal(mirrored.to_dense()[::-1, :, ::-1], expected.transpose(axes))


def flip(points, shape):
    return np.column_stack([shape[0] - 1 - points[:, 0], points[:, 1], shape[2] - 1 - points[:, 2]])


def test_each_open_face_is_told_from_the_others():
    image = np.zeros((5, 6, 7), np.uint8)
    points = [(0, 2, 3), (4, 2, 3), (2, 0, 3), (2, 5, 3), (2, 2, 0), (2, 2, 6), (2, 2, 3)]
    image[tuple(np.transpose(points))] = 9
    seeds = singles(points, image.shape)
    for face in range(6):
        shapes = grow_shapes(image, *seeds, 0, tuple(int(f == face) for f in range(6)))
        assert shapes.open.tolist() == [i == face for i in range(7)]
    assert not grow_shapes(image, *seeds, 0).open.any()
    image[2, 2, 1:3] = 1  # joins the voxel at x = 0 with the one in the middle, which gets the nearer half anyway
    shapes = grow_shapes(image, *seeds, 0, (0, 0, 0, 0, 1, 0))
    assert np.flatnonzero(shapes.open).tolist() == [4]
    shapes = grow_shapes(image, *seeds, 0, (0, 0, 0, 0, 3, 0))  # now that voxel is unsure as well
    assert np.flatnonzero(shapes.open).tolist() == [4, 6]


def test_a_seed_outside_the_mask_has_no_shape():
    image = np.array([[[5, 5, 0, 7]]], np.uint16)
    shapes = grow_shapes(image, [0, 1, 2, 2], [2, 3], 4, (1,) * 6)
    assert shapes.size.tolist() == [0, 1, 0]
    assert shapes.open.tolist() == [False, True, False]
    np.testing.assert_array_equal(shapes.to_dense(), [[[0, 0, 0, 2]]])


def test_a_contested_voxel_belongs_to_the_first_seed():
    image = np.array([[[5, 6, 5, 4]]], np.uint8)
    shapes = grow_shapes(image, [0, 1, 3, 4], [1, 1, 2, 2])
    np.testing.assert_array_equal(shapes.to_dense(), [[[1, 1, 2, 2]]])
    assert shapes.size.tolist() == [2, 2, 0]


def test_zeros_of_unsigned_images_flood_last():
    image = np.array([[[9, 5, 0, 3, 4]]], np.uint16)
    np.testing.assert_array_equal(grow_shapes(image, [0, 1, 2], [0, 4]).to_dense(), [[[1, 1, 1, 2, 2]]])


def test_both_zeros_of_floats_are_equal():
    image = np.array([[[1, -0.0, 0.0, 0.0, 2]]], np.float32)
    other = np.array([[[1, 0.0, 0.0, -0.0, 2]]], np.float32)
    for threshold in (None, -1):
        a, b = (grow_shapes(f, [0, 1, 2], [0, 4], threshold).to_dense() for f in (image, other))
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, [[[1, 1, 2, 2, 2]]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_image_is_shared_by_distance(dtype):
    image = np.full((6, 9, 40), 7, dtype)
    shapes = grow_shapes(image, [0, 1], [1000], 3)
    assert shapes.size.tolist() == [image.size]
    shapes = grow_shapes(image, [0, 1, 2], [0, image.size - 1], 3)
    z, y, x = np.indices(image.shape)
    near, far = z + y + x, 5 - z + 8 - y + 39 - x
    dense = shapes.to_dense()
    assert (dense[near < far] == 1).all()
    assert (dense[near > far] == 2).all()


def test_nothing_to_do():
    image = np.ones((3, 4, 5), np.uint8)
    check(grow_shapes(image, [0], [], 0), np.zeros(image.shape, np.int32), 0)
    check(grow_shapes(image, [0, 1], [7], 1), np.zeros(image.shape, np.int32), 1)
    check(grow_shapes(image[:1, :1, :1], [0, 1], [0], 0), np.ones((1, 1, 1), np.int32), 1)
    for shape in ((0, 4, 5), (3, 0, 5), (3, 4, 0)):
        check(grow_shapes(np.zeros(shape, np.float32), [0, 0], []), np.zeros(shape, np.int32), 1)
        assert detect_shape(np.zeros(shape, np.uint8), np.zeros((0, 3))).shape == shape


def test_repeated_calls_give_the_same():
    image = bumps((9, 30, 31), 7)
    points = peaks(image, 30)
    first = grow_shapes(image, *singles(points, image.shape), 30)
    for same in (image, np.asfortranarray(image), image.astype(">u2"), image.astype(np.float64)):
        shapes = grow_shapes(same, *singles(points, image.shape), 30)
        np.testing.assert_array_equal(shapes.labels, first.labels)


def test_large_components_after_small_ones_and_back():
    """What one component leaves in its box does not reach the next, of another extent."""
    rng = np.random.default_rng(9)
    image = np.zeros((8, 21, 64), np.uint16)
    for x, size in ((0, 3), (5, 20), (27, 2), (31, 7), (40, 21)):
        image[: size // 3 + 1, :size, x : x + size] = rng.integers(1, 9, (size // 3 + 1, size, min(size, 64 - x)))
    points = np.argwhere((image > 0) & (rng.random(image.shape) < 0.1))
    seeds = singles(points, image.shape)
    for dtype in ("uint16", "float32"):
        check(grow_shapes(image.astype(dtype), *seeds, 0), flood(image, *seeds, image > 0), len(points))


def test_dense_labels_are_written_over_what_was_there():
    image = bumps((3, 20, 21), 3)
    shapes = grow_shapes(image, *singles(peaks(image, 100), image.shape), 100)
    out = np.full(image.shape, -7, np.int32)
    assert shapes.to_dense(out) is out
    np.testing.assert_array_equal(out, shapes.to_dense())
    for wrong in (out[:, :, :20], out.astype(np.int64), np.asfortranarray(out)):
        with pytest.raises(ValueError, match="out: "):
            shapes.to_dense(wrong)


def test_seeds_come_as_positions_markers_or_lists():
    image = bumps((6, 22, 33), 5)
    points = peaks(image, 60)
    expected = grow_shapes(image, *singles(points, image.shape), 60).to_dense()
    jitter = np.random.default_rng(0).uniform(-0.49, 0.49, points.shape)
    starts, voxels = singles(points, image.shape)
    np.testing.assert_array_equal(detect_shape(image, points, 60), expected)
    np.testing.assert_array_equal(detect_shape(image, (points + jitter).tolist(), 60), expected)
    np.testing.assert_array_equal(detect_shape(image, SimpleNamespace(starts=starts, voxels=voxels), 60), expected)
    markers = np.zeros(image.shape, np.uint16)
    markers[tuple(points.T)] = 10 * np.arange(1, len(points) + 1)
    for same in (markers, np.asfortranarray(markers), markers.astype(">i8")):
        np.testing.assert_array_equal(detect_shape(image, same, 60), 10 * expected)


def test_halves_round_up_everywhere():
    image = np.arange(6, dtype=np.uint8).reshape(1, 1, 6) % 2  # voxels 1, 3, 5 stand alone
    np.testing.assert_array_equal(
        detect_shape(image, [[0, 0, 0.5], [0, 0, 2.5], [0, 0, 4.5]], 0), [[[0, 1, 0, 2, 0, 3]]]
    )


def test_markers_enter_in_ascending_order_of_label():
    image = np.array([[[3, 1, 3]]], np.uint8)
    np.testing.assert_array_equal(detect_shape(image, np.array([[[9, 0, 4]]])), [[[9, 4, 4]]])
    np.testing.assert_array_equal(detect_shape(image, np.array([[[4, 0, 9]]])), [[[4, 4, 9]]])


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (np.zeros((4, 2)), r"array of shape \(4, 2\) given, \(n, 3\)"),
        ([[0, 0, 1], [0, 0, 5]], "row 1 at .* lies outside the image"),
        ([[0, -0.6, 1]], "row 0 at .* lies outside the image"),
        ([[0, np.nan, 1]], "row 0 at .* lies outside the image"),
        (np.zeros((2, 3, 4), int), "an integer one of"),
        (np.zeros((3, 4, 5)), "an integer one of"),
        (np.full((3, 4, 5), -1), r"markers -1 \.\.\. -1 given"),
        (np.full((3, 4, 5), 2**31), "markers"),
    ],
)
def test_wrong_seeds_are_named(seeds, message):
    with pytest.raises(ValueError, match=f"seeds: .*{message}|seeds: {message}"):
        detect_shape(np.ones((3, 4, 5), np.uint8), seeds, 0)


@pytest.mark.parametrize(
    ("starts", "voxels"), [([], []), ([0, 2], [1]), ([1, 1], [1]), ([0, 2, 1], [1]), ([0, 1], [60]), ([0, 1], [-1])]
)
def test_wrong_lists_are_named(starts, voxels):
    with pytest.raises(ValueError, match="seed_"):
        grow_shapes(np.ones((3, 4, 5), np.uint8), starts, voxels, 0)


def test_the_limit_is_handed_on():
    with pytest.raises(MaskTooLargeError, match="60 voxels"):
        grow_shapes(np.ones((3, 4, 5), np.uint8), [0], [], 0, limit=59)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("margins", [(0,) * 6, (0, 2, 1, 0, 3, 0)])
def test_with_the_mask_given_the_image_is_read_at_its_voxels_alone(dtype, margins):
    image = (bumps((11, 40, 57), 2) // 100).astype(dtype)  # many seeds in a component, and many ties
    threshold = 3
    seeds = singles(peaks(image, 1), image.shape)  # some outside the mask
    open_seeds = np.arange(len(seeds[1])) % 5 == 0
    expected = grow_shapes(image, *seeds, threshold, margins, open_seeds=open_seeds)
    assert (expected.size > 0).sum() > 10
    assert 0 < expected.open.sum() < expected.count
    other = np.where(image > threshold, image, image.max() + 1 - image).astype(dtype)
    runs = mask_runs(image, threshold)
    shapes = grow_shapes(other, *seeds, threshold, margins, open_seeds=open_seeds, runs=runs)
    for name in ("labels", "size", "open"):
        np.testing.assert_array_equal(getattr(shapes, name), getattr(expected, name))
    assert shapes.runs is runs


def test_a_mask_that_is_given_must_fit():
    image = np.ones((3, 4, 5), np.uint8)
    runs = mask_runs(image, 0)
    with pytest.raises(ValueError, match=r"runs: a mask of \(3, 4, 5\) given"):
        grow_shapes(image[:2], [0], [], 0, runs=runs)
    with pytest.raises(MaskTooLargeError, match="60 voxels"):
        grow_shapes(image, [0], [], 0, limit=59, runs=runs)
    assert grow_shapes(image, [0, 1], [7], 0, limit=60, runs=runs).size.tolist() == [60]


@pytest.mark.parametrize(("name", "filtered", "threshold"), [("bg", "bg_disk10", 200), ("dog", "dog775_f32", 5)])
def test_shapes_agree_with_clearmap(shared, name, filtered, threshold):
    path = shared / "golden" / "clearmap" / "signal_crop.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the checkout")
    with np.load(path) as golden:
        image, sizes, labels = golden[filtered].T, golden[f"sizes_{name}"], golden[f"labels_{name}"].T
        points = golden[f"maxima_{name}"][:, ::-1].astype(np.int64)
    n = len(points)
    groups, added, hits = [], np.zeros(image.shape, np.int64), np.zeros(image.shape, np.int64)
    for i, point in enumerate(points):
        cross = point + CROSS
        cross = cross[((cross >= 0) & (cross < image.shape)).all(1)]
        groups.append(np.ravel_multi_index(tuple(cross.T), image.shape))
        added[tuple(cross.T)] += i + 1
        hits[tuple(cross.T)] += 1
    # its crosses add up where they overlap; what is left is the level being flooded, which its scikit-image ignored
    dense = detect_shape(image, added, threshold)
    differ = np.bincount(dense.ravel(), minlength=n + 1)[1 : n + 1] != sizes
    assert differ.mean() < 0.005
    assert (dense != labels).mean() < 1e-5
    # ours do not add up: every other difference is at a voxel that two crosses claim, or at a label made by adding
    shapes = grow_shapes(image, *lists(groups), threshold)
    explained = differ.copy()
    for i, group in enumerate(groups):
        contested = hits.ravel()[group] > 1
        if contested.any():
            explained[i] = True
            sums = added.ravel()[group][contested] - 1
            explained[sums[sums < n]] = True
    assert not ((shapes.size != sizes) & ~explained).any()
    assert (shapes.size == sizes)[~explained].sum() > 0.95 * n
