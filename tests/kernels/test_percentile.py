"""Local percentiles against numpy.quantile window by window, in blocks, and interpolated."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from cytolith.kernels.percentile import local_percentile, percentile_reach

DTYPES = [np.bool_, np.uint8, np.uint16, np.int16, np.float32, np.float64]

shapes = st.tuples(st.integers(1, 9), st.integers(1, 23), st.integers(1, 30))
windows = st.tuples(st.integers(1, 12), st.integers(1, 30), st.integers(1, 30))
steps = st.tuples(st.integers(2, 6), st.integers(3, 12), st.integers(3, 15))
fraction_lists = st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1 / 3, 0.95, 0.999, 1.0]), min_size=1, max_size=4)


def random_image(shape, dtype, seed=0, spread=1.0):
    """Values of several magnitudes; a small spread makes ties and plateaus."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.7, 3000 * spread, shape)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return values > 2000
    if dtype.kind in "if":
        values -= 2000 * spread
    if dtype.kind == "f":
        values[rng.random(shape) < 0.1] = 0
        return values.astype(dtype)
    info = np.iinfo(dtype)
    return values.clip(info.min, info.max).astype(dtype)


@st.composite
def images(draw, of_shapes=shapes, dtypes=DTYPES):
    spread = draw(st.sampled_from([0.001, 0.05, 1.0, 20.0]))
    return random_image(draw(of_shapes), draw(st.sampled_from(dtypes)), draw(st.integers(0, 2**32 - 1)), spread)


def grid_axis(extent, window, step):
    """Centres and clipped windows along one axis, as the documentation says."""
    n = max(1, extent // step)
    first = (extent - (n - 1) * step) // 2
    centres = [first + i * step for i in range(n)]
    return centres, [(max(0, c - window // 2), min(extent, c - window // 2 + window)) for c in centres]


def reference(image, fractions, selem, spacing, mask=None):
    axes = [grid_axis(*a) for a in zip(image.shape, selem, spacing, strict=True)]
    values = np.full([*(len(c) for c, _ in axes), len(fractions)], np.nan)
    for at in itertools.product(*(range(len(c)) for c, _ in axes)):
        window = tuple(slice(*axes[a][1][i]) for a, i in enumerate(at))
        inside = image[window].astype(np.float32 if image.dtype.kind == "f" else image.dtype).astype(np.float64)
        inside = inside.ravel() if mask is None else inside[mask[window]]
        inside = inside[~np.isnan(inside)]
        if inside.size:
            values[at] = np.quantile(inside, fractions)
    return values, np.stack(np.meshgrid(*(c for c, _ in axes), indexing="ij"), axis=-1)


@settings(max_examples=80, deadline=None)
@given(images(), fraction_lists, windows, steps)
def test_grid_is_numpys_quantile(image, fractions, selem, spacing):
    values, centres = local_percentile(image, fractions, selem, spacing)
    expected, expected_centres = reference(image, fractions, selem, spacing)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(centres, expected_centres)


@settings(max_examples=40, deadline=None)
@given(images(), fraction_lists, windows, steps, st.sampled_from([0.0, 0.003, 0.1, 0.9, 1.0]))
def test_mask(image, fractions, selem, spacing, density):
    mask = np.random.default_rng(7).random(image.shape) < density
    values, _ = local_percentile(image, fractions, selem, spacing, mask=mask)
    np.testing.assert_array_equal(values, reference(image, fractions, selem, spacing, mask)[0])


@settings(max_examples=30, deadline=None)
@given(images(dtypes=[np.float32]), fraction_lists, windows, steps, st.booleans())
def test_nan_is_left_out(image, fractions, selem, spacing, with_mask):
    rng = np.random.default_rng(3)
    image[rng.random(image.shape) < 0.4] = np.nan
    image[rng.random(image.shape) < 0.1] = -np.float32(np.nan)
    mask = rng.random(image.shape) < 0.7 if with_mask else None
    values, _ = local_percentile(image, fractions, selem, spacing, mask=mask)
    np.testing.assert_array_equal(values, reference(image, fractions, selem, spacing, mask)[0])


def test_whole_range_of_each_dtype():
    """Every digit of the keys counts: extremes, both zeros, subnormals, infinities."""
    tiny = np.finfo(np.float32).smallest_subnormal
    extremes = np.array([-np.inf, -3e38, -1, -tiny, -0.0, 0.0, tiny, 1, 1 + 2**-23, 3e38, np.inf], np.float32)
    for image in (
        np.arange(2**16, dtype=np.uint16).reshape(16, 64, 64),
        np.arange(-(2**15), 2**15, dtype=np.int16).reshape(16, 64, 64),
        np.arange(2**8, dtype=np.uint8).reshape(4, 8, 8),
        extremes.reshape(1, 1, 11),
        np.sort(np.random.default_rng(0).integers(0, 2**32, 4096, np.uint32).view(np.float32)).reshape(16, 16, 16),
    ):
        shuffled = np.random.default_rng(1).permuted(image.ravel()).reshape(image.shape)
        ordered = np.sort(image[~np.isnan(image)])
        # fractions that hit one value exactly
        picks = np.unique(np.linspace(0, ordered.size - 1, 300).astype(int))
        fractions = picks / max(1, ordered.size - 1)
        keep = np.floor(fractions * (ordered.size - 1)) == fractions * (ordered.size - 1)
        values, _ = local_percentile(shuffled, fractions[keep], image.shape[0] * 999, 999)
        np.testing.assert_array_equal(values[0, 0, 0], ordered[picks[keep]].astype(np.float64))


def test_single_fraction_and_default_windows():
    image = random_image((11, 120, 160), np.uint16)
    values, centres = local_percentile(image, 0.5)
    assert values.shape == (2, 2, 3, 1)
    np.testing.assert_array_equal(values, reference(image, [0.5], (5, 200, 200), (5, 50, 50))[0])
    assert centres[0, 0, 0].tolist() == [3, 35, 30]
    np.testing.assert_array_equal(values, local_percentile(image, (0.5,), (5, 200, 200), (5, 50, 50))[0])


def test_extent_below_the_spacing_has_one_window():
    image = random_image((3, 4, 7), np.uint16)
    values, centres = local_percentile(image, 0.5, 99, (5, 50, 50))
    assert values.tolist() == [[[[np.median(image)]]]]
    assert centres.tolist() == [[[[1, 2, 3]]]]


def test_gaps_between_windows():
    image = random_image((10, 40, 50), np.uint16)
    values, _ = local_percentile(image, [0.2, 0.8], (2, 3, 5), (5, 9, 11))
    np.testing.assert_array_equal(values, reference(image, [0.2, 0.8], (2, 3, 5), (5, 9, 11))[0])


def test_swapped_axes():
    image = random_image((9, 31, 47), np.uint16)
    values, centres = local_percentile(image, [0.3, 0.9], (3, 8, 15), (2, 7, 10))
    turned, turned_centres = local_percentile(image.T, [0.3, 0.9], (15, 8, 3), (10, 7, 2))
    np.testing.assert_array_equal(turned.transpose(2, 1, 0, 3), values)
    np.testing.assert_array_equal(turned_centres.transpose(2, 1, 0, 3)[..., ::-1], centres)


def positions(centres, extent, step, nearest):
    """Place of each voxel among the points of the grid, held at the ends."""
    place = ((np.arange(extent) - centres[0]) / step).clip(0, len(centres) - 1)
    return np.floor(place + 0.5) if nearest else place


@settings(max_examples=40, deadline=None)
@given(images(), windows, steps, st.sampled_from([0, 1, "nearest", "linear"]))
def test_interpolation(image, selem, spacing, interpolate):
    fractions = [0.25, 0.9]
    values, centres = local_percentile(image, fractions, selem, spacing, interpolate=interpolate)
    grid, grid_centres = local_percentile(image, fractions, selem, spacing)
    assert values.shape == (*image.shape, 2)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(centres, grid_centres)
    places = [
        positions(np.unique(grid_centres[..., a]), image.shape[a], spacing[a], interpolate in (0, "nearest"))
        for a in range(3)
    ]
    # one point along an axis is two equal ones
    padded = np.pad(grid, [(0, 1)] * 3 + [(0, 0)], mode="edge")
    table = RegularGridInterpolator([np.arange(n) for n in padded.shape[:3]], padded)
    expected = table(np.stack(np.meshgrid(*places, indexing="ij"), axis=-1))
    np.testing.assert_allclose(values, expected, rtol=0, atol=4e-6 * max(1, np.abs(grid).max()))


def test_voxel_on_a_point_depends_on_no_other_point():
    """Neither on an empty window nor on one that a block does not hold."""
    image = random_image((1, 1, 40), np.uint16)
    mask = np.zeros(image.shape, bool)
    mask[..., :12] = True
    values, centres = local_percentile(image, 0.5, (1, 1, 10), (1, 1, 10), mask=mask, interpolate=1)
    assert centres[0, 0, :, 2].tolist() == [5, 15, 25, 35]
    assert np.isfinite(values[0, 0, :, 0]).nonzero()[0].tolist() == list(range(16))


def test_interpolated_plane_stays_a_plane():
    """A ramp comes back as the same ramp between the outermost centres, at its true place."""
    image = np.broadcast_to(np.arange(101, dtype=np.uint16), (4, 9, 101))
    values, centres = local_percentile(image, 0.5, (4, 9, 21), (4, 9, 10), interpolate=1)
    first, last = centres[0, 0, 1, 2], centres[0, 0, -2, 2]
    np.testing.assert_allclose(values[2, 5, first : last + 1, 0], np.arange(first, last + 1), rtol=1e-6)


def blocks(shape, reach, seed):
    """Blocks at every kind of place with their halo: origin, block, core in the block, core in the volume."""
    rng = np.random.default_rng(seed)
    for _ in range(6):
        lower = [int(rng.integers(0, n)) for n in shape]
        upper = [int(rng.integers(a + 1, n + 1)) for a, n in zip(lower, shape, strict=True)]
        block = [slice(max(0, a - r), min(n, b + r)) for a, b, r, n in zip(lower, upper, reach, shape, strict=True)]
        inner = [slice(a - s.start, b - s.start) for a, b, s in zip(lower, upper, block, strict=True)]
        core = [slice(a, b) for a, b in zip(lower, upper, strict=True)]
        yield tuple(s.start for s in block), tuple(block), tuple(inner), tuple(core)


@settings(max_examples=25, deadline=None)
@given(
    images(st.tuples(st.integers(4, 14), st.integers(20, 50), st.integers(30, 70))),
    st.tuples(st.integers(1, 5), st.integers(1, 14), st.integers(1, 20)),
    steps,
    st.sampled_from([0, 1]),
    st.integers(0, 10**6),
)
def test_blocks_are_equal_to_the_bit(image, selem, spacing, interpolate, seed):
    whole, _ = local_percentile(image, [0.5, 0.9], selem, spacing, interpolate=interpolate)
    for origin, block, inner, core in blocks(image.shape, percentile_reach(selem, spacing), seed):
        part, _ = local_percentile(
            image[block], [0.5, 0.9], selem, spacing, interpolate=interpolate, origin=origin, volume_shape=image.shape
        )
        assert part[inner].tobytes() == whole[core].tobytes()


def test_grid_of_a_block_is_part_of_the_grid_of_the_volume():
    image = random_image((12, 60, 80), np.uint16)
    selem, spacing = (3, 20, 15), (4, 10, 12)
    values, centres = local_percentile(image, [0.1, 0.7], selem, spacing)
    origin, shape = (3, 11, 20), (9, 40, 47)
    block = tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))
    part, part_centres = local_percentile(
        image[block], [0.1, 0.7], selem, spacing, origin=origin, volume_shape=image.shape
    )
    held = [
        [i for i, (a, b) in enumerate(grid_axis(e, w, s)[1]) if a >= o and b <= o + n]
        for e, w, s, o, n in zip(image.shape, selem, spacing, origin, shape, strict=True)
    ]
    assert all(held)
    np.testing.assert_array_equal(part, values[np.ix_(*held)])
    np.testing.assert_array_equal(part_centres, centres[np.ix_(*held)])


def test_reach():
    assert percentile_reach((5, 200, 200), (5, 50, 50)) == (6, 149, 149)
    assert percentile_reach((1, 2, 3), 1) == (0, 1, 1)


def test_wrong_arguments():
    image = random_image((4, 20, 30), np.uint16)
    for percentile in (-0.1, 1.1, 50, math.nan, [], [[0.5]], (0.5, 95)):
        with pytest.raises(ValueError, match="percentile is"):
            local_percentile(image, percentile)
    for extents in (0, (1, 2), (1, 2, 0), 2.5):
        with pytest.raises(ValueError, match="selem is"):
            local_percentile(image, 0.5, extents, 5)
        with pytest.raises(ValueError, match="spacing is"):
            local_percentile(image, 0.5, 5, extents)
        with pytest.raises(ValueError, match="spacing is"):
            percentile_reach(5, extents)
    for mask in (np.ones(image.shape, np.uint8), np.ones((4, 20, 29), bool)):
        with pytest.raises(ValueError, match="mask is"):
            local_percentile(image, 0.5, mask=mask)
    for interpolate in (2, "cubic"):
        with pytest.raises(ValueError, match="interpolate is"):
            local_percentile(image, 0.5, interpolate=interpolate)
    with pytest.raises(ValueError, match="no block of a volume"):
        local_percentile(image, 0.5, origin=(0, 1, 0), volume_shape=image.shape)
    with pytest.raises(ValueError, match="no block of a volume"):
        local_percentile(image[:, :0], 0.5)
    with pytest.raises(ValueError, match="holds no window of selem 25"):
        local_percentile(image, 0.5, (3, 25, 19), 5, origin=(5, 30, 80), volume_shape=(20, 99, 200))
    with pytest.raises(ValueError, match="image has dtype"):
        local_percentile(image.astype(np.int32), 0.5)


def test_grid_of_clearmap(shared):
    """Recorded arrays are (x, y, z)."""
    folder = shared / "golden" / "clearmap"
    if not folder.is_dir():
        pytest.skip("no recorded outputs of ClearMap")
    recorded = np.load(folder / "signal_crop.npz")
    values, centres = local_percentile(recorded["bg_disk10"].T, (0.5, 0.95), (5, 60, 60), (5, 30, 30))
    np.testing.assert_array_equal(values.transpose(2, 1, 0, 3), recorded["percentile_grid"])
    np.testing.assert_array_equal(centres.transpose(2, 1, 0, 3)[..., ::-1], recorded["percentile_centers"])
