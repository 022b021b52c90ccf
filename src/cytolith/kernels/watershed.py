"""Shapes of cells: seeds grown downhill inside a mask, a seeded watershed on the voxels of the mask alone.

The work is done component by component (`cytolith.kernels.growth`); what a block of a volume cannot know of its shapes
is found out afterwards (`cytolith.kernels.settled`).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.kernels.components import MaskTooLargeError, Runs, as_image, connect_runs, mask_runs
from cytolith.kernels.growth import grow_labels
from cytolith.kernels.jit import jit
from cytolith.kernels.settled import Margins, find_open


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shape of each cell, as labels of the voxels of a mask.

    Attributes
    ----------
    runs
        The mask.
    labels
        int32, one entry a mask voxel in the order of its runs: 1 ... count, 0 where no cell is.
    count
        Number of labels, that is of seeds.
    size
        int64, (count,): voxels of each label; 0 when no voxel of the seed was its own inside the mask.
    open
        bool, (count,): what lies beyond the open faces, in their margins, or in the place of open seeds may extend or
        change the shape. Where it is False the voxels are those that a run on the whole volume gives, none for size 0.
    """

    runs: Runs
    labels: NDArray[np.int32]
    count: int
    size: NDArray[np.int64]
    open: NDArray[np.bool_]

    def to_dense(self, out: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
        """Labels as an image: int32, (z, y, x), 0 outside; written into `out` when given.

        Raises
        ------
        ValueError
            When `out` has another shape or dtype or is not C-contiguous.
        """
        if out is None:
            out = np.empty(self.runs.shape, np.int32)
        elif out.shape != self.runs.shape or out.dtype != np.int32 or not out.flags.c_contiguous:
            raise ValueError(f"out: {out.dtype} {out.shape} given, C-contiguous int32 {self.runs.shape} is needed")
        Z, Y, X = self.runs.shape
        runs = self.runs
        _paint(runs.row_start, runs.start, runs.stop, runs.offset, self.labels, out.reshape(Z * Y, X))
        return out


@runtime_checkable
class SeedLists(Protocol):
    """Seeds of several voxels each: those of seed i are `voxels[starts[i]:starts[i + 1]]`, flat indices."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """int64, (n + 1,)."""

    @property
    def voxels(self) -> NDArray[np.int64]:
        """int64, (m,)."""


def grow_shapes(
    image: ArrayLike,
    seed_starts: ArrayLike,
    seed_voxels: ArrayLike,
    threshold: float | None = None,
    open_margins: Margins = (0,) * 6,
    *,
    open_seeds: ArrayLike | None = None,
    limit: int | None = None,
    runs: Runs | None = None,
) -> Shapes:
    """Grow seeds downhill inside the mask ``image > threshold``: a seeded watershed, 6-connected.

    All seed voxels inside the mask enter a queue in order: seed by seed, and voxel by voxel as listed. The queue gives
    out the highest value first and, among equal values, what entered first. A voxel that leaves it gives its label to
    each neighbour in the mask that has none, and that enters with its own value, or with the
    level being flooded where that is lower. A voxel that several seeds list belongs to the first of them.

    Parameters
    ----------
    image
        (z, y, x), uint8, uint16, int16 or float32. bool is read as uint8, float64 is rounded to float32; another
        memory order or byte order is copied.
    seed_starts, seed_voxels
        Flat indices into the image: seed i is ``seed_voxels[seed_starts[i]:seed_starts[i + 1]]`` and has label i + 1.
    threshold
        The mask, see `cytolith.kernels.components.mask_runs`. None: every voxel.
    open_margins
        One number for each of the faces z = 0, z = Z, y = 0, y = Y, x = 0, x = X of the image. 0: a face of the volume.
        k >= 1: the volume goes on behind it, unknown, and the k - 1 outermost layers of voxels are unsure too: their
        values may be others, and seeds may be missing there. 1: all values are right, only what lies beyond is unknown.
    open_seeds
        bool, (n,): seeds that are unsure. They may be missing, or hold fewer of their voxels, or be joined to each
        other or to what lies beyond. Outside the margins no other seed may be wrong and none may be missing. A seed
        with voxels in the margins is always taken for unsure.
    limit
        Largest number of mask voxels allowed.
    runs
        What `mask_runs` gives for the image and this threshold, when it is known: then the image is read at voxels of
        the mask alone.

    Returns
    -------
    Shapes
        4 bytes a mask voxel and 16 a run. While it runs, 20 bytes a run more, and for the largest component with
        several seeds 8 bytes a voxel of its bounding box and, of float32 images, 24 a voxel of itself. For components
        at open faces or with open seeds, 8 bytes a voxel and 20 a run more, and three times the time.

    Raises
    ------
    MaskTooLargeError
        When the mask holds more than `limit` voxels.
    ValueError
        When the image is not 3-D, its dtype is another one, the seeds are not lists of voxels of the image, a margin is
        negative, there is not one entry of `open_seeds` a seed, the runs are those of another extent, or the bounding
        box of a component with several seeds has about 2^32 voxels or more.

    Notes
    -----
    The order of the six neighbours has no influence: they get the same label, and whatever lies between them in the
    queue has it too. So an image with swapped axes gives the same shapes.

    The rule of ``skimage.segmentation.watershed(-image, markers, mask=image > threshold)`` of scikit-image 0.25 and
    newer, except that seed voxels of equal value enter in order of their seeds, where it leaves the order to its heap,
    and that unsigned values are not negated, where it floods 0 first. How `open` is decided is told in
    `cytolith.kernels.settled`.

    References
    ----------
    S. Beucher and F. Meyer, "The morphological approach to segmentation: the watershed transformation", in
    Mathematical Morphology in Image Processing, 1993.

    Examples
    --------
    >>> image = np.array([[[9, 4, 2, 5, 8, 0, 1]]], np.uint8)
    >>> shapes = grow_shapes(image, [0, 1, 2], [0, 4], threshold=0)
    >>> shapes.to_dense()
    array([[[1, 1, 2, 2, 2, 0, 0]]], dtype=int32)
    >>> shapes.size
    array([2, 3])
    """
    image = as_image(image)
    starts, voxels = _check_seeds(image, seed_starts, seed_voxels)
    margins, unsure = _check_openness(open_margins, open_seeds, len(starts) - 1)
    if runs is None:
        runs = mask_runs(image, threshold, limit=limit)
    elif runs.shape != image.shape:
        raise ValueError(f"runs: a mask of {runs.shape} given, one of the image's shape {image.shape} is needed")
    elif limit is not None and runs.n_voxels > limit:
        raise MaskTooLargeError(runs.n_voxels, limit)
    component, n_components = connect_runs(runs, 6)
    count = len(starts) - 1
    labels = grow_labels(image, runs, component, n_components, starts, voxels)
    size = np.zeros(count, np.int64)
    _count_labels(labels, size)
    is_open = find_open(image, runs, component, n_components, starts, voxels, margins, unsure)
    return Shapes(runs, labels, count, size, is_open)


def trim_shapes(shapes: Shapes, image: ArrayLike, least: ArrayLike) -> Shapes:
    """Shapes without the voxels that are dimmer than what each shape must have.

    Parameters
    ----------
    shapes
        As `grow_shapes` returns them.
    image
        (z, y, x) of the shapes' extent, for example the image they were grown in.
    least
        (count,): least value of a voxel of each shape.

    Returns
    -------
    Shapes
        On the same runs; what is open stays open.

    Examples
    --------
    >>> image = np.array([[[9, 4, 2, 5, 8, 0, 1]]], np.uint8)
    >>> trim_shapes(grow_shapes(image, [0, 1, 2], [0, 4], threshold=0), image, [4.5, 4]).to_dense()
    array([[[1, 0, 0, 2, 2, 0, 0]]], dtype=int32)
    """
    image, limits = as_image(image), np.ascontiguousarray(least, np.float64)
    if image.shape != shapes.runs.shape or limits.shape != (shapes.count,):
        raise ValueError(
            f"image, least: {image.shape}, {limits.shape} given, {shapes.runs.shape}, {(shapes.count,)} needed"
        )
    Z, Y, X = image.shape
    runs, labels, size = shapes.runs, shapes.labels.copy(), shapes.size.copy()
    _trim(image.reshape(Z * Y, X), runs.row_start, runs.start, runs.stop, runs.offset, limits, labels, size)
    return Shapes(runs, labels, shapes.count, size, shapes.open)


def detect_shape(image: ArrayLike, seeds: ArrayLike | SeedLists, threshold: float | None = None) -> NDArray[np.int32]:
    """Labels of the shapes grown from seeds inside the mask ``image > threshold``.

    Parameters
    ----------
    image, threshold
        See `grow_shapes`.
    seeds
        One of: (n, 3) positions in voxels (z, y, x), rounded to the nearest voxel, halves up; the label is the
        row + 1. An integer image of the same shape that marks the voxels of each seed with its label; equal values of
        two seeds are flooded in ascending order of label. Or seeds of several voxels each, such as the maxima that
        `cytolith.kernels.maxima.detect_maxima` finds; the label is the index + 1.

    Returns
    -------
    ndarray
        int32, (z, y, x): 0 outside the mask and where the mask is not connected to a seed.

    Raises
    ------
    ValueError
        See `grow_shapes`; also when a position lies outside the image or a marker is negative or above 2^31 - 1.

    Examples
    --------
    >>> detect_shape(np.array([[[9, 4, 2, 5, 8, 0, 1]]], np.uint8), [[0, 0, 0], [0, 0, 4]], threshold=2)
    array([[[1, 1, 0, 2, 2, 0, 0]]], dtype=int32)
    """
    image = as_image(image)
    if isinstance(seeds, SeedLists):
        return grow_shapes(image, seeds.starts, seeds.voxels, threshold).to_dense()
    array = np.asarray(seeds)
    if array.ndim == 3:
        starts, voxels, names = _marker_seeds(array, image.shape)
        shapes = grow_shapes(image, starts, voxels, threshold)
        return Shapes(shapes.runs, names[shapes.labels], shapes.count, shapes.size, shapes.open).to_dense()
    voxels = _position_seeds(array, image.shape)
    return grow_shapes(image, np.arange(len(voxels) + 1), voxels, threshold).to_dense()


def _marker_seeds(
    markers: NDArray[Any], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Seeds in ascending order of their markers, and the marker of each label (0 of 0)."""
    if markers.shape != shape or markers.dtype.kind not in "iu":
        raise ValueError(f"seeds: {markers.dtype} image {markers.shape} given, an integer one of {shape} is needed")
    voxels = np.flatnonzero(markers)
    values = markers.reshape(-1)[voxels]
    if len(values) and not 0 < int(values.min()) <= int(values.max()) <= np.iinfo(np.int32).max:
        raise ValueError(f"seeds: markers {values.min()} ... {values.max()} given, 1 ... 2**31 - 1 are allowed")
    names, counts = np.unique(values, return_counts=True)
    return (
        np.concatenate([[0], np.cumsum(counts)]),
        voxels[np.argsort(values, kind="stable")],
        np.concatenate([[0], names]).astype(np.int32),
    )


def _position_seeds(positions: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Flat index of the voxel nearest to each position."""
    if positions.size == 0:
        return np.empty(0, np.int64)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"seeds: array of shape {positions.shape} given, (n, 3) or {shape} is needed")
    nearest = np.floor(positions.astype(np.float64) + 0.5)  # halves up everywhere, not to the even voxel
    outside = np.flatnonzero(~((nearest >= 0) & (nearest < shape)).all(1))
    if len(outside):
        raise ValueError(f"seeds: row {outside[0]} at {positions[outside[0]]} lies outside the image of {shape} voxels")
    return np.asarray(np.ravel_multi_index(tuple(nearest.astype(np.int64).T), shape), np.int64)


def _check_seeds(
    image: NDArray[Any], seed_starts: ArrayLike, seed_voxels: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.ascontiguousarray(seed_starts, np.int64)
    voxels = np.ascontiguousarray(seed_voxels, np.int64)
    if starts.ndim != 1 or voxels.ndim != 1 or len(starts) == 0:
        raise ValueError("seed_starts: two 1-D arrays are needed, the first one entry longer than there are seeds")
    if starts[0] != 0 or starts[-1] != len(voxels) or (np.diff(starts) < 0).any():
        raise ValueError(f"seed_starts: must rise from 0 to the number of seed voxels, {len(voxels)}")
    if len(starts) > np.iinfo(np.int32).max:
        raise ValueError(f"seed_starts: {len(starts) - 1} seeds, at most 2**31 - 2 are allowed")
    if len(voxels) and not 0 <= voxels.min() <= voxels.max() < image.size:
        raise ValueError(f"seed_voxels: {voxels.min()} ... {voxels.max()} given, 0 ... {image.size - 1} are allowed")
    return starts, voxels


def _check_openness(
    open_margins: Margins, open_seeds: ArrayLike | None, count: int
) -> tuple[Margins, NDArray[np.bool_]]:
    given = [operator.index(margin) for margin in open_margins]
    if len(given) != 6 or min(given) < 0:
        raise ValueError(f"open_margins: {open_margins} given, six numbers from 0 are needed")
    unsure = np.zeros(count, np.bool_) if open_seeds is None else np.asarray(open_seeds)
    if unsure.shape != (count,) or unsure.dtype != np.bool_:
        raise ValueError(f"open_seeds: {unsure.dtype} {unsure.shape} given, bool {(count,)} is needed")
    z0, z1, y0, y1, x0, x1 = given
    return (z0, z1, y0, y1, x0, x1), unsure


@jit
def _count_labels(labels: NDArray[np.int32], size: NDArray[np.int64]) -> None:
    for label in labels:
        if label > 0:
            size[label - 1] += 1


@jit
def _paint(
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    offset: NDArray[np.int64],
    labels: NDArray[np.int32],
    rows: NDArray[np.int32],
) -> None:
    """Write the labels into rows that may hold anything."""
    for row in range(rows.shape[0]):
        out = rows[row]
        out[:] = 0
        for r in range(row_start[row], row_start[row + 1]):
            for x in range(start[r], stop[r]):
                out[x] = labels[offset[r] + x - start[r]]


@jit
def _trim(
    rows: NDArray[Any],
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    offset: NDArray[np.int64],
    least: NDArray[np.float64],
    labels: NDArray[np.int32],
    size: NDArray[np.int64],
) -> None:
    for row in range(rows.shape[0]):
        for r in range(row_start[row], row_start[row + 1]):
            for x in range(start[r], stop[r]):
                at = offset[r] + x - start[r]
                label = labels[at]
                if label > 0 and rows[row, x] < least[label - 1]:
                    labels[at] = 0
                    size[label - 1] -= 1
