"""Clusters of whole volumes, whatever the blocks, against SciPy."""

from concurrent.futures import ThreadPoolExecutor

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytolith.axes import full_region
from cytolith.engine.executors import ProcessPool, SerialPool, ThreadPool
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError, VolumeError
from cytolith.fracture import labelling
from cytolith.fracture.clusters import by_size, cluster_table, keep_largest, label_clusters, make_passes, table_columns
from cytolith.fracture.graph import (
    generate_index_map,
    generate_node_connectivity_array,
    remove_isolated_clusters,
)
from cytolith.fracture.labelling import Labelling, label_slab
from cytolith.fracture.source import Source
from cytolith.io.volume import open_volume

STRUCTURE = {
    6: ndimage.generate_binary_structure(3, 1),
    18: ndimage.generate_binary_structure(3, 2),
    26: np.ones((3,) * 3),
}


def oracle(mask, connectivity=26):
    """Labels by SciPy, renumbered by size, then by first voxel."""
    labels, n = ndimage.label(mask, STRUCTURE[connectivity])
    size = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    order = np.argsort(-size, kind="stable")
    ids = np.zeros(n + 1, np.int32)
    ids[order + 1] = np.arange(1, n + 1)
    return ids[labels], size[order]


def assert_table(table, labels):
    n = labels.max()
    assert table["id"].tolist() == list(range(1, n + 1))
    assert table["size"].tolist() == np.bincount(labels.ravel(), minlength=n + 1)[1:].tolist()
    boxes = [[*(s.start for s in b), *(s.stop for s in b)] for b in ndimage.find_objects(labels)]
    assert table["box"].tolist() == boxes
    centroid = ndimage.center_of_mass(np.ones(labels.shape), labels, np.arange(1, n + 1))
    np.testing.assert_allclose(table["centroid"], np.reshape(centroid, (n, 3)), rtol=1e-12)


@st.composite
def masks(draw):
    shape = draw(st.tuples(*[st.integers(1, 11)] * 3))
    share = draw(st.sampled_from([0, 0.02, 0.1, 0.3, 0.6, 1]))
    return np.random.default_rng(draw(st.integers(0, 2**31))).random(shape) < share


@settings(max_examples=150)
@given(
    masks(), st.sampled_from([6, 18, 26]), st.integers(1, 11), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9)
)
def test_any_plan_gives_the_labels_of_the_whole(mask, connectivity, planes, slab_planes, workers, fold_at):
    expected, _ = oracle(mask, connectivity)
    passes = make_passes(mask, connectivity, None, False, ThreadPool(workers), planes=planes)
    object.__setattr__(passes.slabs.cut, "slab_planes", slab_planes)
    with passes.pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelling, "_FOLD_AT", fold_at)
        clusters = passes.find()
        table = cluster_table(clusters, by_size(clusters))
        of_slabs = np.concatenate([clusters.of_slab(k) for k in range(len(passes._voxels))])
        assert set(of_slabs.tolist()) == set(range(len(clusters.size)))
    assert_table(table, expected)
    one, labels = label_clusters(mask, connectivity=connectivity, labels=True)
    for name, column in table.items():
        assert column.tobytes() == one[name].tobytes()
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("share", [0.03, 0.1, 0.4])
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_cc3d_and_the_graph_of_voxels_agree(share, connectivity):
    mask = np.random.default_rng(7).random((21, 33, 27)) < share
    table, labels = label_clusters(mask, connectivity=connectivity, labels=True)
    other = cc3d.connected_components(mask, connectivity=connectivity)
    pairs = np.unique(np.stack([labels.ravel(), other.ravel()]), axis=1)
    assert len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1])) == len(table["id"]) + 1
    if connectivity == 26:
        places = np.flatnonzero(mask)
        nodes = generate_index_map(places, mask.shape)
        kept = remove_isolated_clusters(generate_node_connectivity_array(nodes, mask), places, 3)
        np.testing.assert_array_equal(kept, np.flatnonzero(keep_largest(mask, 3)))


@given(masks(), st.integers(1, 5))
def test_keep_largest(mask, n):
    labels, _ = oracle(mask)
    np.testing.assert_array_equal(keep_largest(mask, n), np.where((labels > 0) & (labels <= n), 255, 0))


def test_ties_go_to_the_cluster_that_comes_first():
    mask = np.zeros((3, 5, 7), np.uint8)
    mask[2, 0, 0] = mask[0, 4, 6] = mask[1, 2, 3] = 1  # none touches another
    for n, kept in ((1, [(0, 4, 6)]), (2, [(0, 4, 6), (1, 2, 3)])):
        assert np.argwhere(keep_largest(mask, n)).tolist() == [list(voxel) for voxel in kept]


def test_a_spiral_through_every_slab_is_one_cluster():
    mask = np.zeros((9, 9, 11), np.uint8)
    mask[:, 0, 0] = mask[8, :, 0] = mask[:, 8, 0] = mask[0, 8, :] = mask[:, 8, 10] = mask[8, 4:, 10] = 1
    mask[:, 4, 10] = 1
    mask[4, 4, 5] = 1
    spiral = Labelling()
    for z in range(9):
        spiral.add(label_slab(mask[z : z + 1], z))
    clusters = spiral.finish()
    assert clusters.size.tolist() == [int(mask.sum()) - 1, 1]
    assert clusters.box.tolist() == [[0, 0, 0, 9, 9, 11], [4, 4, 5, 5, 5, 6]]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("threshold", [None, 0, 1, 2.5, 300])
def test_what_is_fracture(dtype, threshold):
    signed = np.dtype(dtype).kind in "if"
    values = np.array([[[0, 1, 5, 0, -3 if signed else 3, 0, 2]]]).astype(dtype)
    fracture = values != 0 if threshold is None else values > threshold
    for invert in (False, True):
        expected, _ = oracle(fracture != invert)
        _, labels = label_clusters(values, threshold=threshold, invert=invert, labels=True)
        np.testing.assert_array_equal(labels, expected)


def test_not_a_number_names_the_plane():
    values = np.zeros((5, 4, 3), np.float32)
    values[3, 2, 1] = np.nan
    with pytest.raises(VolumeError, match=r"plane 3 .* y 2, x 1"):
        label_clusters(values, workers=1)


def test_labels_and_kept_volumes_on_disk(tmp_path, monkeypatch):
    mask = np.random.default_rng(3).random((7, 8, 9)) < 0.1
    labels, _ = oracle(mask)
    table, path = label_clusters(mask, labels=tmp_path / "labels.npy")
    np.testing.assert_array_equal(np.load(path), labels)
    assert len(table["id"]) == labels.max()
    path = keep_largest(open_volume(mask, (3, 2, 1)), 2, output=tmp_path / "kept.zarr")
    kept = open_volume(path)
    assert kept.voxel_size == (3, 2, 1)
    np.testing.assert_array_equal(kept.read((slice(0, 7), slice(0, 8), slice(0, 9))), np.isin(labels, (1, 2)) * 255)
    with monkeypatch.context() as patch:
        patch.setattr(Source, "read", lambda *_: pytest.fail("the volume was read"))
        for wrong, message in ((path, "exists already; remove it"), (tmp_path / "a.foo", "one of these endings")):
            with pytest.raises(OutputError, match=message):
                keep_largest(mask, output=wrong)
            with pytest.raises(OutputError, match=message):
                label_clusters(mask, labels=wrong)
    assert sorted(left.name for left in tmp_path.iterdir()) == ["kept.zarr", "labels.npy"]


def test_wrong_parameters():
    mask = np.ones((2, 2, 2), np.uint8)
    for n in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match=f"n {n}: give a whole number"):
            keep_largest(mask, n)
    with pytest.raises(ConfigError, match="connectivity 8"):
        label_clusters(mask, connectivity=8)
    with pytest.raises(ConfigError, match="--workers 0"):
        label_clusters(mask, workers=0)
    with pytest.raises(ConfigError, match="planes 0"):
        make_passes(mask, 26, None, False, SerialPool(), planes=0)
    for threshold in (np.nan, np.inf):
        with pytest.raises(ConfigError, match="--threshold"):
            label_clusters(mask, threshold=threshold, invert=True)


def test_more_clusters_than_memory_holds_is_refused_with_an_estimate():
    mask = np.zeros((60, 128, 128), np.uint8)
    mask[::2, ::2, ::2] = 1
    passes = make_passes(mask, 26, None, False, SerialPool(), planes=6)
    object.__setattr__(passes.slabs, "room", 10_000_000)
    with passes.pool, pytest.raises(MemoryBudgetError, match=r"about 122,880 in all would need .* --memory"):
        passes.find()
    object.__setattr__(passes.slabs, "room", 2**40)
    object.__setattr__(passes.slabs, "most_parts", 10_000)
    with passes.pool, pytest.raises(MemoryBudgetError, match=r"planes 0 to 5 have 12,288 clusters"):
        passes.find()
    object.__setattr__(passes.slabs, "most_runs", 1000)
    with passes.pool, pytest.raises(MemoryBudgetError, match=r"planes 0 to \d+ have 12,288 runs"):
        passes.find()
    with pytest.raises(
        MemoryBudgetError, match=r"does not hold a plane of 128 x 128 voxels: give at least --memory \d+MiB"
    ):
        label_clusters(mask, memory=1000)


def test_other_processes_give_the_same(tmp_path):
    mask = (np.random.default_rng(5).random((12, 9, 11)) < 0.2).astype(np.uint8)
    np.save(tmp_path / "mask.npy", mask)
    expected, size = oracle(mask)
    with ProcessPool(2) as pool:
        table, labels = label_clusters(tmp_path / "mask.npy", labels=True, executor=pool)
        assert table["size"].tolist() == size.tolist()
        np.testing.assert_array_equal(labels, expected)
        label_clusters(tmp_path / "mask.npy", labels=tmp_path / "labels.zarr", executor=pool)
        np.testing.assert_array_equal(open_volume(tmp_path / "labels.zarr").read(full_region(mask.shape)), expected)
        np.testing.assert_array_equal(
            keep_largest(tmp_path / "mask.npy", 2, executor=pool) > 0, np.isin(expected, (1, 2))
        )
        with pytest.raises(
            ConfigError,
            match=r'numpy array: an open array is not sent .* the path of a file, or executor="threads"',
        ):
            label_clusters(mask, executor=pool)
    with ThreadPoolExecutor(2) as executor:
        np.testing.assert_array_equal(label_clusters(mask, labels=True, executor=executor)[1], expected)
        executor.submit(int).result()  # it is the caller's to shut down
    with pytest.raises(ConfigError, match="--executor gpu: give threads, processes, serial"):
        label_clusters(mask, executor="gpu")


def test_columns_of_the_table():
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[:, 1, 2] = 1
    mask[2, 3, :] = 1
    mask[0, 3, 4] = 1
    columns = table_columns(label_clusters(mask), mask.shape, (10, 2, 1), kept=1)
    assert {name: column.tolist() for name, column in columns.items()} == {
        "id": [1, 2, 3],
        "voxels": [5, 3, 1],
        "share": [5 / 9, 3 / 9, 1 / 9],
        "kept": [True, False, False],
        "z0": [2, 0, 0], "y0": [3, 1, 3], "x0": [0, 2, 4],
        "z1": [3, 3, 1], "y1": [4, 2, 4], "x1": [5, 3, 5],
        "z": [2, 1, 0], "y": [3, 1, 3], "x": [2, 2, 4],
        "z_um": [20, 10, 0], "y_um": [6, 2, 6], "x_um": [2, 2, 4],
        "spans_z": [False, True, False], "spans_y": [False] * 3, "spans_x": [True, False, False],
    }  # fmt: skip
