"""Rows of a table of cells whose columns lie within limits."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cytolith.errors import ConfigError

AnyTable = TypeVar("AnyTable")
Limit: TypeAlias = float | None
Range: TypeAlias = tuple[Limit, Limit]


def filter_cells(table: AnyTable, thresholds: Mapping[str, float | Sequence[Limit] | None]) -> AnyTable:
    """Keep the rows of a table whose values lie within limits.

    Parameters
    ----------
    table : dict of str to ndarray, structured ndarray, pyarrow Table or pandas DataFrame
        Columns of one length.
    thresholds : mapping of str to float, (float or None, float or None) or None
        By column: a minimum, or (minimum, maximum); rows with ``minimum <= value < maximum`` are kept. Either may be
        None, for no limit on that side; None for both.

    Returns
    -------
    same kind as `table`
        The rows that are within all limits, in their order. NaN is within no limit.

    Raises
    ------
    ConfigError
        A column that is not there, limits that are no numbers, or that no value can meet.

    Notes
    -----
    As ``filter_cells`` of ClearMap, with two deliberate differences: a threshold of 0 is a minimum of 0, not "no
    filter", and reversed limits are an error, not an empty table.

    Examples
    --------
    >>> table = {"z": np.array([1.0, 2.0, 3.0]), "size": np.array([10, 20, 900])}
    >>> filter_cells(table, {"size": (20, 900)})
    {'z': array([2.]), 'size': array([20])}
    """
    names = _names(table)
    kept: NDArray[np.bool_] | None = None
    for name, threshold in thresholds.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"no column {name!r} to filter by: {hint}there are {', '.join(names) or 'no columns'}")
        low, high = _limits(threshold, str(name))
        values = _column(table, name)
        if values.dtype.kind not in "biuf":
            raise ConfigError(f"column {name!r} holds {values.dtype}: only numbers have limits")
        for within in (None if low is None else values >= low, None if high is None else values < high):
            if within is not None:
                kept = within if kept is None else kept & within
    return table if kept is None else _rows(table, kept)


def parse_range(text: str, name: str) -> Range:
    """Minimum and maximum from the text of a command-line option.

    Parameters
    ----------
    text : str
        ``"20,900"``, ``"300,"`` or ``"300"`` (a minimum), ``",900"`` (a maximum).
    name : str
        Option, for messages.

    Returns
    -------
    tuple of (float or int or None, float or int or None)
        Minimum and maximum, None where there is none; whole numbers stay whole.

    Raises
    ------
    ConfigError
        A text that is no such range; names the option.

    Examples
    --------
    >>> parse_range("20,900", "--size"), parse_range("300,", "--source"), parse_range(",4.5", "--mean")
    ((20, 900), (300, None), (None, 4.5))
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        numbers = [_number(part) if part else None for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers.append(None)
    if len(numbers) != 2 or numbers == [None, None]:
        raise ConfigError(f"{name} {text!r}: give minimum,maximum, for example 20,900 or 300, or ,900")
    return _limits(numbers, name)


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _limits(threshold: float | Sequence[Limit] | None, name: str) -> Range:
    """Minimum and maximum; ConfigError when they are no numbers or leave nothing between them."""
    pair: Any = threshold if isinstance(threshold, Sequence) else (threshold, None)
    if isinstance(threshold, str) or len(pair) != 2 or not all(limit is None or _is_number(limit) for limit in pair):
        raise ConfigError(f"{name} {threshold!r}: give a minimum, or (minimum, maximum) with None for no limit")
    low, high = pair
    if low is not None and high is not None and low >= high:
        raise ConfigError(f"{name}: the minimum {low} is not below the maximum {high}, nothing would be kept")
    return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not math.isnan(value)


def _names(table: Any) -> list[str]:
    if isinstance(table, np.ndarray):
        return list(table.dtype.names or ())
    if hasattr(table, "column_names"):  # pyarrow; only io imports it
        return list(table.column_names)
    return [str(name) for name in table]


def _column(table: Any, name: str) -> NDArray[Any]:
    if hasattr(table, "column_names"):
        return np.asarray(table.column(name).to_numpy())
    return np.asarray(table[name])


def _rows(table: Any, kept: NDArray[np.bool_]) -> Any:
    if isinstance(table, Mapping):
        return {name: np.asarray(column)[kept] for name, column in table.items()}
    if hasattr(table, "column_names"):
        return table.filter(kept)
    if isinstance(table, np.ndarray):
        return table[kept]
    return table.loc[kept]
