"""Types of the parameters: what a text, a number or None in a file, a flag or a call is read as."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from cytolith.errors import ConfigError
from cytolith.quantities import Length, Threshold, parse_length, parse_lengths, parse_threshold

SWITCH_OFF = {"none", "off", "false", "no"}
"""Words for None."""
SWITCH_ON = {"on", "true", "yes", "default"}
"""Words that switch a step on with its defaults."""


def nearest(word: str, words: Sequence[str]) -> str:
    """The nearest right word for one that is not among `words`, or the list of them."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(words)}"


def no_text(value: Any) -> Any:
    """The value; None for a word that says so."""
    return None if isinstance(value, str) and value.strip().lower() in SWITCH_OFF else value


def _or_none(parse: Any) -> Any:
    def validate(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.strip().lower() in SWITCH_OFF):
            return None
        try:
            return parse(value)
        except ConfigError as error:  # pydantic collects ValueErrors and adds the place
            raise ValueError(str(error)) from None

    return validate


def numbers(value: Any) -> Any:
    """The value; a text as the numbers in it."""
    if isinstance(value, str):
        return tuple(float(v) for v in value.strip().strip("()[]").split(","))
    return value


def _plain(length: Length) -> float | int | str:
    if length.unit == "um":
        return str(length)
    return int(length.value) if length.value == int(length.value) else length.value


def _plain_threshold(threshold: Threshold | None) -> float | str | None:
    if threshold is None:
        return None
    return str(threshold) if threshold.unit == "mad" else threshold.value


_dump_lengths = PlainSerializer(lambda v: None if v is None else [_plain(x) for x in v])
Lengths2 = Annotated[
    tuple[Length, Length] | None, BeforeValidator(_or_none(lambda v: parse_lengths(v, 2))), _dump_lengths
]
Lengths3 = Annotated[
    tuple[Length, Length, Length] | None, BeforeValidator(_or_none(lambda v: parse_lengths(v, 3))), _dump_lengths
]
LengthField = Annotated[
    Length | None,
    BeforeValidator(_or_none(parse_length)),
    PlainSerializer(lambda v: None if v is None else _plain(v)),
]
ThresholdField = Annotated[
    Threshold | None, BeforeValidator(_or_none(parse_threshold)), PlainSerializer(_plain_threshold)
]
Fraction = Annotated[Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None, BeforeValidator(no_text)]
Text = Annotated[str | None, BeforeValidator(_or_none(lambda v: str(v)))]
