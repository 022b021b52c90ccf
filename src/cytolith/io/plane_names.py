"""Order of planes from the numbers in their file names, and what those numbers must not be: channels, gaps, doubles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cytolith.errors import VolumeError
from cytolith.io.volume import Selection

_NUMBER = re.compile(r"(\d+)")
_MARKS = {
    "channel": re.compile(r"(?:^|[^a-z])(?:c|ch|chan|channel)[ _=-]*$", re.IGNORECASE),
    "timepoint": re.compile(r"(?:^|[^a-z])(?:t|tp|time|timepoint)[ _=-]*$", re.IGNORECASE),
}
_SHOWN = 8  # numbers listed in a message


@dataclass(frozen=True)
class NumberedNames:
    """File names in the order of their planes.

    Attributes
    ----------
    order : list of int
        Places of the names given that belong to the volume, first plane first.
    channels, timepoints : tuple of int
        What the names offer to choose from; (0,) where they number none.
    """

    order: list[int]
    channels: tuple[int, ...] = (0,)
    timepoints: tuple[int, ...] = (0,)


def order_names(names: Sequence[str], where: str, selection: Selection) -> NumberedNames:
    """Order the names of single-plane files by the one number that varies from plane to plane.

    Parameters
    ----------
    names : sequence of str
        Names without their folder.
    where : str
        Folder or pattern, for messages.
    selection : Selection
        Channel and timepoint, where the names number them.

    Raises
    ------
    VolumeError
        Names of several kinds, several channels and none chosen, several numbers that vary and could be the plane,
        a number that is there twice, or one that is missing in an otherwise even sequence.
    """
    _refuse_mixed(names, where)
    texts = _NUMBER.split(names[0])[::2]
    rows = {place: tuple(int(digits) for digits in _NUMBER.findall(name)) for place, name in enumerate(names)}
    offered: dict[str, tuple[int, ...]] = {}
    for option in ("channel", "timepoint"):
        rows, offered[option] = _choose(rows, texts, names, where, option, selection)
    order = sorted(rows, key=lambda place: rows[place])
    columns = _varying([rows[place] for place in order])
    if len(order) > 1:
        _check_sequence([rows[place] for place in order], columns, [names[place] for place in order], where)
    return NumberedNames(order, offered["channel"], offered["timepoint"])


def _refuse_mixed(names: Sequence[str], where: str) -> None:
    kinds = Counter(_NUMBER.sub("#", name) for name in names)
    if len(kinds) == 1:
        return
    shown = ", ".join(f"{kind!r} ({count})" for kind, count in kinds.most_common(3))
    likeliest = _NUMBER.sub("#", names[0]) if len(kinds) == len(names) else kinds.most_common(1)[0][0]
    fix = (
        f"give a pattern for one kind, such as {likeliest.replace('#', '*')!r}"
        if "#" in likeliest
        else "number the planes"
    )
    raise VolumeError(
        f"{where}: file names are of {len(kinds)} kinds, {shown}{' ...' if len(kinds) > 3 else ''}; {fix}"
    )


Rows = dict[int, tuple[int, ...]]


def _choose(
    rows: Rows, texts: Sequence[str], names: Sequence[str], where: str, option: str, selection: Selection
) -> tuple[Rows, tuple[int, ...]]:
    """Keep the files of the chosen channel or timepoint; also the numbers there were to choose from."""
    given = selection.channel if option == "channel" else selection.timepoint
    varying = _varying(list(rows.values()))
    marked = [column for column in range(len(texts) - 1) if _MARKS[option].search(texts[column])]
    split = [column for column in marked if column in varying]
    if len(split) == 1 and (len(varying) > 1 or given in {row[split[0]] for row in rows.values()}):
        column = split[0]
        offered = tuple(sorted({row[column] for row in rows.values()}))
        if given is None:
            raise VolumeError(
                f"{where}: file names hold {option}s {_listed(offered)}: choose one with {option}={offered[0]}, "
                f"or give a pattern such as {_pattern(names[min(rows)], varying, keep=column)!r}"
            )
        if given not in offered:
            raise VolumeError(f"{option}={given} is not in {where}: file names hold {option}s {_listed(offered)}")
        return {place: row for place, row in rows.items() if row[column] == given}, offered
    row = next(iter(rows.values()))
    constant = tuple(row[column] for column in marked if column not in varying)
    offered = constant if len(constant) == 1 else (0,)
    if given is not None and given != 0 and given not in offered:
        raise VolumeError(f"{option}={given} is not in {where}: file names hold {option} {_listed(offered)} only")
    return rows, offered


def _varying(rows: Sequence[tuple[int, ...]]) -> list[int]:
    return [column for column in range(len(rows[0])) if len({row[column] for row in rows}) > 1]


def _check_sequence(rows: list[tuple[int, ...]], columns: list[int], names: list[str], where: str) -> None:
    """Rows, sorted, must number the planes in one way only, without doubles and gaps."""
    for before, after, name, double in zip(rows[:-1], rows[1:], names[:-1], names[1:], strict=True):
        if before == after:
            raise VolumeError(f"{where}: {name!r} and {double!r} have the same plane number; remove one")
    series = {column: [row[column] for row in rows] for column in columns}
    rising = all(all(a <= b for a, b in pairwise(values)) for values in series.values())
    if len(columns) > 1 and not (rising and any(len(set(values)) == len(values) for values in series.values())):
        raise VolumeError(
            f"{where}: {len(columns)} numbers vary in the file names ({names[0]!r} to {names[-1]!r}), so which is the "
            f"plane is not known; give a pattern that fixes the others, such as {_pattern(names[0], columns)!r}"
        )
    gaps = [missing_numbers(values) for values in series.values() if len(set(values)) == len(values)]
    if all(gaps):
        numbers = gaps[0]
        plural = "s" if len(numbers) > 1 else ""
        raise VolumeError(
            f"{where}: plane{plural} {_listed(numbers)} missing between {names[0]!r} and {names[-1]!r}; "
            f"put the file{plural} back, or renumber if there never were any"
        )


def missing_numbers(numbers: Sequence[int]) -> list[int]:
    """Numbers left out of a rising sequence that is otherwise even; none where its steps are irregular anyway.

    Examples
    --------
    >>> missing_numbers([0, 1, 2, 4]), missing_numbers([0, 10, 20, 40]), missing_numbers([3, 8, 20])
    ([3], [30], [])
    """
    steps = [after - before for before, after in pairwise(numbers)]
    step = min(steps)
    if any(other % step for other in steps):
        return []
    present = set(numbers)
    count = (numbers[-1] - numbers[0]) // step + 1
    if count >= 2 * len(numbers):  # more holes than planes: positions or times, not a count
        return []
    return [number for number in range(numbers[0], numbers[-1], step) if number not in present]


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    return shown if len(numbers) <= _SHOWN else f"{shown} ... ({len(numbers)} in all)"


def _pattern(name: str, varying: Sequence[int], keep: int | None = None) -> str:
    """The name with the plane number as ``*``: the last that varies, or all that vary but the one to keep."""
    parts = _NUMBER.split(name)
    stars = varying[-1:] if keep is None else [column for column in varying if column != keep]
    for column in stars:
        parts[2 * column + 1] = "*"
    return "".join(parts)
