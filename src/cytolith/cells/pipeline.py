"""The shell of the cells pipeline: a volume on disk, blocks on workers, one table."""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cytolith.axes import Shape, VoxelSize
from cytolith.cells.block import (
    BlockCells,
    Table,
    block_halo,
    bytes_per_voxel,
    cells_of_block,
    merge_tables,
    with_micrometres,
)
from cytolith.cells.build import build_config
from cytolith.cells.config import CellsConfig
from cytolith.cells.images import Image, Setting, dense_halo, run_image_steps
from cytolith.cells.noise import robust_noise, sample_blocks
from cytolith.cells.reader import Reader
from cytolith.cells.resolve import in_voxels, noise_scaled, with_defaults, with_noise
from cytolith.cells.saves import Saves, refuse_clashes
from cytolith.engine.executors import make_executor
from cytolith.engine.grid import Block, Costs, Plan, plan_blocks
from cytolith.engine.machine import default_memory, default_workers
from cytolith.engine.old_run import Listener, run_blocks
from cytolith.engine.workspace import Workspace
from cytolith.errors import ConfigError, MemoryBudgetError
from cytolith.io.flat_fields import read_flat_field
from cytolith.io.volume import Volume, open_volume
from cytolith.kernels.components import MaskTooLargeError
from cytolith.kernels.illumination import FlatField, flat_field
from cytolith.quantities import Threshold

log = logging.getLogger(__name__)

PROCESS_BYTES = 350 * 2**20
"""What Python, the libraries and the compiled kernels take before any voxel is read."""
FLOOD_BYTES = 48
"""Memory of the watershed for each voxel of the mask, at most."""
MASK_SHARE = 0.2
"""Share of voxels above the shape threshold from which a run warns that the threshold lets nearly everything pass."""


@dataclass(frozen=True)
class CellsResult:
    """Table of a run and how it came about."""

    table: Table
    """One row a cell, sorted by (z, y, x)."""
    config: CellsConfig
    """Parameters with every default filled in, as the user would write them."""
    plan: Plan
    noise: float | None
    """Noise of the volume when a threshold is a multiple of it."""
    thresholds: dict[str, float]
    """Thresholds in grey values."""
    mask_voxels: int
    """Voxels of the volume above the shape threshold."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each step, added up over workers; `run` is the time by the clock."""
    hints: list[str] = field(default_factory=list)
    """What a user should know about this result, in words."""


def detect_cells(
    source: Any,
    *,
    voxel_size: VoxelSize | None = None,
    workers: int | None = None,
    memory: int | None = None,
    block: Shape | None = None,
    config: CellsConfig | None = None,
    **steps: Any,
) -> Table:
    """Table of the cells of a volume.

    Parameters
    ----------
    source
        Anything that :func:`cytolith.open_volume` reads, or a volume it opened: a folder of planes, a file, a zarr,
        an array.
    voxel_size
        Edge lengths (z, y, x) of a voxel in micrometres; default: from the metadata of the source.
    workers
        Blocks at work at once; default: all cores.
    memory
        Bytes to stay below; default: half of the machine's memory.
    block
        Extent (z, y, x) of a block's core; default: chosen from memory and workers. Never changes the result.
    config
        Parameters of all steps.
    **steps
        Parameters by the name of a step, over those of `config`: a mapping of fields, None (skip the step) or True (its
        defaults). See :class:`cytolith.cells.config.CellsConfig`.

    Returns
    -------
    dict of str to ndarray
        One entry a column, rows sorted by (z, y, x): ``z, y, x`` (centre in voxels, float64), ``z_um, y_um, x_um``
        when the voxel size is known, ``size`` (voxels, int64) with shape detection, one column a measured image
        (float64), and ``truncated`` (bool: more of the cell may lie beyond what was read around its block).

    Raises
    ------
    VolumeError, ConfigError, MemoryBudgetError
        Input that cannot be read, a parameter that cannot be used, memory that holds no block.

    Notes
    -----
    Does what ``detect_cells`` of ClearMap documents (Renier et al., Cell 165, 2016), with a light smoothing and
    noise-scaled thresholds by default, and without its dependence on blocks and processes.

    Examples
    --------
    >>> from cytolith.testing.phantoms import cells_phantom
    >>> volume, truth = cells_phantom((24, 96, 96), seed=1)
    >>> table = detect_cells(volume, voxel_size=(6, 1.62, 1.62))
    >>> sorted(table)[:3]
    ['background_correction', 'size', 'source']
    """
    volume = open_volume(source, voxel_size=voxel_size)
    layers = [("", config.model_dump())] if config is not None else []
    prepared = prepare(volume, build_config(*layers, ("", steps)), workers=workers, memory=memory, block=block)
    return execute(prepared).table


def detect_cells_block(image: Image, *, voxel_size: VoxelSize | None = None, **steps: Any) -> Table:
    """Table of the cells of an image in memory, as one block in the calling thread; see :func:`detect_cells`.

    Parameters
    ----------
    image
        Voxels (Z, Y, X), uint8, uint16, int16 or float32.
    voxel_size
        Edge lengths (z, y, x) of a voxel in micrometres.
    **steps
        Parameters by the name of a step.

    Returns
    -------
    dict of str to ndarray
        The table, as :func:`detect_cells` gives it.
    """
    volume = open_volume(image, voxel_size=voxel_size)
    return execute(prepare(volume, build_config(("", steps)), workers=1, block=volume.shape, memory=2**62)).table


@dataclass(frozen=True)
class Prepared:
    """A run of which everything is known and checked that can be before a block is read."""

    config: CellsConfig
    """Parameters as the user means them, with every default filled in."""
    reader: Reader
    setting: Setting
    plan: Plan
    room: int
    """Bytes a worker may take beyond the plan."""


def prepare(
    volume: Volume,
    config: CellsConfig,
    *,
    workers: int | None = None,
    memory: int | None = None,
    block: Shape | None = None,
) -> Prepared:
    """Check a volume and its parameters, and plan the blocks.

    Takes and raises what :func:`detect_cells` does, before any work.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise ConfigError(f"--workers {workers}: give at least 1")
    memory = default_memory() if memory is None else memory
    volume.check()
    resolved = in_voxels(config, volume.voxel_size)
    refuse_clashes(resolved, volume.name)
    _refuse_large_footprint(resolved, volume)
    reader = Reader(volume, resolved)
    costs = Costs(block_halo(resolved, volume.voxel_size), bytes_per_voxel(resolved, volume.dtype), PROCESS_BYTES)
    plan = plan_blocks(volume.shape, costs, memory=memory, workers=workers, chunks=volume.chunks, core=block)
    setting = Setting(resolved, volume.shape, load_flat_field(resolved, volume))
    room = max(memory - plan.bytes_total, 0) // plan.workers
    return Prepared(with_defaults(config, volume.voxel_size), reader, setting, plan, room)


def execute(prepared: Prepared, *, overwrite: bool = False, listener: Listener = lambda _: None) -> CellsResult:
    """Result of a prepared run.

    Parameters
    ----------
    prepared
        From :func:`prepare`.
    overwrite
        Whether volumes that steps save may replace existing ones.
    listener
        Gets the events of the engine.
    """
    begin = time.perf_counter()
    reader, setting, plan = prepared.reader, prepared.setting, prepared.plan
    noise = None
    executor = make_executor(plan.workers)
    try:
        if noise_scaled(setting.config):
            noise = sample_noise(reader, setting, executor)
            log.info("noise of the volume: %.6g", noise)
            setting = replace(setting, config=with_noise(setting.config, noise))
        with Saves(setting.config, reader.volume, plan, overwrite=overwrite) as saves:
            try:
                results = run_blocks(_Task(reader, setting, saves, prepared.room), plan, executor, listener, "cells")
            except Exception:
                executor.shutdown(cancel_futures=True)  # no worker may write into what is discarded next
                raise
            except BaseException:
                saves.stop()
                raise
            table, keys = merge_tables(
                [r.table for r in results],
                [r.keys for r in results],
                once=setting.config.maxima_detection is None or setting.config.maxima_detection.valid,
            )
            saves.finish(keys)
    except BaseException:
        # an interrupt or an error is answered at once, without waiting for the blocks under way
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()
    seconds: dict[str, float] = {}
    for block_cells in results:
        for name, value in block_cells.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    result = CellsResult(
        with_micrometres(table, reader.volume.voxel_size),
        prepared.config,
        plan,
        noise,
        grey_thresholds(setting.config),
        sum(r.mask_voxels for r in results),
        {**seconds, "run": time.perf_counter() - begin},
    )
    brightest = max((r.brightest for r in results), default=-math.inf)
    return replace(result, hints=_hints(result, prepared, setting.config, brightest))


def _refuse_large_footprint(config: CellsConfig, volume: Volume) -> None:
    step = config.background_correction
    if step is None or step.shape is None:
        return
    for axis, length, extent in zip("yx", step.shape, volume.shape[1:], strict=True):
        if length.value > max(1000, 2 * extent):
            raise ConfigError(
                f"background_correction.shape: {length.value:g} voxels along {axis}, but planes have only {extent}"
            )


class _Task:
    """What a worker does with a block; each thread keeps its own buffers."""

    def __init__(self, reader: Reader, setting: Setting, saves: Saves, room: int) -> None:
        self._reader = reader
        self._setting = setting
        self._saves = saves
        self._room = room
        self._local = threading.local()

    def __call__(self, block: Block) -> BlockCells:
        workspace = getattr(self._local, "workspace", None)
        if workspace is None:
            workspace = self._local.workspace = Workspace()
        begin = time.perf_counter()
        image, mask = self._reader.read(block, workspace)
        read = time.perf_counter() - begin
        limit = self._room // FLOOD_BYTES + int(MASK_SHARE * image.size)
        try:
            cells = cells_of_block(image, block, self._setting, workspace, mask=mask, mask_limit=limit)
        except MaskTooLargeError as error:
            assert self._setting.config.shape_detection is not None
            threshold = self._setting.config.shape_detection.threshold
            raise MemoryBudgetError(
                f"shape_detection.threshold {threshold.value if threshold else 'none'}: {error.voxels:,} of "
                f"{image.size:,} voxels of a block lie above it, more than the memory left holds: raise the "
                "threshold or give more --memory"
            ) from None
        cells.seconds["read"] = read
        self._saves.write(block, cells)
        cells.forget_voxels()
        return cells


def sample_noise(reader: Reader, setting: Setting, executor: Executor) -> float:
    """Noise of the background-corrected (and equalized) volume, from the fixed sample of :mod:`cytolith.cells.noise`.

    It is measured before smoothing and the difference of Gaussians, which keep the unit of the image and make noise
    small: measured after them, a volume of nothing but noise would be full of cells. Voxels whose source is 0 are left
    out: stitching and cropping fill with it what was never imaged.
    """
    config = setting.config.model_copy(update={"smoothing": None, "dog_filter": None})
    setting = replace(setting, config=config)

    def values(block: Block) -> Image:
        workspace = Workspace()
        image, mask = reader.read(block, workspace)
        final = run_image_steps(image, block.read, setting, workspace, mask=mask)["equalization"]
        return np.asarray(final[block.inner][image[block.inner] != 0])

    return robust_noise(np.concatenate(list(executor.map(values, sample_blocks(setting.shape, dense_halo(config))))))


def load_flat_field(config: CellsConfig, volume: Volume) -> FlatField | None:
    """Flat field of the planes of a volume from an array or a file; ConfigError names the option."""
    step = config.illumination_correction
    if step is None:
        return None
    try:
        return flat_field(
            read_flat_field(step.flatfield, "illumination_correction.flatfield"),
            volume.shape[1:],
            background=None
            if step.background is None
            else read_flat_field(step.background, "illumination_correction.background"),
            scaling=step.scaling,
            axis=step.axis,
        )
    except ValueError as error:
        raise ConfigError(f"illumination_correction.flatfield: {error}") from None


def grey_thresholds(config: CellsConfig) -> dict[str, float]:
    """Thresholds of a resolved configuration by step and field."""
    return {
        f"{name}.{field}": value.value
        for name in ("maxima_detection", "shape_detection")
        if getattr(config, name) is not None
        for field, value in getattr(config, name)
        if isinstance(value, Threshold)
    }


def _hints(result: CellsResult, prepared: Prepared, config: CellsConfig, brightest: float) -> list[str]:
    """What a user should know about a result, in words."""
    hints = []
    if prepared.reader.volume.voxel_size is None:
        hints.append(
            "the voxel size is unknown: default lengths are voxels of about 6 x 1.6 x 1.6 um, and the table has no "
            "micrometres; add --voxel-size Z,Y,X"
        )
    voxels = math.prod(prepared.setting.shape)
    rows = len(result.table["z"])
    if result.noise == 0:
        hints.append(
            "the noise is 0 (the volume is flat, or most of it has one grey value), so thresholds in mad are 0 too; "
            "give grey values"
        )
    if config.maxima_detection is None:
        hints.append("maxima_detection is off: no cells were looked for")
    elif rows == 0:
        shown = ", ".join(f"{name} = {value:.6g}" for name, value in result.thresholds.items()) or "no threshold"
        hints.append(
            f"no cells: nothing reached {shown}; the largest value of the image they apply to is {brightest:.6g}: "
            + (
                "lower --maxima-detection.threshold or --shape-detection.threshold"
                if brightest > 0
                else "it is flat, or the footprint of the background correction is smaller than a cell"
            )
        )
    if voxels and result.mask_voxels > MASK_SHARE * voxels:
        hints.append(
            f"{result.mask_voxels:,} voxels ({100 * result.mask_voxels / voxels:.0f} %) lie above the shape threshold: "
            "cells will run into each other; raise --shape-detection.threshold"
        )
    truncated = int(result.table["truncated"].sum())
    if truncated:
        hints.append(
            f"{truncated:,} of {rows:,} cells are marked truncated: their shape may go on beyond what was read around "
            "their block; larger blocks (more --memory, fewer --workers) cut fewer"
        )
    return hints
