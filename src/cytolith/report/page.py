"""From values to a page: templates that escape whatever comes from users, and numbers as people read them."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

from cytolith.errors import ConfigError

TIMES, DASH = "\N{THIN SPACE}\N{MULTIPLICATION SIGN}\N{THIN SPACE}", "\N{EN DASH}"
INSTALL = "pip install 'cytolith[report]'"


def require_libraries() -> None:
    """ConfigError that says how to get what draws and writes the page, when it is not there."""
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"no report: {' and '.join(missing)} not installed: {INSTALL}")


def render(template: str, values: dict[str, Any]) -> str:
    """HTML text of a page; every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cytolith.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["duration"] = duration
    return environment.get_template(template).render(values)


def number(value: Any, digits: int = 4) -> str:
    """A number with separators and at most so many digits behind; what is none is shown as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value != int(value):
        if abs(value) >= 10 ** (digits - 1):
            return f"{value:,.0f}"
        return f"{value:,.{digits}g}" if abs(value) >= 1e-4 else f"{value:.{digits - 1}e}"
    return f"{int(value):,}"


def duration(seconds: float) -> str:
    """A time as people say it: 0.52 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def share(part: float, whole: float) -> str:
    """A part as per cent of a whole."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.3g} %" if percent >= 0.001 or percent == 0 else "< 0.001 %"
