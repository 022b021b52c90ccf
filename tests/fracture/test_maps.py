"""Offset maps strip by strip: bit for bit those of the whole map at once, and as the original's records say."""

import lzma
from io import BytesIO

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import griddata

from cytolith.errors import ConfigError, OutputError
from cytolith.fracture import holes, maps
from cytolith.fracture.maps import OffsetReport, OffsetSettings, filter_offsets, settle_offsets
from cytolith.io.row_file import RowFile
from cytolith.kernels.patching import patch_map


def settle(raw, folder, cells_at_once=1 << 20, **options):
    """The settled map as an array, and its report; nothing else stays in the folder."""
    with RowFile(folder / "raw", raw.shape, np.int32) as source:
        source.write(0, raw)
        settled, report = settle_offsets(source, folder, OffsetSettings(**options), cells_at_once=cells_at_once)
        assert sorted(folder.iterdir()) == sorted([source.path, settled.path])
        assert (settled.dtype, settled.shape) == (np.float64, raw.shape)
        result = settled.read(0, raw.shape[0])
        settled.remove()
        np.testing.assert_array_equal(source.read(0, raw.shape[0]), raw)
    source.remove()
    return result, report


def filter_at_once(image, percentile, kind):
    """Filter of a whole map, its threshold, and which cells are steep."""
    parts = [np.gradient(image, axis=k) if image.shape[k] > 1 else np.zeros_like(image) for k in (0, 1)]
    magnitudes = np.sort(np.sqrt(parts[0] ** 2 + parts[1] ** 2), axis=None)
    ranks = (i for i in range(image.size) if i / image.size * 100 >= percentile)
    threshold = magnitudes[next(ranks, image.size - 1)]
    steep = (np.abs(parts[0]) > threshold) | (np.abs(parts[1]) > threshold)
    kept = ~steep
    if kind == "largest":
        label, count = ndimage.label(kept)
        first = {label.flat[i]: i for i in range(image.size - 1, -1, -1)}
        size = np.bincount(label.ravel())
        kept = label == min(range(1, count + 1), key=lambda k: (-size[k], first[k]))
    return np.where(kept, image, np.nan), threshold, steep


def settle_at_once(raw, percentile=99.0, kind="largest", interpolation="linear"):
    missing = int((raw < 0).sum())
    if missing == raw.size:
        return np.full(raw.shape, np.nan), OffsetReport(raw.size, missing, None, 0, 0)
    patched = patch_map(np.where(raw < 0, np.nan, raw), interpolation)
    if kind == "none":
        return patched, OffsetReport(raw.size, missing, None, 0, 0)
    kept, threshold, steep = filter_at_once(patched, percentile, kind)
    report = OffsetReport(raw.size, missing, threshold, int(steep.sum()), int(np.isnan(kept).sum()))
    return patch_map(kept, interpolation), report


def assert_same_bits(result, expected):
    assert result.dtype == expected.dtype == np.float64
    np.testing.assert_array_equal(result.view(np.uint64), expected.view(np.uint64))


def rough(shape, seed, share_missing=0.2):
    """Offsets of a rough wall, with holes of many sizes."""
    rng = np.random.default_rng(seed)
    wall = ndimage.gaussian_filter(rng.normal(size=shape), 2) * 40 + 20 + rng.integers(0, 2, shape)
    holes = ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
    holes += rng.normal(size=shape) * 0.1
    return np.where(holes < np.quantile(holes, share_missing), -1, np.maximum(wall, 0)).astype(np.int32)


SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 40), (40, 1), (3, 17), (23, 31)]


@pytest.mark.parametrize("kind", maps.FILTERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_strips_give_what_the_whole_map_gives(shape, kind, tmp_path):
    raw = rough(shape, 5, share_missing=0.3)
    for percentile in (90, 99):
        expected, expected_report = settle_at_once(raw, percentile, kind)
        for cells_at_once in (1, 3 * shape[1], 1 << 20):
            result, report = settle(raw, tmp_path, cells_at_once, percentile=percentile, filter=kind)
            assert_same_bits(result, expected)
            assert report == expected_report


@given(
    shape=st.tuples(st.integers(1, 14), st.integers(1, 11)),
    seed=st.integers(0, 1000),
    share_missing=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    rows_at_once=st.integers(1, 6),
    percentile=st.sampled_from([0.5, 30.0, 90.0, 99.0, 100.0]),
    kind=st.sampled_from(maps.FILTERS),
    interpolation=st.sampled_from(maps.INTERPOLATIONS),
)
@settings(max_examples=120)
def test_size_of_strips_never_matters(
    shape, seed, share_missing, rows_at_once, percentile, kind, interpolation, tmp_path_factory
):
    raw = np.random.default_rng(seed).integers(0, 5, shape).astype(np.int32)
    raw[np.random.default_rng(seed + 1).random(shape) < share_missing] = -1
    expected, expected_report = settle_at_once(raw, percentile, kind, interpolation)
    folder = tmp_path_factory.mktemp("rows")
    options = {"percentile": percentile, "filter": kind, "interpolation": interpolation}
    result, report = settle(raw, folder, rows_at_once * shape[1], **options)
    assert_same_bits(result, expected)
    assert report == expected_report


HOLES = {
    "ring": "..........|.########.|.#......#.|.#.####.#.|.#.#..#.#.|.#.####.#.|.#......#.|.########.|..........",
    "joined above": ".####.|.#..#.|.#..#.|.#..#.|.#..#.|.#....|......",
    "joined below": "......|.#..#.|.#..#.|.#..#.|.#..#.|.####.|......",
    "joined above and below": ".####.|.#..#.|.#..##|......|.#..##|.#..#.|.####.",
    "snake": "#####.|....#.|.####.|.#....|.####.|....#.|#####.|......",
    "touching at corners": "#.#.#.|.#.#.#|#.#.#.|.#.#.#|#.#.#.|.#.#.#",
    "all borders": "######|#....#|#....#|#.##.#|#....#|#....#|######",
    "all the way down": "..#...|..#...|..#...|..#...|..#...|..#...",
    "one valid cell": "######|######|####.#|######|######",
    "valid cells in a line": "######|#.####|##.###|###.##|######|######",
    "only the last row is valid": "######|######|######|######|......",
    "only the first row is valid": "......|######|######|######|######",
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", HOLES)
def test_holes_across_strips(name, transposed, tmp_path):
    missing = np.array([[cell == "#" for cell in row] for row in HOLES[name].split("|")])
    raw = np.where(missing, -1, np.random.default_rng(3).integers(0, 9, missing.shape)).astype(np.int32)
    raw = raw.T if transposed else raw
    for interpolation in maps.INTERPOLATIONS:
        expected, _ = settle_at_once(raw, 90, interpolation=interpolation)
        for rows_at_once in range(1, raw.shape[0] + 1):
            cells_at_once = rows_at_once * raw.shape[1]
            result, _ = settle(raw, tmp_path, cells_at_once, percentile=90, interpolation=interpolation)
            assert_same_bits(result, expected)


@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["steep", "none"]),
    interpolation=st.sampled_from(["linear", "axes"]),
)
@settings(max_examples=20)
def test_transposed_map_gives_the_transposed_result(seed, kind, interpolation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    raw = rough((19, 12), seed)
    result, report = settle(raw, folder, 60, filter=kind, interpolation=interpolation)
    transposed, transposed_report = settle(raw.T, folder, 60, filter=kind, interpolation=interpolation)
    assert_same_bits(np.ascontiguousarray(transposed.T), result)
    assert transposed_report == report


def test_map_without_fracture_is_nan(tmp_path):
    result, report = settle(np.full((7, 5), -1, np.int32), tmp_path, 5)
    assert np.isnan(result).all()
    assert report == OffsetReport(cells=35, missing=35, threshold=None, steep=0, removed=0)


def test_flat_map_stays_as_it_is(tmp_path):
    result, report = settle(np.zeros((7, 5), np.int32), tmp_path)
    assert not result.any()
    assert report == OffsetReport(cells=35, missing=0, threshold=0.0, steep=0, removed=0)


def test_islands_are_removed_and_of_equals_the_first_stays():
    plateaus = np.array([[5, 5, 5, 5, 9, 9, 9, 9], [5, 5, 5, 5, 9, 9, 9, 9], [5, 5, 5, 5, 9, 9, 9, 9]], np.float64)
    nan = np.nan
    np.testing.assert_array_equal(filter_offsets(plateaus, 50), [[5, 5, 5, nan, nan, nan, nan, nan]] * 3)
    np.testing.assert_array_equal(filter_offsets(plateaus, 50, "steep"), [[5, 5, 5, nan, nan, 9, 9, 9]] * 3)
    np.testing.assert_array_equal(filter_offsets(plateaus, 50, "none"), plateaus)
    np.testing.assert_array_equal(filter_offsets(plateaus, 100), plateaus)
    np.testing.assert_array_equal(filter_offsets(np.ascontiguousarray(plateaus.T), 50)[:, 0], [5, 5, 5] + [nan] * 5)


def test_diagonal_contact_does_not_connect():
    # the steep cells of these steps leave two corners that touch at none of their sides
    image = np.zeros((6, 6))
    image[:3, :3] = 10
    image[3:, 3:] = 10
    expected, _, _ = filter_at_once(image, 40, "largest")
    assert 0 < np.isfinite(expected).sum() <= 9
    assert_same_bits(filter_offsets(image, 40), expected)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 12)),
    seed=st.integers(0, 1000),
    percentile=st.floats(0.01, 100),
    levels=st.sampled_from([2, 6, 10**6]),
    kind=st.sampled_from(maps.FILTERS),
)
@example(shape=(1, 1), seed=0, percentile=99.0, levels=2, kind="largest")
def test_filter_in_memory(shape, seed, percentile, levels, kind):
    image = np.random.default_rng(seed).integers(0, levels, shape) / 7
    before = image.copy()
    result = filter_offsets(image, percentile, kind)
    assert_same_bits(result, image if kind == "none" else filter_at_once(image, percentile, kind)[0])
    assert not np.shares_memory(result, image)
    np.testing.assert_array_equal(image, before)


@given(
    values=st.lists(st.floats(0, allow_nan=False), min_size=1, max_size=40)
    | st.lists(st.sampled_from([0.0, 0.5, 1.0, 5e-324, 1e300]), min_size=1, max_size=300),
    share=st.floats(0, 1, exclude_max=True),
    at_once=st.sampled_from([1, 3, 1000]),
)
@settings(max_examples=60)
def test_order_statistic(values, share, at_once):
    values = np.array(values)
    rank = int(share * len(values))
    strips = np.split(values, range(at_once, len(values), at_once))
    assert maps._order_statistic(lambda: iter(strips), len(values), rank, at_once) == np.sort(values)[rank]


@given(percentile=st.floats(0.001, 100) | st.integers(1, 100), count=st.integers(1, 400))
@example(percentile=99, count=100)
@example(percentile=7, count=100)  # 7 / 100 * 100 is above 7, 0.07 * 100 too
def test_rank_of_the_percentile(percentile, count):
    ranks = (i for i in range(count) if i / count * 100 >= percentile)
    assert maps._percentile_rank(percentile, count) == next(ranks, count - 1)


def test_rank_of_the_percentile_of_a_huge_map():
    for count in (2 * 10**9, 2**31 + 1, 10**12 + 7):
        rank = maps._percentile_rank(99.0, count)
        assert rank / count * 100 >= 99 > (rank - 1) / count * 100


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"interpolation": "cubic"}, "--interpolation cubic: choose one of linear, axes, nearest, harmonic"),
        ({"filter": "all"}, "--filter all: choose one of largest, steep, none"),
        ({"percentile": 0}, "--percentile 0: choose a number above 0 and up to 100"),
        ({"percentile": 100.5}, "--percentile 100.5: choose"),
        ({"percentile": float("nan")}, "--percentile nan: choose"),
    ],
)
def test_wrong_settings_are_named(options, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        OffsetSettings(**options)


@pytest.mark.parametrize(
    "image", [np.zeros(5), np.zeros((0, 4)), np.zeros((2, 3, 4)), [[1.0, np.nan]], [[1.0, np.inf]]]
)
def test_filter_refuses_what_is_no_patched_map(image):
    with pytest.raises(ValueError, match=r"^image "):
        filter_offsets(image)


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    write, calls = RowFile.write, []

    def full(file, start, rows):
        calls.append(start)
        if len(calls) > 25:  # in the filter, when two scratch files exist
            raise OutputError(f"{file.path}: cannot be written: the disk is full")
        write(file, start, rows)

    with RowFile(tmp_path / "raw", (20, 7), np.int32) as raw:
        raw.write(0, rough((20, 7), 1))
        monkeypatch.setattr(RowFile, "write", full)
        with pytest.raises(OutputError, match="the disk is full"):
            settle_offsets(raw, tmp_path, OffsetSettings(), cells_at_once=7)
    assert list(tmp_path.iterdir()) == [raw.path]


# ---- recorded runs of the original


def recorded(shared, path):
    with lzma.open(shared / "golden" / "apmapflow" / f"{path}.xz") as file:
        return BytesIO(file.read())


def raw_offsets(shared, name, stem):
    """First fracture row of each column: of the stack that the original saved, or of its input where it saved none."""
    try:
        fracture = tifffile.imread(recorded(shared, f"{name}/{stem}-processed.tif")) != 0
    except FileNotFoundError:
        with tifffile.TiffFile(recorded(shared, f"inputs/{stem}.tif")) as file:
            fracture = file.asarray() != 0
            if file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                fracture = ~fracture
        if name in ("invert", "edge_fault_i"):
            fracture = ~fracture
    return np.where(fracture.any(axis=1), fracture.argmax(axis=1), -1).astype(np.int32)


def recorded_offsets(shared, name, stem):
    return np.loadtxt(recorded(shared, f"{name}/{stem}-offset-map.txt"))


SMALL = "binary-fracture-small"


def patch_as_the_original(image, method="linear", *, only=None):
    """What the original patches with: all valid cells triangulated, then the nearest of them."""
    valid = np.isfinite(image)
    out = image.copy()
    for kind in ("linear", "nearest"):
        holes = np.isnan(out)
        if holes.any():
            out[holes] = griddata(np.argwhere(valid), image[valid], np.argwhere(holes), method=kind)
    return out


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("n1", SMALL),
        ("invert", SMALL),
        *((f"edge_random_{run}", "edge-random") for run in ("default", "n1", "n5")),
        *((f"edge_fault_{run}", "edge-fault") for run in ("default", "n1", "i")),
        *((f"edge_holes_{run}", "edge-holes") for run in ("default", "n1")),
    ],
)
def test_filter_is_the_original_s(name, stem, shared, tmp_path, monkeypatch):
    # with its patching in the place of ours, every cell of a recorded map agrees to the six decimals written
    monkeypatch.setattr(holes, "patch_map", patch_as_the_original)
    result, _ = settle(raw_offsets(shared, name, stem), tmp_path)
    np.testing.assert_allclose(result + 1, recorded_offsets(shared, name, stem), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "stem", "percent", "largest"),
    [
        ("default", SMALL, 0.44, 4.5),
        ("n1", SMALL, 0.69, 0.75),
        ("n5", SMALL, 0.58, 5.5),
        ("n1000", SMALL, 0.44, 4.5),
        ("invert", SMALL, 0, 0),
        ("invert_n1", SMALL, 0, 0),
        ("synth200_default", "synth200", 1.08, 0.6),
        ("synth200_n1", "synth200", 0.97, 0.6),
        ("synth200_n5", "synth200", 1.0, 0.6),
        ("edge_random_default", "edge-random", 9, 9),  # mostly holes, so other fills make another threshold
        ("edge_random_n1", "edge-random", 5, 4),
        ("edge_random_n5", "edge-random", 7.5, 11),
        ("edge_fault_default", "edge-fault", 0.1, 2.75),
        ("edge_fault_n1", "edge-fault", 0, 0),
        ("edge_fault_i", "edge-fault", 0, 0),
        ("edge_holes_default", "edge-holes", 0.8, 0.67),
        ("edge_holes_n1", "edge-holes", 0.8, 0.67),
    ],
)
def test_recorded_maps_of_the_original(name, stem, percent, largest, shared, tmp_path):
    # Where the original cuts polygons of cells by accident, we do not: that is what differs, and what follows from it.
    raw = raw_offsets(shared, name, stem)
    result, _ = settle(raw, tmp_path)
    expected = recorded_offsets(shared, name, stem) - 1
    differs = np.abs(result - expected) > 1e-6
    assert 100 * differs.mean() <= percent
    np.testing.assert_allclose(result, expected, rtol=0, atol=largest + 1e-6)
    if stem != "edge-random":
        kept = np.isfinite(filter_offsets(patch_map(np.where(raw < 0, np.nan, raw)))) & (raw >= 0)
        assert not (differs & kept).any()


def test_gradients_whose_squares_underflow():
    np.testing.assert_array_equal(filter_offsets([[0, 1e-170, 2e-170]]), [[0, 1e-170, 2e-170]])
