"""Patching of a map too large for memory: every hole from a window of rows, or from its own box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from cytolith.errors import MemoryBudgetError
from cytolith.fracture.labelling import Clusters, Labelling, label_slab, runs_of_slab
from cytolith.io.row_file import RowFile
from cytolith.kernels.clusters import label_cells, paint_runs
from cytolith.kernels.patching import PatchMethod, patch_map
from cytolith.quantities import format_bytes

_Read: TypeAlias = Callable[[int, int], NDArray[np.float64]]
_CELLS_OF_A_BATCH = 1 << 21
"""Cells of the boxes of tall holes that are patched at once."""
_WINDOW_BYTES = 36
"""Memory of patching for each cell of a window."""
_HARMONIC_BYTES = 1400
"""Memory of the harmonic interpolation for each cell of a hole."""
_ALWAYS = 32 * 2**20
"""What may be taken in any case: the plan has put it aside."""


def patch_rows(read: _Read, out: RowFile, method: str, rows_at_once: int, memory: int | None) -> None:
    """Patch the map whose rows start ... stop - 1 `read` gives, and which has some valid cell, into `out`.

    What was in `out` does not matter. A strip owns the holes whose first row lies in it. It sees one row more above,
    where holes of other strips show themselves, and below as many rows as its holes take and one more, so that all
    around each of them is seen: a hole's values depend on nothing else (see `patch_map`). Holes that go on for several
    strips, such as a margin without fracture, come last, each in its own box. MemoryBudgetError: a hole needs more
    than `memory`.
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
        if method == "harmonic" and mine.any():
            _refuse_large(int(np.bincount(hole[mine]).max()) * _HARMONIC_BYTES, method, memory)
        end = stop
        if mine.any():
            end = max(end, top + 1 + int(np.flatnonzero(mine.any(axis=1))[-1]))
            window = patch_map(window, cast("PatchMethod", method), only=mine)
        # Holes of strips above reach in here and are filled already; those of strips below come in their turn.
        _put(out, window[start - top : end - top], start, rows_at_once)
    if tall:
        _patch_tall(read, out, method, rows_at_once, memory)


def _furthest(start: int, rows_at_once: int, rows: int) -> int:
    """Row after the last that is read for the holes of a strip."""
    return min(start + 4 * rows_at_once + 1, rows)


def _patch_tall(read: _Read, out: RowFile, method: str, rows_at_once: int, memory: int | None) -> None:
    """Patch the holes that reach beyond what is read for the strip in which they begin, a batch of them at once."""
    rows, columns = out.shape
    labelling = Labelling(connectivity=6)
    for start in range(0, rows, rows_at_once):
        missing = np.isnan(read(start, min(start + rows_at_once, rows)))
        labelling.add(label_slab(as_slab(missing), start, connectivity=6))
    holes = labelling.finish()
    batch: list[_TallHole] = []
    for number, (first, _, left, last, _, right) in enumerate(holes.box.tolist()):
        furthest = _furthest(first // rows_at_once * rows_at_once, rows_at_once, rows)
        if furthest == rows or last < furthest:
            continue
        box = slice(max(first - 1, 0), min(last + 1, rows)), slice(max(left - 1, 0), min(right + 1, columns))
        cells = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
        harmonic = int(holes.size[number]) * _HARMONIC_BYTES if method == "harmonic" else 0
        _refuse_large(cells * _WINDOW_BYTES + harmonic, method, memory)
        if batch and sum(hole.window.size for hole in batch) > _CELLS_OF_A_BATCH:
            _patch_batch(batch, holes, read, out, method, rows_at_once)
            batch.clear()
        batch.append(_TallHole(number, *box))
    if batch:
        _patch_batch(batch, holes, read, out, method, rows_at_once)


def _refuse_large(needed: int, method: str, memory: int | None) -> None:
    if memory is not None and needed > max(memory, _ALWAYS):
        other = ", or --interpolation linear" if method == "harmonic" else ""
        raise MemoryBudgetError(
            f"a hole of the offset map needs {format_bytes(needed)} to be patched, more than the memory left "
            f"({format_bytes(memory)}): give more --memory{other}"
        )


class _TallHole:
    """A hole and the cells around it, gathered from strips and given back to them."""

    def __init__(self, number: int, rows: slice, columns: slice) -> None:
        self.number, self.rows, self.columns = number, rows, columns
        self.window = np.empty((rows.stop - rows.start, columns.stop - columns.start))
        self.own = np.empty(self.window.shape, np.bool_)

    def shared(self, start: int, strip: NDArray[Any]) -> tuple[slice, tuple[slice, slice]] | None:
        """Rows of the window, and the part of a strip of whole rows, that are the same cells."""
        low, high = max(start, self.rows.start), min(start + len(strip), self.rows.stop)
        if low >= high:
            return None
        top = self.rows.start
        return slice(low - top, high - top), (slice(low - start, high - start), self.columns)


def _patch_batch(
    batch: list[_TallHole], holes: Clusters, read: _Read, out: RowFile, method: str, rows_at_once: int
) -> None:
    begin = min(hole.rows.start for hole in batch) // rows_at_once * rows_at_once
    end = max(hole.rows.stop for hole in batch)
    for start in range(begin, end, rows_at_once):
        strip = read(start, min(start + rows_at_once, out.shape[0]))
        slab = runs_of_slab(as_slab(np.isnan(strip)), connectivity=6)
        numbers = np.empty(slab.runs.shape, np.int32)
        paint_runs(slab.runs, holes.of_slab(start // rows_at_once)[slab.component] + 1, numbers)
        for hole in batch:
            if (places := hole.shared(start, strip)) is not None:
                hole.window[places[0]] = strip[places[1]]
                hole.own[places[0]] = numbers[:, 0][places[1]] == hole.number + 1
    for hole in batch:
        hole.window = patch_map(hole.window, cast("PatchMethod", method), only=hole.own)
    for start in range(begin, end, rows_at_once):
        strip = out.read(start, min(start + rows_at_once, out.shape[0]))
        for hole in batch:
            if (places := hole.shared(start, strip)) is not None:
                np.copyto(strip[places[1]], hole.window[places[0]], where=hole.own[places[0]])
        out.write(start, strip)


def _put(out: RowFile, cells: NDArray[np.float64], start: int, rows_at_once: int) -> None:
    """Write the cells that are not NaN to their places, from a row on."""
    for row in range(0, len(cells), rows_at_once):
        part = cells[row : row + rows_at_once]
        there = out.read(start + row, start + row + len(part))
        np.copyto(there, part, where=~np.isnan(part))
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
