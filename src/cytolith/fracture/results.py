"""What a fracture run leaves behind beside its stacks: maps as text, images and pictures, and numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, VoxelSize
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.maps import OffsetReport, OffsetSettings, settle_offsets
from cytolith.fracture.outputs import Outputs
from cytolith.fracture.projections import Maps
from cytolith.fracture.summary import aperture_statistics, count_values, in_micrometres
from cytolith.io.map_files import write_map_text, write_map_tiff
from cytolith.io.pictures import reduce_map, write_map_picture
from cytolith.io.row_file import RowFile

_CELLS_AT_ONCE = 1 << 16


def write_maps(
    maps: Maps,
    config: FractureConfig,
    outputs: Outputs,
    voxel_size: VoxelSize | None,
    summary: dict[str, Any],
    scratch: Path,
    room: int,
) -> None:
    """Statistics and files of both maps; they pass through memory a strip at a time."""
    statistics = aperture_statistics(count_values(map_strips(maps.aperture)))
    edge = None if voxel_size is None else voxel_size[AXES.index(config.axis)]
    summary["aperture"] = statistics
    summary["aperture_um"] = None if edge is None else in_micrometres(statistics, edge)
    across = [axis for axis in AXES if axis != config.axis]
    names = across[0], across[1]
    cell = None if voxel_size is None else (voxel_size[AXES.index(names[0])], voxel_size[AXES.index(names[1])])
    _write_map("aperture", maps.aperture, outputs, names, cell, "%d")
    if config.offset_map:
        settled, report = settle_offsets(maps.first, scratch, config.offsets, memory=room)
        with settled:
            summary["offset"] = _offset_summary(report, config.offsets)
            _write_map("offset", settled, outputs, names, cell, "%f")


def _write_map(
    name: str,
    rows: RowFile,
    outputs: Outputs,
    axes: tuple[str, str],
    cell: tuple[float, float] | None,
    number: str,
) -> None:
    if f"{name}_map" in outputs.paths:
        write_map_text(outputs.partial(f"{name}_map"), map_strips(rows), number)
    if f"{name}_image" in outputs.paths:
        dtype = np.float32 if number == "%f" else np.int32
        strips = (strip.astype(dtype, copy=False) for strip in map_strips(rows))
        write_map_tiff(outputs.partial(f"{name}_image"), strips, rows.shape, dtype, cell)
    if f"{name}_picture" in outputs.paths:
        small = reduce_map(map_strips(rows), rows.shape)
        write_map_picture(
            outputs.partial(f"{name}_picture"),
            small,
            title=f"{outputs.stem}: {name}",
            label=f"{name} (voxels)",
            cell_size=cell,
            full_shape=rows.shape,
            axes=axes,
        )


def map_strips(rows: RowFile) -> Iterator[NDArray[Any]]:
    """A map some rows at a time, in order."""
    return (strip for _, strip in rows.strips(max(_CELLS_AT_ONCE // rows.shape[1], 1)))


def _offset_summary(report: OffsetReport, settings: OffsetSettings) -> dict[str, Any]:
    return {
        "interpolation": settings.interpolation,
        "filter": settings.filter,
        "percentile": settings.percentile,
        "threshold": report.threshold,
        "missing_share": report.missing / report.cells,
        "steep_share": report.steep / report.cells,
        "removed_share": report.removed_share,
    }
