"""Local and extended maxima of an image, and their centres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cytolith.axes import Shape
from cytolith.kernels.centres import average_positions
from cytolith.kernels.components import as_image
from cytolith.kernels.extended_maxima import flood_extended_maxima
from cytolith.kernels.jit import jit
from cytolith.kernels.local_maxima import Reach, compare_window, join_plateaus, scan_maxima

Margins: TypeAlias = tuple[int, int, int, int, int, int]
"""For the faces z0, z1, y0, y1, x0, x1 of an image: 0 where the volume ends, k where it goes on and the outermost k - 1
layers of voxels are unsure."""

DEFAULT_WINDOW = 5


@dataclass(frozen=True, eq=False)
class Maxima:
    """Maxima of an image, each a set of voxels, in the order of their first voxels.

    Attributes
    ----------
    starts : int64 (n + 1,)
        Maximum i has the voxels ``voxels[starts[i]:starts[i + 1]]``.
    voxels : int64 (m,)
        Flat C indices into the image, ascending within a maximum.
    values : (n,), dtype of the image
        Height of each maximum, its greatest value.
    shape : tuple of int
        Extent of the image in voxels, (z, y, x).
    open : bool (n,)
        Whether what lies beyond an open face could change the maximum: make it larger or smaller, join it to another,
        or overtop it. A maximum that is not open is one of the whole volume, voxel for voxel. A maximum of the volume
        whose windows and neighbours lie inside the image is among them, or is part of one that is open.
    """

    starts: NDArray[np.int64]
    voxels: NDArray[np.int64]
    values: NDArray[Any]
    shape: Shape
    open: NDArray[np.bool_]

    def __len__(self) -> int:
        return self.values.size

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Unweighted centres, (n, 3)."""
        if copy is False:
            raise ValueError("maxima are not an array: their centres are computed, so copy=False cannot be met")
        return self.centres().astype(dtype or np.float64, copy=False)

    def centres(self, weights: ArrayLike | None = None, origin: Sequence[int] = (0, 0, 0)) -> NDArray[np.float64]:
        """Mean position of the voxels of each maximum, in voxels of the volume.

        The result has the same bits wherever the image was cut from the volume: offsets to the first voxel of the
        maximum are averaged (exactly for integer weights, in the order of the voxels for others) and then added to
        the position of that voxel in the volume.

        Parameters
        ----------
        weights : array_like (z, y, x), optional
            Image of the same shape whose values weight the voxels. Negative values and NaN count as 0; a maximum
            whose weights are all 0, or infinite, is not weighted.
        origin : sequence of int
            Position of the image in the volume, (z, y, x).

        Returns
        -------
        float64 (n, 3)
            Columns z, y, x.

        Raises
        ------
        ValueError
            If the weights have another shape than the image or a dtype other than uint8, uint16, int16, float32,
            float64 or bool.
        """
        z, y, x = (int(v) for v in origin)
        out = np.empty((len(self), 3), np.float64)
        weight_image: NDArray[Any] = np.empty((0, 0, 0), np.uint8) if weights is None else as_image(weights, "weights")
        if weights is not None and weight_image.shape != self.shape:
            raise ValueError(f"weights have shape {weight_image.shape}, but the image has shape {self.shape}")
        zero: Any = np.float64(0) if weight_image.dtype.kind == "f" else np.int64(0)
        average_positions(
            out, self.starts, self.voxels, weight_image.reshape(-1), weights is not None, zero, self.shape, (z, y, x)
        )
        return out


def maxima_reach(shape: int | Sequence[int] | None = None, h_max: float | None = None) -> Shape:
    """How far `detect_maxima` looks around a voxel, in voxels, (z, y, x).

    With a halo of this width a maximum of one voxel that has no equal neighbours is not open. Plateaus and extended
    maxima reach as far as they extend, which only their `open` flags can tell.
    """
    z0, z1, y0, y1, x0, x1 = (max(1, r) for r in _reach(_window(shape, h_max)).tolist())
    return max(z0, z1), max(y0, y1), max(x0, x1)


def detect_maxima(
    image: ArrayLike,
    *,
    h_max: float | None = None,
    shape: int | Sequence[int] | None = None,
    threshold: float | None = None,
    open_margins: Margins = (0,) * 6,
    merge_plateaus: bool = True,
    found: NDArray[np.int64] | None = None,
) -> Maxima:
    """Local maxima of an image, or its extended maxima.

    Without `h_max`, a voxel is a maximum when it is at least `threshold` and no voxel of the box `shape` around it is
    greater. Such voxels that are 26-neighbours and have equal values form one maximum.

    With `h_max`, a maximum is a component of {image >= v - h_max} that holds a voxel of value v, at least
    `threshold`, and nothing greater: the regional maxima of the h-max transform, 26-connected. Bumps that rise less
    than `h_max` above their surroundings are not listed, peaks with no valley deeper than `h_max` between them count
    as the highest of them, and as one if they are equal. If `shape` is given too, a voxel of value v must also be the
    maximum of that box.

    Parameters
    ----------
    image : array_like (z, y, x)
        uint8, uint16, int16 or float32; bool is taken as uint8 and float64 as float32. Converted to C order.
    h_max : float, optional
        Least height above the surroundings, in the unit of the image. For float32 images, v - h_max is float32.
    shape : int or (z, y, x), optional
        Extent of the box in voxels, clipped at the image. An even extent n looks at the offsets -n/2 .. n/2 - 1.
        Default 5; with `h_max`, no box.
    threshold : float, optional
        Least value of a maximum (inclusive), for float32 images rounded to float32. Default: any value.
    open_margins : six int
        For the faces z0, z1, y0, y1, x0, x1 of the image: 0 where the volume ends; k >= 1 where it goes on, unknown,
        and the k - 1 outermost layers of voxels may have other values there. This decides about `Maxima.open`, and
        with `h_max` and `shape` an open maximum is listed whatever the box holds.
    merge_plateaus : bool
        False lists every voxel of a plateau as its own maximum. Not with `h_max`.
    found : int64 (n,), optional
        The voxels that are at least `threshold` and that no voxel of the box exceeds, as ascending flat indices, when
        they are known: then the image is read there alone. Not with `h_max`.

    Returns
    -------
    Maxima
        In the order of their first voxels.

    Raises
    ------
    ValueError
        If the image or a parameter has a shape, dtype or value other than those above.

    Notes
    -----
    The `find_maxima` of ClearMap, from which shape, threshold and h_max come, differs: it lists every voxel of a
    plateau (``merge_plateaus=False``), and with h_max it takes the box maxima of the h-max transform, which are also
    found on plateaus of it that are no maxima.

    A NaN is no maximum, belongs to none, and is disregarded as a neighbour.

    Beside the result it takes one plane of memory (without `h_max`) or one byte a voxel (with it).

    Examples
    --------
    >>> image = np.zeros((3, 5, 7), np.uint16)
    >>> image[1, 2, 1:3] = 9
    >>> image[1, 2, 5] = 7
    >>> maxima = detect_maxima(image, shape=3, threshold=1)
    >>> maxima.values
    array([9, 7], dtype=uint16)
    >>> maxima.centres()
    array([[1. , 2. , 1.5],
           [1. , 2. , 5. ]])
    >>> len(detect_maxima(image, h_max=8))
    1
    """
    array = as_image(image)
    open_layers = np.array([int(margin) for margin in open_margins], np.int64)
    if open_layers.size != 6 or (open_layers < 0).any():
        raise ValueError(f"open_margins must be six numbers from 0 (z0, z1, y0, y1, x0, x1), got {open_margins!r}")
    if not merge_plateaus and h_max is not None:
        raise ValueError("merge_plateaus=False needs h_max=None: an extended maximum is one component")
    if found is not None and h_max is not None:
        raise ValueError("found needs h_max=None: an extended maximum is more than the maxima of a box")
    if found is not None:
        _check_found(found, array.size)
    reach = _reach(_window(shape, h_max))
    lowest = _lowest(array.dtype, threshold)
    height = None if h_max is None else _height(array.dtype, h_max)
    if array.size == 0 or lowest is None:
        nothing = np.empty(0, np.int64)
        return Maxima(np.zeros(1, np.int64), nothing, nothing.astype(array.dtype), _shape(array), nothing.astype(bool))
    if height is None:
        if found is None:
            found = scan_maxima(array, lowest, _clipped(reach, array.shape), False)
        return _local_maxima(array, found, reach, open_layers, merge_plateaus)
    maxima = _extended_maxima(array, height, lowest, open_layers)
    return maxima if shape is None else _keep_window_maxima(maxima, array, reach, open_layers)


def search(
    dtype: DTypeLike, window: int | Sequence[int] | None, threshold: float | None, extent: Shape
) -> tuple[NDArray[np.int64], Any]:
    """What to scan an image for so that its local maxima are found.

    Parameters
    ----------
    dtype
        Of the image: uint8, uint16, int16 or float32.
    window, threshold
        `shape` and `threshold` of `detect_maxima`.
    extent
        Of the image in voxels, (z, y, x).

    Returns
    -------
    reach
        int64 (6,): how far the box looks towards the faces z0, z1, y0, y1, x0, x1, in voxels, not beyond the image.
    lowest
        Least value of a maximum, in the dtype; None when no voxel can reach the threshold.

    Raises
    ------
    ValueError
        See `detect_maxima`.
    """
    return _clipped(_reach(_window(window, None)), extent), _lowest(np.dtype(dtype), threshold)


def _check_found(found: NDArray[np.int64], size: int) -> None:
    ascending = found.dtype == np.int64 and found.ndim == 1 and (np.diff(found) > 0).all()
    if not ascending or (found.size > 0 and not 0 <= found[0] <= found[-1] < size):
        raise ValueError(f"found must be ascending int64 indices of voxels, from 0 to {size - 1}, got {found!r}")


def _local_maxima(
    image: NDArray[Any], voxels: NDArray[np.int64], reach: Reach, open_layers: NDArray[np.int64], merge_plateaus: bool
) -> Maxima:
    flat = image.reshape(-1)
    starts = np.arange(voxels.size + 1)
    if merge_plateaus:
        starts, voxels = join_plateaus(voxels, flat[voxels], _shape(image))
    unsettled = near_open_faces(starts, voxels, _shape(image), _margins(np.maximum(reach, 1), open_layers))
    return Maxima(starts, voxels, flat[voxels[starts[:-1]]], _shape(image), unsettled)


def _extended_maxima(image: NDArray[Any], height: Any, lowest: Any, open_layers: NDArray[np.int64]) -> Maxima:
    flat = image.reshape(-1)
    neighbours = np.ones(6, np.int64)
    peaks = scan_maxima(image, lowest, neighbours, True)
    voxels = flood_extended_maxima(image, peaks, height)
    starts, voxels = join_plateaus(voxels, np.zeros(voxels.size, np.uint8), _shape(image))
    values = np.maximum.reduceat(flat[voxels], starts[:-1]) if voxels.size > 0 else flat[:0].copy()
    unsettled = near_open_faces(starts, voxels, _shape(image), _margins(neighbours, open_layers))
    return Maxima(starts, voxels, values, _shape(image), unsettled)


def _margins(reach: NDArray[np.int64], open_layers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Voxels inside each face within which a maximum is unsure; 0 at the faces of the volume.

    A wrong value in an unsure layer may unlist a voxel within reach of it, and with it change the plateau that a
    neighbour of that voxel belongs to: one layer more.
    """
    return np.where(open_layers > 0, reach + open_layers - 1 + (open_layers > 1), 0)


def _keep_window_maxima(
    maxima: Maxima, image: NDArray[Any], reach: NDArray[np.int64], open_layers: NDArray[np.int64]
) -> Maxima:
    """Keep the extended maxima of which a highest voxel is the maximum of its window, or may be beyond an open face."""
    found, unsettled = find_window_maxima(
        image, maxima.starts, maxima.voxels, maxima.values, _clipped(reach, image.shape), _margins(reach, open_layers)
    )
    found |= maxima.open
    kept = np.repeat(found, np.diff(maxima.starts))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(maxima.starts)[found])])
    is_open = (maxima.open | unsettled)[found]
    return Maxima(starts, maxima.voxels[kept], maxima.values[found], maxima.shape, is_open)


def _shape(image: NDArray[Any]) -> Shape:
    z, y, x = image.shape
    return z, y, x


def _window(shape: int | Sequence[int] | None, h_max: float | None) -> tuple[int, ...] | None:
    """Extent of the box; None for the extended maxima's 26 neighbours."""
    if shape is None:
        return None if h_max is not None else (DEFAULT_WINDOW,) * 3
    window = (shape,) * 3 if isinstance(shape, (int, np.integer)) else tuple(shape)
    if len(window) != 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in window):
        raise ValueError(f"shape must be a positive int or three of them (z, y, x), got {shape!r}")
    return tuple(int(n) for n in window)


def _reach(window: tuple[int, ...] | None) -> NDArray[np.int64]:
    """How far the box looks towards each face."""
    if window is None:
        return np.ones(6, np.int64)
    return np.array([r for n in window for r in (n // 2, n - n // 2 - 1)], np.int64)


def _clipped(reach: NDArray[np.int64], extent: tuple[int, ...]) -> NDArray[np.int64]:
    return np.asarray(np.minimum(reach, np.repeat(np.array(extent), 2)), np.int64)


def _lowest(dtype: np.dtype[Any], threshold: float | None) -> Any:
    """Least value of a maximum in the dtype of the image; None when no voxel can reach the threshold."""
    if threshold is not None and math.isnan(threshold):
        raise ValueError("threshold must be a number or None, got NaN")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(-math.inf if threshold is None else threshold)
    limits = np.iinfo(dtype)
    if threshold is None or threshold <= limits.min:
        return dtype.type(limits.min)
    return dtype.type(math.ceil(threshold)) if threshold <= limits.max else None


def _height(dtype: np.dtype[Any], h_max: float) -> Any:
    """`h_max` in the type in which v - h_max is computed; among integers, f >= v - h and f >= v - floor(h) agree."""
    if not 0 < h_max < math.inf:
        raise ValueError(f"h_max must be positive and finite, got {h_max!r}")
    if dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore"):
            return dtype.type(h_max)
    return np.int64(min(math.floor(h_max), 1 << 20))


@jit
def near_open_faces(
    starts: NDArray[np.int64],
    voxels: NDArray[np.int64],
    shape: tuple[int, int, int],
    margins: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Whether a voxel of each group lies in the margin inside one of the faces."""
    near = np.zeros(starts.size - 1, np.bool_)
    if not margins.any():
        return near
    for i in range(near.size):
        for j in range(starts[i], starts[i + 1]):
            if is_near_open_face(voxels[j], shape, margins):
                near[i] = True
                break
    return near


@jit
def is_near_open_face(p: int, shape: tuple[int, int, int], margins: NDArray[np.int64]) -> bool:
    """Whether a voxel lies in the margin inside one of the faces."""
    Z, Y, X = shape
    z, y, x = p // (Y * X), p // X % Y, p % X
    return bool(
        z < margins[0]
        or z >= Z - margins[1]
        or y < margins[2]
        or y >= Y - margins[3]
        or x < margins[4]
        or x >= X - margins[5]
    )


@jit
def find_window_maxima(
    image: NDArray[Any],
    starts: NDArray[np.int64],
    voxels: NDArray[np.int64],
    values: NDArray[Any],
    window: NDArray[np.int64],
    margins: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether a highest voxel of each group is the maximum of its window; and whether open faces clip all such windows.

    `window` is the reach clipped to the extent of the image.
    """
    _, Y, X = image.shape
    flat = image.reshape(-1)
    found = np.zeros(values.size, np.bool_)
    unsettled = np.zeros(values.size, np.bool_)
    for i in range(values.size):
        for j in range(starts[i], starts[i + 1]):
            p = voxels[j]
            if flat[p] != values[i] or compare_window(image, p // (Y * X), p // X % Y, p % X, window) < 0:
                continue
            found[i] = True
            unsettled[i] = is_near_open_face(p, image.shape, margins)
            if not unsettled[i]:
                break
    return found, unsettled
