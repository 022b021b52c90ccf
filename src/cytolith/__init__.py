"""cytolith: cells from 3-D image stacks of any size, found, outlined and measured.

The pipeline is :func:`detect_cells`; every step of it is a function on arrays. Arrays and all triples are in the order
(z, y, x). Names are imported when they are first used, so that ``import cytolith`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cytolith.cells.pipeline import detect_cells, detect_cells_block
    from cytolith.cells.select import filter_cells
    from cytolith.errors import (
        ConfigError,
        CytolithError,
        MemoryBudgetError,
        OutputError,
        VolumeError,
    )
    from cytolith.io.volume import Volume, open_volume
    from cytolith.kernels.background import opening, remove_background
    from cytolith.kernels.equalization import equalize
    from cytolith.kernels.gaussian import dog_filter, smooth
    from cytolith.kernels.illumination import (
        correct_illumination,
        flatfield_from_line,
        flatfield_line_from_regression,
    )
    from cytolith.kernels.maxima import detect_maxima
    from cytolith.kernels.measure import find_intensity, find_size
    from cytolith.kernels.percentile import local_percentile
    from cytolith.kernels.watershed import detect_shape

_HOMES = {
    "cytolith.cells.pipeline": ("detect_cells", "detect_cells_block"),
    "cytolith.cells.select": ("filter_cells",),
    "cytolith.errors": ("ConfigError", "CytolithError", "MemoryBudgetError", "OutputError", "VolumeError"),
    "cytolith.io.volume": ("Volume", "open_volume"),
    "cytolith.kernels.background": ("opening", "remove_background"),
    "cytolith.kernels.equalization": ("equalize",),
    "cytolith.kernels.gaussian": ("dog_filter", "smooth"),
    "cytolith.kernels.illumination": (
        "correct_illumination",
        "flatfield_from_line",
        "flatfield_line_from_regression",
    ),
    "cytolith.kernels.maxima": ("detect_maxima",),
    "cytolith.kernels.measure": ("find_intensity", "find_size"),
    "cytolith.kernels.percentile": ("local_percentile",),
    "cytolith.kernels.watershed": ("detect_shape",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ConfigError",
    "CytolithError",
    "MemoryBudgetError",
    "OutputError",
    "Volume",
    "VolumeError",
    "__version__",
    "correct_illumination",
    "detect_cells",
    "detect_cells_block",
    "detect_maxima",
    "detect_shape",
    "dog_filter",
    "equalize",
    "filter_cells",
    "find_intensity",
    "find_size",
    "flatfield_from_line",
    "flatfield_line_from_regression",
    "local_percentile",
    "open_volume",
    "opening",
    "remove_background",
    "smooth",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cytolith' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
