"""cytolith: tables and maps from 3-D image stacks of any size.

Two pipelines on one core: :func:`detect_cells` finds, outlines and measures cells; :func:`fracture_maps` and
:func:`run_fracture` map the fracture of a rock. Every step is a function on arrays. Arrays and all triples are in the
order (z, y, x). Names are imported when they are first used, so that ``import cytolith`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cytolith.atlas.density import density_map
    from cytolith.atlas.regions import count_regions
    from cytolith.cells.pipeline import detect_cells, detect_cells_block
    from cytolith.cells.select import filter_cells
    from cytolith.convert.pipeline import convert_volume
    from cytolith.errors import (
        ConfigError,
        CytolithError,
        MemoryBudgetError,
        OutputError,
        VolumeError,
    )
    from cytolith.fracture.clusters import keep_largest, label_clusters
    from cytolith.fracture.config import FractureConfig
    from cytolith.fracture.graph import (
        generate_adjacency_matrix,
        generate_index_map,
        generate_node_connectivity_array,
        remove_isolated_clusters,
    )
    from cytolith.fracture.maps import OffsetSettings, filter_offsets
    from cytolith.fracture.pipeline import fracture_maps, run_fracture
    from cytolith.io.points.export import export_table
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
    from cytolith.kernels.patching import patch_map
    from cytolith.kernels.percentile import local_percentile
    from cytolith.kernels.watershed import detect_shape
    from cytolith.report.write import write_report
    from cytolith.score.match import match
    from cytolith.train.training import train_classifier

_HOMES = {
    "cytolith.atlas.density": ("density_map",),
    "cytolith.atlas.regions": ("count_regions",),
    "cytolith.cells.pipeline": ("detect_cells", "detect_cells_block"),
    "cytolith.cells.select": ("filter_cells",),
    "cytolith.convert.pipeline": ("convert_volume",),
    "cytolith.errors": ("ConfigError", "CytolithError", "MemoryBudgetError", "OutputError", "VolumeError"),
    "cytolith.fracture.clusters": ("keep_largest", "label_clusters"),
    "cytolith.fracture.config": ("FractureConfig",),
    "cytolith.fracture.graph": (
        "generate_adjacency_matrix",
        "generate_index_map",
        "generate_node_connectivity_array",
        "remove_isolated_clusters",
    ),
    "cytolith.fracture.maps": ("OffsetSettings", "filter_offsets"),
    "cytolith.fracture.pipeline": ("fracture_maps", "run_fracture"),
    "cytolith.io.points.export": ("export_table",),
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
    "cytolith.kernels.patching": ("patch_map",),
    "cytolith.kernels.percentile": ("local_percentile",),
    "cytolith.kernels.watershed": ("detect_shape",),
    "cytolith.report.write": ("write_report",),
    "cytolith.score.match": ("match",),
    "cytolith.train.training": ("train_classifier",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ConfigError",
    "CytolithError",
    "FractureConfig",
    "MemoryBudgetError",
    "OffsetSettings",
    "OutputError",
    "Volume",
    "VolumeError",
    "__version__",
    "convert_volume",
    "correct_illumination",
    "count_regions",
    "density_map",
    "detect_cells",
    "detect_cells_block",
    "detect_maxima",
    "detect_shape",
    "dog_filter",
    "equalize",
    "export_table",
    "filter_cells",
    "filter_offsets",
    "find_intensity",
    "find_size",
    "flatfield_from_line",
    "flatfield_line_from_regression",
    "fracture_maps",
    "generate_adjacency_matrix",
    "generate_index_map",
    "generate_node_connectivity_array",
    "keep_largest",
    "label_clusters",
    "local_percentile",
    "match",
    "open_volume",
    "opening",
    "patch_map",
    "remove_background",
    "remove_isolated_clusters",
    "run_fracture",
    "smooth",
    "train_classifier",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cytolith' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
