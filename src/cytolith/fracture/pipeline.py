"""The shell of the fracture pipeline: a stack on disk, passes over it, tables, maps, stacks and pictures."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import VoxelSize
from cytolith.engine.executors import make_executor
from cytolith.engine.old_run import Listener
from cytolith.errors import ConfigError, OutputError
from cytolith.fracture.clusters import (
    Table,
    by_size,
    cluster_table,
    kept_of,
    plan_passes,
    table_columns,
)
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.labelling import Clusters
from cytolith.fracture.maps import OffsetSettings, settle_offsets
from cytolith.fracture.outputs import Outputs, name_outputs, stem_of
from cytolith.fracture.passes import Maps, Painting, Passes
from cytolith.fracture.plan import SlabPlan
from cytolith.fracture.results import write_maps
from cytolith.fracture.source import Source, looks_grey
from cytolith.fracture.summary import hints_of, summarize
from cytolith.io.row_file import RowFile
from cytolith.io.tables import write_table
from cytolith.io.volume import Volume, open_volume
from cytolith.kernels.projection import map_shape

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


@dataclass(frozen=True)
class Prepared:
    """A run of which everything is known and checked that can be before the volume is read."""

    config: FractureConfig
    source: Source
    slabs: SlabPlan
    outputs: Outputs
    hints: list[str]


def run_fracture(
    source: Any,
    output: str | Path = ".",
    config: FractureConfig | None = None,
    *,
    voxel_size: VoxelSize | None = None,
    workers: int | None = None,
    memory: int | None = None,
    planes: int | None = None,
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
    force
        Replace existing files.
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
        clusters than the memory holds. Nothing is left behind.

    Notes
    -----
    Does what ``apm_process_image_stack`` of apmapflow (M. Stadelman, 2016) documents: equal in the stack and in the
    aperture map, ties in cluster size excepted. Deliberately different: an offset is the index of the first voxel
    (there: one more), 16 clusters are coloured (there: 15), and holes are patched without triangulating the whole map.
    """
    chosen = {name: options.pop(name) for name in ("channel", "timepoint", "level", "dataset") if name in options}
    unknown = sorted(set(options) - {each.name for each in fields(FractureConfig)})
    if unknown:
        raise ConfigError(f"{unknown[0]}: is no option of a fracture run; see FractureConfig")
    config = replace(config or FractureConfig(), **options)
    volume = open_volume(source, voxel_size=voxel_size, **chosen)
    name = source if isinstance(source, str | Path) else "stack"
    prepared = prepare(volume, name, Path(output), config, workers=workers, memory=memory, planes=planes, force=force)
    return execute(prepared, listener)


def prepare(
    volume: Volume,
    name: str | Path,
    folder: Path,
    config: FractureConfig,
    *,
    workers: int | None = None,
    memory: int | None = None,
    planes: int | None = None,
    force: bool = False,
) -> Prepared:
    """Check a volume, the parameters and every file to be written, and plan the blocks.

    Takes and raises what :func:`run_fracture` does, before any work.
    """
    folder = folder.expanduser()
    source = Source(volume, config.threshold, config.invert)
    paths = name_outputs(config, folder, stem_of(name))
    painted = ("stack" in paths) + ("cluster_image" in paths)
    fixed = Maps.fixed_bytes(volume.shape, config.axis) if config.needs_maps else 0
    slabs = plan_passes(source, workers, memory, painted_bytes=painted, fixed_bytes=fixed, planes=planes)
    volume.check()
    outputs = Outputs(folder, stem_of(name), paths, name, force=force)
    hints = []
    if volume.storage.display is not None:
        hints.append(f"{volume.name} is {volume.storage.display}; --invert exchanges fracture and rock")
    if config.threshold is None and looks_grey(volume):
        hints.append(
            f"{volume.name} looks like a grey stack, and every voxel that is not 0 is taken for fracture: give "
            "--threshold T (fracture is brighter than T), and --invert when fracture is darker"
        )
    return Prepared(config, source, slabs, outputs, hints)


def execute(prepared: Prepared, listener: Listener = lambda _: None) -> FractureResult:
    """Result of a prepared run, with its files in place."""
    config, source, slabs, outputs = prepared.config, prepared.source, prepared.slabs, prepared.outputs
    begin = time.perf_counter()
    executor = make_executor(slabs.plan.workers)
    try:
        with outputs, ExitStack() as stack:
            # writers end before what they write is discarded or closed; a block takes a moment only
            maps = stack.enter_context(_new_maps(source, config, outputs.scratch)) if config.needs_maps else None
            stack.callback(executor.shutdown, wait=True, cancel_futures=True)
            passes = Passes(source, slabs, executor, listener=listener)
            log.info(
                "%s: %s %s; fracture where %s%s; opening axis %s",
                source.volume.name,
                " x ".join(map(str, source.volume.shape)),
                source.volume.dtype,
                "not 0" if config.threshold is None else f"> {config.threshold:g}",
                ", inverted" if config.invert else "",
                config.axis,
            )
            clusters, order = _go_over(passes, config, maps, outputs)
            seconds = {"clusters": time.perf_counter() - begin}
            log.info("%s clusters, stacks and projections in %.2f s", f"{len(order):,}", seconds["clusters"])
            table = cluster_table(clusters, order)
            del clusters, order
            kept = len(table["id"]) if config.n is None else min(config.n, len(table["id"]))
            summary = summarize(source.volume, config, slabs.plan, outputs.paths, table, kept)
            if maps is not None:
                write_maps(maps, config, outputs, source.volume.voxel_size, summary, outputs.scratch, slabs.room)
                seconds["maps"] = time.perf_counter() - begin - seconds["clusters"]
                log.info("maps in %.2f s", seconds["maps"])
            if "clusters" in outputs.paths:
                columns = table_columns(table, source.volume.shape, source.volume.voxel_size, kept)
                write_table(columns, outputs.partial("clusters"))
            summary["hints"] = prepared.hints + hints_of(summary, config)
            summary["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
            if "summary" in outputs.paths:
                outputs.partial("summary").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
            outputs.commit()
            log.info("%d files put in place in %s", len(outputs.paths), outputs.folder)
    except OutputError as error:
        raise outputs.named(error) from error
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
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Aperture and offset map of a fracture.

    Parameters
    ----------
    source
        Anything that :func:`cytolith.open_volume` reads, or a volume it opened.
    n
        Only the `n` largest 26-connected clusters count; default: all voxels.
    axis
        Opening axis: ``"z"``, ``"y"`` (rows of a plane) or ``"x"``.
    threshold, invert
        As in :func:`label_clusters`.
    interpolation, percentile, filter
        As in :class:`cytolith.fracture.maps.OffsetSettings`.
    workers, memory
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
    slabs = plan_passes(checked, workers, memory, fixed_bytes=Maps.fixed_bytes(volume.shape, axis))
    with (
        tempfile.TemporaryDirectory() as scratch,
        _new_maps(checked, config, Path(scratch)) as maps,
        make_executor(slabs.plan.workers) as executor,
    ):
        _go_over(Passes(checked, slabs, executor), config, maps, None)
        settled, _ = settle_offsets(maps.first, Path(scratch), config.offsets, memory=slabs.room)
        with settled:
            rows = settled.shape[0]
            return maps.aperture.read(0, rows), settled.read(0, rows)


def _new_maps(source: Source, config: FractureConfig, scratch: Path) -> Maps:
    shape = map_shape(source.volume.shape, config.axis)
    aperture = RowFile(scratch / "aperture", shape, np.int32)
    try:
        return Maps(config.axis, aperture, RowFile(scratch / "first", shape, np.int32))
    except BaseException:
        aperture.remove()
        raise


def _go_over(
    passes: Passes, config: FractureConfig, maps: Maps | None, outputs: Outputs | None
) -> tuple[Clusters, NDArray[np.int64]]:
    """The passes over the volume; clusters, and their order by size."""
    volume, core = passes.source.volume, passes.slabs.plan.core
    sinks = {
        key: outputs.sink(key, volume.shape, np.uint8, core, volume.voxel_size)
        for key in ("stack", "cluster_image")
        if outputs is not None and key in outputs.paths
    }
    all_count = config.n is None
    clusters = passes.find(maps if all_count else None)
    order = by_size(clusters)
    keep = kept_of(order, config.n)
    values = {"stack": keep * np.uint8(255), "cluster_image": cluster_colours(order)}
    paintings = [Painting(values[key], sink) for key, sink in sinks.items()]
    if paintings or (maps is not None and not all_count):
        passes.apply(clusters, keep, None if all_count else maps, paintings)
    return clusters, order


def cluster_colours(order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Value of each cluster in the image of clusters, from the clusters in the order of their size."""
    colours = np.full(len(order), 255, np.uint8)
    coloured = order[: len(COLOURS)]
    colours[coloured] = COLOURS[: len(coloured)]
    return colours
