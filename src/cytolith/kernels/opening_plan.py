"""How an opening is computed: which minima of which rows, and where they lie in one piece of scratch memory.

One pass, an erosion or a dilation, is a chain of buffers of padded rows, all with one stride. The first buffer holds
rows of the source, each further one minima of earlier rows at fixed distances (dy, dx): that is, of one flat run of
memory read from several starting points, without any row index in the inner loop. A step feeds `BATCH` new rows and
computes as many rows of every buffer; the rows that later steps look back at are then moved to the front of their
buffer. The erosion hands its rows on to the dilation while they are in the cache.

Margins and rows outside the plane hold the largest value. Some positions hold nothing useful (minima that run on into
the next row, rows before the first); only such positions ever read them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.footprints import two_point_factors

BATCH = 16
"""Rows a step. Fewer cost more calls, more leave the cache; 8 to 32 are within 10 %."""

LINE = 64
"""Bytes of a cache line, to which rows are aligned."""


class Plan(NamedTuple):
    """Both passes; positions in the scratch memory count elements."""

    erosion: NDArray[np.int64]  # (n, 6): 1 when the target is narrowed further, target, four sources
    dilation: NDArray[np.int64]
    moves: NDArray[np.int64]  # (n, 3): target, source, length
    stride: int
    first_row: int  # fed first and last; may lie outside the plane
    last_row: int
    erosion_lag: int  # the eroded and the opened row that become complete lie so many rows before the one fed
    opening_lag: int
    erosion_source: int
    erosion_result: int
    dilation_source: int
    dilation_result: int
    scratch_size: int


@lru_cache(maxsize=64)
def plan_opening(
    mask_bytes: bytes, mask_shape: tuple[int, int], reflect: bool, height: int, width: int, item: int
) -> Plan:
    """Plan the opening of planes of one extent and item size, in bytes, with a mask given as its bytes and shape.

    `reflect` as in `cytolith.kernels.background.opening`. Plans are remembered.
    """
    mask = np.frombuffer(mask_bytes, np.bool_).reshape(mask_shape)
    below_y, above_y, below_x, above_x = mask_bounds(mask)
    if reflect:
        spread = mask[::-1, ::-1]
        down, up, left, right = -above_y, -below_y, -above_x, -below_x
    else:
        spread = mask
        down, up, left, right = below_y, above_y, below_x, above_x
    margin = max(0, -below_x, -left)
    line = LINE // item
    stride = -(-(margin + width + max(0, above_x, right)) // line) * line
    erosion = _lay_out(row_minima(mask), stride, 0)
    dilation = _lay_out(row_minima(spread), stride, erosion.end)
    return Plan(
        erosion=erosion.steps,
        dilation=dilation.steps,
        moves=np.concatenate([erosion.moves, dilation.moves]),
        stride=stride,
        first_row=min(below_y, above_y + down),
        last_row=height - 1 + above_y + up,
        erosion_lag=above_y,
        opening_lag=above_y + up,
        erosion_source=erosion.source + margin,
        erosion_result=erosion.result + margin + below_x - erosion.leftmost,
        dilation_source=dilation.source + margin,
        dilation_result=dilation.result + margin + left - dilation.leftmost,
        scratch_size=dilation.end,
    )


def mask_bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First and last row and column of a mask, counted from its anchor."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y, x = mask.shape[0] // 2, mask.shape[1] // 2
    return int(rows[0]) - y, int(rows[-1]) - y, int(columns[0]) - x, int(columns[-1]) - x


_Term = tuple[int, int, int]
"""Source buffer, dy >= 0, dx."""


def row_minima(mask: NDArray[np.bool_]) -> list[list[_Term]]:
    """Write the minimum over a mask as a chain of buffers: each a list of terms; buffer 0 is the source.

    The last buffer holds the minimum over the mask, up to its position.
    """
    steps, core = two_point_factors(mask)
    # a vertical step is read from aligned memory, so these go together
    steps = sorted(steps, key=lambda step: (step[1] != 0, step))
    buffers: list[list[_Term]] = [[]]
    for i in range(0, len(steps), 2):
        points = {(0, 0)}
        for dy, dx in steps[i : i + 2]:
            points |= {(y + dy, x + dx) for y, x in points}
        buffers.append([(len(buffers) - 1, y, x) for y, x in sorted(points)])
    chords = [(y, start, stop - start) for y, row in enumerate(core) for start, stop in _runs(row)]
    if core.size > 1:
        by_length = {1: len(buffers) - 1}
        known = 1
        for length in sorted({length for _, _, length in chords}):
            while known < length:
                longer = min(length, 4 * known)
                starts = sorted({min(i * known, longer - known) for i in range(4)})
                buffers.append([(by_length[known], 0, x) for x in starts])
                by_length[longer] = len(buffers) - 1
                known = longer
        buffers.append([(by_length[length], y, x) for y, x, length in chords])
    return buffers


def _runs(row: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and stop of every run of True."""
    edges = np.flatnonzero(np.diff(row, prepend=False, append=False))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


class _Layout(NamedTuple):
    steps: NDArray[np.int64]
    moves: NDArray[np.int64]
    source: int
    result: int
    leftmost: int
    end: int


def _lay_out(buffers: list[list[_Term]], stride: int, start: int) -> _Layout:
    """Place the buffers one behind another from `start` on, and a row for what the last ones read beyond their end."""
    n = len(buffers)
    lag, leftmost, history = [0] * n, [0] * n, [0] * n
    for k, terms in enumerate(buffers[1:], 1):
        lag[k] = max(lag[source] + dy for source, dy, _ in terms)
        leftmost[k] = min(leftmost[source] + dx for source, _, dx in terms)
        for source, dy, _ in terms:
            history[source] = max(history[source], lag[k] - lag[source] - dy)
    base = np.cumsum([start] + [(rows + BATCH) * stride for rows in history]).tolist()
    fresh = [base[k] + history[k] * stride for k in range(n)]
    steps, moves = [], []
    for k, terms in enumerate(buffers):
        positions = [fresh[s] + (lag[s] + dy - lag[k]) * stride + dx for s, dy, dx in terms]
        for i in range(0, len(positions), 4):
            four = positions[i : i + 4]
            steps.append([int(i > 0), fresh[k], *four, *four[-1:] * (4 - len(four))])
        for row in range(0, history[k], BATCH):  # in pieces that do not overlap
            length = min(BATCH, history[k] - row) * stride
            moves.append([base[k] + row * stride, base[k] + (row + BATCH) * stride, length])
    return _Layout(
        steps=np.array(steps, np.int64).reshape(-1, 6),
        moves=np.array(moves, np.int64).reshape(-1, 3),
        source=fresh[0],
        result=fresh[-1],
        leftmost=leftmost[-1],
        end=base[-1] + stride,
    )
