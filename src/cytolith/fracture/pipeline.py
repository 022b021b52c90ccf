"""The shell of the fracture pipeline: a stack on disk, passes over it, tables, maps, stacks and pictures."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import VoxelSize
from cytolith.engine.events import Listener
from cytolith.engine.executors import Pool, lend_pool
from cytolith.errors import ConfigError
from cytolith.fracture.clusters import (
    Table,
    cluster_table,
    table_columns,
)
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.execution import go_over, under_way
from cytolith.fracture.maps import OffsetSettings, settle_offsets
from cytolith.fracture.passes import Passes
from cytolith.fracture.places import plan_passes
from cytolith.fracture.preparation import Prepared, prepare
from cytolith.fracture.projections import Maps
from cytolith.fracture.results import write_maps
from cytolith.fracture.source import Source
from cytolith.fracture.summary import hints_of, summarize
from cytolith.io.tables import write_table
from cytolith.io.volume import open_volume

log = logging.getLogger(__name__)

COLOURS = np.arange(67, 188, 8, dtype=np.uint8)
"""Values of the 16 largest clusters in the image of clusters; all others get 255."""


@dataclass(frozen=True)
class FractureResult:
    """What a run found, and where it is."""

    table: Table
    """Clusters, as :func:`cytolith.label_clusters` gives them."""
    summary: dict[str, Any]
    """What ``summary.json`` holds."""
    paths: dict[str, Path]
    """Files that were written."""

    @property
    def hints(self) -> list[str]:
        """What a user should know about this result, in words."""
        hints: list[str] = self.summary["hints"]
        return hints


def run_fracture(
    source: Any,
    output: str | Path = ".",
    config: FractureConfig | None = None,
    *,
    voxel_size: VoxelSize | None = None,
    workers: int | None = None,
    memory: int | None = None,
    planes: int | None = None,
    executor: str | Executor | Pool = "threads",
    force: bool = False,
    listener: Listener = lambda _: None,
    **options: Any,
) -> FractureResult:
    """Clusters, aperture and offset of a stack of a fractured rock, written into a folder.

    Parameters
    ----------
    source
        Path of a stack, or anything that :func:`cytolith.open_volume` reads.
    output
        Folder for the results; made when it is not there.
    config
        What to do; default: maps of all fracture voxels.
    voxel_size
        Edges (z, y, x) of a voxel in micrometres, over those in the metadata.
    workers
        Blocks at work at once; default: all cores.
    memory
        Bytes to stay below; default: half of the machine's memory.
    planes
        Planes of a block; default: chosen from memory and workers. Never changes the result.
    executor
        Where blocks run; as in :func:`cytolith.label_clusters`.
    force
        Replace existing files, and an unfinished run of something else.
    listener
        Gets the events of the engine.
    **options
        Channel, timepoint, level and dataset, as :func:`cytolith.open_volume` takes them; and fields of the config by
        name, over those of `config`: ``n=1``.

    Returns
    -------
    FractureResult
        Table of clusters, summary, and the paths that were written.

    Raises
    ------
    VolumeError, ConfigError, OutputError, MemoryBudgetError
        Input that cannot be read, a parameter that cannot be used, a file that exists or cannot be written, more
        clusters than the memory holds.
    BlocksFailedError
        Some blocks went wrong, for instance as a plane is damaged; all others are finished.

    Notes
    -----
    A run that died or failed leaves no results, but a folder ``.cytolith-fracture`` in `output` with what it has
    finished, when `source` is a path. The same call goes on from there, whatever the workers, the memory and the
    executor are then, and gives the same results; another call is refused. Files that were not read yet may have been
    replaced. Of arrays and opened volumes nothing is left.

    Does what ``apm_process_image_stack`` of apmapflow (M. Stadelman, 2016) documents: equal in the stack and in the
    aperture map, ties in cluster size excepted. Deliberately different: an offset is the index of the first voxel
    (there: one more), 16 clusters are coloured (there: 15), and holes are patched without triangulating the whole map.
    """
    chosen: dict[str, Any] = {
        name: options.pop(name) for name in ("channel", "timepoint", "level", "dataset") if name in options
    }
    unknown = sorted(set(options) - {each.name for each in fields(FractureConfig)})
    if unknown:
        raise ConfigError(f"{unknown[0]}: is no option of a fracture run; see FractureConfig")
    config = replace(config or FractureConfig(), **options)
    volume = open_volume(source, voxel_size=voxel_size, **chosen)
    name = source if isinstance(source, str | Path) else None
    with lend_pool(executor, workers) as pool:
        prepared = prepare(
            volume,
            name,
            Path(output),
            config,
            pool,
            chosen=chosen,
            workers=workers,
            memory=memory,
            planes=planes,
            force=force,
        )
        return execute(prepared, listener)


def execute(prepared: Prepared, listener: Listener = lambda _: None) -> FractureResult:
    """Result of a prepared run, with its files in place."""
    config, source, slabs, outputs = prepared.config, prepared.source, prepared.slabs, prepared.outputs
    start = time.perf_counter()
    with under_way(prepared, listener) as (passes, maps):
        log.info(
            "%s: %s %s; fracture where %s%s; opening axis %s",
            source.volume.name,
            " x ".join(map(str, source.volume.shape)),
            source.volume.dtype,
            "not 0" if config.threshold is None else f"> {config.threshold:g}",
            ", inverted" if config.invert else "",
            config.axis,
        )
        clusters, order, n_kept = go_over(passes, maps, outputs, kept=_kept(config), colours=cluster_colours)
        seconds = {"clusters": time.perf_counter() - start}
        log.info("%s clusters, stacks and projections in %.2f s", f"{len(order):,}", seconds["clusters"])
        table = cluster_table(clusters, order)
        del clusters, order
        summary = summarize(source.volume, config, slabs.plan, outputs.paths, table, n_kept)
        if maps is not None:
            write_maps(maps, config, outputs, source.volume.voxel_size, summary, outputs.scratch, slabs.room)
            seconds["maps"] = time.perf_counter() - start - seconds["clusters"]
            log.info("maps in %.2f s", seconds["maps"])
        if "clusters" in outputs.paths:
            columns = table_columns(table, source.volume.shape, source.volume.voxel_size, n_kept)
            write_table(columns, outputs.partial("clusters"))
        summary["hints"] = prepared.hints + hints_of(summary, config)
        summary["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        if "summary" in outputs.paths:
            text = json.dumps(summary, indent=2) + "\n"
            outputs.partial("summary").write_text(text, encoding="utf-8", newline="\n")
    log.info("%d files put in place in %s", len(outputs.paths), outputs.folder)
    return FractureResult(table, summary, outputs.paths)


def fracture_maps(
    source: Any,
    n: int | None = None,
    *,
    axis: str = "y",
    threshold: float | None = None,
    invert: bool = False,
    interpolation: str = "linear",
    percentile: float = 99.0,
    filter: str = "largest",  # noqa: A002 - the name of the step
    workers: int | None = None,
    memory: int | None = None,
    executor: str | Executor | Pool = "threads",
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Aperture and offset map of a fracture.

    Parameters
    ----------
    source
        Anything that :func:`cytolith.open_volume` reads, or a volume it opened.
    n
        Only the `n` largest 26-connected clusters count; default: all voxels.
    axis
        Opening axis: ``"z"``, ``"y"`` (along the columns of a plane) or ``"x"``.
    threshold, invert
        As in :func:`label_clusters`.
    interpolation, percentile, filter
        As in :class:`cytolith.fracture.maps.OffsetSettings`.
    workers, memory, executor
        As in :func:`label_clusters`.

    Returns
    -------
    aperture : ndarray of int32
        Number of fracture voxels along the axis. Shape (Z, X) for the axis y, (Z, Y) for x, (Y, X) for z.
    offset : ndarray of float64
        Index of the first fracture voxel along the axis, patched where there is none, filtered where it is too steep;
        NaN everywhere when there is no fracture at all.

    Raises
    ------
    VolumeError, ConfigError, MemoryBudgetError
        As :func:`label_clusters`.

    Examples
    --------
    >>> image = np.zeros((2, 5, 3), np.uint8)
    >>> image[:, 2:4] = 1
    >>> image[1, 2, 0] = 0
    >>> aperture, offset = fracture_maps(image, filter="none")
    >>> aperture
    array([[2, 2, 2],
           [1, 2, 2]], dtype=int32)
    >>> offset
    array([[2., 2., 2.],
           [3., 2., 2.]])
    """
    config = FractureConfig(n, threshold, invert, axis, OffsetSettings(interpolation, percentile, filter))
    volume = open_volume(source)
    volume.check()
    checked = Source(volume, threshold, invert)
    with lend_pool(executor, workers) as pool, tempfile.TemporaryDirectory() as scratch:
        slabs = plan_passes(checked, pool, workers, memory, needs=Maps.needs(volume.shape, axis))
        with Maps(axis, volume.shape, Path(scratch)) as maps:
            go_over(Passes(checked, slabs, pool), maps, None, kept=_kept(config), colours=cluster_colours)
            settled, _ = settle_offsets(maps.first, Path(scratch), config.offsets, memory=slabs.room)
            with settled:
                rows = settled.shape[0]
                return maps.aperture.read(0, rows), settled.read(0, rows)


def _kept(config: FractureConfig) -> Callable[[int], int] | None:
    """How many of so many clusters are kept; None: all voxels count."""
    n = config.n
    return None if n is None else lambda total: min(n, total)


def cluster_colours(order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Value of each cluster in the image of clusters, from the clusters in the order of their size."""
    colours = np.full(len(order), 255, np.uint8)
    coloured = order[: len(COLOURS)]
    colours[coloured] = COLOURS[: len(coloured)]
    return colours
