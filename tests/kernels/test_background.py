"""Openings against OpenCV, SciPy and the definition."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from cytolith.kernels.background import background_reach, opening, remove_background
from cytolith.kernels.footprints import box, ellipsoid

DTYPES = [np.uint8, np.uint16, np.int16, np.float32]

masks = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 7))).filter(np.any)


def random_image(seed, shape, dtype):
    """Noise over many or few levels (plateaus, ties), with the bounds of the dtype among the values."""
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        image = rng.normal(size=shape).astype(dtype)
    else:
        bounds = np.iinfo(dtype)
        image = rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
    return image if seed % 2 else rng.choice(image.ravel()[:5], shape)


def opened_by_opencv(image, mask, reflect):
    kernel = mask.astype(np.uint8)
    if not reflect:
        return cv2.morphologyEx(image, cv2.MORPH_OPEN, kernel)
    height, width = mask.shape
    anchor = (width - 1 - width // 2, height - 1 - height // 2)
    return cv2.dilate(cv2.erode(image, kernel), kernel[::-1, ::-1].copy(), anchor=anchor)


def finite(opened):
    """Where there is nothing but outside, OpenCV has the largest finite value, we have infinity."""
    bounds = np.finfo(np.float32)
    return np.clip(opened, bounds.min, bounds.max) if opened.dtype == np.float32 else opened


def opened_by_definition(plane, mask, reflect):
    lowest, highest = (
        (-np.inf, np.inf) if plane.dtype.kind == "f" else (np.iinfo(plane.dtype).min, np.iinfo(plane.dtype).max)
    )
    offsets = np.argwhere(mask) - np.array(mask.shape) // 2

    def reduced(source, steps, worst, better):
        result = np.full_like(source, worst)
        for y, x in np.ndindex(source.shape):
            for dy, dx in steps:
                if 0 <= y + dy < source.shape[0] and 0 <= x + dx < source.shape[1]:
                    result[y, x] = better(result[y, x], source[y + dy, x + dx])
        return result

    eroded = reduced(plane, offsets, highest, min)
    return reduced(eroded, -offsets if reflect else offsets, lowest, max)


@given(st.integers(0, 999), st.tuples(st.integers(1, 60), st.integers(1, 45)), st.sampled_from(DTYPES), masks)
@settings(max_examples=200)
def test_any_mask_is_opened_as_by_opencv(seed, shape, dtype, mask):
    # also masks without their anchor, with rows of several runs, and larger than the plane
    plane = random_image(seed, shape, dtype)
    for reflect in (True, False):
        ours = opening(plane, mask, reflect_footprint=reflect)
        assert ours.dtype == dtype
        assert np.array_equal(finite(ours), opened_by_opencv(plane, mask, reflect))


@given(st.integers(0, 999), st.tuples(st.integers(1, 9), st.integers(1, 8)), st.sampled_from(DTYPES), masks)
@settings(max_examples=60)
def test_any_mask_is_opened_as_defined(seed, shape, dtype, mask):
    plane = random_image(seed, shape, dtype)
    for reflect in (True, False):
        ours = opening(plane, mask, reflect_footprint=reflect)
        assert np.array_equal(ours, opened_by_definition(plane, mask, reflect))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["disk", "cube"])
def test_background_of_all_sizes(form, dtype):
    plane = random_image(1, (83, 121), dtype)
    sizes = [(n, n) for n in (*range(1, 22), 30, 41, 70)] + [
        (3, 26),
        (10, 13),
        (13, 10),
        (7, 20),
        (25, 4),
        (1, 5),
        (90, 2),
    ]
    for shape in sizes:
        mask = ellipsoid(shape) if form == "disk" else box(shape)
        for reflect in (True, False):
            ours = remove_background(plane, shape, form, reflect_footprint=reflect)
            below = np.minimum(plane, opened_by_opencv(plane, mask, reflect))
            difference = plane - below if dtype == np.float32 else plane.astype(np.int64) - below
            expected = difference if dtype == np.float32 else np.minimum(difference, np.iinfo(dtype).max)
            assert ours.dtype == dtype
            assert np.array_equal(ours, expected), (shape, reflect)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_just_fill_their_padding(dtype):
    # all remainders of the row length by a cache line, and of the number of rows by those of a step
    lopsided = np.zeros((3, 9), bool)
    lopsided[:, :2] = True
    for mask in (box((4, 8)), box((1, 12)), lopsided, lopsided[:, ::-1].copy()):
        for n in range(80):
            plane = random_image(2 * n + 1, (1 + n % 35, 50 + n), dtype)
            for reflect in (True, False):
                ours = opening(plane, mask, reflect_footprint=reflect)
                assert np.array_equal(finite(ours), opened_by_opencv(plane, mask, reflect)), plane.shape


def test_interior_as_scipy():
    plane = random_image(3, (50, 61), np.uint16)
    for shape in ((4, 7), (6, 6), (5, 3)):
        ours = opening(plane, ellipsoid(shape))
        scipy = ndimage.grey_opening(plane, footprint=ellipsoid(shape))
        assert np.array_equal(ours[10:-10, 10:-10], scipy[10:-10, 10:-10])


def test_an_even_footprint_shifts_without_reflection():
    plane = np.zeros((30, 40), np.uint16)
    plane[10:16, 20:26] = 9
    kept = opening(plane, box((4, 4)))
    assert np.array_equal(kept, plane)
    shifted = opening(plane, box((4, 4)), reflect_footprint=False)
    assert np.array_equal(shifted, np.roll(plane, (1, 1), (0, 1)))


def test_as_the_original(shared):
    crop = np.load(shared / "golden" / "clearmap" / "signal_crop.npz")
    image = crop["input"].T
    ten = remove_background(image, (10, 10), reflect_footprint=False)
    assert np.array_equal(ten, crop["bg_disk10"].T)
    for reflect in (True, False):
        assert np.array_equal(remove_background(image, 7, "Disk", reflect_footprint=reflect), crop["bg_disk7"].T)


@given(st.integers(0, 999), st.tuples(st.integers(1, 40), st.integers(1, 33)), st.sampled_from(DTYPES), masks)
@settings(max_examples=50)
def test_laws_of_an_opening(seed, shape, dtype, mask):
    plane = random_image(seed, shape, dtype)
    opened = opening(plane, mask)
    assert (opened <= plane).all()
    assert np.array_equal(opening(opened, mask), opened)
    higher = np.maximum(plane, random_image(seed + 7, shape, dtype))
    assert (opening(higher, mask) >= opened).all()
    assert np.array_equal(opening(np.ascontiguousarray(plane.T), mask.T), opened.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_voxel_footprint_and_flat_images(dtype):
    image = random_image(1, (3, 5, 7), dtype)
    assert np.array_equal(opening(image, np.ones((1, 1), bool)), image)
    assert not remove_background(image, 1).any()
    assert not remove_background(np.full((2, 20, 9), 7, dtype), (5, 8)).any()
    assert remove_background(np.full((1, 1, 1), 7, dtype), 30).tolist() == [[[0]]]
    for shape in ((0, 4, 5), (2, 0, 5), (2, 4, 0)):
        assert remove_background(np.zeros(shape, dtype), 3).shape == shape


def test_planes_do_not_touch_each_other():
    image = random_image(5, (4, 37, 29), np.uint16)
    together = remove_background(image, (6, 9))
    for z in range(4):
        assert np.array_equal(together[z], remove_background(image[z], (6, 9)))


def test_int16_saturates():
    plane = np.full((9, 9), -30_000, np.int16)
    plane[4, 4] = 30_000
    assert remove_background(plane, 3).max() == 32_767


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_smaller_of_two(seed, dtype):
    image = random_image(seed, (2, 40, 61), dtype)
    out = remove_background(image, 7)
    expected = np.minimum(out, remove_background(image, (1, 25), "cube"))
    assert (expected < out).any()
    assert remove_background(image, (1, 25), "cube", smaller=True, out=out) is out
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("reflect", [True, False])
@pytest.mark.parametrize(("form", "shape"), [("disk", (10, 7)), ("disk", (5, 4)), ("cube", (3, 6)), ("disk", (20, 2))])
def test_reach_is_exact(form, shape, reflect):
    z, ry, rx = background_reach(shape, form, reflect_footprint=reflect)
    assert z == 0
    mask = ellipsoid(shape) if form == "disk" else box(shape)
    y, x = 24, 23
    rng = np.random.default_rng(0)
    farthest = [0, 0]
    offsets = np.argwhere(mask) - np.array(shape) // 2
    for dy, dx in offsets:
        # the footprint of one placement is bright, so the opening at (y, x) is that of this placement alone
        py, px = (y - dy, x - dx) if reflect else (y + dy, x + dx)
        plane = rng.integers(0, 10, (49, 47)).astype(np.uint16)
        plane[py + offsets[:, 0], px + offsets[:, 1]] = 500
        plane[y, x] = 600
        before = remove_background(plane, shape, form, reflect_footprint=reflect)[y, x]
        for ey, ex in offsets:
            changed = plane.copy()
            changed[py + ey, px + ex] = 450
            if (py + ey, px + ex) != (y, x) and (
                remove_background(changed, shape, form, reflect_footprint=reflect)[y, x] != before
            ):
                farthest = [max(farthest[0], abs(py + ey - y)), max(farthest[1], abs(px + ex - x))]
    assert farthest == [ry, rx]


@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 8), st.booleans(), st.data())
@settings(max_examples=50)
def test_a_block_with_its_reach_is_enough(seed, height, width, reflect, data):
    image = random_image(seed, (1, 41, 38), np.uint16)
    whole = remove_background(image, (height, width), reflect_footprint=reflect)
    _, ry, rx = background_reach((height, width), reflect_footprint=reflect)
    y0, x0 = data.draw(st.integers(0, 35)), data.draw(st.integers(0, 30))
    y1, x1 = data.draw(st.integers(y0 + 1, 41)), data.draw(st.integers(x0 + 1, 38))
    top, left = max(0, y0 - ry), max(0, x0 - rx)
    block = remove_background(image[:, top : y1 + ry, left : x1 + rx], (height, width), reflect_footprint=reflect)
    core = block[:, y0 - top : y1 - top, x0 - left : x1 - left]
    assert np.array_equal(core, whole[:, y0:y1, x0:x1])


def test_kinds_of_input():
    image = random_image(1, (3, 21, 34), np.uint16)
    expected = remove_background(image, (5, 8))
    backwards = np.ascontiguousarray(image[:, :, ::-1])[:, :, ::-1]
    fortran = np.asfortranarray(image)
    for same in (backwards, fortran, image.astype(">u2")):
        result = remove_background(same, [5, 8])
        assert np.array_equal(result, expected)
        assert result.dtype == np.uint16
        assert result.dtype.isnative
    assert np.array_equal(remove_background(image, np.array([5, 8])), expected)
    assert np.array_equal(remove_background(image, np.int64(5)), remove_background(image, (5, 5)))
    as_float = remove_background(image.astype(np.float64), (5, 8))
    assert as_float.dtype == np.float32
    assert np.array_equal(as_float, expected)
    assert remove_background(image > 999, 3).dtype == np.uint8
    unchanged = image.copy()
    out = np.empty_like(image)
    assert remove_background(image, (5, 8), out=out) is out
    assert np.array_equal(out, expected)
    assert np.array_equal(image, unchanged)
    assert remove_background(image, (5, 8), out=image) is image
    assert np.array_equal(image, expected)


def test_infinity_survives():
    plane = np.full((6, 7), np.inf, np.float32)
    plane[2, 3] = -np.inf
    assert np.array_equal(opening(plane, box((2, 3))), opened_by_definition(plane, box((2, 3)), True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda im: remove_background(im.astype(np.int64), 3), "image must be .* got int64"),
        (lambda im: remove_background(im[0, 0], 3), "image must be .* shape \\(9,\\)"),
        (lambda im: remove_background(im[None], 3), "image must be"),
        (lambda im: remove_background(im, (3, 3, 3)), "shape must be a number of voxels or two"),
        (lambda im: remove_background(im, 0), "shape must be one positive"),
        (lambda im: remove_background(im, 2.5), "shape must be one positive"),
        (lambda im: remove_background(im, 3, "disc"), "did you mean 'disk'"),
        (lambda im: remove_background(im, 3, smaller=True), "smaller=True needs out"),
        (lambda im: opening(im, np.zeros((3, 3), bool)), "footprint must be"),
        (lambda im: opening(im, np.ones((3, 3), np.uint8)), "footprint must be"),
        (lambda im: opening(im, np.ones((3, 3, 3), bool)), "footprint must be"),
        (lambda im: opening(im, np.ones((3, 3), bool), out=np.empty((2, 8, 8), np.uint16)), "out must be"),
        (lambda im: opening(im, np.ones((3, 3), bool), out=np.empty(im.shape, np.float32)), "out must be"),
        (lambda im: opening(im, np.ones((3, 3), bool), out=np.empty((9, 8, 2), np.uint16).T), "out must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((2, 8, 9), np.uint16))
