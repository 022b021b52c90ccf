"""Linear interpolation over the Delaunay subdivision of a map's valid cells, found only where cells are missing.

Nothing is triangulated. A missing cell asks for the one polygon of the subdivision that it lies in: a triangle of valid
cells around it is pivoted, corner by corner, until no valid cell is left inside its circumcircle. All cells of the
polygon are filled at once, so each polygon is looked for once.

Why a window will do: the lattice points strictly inside an empty circle are connected over edges and all of them are
missing; a point of the circle has an edge neighbour strictly inside whenever another lattice point is. So every corner
of a polygon around a missing cell is an edge neighbour of the hole (4-connected) that the cell belongs to, and no cell
beyond that rim can matter.

Why it is exact: corners are whole numbers, so every decision (which side of a line, inside which circle) is the sign of
a whole number. See `_depth` for the one that may exceed 64 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.jit import jit, jit_inline

_NEAR = 32
"""Rows above and below a cell that are looked at before those farther away."""
MAX_EXTENT = 1 << 20
"""Rows or columns up to which every sign is exact: 4 MAX_EXTENT^3 is below 2^63."""


def fill_delaunay(
    left: NDArray[np.int32], right: NDArray[np.int32], wanted: NDArray[np.bool_], out: NDArray[np.float64]
) -> None:
    """Fill cells of a map linearly within the polygons of the Delaunay subdivision of its valid cells.

    The subdivision has an edge wherever a circle through two valid cells holds no other, inside or on it; valid cells
    on one empty circle stay one convex polygon, which a triangulation would cut by chance. Within a triangle, values
    are barycentric; with more corners they are weighted by Wachspress coordinates, which are positive, reproduce every
    plane, are linear along edges, and lie between the lowest and the highest of all ways to cut the polygon. Terms are
    added in the order of weight and value, so turning the map turns the result to the last bit. Cells outside the
    convex hull are left alone. When all valid cells lie on one line, cells between two of them are linear along it.

    Parameters
    ----------
    left, right
        int32, (rows, columns): column of the nearest valid cell in the row, at or left (right) of each cell; where
        there is none, -1 (number of columns). At least one cell is valid.
    wanted
        bool, (rows, columns): missing cells to fill.
    out
        float64, (rows, columns): values of valid cells, NaN elsewhere; filled in place.

    Notes
    -----
    Rows and columns at most `MAX_EXTENT`. Wachspress, *A Rational Finite Element Basis* (1975); Meyer et al.,
    "Generalized barycentric coordinates on irregular polygons", J. Graphics Tools 7 (2002).
    """
    span = np.empty((2, 2, left.shape[0]), np.int32)
    if _span_hull(left, right, span):
        _fill_inside(left, right, wanted, span, out)
    else:
        _fill_line(right, wanted, out)


@jit_inline
def between(near: float, value: float, far: float, other: float) -> float:
    """Linear interpolation between two values at distances `near` and `far`, within their range to the last bit."""
    low, high = min(value, other), max(value, other)
    # adding 0.0 makes a negative zero positive: which of two zeros is the lower one depends on their order
    return min(max((far * value + near * other) / (near + far), low), high) + 0.0


@jit_inline
def _cross(uy: int, ux: int, vy: int, vx: int) -> int:
    return uy * vx - ux * vy


@jit_inline
def _depth(area: int, ny: int, nx: int, zy: int, zx: int) -> float:
    """Negative inside, 0 on, positive outside the circle through 0 given by area |z|^2 = n.z; the sign is exact.

    Wrapped integers are right while the true value fits 64 bits, and floats tell when it does not: then they are far
    too large to have the wrong sign.
    """
    square = zy * zy + zx * zx
    rough = float(area) * float(square) - (float(ny) * float(zy) + float(nx) * float(zx))
    if abs(rough) > 2.0**60:
        return rough
    return float(area * square - (ny * zy + nx * zx))


@jit_inline
def _side(py: int, px: int, qy: int, qx: int, cy: int, cx: int, uy: int, ux: int) -> int:
    """Side of the line p -> q that c lies on after an infinitely small step along u and a far smaller one across it."""
    dy, dx = qy - py, qx - px
    side = _cross(dy, dx, cy - py, cx - px)
    if side == 0:
        side = _cross(dy, dx, uy, ux)
    if side == 0:
        side = _cross(dy, dx, -ux, uy)
    return side


@jit
def _span_hull(left: NDArray[np.int32], right: NDArray[np.int32], span: NDArray[np.int32]) -> bool:
    """Edges of the convex hull that each row crosses; False when the hull has no area.

    span[side, 0 and 1, y] are the rows of the two ends of the edge on the left (0) or right (1); their columns are the
    first (last) valid cell of these rows. -1 above and below the hull.
    """
    rows, columns = left.shape
    chain = np.empty(rows, np.int64)
    straight = True
    for side in range(2):
        span[side] = -1
        sign = 1 - 2 * side
        n = 0
        for y in range(rows):
            x = right[y, 0] if side == 0 else left[y, columns - 1]
            if x < 0 or x == columns:
                continue
            while n > 1:
                a, b = chain[n - 2], chain[n - 1]
                ax = right[a, 0] if side == 0 else left[a, columns - 1]
                bx = right[b, 0] if side == 0 else left[b, columns - 1]
                if sign * _cross(b - a, bx - ax, y - a, x - ax) > 0:
                    break
                n -= 1
            chain[n] = y
            n += 1
        for i in range(n - 1):
            for y in range(chain[i], chain[i + 1] + 1):
                span[side, 0, y], span[side, 1, y] = chain[i], chain[i + 1]
        if n == 1:
            return False  # one row
        for end in (chain[0], chain[n - 1]):
            straight = straight and right[end, 0] == left[end, columns - 1]
        straight = straight and n == 2
    return not straight


@jit
def _fill_line(right: NDArray[np.int32], wanted: NDArray[np.bool_], out: NDArray[np.float64]) -> None:
    rows, columns = right.shape
    ay, ax = -1, -1
    for y in range(rows):
        x = int(right[y, 0])
        while x < columns:
            if ay >= 0:
                dy, dx = y - ay, x - ax
                steps, rest = dy, abs(dx)
                while rest != 0:
                    steps, rest = rest, steps % rest
                length = max(dy, abs(dx))
                for k in range(1, steps):
                    cy, cx = ay + k * dy // steps, ax + k * dx // steps
                    if wanted[cy, cx]:
                        near = k * length // steps
                        out[cy, cx] = between(near, out[ay, ax], length - near, out[y, x])
            ay, ax = y, x
            x = int(right[y, x + 1]) if x + 1 < columns else columns


@jit
def _fill_inside(
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    wanted: NDArray[np.bool_],
    span: NDArray[np.int32],
    out: NDArray[np.float64],
) -> None:
    rows, columns = left.shape
    corners = np.empty((2 * rows, 2), np.int64)  # a circle meets a row at most twice
    area = np.empty(2 * rows)
    edge = np.empty(2 * rows)
    weight = np.empty(2 * rows)
    value = np.empty(2 * rows)
    for y in range(rows):
        for x in range(columns):
            if wanted[y, x] and np.isnan(out[y, x]):
                triangle = _first_triangle(y, x, left, right, span)
                if triangle[0] >= 0:
                    n = _polygon_around(y, x, triangle, left, right, corners)
                    _fill_polygon(corners[:n], wanted, out, area, edge, weight, value)


@jit
def _first_triangle(
    y: int, x: int, left: NDArray[np.int32], right: NDArray[np.int32], span: NDArray[np.int32]
) -> tuple[int, int, int, int, int, int]:
    """Any triangle of valid cells that a cell lies in, (y, x) of each corner; all -1 outside the hull."""
    rows, columns = left.shape
    outside = (-1, -1, -1, -1, -1, -1)
    if span[0, 0, y] < 0:
        return outside
    p, q = int(span[0, 0, y]), int(span[0, 1, y])
    s, t = int(span[1, 0, y]), int(span[1, 1, y])
    px, qx = int(right[p, 0]), int(right[q, 0])
    sx, tx = int(left[s, columns - 1]), int(left[t, columns - 1])
    if _cross(q - p, qx - px, y - p, x - px) < 0 or _cross(t - s, tx - sx, y - s, x - sx) > 0:
        return outside
    # a small triangle leaves little to pivot: two valid cells with this one between them, and another close by
    west, east = int(left[y, x]), int(right[y, x])
    if west >= 0 and east < columns:
        for k in range(1, rows):
            for r in (y - k, y + k):
                if 0 <= r < rows:
                    before, after = int(left[r, x]), int(right[r, x])
                    if before >= 0 and (after == columns or x - before <= after - x):
                        return (y, west, y, east, r, before)
                    if after < columns:
                        return (y, west, y, east, r, after)
    north, south = y - 1, y + 1
    while north >= max(0, y - _NEAR) and left[north, x] != x:
        north -= 1
    while south < min(rows, y + _NEAR) and left[south, x] != x:
        south += 1
    if north >= max(0, y - _NEAR) and south < min(rows, y + _NEAR):
        if west >= 0:
            return (north, x, south, x, y, west)
        if east < columns:
            return (north, x, south, x, y, east)
    # else the two edges of the hull that the row crosses do: the cell lies between them
    for triangle in ((p, px, q, qx, s, sx), (p, px, q, qx, t, tx), (s, sx, t, tx, p, px), (s, sx, t, tx, q, qx)):
        ay, ax, by, bx, dy, dx = triangle
        area = _cross(by - ay, bx - ax, dy - ay, dx - ax)
        sign = -1 if area < 0 else 1
        if (
            area != 0
            and sign * _cross(by - ay, bx - ax, y - ay, x - ax) >= 0
            and sign * _cross(dy - by, dx - bx, y - by, x - bx) >= 0
            and sign * _cross(ay - dy, ax - dx, y - dy, x - dx) >= 0
        ):
            return triangle
    return outside  # not reached: one of the four holds the cell


@jit
def _polygon_around(
    y: int,
    x: int,
    triangle: tuple[int, int, int, int, int, int],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    corners: NDArray[np.int64],
) -> int:
    """Write the corners of the polygon that a cell lies in, in their order around it, and return their number.

    Lift every cell p to the height |p|^2: the subdivision is the lower hull of the lifted valid cells. A cell inside
    the circumcircle lies below the plane of the triangle, so taking it in as a corner lowers the plane at the cell we
    ask for. Heights only fall and triangles are finitely many, so the loop ends. The cell is moved by an infinitely
    small step into the first triangle and off every line, so that it is always strictly inside.
    """
    rows, columns = left.shape
    ay, ax, by, bx, dy, dx = triangle
    if _cross(by - ay, bx - ax, dy - ay, dx - ax) < 0:
        by, bx, dy, dx = dy, dx, by, bx
    uy, ux = ay + by + dy - 3 * y, ax + bx + dx - 3 * x
    if uy == 0 and ux == 0:  # at the centre any step will do
        uy = 1
    while True:
        # the circle, as seen from a: area |z|^2 = n.z, with its centre at n / (2 area)
        py, px, qy, qx = by - ay, bx - ax, dy - ay, dx - ax
        p2, q2 = py * py + px * px, qy * qy + qx * qx
        area = _cross(py, px, qy, qx)
        ny, nx = p2 * qx - q2 * px, q2 * py - p2 * qy
        column = ax + nx // (2 * area)
        before, after = min(column, columns - 1), max(column + 1, 0)
        # rows that the disc crosses within the columns of the map; a row too many does no harm
        radius = np.hypot(float(ny), float(nx)) / (2.0 * area)
        middle = ax + nx / (2.0 * area)
        off = max(0.0, -middle, middle - (columns - 1))
        half = np.sqrt(max(0.0, (radius - off) * (radius + off)) + 1e-13 * radius * radius) + 1e-3
        middle = ay + ny / (2.0 * area)
        first = int(max(0.0, np.ceil(middle - half)))
        last = int(min(rows - 1.0, np.floor(middle + half)))
        # along a row the depth grows away from the column of the centre, so two cells a row are all that count
        # any cell inside will do: one close by leaves a smaller circle, so rows far away are seldom gone through
        deepest, ey, ex = 0.0, -1, -1
        reach = _NEAR
        while True:
            low, high = max(first, y - reach), min(last, y + reach)
            for r in range(low, high + 1):
                if before >= 0:
                    c = int(left[r, before])
                    if c >= 0:
                        depth = _depth(area, ny, nx, r - ay, c - ax)
                        if depth < deepest:
                            deepest, ey, ex = depth, r, c
                if after < columns:
                    c = int(right[r, after])
                    if c < columns:
                        depth = _depth(area, ny, nx, r - ay, c - ax)
                        if depth < deepest:
                            deepest, ey, ex = depth, r, c
            if ey >= 0 or (low == first and high == last):
                break
            reach *= 8
        if ey < 0:
            break
        # of the corners around, one has the cell on its left and the next has it on its right: keep those two
        on_a = _side(ey, ex, ay, ax, y, x, uy, ux) > 0
        on_b = _side(ey, ex, by, bx, y, x, uy, ux) > 0
        on_d = _side(ey, ex, dy, dx, y, x, uy, ux) > 0
        if on_a and not on_b:
            dy, dx = ey, ex
        elif on_b and not on_d:
            ay, ax = ey, ex
        else:
            by, bx = ey, ex
    n = 0
    if before >= 0:
        for r in range(first, last + 1):
            c = int(left[r, before])
            if c >= 0 and _depth(area, ny, nx, r - ay, c - ax) == 0.0:
                corners[n, 0], corners[n, 1] = r, c
                n += 1
    if after < columns:
        for r in range(last, first - 1, -1):
            c = int(right[r, after])
            if c < columns and _depth(area, ny, nx, r - ay, c - ax) == 0.0:
                corners[n, 0], corners[n, 1] = r, c
                n += 1
    return n


@jit
def _fill_polygon(
    corners: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    out: NDArray[np.float64],
    area: NDArray[np.float64],
    edge: NDArray[np.float64],
    weight: NDArray[np.float64],
    value: NDArray[np.float64],
) -> None:
    n = corners.shape[0]
    top, bottom = corners[0, 0], corners[0, 0]
    for i in range(n):
        h, j = (i - 1) % n, (i + 1) % n
        ay, ax = corners[i, 0], corners[i, 1]
        top, bottom = min(top, ay), max(bottom, ay)
        area[i] = abs(_cross(corners[h, 0] - ay, corners[h, 1] - ax, corners[j, 0] - ay, corners[j, 1] - ax))
    for y in range(top, bottom + 1):
        first, last = out.shape[1], -1
        for i in range(n):
            j = (i + 1) % n
            by, bx, height = corners[i, 0], corners[i, 1], corners[j, 0] - corners[i, 0]
            if height != 0 and min(by, by + height) <= y <= max(by, by + height):
                run = (corners[j, 1] - bx) * (y - by)
                first = min(first, bx - (-run // height))
                last = max(last, bx + run // height)
        for x in range(first, last + 1):
            if wanted[y, x] and np.isnan(out[y, x]):
                out[y, x] = _value_inside(y, x, corners, out, area, edge, weight, value)


@jit
def _value_inside(
    y: int,
    x: int,
    corners: NDArray[np.int64],
    out: NDArray[np.float64],
    area: NDArray[np.float64],
    edge: NDArray[np.float64],
    weight: NDArray[np.float64],
    value: NDArray[np.float64],
) -> float:
    """Value at a cell of the closed polygon, from areas of triangles (all doubled, and whole numbers)."""
    n = corners.shape[0]
    for i in range(n):
        j = (i + 1) % n
        ay, ax, by, bx = corners[i, 0], corners[i, 1], corners[j, 0], corners[j, 1]
        doubled = _cross(ay - y, ax - x, by - y, bx - x)
        if doubled == 0:  # on an edge; the polygon on its other side must agree to the last bit
            near, far = max(abs(ay - y), abs(ax - x)), max(abs(by - y), abs(bx - x))
            return between(near, out[ay, ax], far, out[by, bx])
        edge[i] = abs(doubled)
    low, high = np.inf, -np.inf
    for i in range(n):
        v = out[corners[i, 0], corners[i, 1]]
        low, high = min(low, v), max(high, v)
        w = edge[(i + 1) % n] if n == 3 else area[i] / (edge[(i - 1) % n] * edge[i])
        k = i
        while k > 0 and (weight[k - 1] > w or (weight[k - 1] == w and value[k - 1] > v)):
            weight[k], value[k] = weight[k - 1], value[k - 1]
            k -= 1
        weight[k], value[k] = w, v
    total, weights = 0.0, 0.0
    for i in range(n):
        total += weight[i] * value[i]
        weights += weight[i]
    return min(max(total / weights, low), high) + 0.0
