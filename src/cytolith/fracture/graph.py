"""The voxels of a fracture as an undirected graph, for those who build flow networks from it.

Names and arguments are those of apmapflow's ``apm_process_image_stack``. The order of axes is (z, y, x), as everywhere
here; apmapflow's was (x, y, z), so its node numbers differ, its graph does not. For clusters alone, streaming through
a volume of any size, use :func:`cytolith.fracture.clusters.label_clusters`: a graph costs some 400 bytes a fracture
voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

from cytolith.errors import ConfigError
from cytolith.kernels.voxel_graph import as_pairs, component_of_nodes, link_voxels


def generate_index_map(nonzero_locs: ArrayLike, shape: Sequence[int]) -> NDArray[np.int64]:
    """Indices (z, y, x) of voxels that are given by their place in the flattened volume.

    Parameters
    ----------
    nonzero_locs : array_like of int, shape (n,)
        Place of each fracture voxel in the volume flattened in C order: ``np.flatnonzero(volume)``. Voxel number i of
        this list is node i of the graph.
    shape : sequence of int
        Extent (Z, Y, X) of the volume.

    Returns
    -------
    ndarray of shape (n, 3), int64
        Indices (z, y, x), one row a node.

    Raises
    ------
    ConfigError
        A shape that is not three extents, places that are no whole numbers or lie outside of the volume.

    Notes
    -----
    apmapflow returned a table of the size of the volume; this one is of the size of the fracture, and places beyond
    2**31 are right.

    Examples
    --------
    >>> generate_index_map([0, 5, 23], (2, 3, 4)).tolist()
    [[0, 0, 0], [0, 1, 1], [1, 2, 3]]
    """
    locs = _locations(nonzero_locs)
    extents = _extents(shape)
    if locs.size and (locs.min() < 0 or locs.max() >= math.prod(extents)):
        raise ConfigError(f"nonzero_locs: a place lies outside of a volume of {extents}; give np.flatnonzero(volume)")
    index_map = np.empty((len(locs), 3), np.int64)
    index_map[:, 0], index_map[:, 1], index_map[:, 2] = np.unravel_index(locs, extents)
    return index_map


def generate_node_connectivity_array(index_map: ArrayLike, data_array: ArrayLike) -> NDArray[Any]:
    """Pairs of nodes whose voxels share a face, an edge or a corner.

    Parameters
    ----------
    index_map : array_like of int, shape (n, 3)
        Indices (z, y, x) of the nodes in raster order, as :func:`generate_index_map` gives them.
    data_array : array_like of shape (Z, Y, X)
        The volume. Every node must be non-zero in it; voxels that are no node have no links.

    Returns
    -------
    ndarray of shape (m, 2)
        Node numbers (i, j), i < j, every pair once, sorted by (i, j). int32, or int64 from 2**31 nodes on.

    Raises
    ------
    ConfigError
        Nodes that are not in raster order, outside of the volume, or zero in it.

    Examples
    --------
    >>> volume = np.array([[[1, 0, 0], [0, 1, 1]]])
    >>> index_map = generate_index_map(np.flatnonzero(volume), volume.shape)
    >>> generate_node_connectivity_array(index_map, volume).tolist()
    [[0, 1], [1, 2]]
    """
    data, nodes = np.asarray(data_array), np.asarray(index_map)
    try:
        pairs = link_voxels(nodes, _extents(data.shape))
    except ValueError as error:
        raise ConfigError(f"index_map: {error}") from error
    if len(nodes) and not np.all(data[nodes[:, 0], nodes[:, 1], nodes[:, 2]]):
        raise ConfigError("index_map: a node is zero in data_array; give the volume that the nodes were taken from")
    return pairs


def generate_adjacency_matrix(conns: ArrayLike, nonzero_locs: ArrayLike) -> csr_array[np.uint8]:
    """Adjacency matrix of the graph.

    Parameters
    ----------
    conns : array_like of int, shape (m, 2)
        Pairs of node numbers, every pair once, as :func:`generate_node_connectivity_array` gives them.
    nonzero_locs : array_like of int, shape (n,)
        Places of the nodes; their number is the size of the matrix.

    Returns
    -------
    csr_array of shape (n, n), uint8
        Symmetric, one where two nodes are linked, nothing on the diagonal. Turn it into float before giving weights.

    Raises
    ------
    ConfigError
        Pairs that are no node numbers.

    Examples
    --------
    >>> generate_adjacency_matrix([[0, 1], [1, 2]], [0, 4, 5]).toarray().tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    n = len(_locations(nonzero_locs))
    pairs = _pairs(conns, n)
    upper = coo_array((np.ones(len(pairs), np.uint8), (pairs[:, 0], pairs[:, 1])), shape=(n, n)).tocsr()
    return csr_array(upper + upper.T)


def remove_isolated_clusters(conns: ArrayLike, nonzero_locs: ArrayLike, num_to_keep: int) -> NDArray[np.int64]:
    """Places of the voxels in the largest clusters.

    Parameters
    ----------
    conns : array_like of int, shape (m, 2)
        Pairs of node numbers, as :func:`generate_node_connectivity_array` gives them.
    nonzero_locs : array_like of int, shape (n,)
        Place of each node in the flattened volume.
    num_to_keep : int
        Clusters to keep, from 1. All are kept when there are no more.

    Returns
    -------
    ndarray of int64
        Places from `nonzero_locs`, in its order, of the `num_to_keep` clusters with the most voxels. Of clusters of
        one size, those whose first node comes first.

    Raises
    ------
    ConfigError
        `num_to_keep` is below 1, or pairs that are no node numbers.

    Notes
    -----
    In apmapflow 0 switched the step off, a negative number removed that many of the smallest, and equal sizes fell by
    accident.

    Examples
    --------
    >>> remove_isolated_clusters([[0, 2]], [1, 8, 9], 1).tolist()
    [1, 9]
    """
    if num_to_keep < 1:
        raise ConfigError(f"num_to_keep {num_to_keep}: give a whole number from 1, how many clusters to keep")
    locs = _locations(nonzero_locs)
    cluster, n_clusters = component_of_nodes(_pairs(conns, len(locs)), len(locs))
    sizes = np.bincount(cluster, minlength=n_clusters)
    kept = np.zeros(n_clusters, bool)
    kept[np.argsort(-sizes, kind="stable")[:num_to_keep]] = True  # clusters are numbered by their first node
    return locs[kept[cluster]]


def _pairs(conns: ArrayLike, n: int) -> NDArray[Any]:
    try:
        return as_pairs(conns, n)
    except ValueError as error:
        raise ConfigError(f"conns: {error}; give the pairs made from these voxels") from error


def _locations(nonzero_locs: ArrayLike) -> NDArray[np.int64]:
    locs = np.asarray(nonzero_locs)
    if locs.ndim != 1 or (locs.size and locs.dtype.kind not in "iu"):
        raise ConfigError(
            f"nonzero_locs: {locs.dtype} of shape {locs.shape} given; give whole numbers, np.flatnonzero(volume)"
        )
    return locs.astype(np.int64, copy=False)


def _extents(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or any(n < 0 for n in shape):
        raise ConfigError(f"shape {tuple(shape)}: give the three extents of an image")
    z, y, x = (int(n) for n in shape)
    return z, y, x
