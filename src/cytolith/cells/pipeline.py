"""The shell of the cells pipeline: a volume on disk, blocks on workers, one table."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cytolith.axes import Shape, VoxelSize
from cytolith.cells.block import Table, with_micrometres
from cytolith.cells.build import build_config
from cytolith.cells.classifier import Classifier, load_classifier
from cytolith.cells.config import CellsConfig
from cytolith.cells.costs import block_halo, bytes_per_voxel
from cytolith.cells.gpus import GpuUse, plan_gpus
from cytolith.cells.hints import hints_of
from cytolith.cells.images import Image, Setting
from cytolith.cells.presets import preset as named
from cytolith.cells.reader import Reader, load_flat_field
from cytolith.cells.resolve import in_voxels, noise_scaled, with_defaults, with_noise
from cytolith.cells.results import Results, Tally
from cytolith.cells.sampling import measure_noise, sample_bytes
from cytolith.cells.saves import Saves, refuse_clashes
from cytolith.cells.task import CellsTask, Limits
from cytolith.engine.checkpoint import Checkpoints
from cytolith.engine.events import Listener, Widened
from cytolith.engine.executors import Pool, lend_pool, open_pool
from cytolith.engine.grid import Costs, Plan, plan_blocks
from cytolith.engine.machine import default_workers
from cytolith.engine.run import STOP_AT_ONCE, Policy, run_blocks
from cytolith.errors import ConfigError
from cytolith.io.volume import Volume, open_volume
from cytolith.kernels.jit import compiled_before
from cytolith.quantities import Threshold

log = logging.getLogger(__name__)

PROCESS_BYTES = 350 * 2**20
"""What Python, the libraries and the compiled kernels take before any voxel is read."""
WORKER_BYTES = 300 * 2**20
"""The same for each further process."""
COMPILING_BYTES = 200 * 2**20
"""What the compiler takes besides in a process that has to compile the kernels first."""


@dataclass(frozen=True)
class CellsResult:
    """What a run found and how it came about."""

    table: Table
    """One row a cell, sorted by (z, y, x); empty where it was written part by part."""
    tally: Tally
    """Sums over the blocks."""
    config: CellsConfig
    """Parameters with every default filled in, as the user would write them."""
    plan: Plan
    noise: float | None
    """Noise of the volume when a threshold is a multiple of it."""
    thresholds: dict[str, float]
    """Thresholds in grey values."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each step, added up over workers; `run` is the time by the clock."""
    hints: list[str] = field(default_factory=list)
    """What a user should know about this result, in words."""

    @property
    def mask_voxels(self) -> int:
        """Voxels of the volume above the shape threshold."""
        return self.tally.mask_voxels


def detect_cells(
    source: Any,
    *,
    voxel_size: VoxelSize | None = None,
    workers: int | None = None,
    memory: int | None = None,
    block: Shape | None = None,
    executor: str | Executor | Pool = "threads",
    device: str = "cpu",
    config: CellsConfig | None = None,
    preset: str | None = None,
    classifier: Classifier | str | Path | None = None,
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
    executor
        Where blocks run: ``"threads"``, ``"processes"``, ``"serial"``, or a `concurrent.futures.Executor`, such as
        ``client.get_executor(pure=False)`` of Dask; with any but threads the source must be a path. Never changes the
        result.
    device
        What the dense part of the work runs on: ``"cpu"``, ``"gpu"`` (NVIDIA, needs ``cytolith[gpu]``), or ``"auto"``,
        a GPU if there is one. Never changes the result.
    config
        Parameters of all steps.
    preset
        Parameters by name, below those of `config`: see :mod:`cytolith.cells.presets`.
    classifier
        Filter that :func:`cytolith.train_classifier` or ``cytolith train`` made, or its file. It brings the parameters
        that it was trained with, and adds the column ``probability``; rows below 0.4 are dropped.
    **steps
        Parameters by the name of a step, over those of `config`: a mapping of fields, None (skip the step) or True (its
        defaults). See :class:`cytolith.cells.config.CellsConfig`.

    Returns
    -------
    dict of str to ndarray
        One entry a column, rows sorted by (z, y, x): ``z, y, x`` (centre in voxels, float64), ``z_um, y_um, x_um``
        when the voxel size is known, ``size`` (voxels, int64) with shape detection, one column a measured image
        (float64), and ``truncated`` (bool: the cell goes on beyond what memory holds at once, so that its row may be
        of a part of it; where it is False the row is that of the whole volume).

    Raises
    ------
    VolumeError, ConfigError, MemoryBudgetError
        Input that cannot be read, a parameter that cannot be used, a GPU that is not there, memory that holds no block.

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
    if isinstance(classifier, (str, Path)):
        classifier = load_classifier(classifier)
    layers: list[tuple[str, Mapping[str, Any]]] = [("", named(preset))] if preset is not None else []
    layers += [] if classifier is None else [("", classifier.config.model_dump())]
    layers += [] if config is None else [("", config.model_dump())]
    built = build_config(*layers, ("", steps))
    with lend_pool(executor, workers) as pool:
        table = execute(prepare(volume, built, pool=pool, memory=memory, block=block, device=device)).table
    return table if classifier is None else classifier.kept(table)[0]


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
    return detect_cells(volume, executor="serial", block=volume.shape, memory=2**62, **steps)


@dataclass(frozen=True)
class Prepared:
    """A run of which everything is known and checked that can be before a block is read."""

    config: CellsConfig
    """Parameters as the user means them, with every default filled in."""
    reader: Reader
    setting: Setting
    costs: Costs
    plan: Plan
    memory: int
    """Bytes that the plan may take."""
    pool: Pool
    """Where blocks run."""
    gpus: GpuUse | None = None
    """What GPUs do of it; None: nothing."""
    notes: tuple[str, ...] = ()
    """What should be known before the work begins, in words."""

    @property
    def limits(self) -> Limits:
        """What a worker may take for what depends on the data."""
        room = max(self.memory - self.plan.bytes_total, 0) // self.plan.workers
        # a region that is read again takes the place of its block, and what is left over
        return Limits(self.costs.halo, int((self.plan.bytes_block + room) / self.costs.bytes_per_voxel), room)


def prepare(
    volume: Volume,
    config: CellsConfig,
    *,
    pool: Pool | None = None,
    workers: int | None = None,
    memory: int | None = None,
    block: Shape | None = None,
    device: str = "cpu",
) -> Prepared:
    """Check a volume and its parameters, and plan the blocks.

    Takes and raises what :func:`detect_cells` does, before any work. Where blocks run is a pool (default: threads), of
    which at most `workers` work at once on a machine.
    """
    if pool is None:
        pool = open_pool("threads", default_workers() if workers is None else workers)
    workers = pool.workers if workers is None else min(workers, pool.workers)
    memory = pool.share(memory)
    volume.check()
    if pool.travels and volume.stamps() is None:
        raise ConfigError(
            f"{volume.name}: an array in memory cannot be read by other processes: save it as .zarr or .npy and give "
            "the path, or use threads"
        )
    resolved = in_voxels(config, volume.voxel_size)
    refuse_clashes(resolved, volume.name)
    refuse_large_footprint(resolved, volume)
    reader = Reader(volume, resolved)
    setting = Setting(resolved, volume.shape, load_flat_field(resolved, volume))
    compiling = 0 if compiled_before() else COMPILING_BYTES
    costs = Costs(
        block_halo(resolved, volume.voxel_size),
        bytes_per_voxel(resolved, volume.dtype),
        PROCESS_BYTES + compiling,
        bytes_worker=volume.read_bytes + (WORKER_BYTES + compiling if pool.kind == "processes" else 0),
        bytes_least=sample_bytes(setting, volume.dtype) + volume.read_bytes if noise_scaled(resolved) else 0,
    )
    costs, gpus, notes = plan_gpus(device, pool, resolved, volume, costs, block)
    plan = plan_blocks(
        volume.shape,
        costs,
        memory=memory,
        workers=workers,
        machines=pool.machines,
        chunks=volume.chunks,
        core=block,
    )
    complete = with_defaults(config, volume.voxel_size)
    return Prepared(complete, reader, setting, costs, plan, memory, pool, gpus, notes)


def execute(
    prepared: Prepared,
    *,
    overwrite: bool = False,
    saves: Callable[..., Saves] = Saves,
    listener: Listener = lambda _: None,
) -> CellsResult:
    """Result of a prepared run, with its table in memory.

    Parameters
    ----------
    prepared
        From :func:`prepare`.
    overwrite
        Whether volumes that steps save may replace existing ones.
    saves
        What writes them.
    listener
        Gets the events of the engine.
    """
    begin = time.perf_counter()
    prepared, noise = with_thresholds(prepared)
    volume, plan = prepared.reader.volume, prepared.plan
    with saves(prepared.setting.config, volume, plan, overwrite=overwrite) as kept:
        results = compute(prepared, kept, listener=listener)
        parts = list(results.rows(plan.blocks))
        table = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
        kept.finish(np.concatenate([keys for _, keys in parts]), table["truncated"], results.apart(plan.blocks))
    result = summarize(prepared, results.total, noise, begin)
    return replace(result, table=with_micrometres(table, volume.voxel_size))


def with_thresholds(prepared: Prepared) -> tuple[Prepared, float | None]:
    """The run with its thresholds in grey values, and the noise of the volume where one is a multiple of it."""
    config = prepared.setting.config
    if not noise_scaled(config):
        return prepared, None
    noise = sample_noise(prepared)
    log.info("noise of the volume: %.6g", noise)
    return replace(prepared, setting=replace(prepared.setting, config=with_noise(config, noise), noise=noise)), noise


def compute(
    prepared: Prepared,
    saves: Saves,
    *,
    checkpoints: Checkpoints | None = None,
    finished: dict[int, Tally] | None = None,
    policy: Policy = STOP_AT_ONCE,
    listener: Listener = lambda _: None,
) -> Results:
    """Results of all blocks.

    Parameters
    ----------
    prepared
        A run with thresholds in grey values.
    saves
        Volumes that steps save, entered.
    checkpoints, finished
        Where results are kept on disk, and what is there already.
    policy, listener
        As in :func:`cytolith.engine.run.run_blocks`.
    """
    plan, setting, pool = prepared.plan, prepared.setting, prepared.pool
    for note in prepared.notes:
        log.warning(note)
    task = CellsTask(prepared.reader, setting, prepared.limits, saves, checkpoints, prepared.gpus)
    results = Results(checkpoints)
    results.tallies.update(finished or {})
    told: set[str] = set()
    todo = None if not finished else [block for block in plan.blocks if block.index not in finished]
    try:
        for block, result in run_blocks(task, plan, pool, todo=todo, policy=policy, listener=listener, name="cells"):
            results.add(block.index, result)
            tally = results.tallies[block.index]
            if tally.widened:
                listener(Widened(block, tally.widened))
            if tally.note and tally.note not in told:
                told.add(tally.note)
                log.warning(tally.note)
    except BaseException as error:
        # an interrupt is answered at once; after an error no worker may write into what is discarded next
        pool.close(now=not isinstance(error, Exception))
        raise
    return results


def summarize(prepared: Prepared, tally: Tally, noise: float | None, begin: float) -> CellsResult:
    """The result of a run without its table; `begin` is when it began, of `time.perf_counter`."""
    config, volume = prepared.setting.config, prepared.reader.volume
    thresholds = grey_thresholds(config)
    hints = hints_of(config, volume, noise, thresholds, tally)
    seconds = {**tally.seconds, "run": time.perf_counter() - begin}
    return CellsResult({}, tally, prepared.config, prepared.plan, noise, thresholds, seconds, hints)


def refuse_large_footprint(config: CellsConfig, volume: Volume) -> None:
    """Refuse a footprint of the background that is far larger than the planes; ConfigError names the axis."""
    step = config.background_correction
    if step is None or step.shape is None:
        return
    for axis, length, extent in zip("yx", step.shape, volume.shape[1:], strict=True):
        if length.value > max(1000, 2 * extent):
            raise ConfigError(
                f"background_correction.shape: {length.value:g} voxels along {axis}, but planes have only {extent}"
            )


def sample_noise(prepared: Prepared) -> float:
    """Noise of the volume of a run, from as many tiles at once as its memory holds."""
    room = prepared.memory - prepared.costs.bytes_fixed
    at_once = max(min(default_workers(), room // max(prepared.costs.bytes_least, 1)), 1)
    return measure_noise(prepared.reader, prepared.setting, at_once=at_once)


def grey_thresholds(config: CellsConfig) -> dict[str, float]:
    """Thresholds of a resolved configuration by step and field."""
    return {
        f"{name}.{field}": value.value
        for name in ("maxima_detection", "shape_detection")
        if getattr(config, name) is not None
        for field, value in getattr(config, name)
        if isinstance(value, Threshold)
    }
