"""Whole numbers on the command line: "2.5" is refused where the library would make it 2."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter, Token


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


WHOLE = Parameter(converter=_whole, allow_leading_hyphen=True)
Whole: TypeAlias = Annotated[int | None, WHOLE]
"""A flag that takes a whole number, and may be left out."""
