"""Patched maps against every triangle of valid cells, every pair of cells, dense equations, and SciPy's griddata."""

import lzma
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from scipy.interpolate import griddata
from scipy.spatial import Delaunay

from cytolith.kernels.delaunay import MAX_EXTENT, _depth
from cytolith.kernels.patching import patch_map

METHODS = ["linear", "axes", "nearest", "harmonic"]
N = np.nan
STEPS = ((-1, 0), (0, -1), (0, 1), (1, 0))

TURNS = [
    lambda a: a,
    lambda a: a[::-1],
    lambda a: a[:, ::-1],
    lambda a: a[::-1, ::-1],
    lambda a: a.T,
    lambda a: a.T[::-1],
    lambda a: a.T[:, ::-1],
    lambda a: a.T[::-1, ::-1],
]

values = st.one_of(st.just(N), st.just(N), st.integers(-3, 9).map(float), st.floats(-1, 1))
maps = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=values)


@st.composite
def holed(draw, low=5, high=26):
    """Maps large enough for holes of some size, at the border too."""
    shape = draw(st.integers(low, high)), draw(st.integers(low, high))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = np.round(rng.normal(0, 4, shape), draw(st.sampled_from([0, 6])))
    field = ndimage.gaussian_filter(rng.normal(size=shape), draw(st.sampled_from([0.0, 1.0, 2.0])))
    image[field <= np.quantile(field, draw(st.sampled_from([0.1, 0.4, 0.7, 0.97])))] = N
    return image


def cross(u, v):
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def depths(a, b, d, points):
    """In-circle determinant: sign(area) * value is negative inside the circle through a, b, d; all in whole numbers."""
    e, f, z = b - a, d - a, points - a
    area = cross(e, f)
    ee, ff, zz = (e * e).sum(-1), (f * f).sum(-1), (z * z).sum(-1)
    value = ee * cross(f, z) + ff * cross(z, e) + zz * cross(e, f)
    return np.sign(area) * value


def barycentric(a, b, d, points):
    """Areas (signed as the triangle) of the three parts that a point makes of a triangle, divided by the whole."""
    parts = [cross(b - points, d - points), cross(d - points, a - points), cross(a - points, b - points)]
    return np.stack(parts, axis=-1) / cross(b - a, d - a)[..., None]


def by_triangles(image):
    """Lowest and highest value at each missing cell over all empty triangles around it; inf and -inf for none."""
    valid, missing = np.argwhere(~np.isnan(image)), np.argwhere(np.isnan(image))
    low, high = np.full(image.shape, np.inf), np.full(image.shape, -np.inf)
    if len(valid) > 2 and len(missing):
        triples = np.array(list(combinations(range(len(valid)), 3)))
        a, b, d = (valid[triples[:, k], None] for k in range(3))
        keep = (cross(b - a, d - a)[:, 0] != 0) & (depths(a, b, d, valid) >= 0).all(axis=1)
        if keep.any():
            weights = barycentric(a[keep], b[keep], d[keep], missing)
            corner = image[tuple(valid.T)][triples[keep]]
            inside, value = (weights >= 0).all(axis=-1), (weights * corner[:, None]).sum(axis=-1)
            low[tuple(missing.T)] = np.where(inside, value, np.inf).min(axis=0)
            high[tuple(missing.T)] = np.where(inside, value, -np.inf).max(axis=0)
    return low, high


def by_qhull(image):
    """The same for larger maps: Qhull finds a triangle, and all valid cells on its circle may take part."""
    missing = np.isnan(image)
    rim = np.argwhere(~missing & ndimage.binary_dilation(missing))
    cells = np.argwhere(missing)
    low, high, tied = (np.full(image.shape, fill) for fill in (np.inf, -np.inf, False))
    if not cross(rim[-1] - rim[0], rim - rim[0]).any():  # all other valid cells lie behind this line
        return low, high, tied
    mesh = Delaunay(rim)
    for cell, k in zip(cells, mesh.find_simplex(cells), strict=True):
        if k < 0:
            continue
        a, b, d = rim[mesh.simplices[k]]
        depth = depths(a, b, d, rim)
        assert depth.min() == 0
        around = rim[depth == 0]
        tied[tuple(cell)] = len(around) > 3
        for corners in combinations(around, 3):
            weights = barycentric(*corners, cell)
            if (weights >= 0).all():
                value = sum(w * image[tuple(p)] for w, p in zip(weights, corners, strict=True))
                low[tuple(cell)] = min(low[tuple(cell)], value)
                high[tuple(cell)] = max(high[tuple(cell)], value)
    return low, high, tied


def by_distance(image):
    """Mean of the nearest valid cells."""
    valid = np.argwhere(~np.isnan(image))
    out = image.copy()
    for cell in np.argwhere(np.isnan(image)):
        square = ((valid - cell) ** 2).sum(axis=1)
        out[tuple(cell)] = np.mean([image[tuple(p)] for p in valid[square == square.min()]])
    return out


def collinear(image):
    valid = np.argwhere(~np.isnan(image))
    return not cross(valid[-1] - valid[0], valid - valid[0]).any()


def check_linear(image, low, high):
    result, inside = patch_map(image), low <= high
    missing = np.isnan(image)
    assert (result >= low - 1e-9)[inside].all()
    assert (result <= high + 1e-9)[inside].all()
    np.testing.assert_array_equal(result[~missing], image[~missing])
    outside = missing & ~inside
    np.testing.assert_allclose(result[outside], by_distance(image)[outside], atol=1e-9)


@given(maps)
@settings(max_examples=100)
def test_linear_is_within_all_triangulations_and_nearest_outside(image):
    if np.isfinite(image).any() and not collinear(image):
        check_linear(image, *by_triangles(image))


@given(holed())
@settings(max_examples=60)
def test_linear_on_larger_holes(image):
    if not collinear(image):
        low, high, _ = by_qhull(image)
        check_linear(image, low, high)


def test_linear_equals_griddata_where_no_four_cells_share_an_empty_circle():
    rng = np.random.default_rng(5)
    image = rng.normal(size=(61, 47))
    image[rng.random(image.shape) > 0.02] = N
    cells = np.argwhere(np.isfinite(image))
    scipys = griddata(cells, image[tuple(cells.T)], tuple(np.indices(image.shape)), method="linear")
    low, high, tied = by_qhull(np.pad(image, 1, constant_values=N))
    inside, tied = (low <= high)[1:-1, 1:-1], tied[1:-1, 1:-1]
    unique = np.isnan(image) & inside & ~tied
    assert unique.mean() > 0.5
    np.testing.assert_array_equal(np.isnan(scipys), np.isnan(image) & ~inside)
    np.testing.assert_allclose(patch_map(image)[unique], scipys[unique], atol=1e-9)


@given(holed(3, 12), st.integers(-9, 9), st.integers(-9, 9))
@settings(max_examples=60)
def test_linear_reproduces_planes(image, a, b):
    if collinear(image):
        return
    y, x = np.indices(image.shape)
    missing = np.isnan(image)
    plane = a * y - b * x + 0.5
    low, high = (
        by_triangles(np.where(missing, N, plane)) if image.size < 50 else by_qhull(np.where(missing, N, plane))[:2]
    )
    inside = low <= high
    np.testing.assert_allclose(patch_map(np.where(missing, N, plane))[inside], plane[inside], atol=1e-9)


def test_saddle_is_the_mean_of_its_corners_and_edges_are_linear():
    np.testing.assert_array_equal(patch_map([[0, 0, 0], [10, N, 10], [0, 0, 0]])[1, 1], 5.0)
    # the square of four cells is one polygon: its centre is the mean, the middle of a side that of two corners
    square = np.full((5, 5), N)
    square[0, 0], square[0, 4], square[4, 0], square[4, 4] = 0, 4, 8, 100
    result = patch_map(square)
    assert result[2, 2] == 28
    np.testing.assert_array_equal(result[0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(result[:, 4], [4, 28, 52, 76, 100])
    np.testing.assert_allclose(
        result[1:4, 1:4], ndimage.zoom(square[::4, ::4], 5 / 2, order=1, grid_mode=False)[1:4, 1:4]
    )


@pytest.mark.parametrize("method", ["linear", "axes", "nearest"])
@given(image=st.one_of(maps, holed(1, 14)))
@settings(max_examples=80)
def test_a_turned_map_gives_the_turned_result_bit_for_bit(method, image):
    result = patch_map(image, method)
    for turn in TURNS[1:]:
        assert patch_map(turn(image), method).tobytes() == np.ascontiguousarray(turn(result)).tobytes()


@given(holed(1, 14))
@settings(max_examples=30)
def test_a_turned_map_gives_the_turned_harmonic_result(image):
    for turn in TURNS[1:]:
        np.testing.assert_allclose(patch_map(turn(image), "harmonic"), turn(patch_map(image, "harmonic")), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@given(image=holed(), data=st.data())
@settings(max_examples=60)
def test_any_window_with_a_hole_and_its_rim_gives_the_same_bits(method, image, data):
    whole = patch_map(image, method)
    labels, count = ndimage.label(np.isnan(image))
    hole = data.draw(st.integers(1, count))
    window = []
    for box, extent in zip(ndimage.find_objects(labels)[hole - 1], image.shape, strict=True):
        start = data.draw(st.integers(0, max(0, box.start - 1)))
        stop = data.draw(st.integers(min(extent, box.stop + 1), extent))
        window.append(slice(start, stop))
    window = tuple(window)
    only = labels[window] == hole
    part = patch_map(image[window], method, only=only)
    assert part[only].tobytes() == whole[window][only].tobytes()
    np.testing.assert_array_equal(part[~only], image[window][~only])


@pytest.mark.parametrize("method", METHODS)
@given(image=holed(), seed=st.integers(0, 999))
@settings(max_examples=25)
def test_only_what_is_asked_for_is_filled(method, image, seed):
    only = np.random.default_rng(seed).random(image.shape) < 0.3
    expected = np.where(only, patch_map(image, method), image)
    assert patch_map(image, method, only=only).tobytes() == expected.tobytes()


@given(maps)
@example(np.array([[5.0, N, 1.0], [N, N, N], [2.0, N, 7.0]]))
def test_nearest_is_the_mean_of_all_nearest(image):
    if np.isfinite(image).any():
        np.testing.assert_allclose(patch_map(image, "nearest"), by_distance(image), atol=1e-9)


def test_nearest_with_many_ties():
    y, x = np.indices((11, 11)) - 5
    image = np.where(y**2 + x**2 == 25, 3.0 * y + x + 7, N)
    assert np.isfinite(image).sum() == 12
    assert patch_map(image, "nearest")[5, 5] == pytest.approx(7)
    assert patch_map(image, "linear")[5, 5] == pytest.approx(7)


def along(values):
    """Linear interpolation between valid entries; NaN before the first and after the last."""
    at = np.flatnonzero(np.isfinite(values))
    return np.interp(np.arange(values.size), at, values[at], N, N) if at.size else values


@given(maps)
def test_axes_is_the_mean_of_rows_and_columns(image):
    if np.isfinite(image).any():
        both = np.stack([np.apply_along_axis(along, 1, image), np.apply_along_axis(along, 0, image)])
        known = np.isfinite(both).sum(axis=0)
        mean = np.nansum(both, axis=0) / np.maximum(known, 1)
        np.testing.assert_allclose(patch_map(image, "axes"), np.where(known, mean, by_distance(image)), atol=1e-9)


def laplace(image):
    """One dense equation a missing cell."""
    cells = [tuple(p) for p in np.argwhere(np.isnan(image)).tolist()]
    matrix, force = np.zeros((len(cells), len(cells))), np.zeros(len(cells))
    for i, (y, x) in enumerate(cells):
        for dy, dx in STEPS:
            q = (y + dy, x + dx)
            if 0 <= q[0] < image.shape[0] and 0 <= q[1] < image.shape[1]:
                matrix[i, i] += 1
                if q in cells:
                    matrix[i, cells.index(q)] -= 1
                else:
                    force[i] += image[q]
    out = image.copy()
    out[np.isnan(image)] = np.linalg.solve(matrix, force)
    return out


@given(maps)
@settings(max_examples=60)
def test_harmonic_solves_the_equations(image):
    if np.isfinite(image).any():
        np.testing.assert_allclose(patch_map(image, "harmonic"), laplace(image), atol=1e-9)


def test_harmonic_in_a_hole_too_large_for_a_band():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(75, 90))
    image[4:, 3:80] = N  # reaches the lower border
    image[20:30, 40] = 3.0
    image[1, 85] = N
    result = patch_map(image, "harmonic")
    weights, total = np.zeros(image.shape), np.zeros(image.shape)
    for step in STEPS:
        total += ndimage.shift(result, step, order=0)
        weights += ndimage.shift(np.ones(image.shape), step, order=0)
    missing = np.isnan(image)
    np.testing.assert_allclose(result[missing], (total / weights)[missing], atol=1e-9)
    np.testing.assert_array_equal(result[~missing], image[~missing])


@pytest.mark.parametrize("method", METHODS)
@given(image=holed(3, 10), value=st.floats(-1e9, 1e9))
@settings(max_examples=25)
def test_a_plateau_stays_one_and_values_stay_within_range(method, image, value):
    slack = 1e-9 if method == "harmonic" else 0.0
    result = patch_map(image, method)
    assert np.nanmin(image) - slack <= result.min()
    assert result.max() <= np.nanmax(image) + slack
    assert (patch_map(np.where(np.isnan(image), N, value), method) == value).all()


@pytest.mark.parametrize("turn", TURNS)
def test_valid_cells_on_one_line(turn):
    image = np.full((5, 9), N)
    image[0, 0], image[2, 4] = 0.0, 8.0
    result = patch_map(turn(image))
    expected = by_distance(image)
    expected[1, 2] = 4.0  # the only cell between the two
    np.testing.assert_array_equal(result, turn(expected))
    image = np.full((4, 7), N)
    image[1, 1], image[1, 5] = 1.0, 3.0
    expected = by_distance(image)
    expected[1, 1:6] = [1, 1.5, 2, 2.5, 3]
    np.testing.assert_array_equal(patch_map(turn(image)), turn(expected))


@pytest.mark.parametrize("method", METHODS)
def test_few_or_no_valid_cells(method):
    lonely = np.full((3, 5), N)
    assert np.isnan(patch_map(lonely, method)).all()
    lonely[1, 4] = -2.5
    np.testing.assert_array_equal(patch_map(lonely, method), np.full((3, 5), -2.5))
    line = np.array([[N, 2.0, N, N, 5.0, N]])
    expected = [[2, 2, 2, 5, 5, 5]] if method == "nearest" else [[2, 2, 3, 4, 5, 5]]
    np.testing.assert_allclose(patch_map(line, method), expected)
    np.testing.assert_allclose(patch_map(line.T, method).T, expected)
    for shape in ((0, 4), (3, 0), (0, 0)):
        assert patch_map(np.zeros(shape), method).shape == shape


@pytest.mark.parametrize("method", METHODS)
def test_inputs_of_any_layout_are_taken_and_not_changed(method):
    plain = np.array([[1, 2, N, 4], [N, N, 3, 1], [0, 5, 2, N]])
    expected = patch_map(plain, method)
    assert np.isfinite(expected).all()
    for image in (
        plain.astype(">f8"),
        np.asfortranarray(plain),
        plain.astype(np.float32),
        np.repeat(plain, 2, 1)[:, ::2],
    ):
        image.setflags(write=False)
        before = image.copy()
        result = patch_map(image, method)
        assert result.dtype == np.float64
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(image, before)
    whole = np.arange(6, dtype=np.uint16).reshape(2, 3)
    result = patch_map(whole, method)
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, whole)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((2, 3, 4)), {}, "shape"),
        (np.zeros((2, 3), complex), {}, "complex"),
        (np.array([[1.0, -np.inf, N]]), {}, "infinity"),
        (np.zeros((1, MAX_EXTENT + 1), np.uint8), {}, "at most"),
        (np.zeros((2, 3)), {"method": "cubic"}, "linear, axes, nearest, harmonic"),
        (np.zeros((2, 3)), {"only": np.ones((3, 2), bool)}, "only"),
        (np.zeros((2, 3)), {"only": np.ones((2, 3), int)}, "only"),
    ],
)
def test_bad_input_is_named(image, options, message):
    with pytest.raises(ValueError, match=message):
        patch_map(image, **options)


coordinates = st.integers(1 - MAX_EXTENT, MAX_EXTENT - 1)


@given(st.tuples(*[coordinates] * 6), st.sampled_from([1, 40, 3000]))
@example((MAX_EXTENT - 1, 0, 0, MAX_EXTENT - 1, MAX_EXTENT - 1, MAX_EXTENT - 1), 1)  # on the circle
@example((MAX_EXTENT - 1, 0, 0, MAX_EXTENT - 1, MAX_EXTENT - 1, MAX_EXTENT - 2), 1)  # just inside
@settings(max_examples=300)
def test_signs_are_exact_at_any_extent(numbers, scale):
    py, px, qy, qx, zy, zx = (number // scale for number in numbers)
    area = py * qx - px * qy
    ny = (py * py + px * px) * qx - (qy * qy + qx * qx) * px
    nx = (qy * qy + qx * qx) * py - (py * py + px * px) * qy
    exact = area * (zy * zy + zx * zx) - ny * zy - nx * zx
    assert np.sign(_depth(area, ny, nx, zy, zx)) == (exact > 0) - (exact < 0)


@pytest.mark.parametrize("turn", TURNS[::4])
def test_circles_far_larger_than_the_map(turn):
    y, x = np.indices((70_001, 3))
    plane = 3.0 * y - 7.0 * x
    image = np.full(plane.shape, N)
    for p in ((0, 0), (70_000, 1), (40_000, 2), (35_000, 0)):
        image[p] = plane[p]
    inside = (y >= 40_000 * x / 2) & (x <= 1) & (y <= 35_000) | ~np.isnan(image)
    result = patch_map(turn(image))
    np.testing.assert_allclose(result[turn(inside)], turn(plane)[turn(inside)], rtol=1e-12)


def test_offset_map_of_a_rough_fracture(shared):
    with lzma.open(shared / "golden/apmapflow/inputs/synth200.tif.xz") as file:
        stack = tifffile.imread(BytesIO(file.read())) != 0
    image = np.where(stack.any(axis=1), stack.argmax(axis=1).astype(np.float64), N)
    missing = np.isnan(image)
    assert missing.sum() > 1000
    low, high, tied = by_qhull(image)
    check_linear(image, low, high)
    cells = np.argwhere(~missing)
    scipys = griddata(cells, image[~missing], tuple(np.indices(image.shape)), method="linear")
    result = patch_map(image)
    unique = missing & (low <= high) & ~tied
    assert unique.sum() > 0.1 * missing.sum()
    np.testing.assert_allclose(result[unique], scipys[unique], atol=1e-9)
    assert (np.abs(result - scipys)[missing & (low <= high)] < 1e-9).mean() > 0.5
