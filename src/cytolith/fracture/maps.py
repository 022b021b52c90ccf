"""The offset map of a fracture: patched, rid of what is too steep, patched again, strip by strip at any size.

Numbered passes over strips of rows; only scratch files and a few strips exist at a time::

    1   holes are patched, each by the strip that its first row lies in
    2   the percentile of the gradient's magnitude, exact, by two or three passes that narrow down its bits
    3   steep cells are removed; what remains is labelled in 4-connected components, across strips
    4   all but the largest component is removed
    5   holes are patched again
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.errors import ConfigError
from cytolith.fracture.holes import as_slab, patch_rows
from cytolith.fracture.labelling import Labelling, label_slab, runs_of_slab
from cytolith.io.row_file import RowFile
from cytolith.kernels.clusters import paint_runs
from cytolith.kernels.patching import PatchMethod

INTERPOLATIONS: tuple[str, ...] = get_args(PatchMethod)
FILTERS = ("largest", "steep", "none")
_CELLS_AT_ONCE = 1 << 16
_DIGIT_BITS = 16


@dataclass(frozen=True)
class OffsetSettings:
    """How an offset map is patched and filtered.

    Parameters
    ----------
    interpolation
        How holes are patched: ``"linear"``, ``"axes"``, ``"nearest"`` or ``"harmonic"``, see `patch_map`.
    percentile
        Of the magnitude of the gradient, above 0 and up to 100: cells steeper than it are removed.
    filter
        ``"largest"`` removes steep cells and all that they cut off the largest 4-connected rest; ``"steep"`` removes
        steep cells; ``"none"`` removes nothing.

    Raises
    ------
    ConfigError
        A value is not one of these.
    """

    interpolation: str = "linear"
    percentile: float = 99.0
    filter: str = "largest"

    def __post_init__(self) -> None:
        for name, choices in (("interpolation", INTERPOLATIONS), ("filter", FILTERS)):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"--{name} {value}: choose one of {', '.join(choices)}")
        if not 0 < self.percentile <= 100:  # NaN is neither
            raise ConfigError(f"--percentile {self.percentile}: choose a number above 0 and up to 100")


@dataclass(frozen=True)
class OffsetReport:
    """What became of an offset map.

    Attributes
    ----------
    cells
        Cells of the map.
    missing
        Cells without fracture along the opening axis; the map is all NaN when these are all cells.
    threshold
        The percentile of the gradient's magnitude, in voxels of offset a cell; None when nothing was filtered.
    steep
        Cells with a component of the gradient above it.
    removed
        Cells that the filter removed and patching filled again, steep ones included.
    """

    cells: int
    missing: int
    threshold: float | None
    steep: int
    removed: int

    @property
    def removed_share(self) -> float:
        """Removed cells as a share of all cells, 0 ... 1."""
        return self.removed / self.cells


def settle_offsets(
    raw: RowFile, folder: Path, settings: OffsetSettings, *, cells_at_once: int | None = None, memory: int | None = None
) -> tuple[RowFile, OffsetReport]:
    """Patched, filtered and again patched offset map.

    Parameters
    ----------
    raw
        int32, (rows, columns): index of the first fracture voxel along the opening axis, below 0 where there is none.
        Not changed.
    folder
        Where scratch files are made, at most 16 bytes a cell in all.
    settings
        How it is patched and filtered.
    cells_at_once
        About how many cells are held at a time; default: 65,536, or 32 rows where these are fewer than 2^20 cells. It
        never changes the result.
    memory
        Bytes that patching a hole may take; default: any.

    Returns
    -------
    settled
        float64 row file of the same shape in `folder`, for the caller to remove: offsets in voxels, all NaN when `raw`
        holds no fracture at all and without NaN otherwise.
    report
        Counts and the threshold.

    Raises
    ------
    OutputError
        A scratch file cannot be written, for instance because the disk is full. Those made here are removed.
    MemoryBudgetError
        A hole needs more than `memory`.

    Notes
    -----
    Missing cells are patched first, and so take part in the gradient, which is that of :func:`numpy.gradient` (0 along
    an axis of one cell). The threshold is an element of the sorted magnitudes, not interpolated: the first whose index
    i has i / N * 100 >= percentile, else the last. A cell is steep when one *component* of its gradient exceeds it. Of
    several largest components the one whose first cell comes first, row by row, is kept.

    This is what ``apm_process_image_stack`` of apmapflow does, observed from its outputs, except that offsets stay
    indices (it adds 1), that ties are decided, and for patched cells between co-circular neighbours (see `patch_map`).

    A hole is patched in one piece: memory also follows the largest hole, at about 40 bytes a cell of its box.
    """
    settled = RowFile.temporary(folder, raw.shape, np.float64)
    if cells_at_once is None:  # strips of very few rows would make most holes tall ones
        cells_at_once = max(_CELLS_AT_ONCE, min(32 * raw.shape[1], 1 << 20))
    try:
        report = _settle(raw, settled, folder, settings, max(1, cells_at_once // raw.shape[1]), memory)
    except BaseException:
        settled.remove()
        raise
    return settled, report


def filter_offsets(image: ArrayLike, percentile: float = 99.0, filter: str = "largest") -> NDArray[np.float64]:  # noqa: A002
    """Offset map without what is too steep, and without what that cuts off.

    Parameters
    ----------
    image
        (rows, columns), finite: a patched offset map. Not changed.
    percentile, filter
        See `OffsetSettings`.

    Returns
    -------
    filtered
        float64, (rows, columns): NaN where cells were removed. Rules and source as in `settle_offsets`.

    Raises
    ------
    ValueError
        The image is not two-dimensional, is empty, or holds NaN or infinity.
    ConfigError
        The percentile or the filter is none of those allowed.

    Examples
    --------
    >>> filter_offsets([[1, 1, 1, 9, 9]], percentile=40)
    array([[ 1.,  1., nan, nan, nan]])
    """
    settings = OffsetSettings(percentile=percentile, filter=filter)
    patched = _InMemory(np.asarray(image, np.float64))
    if patched.array.ndim != 2 or patched.array.size == 0:
        raise ValueError(f"image has shape {patched.array.shape}; a 2-d map (rows, columns) is needed")
    if not np.isfinite(patched.array).all():
        raise ValueError("image holds NaN or infinity; patch it first (patch_map)")
    if filter == "none":
        return patched.array.copy()
    kept = _InMemory(np.empty(patched.shape))
    _filter(patched, kept, settings, patched.shape[0])
    return kept.array


class _Rows(Protocol):
    """What the passes need of a map, be it on disk or in memory; reading gives a copy."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def read(self, start: int, stop: int) -> NDArray[Any]: ...

    def write(self, start: int, rows: NDArray[Any]) -> None: ...


class _InMemory:
    """An array with the face of a row file."""

    def __init__(self, array: NDArray[np.float64]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.array.shape
        return rows, columns

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        return self.array[start:stop].copy()

    def write(self, start: int, rows: NDArray[np.float64]) -> None:
        self.array[start : start + len(rows)] = rows


def _settle(
    raw: RowFile,
    settled: RowFile,
    folder: Path,
    settings: OffsetSettings,
    rows_at_once: int,
    memory: int | None,
) -> OffsetReport:
    cells = raw.shape[0] * raw.shape[1]
    missing = sum(int(np.count_nonzero(strip < 0)) for _, strip in raw.strips(rows_at_once))
    if missing == cells:
        for start, strip in raw.strips(rows_at_once):
            settled.write(start, np.full(strip.shape, np.nan))
        return OffsetReport(cells, missing, None, 0, 0)

    def offsets(start: int, stop: int) -> NDArray[np.float64]:
        strip = raw.read(start, stop)
        return np.where(strip < 0, np.nan, strip)

    patch_rows(offsets, settled, settings.interpolation, rows_at_once, memory)
    if settings.filter == "none":
        return OffsetReport(cells, missing, None, 0, 0)
    kept = RowFile.temporary(folder, raw.shape, np.float64)
    try:
        threshold, steep, removed = _filter(settled, kept, settings, rows_at_once)
        patch_rows(kept.read, settled, settings.interpolation, rows_at_once, memory)
    finally:
        kept.remove()
    return OffsetReport(cells, missing, threshold, steep, removed)


def _filter(patched: _Rows, kept: _Rows, settings: OffsetSettings, rows_at_once: int) -> tuple[float, int, int]:
    """Write what the filter keeps of a patched map, NaN elsewhere; the threshold, the steep and the removed cells."""
    rows, columns = patched.shape
    cells = rows * columns

    def magnitudes() -> Iterator[NDArray[np.float64]]:
        for _, _, down, across in _gradients(patched, rows_at_once):
            squares = np.sqrt(down * down + across * across)
            yield np.maximum(squares, np.maximum(np.abs(down), np.abs(across)))  # a tiny square may be 0

    rank = _percentile_rank(settings.percentile, cells)
    threshold = _order_statistic(magnitudes, cells, rank, rows_at_once * columns)
    labelling = Labelling(connectivity=6)
    steep = 0
    for start, strip, down, across in _gradients(patched, rows_at_once):
        gentle = (np.abs(down) <= threshold) & (np.abs(across) <= threshold)
        strip[~gentle] = np.nan
        kept.write(start, strip)
        steep += gentle.size - int(np.count_nonzero(gentle))
        if settings.filter == "largest":
            labelling.add(label_slab(as_slab(gentle), start, connectivity=6))
    if settings.filter == "steep":
        return threshold, steep, steep
    clusters = labelling.finish()
    largest = int(np.argmax(clusters.size))  # the first of equals; there is one, as not all cells exceed one of them
    if len(clusters.size) > 1:
        for index, start in enumerate(range(0, rows, rows_at_once)):
            strip = kept.read(start, min(start + rows_at_once, rows))
            slab = runs_of_slab(as_slab(~np.isnan(strip)), connectivity=6)
            inside = np.empty(slab.runs.shape, np.uint8)
            paint_runs(slab.runs, clusters.of_slab(index)[slab.component] == largest, inside)
            strip[inside.reshape(strip.shape) == 0] = np.nan
            kept.write(start, strip)
    return threshold, steep, cells - int(clusters.size[largest])


def _gradients(
    image: _Rows, rows_at_once: int
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """First row, cells, and gradient along rows and columns, of each strip, as of the whole map at once."""
    rows, _ = image.shape
    for start in range(0, rows, rows_at_once):
        stop = min(start + rows_at_once, rows)
        top = max(start - 1, 0)
        window = image.read(top, min(stop + 1, rows))
        own = slice(start - top, stop - top)
        yield start, window[own], _gradient(window, 0)[own], _gradient(window[own], 1)


def _gradient(image: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    if image.shape[axis] == 1:
        return np.zeros_like(image)
    return np.asarray(np.gradient(image, axis=axis))


def _percentile_rank(percentile: float, count: int) -> int:
    """Smallest i with i / count * 100 >= percentile in double arithmetic, or count - 1."""
    rank = max(int(percentile / 100 * count) - 1, 0)  # rounding may have made it one too many
    while rank / count * 100 < percentile:
        rank += 1
    return min(rank, count - 1)


def _order_statistic(strips: Callable[[], Iterable[NDArray[np.float64]]], count: int, rank: int, at_once: int) -> float:
    """Element `rank` of all `count` values sorted, none negative, of strips that are gone through anew in each pass.

    Doubles that are not negative order like their bits, so a histogram of the leading bits tells which of them the
    element has; the next pass looks at the values that have them, until these are few enough to be sorted.
    """
    bits, known = 63, 0
    while bits > 0 and count > at_once:
        digit_bits = min(_DIGIT_BITS, bits)
        counts = np.zeros(1 << digit_bits, np.int64)
        for values in strips():
            keys = values.reshape(-1).view(np.uint64)
            keys = keys[keys >> bits == known]
            digits = (keys >> (bits - digit_bits)) & ((1 << digit_bits) - 1)
            counts += np.bincount(digits.astype(np.intp), minlength=1 << digit_bits)
        up_to = np.cumsum(counts)
        digit = int(np.searchsorted(up_to, rank, side="right"))
        count = int(counts[digit])
        rank -= int(up_to[digit]) - count
        bits, known = bits - digit_bits, known << digit_bits | digit
    if bits == 0:  # many equal values
        return float(np.uint64(known).view(np.float64))
    few = np.concatenate([values[values.view(np.uint64) >> bits == known] for values in strips()])
    return float(np.partition(few, rank)[rank])
