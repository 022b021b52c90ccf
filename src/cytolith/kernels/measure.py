"""Size and intensity of each cell: over its shape, over its label in an image, or over a ball around its centre.

Values are accumulated per label in ascending voxel order, integers exactly and floats in float64, so that the bits of a
result depend on the cell alone and not on the block that it is measured in.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.kernels.components import as_image
from cytolith.kernels.footprints import ball_offsets
from cytolith.kernels.jit import jit, jit_inline
from cytolith.kernels.watershed import Shapes

METHODS = ("max", "min", "mean", "sum")
_SUM, _MAX, _MIN = 0, 1, 2
_KIND = {"max": _MAX, "min": _MIN, "mean": _SUM, "sum": _SUM}


def measure_shapes(shapes: Shapes, image: ArrayLike, method: str = "max") -> NDArray[np.float64]:
    """Intensity of each shape in an image.

    Parameters
    ----------
    shapes
        As `cytolith.kernels.watershed.grow_shapes` returns them.
    image
        (z, y, x) of the shapes' extent, not necessarily the image they were grown in: uint8, uint16, int16, float32;
        bool is read as uint8, float64 is rounded to float32; another memory order or byte order is copied.
    method
        "max", "min", "mean" or "sum", in any case.

    Returns
    -------
    ndarray
        float64, (count,), entry i for label i + 1. A label of size 0 has sum 0 and otherwise NaN; a NaN in a shape is
        handed on, as NumPy does.

    Raises
    ------
    ValueError
        When the method is unknown, the image has another extent, or its dtype is another one.

    Examples
    --------
    >>> from cytolith.kernels.watershed import grow_shapes
    >>> image = np.array([[[9, 4, 2, 5, 8, 0, 1]]], np.uint8)
    >>> measure_shapes(grow_shapes(image, [0, 1, 2], [0, 4], threshold=0), image, "sum")
    array([13., 15.])
    """
    method = _check_method(method)
    image, runs = as_image(image), shapes.runs
    _check_extent(image, runs.shape)
    Z, Y, X = runs.shape
    value = _initial(image.dtype, method, shapes.count)
    rows = image.reshape(Z * Y, X)
    _measure_runs(rows, runs.row_start, runs.start, runs.stop, runs.offset, shapes.labels, _KIND[method], value)
    return _final(value, shapes.size, method)


def shape_boxes(shapes: Shapes) -> NDArray[np.int64]:
    """Bounding box of each shape.

    Parameters
    ----------
    shapes
        As `cytolith.kernels.watershed.grow_shapes` returns them.

    Returns
    -------
    ndarray
        int64, (count, 6): z, y, x of the first corner, then of the corner behind the last voxel (half open), in voxels;
        all 0 for a label of size 0.
    """
    runs = shapes.runs
    boxes = np.tile(np.array([*runs.shape, 0, 0, 0], np.int64), (shapes.count, 1))
    _box_runs(runs.shape[1], runs.row_start, runs.start, runs.stop, runs.offset, shapes.labels, boxes)
    boxes[shapes.size == 0] = 0
    return boxes


def measure_balls(image: ArrayLike, centres: ArrayLike, offsets: ArrayLike, method: str = "max") -> NDArray[np.float64]:
    """Intensity of the voxels at given offsets from each centre.

    Parameters
    ----------
    image
        (z, y, x), as for `measure_shapes`.
    centres
        (n, 3) integers: voxels (z, y, x). They may lie outside the image.
    offsets
        (m, 3) integers: the voxels to visit relative to a centre, in the order in which floats are added. Those outside
        the image are left out.
    method
        "max", "min", "mean" or "sum", in any case.

    Returns
    -------
    ndarray
        float64, (n,). Where no voxel lies in the image the sum is 0 and the rest NaN.

    Raises
    ------
    ValueError
        When the method is unknown, the arrays have other shapes, or the dtype of the image is another one.

    Examples
    --------
    >>> measure_balls(np.array([[[1, 2, 5]]], np.uint8), [[0, 0, 1]], [[0, 0, 0], [0, 0, 1]], "mean")
    array([3.5])
    """
    method = _check_method(method)
    image = as_image(image)
    points = [np.ascontiguousarray(a, np.int64).reshape(-1, 3) for a in (centres, offsets)]
    value = _initial(image.dtype, method, len(points[0]))
    size = np.zeros(len(points[0]), np.int64)
    Z, Y, X = image.shape
    _measure_balls(image.reshape(-1), Z, Y, X, points[0], points[1], _KIND[method], value, size)
    return _final(value, size, method)


def find_size(labels: ArrayLike, n: int | None = None) -> NDArray[np.int64]:
    """Voxels of each label of an image of labels.

    Parameters
    ----------
    labels
        Integers, (z, y, x); 0 is background. Another memory order or byte order is copied.
    n
        Number of labels; None: the highest one.

    Returns
    -------
    ndarray
        int64, (n,), entry i for label i + 1.

    Raises
    ------
    ValueError
        When the labels are not a 3-D image of integers, or one is negative or above `n`.

    Examples
    --------
    >>> find_size(np.array([[[0, 1, 1, 3]]]))
    array([2, 0, 1])
    """
    labels, n = _check_labels(labels, n)
    size = np.zeros(n, np.int64)
    Z, Y, X = labels.shape
    _check_found(_size_labels(labels.reshape(Z * Y, X), size), n)
    return size


def find_intensity(
    image: ArrayLike,
    labels: ArrayLike | None = None,
    centres: ArrayLike | None = None,
    method: str = "max",
    shape: float | Sequence[float] = 3,
    n: int | None = None,
) -> NDArray[np.float64]:
    """Intensity of each label of an image of labels or, without labels, of a ball around each centre.

    Parameters
    ----------
    image
        (z, y, x), as for `measure_shapes`.
    labels
        Integers of the extent of the image; 0 is background.
    centres
        (n, 3) positions in voxels (z, y, x), rounded to the nearest voxel, halves up. Used without labels only.
    method
        "max", "min", "mean" or "sum", in any case.
    shape
        Diameter of the ball in voxels, one for all axes or (z, y, x), see `cytolith.kernels.footprints.ball_offsets`.
        It is clipped at the faces of the image.
    n
        Number of labels; None: the highest one.

    Returns
    -------
    ndarray
        float64, (n,), one entry a label or centre. Where there is no voxel the sum is 0 and the rest NaN.

    Raises
    ------
    ValueError
        When neither labels nor centres are given, the method is unknown, a label is negative or above `n`, or shapes or
        dtypes do not fit.

    Examples
    --------
    >>> image = np.array([[[5, 1, 7, 4]]], np.uint8)
    >>> find_intensity(image, np.array([[[0, 1, 1, 2]]]), method="mean")
    array([4., 4.])
    >>> find_intensity(image, centres=[[0, 0, 1]], shape=3)
    array([7.])
    """
    method = _check_method(method)
    image = as_image(image)
    if labels is None:
        if centres is None:
            raise ValueError("labels: neither labels nor centres given, one of them is needed")
        nearest = np.floor(np.asarray(centres, np.float64) + 0.5).astype(np.int64)
        return measure_balls(image, nearest, ball_offsets(shape), method)
    dense, n = _check_labels(labels, n)
    _check_extent(image, dense.shape)
    value = _initial(image.dtype, method, n)
    size = np.zeros(n, np.int64)
    Z, Y, X = image.shape
    rows, names = image.reshape(Z * Y, X), dense.reshape(Z * Y, X)
    _check_found(_measure_labels(rows, names, _KIND[method], value, size), n)
    return _final(value, size, method)


def _check_method(method: str) -> str:
    name = method.lower()
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"method: {method!r} is not one of {', '.join(METHODS)}{hint}")
    return name


def _check_extent(image: NDArray[Any], shape: tuple[int, ...]) -> None:
    if image.shape != shape:
        raise ValueError(f"image: extent {image.shape} given, that of the labels {shape} is needed")


def _check_labels(labels: ArrayLike, n: int | None) -> tuple[NDArray[Any], int]:
    array = np.asarray(labels)
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise ValueError(f"labels: {array.ndim}-D {array.dtype} given, a 3-D image of integers is needed")
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return array, int(array.max(initial=0)) if n is None else n


def _check_found(stray: int, n: int) -> None:
    if stray != 0:
        raise ValueError(f"labels: {stray} found, 0 ... {n} are allowed")


def _initial(dtype: np.dtype[Any], method: str, n: int) -> NDArray[Any]:
    """What to start accumulating from."""
    kind = np.float64 if dtype.kind == "f" else np.int64
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(np.int64).min, np.iinfo(np.int64).max)
    return np.full(n, {"max": low, "min": high}.get(method, 0), kind)


def _final(value: NDArray[Any], size: NDArray[np.int64], method: str) -> NDArray[np.float64]:
    """The result as float64, NaN where there is none."""
    result = value.astype(np.float64)
    if method == "mean":
        np.divide(result, size, out=result, where=size > 0)
    if method != "sum":
        result[size == 0] = np.nan
    return result


@jit_inline
def _reduce(kind: int, value: Any, row: NDArray[Any], low: int, high: int) -> Any:
    """Accumulate the voxels low ... high - 1 of a row. A NaN stays."""
    if kind == _SUM:
        for x in range(low, high):
            value += row[x]
    elif kind == _MAX:
        for x in range(low, high):
            if row[x] > value or row[x] != row[x]:
                value = row[x]
    else:
        for x in range(low, high):
            if row[x] < value or row[x] != row[x]:
                value = row[x]
    return value


@jit
def _measure_runs(
    rows: NDArray[Any],
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    offset: NDArray[np.int64],
    labels: NDArray[np.int32],
    kind: int,
    value: NDArray[Any],
) -> None:
    for y in range(rows.shape[0]):
        row = rows[y]
        for r in range(row_start[y], row_start[y + 1]):
            k = offset[r] - start[r]
            x = int(start[r])
            while x < stop[r]:  # a stretch of one label at a time
                label = labels[k + x]
                low = x
                while x < stop[r] and labels[k + x] == label:
                    x += 1
                if label > 0:
                    value[label - 1] = _reduce(kind, value[label - 1], row, low, x)


@jit
def _box_runs(
    Y: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    offset: NDArray[np.int64],
    labels: NDArray[np.int32],
    boxes: NDArray[np.int64],
) -> None:
    for row in range(row_start.size - 1):
        z = row // Y
        y = row - z * Y
        for r in range(row_start[row], row_start[row + 1]):
            k = offset[r] - start[r]
            x = int(start[r])
            while x < stop[r]:
                label = labels[k + x]
                low = x
                while x < stop[r] and labels[k + x] == label:
                    x += 1
                if label > 0:
                    box = boxes[label - 1]
                    box[0], box[1], box[2] = min(box[0], z), min(box[1], y), min(box[2], low)
                    box[3], box[4], box[5] = max(box[3], z + 1), max(box[4], y + 1), max(box[5], x)


@jit
def _measure_balls(
    voxels: NDArray[Any],
    Z: int,
    Y: int,
    X: int,
    centres: NDArray[np.int64],
    offsets: NDArray[np.int64],
    kind: int,
    value: NDArray[Any],
    size: NDArray[np.int64],
) -> None:
    for i in range(centres.shape[0]):
        total, found = value[i], 0
        for j in range(offsets.shape[0]):
            z, y, x = centres[i, 0] + offsets[j, 0], centres[i, 1] + offsets[j, 1], centres[i, 2] + offsets[j, 2]
            if 0 <= z < Z and 0 <= y < Y and 0 <= x < X:
                at = (z * Y + y) * X + x
                total = _reduce(kind, total, voxels, int(at), int(at) + 1)
                found += 1
        value[i], size[i] = total, found


@jit
def _size_labels(rows: NDArray[Any], size: NDArray[np.int64]) -> int:
    """Count the voxels of each label; returns 0, or the first label outside the range."""
    n, X = size.size, rows.shape[1]
    for y in range(rows.shape[0]):
        row = rows[y]
        x = 0
        while x < X:
            if row[x] == 0:
                x += 1
                continue
            label = np.int64(row[x])
            if label < 1 or label > n:
                return int(label)
            low = x
            while x < X and row[x] == label:
                x += 1
            size[label - 1] += x - low
    return 0


@jit
def _measure_labels(
    rows: NDArray[Any], labels: NDArray[Any], kind: int, value: NDArray[Any], size: NDArray[np.int64]
) -> int:
    """Accumulate the voxels of each label and count them; returns 0, or the first label outside the range."""
    n, X = size.size, rows.shape[1]
    for y in range(rows.shape[0]):
        row, names = rows[y], labels[y]
        x = 0
        while x < X:
            if names[x] == 0:
                x += 1
                continue
            label = np.int64(names[x])
            if label < 1 or label > n:
                return int(label)
            low = x
            while x < X and names[x] == label:
                x += 1
            value[label - 1] = _reduce(kind, value[label - 1], row, low, x)
            size[label - 1] += x - low
    return 0
