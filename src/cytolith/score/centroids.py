"""Centres of what is drawn in a volume: labels, or the connected components of a mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region
from cytolith.errors import VolumeError
from cytolith.io.label_volume import LabelVolume, label_volume
from cytolith.kernels.clusters import Face, face_of, join_faces, measure_components, merge_components
from cytolith.kernels.components import connect_runs, mask_runs

_SLAB_BYTES = 64 * 2**20
_CONNECTIVITY = 26
_GREY = 0.2
"""Share of neighbours inside of something that differ, above which an image is one of grey values."""


def read_centroids(source: Any) -> NDArray[np.float64]:
    """Centroids (n, 3) z, y, x in voxels of the labels of a volume, or of the components of a mask.

    Parameters
    ----------
    source
        Anything that :func:`cytolith.open_volume` reads, of whole numbers. Where all voxels that are not 0 have one
        value, it is a mask: each 26-connected component is one. Otherwise each value is one, connected or not. Negative
        values are labels too.

    Returns
    -------
    float64 ndarray
        Sorted by label, or by the first voxel (z, y, x) of the component. Means of whole numbers: exact to the last bit
        of the division.

    Raises
    ------
    VolumeError
        No volume, one of grey values, or one with numbers that cannot be kept exactly.

    Notes
    -----
    A few planes are in memory at a time, and a few numbers for each label or component.
    """
    volume = label_volume(source)
    sums: NDArray[np.int64] = np.empty((0, 5), np.int64)  # label, voxels, z, y, x
    pairs = unequal = 0
    for region in _slabs(volume):
        labels = volume.read(region)
        both = (labels[:, :, 1:] != 0) & (labels[:, :, :-1] != 0)
        pairs += int(both.sum())
        unequal += int((both & (labels[:, :, 1:] != labels[:, :, :-1])).sum())
        sums = _added(sums, labels, region[0].start)
    if unequal > _GREY * pairs:
        raise VolumeError(
            f"{volume.name}: looks like grey values, neighbours differ; give labels (a number a cell) or a mask"
        )
    if len(sums) == 1:
        return _component_centroids(volume)
    return np.asarray(sums[:, 2:] / sums[:, 1:2])


def _slabs(volume: LabelVolume) -> Iterator[Region]:
    Z, Y, X = volume.shape
    planes = max(_SLAB_BYTES // (8 * Y * X), 1)
    if volume.chunks is not None and planes > volume.chunks[0]:
        planes -= planes % volume.chunks[0]
    for z in range(0, Z, planes):
        yield slice(z, min(z + planes, Z)), slice(0, Y), slice(0, X)


def _added(sums: NDArray[np.int64], labels: NDArray[np.int64], z: int) -> NDArray[np.int64]:
    """Sums with those of a slab that begins with plane `z`."""
    places = np.nonzero(labels)
    names, inverse = np.unique(labels[places], return_inverse=True)
    new = np.zeros((len(names), 5), np.int64)
    new[:, 0], new[:, 1] = names, np.bincount(inverse, minlength=len(names))
    for axis, coordinates in enumerate(places):
        # sums of whole numbers below 2^53: exact
        new[:, 2 + axis] = np.bincount(inverse, coordinates, minlength=len(names))
    new[:, 2] += z * new[:, 1]
    both = np.concatenate([sums, new])
    both = both[np.argsort(both[:, 0], kind="stable")]
    starts = np.flatnonzero(np.r_[True, both[1:, 0] != both[:-1, 0]]) if len(both) else np.empty(0, np.int64)
    merged = np.add.reduceat(both, starts, axis=0) if len(both) else both
    merged[:, 0] = both[starts, 0]
    return merged


def _component_centroids(volume: LabelVolume) -> NDArray[np.float64]:
    """Centroids of the components of a mask; slabs are joined where they touch."""
    sizes, boxes, sums = [], [], []
    parent = np.empty(1024, np.int64)
    count = 0
    last: Face | None = None
    last_parts = np.empty(0, np.int64)
    for region in _slabs(volume):
        runs = mask_runs((volume.read(region) != 0).view(np.uint8), 0)
        component, found = connect_runs(runs, _CONNECTIVITY)
        size, box, total = measure_components(runs, component, found, region[0].start)
        if count + found > len(parent):
            parent = np.resize(parent, max(count + found, 2 * len(parent)))
        parts = np.arange(count, count + found)
        parent[count : count + found] = parts
        if last is not None:
            join_faces(last, face_of(runs, component, 0), last_parts, parts, _CONNECTIVITY, parent)
        last, last_parts = face_of(runs, component, runs.shape[0] - 1), parts
        count += found
        sizes.append(size)
        boxes.append(box)
        sums.append(total)
    size, box, total = np.concatenate(sizes), np.concatenate(boxes), np.concatenate(sums)
    wholes = merge_components(parent[:count], size, box, total)
    return np.asarray(total[:wholes] / size[:wholes, None])
