"""The functions of apmapflow's script, on (x, y, z) arrays, against brute force and what is documented of them."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import griddata

from cytolith.compat import apmapflow
from cytolith.compat.apmapflow import (
    calculate_offset_map,
    filter_high_gradients,
    generate_adjacency_matrix,
    generate_index_map,
    generate_node_connectivity_array,
    patch_holes,
    process_image,
    read_map,
    remove_isolated_clusters,
    save_cluster_image,
)
from cytolith.errors import ConfigError, OutputError, VolumeError

FULL = np.ones((3, 3, 3))

images = st.builds(
    lambda shape, seed, share: np.random.default_rng(seed).random(shape) < share,
    st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 5)),
    st.integers(0, 2**32),
    st.sampled_from([0.05, 0.1, 0.3, 1]),
)


def kept(image, count):
    """Largest clusters, of one size those that come first in (z, y, x)."""
    labels, n = ndimage.label(image.T, FULL)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    order = sorted(range(n), key=lambda k: (-sizes[k], k))
    wanted = order[:count] if count > 0 else order[: max(n + count, 0)] if count else order
    return np.isin(labels, np.array(wanted, int) + 1).T


@settings(max_examples=40)
@given(images, st.integers(-3, 4))
def test_process_image(image, count):
    before = image.copy()
    found = process_image(image * 7, count)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, kept(image, count))
    np.testing.assert_array_equal(image, before)


@settings(max_examples=40)
@given(images, st.integers(1, 4))
def test_the_graph_has_the_same_clusters(image, count):
    locs = np.flatnonzero(image)
    index_map = generate_index_map(locs, image.shape)
    np.testing.assert_array_equal(index_map, np.argwhere(image))
    conns = generate_node_connectivity_array(index_map, image)
    assert generate_adjacency_matrix(conns, locs).nnz == 2 * len(conns)
    left = np.zeros(image.size, bool)
    left[remove_isolated_clusters(conns, locs, count)] = True
    labels, n = ndimage.label(image, FULL)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    wanted = sorted(range(n), key=lambda k: (-sizes[k], k))[:count]
    np.testing.assert_array_equal(left.reshape(image.shape), np.isin(labels, np.array(wanted, int) + 1))


def row_of_clusters(sizes):
    """A plane with clusters of these sizes along x, a row each, and an extent that differs along each axis."""
    image = np.zeros((max(sizes) + 2, 2 * len(sizes), 3), bool)
    for k, size in enumerate(sizes):
        image[1 : 1 + size, 2 * k, 1] = True
    return image


@pytest.mark.parametrize(
    ("count", "colours"),
    [
        (1, [255]),
        (2, [67, 255]),
        (3, [67, 75, 255]),
        (15, [*range(67, 172, 8), 255]),
        (16, [*range(67, 180, 8), 255]),
        (17, [*range(67, 180, 8), 255, 255]),
        (30, [*range(67, 180, 8), *[255] * 15]),
    ],
)
def test_colours_of_clusters(tmp_path, count, colours):
    sizes = np.random.default_rng(1).permutation(count) + 1
    image = row_of_clusters(sizes.tolist())
    expected = np.zeros(image.shape, np.uint8)
    for k, size in enumerate(sizes):
        expected[1 : 1 + size, 2 * k, 1] = colours[count - size]
    locs = np.flatnonzero(image)
    conns = generate_node_connectivity_array(generate_index_map(locs, image.shape), image)
    process_image(image, 1, img_name=tmp_path / "a.tif")
    remove_isolated_clusters(conns, locs, 1, img_shape=image.shape, img_name=tmp_path / "b.tif")
    labels, n = ndimage.label(image, FULL)
    groups = np.arange(1, n + 1)[::-1]
    counts = np.bincount(labels.ravel())[1:][::-1]
    save_cluster_image(labels.ravel()[locs], groups, counts, locs, image.shape, str(tmp_path / "c.tif"))
    for name in "abc":
        np.testing.assert_array_equal(tifffile.imread(tmp_path / f"{name}.tif"), expected.T, err_msg=name)


def test_of_equal_clusters_the_first_are_kept():
    image = np.zeros((5, 3, 7), bool)
    image[0, 0, 4] = image[4, 2, 0] = image[2, 2, 2] = True  # in (z, y, x) the second comes first
    assert np.argwhere(process_image(image, 1)).tolist() == [[4, 2, 0]]
    assert np.argwhere(process_image(image, -1)).tolist() == [[2, 2, 2], [4, 2, 0]]
    assert not process_image(image, -3).any()
    assert process_image(image, 0).sum() == 3
    locs = np.flatnonzero(image)
    assert remove_isolated_clusters(np.empty((0, 2), int), locs, -2).tolist() == [locs[0]]
    assert remove_isolated_clusters(np.empty((0, 2), int), locs, 0).tolist() == locs.tolist()


def restated(image):
    """The offset map as it is documented, written down once more."""

    def patch(offsets):
        known, missing = np.argwhere(np.isfinite(offsets)), np.argwhere(np.isnan(offsets))
        values = offsets[np.isfinite(offsets)]
        linear = griddata(known, values, missing, "linear") if len(missing) else np.empty(0)
        nearest = griddata(known, values, missing, "nearest") if len(missing) else np.empty(0)
        out = offsets.copy()
        out[np.isnan(offsets)] = np.where(np.isnan(linear), nearest, linear)
        return out

    offsets = np.full((image.shape[2], image.shape[0]), np.nan)
    for x, z in np.ndindex(image.shape[0], image.shape[2]):
        if image[x, :, z].any():
            offsets[z, x] = np.flatnonzero(image[x, :, z])[0]
    offsets = patch(offsets)
    down, across = np.gradient(offsets)
    values = sorted(np.sqrt(down**2 + across**2).ravel())
    limit = next((v for k, v in enumerate(values) if k / len(values) * 100 >= 99), values[-1])
    gentle = (abs(down) <= limit) & (abs(across) <= limit)
    labels, n = ndimage.label(gentle)
    largest = np.bincount(labels.ravel(), minlength=n + 1)[1:].argmax() + 1
    return patch(np.where(labels == largest, offsets + 1, np.nan))


@pytest.mark.parametrize("seed", range(6))
def test_offset_map(seed):
    rng = np.random.default_rng(seed)
    X, Y, Z = 27, 24, 19
    low = 6 + 4 * ndimage.gaussian_filter(rng.normal(size=(X, Z)), 2) * 3 + 5 * (np.arange(X)[:, None] > 18)
    high = low + ndimage.gaussian_filter(rng.normal(size=(X, Z)), 1) * 8 + 1.5
    y = np.arange(Y)[None, :, None]
    image = (y >= low[:, None]) & (y < high[:, None])
    assert 0.02 < 1 - image.any(axis=1).mean() < 0.6
    found = calculate_offset_map(image)
    assert found.shape == (Z, X)
    np.testing.assert_array_equal(found, restated(image))


def test_a_fault_loses_its_smaller_side():
    offsets = np.repeat(np.where(np.arange(300) < 160, 4.0, 20.0)[None], 12, 0)  # 2 of 300 cells of a row are steep
    filtered = filter_high_gradients(offsets)
    assert (filtered[:, :159] == 5).all()
    assert np.isnan(filtered[:, 159:]).all()
    image = np.zeros((300, 25, 12), bool)
    image[:160, 4:6] = image[160:, 20:22] = True
    assert (calculate_offset_map(image) == 5).all()


def test_a_solid_image_has_offsets_of_1():
    assert (calculate_offset_map(np.ones((4, 6, 3))) == 1).all()


@pytest.mark.parametrize("shape", [(6, 5, 1), (1, 5, 6), (1, 5, 1), (2, 5, 2)])
def test_thin_images_have_a_map(shape):
    image = np.zeros(shape, bool)
    image[0, 2, 0] = image[-1, 3, -1] = True
    found = calculate_offset_map(image)
    assert found.shape == (shape[2], shape[0])
    assert np.isfinite(found).all()
    assert (found[0, 0], found[-1, -1]) == (3, 3 if shape == (1, 5, 1) else 4)
    assert found.min() >= 3
    assert found.max() <= 4


def test_no_fracture_at_all():
    assert np.isnan(calculate_offset_map(np.zeros((4, 5, 6)))).all()
    assert not process_image(np.zeros((4, 5, 6)), 2).any()


def test_holes_are_patched_by_griddata():
    rng = np.random.default_rng(2)
    offsets = rng.integers(0, 30, (17, 23)).astype(float)
    offsets[rng.random(offsets.shape) < 0.2] = np.nan
    offsets[:5, :4] = np.inf
    before = offsets.copy()
    known, missing = np.argwhere(np.isfinite(offsets)), np.argwhere(~np.isfinite(offsets))
    found = patch_holes(offsets)
    np.testing.assert_array_equal(offsets, before)
    np.testing.assert_array_equal(found[np.isfinite(offsets)], offsets[np.isfinite(offsets)])
    linear, nearest = (griddata(known, offsets[tuple(known.T)], missing, kind) for kind in ("linear", "nearest"))
    assert np.isnan(linear).sum() > 5
    np.testing.assert_array_equal(found[tuple(missing.T)], np.where(np.isnan(linear), nearest, linear))


def test_text_maps_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("1\t2\n3\t4\n")
    (tmp_path / "b.txt").write_text("1.000000\t2.500000\n")
    assert read_map(tmp_path / "a.txt").tolist() == [[1, 2], [3, 4]]
    assert read_map(str(tmp_path / "b.txt")).tolist() == [[1, 2.5]]


def test_mistakes(tmp_path):
    with pytest.raises(ConfigError, match="unknown keyword 'name'; known are img_name"):
        process_image(np.ones((2, 3, 4)), 1, name="a.tif")
    with pytest.raises(VolumeError, match=r"shape \(2, 3\); give a stack"):
        process_image(np.ones((2, 3)), 1)
    with pytest.raises(VolumeError, match=r"shape \(2, 3\); give a stack"):
        calculate_offset_map(np.ones((2, 3)))
    with pytest.raises(ConfigError, match="give img_shape"):
        remove_isolated_clusters([[0, 1]], [3, 4], 1, img_name=tmp_path / "a.tif")
    with pytest.raises(ConfigError, match="conns: a node number is not among the 2 nodes"):
        remove_isolated_clusters([[0, 2]], [3, 4], 1)
    with pytest.raises(ConfigError, match="do not fit together"):
        save_cluster_image([0], [0], [1, 2], [3], (2, 3, 4), tmp_path / "a.tif")
    with pytest.raises(ConfigError, match="not among the groups"):
        save_cluster_image([5], [0], [1], [3], (2, 3, 4), tmp_path / "a.tif")
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(OutputError, match=r"a\.tif"):
        process_image(np.ones((2, 3, 4)), 1, img_name=tmp_path / "a.tif")


def test_every_name_is_there():
    assert all(callable(getattr(apmapflow, name)) for name in apmapflow.__all__)


@pytest.mark.parametrize("wrong", [None, "1", 1.5, True])
def test_numbers_of_clusters_that_are_none(wrong):
    with pytest.raises(ConfigError, match="give a whole number, 0 for all clusters"):
        process_image(np.ones((2, 3, 4)), wrong)
    with pytest.raises(ConfigError, match="num_to_keep is"):
        remove_isolated_clusters([[0, 1]], [0, 1], wrong)


def test_an_image_of_clusters_is_replaced(tmp_path):
    for image in (np.ones((2, 3, 4)), np.zeros((2, 3, 4))):
        process_image(image, np.int64(1), img_name=tmp_path / "c.tif")
    assert (tifffile.imread(tmp_path / "c.tif") == 0).all()
    with pytest.raises(OutputError, match="is a TIFF file"):
        process_image(np.ones((2, 3, 4)), 1, img_name=tmp_path / "c.npy")
    for place in (-1, 8):
        with pytest.raises(ConfigError, match="do not lie in an image of"):
            save_cluster_image([0, 0], [0], [2], [0, place], (2, 2, 2), tmp_path / "d.tif")


def test_a_map_that_is_not_patched():
    with pytest.raises(ValueError, match=r"patch it first \(patch_holes\)"):
        filter_high_gradients([[1.0, np.nan]])
