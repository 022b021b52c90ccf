"""Fill the holes of a map from the cells around them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.clusters import label_cells
from cytolith.kernels.delaunay import MAX_EXTENT, between, fill_delaunay
from cytolith.kernels.jit import jit, jit_inline

PatchMethod = Literal["linear", "axes", "nearest", "harmonic"]

BAND_ENTRIES = 1 << 17
"""Entries (1 MiB) of a banded matrix up to which a hole is solved by a band rather than by a sparse factorisation."""


def patch_map(
    image: NDArray[Any], method: PatchMethod = "linear", *, only: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Fill the missing (NaN) cells of a map from its valid (finite) cells.

    Parameters
    ----------
    image
        (rows, columns), real numbers; not modified. Integers have no missing cells.
    method
        - ``"linear"``: linear within the Delaunay subdivision of the valid cells, nearest outside their convex hull.
          Valid cells on one empty circle stay one polygon and are weighted by Wachspress coordinates.
        - ``"axes"``: mean of the linear interpolation along the row, between the nearest valid cells left and right,
          and of the same along the column. Where one of the two lacks a valid cell on a side, the other alone; where
          both do, nearest.
        - ``"nearest"``: mean of all nearest valid cells (Euclidean distance).
        - ``"harmonic"``: each filled cell is the mean of its neighbours over edges (the discrete Laplace equation); at
          the border of the map the neighbours that exist count.
    only
        bool, (rows, columns): missing cells to fill; others stay NaN. Default all.

    Returns
    -------
    NDArray[np.float64]
        (rows, columns), in the unit of the image. All NaN when no cell is valid.

    Raises
    ------
    ValueError
        If the image is not two-dimensional or not of real numbers, holds an infinity or more than 2^20 rows or columns,
        if `only` is not a mask of its shape, or if the method is unknown.

    Notes
    -----
    Transposing or flipping a map does the same to the result, to the last bit (``"harmonic"``: up to rounding), and a
    hole becomes the same to the last bit in every window of the map that holds it (cells connected over edges) and the
    valid cells next to it. Filled values lie within the range of those they come from (``"harmonic"``: up to rounding).

    ``scipy.interpolate.griddata(method="linear")`` triangulates all valid cells, wherever the holes are, and leaves it
    to Qhull how polygons of four and more corners are cut: on the transposed map it differs from itself. ``"linear"``
    equals it where the subdivision is a triangulation and lies between the extremes of all triangulations elsewhere.

    Memory: 10 bytes a cell beside the result (``"harmonic"``: 7, and about 1.4 KB a cell of the largest hole).
    """
    if method not in get_args(PatchMethod):
        raise ValueError(f"method is {method!r}; allowed are {', '.join(get_args(PatchMethod))}")
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype.kind not in "biuf":
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}; a map (rows, columns) of real numbers is needed"
        )
    if max(image.shape) > MAX_EXTENT:
        raise ValueError(f"image has shape {image.shape}; at most {MAX_EXTENT} rows and columns can be patched")
    out = np.array(image, np.float64, order="C")
    if np.isinf(out).any():
        raise ValueError("image holds an infinity; mark missing cells with NaN")
    wanted = np.isnan(out)
    valid = out.size - int(np.count_nonzero(wanted))
    if only is not None:
        only = np.asarray(only)
        if only.dtype != np.bool_ or only.shape != image.shape:
            raise ValueError(f"only is {only.dtype} of shape {only.shape}; a bool mask of {image.shape} is needed")
        wanted &= only
    if valid == 0 or not wanted.any():
        return out
    if method == "harmonic":
        _fill_harmonic(wanted, out)
        return out
    left, right = np.empty(out.shape, np.int32), np.empty(out.shape, np.int32)
    _scan_rows(out, left, right)
    if method == "linear":
        fill_delaunay(left, right, wanted, out)
    elif method == "axes":
        _fill_axes(left, right, wanted, out)
    _fill_nearest(left, right, wanted, out)
    return out


def _fill_harmonic(wanted: NDArray[np.bool_], out: NDArray[np.float64]) -> None:
    """Solve hole by hole, so that what a hole becomes does not depend on the others in the window."""
    labels, count = label_cells(np.isnan(out))
    asked = np.zeros(count + 1, np.bool_)
    asked[labels[wanted]] = True
    cells = np.flatnonzero(asked[labels])
    hole = labels.ravel()[cells]
    cells = cells[np.argsort(hole, kind="stable")]  # hole by hole, each in raster order
    sizes = np.bincount(hole, minlength=count + 1)[asked]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    place = labels  # no longer needed: from now on, 1 + the place of a cell in its hole, and 0 where a cell is valid
    place.ravel()[cells] = 1 + np.arange(cells.size) - np.repeat(starts[:-1], sizes)
    degree, force = np.empty(cells.size), np.empty(cells.size)
    up, before = np.empty(cells.size, np.int32), np.empty(cells.size, np.int32)
    base = np.empty(sizes.size)
    _assemble(cells, starts, place, out, degree, force, up, before, base)
    solution = np.empty(cells.size)
    for k in np.flatnonzero(_solve_bands(starts, degree, force, up, before, solution)).tolist():
        part = slice(starts[k], starts[k + 1])
        solution[part] = _solve_sparse(degree[part], force[part], up[part], before[part])
    solution += np.repeat(base, sizes)
    fill = wanted.ravel()[cells]
    out.ravel()[cells[fill]] = solution[fill]


def _solve_sparse(
    degree: NDArray[np.float64], force: NDArray[np.float64], up: NDArray[np.int32], before: NDArray[np.int32]
) -> NDArray[np.float64]:
    from scipy import sparse  # a quarter of a second that other methods and small holes do not wait for
    from scipy.sparse.linalg import splu

    row = np.arange(degree.size)
    i = np.concatenate([row[up >= 0], row[before >= 0]])
    j = np.concatenate([up[up >= 0], before[before >= 0]])
    lower = sparse.csc_array((np.full(i.size, -1.0), (i, j)), shape=(row.size, row.size))
    matrix = sparse.csc_array(lower + lower.T + sparse.diags_array(degree))
    # the matrix is positive definite: keeping to its diagonal halves time and memory
    options = {"SymmetricMode": True}
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    solution: NDArray[np.float64] = factors.solve(force)
    return solution


@jit
def _scan_rows(image: NDArray[np.float64], left: NDArray[np.int32], right: NDArray[np.int32]) -> None:
    rows, columns = image.shape
    for y in range(rows):
        nearest = -1
        for x in range(columns):
            if not np.isnan(image[y, x]):
                nearest = x
            left[y, x] = nearest
        nearest = columns
        for x in range(columns - 1, -1, -1):
            if left[y, x] == x:
                nearest = x
            right[y, x] = nearest


@jit
def _fill_axes(
    left: NDArray[np.int32], right: NDArray[np.int32], wanted: NDArray[np.bool_], out: NDArray[np.float64]
) -> None:
    rows, columns = out.shape
    for y in range(rows):
        for x in range(columns):
            if wanted[y, x]:
                west, east = left[y, x], right[y, x]
                if west >= 0 and east < columns:
                    out[y, x] = between(x - west, out[y, west], east - x, out[y, east])
    for y in range(1, rows):
        for x in range(columns):
            if left[y, x] != x and left[y - 1, x] == x:  # a gap of the column begins
                south = y + 1
                while south < rows and left[south, x] != x:
                    south += 1
                if south == rows:
                    continue
                for k in range(y, south):
                    if wanted[k, x]:
                        along = between(k - y + 1, out[y - 1, x], south - k, out[south, x])
                        out[k, x] = along if np.isnan(out[k, x]) else 0.5 * (out[k, x] + along)


@jit
def _fill_nearest(
    left: NDArray[np.int32], right: NDArray[np.int32], wanted: NDArray[np.bool_], out: NDArray[np.float64]
) -> None:
    """Fill what is wanted and still missing, column by column.

    For the cell at row t, row y has its nearest valid cell at squared distance (t - y)^2 + d(y)^2 with d(y) along the
    row, that is t^2 + h(y) - 2 t y with h(y) = d(y)^2 + y^2: the smallest lies on the lower hull of the points (y, h),
    at or after the one of the row before.
    """
    rows, columns = out.shape
    here = np.zeros(columns, np.bool_)
    for y in range(rows):
        for x in range(columns):
            here[x] |= wanted[y, x] and np.isnan(out[y, x])
    hull = np.empty(rows, np.int64)
    height = np.empty(rows, np.int64)
    ties = np.empty(2 * rows)
    for x in range(columns):
        if not here[x]:
            continue
        n = 0
        for y in range(rows):
            reach = columns
            if left[y, x] >= 0:
                reach = x - left[y, x]
            if right[y, x] < columns:
                reach = min(reach, right[y, x] - x)
            if reach == columns:
                continue
            h = reach * reach + y * y
            # points on an edge of the hull stay: at one t they are equally near
            while n > 1 and (y - hull[n - 2]) * (height[n - 1] - height[n - 2]) > (hull[n - 1] - hull[n - 2]) * (
                h - height[n - 2]
            ):
                n -= 1
            hull[n], height[n] = y, h
            n += 1
        k = 0
        for t in range(rows):
            best = height[k] - 2 * t * hull[k]
            while k + 1 < n and height[k + 1] - 2 * t * hull[k + 1] < best:
                k += 1
                best = height[k] - 2 * t * hull[k]
            if not (wanted[t, x] and np.isnan(out[t, x])):
                continue
            m, count = k, 0
            while m < n and height[m] - 2 * t * hull[m] == best:
                y = hull[m]
                west, east = left[y, x], right[y, x]
                if west >= 0 and (x - west) * (x - west) + y * y == height[m]:
                    count = _insert(ties, count, out[y, west])
                if west < east < columns and (east - x) * (east - x) + y * y == height[m]:
                    count = _insert(ties, count, out[y, east])
                m += 1
            total = 0.0
            for i in range(count):
                total += ties[i]
            out[t, x] = min(max(total / count, ties[0]), ties[count - 1]) + 0.0


@jit_inline
def _insert(values: NDArray[np.float64], count: int, value: float) -> int:
    """Insert into sorted values; sums in sorted order do not depend on the way that a map is turned."""
    k = count
    while k > 0 and values[k - 1] > value:
        values[k] = values[k - 1]
        k -= 1
    values[k] = value
    return count + 1


@jit
def _assemble(
    cells: NDArray[np.int64],
    starts: NDArray[np.int64],
    place: NDArray[np.int32],
    out: NDArray[np.float64],
    degree: NDArray[np.float64],
    force: NDArray[np.float64],
    up: NDArray[np.int32],
    before: NDArray[np.int32],
    base: NDArray[np.float64],
) -> None:
    """Equations of all holes: degree * value = force + values of missing neighbours, all relative to base.

    The base of a hole is the lowest value around it, so that a hole in a plateau becomes the plateau to the last bit.
    `up` and `before` are the places of the missing neighbours that come earlier, -1 for none.
    """
    rows, columns = out.shape
    for hole in range(starts.size - 1):
        base[hole] = np.inf
        for turn in range(2):
            for i in range(starts[hole], starts[hole + 1]):
                y, x = cells[i] // columns, cells[i] % columns
                degree[i], force[i], up[i], before[i] = 0.0, 0.0, -1, -1
                for v, u in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
                    if v < 0 or v >= rows or u < 0 or u >= columns:
                        continue
                    degree[i] += 1.0
                    if place[v, u] == 0:
                        if turn == 0:
                            base[hole] = min(base[hole], out[v, u])
                        else:
                            force[i] += out[v, u] - base[hole]
                    elif v < y:
                        up[i] = place[v, u] - 1
                    elif u < x:
                        before[i] = place[v, u] - 1


@jit
def _solve_bands(
    starts: NDArray[np.int64],
    degree: NDArray[np.float64],
    force: NDArray[np.float64],
    up: NDArray[np.int32],
    before: NDArray[np.int32],
    solution: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Solve the small holes by Cholesky's factorisation within a band; True for holes that are left as too large."""
    large = np.zeros(starts.size - 1, np.bool_)
    store = np.empty(BAND_ENTRIES)
    for hole in range(starts.size - 1):
        a = starts[hole]
        n = starts[hole + 1] - a
        band = 0
        for i in range(n):
            for j in (up[a + i], before[a + i]):
                if j >= 0:
                    band = max(band, i - j)
        if n * (band + 1) > BAND_ENTRIES:
            large[hole] = True
            continue
        factor = store[: n * (band + 1)].reshape(n, band + 1)  # column j of row i lies at j - i + band
        factor[:] = 0.0
        for i in range(n):
            factor[i, band] = degree[a + i]
            for j in (up[a + i], before[a + i]):
                if j >= 0:
                    factor[i, j - i + band] = -1.0
            rest = force[a + i]
            for j in range(max(0, i - band), i + 1):
                term = factor[i, j - i + band]
                for k in range(max(0, i - band), j):
                    term -= factor[i, k - i + band] * factor[j, k - j + band]
                if j < i:
                    term /= factor[j, band]
                    rest -= term * solution[a + j]
                else:
                    term = np.sqrt(term)
                factor[i, j - i + band] = term
            solution[a + i] = rest / factor[i, band]
        for i in range(n - 1, -1, -1):
            solution[a + i] /= factor[i, band]
            for j in range(max(0, i - band), i):
                solution[a + j] -= factor[i, j - i + band] * solution[a + i]
    return large
