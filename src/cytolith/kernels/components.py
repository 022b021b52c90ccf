"""The mask of an image as runs along x, and its connected components, without any image of labels.

After thresholding a few per cent of the voxels are left. Held as runs they cost a few bytes each, and everything later
(components, shapes, measurements) is work on those voxels alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.axes import Shape
from cytolith.kernels.jit import jit, jit_inline

_REACH = {6: 1, 18: 2, 26: 3}  # how many of the three axes may differ by one between connected voxels


class MaskTooLargeError(ValueError):
    """The mask holds more voxels than the caller allowed; `voxels` says how many."""

    def __init__(self, voxels: int, limit: int) -> None:
        super().__init__(f"threshold: {voxels} voxels are above it, only {limit} are allowed; use a higher threshold")
        self.voxels = voxels
        self.limit = limit


class TooManyRunsError(ValueError):
    """The mask has more runs than the caller allowed; `runs` says how many."""

    def __init__(self, runs: int, limit: int) -> None:
        super().__init__(f"image: {runs} runs of mask voxels, only {limit} are allowed")
        self.runs = runs
        self.limit = limit


@dataclass(frozen=True, eq=False)
class Runs:
    """A mask as runs of voxels along x, sorted by (z, y, x).

    Arrays with one entry a mask voxel ("compact" arrays) are laid out run by run: the voxels of run ``r`` are
    ``offset[r]:offset[r + 1]``, and compact voxel ``k`` of run ``r`` lies at ``x = start[r] + k - offset[r]``.

    Attributes
    ----------
    shape
        Extent (z, y, x) of the image.
    row_start
        int64, (Z * Y + 1,): index of the first run of each row ``z * Y + y``.
    start, stop
        int32, (n_runs,): the half-open range of each run along x. Runs of a row do not touch each other.
    offset
        int64, (n_runs + 1,): the number of mask voxels before each run; the last entry counts them all.
    """

    shape: Shape
    row_start: NDArray[np.int64]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    offset: NDArray[np.int64]

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.start)

    @property
    def n_voxels(self) -> int:
        """Number of voxels of the mask."""
        return int(self.offset[-1])


def mask_runs(
    image: ArrayLike, threshold: float | None, *, limit: int | None = None, most_runs: int | None = None
) -> Runs:
    """Runs of the mask ``image > threshold``.

    Parameters
    ----------
    image
        (z, y, x), uint8, uint16, int16 or float32. bool is read as uint8, float64 is rounded to float32; another
        memory order or byte order is copied.
    threshold
        A voxel belongs to the mask when its value is greater, compared in the dtype of the image as NumPy does. None:
        every voxel belongs to it. NaN never does.
    limit
        Largest number of mask voxels allowed. They are counted before anything of their size is allocated.
    most_runs
        Largest number of runs allowed, counted before as well.

    Returns
    -------
    Runs
        16 bytes a run; nothing of the size of the image or of the mask.

    Raises
    ------
    MaskTooLargeError
        When the mask holds more than `limit` voxels.
    TooManyRunsError
        When the mask has more than `most_runs` runs.
    ValueError
        When the image is not 3-D, its dtype is another one, or the threshold is NaN.

    Examples
    --------
    >>> runs = mask_runs(np.array([[[0, 5, 6, 0, 7]]], np.uint8), 0)
    >>> runs.start, runs.stop, runs.offset
    (array([1, 4], dtype=int32), array([3, 5], dtype=int32), array([0, 2, 3]))
    """
    image = as_image(image)
    Z, Y, X = image.shape
    level, everything = mask_level(image.dtype, threshold)
    rows = image.reshape(Z * Y, X)
    row_start = np.zeros(Z * Y + 1, np.int64)
    mask = np.zeros(-(-X // 8) * 8 + 8, np.uint8)  # a spare word closes runs that end with the row
    n_voxels = int(_count_runs(rows, level, everything, mask, mask.view(np.uint64), row_start))
    if limit is not None and n_voxels > limit:
        raise MaskTooLargeError(n_voxels, limit)
    n_runs = int(row_start[-1])
    if most_runs is not None and n_runs > most_runs:
        raise TooManyRunsError(n_runs, most_runs)
    start, stop = np.empty(n_runs, np.int32), np.empty(n_runs, np.int32)
    offset = np.empty(n_runs + 1, np.int64)
    ends = np.empty(X + 16, np.int32)
    _find_runs(rows, level, everything, mask, mask.view(np.uint64), row_start, ends, start, stop, offset)
    return Runs((Z, Y, X), row_start, start, stop, offset)


def connect_runs(runs: Runs, connectivity: int = 6) -> tuple[NDArray[np.int32], int]:
    """Connected components of a mask.

    Parameters
    ----------
    runs
        The mask.
    connectivity
        6: voxels that share a face are connected; 18: or an edge; 26: or a corner.

    Returns
    -------
    component
        int32, (n_runs,): the component of each run, 0 ... count - 1, numbered by their first voxels in (z, y, x) order,
        as ``scipy.ndimage.label`` numbers them (less one).
    count
        Number of components.

    Raises
    ------
    ValueError
        When the connectivity is another number, or there are more than 2^31 - 1 runs.

    Notes
    -----
    Union-find over runs: rows that can touch are walked side by side, so memory is read in order only.

    Examples
    --------
    >>> runs = mask_runs(np.array([[[1, 0, 1], [1, 0, 0], [0, 1, 1]]], np.uint8), 0)
    >>> connect_runs(runs, 6)
    (array([0, 1, 0, 2], dtype=int32), 3)
    >>> connect_runs(runs, 26)
    (array([0, 1, 0, 0], dtype=int32), 2)
    """
    if connectivity not in _REACH:
        raise ValueError(f"connectivity: {connectivity!r} is not one of 6, 18, 26")
    if runs.n_runs > np.iinfo(np.int32).max:
        raise ValueError(f"runs: {runs.n_runs} runs, at most 2**31 - 1 can be connected at once")
    component = np.empty(runs.n_runs, np.int32)
    Z, Y, _ = runs.shape
    count = int(_connect_runs(Z, Y, runs.row_start, runs.start, runs.stop, _REACH[connectivity], component))
    return component, count


def scatter(runs: Runs, values: NDArray[Any], out: NDArray[Any]) -> None:
    """Write the values of a mask's voxels to their places in an image, which otherwise stays as it is.

    Parameters
    ----------
    runs
        The mask.
    values
        (n_voxels,), run by run, see `Runs`: uint8, uint16, int16 or float32.
    out
        (z, y, x) of the mask, C-contiguous, of the dtype of the values.

    Raises
    ------
    ValueError
        When the values are not one a voxel of the mask, or `out` has another shape, dtype or memory order.
    """
    if values.shape != (runs.n_voxels,):
        raise ValueError(f"values: shape {values.shape} given, one for each of {runs.n_voxels} voxels is needed")
    if out.shape != runs.shape or out.dtype != values.dtype or not out.flags.c_contiguous:
        raise ValueError(f"out: {out.dtype} {out.shape} given, C-contiguous {values.dtype} {runs.shape} is needed")
    Z, Y, X = runs.shape
    _scatter(runs.row_start, runs.start, runs.stop, runs.offset, values, out.reshape(Z * Y, X))


def as_image(image: ArrayLike, name: str = "image") -> NDArray[Any]:
    """Check an image and bring it into the form the compiled loops take: 3-D, C-contiguous, a known native dtype."""
    array = np.asarray(image)
    if array.ndim != 3:
        raise ValueError(f"{name}: {array.ndim} axes given, 3 (z, y, x) are needed")
    native = array.dtype.newbyteorder("=")
    if native == np.bool_:
        return np.ascontiguousarray(array).view(np.uint8)
    if native == np.float64:
        return np.ascontiguousarray(array, np.float32)
    if native not in (np.uint8, np.uint16, np.int16, np.float32):
        raise ValueError(f"{name}: dtype {array.dtype} is not one of uint8, uint16, int16, float32, float64, bool")
    return np.ascontiguousarray(array, native)


def mask_level(dtype: np.dtype[Any], threshold: float | None) -> tuple[Any, bool]:
    """Threshold of a mask as a value of the image's dtype, and whether every value passes it but NaN."""
    if threshold is None:
        return dtype.type(0), True
    if math.isnan(threshold):
        raise ValueError("threshold: nan given, a number or None is needed")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(threshold), False
    info = np.iinfo(dtype)
    if threshold < info.min:
        return dtype.type(0), True
    return dtype.type(min(math.floor(min(threshold, info.max)), info.max)), False


@jit
def _scatter(
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    offset: NDArray[np.int64],
    values: NDArray[Any],
    rows: NDArray[Any],
) -> None:
    for row in range(rows.shape[0]):
        for r in range(row_start[row], row_start[row + 1]):
            first = offset[r] - start[r]
            for x in range(start[r], stop[r]):
                rows[row, x] = values[first + x]


@jit
def _mark_row(row: NDArray[Any], level: Any, everything: bool, mask: NDArray[np.uint8]) -> None:
    """Write 1 where the row belongs to the mask."""
    if everything:
        for x in range(row.size):
            mask[x] = row[x] == row[x]  # NaN differs from itself
    else:
        for x in range(row.size):
            mask[x] = row[x] > level


@jit
def _count_runs(
    rows: NDArray[Any],
    level: Any,
    everything: bool,
    mask: NDArray[np.uint8],
    words: NDArray[np.uint64],
    row_start: NDArray[np.int64],
) -> int:
    """Fill `row_start`; returns the number of mask voxels. Eight bytes of the mask are looked at in one word."""
    ones, byte, top = np.uint64(0x0101010101010101), np.uint64(8), np.uint64(56)
    voxels, runs = np.uint64(0), np.uint64(0)
    for r in range(rows.shape[0]):
        _mark_row(rows[r], level, everything, mask)
        before = np.uint64(0)  # the last byte of the word before
        for w in range(words.size):
            word = words[w]
            if word != 0:
                voxels += (word * ones) >> top
                runs += ((word & ~((word << byte) | before)) * ones) >> top
            before = word >> top
        row_start[r + 1] = runs
    return int(voxels)


@jit
def _find_runs(
    rows: NDArray[Any],
    level: Any,
    everything: bool,
    mask: NDArray[np.uint8],
    words: NDArray[np.uint64],
    row_start: NDArray[np.int64],
    ends: NDArray[np.int32],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    offset: NDArray[np.int64],
) -> None:
    """Fill the runs of the rows that have any. A run starts and stops where the mask differs from the voxel before."""
    byte, top, one = np.uint64(8), np.uint64(56), np.uint64(1)
    voxels = 0
    for r in range(rows.shape[0]):
        first = row_start[r]
        n = row_start[r + 1] - first
        if n == 0:
            continue
        _mark_row(rows[r], level, everything, mask)
        found = 0
        before = np.uint64(0)
        for w in range(words.size):
            word = words[w]
            edges = word ^ ((word << byte) | before)
            before = word >> top
            if edges != 0:
                for k in range(8):  # no branch: each position is written, and kept when there is an edge
                    ends[found] = 8 * w + k
                    found += int((edges >> np.uint64(8 * k)) & one)
        for i in range(n):
            start[first + i] = ends[2 * i]
            stop[first + i] = ends[2 * i + 1]
            offset[first + i] = voxels
            voxels += ends[2 * i + 1] - ends[2 * i]
    offset[start.size] = voxels


@jit_inline
def _root(parent: NDArray[np.int32], run: int) -> int:
    """First run of the tree that a run belongs to so far; halves the way there."""
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@jit
def _join_rows(
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    a: int,
    a_end: int,
    b: int,
    b_end: int,
    slack: int,
    parent: NDArray[np.int32],
) -> None:
    """Join runs a ... of an earlier row with the runs b ... that they touch; slack 1: also diagonally."""
    while a < a_end and b < b_end:
        if stop[a] + slack <= start[b]:
            a += 1
        elif stop[b] + slack <= start[a]:
            b += 1
        else:
            s, t = _root(parent, a), _root(parent, b)
            if s < t:  # the earlier run is the root: numbering by first voxel comes for free
                parent[t] = s
            elif t < s:
                parent[s] = t
            if stop[a] < stop[b]:
                a += 1
            else:
                b += 1


@jit
def _connect_runs(
    Z: int,
    Y: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    reach: int,
    parent: NDArray[np.int32],
) -> int:
    """Fill `parent` with the component of each run; returns their number. `reach`: axes that may differ at once."""
    for i in range(parent.size):
        parent[i] = i
    along = 1 if reach >= 2 else 0  # rows that differ in one axis: may x differ too?
    across = 1 if reach >= 3 else 0  # rows that differ in two axes
    for z in range(Z):
        for y in range(Y):
            row = z * Y + y
            b, b_end = row_start[row], row_start[row + 1]
            if b == b_end:
                continue
            if z > 0:
                above = row - Y
                if reach >= 2 and y > 0:
                    _join_rows(start, stop, row_start[above - 1], row_start[above], b, b_end, across, parent)
                _join_rows(start, stop, row_start[above], row_start[above + 1], b, b_end, along, parent)
                if reach >= 2 and y < Y - 1:
                    _join_rows(start, stop, row_start[above + 1], row_start[above + 2], b, b_end, across, parent)
            if y > 0:
                _join_rows(start, stop, row_start[row - 1], row_start[row], b, b_end, along, parent)
    count = 0
    for i in range(parent.size):
        if parent[i] == i:
            parent[i] = count
            count += 1
        else:  # a parent comes earlier, so it already holds its number
            parent[i] = parent[parent[i]]
    return count
