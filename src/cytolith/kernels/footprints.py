"""Footprints: which voxels around a voxel a filter looks at, rasterised exactly."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMS = ("disk", "cube")
"""Names that `footprint` knows."""


def ellipsoid(shape: Sequence[int]) -> NDArray[np.bool_]:
    """Rasterise an ellipsoid (in two dimensions: a disk or an ellipse) that fills a box of the given shape.

    A voxel is inside when ``sum(u ** 2) < 1``, strictly, with one coordinate per axis of extent n:
    ``u = (i - n // 2 + h) / (n - n // 2)`` and h = 1/2 for even n, 0 for odd n. So an even extent n has the half width
    n / 2, an odd one (n + 1) / 2: boxes of 3 x 3 and 5 x 5 are filled completely.

    Parameters
    ----------
    shape
        Extent along each axis in voxels, any number of axes.

    Returns
    -------
    NDArray[np.bool_]
        Mask of that shape, mirror symmetric along every axis. A very flat one can have empty outermost planes.

    Raises
    ------
    ValueError
        When an extent is not a positive whole number, or there is none.

    Notes
    -----
    The convention is that of ClearMap's structure element 'Disk'. The inequality is decided in whole numbers, the
    original's in floating point: in 2-d they agree for all shapes up to 80, of the 3-d shapes up to 15 they differ for
    13 x 13 x 13 alone.

    Examples
    --------
    >>> ellipsoid((4, 4)).astype(int)
    array([[0, 1, 1, 0],
           [1, 1, 1, 1],
           [1, 1, 1, 1],
           [0, 1, 1, 0]])
    """
    extents = _extents(shape)
    doubled = [2 * (np.arange(n) - n // 2) + (1 - n % 2) for n in extents]
    squares, limit = _sum_of_squares(doubled, [Fraction(2 * (n - n // 2)) for n in extents])
    return np.asarray(squares < limit, bool)


def box(shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return a mask of the given shape that is True everywhere (ClearMap's structure element 'Cube').

    Raises ValueError when an extent is not a positive whole number.
    """
    return np.ones(_extents(shape), bool)


def footprint(form: str, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return the footprint of a named form.

    Parameters
    ----------
    form
        "disk" (see `ellipsoid`) or "cube" (see `box`), upper or lower case.
    shape
        Extent along each axis in voxels.

    Raises
    ------
    ValueError
        When the form is unknown; the message names the nearest known one.
    """
    name = form.lower()
    if name == "disk":
        return ellipsoid(shape)
    if name == "cube":
        return box(shape)
    near = difflib.get_close_matches(name, FORMS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}{hint}")


def ball_offsets(shape: float | Sequence[float]) -> NDArray[np.int64]:
    """Return the offsets of all voxels whose centre lies within a ball, or ellipsoid, around a voxel.

    An offset d is inside when ``sum((d / r) ** 2) <= 1`` with the radii r = shape / 2, which need not be whole: a
    length in micrometres divided by the voxel size is a valid diameter. Diameter 2 gives a voxel and its 6 neighbours,
    3 the 19 voxels of a 3 x 3 x 3 box less its corners, anything below 2 the voxel alone.

    Parameters
    ----------
    shape
        Diameter in voxels, or three of them, (z, y, x).

    Returns
    -------
    NDArray[np.int64]
        Offsets (n, 3) in (z, y, x), sorted.

    Raises
    ------
    ValueError
        When a diameter is not a positive number, or there are not three.

    Notes
    -----
    ClearMap's ``measure_expression`` takes a whole radius r for which it uses the same rule: ``ball_offsets(2 * r)``.
    """
    diameters = np.asarray(shape, np.float64)
    if diameters.shape not in ((), (3,)) or not np.all(np.isfinite(diameters) & (diameters > 0)):
        raise ValueError(f"shape must be a positive diameter or three, (z, y, x), got {shape!r}")
    exact = [Fraction(float(d)) for d in np.broadcast_to(diameters, 3)]
    reach = [int(d / 2) for d in exact]
    doubled = [2 * np.arange(-r, r + 1) for r in reach]
    squares, limit = _sum_of_squares(doubled, exact)
    return np.argwhere(np.asarray(squares <= limit, bool)) - np.array(reach, np.int64)


def two_point_factors(mask: NDArray[np.bool_]) -> tuple[list[tuple[int, int]], NDArray[np.bool_]]:
    """Write a 2-d footprint as a Minkowski sum of pairs of points and a remaining core.

    ``mask = core + {0, v1} + {0, v2} + ...``, up to its position, with steps v = (dy, dx) that point down or right. An
    erosion by the mask is then an erosion by the core followed by one minimum of two values per step. Disks and boxes
    nearly always come apart completely, into a core of one voxel: a disk of diameter 70 is 34 pairs.

    Parameters
    ----------
    mask
        Footprint (Y, X) with at least one voxel.

    Returns
    -------
    steps
        The steps v, longest first.
    core
        The remaining mask, cut to its bounding box.

    Notes
    -----
    A mask has the factor {0, v} when each of its voxels p has p + v or p - v in the mask too, and a factor of what
    remains is one of the whole: so a step that failed once need not be tried again, and one sweep over the candidates
    does. The decomposition into pairs of points is that of Zhuang and Haralick, Morphological structuring element
    decomposition, CVGIP 35, 370-382, 1986.
    """
    core = trim(mask)
    steps: list[tuple[int, int]] = []
    for dy, dx in _candidate_steps(core):
        while (rest := _without_step(core, dy, dx)) is not None:
            core = rest
            steps.append((dy, dx))
    return steps, core


def trim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cut a 2-d mask to the bounding box of its voxels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _extents(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        extents = tuple(int(n) for n in shape)
        whole = all(int(n) == n for n in shape)
    except (TypeError, ValueError):
        extents, whole = (), False
    if not extents or not whole or min(extents) < 1:
        raise ValueError(f"shape must be one positive whole number per axis, got {shape!r}")
    return extents


def _sum_of_squares(coordinates: list[NDArray[Any]], lengths: list[Fraction]) -> tuple[NDArray[Any], int]:
    """Sum over axes of (coordinate / length) ** 2 on the grid of all coordinates, times the limit returned with it.

    Whole numbers throughout, so that a voxel that lies exactly on the surface falls the same way on each side; Python's
    own when 64 bits could overflow.
    """
    limit = prod(length.numerator**2 for length in lengths)
    factors = [length.denominator**2 * (limit // length.numerator**2) for length in lengths]
    largest = sum(f * max(1, int(np.abs(c).max())) ** 2 for c, f in zip(coordinates, factors, strict=True))
    integer = np.int64 if max(limit, largest) < 2**63 else object
    total: NDArray[Any] = np.zeros((), integer)
    for axis, (coordinate, factor) in enumerate(zip(coordinates, factors, strict=True)):
        along = [1] * len(lengths)
        along[axis] = -1
        total = total + (coordinate.astype(integer) ** 2 * factor).reshape(along)
    return total, limit


_LONGEST_SLANTED_STEP = 32
"""Steps that are neither horizontal nor vertical come from the slanted edges of a mask, which are short."""


def _candidate_steps(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Steps for which the outermost voxels of the mask have a partner, longest first."""
    height, width = mask.shape
    down, right = min(height - 1, _LONGEST_SLANTED_STEP), min(width - 1, _LONGEST_SLANTED_STEP)
    steps = [(dy, dx) for dy in range(down + 1) for dx in range(-right, right + 1) if dy > 0 or dx > 0]
    steps += [(dy, 0) for dy in range(down + 1, height)] + [(0, dx) for dx in range(right + 1, width)]
    candidates = np.array(steps, np.int64).reshape(-1, 2)
    around = np.pad(mask, ((height, height), (width, width)))
    voxels = np.argwhere(mask)
    keep = np.ones(len(candidates), bool)
    for y_sign, x_sign in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        for major in (0, 1):
            order = (y_sign * voxels[:, 0], x_sign * voxels[:, 1])
            y, x = voxels[np.lexsort((order[1 - major], order[major]))[0]] + (height, width)
            ahead = around[y + candidates[:, 0], x + candidates[:, 1]]
            keep &= ahead | around[y - candidates[:, 0], x - candidates[:, 1]]
    kept = [(int(dy), int(dx)) for dy, dx in candidates[keep]]
    return sorted(kept, key=lambda step: -(abs(step[0]) + abs(step[1])))


def _without_step(mask: NDArray[np.bool_], dy: int, dx: int) -> NDArray[np.bool_] | None:
    """Return the largest rest with ``rest + {0, (dy, dx)} == mask``, or None when there is none."""
    height, width = mask.shape
    if dy >= height or abs(dx) >= width:
        return None
    here = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
    there = (slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
    rest = mask[here] & mask[there]
    rebuilt = np.zeros_like(mask)
    rebuilt[here] = rest
    rebuilt[there] |= rest
    return trim(rest) if np.array_equal(rebuilt, mask) else None
