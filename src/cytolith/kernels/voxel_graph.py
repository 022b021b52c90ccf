"""The graph of neighbouring voxels in a sparse set, and its connected components, in linear time and memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.axes import Shape
from cytolith.kernels.jit import jit


def link_voxels(voxels: ArrayLike, shape: Shape) -> NDArray[Any]:
    """Pairs of voxels that share a face, an edge or a corner.

    Parameters
    ----------
    voxels : array_like of int, shape (n, 3)
        Indices (z, y, x) in raster order (C order of the volume), each voxel once. The row number is the voxel's
        number in the result.
    shape : tuple of int
        Extent (Z, Y, X) of the volume.

    Returns
    -------
    ndarray of shape (m, 2)
        Every pair once, the lower number first, sorted. int32 while there are fewer than 2**31 voxels, else int64.

    Raises
    ------
    ValueError
        Not three columns of whole numbers, a voxel outside of `shape`, or voxels that are not in raster order.

    Notes
    -----
    Each voxel looks at its 13 later neighbours. They lie in five stretches of three voxels, of which each moves on
    through the list as the voxel does: five places in a sorted list are all that is kept, with no image of numbers
    and no table of hashes. A first pass counts the pairs, a second writes them.

    Examples
    --------
    >>> link_voxels([[0, 0, 0], [0, 1, 1], [0, 1, 2]], (1, 2, 3)).tolist()
    [[0, 1], [1, 2]]
    """
    table = np.asarray(voxels)
    if table.ndim != 2 or table.shape[1] != 3:
        raise ValueError(f"voxels: an array of shape {table.shape} given, (n, 3) is needed")
    if table.size and table.dtype.kind not in "iu":
        raise ValueError(f"voxels: dtype {table.dtype} given, whole numbers are needed")
    Z, Y, X = (int(n) for n in shape)
    if math.prod((Z + 1, Y + 1, X + 1)) > np.iinfo(np.int64).max:
        raise ValueError(f"shape {tuple(shape)}: more voxels than 64 bits can count")
    places = np.empty(len(table), np.int64)
    for axis, extent in enumerate((Z, Y, X)):
        column = table[:, axis]
        if column.size and (column.min() < 0 or column.max() >= extent):
            raise ValueError(f"voxels: one lies outside of the volume {(Z, Y, X)} along {'zyx'[axis]}")
    # One empty row and column beside each plane: a neighbour beyond a face is a place where no voxel ever lies.
    row, plane = X + 1, (X + 1) * (Y + 1)
    np.multiply(table[:, 0], plane, out=places, casting="unsafe", dtype=np.int64)
    places += table[:, 1].astype(np.int64) * row
    places += table[:, 2].astype(np.int64)
    if np.any(places[1:] <= places[:-1]):
        raise ValueError("voxels: not in raster order, or one is there twice; sort by (z, y, x)")
    ahead = np.array([row, plane - row, plane, plane + row], np.int64)
    dtype = np.int32 if len(places) <= np.iinfo(np.int32).max else np.int64
    pairs = np.empty((_link(places, ahead, np.empty((0, 2), dtype)), 2), dtype)
    _link(places, ahead, pairs)
    return pairs


def component_of_nodes(pairs: ArrayLike, n: int) -> tuple[NDArray[np.int64], int]:
    """Connected component of each node of a graph.

    Parameters
    ----------
    pairs : array_like of int, shape (m, 2)
        Node numbers that are linked, in any order.
    n : int
        Number of nodes.

    Returns
    -------
    component : ndarray of shape (n,), int64
        Number of each node's component, from 0, in the order of the components' first nodes.
    count : int
        Number of components.

    Raises
    ------
    ValueError
        Not two columns of whole numbers, or a number that is no node.

    Notes
    -----
    Union-find with path halving; the lowest node is the root. ``scipy.sparse.csgraph.connected_components`` gives the
    same and takes a matrix of 64-bit floats and its transpose for it.

    Examples
    --------
    >>> component_of_nodes([[3, 1]], 4)
    (array([0, 1, 2, 1]), 3)
    """
    links = as_pairs(pairs, n)
    component = np.arange(n)
    return component, int(_connect(links, component))


def as_pairs(pairs: ArrayLike, n: int) -> NDArray[Any]:
    """Pairs of nodes (m, 2) as an array; ValueError when they are none, or a number is not among `n` nodes."""
    links = np.asarray(pairs)
    if links.ndim != 2 or links.shape[1] != 2 or (links.size and links.dtype.kind not in "iu"):
        raise ValueError(f"{links.dtype} of shape {links.shape} given, whole numbers of shape (m, 2) are needed")
    if links.size and (links.min() < 0 or links.max() >= n):
        raise ValueError(f"a node number is not among the {n} nodes")
    return links


@jit
def _link(places: NDArray[np.int64], ahead: NDArray[np.int64], pairs: NDArray[Any]) -> int:
    """Number of pairs; they are written when `pairs` has room for any."""
    n, write, found = places.size, pairs.size > 0, 0
    cursors = np.zeros(ahead.size, np.int64)
    for i in range(n):
        if i + 1 < n and places[i + 1] == places[i] + 1:
            if write:
                pairs[found, 0] = i
                pairs[found, 1] = i + 1
            found += 1
        for k in range(ahead.size):
            middle = places[i] + ahead[k]
            j = cursors[k]
            while j < n and places[j] < middle - 1:
                j += 1
            cursors[k] = j  # the next voxel's stretch begins no earlier
            while j < n and places[j] <= middle + 1:
                if write:
                    pairs[found, 0] = i
                    pairs[found, 1] = j
                found += 1
                j += 1
    return found


@jit
def _connect(pairs: NDArray[Any], parent: NDArray[np.int64]) -> int:
    """Turn `parent`, the nodes themselves, into the number of each node's component; returns how many there are."""
    for k in range(pairs.shape[0]):
        a, b = np.int64(pairs[k, 0]), np.int64(pairs[k, 1])
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    count = 0
    for node in range(parent.size):
        if parent[node] == node:
            parent[node] = count
            count += 1
        else:  # a parent comes earlier, so it already holds its number
            parent[node] = parent[parent[node]]
    return count
