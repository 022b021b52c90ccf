"""Parameters by name: what to begin with for a kind of data."""

from __future__ import annotations

from typing import Any

from cytolith.cells.fields import nearest
from cytolith.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {
    "c-fos": {},
    "c-fos-striped": {"background_correction": {"stripe_length": "73 um"}},
    "clearmap": {
        "background_correction": {"shape": 10, "form": "disk", "stripe_length": None},
        "equalization": None,
        "smoothing": None,
        "dog_filter": None,
        "maxima_detection": {"h_max": None, "shape": 5, "threshold": 0},
        "background_jump": None,
        "shape_detection": {"threshold": 700, "fraction": None},
        "intensity_detection": {"method": "max", "measure": ("source", "background_correction")},
        "features": None,
    },
}
"""``c-fos``: the defaults, for nuclei in cleared brains under a light sheet. ``c-fos-striped``: the same, and stripes
along x go with the background. ``clearmap``: the values that ClearMap begins with, in voxels and grey values."""


def preset(name: str) -> dict[str, Any]:
    """Steps and fields of a preset, a layer for `build_config`; ConfigError for an unknown name."""
    key = name.strip().lower().replace("_", "-")
    if key not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; {nearest(key, tuple(PRESETS))}")
    return PRESETS[key]
