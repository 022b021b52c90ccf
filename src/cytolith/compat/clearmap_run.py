"""A run of the cells pipeline by ClearMap's parameters: its blocks, its saves, its way to cancel.

Each block reads what its cells depend on around its valid range, however small the overlap given is, so that the rows
do not depend on the blocks.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cytolith.axes import Region, Shape, region_shape
from cytolith.cells.block import Table
from cytolith.cells.config import CellsConfig, IlluminationCorrection
from cytolith.cells.costs import clear_reach
from cytolith.cells.pipeline import Prepared, execute, prepare
from cytolith.compat.clearmap_blocks import LayoutBlock
from cytolith.compat.clearmap_files import Source
from cytolith.compat.clearmap_maxima import EXTENDED_BYTES, extended_maxima
from cytolith.compat.clearmap_parameters import Parameters
from cytolith.compat.clearmap_saves import ClearMapSaves, check_places
from cytolith.engine.events import BlockDone, Event, Planned
from cytolith.engine.executors import ThreadPool
from cytolith.engine.grid import Plan, halo_block, largest_read
from cytolith.engine.machine import default_memory, default_workers
from cytolith.errors import ConfigError, MemoryBudgetError
from cytolith.io.volume import Volume
from cytolith.quantities import format_bytes


def run(
    source: Source,
    parameters: Parameters,
    layout: Sequence[LayoutBlock] | None,
    workers: int | None,
    *,
    handle: Any = None,
    sink: Path | None = None,
) -> Table:
    """All cells, sorted by (z, y, x).

    Parameters
    ----------
    source
        The volume.
    parameters
        Of all steps.
    layout
        Blocks to go by; None: as memory and workers have it.
    workers
        Threads; None: one for each core.
    handle
        Gets what the run is cancelled with as its attribute `executor`.
    sink
        Where the table will be written.

    Returns
    -------
    dict of str to ndarray
        As :func:`cytolith.detect_cells` gives it.
    """
    workers = min(default_workers() if workers is None else workers, default_workers())
    with ThreadPool(workers) as pool, _cancelled_by(handle) as canceller:
        prepared = _prepare(source, parameters, pool)
        check_places(parameters.saves, sink, [*source.files, *parameters.files], source.volume.shape)
        if layout is not None:
            _warn_of_overlap(layout, clear_reach(prepared.setting.config))
            if prepared.setting.extended_maxima is None:
                prepared = replace(prepared, plan=_plan_of(layout, prepared))
        saves = functools.partial(ClearMapSaves, paths=parameters.saves, check=canceller.check)
        try:
            table = execute(prepared, saves=saves, listener=_Listener(canceller, verbose=parameters.verbose)).table
        except MemoryBudgetError as error:  # there is no such option here
            raise MemoryBudgetError(str(error).removesuffix(", or give more memory (--memory)")) from None
    count = int(table["truncated"].sum())
    if count:
        first = np.flatnonzero(table["truncated"])[0]
        at = ", ".join(str(int(table[axis][first])) for axis in "xyz")
        warnings.warn(
            f"{count} cells, the first at ({at}), run on through more of the volume than memory holds at once: their "
            "size and intensities are those of a part; raise the threshold of shape_detection",
            stacklevel=3,
        )
    return table


def _prepare(source: Source, parameters: Parameters, pool: ThreadPool) -> Prepared:
    volume, config, memory = source.volume, parameters.config, default_memory()
    check_mask(config, volume)
    if config.illumination_correction is not None:
        config = config.model_copy(update={"illumination_correction": _fitting(config.illumination_correction, volume)})
    if config.maxima_detection is not None and config.maxima_detection.h_max is not None:
        prepared = _whole(prepare(volume, config, pool=pool, memory=2**62, block=volume.shape), memory)
    else:
        try:
            prepared = prepare(volume, config, pool=pool, memory=memory)
        except MemoryBudgetError:
            raise MemoryBudgetError(
                f"{format_bytes(memory)}, half of the memory there is, do not hold the smallest block of "
                f"{volume.name} with these parameters; use a machine with more"
            ) from None
    return replace(prepared, setting=replace(prepared.setting, keeps_images=bool(parameters.saves)))


def check_mask(config: CellsConfig, volume: Volume) -> None:
    """Refuse a mask of the equalization of another extent; ConfigError."""
    mask = None if config.equalization is None else config.equalization.mask
    if mask is not None and mask.shape != volume.shape:
        raise ConfigError(
            f"equalization: mask has the shape {mask.shape[::-1]} (x, y, z), the source {volume.shape[::-1]}"
        )


def _fitting(step: IlluminationCorrection, volume: Volume) -> IlluminationCorrection:
    """The correction for planes of a volume; messages have the order (x, y)."""
    _, Y, X = volume.shape
    for name in ("flatfield", "background"):
        shape = np.shape(getattr(step, name))
        others = ((Y,), (X,)) if name == "flatfield" else ((),)
        if shape not in ((Y, X), *others):
            raise ConfigError(
                f"illumination_correction: {name} has the shape {shape[::-1]}, planes have {(X, Y)} (x, y)"
            )
    # a line of values varies along y, or along x where only that axis has its length
    return step.model_copy(update={"axis": "y"}) if np.shape(step.flatfield) == (Y,) else step


def _whole(prepared: Prepared, memory: int) -> Prepared:
    """The run in one block: with a height, a peak far away decides what is a maximum."""
    costs, plan = prepared.costs, prepared.plan
    block = math.ceil(math.prod(prepared.setting.shape) * (costs.bytes_per_voxel + EXTENDED_BYTES))
    needed = costs.bytes_fixed + costs.bytes_worker + block
    if needed > memory:
        raise MemoryBudgetError(
            f"maxima_detection: with h_max the volume is held at once, which takes {format_bytes(needed)} of "
            f"{format_bytes(memory)}; set h_max to None, or use cytolith.detect_cells, which does extended maxima in "
            "blocks"
        )
    setting = replace(prepared.setting, extended_maxima=extended_maxima)
    plan = replace(plan, bytes_block=block, bytes_total=needed)
    return replace(prepared, setting=setting, plan=plan, memory=memory)


def _plan_of(layout: Sequence[LayoutBlock], prepared: Prepared) -> Plan:
    """The blocks of a layout; what memory does not hold is cut further."""
    plan, costs, shape = prepared.plan, prepared.costs, prepared.setting.shape
    # halves are rounded to even numbers: where blocks are tiny, some own nothing
    cores = [block.core for block in layout if 0 not in region_shape(block.core)]
    fixed = costs.bytes_fixed
    for parts in (cores, [part for core in cores for part in _cut(core, plan.core)]):
        parts = sorted(parts, key=lambda part: [side.start for side in part])
        blocks = [halo_block(n, part, costs.halo, shape) for n, part in enumerate(parts)]
        block = math.ceil(largest_read(blocks) * costs.bytes_per_voxel)
        at_once = min(prepared.pool.workers, len(blocks), (prepared.memory - fixed) // (block + costs.bytes_worker))
        if at_once >= 1:
            break
    largest = max(parts, key=lambda part: math.prod(region_shape(part)))
    return Plan(blocks, region_shape(largest), at_once, block, fixed + at_once * (block + costs.bytes_worker))


def _warn_of_overlap(layout: Sequence[LayoutBlock], reach: Shape) -> None:
    """Say where blocks overlap by less than what the filters see; it makes no difference to the rows."""
    for axis, name in enumerate("xyz"):
        parts = sorted({block.axes[axis].range for block in layout})
        if len(parts) == 1:
            continue
        overlap = min(before[1] - after[0] for before, after in itertools.pairwise(parts))
        if overlap // 2 < reach[2 - axis]:
            warnings.warn(
                f"processing_parameter['overlap']: blocks share {overlap} voxels along {name}, {overlap // 2} on each "
                f"side of a border, but the filters see {reach[2 - axis]}: more is read around the blocks, so that the "
                "result is right; ClearMap's depends on the blocks there",
                stacklevel=4,
            )


def _cut(region: Region, extent: Shape) -> Iterator[Region]:
    """Parts of a region of this extent at most."""
    starts = (range(side.start, side.stop, n) for side, n in zip(region, extent, strict=True))
    for origin in itertools.product(*starts):
        z, y, x = (slice(at, min(at + n, side.stop)) for at, n, side in zip(origin, extent, region, strict=True))
        yield z, y, x


class Canceller:
    """What a run is cancelled with; looks like the executor that ClearMap puts there."""

    def __init__(self) -> None:
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._thread = threading.get_ident()

    @property
    def is_cancelled(self) -> bool:
        """Whether the run ends without a result."""
        return self._stopped.is_set()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:  # noqa: ARG002
        """Cancel: no block begins any more, and the run ends when those at work are done.

        Until then this waits, if it is to; not in the thread of the run itself, where a signal may call it.
        """
        self._stopped.set()
        if wait and threading.get_ident() != self._thread:
            self._ended.wait()

    def immediate_shutdown(self) -> None:
        """Cancel without waiting."""
        self.shutdown(wait=False)

    def check(self) -> None:
        """Raise CancelledError if the run is cancelled."""
        if self._stopped.is_set():
            raise CancelledError("the run was cancelled")

    def end(self) -> None:
        """Nobody needs to wait any more."""
        self._ended.set()


@contextmanager
def _cancelled_by(handle: Any) -> Iterator[Canceller]:
    canceller = Canceller()
    if handle is not None:
        try:
            handle.executor = canceller
        except AttributeError:
            raise ConfigError(
                f"workspace: a {type(handle).__name__} takes no attribute 'executor'; give None"
            ) from None
    try:
        yield canceller
    finally:
        if handle is not None:
            handle.executor = None
        canceller.end()


class _Listener:
    """Ends a cancelled run between blocks, and says how far it is."""

    def __init__(self, canceller: Canceller, *, verbose: bool) -> None:
        self._canceller, self._verbose = canceller, verbose
        self._done = self._count = 0

    def __call__(self, event: Event) -> None:
        self._canceller.check()
        if isinstance(event, Planned):
            self._count = len(event.plan.blocks)
        elif isinstance(event, BlockDone):
            self._done += 1
            if self._verbose:
                sys.stdout.write(f"block {self._done} of {self._count}: {event.seconds:.1f} s\n")
