"""Parameters of a run as rows of text."""

from __future__ import annotations

from cytolith.cells.config import STEPS, CellsConfig
from cytolith.quantities import Length


def step_rows(config: CellsConfig) -> list[tuple[str, str]]:
    """Name of each step, and its parameters in words, for a resolved configuration; steps that are off say so."""
    rows = []
    for name in STEPS:
        step = getattr(config, name)
        fields = [] if step is None else [(field, value) for field, value in step if value is not None]
        if getattr(step, "stripe_length", None) is None:
            fields = [(field, value) for field, value in fields if field != "stripe_axis"]
        text = ", ".join(f"{field.replace('_', ' ')} {_shown(value)}" for field, value in fields)
        rows.append((name.replace("_", " "), "off" if step is None else text or "on"))
    return rows


def _shown(value: object) -> str:
    if isinstance(value, Length):
        return f"{value.value:.4g}"
    if isinstance(value, tuple) and value and isinstance(value[0], Length):
        return " x ".join(map(_shown, value))
    if isinstance(value, tuple) and not hasattr(value, "unit"):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
