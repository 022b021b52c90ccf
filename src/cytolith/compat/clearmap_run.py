"""Cells of a whole volume, block by block on threads, by ClearMap's parameters.

The blocks are those of the processing parameters. Each reads what its cells depend on around its valid range, however
small the overlap given is, and cells that run on are read again (`clearmap_widen`), so that the rows do not depend on
the blocks.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, full_region, region_shape
from cytolith.cells.costs import ROOM_VOXELS
from cytolith.cells.owners import inside_region
from cytolith.cells.pipeline import PROCESS_BYTES
from cytolith.cells.task import FLOOD_BYTES, MASK_SHARE
from cytolith.cells.widen import READ_AGAIN
from cytolith.compat.clearmap_blocks import LayoutBlock
from cytolith.compat.clearmap_files import Source, open_source, read_correction
from cytolith.compat.clearmap_images import image_bytes, run_image_steps
from cytolith.compat.clearmap_maxima import EXTENDED_BYTES
from cytolith.compat.clearmap_parameters import Parameters
from cytolith.compat.clearmap_saves import Saves
from cytolith.compat.clearmap_shapes import (
    Found,
    Rows,
    block_reach,
    cells_in_images,
    join_rows,
    no_rows,
    settled_reach,
    shape_bytes,
)
from cytolith.compat.clearmap_widen import is_whole, settle
from cytolith.engine.grid import Block, Costs, Plan, largest_read, plan_blocks
from cytolith.engine.machine import default_memory, default_workers
from cytolith.engine.workspace import Workspace
from cytolith.errors import ConfigError, MemoryBudgetError, VolumeError
from cytolith.kernels.components import MaskTooLargeError
from cytolith.quantities import format_bytes


class Run:
    """One volume with its parameters."""

    def __init__(self, source: Source, parameters: Parameters, taken: list[Path]) -> None:
        """Checks all that can be checked before any work; `taken` are paths that nothing may be saved to."""
        self._volume, self._parameters = source.volume, parameters
        self._volume.check()
        self._flat_field = read_correction(parameters.illumination, self._volume.shape[1:])
        self._mask = None
        if parameters.equalization is not None and parameters.equalization.mask is not None:
            self._mask = open_source(parameters.equalization.mask).volume
            if self._mask.shape != self._volume.shape:
                raise ConfigError(
                    f"equalization: mask has the shape {self._mask.shape[::-1]} (x, y, z), the source "
                    f"{self._volume.shape[::-1]}"
                )
        self._saves = Saves(parameters.saves, self._volume.shape, taken)
        z, y, x = (reach + ROOM_VOXELS for reach in block_reach(parameters))
        self._costs = Costs(
            (z, y, x),
            image_bytes(parameters, self._volume.dtype) + shape_bytes(parameters),
            PROCESS_BYTES,
            self._volume.read_bytes,
        )
        self._memory = default_memory()
        self._local = threading.local()
        self._turn = threading.Lock()
        self._whole: Rows | None = None
        self._stopped = threading.Event()
        self._room = 0  # bytes of each worker

    def rows(self, layout: Sequence[LayoutBlock] | None, workers: int | None, handle: Any) -> Rows:
        """All cells, sorted by (z, y, x).

        Parameters
        ----------
        layout
            Blocks to go by; None: as memory and workers have it.
        workers
            Threads; None: one for each core.
        handle
            Gets what the run is cancelled with as its attribute `executor`.
        """
        blocks, workers = self._blocks(layout, workers)
        room = self._memory - PROCESS_BYTES
        self._room = room // workers
        with self._saves:
            parts = [no_rows(self._parameters)]
            with _executor(handle, self._stopped, workers) as executor:
                for number, future in enumerate([executor.submit(self._rows_of, block) for block in blocks], 1):
                    parts.append(future.result())
                    self._say(f"block {number} of {len(blocks)}: {len(parts[-1])} cells")
            rows = join_rows(parts)
            if rows.open.any():  # the memory of all workers is there for what is left
                self._room = room
                with _executor(handle, self._stopped, 1) as executor:
                    rows = executor.submit(self._settled, rows, float(math.prod(self._volume.shape))).result()
            self._check_stopped()
            rows = self._sorted(rows)
            self._saves.finish(rows.keys)
        return rows

    def warn_of_overlap(self, layout: Sequence[LayoutBlock]) -> None:
        """Say where blocks overlap by less than what the filters see; it makes no difference to the rows."""
        reach = settled_reach(self._parameters)[::-1]
        for axis, name in enumerate("xyz"):
            parts = sorted({block.axes[axis].range for block in layout})
            if len(parts) == 1:
                continue
            overlap = min(before[1] - after[0] for before, after in itertools.pairwise(parts))
            if overlap // 2 < reach[axis]:
                warnings.warn(
                    f"processing_parameter['overlap']: blocks share {overlap} voxels along {name}, {overlap // 2} on "
                    f"each side of a border, but the filters see {reach[axis]}: more is read around the blocks, so "
                    "that the result is right; ClearMap's depends on the blocks there",
                    stacklevel=3,
                )

    def _blocks(self, layout: Sequence[LayoutBlock] | None, workers: int | None) -> tuple[list[Block], int]:
        shape, costs = self._volume.shape, self._costs
        workers = min(default_workers() if workers is None else workers, default_workers())
        whole = full_region(shape)
        step = self._parameters.maxima
        if step is not None and step.h_max is not None:  # a peak far away decides what is a maximum
            needed = PROCESS_BYTES + math.ceil(math.prod(shape) * (costs.bytes_per_voxel + EXTENDED_BYTES))
            if needed > self._memory:
                raise MemoryBudgetError(
                    f"maxima_detection: with h_max the volume is held at once, which takes {format_bytes(needed)} of "
                    f"{format_bytes(self._memory)}; set h_max to None, or use cytolith.detect_cells, which does "
                    "extended maxima in blocks"
                )
            return [Block(0, whole, whole)], 1
        if layout is None:
            plan = self._plan(workers)
            return plan.blocks, plan.workers
        # halves are rounded to even numbers: where blocks are tiny, some own nothing
        owning = [block for block in layout if 0 not in region_shape(block.core)]
        blocks = [self._block(n, block.core, block.covered) for n, block in enumerate(owning)]
        room = self._memory - PROCESS_BYTES
        needed = math.ceil(largest_read(blocks) * costs.bytes_per_voxel) + costs.bytes_worker
        if needed <= room:
            return blocks, max(1, min(workers, len(blocks), room // needed))
        # what memory does not hold is cut further
        plan = self._plan(workers)
        parts = [part for block in blocks for part in _cut(block.core, plan.core)]
        return [self._block(n, part, part) for n, part in enumerate(parts)], plan.workers

    def _plan(self, workers: int) -> Plan:
        chunks = self._volume.chunks
        try:
            return plan_blocks(self._volume.shape, self._costs, memory=self._memory, workers=workers, chunks=chunks)
        except MemoryBudgetError:
            raise MemoryBudgetError(
                f"{format_bytes(self._memory)}, half of the memory there is, do not hold the smallest block of "
                f"{self._volume.name} with these parameters; use a machine with more"
            ) from None

    def _block(self, index: int, core: Region, covered: Region) -> Block:
        """A block that reads what its cells depend on, and at least what it is said to cover."""
        z, y, x = (
            slice(max(min(c.start - h, r.start), 0), min(max(c.stop + h, r.stop), s))
            for c, r, h, s in zip(core, covered, self._costs.halo, self._volume.shape, strict=True)
        )
        return Block(index, core, (z, y, x))

    def _rows_of(self, block: Block) -> Rows:
        if self._whole is not None and not self._parameters.saves:
            return self._whole.take(inside_region(self._whole.centres, block.core))
        images = self._images(block.read)
        self._saves.write_images(block, images)
        if self._parameters.maxima is None:
            return no_rows(self._parameters)
        try:
            found = self._cells(images, block)
        except MaskTooLargeError as error:
            assert self._parameters.shapes is not None
            raise MemoryBudgetError(
                f"shape_detection: threshold {self._parameters.shapes.threshold}: {error.voxels:,} of "
                f"{math.prod(region_shape(block.read)):,} voxels of a block lie above it, more than memory holds; "
                "raise it"
            ) from None
        self._saves.write_marks(block, found.marks)
        self._saves.write_cells(block.read, found)
        return self._settled(found.rows, READ_AGAIN * math.prod(region_shape(block.read)))

    def _settled(self, rows: Rows, budget: float) -> Rows:
        if not rows.open.any():
            return rows
        reach = settled_reach(self._parameters)
        most_voxels = int(self._room / self._costs.bytes_per_voxel)
        return settle(rows, self._look, self._volume.shape, reach, most_voxels=most_voxels, budget=budget)

    def _look(self, region: Region, keys: NDArray[np.int64]) -> Rows:
        """Rows of cells from what is read of a region."""
        if not is_whole(region, self._volume.shape) or self._parameters.saves:
            return self._look_at(Block(0, region, region), keys)
        with self._turn:  # once for all
            if self._whole is None:
                self._whole = self._look_at(Block(0, region, region), None)
        return self._whole.take(np.isin(self._whole.keys, keys))

    def _look_at(self, block: Block, keys: NDArray[np.int64] | None) -> Rows:
        found = self._cells(self._images(block.read), block, keys)
        self._saves.write_cells(block.read, found)
        return found.rows

    def _images(self, region: Region) -> dict[str, NDArray[Any]]:
        self._check_stopped()
        workspace: Workspace | None = getattr(self._local, "workspace", None)
        if workspace is None:
            workspace = self._local.workspace = Workspace()
        image = workspace.array("source", region_shape(region), self._volume.dtype)
        self._volume.read(region, out=image)
        if image.dtype.kind == "f" and not all(np.isfinite(plane).all() for plane in image):
            raise VolumeError(f"{self._volume.name}: there are voxels that are no finite numbers; replace them by 0")
        mask = None if self._mask is None else self._mask.read(region) != 0
        self._check_stopped()
        return run_image_steps(image, region, self._volume.shape, self._parameters, self._flat_field, workspace, mask)

    def _cells(self, images: dict[str, NDArray[Any]], block: Block, keys: NDArray[np.int64] | None = None) -> Found:
        self._check_stopped()
        size, shapes = images["source"].size, self._parameters.shapes
        spare = max(self._room - math.ceil(size * self._costs.bytes_per_voxel), 0)
        limit = int(MASK_SHARE * size) + spare // FLOOD_BYTES
        if shapes is not None and shapes.threshold is None:  # there is room for all
            limit = size
        return cells_in_images(images, block, self._volume.shape, self._parameters, asked=keys, limit=limit)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise CancelledError("the run was cancelled")

    def _sorted(self, rows: Rows) -> Rows:
        """Rows in their final order, without those of which nothing was seen."""
        if "size" in rows.columns:
            rows = rows.take(rows.columns["size"] > 0)
        count = int(rows.open.sum())
        if count:
            at = ", ".join(str(centre) for centre in rows.centres[rows.open][0, ::-1])
            warnings.warn(
                f"{count} cells, the first at ({at}), run on through more of the volume than memory holds at once: "
                "their size and intensities are those of a part; raise the threshold of shape_detection",
                stacklevel=4,
            )
        z, y, x = rows.centres.T
        return rows.take(np.lexsort((rows.keys, x, y, z)))

    def _say(self, line: str) -> None:
        if self._parameters.verbose:
            sys.stdout.write(f"{line}\n")


class CancellableThreads(ThreadPoolExecutor):
    """Threads of a run. Whoever shuts them down cancels it."""

    def __init__(self, workers: int, stopped: threading.Event) -> None:
        super().__init__(workers, thread_name_prefix="block")
        self._stopped = stopped

    @property
    def is_cancelled(self) -> bool:
        """Whether the run ends without a result."""
        return self._stopped.is_set()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Cancel: what has not begun does not begin, and what is at work ends at its next step."""
        self._stopped.set()
        super().shutdown(wait=wait, cancel_futures=cancel_futures)

    def finish(self) -> None:
        """End the threads after their work."""
        super().shutdown()


@contextmanager
def _executor(handle: Any, stopped: threading.Event, workers: int) -> Iterator[CancellableThreads]:
    executor = CancellableThreads(workers, stopped)
    if handle is not None:
        handle.executor = executor
    try:
        yield executor
        executor.finish()
    except BaseException as error:
        was_cancelled = stopped.is_set()
        executor.shutdown()
        if was_cancelled and isinstance(error, (CancelledError, RuntimeError)):  # also where blocks were left to submit
            raise CancelledError("the run was cancelled") from None
        raise
    finally:
        if handle is not None:
            handle.executor = None


def _cut(region: Region, extent: Shape) -> Iterator[Region]:
    """Parts of a region of this extent at most."""
    starts = (range(side.start, side.stop, n) for side, n in zip(region, extent, strict=True))
    for z, y, x in itertools.product(*starts):
        ends = (min(at + n, side.stop) for at, n, side in zip((z, y, x), extent, region, strict=True))
        z1, y1, x1 = ends
        yield slice(z, z1), slice(y, y1), slice(x, x1)
