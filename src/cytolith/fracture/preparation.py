"""What is known and checked of a fracture run before the volume is read, and where it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cytolith.engine.executors import Pool
from cytolith.engine.identity import refuse_other
from cytolith.errors import OutputError
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.outputs import Outputs, name_outputs, stem_of
from cytolith.fracture.passes import Kept
from cytolith.fracture.places import plan_passes
from cytolith.fracture.plan import Needs, SlabPlan, stack_chunk
from cytolith.fracture.projections import Maps
from cytolith.fracture.source import Source, looks_grey
from cytolith.fracture.unfinished import (
    Unfinished,
    begin,
    boot,
    identity_of,
    open_kept,
    read_unfinished,
    refuse_changed,
)
from cytolith.io.stamps import Stamps
from cytolith.io.volume import Volume


@dataclass(frozen=True)
class Prepared:
    """A run of which everything is known and checked that can be before the volume is read."""

    config: FractureConfig
    source: Source
    slabs: SlabPlan
    pool: Pool
    outputs: Outputs
    hints: list[str]
    identity: dict[str, Any] | None
    """What the run is; None when it cannot be gone on with, as its input is no path."""
    stamps: Stamps | None
    unfinished: Unfinished | None
    """The run that it goes on with."""
    found: Unfinished | None
    """The run that was there, be it this one or one that will be replaced."""
    notes: list[str] = field(default_factory=list)
    """What a user should know before it begins."""


def prepare(
    volume: Volume,
    path: str | Path | None,
    folder: Path,
    config: FractureConfig,
    pool: Pool,
    *,
    chosen: Mapping[str, Any] | None = None,
    workers: int | None = None,
    memory: int | None = None,
    planes: int | None = None,
    force: bool = False,
    apart: bool = False,
) -> Prepared:
    """Check a volume, the parameters and every file to be written, and plan the blocks.

    Takes and raises what :func:`run_fracture` does, before any work; `path` is what the volume was opened from, with
    the options `chosen`, and None for an array; `apart` as in :class:`Outputs`.
    """
    folder = folder.expanduser()
    source = Source(volume, config.threshold, config.invert)
    name = "stack" if path is None else path
    paths = name_outputs(config, folder, stem_of(name))
    outputs = Outputs(folder, stem_of(name), paths, name, force=force, apart=apart)
    volume.check()
    stamps = None if path is None else volume.stamps()
    given = {option: value for option, value in (chosen or {}).items() if value is not None}
    identity = None if path is None or stamps is None else identity_of(volume, path, config, given)
    found = read_unfinished(outputs.scratch)
    unfinished = None if found is None else _same_run(outputs, found, identity, stamps, force=force)
    needs = Maps.needs(volume.shape, config.axis) if config.needs_maps else Needs(0)
    slabs = plan_passes(
        source,
        pool,
        workers,
        memory,
        needs=replace(needs, voxel_bytes=len(outputs.stacks)),
        multiple=max((stack_chunk(volume.shape, path)[0] for path in outputs.stacks.values()), default=1),
        planes=planes,
        cut=None if unfinished is None else unfinished.cut,
    )
    hints = []
    if volume.storage.display is not None:
        hints.append(f"{volume.name} is {volume.storage.display}; --invert exchanges fracture and rock")
    if config.threshold is None and looks_grey(volume):
        hints.append(
            f"{volume.name} looks like a grey stack, and every voxel that is not 0 is taken for fracture: give "
            "--threshold T (fracture is brighter than T), and --invert when fracture is darker"
        )
    notes = [] if unfinished is None else [f"going on with the unfinished run in {folder}"]
    return Prepared(config, source, slabs, pool, outputs, hints, identity, stamps, unfinished, found, notes)


def _same_run(
    outputs: Outputs, found: Unfinished, identity: dict[str, Any] | None, stamps: Stamps | None, *, force: bool
) -> Unfinished | None:
    """The run that was found when it is this one; others are refused, or None with `force`."""
    try:
        place, there = outputs.folder, "the unfinished run there"
        refuse_other(identity, found.identity, place=place, there=there, anew="-f (--force)")
        assert stamps is not None
        refuse_changed(outputs.scratch, found, stamps)
    except OutputError:
        with outputs.lock_of(outputs.folder):  # one that is still at work is refused as such
            pass
        if not (force or outputs.apart):
            raise
        return None
    return found


def begin_run(prepared: Prepared) -> Kept | None:
    """Blocks that are finished, and a place for others; None when nothing is kept. The folder is locked."""
    outputs, unfinished, cut = prepared.outputs, prepared.unfinished, prepared.slabs.cut
    if read_unfinished(outputs.scratch) != prepared.found:
        raise OutputError(f"{outputs.folder}: another run has written there meanwhile; run again")
    if unfinished is None:
        outputs.begin_anew()
    if prepared.identity is None or prepared.stamps is None:
        return None
    stacks = False
    if unfinished is not None:
        alive = bool(unfinished.boot) and unfinished.boot == boot()
        stacks = outputs.go_on() and (alive or not outputs.stacks)
    begin(outputs.scratch, prepared.identity, cut, prepared.stamps)
    outputs.resumable = True
    return open_kept(outputs.scratch, prepared.identity, cut, prepared.slabs.plan.blocks, stacks_are_there=stacks)
