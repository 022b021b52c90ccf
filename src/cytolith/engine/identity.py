"""What a run is: all that its results depend on, by name; and in what two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cytolith.errors import OutputError


def first_difference(now: Mapping[str, Any], then: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Name of the first thing in which two identities differ, and what it is in each, in words; None: they are equal.

    Mappings in an identity are gone into: what is in them has their name and a dot before its own.
    """
    here, there = _flat(now), _flat(then)
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            return name, _text(here.get(name)), _text(there.get(name))
    return None


def refuse_other(now: Mapping[str, Any] | None, then: Mapping[str, Any], *, place: Path, there: str, anew: str) -> None:
    """Refuse to take the place of something unfinished that is another.

    Parameters
    ----------
    now, then
        What is to be done, and what was begun; None: something with an array in memory, which is never the same.
    place
        Where it lies.
    there
        What was begun, in words.
    anew
        Option to begin anew.

    Raises
    ------
    OutputError
        Names the first difference.
    """
    difference = first_difference({"input": "an array"} if now is None else now, then)
    if difference is not None:
        name, value, before = difference
        raise OutputError(f"{place}: {name} is {value}, {there} has {before}: give the same, or {anew} to begin anew")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return " x ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
