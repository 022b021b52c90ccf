"""Smoothing and DoG against SciPy, against a float32 model of the order of additions, and in blocks."""

import math

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cytolith.kernels.gaussian import dog_filter, dog_reach, smooth, smooth_reach
from cytolith.kernels.separable import BATCH_ROWS, TILE_ROWS

DTYPES = [np.bool_, np.uint8, np.uint16, np.int16, np.float32, np.float64]

shapes = st.tuples(st.integers(1, 7), st.integers(1, 21), st.integers(1, 40))
sigmas = st.tuples(*3 * [st.one_of(st.just(0.0), st.floats(0.05, 3.5))])
extents = st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 17))


def random_image(shape, dtype, seed=0):
    """Values over the whole range of integers, with a few extremes."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind == "f":
        return rng.normal(500, 3000, shape).astype(dtype)
    info = np.iinfo(dtype)
    image = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    image[rng.random(shape) < 0.1] = info.max
    return image


@st.composite
def images(draw, of_shapes=shapes, dtypes=DTYPES):
    return random_image(draw(of_shapes), draw(st.sampled_from(dtypes)), draw(st.integers(0, 2**32 - 1)))


def weights(taps, sigma):
    x = np.arange(taps) - (taps - 1) / 2
    w = np.exp(-(x**2) / 2 / sigma**2) if taps > 1 else np.ones(1)
    return w / w.sum()


def dense_dog(shape, sigma=None, sigma2=None):
    """The kernel as a product of Gaussians, each over its sum on the box."""
    if sigma2 is None:
        sigma2 = [n / (2 * math.sqrt(2 * math.log(2))) for n in shape]
    if sigma is None:
        sigma = [s / 1.5 for s in sigma2]

    def product(widths):
        z, y, x = (weights(n, s) for n, s in zip(shape, widths, strict=True))
        return z[:, None, None] * y[:, None] * x

    return product(sigma) - product(sigma2)


def correlate(image, kernel):
    """Dense correlation on the mirrored image; SciPy mirrors wrongly where the kernel is several images long."""
    pad = [(n // 2, n // 2) for n in kernel.shape]
    answer = ndi.correlate(np.pad(image.astype(np.float64), pad, mode="symmetric"), kernel)
    return answer[tuple(slice(n, n + extent) for (n, _), extent in zip(pad, image.shape, strict=True))]


def largest(image):
    return max(1.0, float(np.abs(image.astype(np.float64)).max(initial=0)))


@settings(max_examples=60, deadline=None)
@given(images(), sigmas, st.sampled_from([1.0, 2.5, 3.0, 4.0]))
def test_smooth_is_scipys(image, sigma, truncate):
    expected = ndi.gaussian_filter(image.astype(np.float64), sigma, truncate=truncate, mode="reflect")
    result = smooth(image, sigma, truncate=truncate)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * largest(image))


@settings(max_examples=60, deadline=None)
@given(images(), extents)
def test_dog_is_the_dense_correlation(image, shape):
    expected = correlate(image, dense_dog(shape)).clip(0)
    result = dog_filter(image, shape)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * largest(image))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extent", [(3, 2 * TILE_ROWS + 5, 37), (2, TILE_ROWS + 1, 1), (9, BATCH_ROWS + 1, 70)])
def test_many_rows(dtype, extent):
    """Seams between tiles and batches of rows do not show."""
    image = random_image(extent, dtype)
    for shape in ((3, 6, 5), (1, 1, 1), (4, 15, 8)):
        expected = correlate(image, dense_dog(shape)).clip(0)
        np.testing.assert_allclose(dog_filter(image, shape), expected, rtol=0, atol=1e-6 * largest(image))
    expected = ndi.gaussian_filter(image.astype(np.float64), (0.7, 3.1, 1.5), truncate=3)
    np.testing.assert_allclose(smooth(image, (0.7, 3.1, 1.5)), expected, rtol=0, atol=1e-6 * largest(image))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (3, 1, 1), (2, 4, 1)])
def test_thinner_than_the_kernel(shape):
    """Borders are mirrored again and again."""
    image = random_image(shape, np.uint16, 3)
    expected = ndi.gaussian_filter(image.astype(np.float64), (2.5, 4, 3), truncate=3)
    np.testing.assert_allclose(smooth(image, (2.5, 4, 3)), expected, rtol=0, atol=1e-6 * largest(image))
    expected = correlate(image, dense_dog((9, 8, 15))).clip(0)
    np.testing.assert_allclose(dog_filter(image, (9, 8, 15)), expected, rtol=0, atol=1e-6 * largest(image))


def crops(image, reach):
    """Blocks at every kind of place, with the halo, and where their core lies in them and in the image."""
    rng = np.random.default_rng(1)
    for _ in range(12):
        lower = [int(rng.integers(0, n)) for n in image.shape]
        upper = [int(rng.integers(a + 1, n + 1)) for a, n in zip(lower, image.shape, strict=True)]
        block = [
            slice(max(0, a - r), min(n, b + r)) for a, b, r, n in zip(lower, upper, reach, image.shape, strict=True)
        ]
        inner = [slice(a - s.start, b - s.start) for a, b, s in zip(lower, upper, block, strict=True)]
        core = [slice(a, b) for a, b in zip(lower, upper, strict=True)]
        yield tuple(block), tuple(inner), tuple(core)


@settings(max_examples=15, deadline=None)
@given(
    images(st.tuples(st.integers(5, 12), st.integers(60, 90), st.integers(30, 60))),
    sigmas,
    extents,
)
def test_blocks_are_equal_to_the_bit(image, sigma, shape):
    whole = smooth(image, sigma)
    for block, inner, core in crops(image, smooth_reach(sigma)):
        assert smooth(image[block], sigma)[inner].tobytes() == whole[core].tobytes()
    whole = dog_filter(image, shape)
    for block, inner, core in crops(image, dog_reach(shape)):
        assert dog_filter(image[block], shape)[inner].tobytes() == whole[core].tobytes()


def sum_of_pairs(rows, w):
    """Three or two pairs at a time, outermost first, each operation rounded to float32."""
    half = w[: (w.size + 1) // 2].copy()
    if w.size % 2:
        half[-1] /= 2
    half = half.astype(np.float32)
    total = None
    k = 0
    while k < half.size:
        left = half.size - k
        n = 3 if left == 3 or left > 4 else min(left, 2)
        part = half[k] * (rows[k] + rows[-1 - k])
        for i in range(k + 1, k + n):
            part = part + half[i] * (rows[i] + rows[-1 - i])
        total = part if total is None else total + part
        k += n
    return total


def model(image, kernel):
    """Separable filter in float32 with a rounding after every operation."""
    image = image.astype(np.float32)
    for axis, w in enumerate(kernel):
        pad = [(0, 0)] * 3
        pad[axis] = (w.size // 2, w.size - 1 - w.size // 2)
        padded = np.pad(image, pad, mode="symmetric")
        rows = [padded.take(range(k, k + image.shape[axis]), axis) for k in range(w.size)]
        image = sum_of_pairs(rows, w)
    return image


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("taps", [(1, 3, 5), (7, 9, 11), (13, 15, 17)])
def test_every_operation_is_rounded_in_a_fixed_order(dtype, taps):
    """Neither fused multiply-adds nor another order of additions: so all machines give the same bits."""
    image = random_image((18, 70, 35), dtype, 5)
    sigma = tuple((n - 1) / 6 for n in taps)
    kernel = [weights(n, s) if n > 1 else np.ones(1) for n, s in zip(taps, sigma, strict=True)]
    np.testing.assert_array_equal(smooth(image, sigma), model(image, kernel))


@given(images(dtypes=[np.uint16, np.float32]), sigmas, extents)
@settings(max_examples=15, deadline=None)
def test_swapped_axes(image, sigma, shape):
    tolerance = 1e-6 * largest(image)
    swapped = smooth(image.T, sigma[::-1]).T
    np.testing.assert_allclose(swapped, smooth(image, sigma), rtol=0, atol=tolerance)
    swapped = dog_filter(image.T, shape[::-1]).T
    np.testing.assert_allclose(swapped, dog_filter(image, shape), rtol=0, atol=tolerance)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_odd_kernels_are_symmetric_to_the_bit(axis):
    image = random_image((9, 75, 33), np.uint16)
    flipped = np.flip(dog_filter(np.flip(image, axis), (5, 7, 9)), axis)
    np.testing.assert_array_equal(flipped, dog_filter(image, (5, 7, 9)))


def test_sigma_zero_leaves_the_values():
    for dtype in DTYPES:
        image = random_image((3, 5, 7), dtype)
        np.testing.assert_array_equal(smooth(image, 0), image.astype(np.float32))


def test_smooth_keeps_a_flat_image_and_dog_clears_it():
    image = np.full((6, 70, 33), 50000, np.uint16)
    np.testing.assert_allclose(smooth(image, 2.3), 50000, rtol=1e-6)
    assert dog_filter(image, (5, 6, 7)).max() <= 1e-6 * 50000


def test_explicit_sigmas():
    image = random_image((11, 17, 23), np.uint16)
    for sigma, sigma2 in (((1.0, 0.8, 1.2), (2.0, 1.5, 3.0)), (None, (2.0, 1.5, 3.0)), ((1.0, 0.8, 1.2), None)):
        expected = ndi.correlate(image.astype(float), dense_dog((5, 6, 7), sigma, sigma2), mode="reflect").clip(0)
        result = dog_filter(image, (5, 6, 7), sigma, sigma2)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * largest(image))
    np.testing.assert_array_equal(dog_filter(image, 5, 1.0, 2.0), dog_filter(image, (5, 5, 5), (1, 1, 1), (2, 2, 2)))


def test_narrow_sigma_on_an_even_kernel():
    """The outer taps underflow, the inner two stay."""
    image = random_image((1, 1, 9), np.uint16)
    expected = (image[..., :-1].astype(float) + image[..., 1:]) / 2
    blurred = ndi.correlate1d(image[0, 0].astype(float), weights(4, 1.0), mode="reflect")
    result = dog_filter(image, (1, 1, 4), sigma=0.01, sigma2=1.0)[0, 0, 1:]
    np.testing.assert_allclose(result, (expected[0, 0] - blurred[1:]).clip(0), atol=1e-6 * largest(image))


@settings(max_examples=10, deadline=None)
@given(extents)
@example((6, 7, 8))
def test_nothing_beyond_the_reach_of_the_dog_matters(shape):
    reach = dog_reach(shape)
    assert reach == tuple(n // 2 for n in shape)
    image = random_image([2 * n + 3 for n in shape], np.uint16)
    centre = [n + 1 for n in shape]
    inside = tuple(slice(c - r, c + r + 1) for c, r in zip(centre, reach, strict=True))
    changed = np.full_like(image, 65535)
    changed[inside] = image[inside]
    assert dog_filter(changed, shape)[tuple(centre)] == dog_filter(image, shape)[tuple(centre)]


def test_smooth_reach():
    assert smooth_reach((0.7, 1.48, 1.48)) == (2, 4, 4)
    assert smooth_reach(2, truncate=4) == (8, 8, 8)
    assert smooth_reach((0, 0.16, 0.17)) == (0, 0, 1)
    image = np.zeros((1, 1, 31), np.float32)
    image[0, 0, 15] = 1
    (reached,) = np.nonzero(smooth(image, (0, 0, 2.2))[0, 0])
    assert (reached[0], reached[-1]) == (15 - smooth_reach(2.2)[2], 15 + smooth_reach(2.2)[2])


@pytest.mark.parametrize(
    "call", [lambda i, **k: smooth(i, (1, 2, 0.5), **k), lambda i, **k: dog_filter(i, (3, 4, 5), **k)]
)
def test_layouts_and_out(call):
    image = random_image((6, 14, 22), np.uint16)
    expected = call(image)
    out = np.full(image.shape, -7, np.float32)
    assert call(image, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(call(np.asfortranarray(image)), expected)
    np.testing.assert_array_equal(call(np.repeat(image, 2, axis=2)[:, :, ::2]), expected)
    np.testing.assert_array_equal(call(image.astype(">u2")), expected)
    read_only = image.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(call(read_only), expected)
    for wrong in (
        np.empty(image.shape),
        np.empty((6, 14, 21), np.float32),
        np.empty((6, 14, 44), np.float32)[:, :, ::2],
    ):
        with pytest.raises(ValueError, match="out is"):
            call(image, out=wrong)
    floating = image.astype(np.float32)
    with pytest.raises(ValueError, match="overlaps"):
        call(floating, out=floating)


def test_empty_image():
    for shape in ((0, 4, 5), (4, 0, 5), (4, 5, 0)):
        assert smooth(np.empty(shape, np.uint16), 1).shape == shape
        assert dog_filter(np.empty(shape, np.uint16), 5).shape == shape


def test_nan_stays_where_it_reaches():
    image = np.zeros((5, 9, 11), np.float32)
    image[2, 4, 5] = np.nan
    np.testing.assert_array_equal(
        np.isnan(dog_filter(image, 3)), ndi.binary_dilation(np.isnan(image), np.ones((3, 3, 3)))
    )


@pytest.mark.parametrize("sigma", [-1, (1, 2), (1, -1, 1), math.nan, math.inf, "1", (1, 2, 3, 4)])
def test_wrong_sigma(sigma):
    image = np.zeros((2, 3, 4), np.uint8)
    for call in (lambda: smooth(image, sigma), lambda: smooth_reach(sigma), lambda: dog_filter(image, 3, sigma=sigma)):
        with pytest.raises(ValueError, match="sigma is"):
            call()


def test_wrong_arguments():
    image = np.zeros((2, 3, 4), np.uint8)
    for shape in (0, -1, 2.5, (3, 3), (3, 0, 3), "3"):
        with pytest.raises(ValueError, match="shape is"):
            dog_filter(image, shape)
        with pytest.raises(ValueError, match="shape is"):
            dog_reach(shape)
    with pytest.raises(ValueError, match="sigma2 is 0"):
        dog_filter(image, 3, sigma2=0)
    for truncate in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="truncate is"):
            smooth(image, 1, truncate=truncate)
    for dtype in (np.uint32, np.int32, np.int8, np.float16, np.complex64):
        with pytest.raises(ValueError, match="image has dtype"):
            smooth(image.astype(dtype), 1)
    with pytest.raises(ValueError, match="2 dimensions"):
        smooth(image[0], 1)


def golden(shared, name):
    """Recorded arrays of ClearMap; they are (x, y, z)."""
    folder = shared / "golden" / "clearmap"
    if not folder.is_dir():
        pytest.skip("no recorded outputs of ClearMap")
    return np.load(folder / name)


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 4, 4), (5, 5, 5), (6, 6, 6), (7, 7, 7), (7, 7, 5), (10, 10, 6)])
def test_kernels_of_clearmap(shared, shape):
    expected = golden(shared, "kernels.npz")["dog_{}x{}x{}".format(*shape)].T
    check_kernel(expected, {})


def test_kernel_of_clearmap_with_sigmas(shared):
    expected = golden(shared, "kernels.npz")["dog_7x7x5_sigma112_sigma223"].T
    check_kernel(expected, {"sigma": (2, 1, 1), "sigma2": (3, 2, 2)})


def check_kernel(expected, sigmas_given):
    """The kernel is the answer to a bright voxel less that to a dark one, seen from the voxel."""
    shape = expected.shape
    image = np.zeros([2 * n + 1 for n in shape], np.float32)
    image[shape] = 1
    answer = dog_filter(image, shape, **sigmas_given) - dog_filter(-image, shape, **sigmas_given)
    taps = tuple(n - np.arange(n) + n // 2 for n in shape)
    np.testing.assert_allclose(answer[np.ix_(*taps)], expected, rtol=0, atol=1e-7)
    assert np.count_nonzero(answer) <= expected.size


def test_dog_of_clearmap(shared):
    recorded = golden(shared, "signal_crop.npz")
    background = recorded["bg_disk10"].T
    expected = recorded["dog775_f32"].T
    for image in (background, background.astype(np.float32)):
        result = dog_filter(image, (5, 7, 7))
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * largest(image))
    crop = background[:, :48, :48]
    expected = recorded["dog664_f32_crop48"].T
    np.testing.assert_allclose(dog_filter(crop, (4, 6, 6)), expected, rtol=0, atol=1e-6 * largest(crop))
