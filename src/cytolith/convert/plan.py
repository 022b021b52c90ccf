"""Blocks of each stage, and the memory that they take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from cytolith.axes import Shape
from cytolith.convert.levels import Pyramid, Stage
from cytolith.engine.grid import Plan, tile
from cytolith.errors import MemoryBudgetError
from cytolith.io.volume import Volume, shape_text
from cytolith.quantities import format_bytes

PROCESS_BYTES = 256 * 2**20
"""Of the process whatever the blocks are: libraries, compiled kernels."""
_FILE_BLOCK_BYTES = 128 * 2**20
"""Blocks of files into which regions are written in any order: more of them show progress, and less is done again."""
_RAW, _DECODED = 0.1, 1.0
"""Cost of reading a voxel again, as it is stored and where it is decoded, against compressing one."""


def plan_stage(
    stage: Stage, pyramid: Pyramid, volume: Volume, shape: Shape, memory: int, workers: int, core: Shape | None = None
) -> Plan:
    """Plan of a stage: blocks of so many whole shards that storage is decoded as seldom as the memory allows.

    Parameters
    ----------
    stage, pyramid
        From :func:`cytolith.convert.levels.lay_out`.
    volume
        What is read.
    shape
        Extent of the part of it that is converted.
    memory
        Bytes to stay below.
    workers
        Blocks at work at once, at most.
    core
        Extent of a block, to take instead of searching.

    Raises
    ------
    MemoryBudgetError
        The memory does not hold a block; says how much would, and what makes blocks smaller.
    """
    read = shape if stage.source is None else pyramid.levels[stage.source].grid.shape
    found = [core] if core is not None else ([stage.block] if stage.source is not None else _candidates(stage, read))
    best: tuple[float, int, int, Shape] | None = None
    for candidate in found:
        own = _clipped(candidate, read)
        needs = _block_bytes(stage, pyramid, volume, own)
        blocks = math.prod(math.ceil(extent / step) for extent, step in zip(read, own, strict=True))
        fitting = min(workers, blocks, (memory - PROCESS_BYTES) // needs)
        if fitting < 1:
            continue
        busiest = math.ceil(blocks / fitting) * fitting / blocks / fitting
        cost = (1.0 + (_decoding(volume, read, own) if stage.source is None else 0.0)) * busiest
        # differences of some percent are noise; then smaller blocks are better, as less is done again
        rank = round(math.log(cost) / 0.05), needs, fitting, own
        if best is None or rank < best:
            best = rank
    if best is None:
        raise _too_small(stage, pyramid, volume, read, memory, core)
    _, needs, fitting, own = best
    return Plan(tile(read, own, (0, 0, 0)), own, fitting, needs, PROCESS_BYTES + fitting * needs)


def plan_file(volume: Volume, shape: Shape, memory: int, workers: int, core: Shape | None = None) -> Plan:
    """Plan for a file into which regions are written in any order: slabs of planes, or bands where memory is short.

    Takes and raises what :func:`plan_stage` does.
    """
    for whole, fitting in itertools.product((True, False), range(workers, 0, -1)):
        room = (memory - PROCESS_BYTES) // fitting - volume.read_bytes
        own = core or (_slab(volume, shape, room) if whole else _rows(volume, shape, room))
        if own is not None and (needs := math.prod(own) * 2 * volume.dtype.itemsize) <= room:
            needs += volume.read_bytes
            blocks = tile(shape, own, (0, 0, 0))
            fitting = min(fitting, len(blocks))
            return Plan(blocks, own, fitting, needs, PROCESS_BYTES + fitting * needs)
    rows = math.prod(core or (1, 1, shape[2])) * 2 * volume.dtype.itemsize
    least = math.ceil((PROCESS_BYTES + volume.read_bytes + rows) / 2**20)
    raise MemoryBudgetError(f"--memory {format_bytes(memory)} does not hold a block: give at least --memory {least}MiB")


def _slab(volume: Volume, shape: Shape, room: int) -> Shape | None:
    """Extent of a block of whole chunks of what is read; None where the memory holds none."""
    depth, height, _ = _clipped(volume.chunks or (1, 1, 1), shape)
    _, Y, X = shape
    plane, row = (n * X * 2 * volume.dtype.itemsize for n in (Y, 1))
    for bytes_ in (min(_FILE_BLOCK_BYTES, room), room):  # large ones only where whole chunks need them
        if bytes_ >= depth * plane:
            return _clipped((bytes_ // (depth * plane) * depth, Y, X), shape)
        if bytes_ >= depth * height * row:
            return _clipped((depth, bytes_ // (depth * height * row) * height, X), shape)
    return None


def _rows(volume: Volume, shape: Shape, room: int) -> Shape | None:
    """Extent of a block of so many rows of a plane as the memory holds; None where it holds none."""
    rows = room // (shape[2] * 2 * volume.dtype.itemsize)
    return (1, min(rows, shape[1]), shape[2]) if rows > 0 else None


def _candidates(stage: Stage, shape: Shape) -> Iterator[Shape]:
    axes = []
    for extent, step in zip(shape, stage.block, strict=True):
        most = math.ceil(extent / step)
        counts = {most, *(2**power for power in range(most.bit_length()) if 2**power <= most)}
        axes.append([step * count for count in sorted(counts)])
    for z, y, x in itertools.product(*axes):  # noqa: UP028 (of three)
        yield z, y, x


def _clipped(core: Shape, shape: Shape) -> Shape:
    z, y, x = (min(step, extent) for step, extent in zip(core, shape, strict=True))
    return z, y, x


def _block_bytes(stage: Stage, pyramid: Pyramid, volume: Volume, block: Shape) -> int:
    """Memory of a block: what is read, its part of each level, and chunks that are encoded."""
    itemsize = volume.dtype.itemsize
    finer = (1, 1, 1) if stage.source is None else pyramid.levels[stage.source].factors
    total = math.prod(block) * itemsize
    if stage.source is None:
        total += volume.read_bytes
    else:  # zarr decodes a few chunks at once and copies them
        total += 16 * math.prod(pyramid.levels[stage.source].grid.chunks) * itemsize
    for number in stage.levels:
        level = pyramid.levels[number]
        if number != stage.levels[0] or stage.source is not None:
            steps = [each // before for each, before in zip(level.factors, finer, strict=True)]
            part = math.prod(-(-extent // step) for extent, step in zip(block, steps, strict=True)) * itemsize
            total += part if itemsize < 8 else 5 * part  # sums of 64-bit integers
    return total + 3 * math.prod(pyramid.levels[stage.levels[0]].grid.chunks) * itemsize


def _decoding(volume: Volume, shape: Shape, block: Shape) -> float:
    """Cost of reading all blocks, for each voxel of the volume: what lies in several blocks is decoded for each."""
    if volume.chunks is None:
        return _DECODED
    times = 1.0
    for extent, step, chunk in zip(shape, block, volume.chunks, strict=True):
        read = sum(
            min(math.ceil(min(start + step, extent) / chunk) * chunk, extent) - start // chunk * chunk
            for start in range(0, extent, step)
        )
        times *= read / extent
    return times * (_RAW if volume.storage.compression == "none" else _DECODED)


def _too_small(
    stage: Stage, pyramid: Pyramid, volume: Volume, shape: Shape, memory: int, core: Shape | None
) -> MemoryBudgetError:
    smallest = _clipped(core or stage.block, shape)
    needs = PROCESS_BYTES + _block_bytes(stage, pyramid, volume, smallest)
    if core is not None:
        other = "begin anew with smaller blocks (--overwrite)"
    else:
        other = f"smaller --{'chunks' if pyramid.levels[0].grid.shards is None else 'shards'}"
    return MemoryBudgetError(
        f"--memory {format_bytes(memory)} does not hold a block of {shape_text(smallest)} voxels, which is written at "
        f"once: give at least --memory {math.ceil(needs / 2**20)}MiB, or {other}"
    )
