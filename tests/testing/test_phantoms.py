import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree

from cytolith.errors import ConfigError, OutputError
from cytolith.io.tables import read_points, read_table
from cytolith.score.match import match
from cytolith.testing import phantoms
from cytolith.testing.phantoms import CellsPhantom, cells_phantom, write_sample

SHAPE = (20, 90, 130)


def own_profile(phantom, slab, cell):
    cells = phantoms._cells_of(phantom, slab)
    grids = np.ogrid[tuple(slice(0, n) for n in phantom.shape)]
    exponent = sum(((g - p) / s) ** 2 for g, p, s in zip(grids, cells.positions[cell], cells.sigmas[cell], strict=True))
    return np.exp(-0.5 * exponent), cells.voxels[cell]


def test_same_shape_and_seed_give_the_same_volume_in_any_order_of_planes():
    volume, truth = cells_phantom(SHAPE, seed=5)
    phantoms._cells_of.cache_clear()
    phantoms._candidates.cache_clear()
    again = CellsPhantom(SHAPE, seed=5)
    for z in reversed(range(SHAPE[0])):
        np.testing.assert_array_equal(again.plane(z), volume[z])
    for name, column in truth.items():
        np.testing.assert_array_equal(again.truth[name], column)


def test_another_seed_gives_another_volume():
    first, second = (cells_phantom(SHAPE, seed=seed)[0] for seed in (1, 2))
    assert (first != second).mean() > 0.9


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 25), st.integers(1, 60), st.integers(1, 70)),
    seed=st.integers(0, 2**40),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
)
def test_any_shape(shape, seed, dtype):
    volume, truth = cells_phantom(shape, seed=seed, dtype=dtype)
    assert volume.shape == shape
    assert volume.dtype == dtype
    assert volume.flags.c_contiguous
    assert volume.min() > 0
    assert {name: column.dtype.str for name, column in truth.items()} == {
        "z": "<f8",
        "y": "<f8",
        "x": "<f8",
        "voxels": "<i8",
    }
    points = np.stack([truth[axis] for axis in "zyx"], axis=1)
    assert (points >= 0).all()
    assert (points <= np.array(shape) - 1).all()
    assert (truth["voxels"] >= 1).all()
    assert [tuple(p) for p in points] == sorted(tuple(p) for p in points)


def test_size_is_what_exceeds_half_of_the_cells_own_profile():
    phantom = CellsPhantom((9, 90, 120), seed=3)  # two slabs; cells are cut off at every face
    checked = 0
    for slab in range(phantom._slabs):
        for cell in range(len(phantoms._cells_of(phantom, slab).heights)):
            profile, size = own_profile(phantom, slab, cell)
            assert size == np.count_nonzero(profile > 0.5)
            checked += 1
    assert checked == len(phantom.truth["voxels"]) >= 8


def test_cells_are_drawn_where_the_truth_says():
    shape = (24, 90, 110)
    phantom = CellsPhantom(shape, seed=11, dtype="float32")
    bare = CellsPhantom(shape, seed=11, dtype="float32", density=0.0)
    assert len(bare.truth["z"]) == 0
    light = phantom.volume().astype(float) - bare.volume()
    expected = np.zeros(shape)
    for slab in range(phantom._slabs):
        for cell, height in enumerate(phantoms._cells_of(phantom, slab).heights):
            expected += height * own_profile(phantom, slab, cell)[0]
    shading = 1 - phantoms._SHADING * (1 - np.cos(np.linspace(0, np.pi, shape[2]))) / 2
    # the same noise multiplies the square root of a larger signal: what is left is small beside a cell
    assert np.abs(light - expected * shading).max() < 0.15 * phantoms._HEIGHT[0]
    assert np.abs(ndimage.uniform_filter(light - expected * shading, 15)).max() < 10


def test_density_and_distance_of_cells():
    phantom = CellsPhantom((40, 500, 600), seed=2)
    truth = phantom.truth
    expected = phantom.density * np.prod(phantom.shape) * np.prod(phantom.voxel_size) / 1e9
    assert len(truth["z"]) == pytest.approx(expected, abs=4 * expected**0.5)
    um = np.stack([truth[axis] for axis in "zyx"], axis=1) * phantom.voxel_size
    distances, _ = cKDTree(um / phantom._apart_um).query(um / phantom._apart_um, k=2)
    assert distances[:, 1].min() >= 1
    assert (distances[:, 1] < 1.25).mean() > 0.03  # pairs that nearly touch are there
    assert np.histogram(truth["z"], 4, (0, 39))[0].min() / len(um) * 4 > 0.8  # slabs join without a gap


def test_cells_keep_their_size_in_micrometres():
    _, coarse = cells_phantom((20, 200, 210), seed=4)
    _, fine = cells_phantom((40, 400, 420), seed=4, voxel_size=(3.0, 0.81, 0.81))
    assert len(fine["z"]) == pytest.approx(len(coarse["z"]), rel=0.5)
    assert np.median(fine["voxels"]) == pytest.approx(8 * np.median(coarse["voxels"]), rel=0.15)


def test_axes_are_not_swapped():
    _, truth = cells_phantom((10, 60, 200), seed=6)
    extents = [truth[axis].max() for axis in "zyx"]
    assert 5 < extents[0] <= 9 < 40 < extents[1] <= 59 < 150 < extents[2] <= 199


def test_a_plain_detector_finds_the_cells():
    volume, truth = cells_phantom((40, 200, 220), seed=9)
    y, x = np.ogrid[-5:6, -5:6]
    disk = y**2 + x**2 <= 25
    image = volume.astype(np.float32)
    for plane in image:
        plane -= ndimage.grey_opening(plane, footprint=disk)
    image = ndimage.gaussian_filter(image, (0.7, 1.5, 1.5))
    noise = 1.4826 * np.median(np.abs(image - np.median(image)))
    peaks = np.argwhere((image == ndimage.maximum_filter(image, (3, 5, 5))) & (image > 10 * noise))
    points = np.stack([truth[axis] for axis in "zyx"], axis=1)
    assert match(peaks, points, 8.0, phantoms.VOXEL_SIZE).f1 > 0.9


def test_background_is_uneven_and_has_broad_bright_structures():
    volume = CellsPhantom((8, 400, 500), seed=1, density=0.0, dtype="float32").volume()
    smooth = ndimage.gaussian_filter(volume, (1, 12, 12))
    assert smooth.max() > 1.5 * np.median(smooth)


def test_light_falls_off_along_x(monkeypatch):
    phantom = CellsPhantom((2, 100, 400), seed=1, dtype="float32")
    shaded = phantom.volume().mean(axis=(0, 1))
    monkeypatch.setattr(phantoms, "_SHADING", 0.0)
    share = shaded / phantom.volume().mean(axis=(0, 1))
    assert share[0] == pytest.approx(1)
    assert share[-1] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"shape": (4, 5)}, "shape"),
        ({"shape": (4, 5, 0)}, "shape"),
        ({"shape": (4, 5.5, 6)}, "shape"),
        ({"shape": (4, 5, 6), "seed": -1}, "seed"),
        ({"shape": (4, 5, 6), "voxel_size": (1, 0, 1)}, "voxel_size"),
        ({"shape": (4, 5, 6), "voxel_size": (1, 1)}, "voxel_size"),
        ({"shape": (4, 5, 6), "density": 1e9}, "density"),
        ({"shape": (4, 5, 6), "density": -1.0}, "density"),
        ({"shape": (4, 5, 6), "dtype": "int64"}, "dtype"),
    ],
)
def test_bad_parameters_are_named(options, word):
    with pytest.raises(ConfigError, match=f"^{word} .*: give") as caught:
        cells_phantom(**options)
    assert "\n" not in str(caught.value)


def test_planes_outside_are_refused():
    phantom = CellsPhantom((3, 20, 30))
    for z in (-1, 3):
        with pytest.raises(IndexError, match=f"plane {z}"):
            phantom.plane(z)


def test_sample_is_planes_and_truth(tmp_path):
    truth = write_sample(tmp_path / "new" / "sample", (12, 60, 70), 8)
    volume, expected = cells_phantom((12, 60, 70), seed=8)
    paths = sorted((tmp_path / "new" / "sample" / "planes").iterdir())
    assert [path.name for path in paths] == [f"z{z:04d}.tif" for z in range(12)]
    np.testing.assert_array_equal(np.stack([tifffile.imread(path) for path in paths]), volume)
    table, _ = read_table(tmp_path / "new" / "sample" / "truth.csv")
    assert list(table) == ["z", "y", "x", "voxels"]
    for name, column in expected.items():
        assert table[name].dtype == column.dtype
        np.testing.assert_array_equal(table[name], column)
        np.testing.assert_array_equal(truth[name], column)


def test_sample_without_cells_has_an_empty_truth(tmp_path):
    write_sample(tmp_path, (2, 8, 9), density=0)
    assert (tmp_path / "truth.csv").read_bytes() == b"z,y,x,voxels\n"
    assert read_points(tmp_path / "truth.csv").shape == (0, 3)


def test_an_earlier_sample_is_replaced_only_when_told(tmp_path):
    write_sample(tmp_path, (5, 20, 30))
    (tmp_path / "planes" / "z0009.tif.partial").write_bytes(b"killed")
    with pytest.raises(OutputError, match="exists"):
        write_sample(tmp_path, (3, 20, 30))
    assert len(list((tmp_path / "planes").iterdir())) == 6
    write_sample(tmp_path, (3, 20, 30), overwrite=True)
    assert sorted(path.name for path in (tmp_path / "planes").iterdir()) == ["z0000.tif", "z0001.tif", "z0002.tif"]


def test_a_truth_without_planes_is_not_replaced_either(tmp_path):
    (tmp_path / "truth.csv").write_text("mine")
    with pytest.raises(OutputError, match="truth"):
        write_sample(tmp_path, (3, 20, 30))
    assert (tmp_path / "truth.csv").read_text() == "mine"


def test_other_files_among_the_planes_are_never_removed(tmp_path):
    (tmp_path / "planes").mkdir()
    (tmp_path / "planes" / "brain_0001.tif").write_bytes(b"data")
    with pytest.raises(OutputError, match="brain_0001"):
        write_sample(tmp_path, (3, 20, 30), overwrite=True)
    assert (tmp_path / "planes" / "brain_0001.tif").read_bytes() == b"data"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        write_sample(tmp_path / "taken", (3, 20, 30))
