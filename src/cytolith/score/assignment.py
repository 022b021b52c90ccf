"""Sparse assignment: the most pairs that can be made, and of those the cheapest, exactly."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.jit import jit


def assign(
    starts: NDArray[np.int64], columns: NDArray[np.int64], costs: NDArray[np.float64], column_count: int
) -> NDArray[np.int64]:
    """Pair rows with columns one to one: as many pairs as possible, and the smallest total cost among those.

    Parameters
    ----------
    starts : int64 ndarray of shape (rows + 1,)
        Edges of row ``r`` are ``starts[r]`` to ``starts[r + 1]`` (compressed sparse rows).
    columns, costs : ndarray
        Column and cost of each edge, costs finite and not negative.
    column_count : int
        Number of columns.

    Returns
    -------
    int64 ndarray of shape (rows,)
        Column of each row, -1 for a row that has none. Equal totals are decided by the order of rows and columns.

    Notes
    -----
    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987) on the edges that are there. Each row has one
    more edge, to stay alone, at a cost above anything that pairs can cost: so a row is left out only where no more
    pairs can be made. Prices keep what an earlier search has learnt, so one crowded neighbourhood is searched through
    once, not for each row that it leaves out. Time grows with the size of the neighbourhoods, not with rows times
    columns.

    Examples
    --------
    >>> starts, columns, costs = np.array([0, 2, 3]), np.array([0, 1, 0]), np.array([1.0, 5.0, 2.0])
    >>> assign(starts, columns, costs, 2)  # two pairs for 7 rather than one for 1
    array([1, 0])
    """
    rows = len(starts) - 1
    alone = (min(rows, column_count) + 1) * float(np.max(costs, initial=0.0)) + 1.0
    column_of = np.full(rows, -1, np.int64)
    _assign(starts, columns, costs, alone, np.full(column_count, -1, np.int64), column_of)
    return column_of


@jit
def _assign(
    starts: NDArray[Any],
    columns: NDArray[Any],
    costs: NDArray[Any],
    alone: float,
    row_of: NDArray[Any],
    column_of: NDArray[Any],
) -> None:
    column_count = len(row_of)
    price = np.zeros(column_count)
    distance = np.full(column_count, np.inf)
    done = np.zeros(column_count, np.bool_)
    came_from = np.zeros(column_count, np.int64)  # edge by which a column was reached
    row_at = np.zeros(column_count, np.int64)  # row of that edge
    matched_edge = np.zeros(len(column_of), np.int64)
    touched = np.empty(column_count, np.int64)

    for first in range(len(column_of)):
        count = 0
        queue = [(0.0, -1) for _ in range(0)]
        row, base = first, 0.0  # base: path length to the row less its own price
        best_alone, loser = alone, first
        end, length = -1, alone
        while True:
            for edge in range(starts[row], starts[row + 1]):
                column = columns[edge]
                reached = base + (costs[edge] - price[column])
                if not done[column] and reached < distance[column]:
                    if distance[column] == np.inf:
                        touched[count] = column
                        count += 1
                    distance[column] = reached
                    came_from[column] = edge
                    row_at[column] = row
                    heappush(queue, (reached, column))
            nearest = -1
            while len(queue) > 0:
                reached, column = heappop(queue)
                if not done[column]:
                    nearest = column
                    break
            if nearest < 0 or distance[nearest] >= best_alone:
                length = best_alone
                break
            length = distance[nearest]
            if row_of[nearest] < 0:
                end = nearest
                break
            done[nearest] = True
            row = row_of[nearest]
            edge = matched_edge[row]
            base = length - (costs[edge] - price[nearest])
            if base + alone < best_alone:
                best_alone, loser = base + alone, row

        for k in range(count):
            column = touched[k]
            if done[column]:
                price[column] += distance[column] - length
                done[column] = False
            distance[column] = np.inf

        # hand columns on along the path, from its end back to the first row
        if end < 0:
            if loser == first:
                continue
            end = column_of[loser]
            column_of[loser] = -1
        column = end
        while True:
            row = row_at[column]
            given = column_of[row]
            column_of[row] = column
            row_of[column] = row
            matched_edge[row] = came_from[column]
            if row == first:
                break
            column = given
