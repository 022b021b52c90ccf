"""Centroids of labels and of components, against scipy.ndimage."""

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytolith.errors import VolumeError
from cytolith.io.tables import read_points
from cytolith.score import centroids
from cytolith.score.centroids import read_centroids
from cytolith.score.positions import read_positions


def components(mask):
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return np.array(ndimage.center_of_mass(mask, labels, range(1, count + 1))).reshape(-1, 3)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.02, 0.1, 0.3, 0.6]),
    planes=st.sampled_from([1, 2, 5, 100]),
    value=st.sampled_from([1, 255, -3]),
)
def test_components_do_not_depend_on_slabs(seed, share, planes, value):
    shape = 11, 9, 13
    mask = np.random.default_rng(seed).random(shape) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(centroids, "_SLAB_BYTES", 8 * 9 * 13 * planes)
        found = read_centroids(mask.astype(np.int16) * value)
    np.testing.assert_allclose(found, components(mask.astype(float)), rtol=1e-13)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), planes=st.sampled_from([1, 3, 100]))
def test_labels_do_not_depend_on_slabs(seed, planes):
    rng = np.random.default_rng(seed)
    # blocks, so that it does not look like grey values; the same label in several places
    blocks = rng.choice([0, 0, 3, 7, 2**31 - 2, -5], (4, 3, 5))
    image = blocks.repeat(3, 0).repeat(3, 1).repeat(4, 2).astype(np.int32)
    names = [label for label in np.unique(image) if label]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(centroids, "_SLAB_BYTES", 8 * 9 * 20 * planes)
        found = read_centroids(image)
    expected = ndimage.center_of_mass(image != 0, image, names) if len(names) > 1 else components(image != 0)
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 3)), rtol=1e-13)


@pytest.fixture
def labelled():
    image = np.zeros((6, 7, 8), np.uint32)
    image[0:2, 1:3, 2:5] = 614454277  # beyond what a float32 holds
    image[3, 4, 5] = 614454278
    return image, [[0.5, 1.5, 3], [3, 4, 5]]


@pytest.mark.parametrize("name", ["truth.tif", "truth.npy", "truth.zarr"])
def test_from_files(tmp_path, labelled, name):
    image, expected = labelled
    path = tmp_path / name
    if name.endswith("tif"):
        tifffile.imwrite(path, image)
    elif name.endswith("npy"):
        np.save(path, image)
    else:
        zarr.create_array(path, data=image, chunks=(2, 3, 4))
    assert read_positions(path).voxels.tolist() == expected


def test_an_empty_mask():
    assert read_centroids(np.zeros((3, 4, 5), np.uint8)).shape == (0, 3)


def test_bool_and_one_plane():
    mask = np.zeros((1, 5, 6), bool)
    mask[0, 1, 1] = mask[0, 2, 2] = mask[0, 4, 4] = True
    assert read_centroids(mask).tolist() == [[0, 1.5, 1.5], [0, 4, 4]]


def test_grey_values_are_refused():
    image = np.random.default_rng(0).integers(0, 60_000, (4, 20, 20)).astype(np.uint16)
    with pytest.raises(VolumeError, match="looks like grey values"):
        read_centroids(image)
    with pytest.raises(VolumeError, match="no whole numbers"):
        read_centroids(image / np.float32(7))
    image = np.zeros((2, 3, 4), np.float32)
    image[1, 1, 1] = np.nan
    with pytest.raises(VolumeError, match="no whole numbers"):
        read_centroids(image)


def test_the_mask_and_the_centres_of_a_real_volume(shared):
    folder = shared / "data" / "cells" / "delivr"
    if not folder.exists():
        pytest.skip(f"no {folder}")
    found = read_positions(folder / "cfos_695_gt.tif").voxels
    table = read_points(folder / "cfos_695_cells.csv")
    np.testing.assert_allclose(found[np.lexsort(found.T)], table[np.lexsort(table.T)], atol=1e-3)
