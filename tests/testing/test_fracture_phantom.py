import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytolith.errors import ConfigError, OutputError
from cytolith.testing import fracture_phantom
from cytolith.testing.fracture_phantom import FracturePhantom, _largest_part, write_fracture_sample

SHAPE = (41, 60, 77)
NAMES = ["fracture.tif", "truth-aperture-map.txt", "truth-offset-map.txt", "truth.json"]


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(16, 60), st.integers(16, 50), st.integers(16, 70)),
    seed=st.integers(0, 2**40),
    speckled=st.sampled_from([0.02, 1.0]),
)
def test_the_largest_cluster_is_the_truth(shape, seed, speckled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fracture_phantom, "_SPECKLED", speckled)
        fracture_phantom._speckle_of.cache_clear()
        phantom = FracturePhantom(shape, seed)
        volume, truth = phantom.volume(), phantom.truth
    fracture_phantom._speckle_of.cache_clear()
    assert volume.shape == shape
    assert volume.dtype == np.uint8
    assert set(np.unique(volume)) == {0, 255}

    labels, n = ndimage.label(volume, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    kept = labels == sizes.argmax() + 1
    np.testing.assert_array_equal(phantom.aperture, kept.sum(axis=1))
    np.testing.assert_array_equal(phantom.offset, np.where(kept.any(axis=1), kept.argmax(axis=1), np.nan))
    assert truth == {
        "shape": list(shape),
        "seed": seed,
        "fracture_voxels": kept.sum(),
        "contact_columns": np.count_nonzero(~kept.any(axis=1)),
        "mean_aperture": kept.sum() / (shape[0] * shape[2]),
        "speckles": n - 1,
        "speckle_voxels": sizes.sum() - sizes.max(),
    }


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**32))
def test_parts_that_contact_cuts_off_are_found(n_planes, width, seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 9, (n_planes, width), np.int32)
    aperture = rng.integers(0, 5, (n_planes, width), np.int32)
    y = np.arange(13)[:, None]
    volume = (y >= first[:, None]) & (y < (first + aperture)[:, None])
    labels, n = ndimage.label(volume, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sizes[0] = 0
    part = _largest_part(first, aperture)
    if n == 0:
        assert not part[aperture > 0].any()
        return
    found = np.unique(labels[(volume & part[:, None])])
    assert len(found) == 1
    assert sizes[found[0]] == sizes.max()
    np.testing.assert_array_equal(part, (labels == found[0]).any(axis=1))


def test_speckle_is_lines_in_all_directions_away_from_the_fracture(monkeypatch):
    monkeypatch.setattr(fracture_phantom, "_SPECKLED", 1.0)
    fracture_phantom._speckle_of.cache_clear()
    phantom = FracturePhantom((64, 70, 90), 2)
    volume = phantom.volume() > 0
    fracture_phantom._speckle_of.cache_clear()
    labels, n = ndimage.label(volume, np.ones((3, 3, 3)))
    fracture = np.bincount(labels.ravel())[1:].argmax() + 1
    sizes, extents = set(), set()
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if label == fracture:
            continue
        points = np.argwhere(labels[box] == label)
        sizes.add(len(points))
        extents.add(tuple(points.max(axis=0) + 1))
        assert points.max() == len(points) - 1  # a straight line is as long as it has voxels
    assert sizes == {1, 2, 3, 4}
    assert len(extents) == 1 + 7 * 3  # a voxel, and 7 kinds of direction by 3 lengths
    assert n > 400


def test_planes_come_in_any_order():
    volume = FracturePhantom(SHAPE, 5).volume()
    fracture_phantom._speckle_of.cache_clear()
    again = FracturePhantom(list(SHAPE), 5)
    for z in reversed(range(SHAPE[0])):
        np.testing.assert_array_equal(again.plane(z), volume[z])
    for z in (-1, SHAPE[0]):
        with pytest.raises(IndexError, match=f"plane {z}"):
            again.plane(z)


def test_another_seed_gives_another_fracture():
    first, second = (FracturePhantom(SHAPE, seed).offset for seed in (1, 2))
    assert (first != second).mean() > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_apertures_are_as_told(seed):
    phantom = FracturePhantom((150, 80, 210), seed)
    assert phantom.truth["mean_aperture"] == pytest.approx(8, abs=0.2)
    assert 0.02 < phantom.truth["contact_columns"] / phantom.aperture.size < 0.08
    assert phantom.aperture.std() == pytest.approx(0.55 * 8, rel=0.1)
    contact = np.isnan(phantom.offset)
    np.testing.assert_array_equal(contact, phantom.aperture == 0)
    assert phantom.offset[~contact].min() >= 1
    assert (phantom.offset + phantom.aperture)[~contact].max() <= 79


def test_walls_are_self_affine():
    slopes = []
    for seed in range(6):
        wall = FracturePhantom((256, 16, 300), seed)._surface(0, 300.0).astype(float)
        lags = np.array([2, 4, 8, 16])
        for axis in (0, 1):
            rms = [np.std(np.take(wall, range(s, 256), axis) - np.take(wall, range(256 - s), axis)) for s in lags]
            slopes.append(np.polyfit(np.log(lags), np.log(rms), 1)[0])
    assert np.mean(slopes) == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize(
    ("shape", "seed", "word"),
    [
        ((15, 20, 30), 0, "shape"),
        ((20, 30), 0, "shape"),
        ((20, 30, 40.5), 0, "shape"),
        ((20, 30, -40), 0, "shape"),
        ((10**6, 20, 10**6), 0, "shape"),
        ((20, 10**9, 20), 0, "shape"),
        ((20, 30, 40), -1, "seed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(shape, seed, word, tmp_path):
    with pytest.raises(ConfigError, match=f"^{word} .*(give|smaller)") as caught:
        write_fracture_sample(tmp_path / "new", shape, seed)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_sample_is_a_stack_and_its_truth(tmp_path):
    folder = tmp_path / "new" / "sample"
    truth = write_fracture_sample(folder, SHAPE, 3)
    phantom = FracturePhantom(SHAPE, 3)
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    stack = tifffile.imread(folder / "fracture.tif")
    np.testing.assert_array_equal(stack, phantom.volume())
    np.testing.assert_array_equal(np.loadtxt(folder / NAMES[1], delimiter="\t", dtype=int), phantom.aperture)
    np.testing.assert_array_equal(np.loadtxt(folder / NAMES[2], delimiter="\t"), phantom.offset)
    assert json.loads((folder / "truth.json").read_text()) == truth == phantom.truth


def test_an_earlier_sample_is_replaced_only_when_told(tmp_path):
    write_fracture_sample(tmp_path, SHAPE)
    (tmp_path / "mine.txt").write_text("mine")
    before = (tmp_path / "fracture.tif").read_bytes()
    with pytest.raises(OutputError, match=r"fracture\.tif: exists.*overwrite"):
        write_fracture_sample(tmp_path, (20, 30, 40))
    assert (tmp_path / "fracture.tif").read_bytes() == before
    write_fracture_sample(tmp_path, (20, 30, 40), overwrite=True)
    assert tifffile.imread(tmp_path / "fracture.tif").shape == (20, 30, 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAMES[0], "mine.txt", *NAMES[1:]]


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_file_of_the_truth_is_not_replaced_either(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=name):
        write_fracture_sample(tmp_path, SHAPE)
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        write_fracture_sample(tmp_path / "taken", SHAPE)
