"""The run folder: everything that a run leaves behind, each file whole or absent, and what it takes to go on."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cytolith.axes import Shape, VoxelSize, region_shape
from cytolith.cells.block import with_micrometres
from cytolith.cells.build import to_toml
from cytolith.cells.classifier import Classifier
from cytolith.cells.config import CellsConfig
from cytolith.cells.failures import RunFailedError, describe
from cytolith.cells.pipeline import CellsResult, Prepared, compute, prepare, summarize, with_thresholds
from cytolith.cells.resolve import with_defaults
from cytolith.cells.results import Results, Tally
from cytolith.cells.resume import (
    BLOCKS,
    Earlier,
    Progress,
    find_earlier,
    identity_of,
    is_finished,
    open_progress,
    read_run,
)
from cytolith.cells.run_folder import log_to, make_folder, now, refuse_earlier_result, refuse_folder, versions
from cytolith.cells.saves import Saves
from cytolith.engine.events import Event, Failed, Listener, Retried, Widened
from cytolith.engine.executors import Pool, open_pool
from cytolith.engine.machine import default_workers, peak_bytes
from cytolith.engine.run import KEEP_GOING, BlocksFailedError, planes_text
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError
from cytolith.io.files import write_text
from cytolith.io.lock import FolderLock
from cytolith.io.record import RecordError
from cytolith.io.tables import TableWriter
from cytolith.io.volume import Volume, open_volume

log = logging.getLogger("cytolith")


@dataclass(frozen=True)
class RunReport:
    """What a run has left in its folder."""

    rows: int
    """Cells in the tables."""
    seconds: float
    """Time by the clock, of this run if several were needed."""
    voxels: int
    """Voxels of the blocks that this run did."""
    hints: list[str]
    """What a user should know about the result, in words."""
    already: bool = False
    """Whether there was nothing left to do."""


def run_cells(
    source: str | Path,
    output: Path,
    config: CellsConfig,
    *,
    voxel_size: VoxelSize | None = None,
    options: dict[str, Any] | None = None,
    workers: int | None = None,
    memory: int | None = None,
    block: Shape | None = None,
    device: str = "cpu",
    pool: Pool | None = None,
    overwrite: bool = False,
    resume: bool = False,
    classifier: Classifier | None = None,
    listener: Listener = lambda _: None,
    notes: Callable[[list[str]], None] = lambda _: None,
) -> RunReport:
    """Run the pipeline on a volume, and write what it finds into a folder.

    A run that ended before it was finished, however that came about, goes on when it is given again: blocks that were
    done are not done again, and the result is what an undisturbed run gives.

    Parameters
    ----------
    source
        Path or glob of the volume.
    output
        Folder for ``cells.parquet``, ``cells.csv``, ``config.toml``, ``run.json`` and ``run.log``; made when it is
        not there. Until the run is finished results of blocks lie in ``blocks``.
    config
        Parameters as the user means them.
    voxel_size
        Edge lengths (z, y, x) of a voxel in micrometres, over those in the metadata.
    options
        Channel, timepoint, level and dataset as :func:`cytolith.open_volume` takes them.
    workers, memory, block, device, listener
        As in :func:`cytolith.detect_cells`; the listener gets the events of the engine.
    pool
        Where blocks run; default: threads. It is closed at the end.
    overwrite
        Replace an earlier result in the folder, volumes that steps save, and an unfinished run of something else.
    resume
        Be content with a result that is finished already.
    classifier
        Filter for the rows; `config` must be what it was trained with.
    notes
        Gets what should be known before the work begins, in words.

    Raises
    ------
    OutputError
        The folder holds an earlier result or another unfinished run and `overwrite` is not set, another run is at work
        in it, or it cannot be written.
    RunFailedError
        Blocks failed, again and again; the others are done.
    """
    options = {name: value for name, value in (options or {}).items() if value is not None}
    with ExitStack() as stack:
        if pool is None:
            pool = open_pool("threads", default_workers() if workers is None else workers)
        stack.enter_context(pool)
        volume = open_volume(source, voxel_size=voxel_size, **options)
        refuse_folder(output, source)
        complete = with_defaults(config, volume.voxel_size)
        filter_file = None if classifier is None else classifier.path
        keys = {"input": str(source), "classifier": filter_file, "voxel_size": volume.voxel_size, **options}
        text = to_toml(_without_own_files(complete, output), keys)
        identity = identity_of(volume, complete, options)
        if classifier is not None:
            identity["classifier"] = classifier.digest
        if not overwrite and is_finished(output, identity, unasked=not resume):
            record = read_run(output) or {}
            shutil.rmtree(output / BLOCKS, ignore_errors=True)
            return RunReport(int(record["cells"]), 0.0, 0, list(record["hints"]), already=True)
        earlier = find_earlier(output, identity, overwrite=overwrite)
        prepared = _prepare(volume, config, pool, memory, block, device, earlier)
        refuse_earlier_result(output, unfinished=earlier is not None, overwrite=overwrite)
        make_folder(output)
        lock = stack.enter_context(FolderLock(output))
        if find_earlier(output, identity, overwrite=overwrite) != earlier:
            raise OutputError(f"{output}: another run has just worked here; look at what it left, and run again")
        run = _Run(output, prepared, identity, earlier, classifier, overwrite=overwrite, listener=listener)
        stack.callback(run.close)
        for line in (lock.stale, *run.progress.notes):
            if line:
                log.warning(line)
                notes([line])
        notes(list(prepared.notes))
        if run.progress.finished:
            done = f"{len(run.progress.finished)} of {len(prepared.plan.blocks)} blocks are done"
            notes([f"going on with the run in {output}: {done}"])
        report = run.go(text)
        # the very last: while it is there, whoever is killed and runs again is told that all is done
        shutil.rmtree(output / BLOCKS, ignore_errors=True)
        return report


def _without_own_files(config: CellsConfig, output: Path) -> CellsConfig:
    """The configuration without volumes that are saved into the folder itself: another run has a folder of its own."""
    folder = output.resolve()
    own = {
        name: step.model_copy(update={"save": None})
        for name, step in config
        if getattr(step, "save", None) is not None and Path(step.save).expanduser().resolve().is_relative_to(folder)
    }
    return config.model_copy(update=own)


def _prepare(
    volume: Volume,
    config: CellsConfig,
    pool: Pool,
    memory: int | None,
    block: Shape | None,
    device: str,
    earlier: Earlier | None,
) -> Prepared:
    """The run with the blocks of an earlier one: on as many workers as memory holds, which may be others now."""
    if earlier is None:
        return prepare(volume, config, pool=pool, memory=memory, block=block, device=device)
    if block is not None and tuple(min(b, s) for b, s in zip(block, volume.shape, strict=True)) != earlier.core:
        raise ConfigError(
            f"--block {','.join(map(str, block))}: the unfinished run has blocks of "
            f"{','.join(map(str, earlier.core))}; leave --block out to go on with it, or --overwrite to begin anew"
        )
    for workers in range(pool.workers, 0, -1):
        try:
            return prepare(volume, config, pool=pool, workers=workers, memory=memory, block=earlier.core, device=device)
        except MemoryBudgetError:
            if workers == 1:
                raise
    raise AssertionError("a pool has workers")


class _Run:
    """One run in its folder, from its record to its tables."""

    def __init__(
        self,
        output: Path,
        prepared: Prepared,
        identity: dict[str, Any],
        earlier: Earlier | None,
        classifier: Classifier | None,
        *,
        overwrite: bool,
        listener: Listener,
    ) -> None:
        self._output, self._prepared, self._classifier = output, prepared, classifier
        self._earlier, self._overwrite, self._listener = earlier, overwrite, listener
        self._begin = time.perf_counter()
        plan, volume = prepared.plan, prepared.reader.volume
        self.progress: Progress = open_progress(output, identity, plan.core, plan.blocks, prepared.reader, earlier)
        self._handler = log_to(output / "run.log", go_on=earlier is not None)
        self._record: dict[str, Any] = {
            "state": "running",
            "started": now(),
            "versions": versions(),
            "input": {
                "source": volume.name,
                "shape": list(volume.shape),
                "dtype": str(volume.dtype),
                "voxel_size_um": None if volume.voxel_size is None else list(volume.voxel_size),
            },
            "config": prepared.config.model_dump(mode="json"),
            "plan": {
                "blocks": len(plan.blocks),
                "core": list(plan.core),
                "workers": plan.workers,
                "executor": prepared.pool.kind,
                "gpus": [] if prepared.gpus is None else list(prepared.gpus.plan.names),
                "bytes_block": plan.bytes_block,
                "bytes_total": plan.bytes_total,
                "voxels_read": plan.voxels_read,
            },
            "identity": identity,
            **({} if earlier is None else earlier.carried),
        }

    def go(self, config_text: str) -> RunReport:
        """Do what is left to do."""
        record, volume = self._record, self._prepared.reader.volume
        try:
            log.info(
                "cytolith %s reads %s: %s %s", record["versions"]["cytolith"], volume.name, volume.shape, volume.dtype
            )
            log.info("%d of %d blocks are done already", len(self.progress.finished), len(self._prepared.plan.blocks))
            self._write()
            result = self._work(config_text)
            for name in ("closing", "failed"):
                record.pop(name, None)
            used = peak_bytes()
            record |= {"state": "finished", **_outcome(result)}
            record["memory"] = {"planned": self._prepared.plan.bytes_total, "used": used}
            for hint in result.hints:
                log.warning(hint)
            log.info("%d regions were read again with more around them", result.tally.widened)
            log.info("%d cells in %.1f s", result.tally.rows, result.seconds["run"])
            self._end()
            todo = (block for block in self._prepared.plan.blocks if block.index not in self.progress.finished)
            voxels = sum(math.prod(region_shape(block.core)) for block in todo)
            return RunReport(result.tally.rows, result.seconds["run"], voxels, result.hints)
        except KeyboardInterrupt as interrupt:
            record["state"] = "interrupted"
            log.warning("interrupted")
            self._end()
            if self._has_results():
                interrupt.add_note("the same command goes on from here")
            raise
        except BlocksFailedError as error:
            failed = RunFailedError(error, len(self._prepared.plan.blocks), self._output)
            record |= {"state": "failed", "error": str(failed), "failed": [describe(each) for each in error.failed]}
            for each in error.failed:
                if each.failure.details:
                    log.error(each.failure.details)  # noqa: TRY400 - the traceback of a worker
            log.error("failed: %s", failed)  # noqa: TRY400 - the log is for users; the command line shows the same
            self._end()
            raise failed from error
        except Exception as error:
            record |= {"state": "failed", "error": str(error)}
            log.error("failed: %s", error)  # noqa: TRY400 - the log is for users; the command line shows the same
            self._end()
            raise

    def _work(self, config_text: str) -> CellsResult:
        earlier, plan = self._earlier, self._prepared.plan
        prepared, noise = with_thresholds(self._prepared)
        if earlier is not None and earlier.noise is not None and noise != earlier.noise:
            raise OutputError(
                f"{self._output}: the noise of the volume is {noise}, and was {earlier.noise} when the unfinished run "
                "began: its planes have changed; --overwrite begins anew"
            )
        if noise is not None:
            self._record["noise"] = noise
            self._write()
        finished = self.progress.finished
        with Saves(
            prepared.setting.config,
            prepared.reader.volume,
            plan,
            overwrite=self._overwrite or earlier is not None,
            resume=earlier is not None,
            closing=earlier is not None and earlier.closing,
            keep=self._has_results,
        ) as saves:
            if not saves.resumed and finished:  # what was saved is gone: all of it must be written again
                log.warning("volumes that steps save are not where the run left them: all blocks are done again")
                finished = {}
            results = compute(
                prepared,
                saves,
                checkpoints=self.progress.checkpoints,
                finished=finished,
                policy=KEEP_GOING,
                listener=self._hear,
            )
            tally = self._write_tables(results, saves)
            self._record["closing"] = True
            self._write()
        write_text(self._output / "config.toml", config_text)
        return summarize(prepared, tally, noise, self._begin)

    def _write_tables(self, results: Results, saves: Saves) -> Tally:
        """Write the tables part by part, and what saved volumes need of them; the tally of what is in the tables."""
        volume = self._prepared.reader.volume
        size = volume.voxel_size
        metadata = {
            "voxel_size_um": json.dumps(size),
            "shape": json.dumps(list(volume.shape)),
            "cytolith": versions()["cytolith"],
        }
        rows = truncated = 0
        blocks = self._prepared.plan.blocks
        keys, marks = [np.empty(0, np.int64)], [np.empty(0, bool)]
        try:
            with (
                TableWriter(self._output / "cells.parquet", metadata) as parquet,
                TableWriter(self._output / "cells.csv") as csv,
            ):
                for found, found_keys in results.rows(blocks):
                    part, part_keys = found, found_keys
                    if self._classifier is not None:
                        part, kept = self._classifier.kept(found)
                        part_keys = found_keys[kept]
                    rows, truncated = rows + len(part_keys), truncated + int(part["truncated"].sum())
                    table = with_micrometres(part, size)
                    parquet.write(table)
                    csv.write(table)
                    if saves.needs_rows:
                        keys.append(part_keys)
                        marks.append(part["truncated"])
                saves.finish(np.concatenate(keys), np.concatenate(marks), results.apart(blocks))
        except RecordError as error:
            raise OutputError(f"{error}; give the same command again to do its block again") from error
        total = results.total
        if self._classifier is not None:
            self._record["candidates"] = total.rows
            log.info("%d of %d candidates are cells for the classifier", rows, total.rows)
        return replace(total, rows=rows, truncated=truncated)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Retried):
            log.warning(
                "block %d, %s: %s; tried again", event.block.index, planes_text(event.block.read), event.message
            )
        elif isinstance(event, Widened):
            log.debug("block %d: %d regions were read again", event.block.index, event.count)
        elif isinstance(event, Failed):
            log.error("block %d, %s: %s", event.block.index, planes_text(event.block.read), event.message)
        self._listener(event)

    def _write(self) -> None:
        write_text(self._output / "run.json", json.dumps(self._record, indent=2) + "\n")

    def _end(self) -> None:
        """Write the record of a run that ends, if that can be done at all."""
        self._record["ended"] = now()
        if self._record["state"] != "finished":
            if (self._output / "cells.parquet").exists():
                self._record["tables"] = "of an earlier run"
            if not self._has_results():  # nothing to go on with
                self.progress.checkpoints.remove()
        try:
            self._write()
        except OutputError as error:
            log.warning("%s", error)

    def _has_results(self) -> bool:
        return any(self.progress.checkpoints.folder.glob("*.block"))

    def close(self) -> None:
        """Let go of the log."""
        log.removeHandler(self._handler)
        log.propagate = True
        self._handler.close()


def _outcome(result: CellsResult) -> dict[str, Any]:
    return {
        "cells": result.tally.rows,
        "truncated": result.tally.truncated,
        "widened": result.tally.widened,
        "noise": result.noise,
        "thresholds": result.thresholds,
        "mask_voxels": result.tally.mask_voxels,
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "hints": result.hints,
    }
