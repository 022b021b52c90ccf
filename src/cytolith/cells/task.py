"""What a worker does with a block of a cells run."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cytolith.axes import Shape
from cytolith.cells.block import BlockCells, TooManyMaximaError, cells_of_block
from cytolith.cells.gpus import GpuUse
from cytolith.cells.images import Image, Look, Setting, look_on_cpu
from cytolith.cells.reader import AheadReader, Reader, load_flat_field
from cytolith.cells.results import BlockResult, Tally
from cytolith.cells.saves import Saves
from cytolith.cells.widen import Whole, settle
from cytolith.engine.checkpoint import Checkpoints
from cytolith.engine.gpus import GpuError
from cytolith.engine.grid import Block
from cytolith.engine.worker import worker_name
from cytolith.engine.workspace import Workspace
from cytolith.errors import MemoryBudgetError
from cytolith.kernels.components import MaskTooLargeError
from cytolith.kernels.jit import NO_CACHE, compiled_before, keeps_compiled

FLOOD_BYTES = 48
"""Memory of the watershed for each voxel of the mask, at most."""
MASK_SHARE = 0.2
"""Share of voxels above the shape threshold that the plan has room for; from it on a run warns that the threshold lets
nearly everything pass."""


@dataclass(frozen=True)
class Limits:
    """What a worker may take beyond what the plan counts for each voxel."""

    halo: Shape
    """Voxels that blocks read around their cores, (z, y, x)."""
    most_voxels: int
    """Voxels of a region that is read at once."""
    room: int
    """Bytes left over."""

    def mask_voxels(self, voxels: int) -> int:
        """Voxels above the shape threshold that memory holds in a region of so many voxels."""
        return self.room // FLOOD_BYTES + int(MASK_SHARE * voxels)


class _Worker:
    """What one worker keeps from block to block."""

    def __init__(self, reader: Reader, buffers: Callable[[], Workspace]) -> None:
        self.workspace = Workspace()
        self.reader = AheadReader(reader, buffers)
        self.whole = Whole()


class CellsTask:
    """Cells of a block: read, computed, saved, settled, kept. Travels to other processes as paths and parameters."""

    def __init__(
        self,
        reader: Reader,
        setting: Setting,
        limits: Limits,
        saves: Saves,
        checkpoints: Checkpoints | None = None,
        gpus: GpuUse | None = None,
    ) -> None:
        self._reader = reader
        self._setting = setting
        self._limits = limits
        self._saves = saves
        self._checkpoints = checkpoints
        self._gpus = gpus
        self._begin_here()

    def _begin_here(self) -> None:
        """What stays in this process."""
        self._local = threading.local()
        self._lock = threading.Lock()
        self._look: Look | None = None
        self._take_notes: Callable[[], list[str]] = list
        self._buffers: Callable[[], Workspace] = Workspace

    def __call__(self, block: Block, ahead: Block | None, given: Any) -> BlockResult | Tally:  # noqa: ARG002
        """Result of a block, or only its tally when the result is kept on disk."""
        notes = [] if compiled_before() else [_compiling()]
        look = self._look_here(notes)
        worker = self._worker()
        begin = time.perf_counter()
        image, mask = worker.reader.take(block, ahead)
        read = time.perf_counter() - begin
        shapes = self._setting.config.shape_detection
        everywhere = shapes is not None and shapes.threshold is None  # the plan counts all of it
        limit = None if everywhere else self._limits.mask_voxels(image.size)
        try:
            cells = cells_of_block(
                image, block, self._setting, worker.workspace, mask=mask, mask_limit=limit, look=look
            )
        except MaskTooLargeError as error:
            raise self._mask_error(error, image.size) from None
        cells.seconds["read"] = read
        self._saves.write(block, cells)
        begin = time.perf_counter()
        planes = [block.read[0]]

        def read_again(region: Block) -> tuple[Image, Image | None]:
            planes.append(region.read[0])
            return worker.reader.again(region)

        cells = settle(
            cells,
            block,
            self._setting,
            worker.workspace,
            read_again,
            most_voxels=self._limits.most_voxels,
            mask_limit=limit,
            halo=self._limits.halo,
            chunks=self._reader.volume.chunks,
            whole=worker.whole,
            look=look,
        )
        if worker.whole.cells is not None:  # and this block may have rows from it
            planes.append(slice(0, self._setting.shape[0]))
        cells.seconds["widening"] = time.perf_counter() - begin
        notes += self._take_notes()
        read_planes = min(part.start for part in planes), max(part.stop for part in planes)
        result = _result(cells, read_planes, "; ".join(notes))
        if self._checkpoints is None:
            return result
        self._saves.flush(block)
        self._checkpoints.save(block.index, *result.to_record())
        return result.tally

    def _mask_error(self, error: MaskTooLargeError, voxels: int) -> MemoryBudgetError:
        step, what = "shape_detection", "lie above it"
        if isinstance(error, TooManyMaximaError):
            step, what = "maxima_detection", "are maxima"
        threshold = getattr(self._setting.config, step).threshold
        return MemoryBudgetError(
            f"{step}.threshold {threshold.value if threshold else 'none'}: {error.voxels:,} of {voxels:,} voxels of a "
            f"block {what}, more than the memory left holds: raise it, or give more memory (--memory)"
        )

    def _worker(self) -> _Worker:
        worker: _Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = _Worker(self._reader, self._buffers)
        return worker

    def _look_here(self, notes: list[str]) -> Look:
        """How this process does the dense part of a block; notes say so where it has no GPU of use."""
        with self._lock:
            if self._look is None:
                self._look = look_on_cpu
                if self._gpus is not None:
                    from cytolith.cells.on_gpu import OnGpu  # with all that it takes, where it is needed

                    try:
                        on_gpu = OnGpu(self._gpus)
                        self._look, self._take_notes, self._buffers = on_gpu, on_gpu.take_notes, on_gpu.workspace
                    except GpuError as error:
                        notes.append(f"the worker on {worker_name()} uses no GPU: {error}")
            return self._look

    def __getstate__(self) -> dict[str, Any]:
        # a flat field is as large as a plane: it is made again from its file
        setting = replace(self._setting, flat_field=None)
        here = dict.fromkeys(("_local", "_lock", "_look", "_take_notes", "_buffers"))
        return self.__dict__ | here | {"_setting": setting}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_here()
        field = load_flat_field(self._setting.config, self._reader.volume)
        self._setting = replace(self._setting, flat_field=field)


@functools.cache
def _compiling() -> str:
    """What a worker that compiles the kernels first tells of itself."""
    again = "" if keeps_compiled() else f"; each process does, as {NO_CACHE}"
    return f"the worker on {worker_name()} compiled the kernels first, which takes about a minute{again}"


def _result(cells: BlockCells, planes: tuple[int, int], note: str) -> BlockResult:
    """What is kept of the cells of a block: nothing as large as the block."""
    z = cells.table["z"]
    tally = Tally(
        rows=len(z),
        truncated=int(cells.table["truncated"].sum()),
        widened=cells.widened,
        mask_voxels=cells.mask_voxels,
        brightest=cells.brightest,
        first_z=float(z.min()) if len(z) else math.inf,
        planes=planes,
        seconds=cells.seconds,
        note=note,
    )
    return BlockResult(cells.table, cells.keys, cells.apart, tally)
