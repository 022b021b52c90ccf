"""apmapflow's ``apm_process_image_stack``: its functions with their names and arguments, and its command.

Arrays are (x, y, z): image column, image row (the opening axis) and page. A script changes one import::

    from cytolith.compat.apmapflow import process_image

Files and numbers are apmapflow's, its limits are not: stacks are worked on at any size, an axis may be longer than
32,768 voxels, images that are empty, thin or solid have results, and of clusters of one size the first are kept.
`cytolith.run_fracture` is the same without the original's habits: an offset is the index of a voxel there (here one
more), 16 clusters are coloured (here 15), and holes are patched without triangulating the whole map.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.axes import Shape
from cytolith.compat.apmapflow_command import main
from cytolith.compat.apmapflow_maps import calculate_offset_map, filter_high_gradients, patch_holes
from cytolith.compat.apmapflow_run import colours_of, kept_count
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.fracture.clusters import label_clusters
from cytolith.fracture.graph import (
    generate_adjacency_matrix,
    generate_index_map,
    generate_node_connectivity_array,
)
from cytolith.io.map_files import read_map_text
from cytolith.io.sink import create_sink
from cytolith.kernels.voxel_graph import component_of_nodes

__all__ = [
    "calculate_offset_map",
    "filter_high_gradients",
    "generate_adjacency_matrix",
    "generate_index_map",
    "generate_node_connectivity_array",
    "main",
    "patch_holes",
    "process_image",
    "read_map",
    "remove_isolated_clusters",
    "save_cluster_image",
]


def process_image(img_data: ArrayLike, num_clusters: int, **kwargs: Any) -> NDArray[np.bool_]:
    """Image in which only the largest connected clusters are left.

    Parameters
    ----------
    img_data : array_like, shape (X, Y, Z)
        Fracture where it is not 0. Not changed.
    num_clusters : int
        Clusters to keep, the largest first; 0 keeps all, a number below 0 all but so many of the smallest.
    **kwargs
        ``img_name``: path of a TIFF file that the image of clusters is written to, as :func:`save_cluster_image` does.

    Returns
    -------
    ndarray of shape (X, Y, Z), bool
        True in the clusters that are kept. Voxels that share a face, an edge or a corner are connected. Of clusters of
        one size, those whose first voxels come first in (z, y, x).

    Raises
    ------
    VolumeError, ConfigError, OutputError
        An image that is not three-dimensional, a number that is none, a keyword that is not known, a file that cannot
        be written.

    Examples
    --------
    >>> process_image([[[1, 1, 0, 1]]], 1)
    array([[[ True,  True, False, False]]])
    """
    img_name = _keywords("process_image", kwargs, img_name=None)["img_name"]
    num_clusters = _whole("num_clusters", num_clusters)
    image = np.asarray(img_data)
    if image.ndim != 3 or image.size == 0:
        raise VolumeError(f"img_data has shape {image.shape}; give a stack (x, y, z) with voxels in it")
    fracture = (image != 0).T  # labels count from 1 in the order of size
    table, labels = label_clusters(fracture, labels=True)
    total = len(table["id"])
    if img_name is not None:
        _write_tiff(img_name, np.concatenate([[np.uint8(0)], colours_of(np.arange(total))])[labels])
    kept = (labels > 0) & (labels <= kept_count(total, num_clusters))
    return np.ascontiguousarray(kept.T)


def remove_isolated_clusters(
    conns: ArrayLike, nonzero_locs: ArrayLike, num_to_keep: int, **kwargs: Any
) -> NDArray[np.int64]:
    """Places of the voxels in the largest clusters.

    Parameters
    ----------
    conns : array_like of int, shape (m, 2)
        Pairs of node numbers, as :func:`generate_node_connectivity_array` gives them.
    nonzero_locs : array_like of int, shape (n,)
        Place of each node in the image flattened in C order: ``np.flatnonzero(img_data)``.
    num_to_keep : int
        Clusters to keep, the largest first; 0 keeps all, a number below 0 all but so many of the smallest.
    **kwargs
        ``img_shape`` and ``img_name``: extent (X, Y, Z) of the image, and path of a TIFF file that the image of
        clusters is written to, as :func:`save_cluster_image` does.

    Returns
    -------
    ndarray of int64
        Places from `nonzero_locs`, in its order. Of clusters of one size, those whose first nodes come first are kept.

    Raises
    ------
    ConfigError, OutputError
        Pairs that are no node numbers, a number that is none, a keyword that is not known, places outside the image, a
        file that cannot be written.

    Examples
    --------
    >>> remove_isolated_clusters([[0, 2]], [1, 8, 9], 1).tolist()
    [1, 9]
    """
    given = _keywords("remove_isolated_clusters", kwargs, img_shape=None, img_name=None)
    num_to_keep = _whole("num_to_keep", num_to_keep)
    locs = np.asarray(nonzero_locs)
    try:
        cs_ids, total = component_of_nodes(conns, len(locs))
    except ValueError as error:
        raise ConfigError(f"conns: {error}; give the pairs made from these voxels") from error
    groups, counts = np.arange(total), np.bincount(cs_ids, minlength=total)
    if given["img_name"] is not None:
        if given["img_shape"] is None:
            raise ConfigError("img_name: the image of clusters needs its extent too; give img_shape=(X, Y, Z)")
        save_cluster_image(cs_ids, groups, counts, locs, given["img_shape"], given["img_name"])
    order = np.argsort(-counts, kind="stable")[: kept_count(total, num_to_keep)]
    return locs[np.isin(cs_ids, order)].astype(np.int64, copy=False)


def save_cluster_image(
    cs_ids: ArrayLike,
    groups: ArrayLike,
    counts: ArrayLike,
    locs: ArrayLike,
    img_shape: Sequence[int],
    img_name: str | PathLike[str],
) -> None:
    """Save an 8-bit image in which each of the largest clusters has a value of its own.

    Parameters
    ----------
    cs_ids : array_like of int, shape (n,)
        Cluster of each voxel.
    groups, counts : array_like of int, shape (k,)
        Clusters and their numbers of voxels, in any order; of those of one size the one that comes first is the larger.
    locs : array_like of int, shape (n,)
        Place of each voxel in the image flattened in C order.
    img_shape : sequence of int
        Extent (X, Y, Z) of the image.
    img_name : path
        TIFF file to write: a page a z, rows y. 0 is rock; the largest clusters, 15 or one fewer than there are, have
        67, 75, ... 179, all others 255.

    Raises
    ------
    ConfigError
        Arrays that do not fit together.
    OutputError
        The file has no ending of a TIFF file, or cannot be written. One that is there is replaced.
    """
    ids, names, sizes, places = (np.asarray(each) for each in (cs_ids, groups, counts, locs))
    shape = tuple(int(extent) for extent in img_shape)
    if len(shape) != 3 or ids.shape != places.shape or names.shape != sizes.shape:
        raise ConfigError(
            f"save_cluster_image: {ids.size} clusters of {places.size} voxels, {names.size} groups with {sizes.size} "
            f"counts and the shape {shape} do not fit together"
        )
    if places.size and not 0 <= places.min() <= places.max() < math.prod(shape):
        raise ConfigError(
            f"save_cluster_image: places from {places.min()} to {places.max()} do not lie in an image of {shape} voxels"
        )
    order = np.argsort(-sizes.astype(np.int64), kind="stable")
    by_name = np.argsort(names)
    found = np.searchsorted(names[by_name], ids).clip(max=max(names.size - 1, 0))
    if ids.size and (not names.size or np.any(names[by_name][found] != ids)):
        raise ConfigError("save_cluster_image: a voxel is in a cluster that is not among the groups")
    image = np.zeros(shape, np.uint8)
    if ids.size:
        image.reshape(-1)[places] = colours_of(order)[by_name[found]]
    _write_tiff(img_name, np.ascontiguousarray(image.T))


def read_map(path: str | PathLike[str]) -> NDArray[Any]:
    """An aperture, offset or other map from a text file of apmapflow.

    Parameters
    ----------
    path : path
        A line a row, numbers between tabs or blanks.

    Returns
    -------
    ndarray of shape (Z, X)
        int64 where every cell is an integer, float64 otherwise; as stored, so offsets count from 1.

    Raises
    ------
    VolumeError
        The file cannot be read, or names the line that is wrong.
    """
    return read_map_text(Path(path))


def _keywords(function: str, given: dict[str, Any], **known: Any) -> dict[str, Any]:
    for name in given:
        if name not in known:
            raise ConfigError(f"{function}: unknown keyword {name!r}; known are {', '.join(known)}")
    return known | given


def _whole(name: str, given: Any) -> int:
    try:
        if isinstance(given, (bool, np.bool_)):
            raise TypeError
        return operator.index(given)
    except TypeError:
        raise ConfigError(f"{name} is {given!r}; give a whole number, 0 for all clusters") from None


def _write_tiff(path: str | PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write a stack (z, y, x)."""
    Z, Y, X = shape = _shape_of(image)
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{path}: the image of clusters is a TIFF file; give it the ending .tif")
    with create_sink(Path(path), shape, np.uint8, shape, overwrite=True) as sink:
        sink.write((slice(0, Z), slice(0, Y), slice(0, X)), image)


def _shape_of(image: NDArray[np.uint8]) -> Shape:
    z, y, x = image.shape
    return z, y, x


if __name__ == "__main__":
    sys.exit(main())
