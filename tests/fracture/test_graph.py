import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, sparse

from cytolith.errors import ConfigError
from cytolith.fracture.graph import (
    generate_adjacency_matrix,
    generate_index_map,
    generate_node_connectivity_array,
    remove_isolated_clusters,
)
from cytolith.kernels.voxel_graph import component_of_nodes, link_voxels

FULL = np.ones((3, 3, 3))

volumes = st.builds(
    lambda shape, seed, share: np.random.default_rng(seed).random(shape) < share,
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7)),
    st.integers(0, 2**32),
    st.sampled_from([0.1, 0.3, 0.8, 1]),
)


def graph(volume):
    locs = np.flatnonzero(volume)
    index_map = generate_index_map(locs, volume.shape)
    return locs, index_map, generate_node_connectivity_array(index_map, volume)


def largest(volume, count):
    """Places of the `count` largest clusters; SciPy numbers them by their first voxel."""
    labels, n = ndimage.label(volume, FULL)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    kept = sorted(range(n), key=lambda k: (-sizes[k], k))[:count]
    return np.flatnonzero(np.isin(labels, np.array(kept, int) + 1))


@settings(max_examples=80)
@given(volumes)
def test_pairs_are_all_neighbours_once_and_in_order(volume):
    locs, index_map, conns = graph(volume)
    np.testing.assert_array_equal(index_map, np.argwhere(volume))
    near = [
        (i, j)
        for (i, p), (j, q) in itertools.combinations(enumerate(np.argwhere(volume)), 2)
        if np.abs(p - q).max() == 1
    ]
    np.testing.assert_array_equal(conns, np.array(near, int).reshape(-1, 2))
    assert index_map.shape == (len(locs), 3)
    assert conns.shape == (len(near), 2)
    assert conns.dtype == np.int32


@settings(max_examples=60)
@given(volumes, st.integers(1, 4))
def test_clusters_are_those_of_labelling(volume, count):
    locs, _, conns = graph(volume)
    np.testing.assert_array_equal(remove_isolated_clusters(conns, locs, count), largest(volume, count))


def test_clusters_of_a_larger_volume():
    volume = np.random.default_rng(3).random((40, 50, 60)) < 0.04
    locs, _, conns = graph(volume)
    for count in (1, 7, 10**9):
        np.testing.assert_array_equal(remove_isolated_clusters(conns, locs, count), largest(volume, count))


def test_of_equal_clusters_the_first_stay():
    volume = np.zeros((5, 7, 9), bool)
    volume[::2, ::2, ::2] = True
    volume[0, 1, 8] = True
    locs, _, conns = graph(volume)
    kept = remove_isolated_clusters(conns[::-1], locs, 4)  # the order of the pairs says nothing
    np.testing.assert_array_equal(kept, np.sort([0, 2, 4, 8, 17, 26]))


def test_places_may_come_in_another_order():
    kept = remove_isolated_clusters([[1, 3]], [9, 7, 4, 2], 2)
    assert kept.tolist() == [9, 7, 2]


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(0, 50), st.integers(0, 2**32))
def test_components_of_any_graph(n, m, seed):
    pairs = np.random.default_rng(seed).integers(0, n, (m, 2))
    matrix = sparse.coo_array((np.ones(m), pairs.T), shape=(n, n))
    count, expected = sparse.csgraph.connected_components(matrix, directed=False)
    component, found = component_of_nodes(pairs, n)
    assert found == count
    firsts = [np.flatnonzero(component == k)[0] for k in range(found)]
    assert firsts == sorted(firsts)
    same = expected[:, None] == expected[None]
    np.testing.assert_array_equal(component[:, None] == component[None], same)


@settings(max_examples=30)
@given(volumes)
def test_adjacency_matrix(volume):
    locs, _, conns = graph(volume)
    matrix = generate_adjacency_matrix(conns, locs)
    expected = np.zeros((len(locs), len(locs)))
    for i, j in conns:
        expected[i, j] = expected[j, i] = 1
    assert matrix.format == "csr"
    assert matrix.nnz == 2 * len(conns)
    np.testing.assert_array_equal(matrix.toarray(), expected)


def test_an_empty_volume_has_an_empty_graph():
    locs, index_map, conns = graph(np.zeros((3, 4, 5)))
    assert index_map.shape == (0, 3)
    assert conns.shape == (0, 2)
    assert generate_adjacency_matrix(conns, locs).shape == (0, 0)
    assert remove_isolated_clusters(conns, locs, 1).shape == (0,)


def test_voxels_without_neighbours():
    locs, _, conns = graph(np.eye(1, 30).reshape(2, 3, 5))
    assert conns.shape == (0, 2)
    assert remove_isolated_clusters(conns, locs, 1).tolist() == [0]


def test_nodes_may_be_a_part_of_the_fracture():
    volume = np.ones((2, 3, 4))
    index_map = generate_index_map([0, 2, 3, 23], volume.shape)
    assert generate_node_connectivity_array(index_map, volume).tolist() == [[1, 2]]


def test_places_beyond_32_bits():
    shape = (3000, 2000, 70_000)
    voxels = np.array([[0, 0, 69_999], [2999, 1998, 69_998], [2999, 1999, 69_997], [2999, 1999, 69_999]])
    locs = np.ravel_multi_index(tuple(voxels.T), shape)
    assert locs[-1] == np.prod(shape, dtype=np.int64) - 1 > 2**32
    index_map = generate_index_map(locs, shape)
    np.testing.assert_array_equal(index_map, voxels)
    assert link_voxels(index_map, shape).tolist() == [[1, 2], [1, 3]]


def test_unsigned_indices_do_not_wrap():
    voxels = np.array([[0, 0, 0], [1, 0, 0], [200, 100, 50]], np.uint8)
    assert link_voxels(voxels, (201, 101, 51)).tolist() == [[0, 1]]


@pytest.mark.parametrize("count", [0, -2])
def test_fewer_than_one_cluster_is_refused(count):
    with pytest.raises(ConfigError, match=f"num_to_keep {count}: give"):
        remove_isolated_clusters(np.empty((0, 2), int), [1], count)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: generate_index_map([0, 60], (3, 4, 5)), "nonzero_locs.*outside"),
        (lambda: generate_index_map([-1], (3, 4, 5)), "nonzero_locs.*outside"),
        (lambda: generate_index_map([0.5], (3, 4, 5)), "nonzero_locs.*whole numbers"),
        (lambda: generate_index_map([[1]], (3, 4, 5)), "nonzero_locs.*whole numbers"),
        (lambda: generate_index_map([1], (3, 4)), "shape"),
        (lambda: generate_node_connectivity_array([[0, 0, 1], [0, 0, 0]], np.ones((1, 2, 3))), "raster order"),
        (lambda: generate_node_connectivity_array([[0, 0, 1], [0, 0, 1]], np.ones((1, 2, 3))), "raster order"),
        (lambda: generate_node_connectivity_array([[0, 2, 0]], np.ones((1, 2, 3))), "outside .* along y"),
        (lambda: generate_node_connectivity_array([[0, 0, 0]], np.zeros((1, 2, 3))), "zero in data_array"),
        (lambda: generate_node_connectivity_array([0, 1], np.ones((1, 2, 3))), r"\(n, 3\)"),
        (lambda: generate_node_connectivity_array([[0.0, 1, 2]], np.ones((1, 2, 3))), "whole numbers"),
        (lambda: generate_node_connectivity_array([[0, 0, 0]], np.ones((1, 2))), "shape"),
        (lambda: generate_adjacency_matrix([[0, 2]], [5, 6]), "conns.*2 nodes"),
        (lambda: generate_adjacency_matrix([0, 1], [5, 6]), "conns"),
        (lambda: remove_isolated_clusters([[0, -1]], [5, 6], 1), "conns.*2 nodes"),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    with pytest.raises(ConfigError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
