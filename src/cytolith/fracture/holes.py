"""Patching of a map too large for memory: every hole from a window of rows, or from its own box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cytolith.fracture.labelling import Labelling, label_slab, runs_of_slab
from cytolith.io.row_file import RowFile
from cytolith.kernels.clusters import label_cells, paint_runs
from cytolith.kernels.patching import PatchMethod, patch_map


def patch_rows(read: Callable[[int, int], NDArray[np.float64]], out: RowFile, method: str, rows_at_once: int) -> None:
    """Patch the map whose rows start ... stop - 1 `read` gives, and which has some valid cell, into `out`.

    What was in `out` does not matter. A strip owns the holes whose first row lies in it. It sees one row more above,
    where holes of other strips show themselves, and below as many rows as its holes take and one more, so that all
    around each of them is seen: a hole's values depend on nothing else (see `patch_map`). Holes that go on for several
    strips, such as a margin without fracture, come last and one by one, each in its own box.
    """
    rows = out.shape[0]
    tall = False
    for start in range(0, rows, rows_at_once):
        stop = min(start + rows_at_once, rows)
        top, bottom = max(start - 1, 0), min(stop + 1 + rows_at_once // 4, rows)
        furthest = _furthest(start, rows_at_once, rows)
        while True:
            window = read(top, bottom)
            hole, own = _own_holes(np.isnan(window), start - top, stop - top)
            reaching = own & _occurring(hole[-1], len(own)) if bottom < rows else np.zeros_like(own)
            if bottom == furthest or not reaching.any():
                break
            bottom = min(bottom + (bottom - top), furthest)
        tall = tall or bool(reaching.any())
        mine = (own & ~reaching)[hole]
        end = stop
        if mine.any():
            end = max(end, top + 1 + int(np.flatnonzero(mine.any(axis=1))[-1]))
            window = patch_map(window, cast("PatchMethod", method), only=mine)
        # Holes of strips above reach in here and are filled already; those of strips below come in their turn.
        _put(out, window[start - top : end - top], start, 0, rows_at_once)
    if tall:
        _patch_tall(read, out, method, rows_at_once)


def _furthest(start: int, rows_at_once: int, rows: int) -> int:
    """Row after the last that is read for the holes of a strip."""
    return min(start + 4 * rows_at_once + 1, rows)


def _patch_tall(read: Callable[[int, int], NDArray[np.float64]], out: RowFile, method: str, rows_at_once: int) -> None:
    """Patch the holes that reach beyond what is read for the strip in which they begin."""
    rows, columns = out.shape
    labelling = Labelling(connectivity=6)
    for start in range(0, rows, rows_at_once):
        missing = np.isnan(read(start, min(start + rows_at_once, rows)))
        labelling.add(label_slab(as_slab(missing), start, connectivity=6))
    holes = labelling.finish()
    for hole, (first, _, left, last, _, right) in enumerate(holes.box.tolist()):
        furthest = _furthest(first // rows_at_once * rows_at_once, rows_at_once, rows)
        if furthest == rows or last < furthest:
            continue
        top, bottom, left, right = max(first - 1, 0), min(last + 1, rows), max(left - 1, 0), min(right + 1, columns)
        window = np.empty((bottom - top, right - left))
        own = np.zeros(window.shape, np.bool_)
        for start in range(top // rows_at_once * rows_at_once, bottom, rows_at_once):
            strip = read(start, min(start + rows_at_once, rows))
            slab = runs_of_slab(as_slab(np.isnan(strip)), connectivity=6)
            inside = np.empty(slab.runs.shape, np.uint8)
            paint_runs(slab.runs, holes.of_slab(start // rows_at_once)[slab.component] == hole, inside)
            low, high = max(start, top), min(start + len(strip), bottom)
            window[low - top : high - top] = strip[low - start : high - start, left:right]
            own[low - top : high - top] = inside[low - start : high - start, 0, left:right]
        patched = patch_map(window, cast("PatchMethod", method), only=own)
        _put(out, np.where(own, patched, np.nan), top, left, rows_at_once)


def _put(out: RowFile, cells: NDArray[np.float64], start: int, left: int, rows_at_once: int) -> None:
    """Write the cells that are not NaN to their places, from a row and a column on."""
    for row in range(0, len(cells), rows_at_once):
        part = cells[row : row + rows_at_once]
        there = out.read(start + row, start + row + len(part))
        np.copyto(there[:, left : left + part.shape[1]], part, where=~np.isnan(part))
        out.write(start + row, there)


def _own_holes(missing: NDArray[np.bool_], start: int, stop: int) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """Holes of a window, numbered from 1, and which begin in its rows start ... stop - 1; start is 0 or 1."""
    if not missing[start:stop].any():
        return np.zeros(missing.shape, np.int32), np.zeros(1, np.bool_)
    hole, count = label_cells(missing)
    own = _occurring(hole[start:stop], count + 1) & ~_occurring(hole[:start], count + 1)
    own[0] = False
    return hole, own


def _occurring(numbers: NDArray[np.integer[Any]], count: int) -> NDArray[np.bool_]:
    found = np.zeros(count, np.bool_)
    found[numbers] = True
    return found


def as_slab(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Rows of a map as planes of one row: 6-connected there is 4-connected here."""
    return np.ascontiguousarray(mask).view(np.uint8)[:, np.newaxis, :]
