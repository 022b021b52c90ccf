"""The shell of a conversion: a volume is opened, planned, copied block by block, and put in place when it is whole."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cytolith.axes import Region, Shape, full_region, region_origin, region_shape
from cytolith.convert.levels import Pyramid, Stage, lay_out
from cytolith.convert.plan import plan_file, plan_stage
from cytolith.convert.refusals import refuse_input, refuse_options
from cytolith.convert.task import FILE, ConvertTask
from cytolith.convert.unfinished import (
    as_kept,
    begin,
    checkpoints_of,
    forget,
    has_blocks,
    read_unfinished,
    record_folder,
    refuse_changed,
    remove_empty,
)
from cytolith.engine.events import Listener
from cytolith.engine.executors import Pool, lend_pool
from cytolith.engine.grid import Plan
from cytolith.engine.identity import refuse_other
from cytolith.engine.run import KEEP_GOING, STOP_AT_ONCE, run_blocks
from cytolith.engine.version import code_version
from cytolith.errors import ConfigError, OutputError
from cytolith.io.files import one_spelling
from cytolith.io.lock import FolderLock
from cytolith.io.pyramid import create_pyramid
from cytolith.io.shards import zarr_codecs
from cytolith.io.sink import Sink, check_place, create_sink
from cytolith.io.stamps import Stamps
from cytolith.io.stored import as_stored
from cytolith.io.volume import Volume, open_volume, shape_text
from cytolith.quantities import parse_region

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Converted:
    """What came of a conversion."""

    path: Path
    shape: Shape
    """Extent of the finest level, (z, y, x)."""
    dtype: str
    levels: tuple[Shape, ...]
    """Extents of all levels."""
    bytes: int
    """What lies at the path."""
    notes: list[str] = field(default_factory=list)
    """What a user should know, in words."""


@dataclass(frozen=True)
class Target:
    """What is to be written."""

    path: Path
    region: Region
    """Part of the volume that is converted."""
    pyramid: Pyramid | None
    """None: a file, which has no levels."""
    labels: bool
    compression: str

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In which it is made."""
        return (FILE,) if self.pyramid is None else self.pyramid.stages


def convert_volume(
    source: Any,
    path: str | Path,
    *,
    voxel_size: Sequence[float] | None = None,
    channel: int | None = None,
    timepoint: int | None = None,
    level: int | None = None,
    dataset: str | None = None,
    region: str | None = None,
    chunks: Shape | None = None,
    shards: Shape | None = None,
    sharded: bool = True,
    levels: int | None = None,
    labels: bool = False,
    compression: str | None = None,
    workers: int | None = None,
    memory: int | None = None,
    executor: str | Executor | Pool = "threads",
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener = lambda _: None,
) -> Converted:
    """Write a volume in another format, voxel for voxel.

    Parameters
    ----------
    source
        Path of a volume, or anything that :func:`cytolith.open_volume` reads.
    path
        Ends in ``.zarr`` (OME-Zarr 0.5 with coarser levels), ``.tif`` or ``.tiff`` (BigTIFF where it must be), or
        ``.npy``.
    voxel_size
        Edges (z, y, x) of a voxel in micrometres, over those in the metadata.
    channel, timepoint, level, dataset
        Which of several, as :func:`cytolith.open_volume` takes them.
    region
        Part of the volume, ``"z0:z1,y0:y1,x0:x1"`` in voxels; default: all of it. OME-Zarr keeps its place.
    chunks
        Extent of a chunk of zarr, (z, y, x); default: 64 x 128 x 128.
    shards
        Extent of a shard, a file of many chunks; default: 4 chunks along each axis.
    sharded
        False: a file for each chunk.
    levels
        Levels of zarr, 1 for the volume alone; default: until the coarsest has at most 256 voxels along each axis.
    labels
        Voxels are labels: a voxel of a coarser level has the label that most of those it stands for have, instead of
        their mean.
    compression
        Of zarr: ``"zstd"`` (default), ``"lz4"`` or ``"none"``.
    workers
        Blocks at work at once; default: all cores.
    memory
        Bytes to stay below; default: half of the machine's memory.
    executor
        Where blocks are at work: ``"threads"``, ``"processes"``, ``"serial"``, an executor or a pool.
    resume
        When the output is there already, whole and of the same extent and dtype, leave it and return; for scripts.
    overwrite
        Replace what is at `path`, and an unfinished conversion to it of something else.
    listener
        Gets the events of the engine.

    Returns
    -------
    Converted
        Extents, dtype and size of what was written.

    Raises
    ------
    VolumeError, ConfigError, OutputError, MemoryBudgetError
        Input that cannot be read, an option that cannot be used, a path that is taken or cannot be written, memory
        that does not hold a block.
    BlocksFailedError
        Some blocks went wrong, for instance as a plane is damaged; all others are finished.

    Notes
    -----
    Voxels keep the dtype that they are stored as; bool becomes uint8. Means of integers are rounded to the nearest,
    halves to the even one. A conversion of a path that ended early leaves ``<path>.partial`` and
    ``<path>.unfinished``; the same call goes on from there with the blocks that are left, whatever the workers and the
    memory are then, and gives the same voxels; another call is refused. The output appears when it is whole.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     convert_volume(np.ones((4, 300, 500), np.uint16), f"{folder}/a.zarr").levels
    ((4, 300, 500), (2, 150, 250))
    """
    given = {"channel": channel, "timepoint": timepoint, "level": level, "dataset": dataset}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    path = Path(path).expanduser()
    refuse_options(path, chunks=chunks, shards=shards, levels=levels, labels=labels, compression=compression)
    if not sharded and path.suffix != ".zarr":
        raise ConfigError(f"--shards none is for .zarr only, {path} is none; leave it out")
    if shards is not None and not sharded:
        raise ConfigError("shards and sharded=False: give one of the two")
    opened = open_volume(source, voxel_size, **chosen)
    volume = as_stored(opened)
    part = full_region(volume.shape) if region is None else parse_region(region, volume.shape)
    pyramid = None
    if path.suffix == ".zarr":
        zarr_codecs(compression or "zstd", volume.dtype)  # refused before anything else
        pyramid = lay_out(
            region_shape(part), volume.voxel_size, volume.dtype.itemsize, chunks=chunks, shards=shards,
            sharded=sharded, count=levels,
        )  # fmt: skip
    target = Target(path, part, pyramid, labels, compression or "zstd")
    folder = record_folder(path)
    if resume and path.exists() and not overwrite and read_unfinished(folder) is None:
        return _already_there(target, volume)
    check_place(path, overwrite=overwrite)
    opened.check()
    stamps = opened.stamps()
    refuse_input(target.path, source, stamps)
    identity = None
    if isinstance(source, str | Path):
        identity = as_kept(_identity(target, source, volume, chosen))
    with lend_pool(executor, workers) as pool:
        run = _Run(target, volume, identity, stamps, pool, memory, overwrite=overwrite)
        return run.execute(listener)


def _identity(target: Target, source: str | Path, volume: Volume, chosen: dict[str, Any]) -> dict[str, Any]:
    """All that the output depends on, but for the voxels, in words that its user knows."""
    name = str(source)
    identity: dict[str, Any] = {
        "cytolith": code_version(),
        "input": name if "://" in name else one_spelling(name),
        **chosen,
        "shape": volume.shape,
        "dtype": str(volume.dtype),
        "voxel_size": volume.voxel_size,
        "region": ",".join(f"{each.start}:{each.stop}" for each in target.region),
    }
    if target.pyramid is not None:
        finest = target.pyramid.levels[0].grid
        identity |= {
            "chunks": finest.chunks,
            "shards": finest.shards,
            "levels": len(target.pyramid.levels),
            "labels": target.labels,
            "compression": target.compression,
        }
    return identity


def _already_there(target: Target, volume: Volume) -> Converted:
    there = as_stored(open_volume(target.path))
    wanted = region_shape(target.region)
    if (there.shape, there.dtype) != (wanted, volume.dtype):
        raise OutputError(
            f"{target.path} exists already and is {shape_text(there.shape)} {there.dtype}, not {shape_text(wanted)} "
            f"{volume.dtype}; choose another path, or --overwrite"
        )
    levels = tuple((z, y, x) for z, y, x in there.storage.levels or (there.shape,))
    notes = [f"{target.path} is there already, whole; nothing was done"]
    return Converted(target.path, wanted, str(volume.dtype), levels, _bytes_at(target.path), notes)


def _bytes_at(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


class _Run:
    """One conversion of which everything is known but the blocks."""

    def __init__(
        self,
        target: Target,
        volume: Volume,
        identity: dict[str, Any] | None,
        stamps: Stamps | None,
        pool: Pool,
        memory: int | None,
        *,
        overwrite: bool,
    ) -> None:
        self.target, self.volume, self.identity, self.stamps, self.pool = target, volume, identity, stamps, pool
        self.overwrite = overwrite
        self.shape = region_shape(target.region)
        self.memory = pool.share(memory)
        self.folder = record_folder(target.path)

    def execute(self, listener: Listener) -> Converted:
        """Convert; what is left when that ends early is either something to go on with, or nothing."""
        self._plans(None if (found := read_unfinished(self.folder)) is None or self.overwrite else found.core)
        made = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
        try:
            with FolderLock(self.folder):
                return self._execute_locked(listener)
        finally:
            if made or not has_blocks(self.folder):
                remove_empty(self.folder)

    def _plans(self, core: Shape | None) -> list[Plan]:
        target = self.target
        if target.pyramid is None:
            return [plan_file(self.volume, self.shape, self.memory, self.pool.workers, core)]
        return [
            plan_stage(
                stage, target.pyramid, self.volume, self.shape, self.memory, self.pool.workers,
                core if stage.source is None else None,
            )
            for stage in target.pyramid.stages
        ]  # fmt: skip

    def _execute_locked(self, listener: Listener) -> Converted:
        found = read_unfinished(self.folder)
        if found is not None:
            try:
                place, there = self.target.path, "the unfinished conversion to it"
                refuse_other(self.identity, found.identity, place=place, there=there, anew="--overwrite")
                plans = self._plans(found.core)
                refuse_changed(self.folder, plans[0].blocks, self.target.region[0].start, self.stamps)
            except OutputError:
                if not self.overwrite:
                    raise
                found = None
        if found is None:
            plans = self._plans(None)
            forget(self.folder)
        sink = self._open_sink(resume=found is not None)
        try:
            if found is not None and not sink.resumed:  # somebody has removed it
                forget(self.folder)
            core = plans[0].core
            if self.identity is not None:
                begin(self.folder, self.identity, core, self.stamps, len(plans))
            for number, (stage, plan) in enumerate(zip(self.target.stages, plans, strict=True)):
                self._run_stage(number, stage, plan, sink, core, listener)
            sink.close()
        except BaseException as error:
            self._end_early(sink, error)
            raise
        forget(self.folder)
        pyramid, path = self.target.pyramid, self.target.path
        levels = (self.shape,) if pyramid is None else tuple(each.grid.shape for each in pyramid.levels)
        notes = self._notes(resumed=found is not None)
        return Converted(path, self.shape, str(self.volume.dtype), levels, _bytes_at(path), notes)

    def _open_sink(self, *, resume: bool) -> Sink:
        target, size = self.target, self.volume.voxel_size
        if target.pyramid is None:
            return create_sink(
                target.path, self.shape, self.volume.dtype, self.shape, overwrite=True, voxel_size=size, resume=resume
            )
        return create_pyramid(
            target.path,
            target.pyramid.levels,
            self.volume.dtype,
            voxel_size=size,
            origin=region_origin(target.region),
            compression=target.compression,
            labels=target.labels,
            overwrite=True,
            resume=resume,
        )

    def _run_stage(self, number: int, stage: Stage, plan: Plan, sink: Sink, core: Shape, listener: Listener) -> None:
        checkpoints, todo = None, plan.blocks
        if self.identity is not None:
            checkpoints = checkpoints_of(self.folder, number, self.identity, core)
            done, complaints = checkpoints.finished([block.index for block in plan.blocks])
            for complaint in complaints:
                log.warning("%s", complaint)
            todo = [block for block in plan.blocks if block.index not in done]
        task = ConvertTask(
            stage, self.volume, region_origin(self.target.region), sink, labels=self.target.labels,
            checkpoints=checkpoints,
        )  # fmt: skip
        name = "convert" if stage.source is None else f"levels {stage.levels[0]} to {stage.levels[-1]}"
        policy = STOP_AT_ONCE if checkpoints is None else KEEP_GOING
        for _ in run_blocks(task, plan, self.pool, todo=todo, policy=policy, listener=listener, name=name):
            pass

    def _end_early(self, sink: Sink, error: BaseException) -> None:
        if self.identity is not None and has_blocks(self.folder):
            sink.leave()
            error.add_note(f"what is finished is kept beside {self.target.path}; the same command goes on from there")
            return
        sink.discard()
        with suppress(OSError):
            forget(self.folder)

    def _notes(self, *, resumed: bool) -> list[str]:
        notes = []
        if resumed:
            notes.append("this went on with an unfinished conversion")
        if self.volume.voxel_size is None:
            notes.append(f"the voxel size is unknown, {self.target.path} claims none: --voxel-size Z,Y,X gives it")
        elif self.target.path.suffix == ".npy":
            notes.append(f"{self.target.path} has no place for the voxel size")
        return notes
