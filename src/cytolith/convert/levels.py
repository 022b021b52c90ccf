"""The levels of a pyramid: how much coarser each one is, how it is stored, and which ones are made together.

Levels are made in stages. A stage reads blocks of the volume, or of the last level that the stage before has made, and
writes as many levels as it can: those whose part of a block still is made of whole shards. So few levels are read back,
none of them twice, and no two blocks ever write into one shard::

    volume -> levels 0, 1, 2 -> levels 3, 4 -> ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cytolith.axes import AXES, Shape, VoxelSize
from cytolith.errors import ConfigError
from cytolith.io.pyramid import Level
from cytolith.io.shards import LARGEST_CHUNK_BYTES, Grid

SMALLEST = 256
"""Levels are added until one has no more voxels than this along any axis: a picture that a viewer shows at once."""
CHUNKS: Shape = (64, 128, 128)
"""A million voxels: what a viewer reads at a time, of anything that is looked at in planes."""
CHUNKS_IN_SHARD = 4
"""Along each axis. A terabyte becomes some thousand files; and a part of a block stays whole for two coarser levels."""


@dataclass(frozen=True)
class Stage:
    """Levels that are made together, block by block."""

    source: int | None
    """Level that is read; None: the volume, of which the first level is a copy."""
    levels: tuple[int, ...]
    block: Shape
    """Extent of a block in voxels of what is read, (z, y, x); multiples of it do as well."""


@dataclass(frozen=True)
class Pyramid:
    """All levels and how they are made."""

    levels: tuple[Level, ...]
    stages: tuple[Stage, ...]


def level_factors(shape: Shape, voxel_size: VoxelSize | None, count: int | None = None) -> list[Shape]:
    """How many voxels lie along an edge of a voxel of each level, (z, y, x); the first level has (1, 1, 1).

    An axis is halved from one level to the next while the edge of its voxels is less than twice the shortest one. So
    voxels come as near to cubes as they can, and then stay so. An axis of one voxel is not halved.

    Parameters
    ----------
    shape
        Extent of the volume.
    voxel_size
        Edges of a voxel; unknown ones count as equal.
    count
        Levels, fewer where one voxel is left; default: until the coarsest has at most 256 voxels along each axis.

    Raises
    ------
    ConfigError
        The number of levels is below 1.
    """
    if count is not None and count < 1:
        raise ConfigError(f"--levels {count}: give at least 1, the volume itself")
    edges = list(voxel_size or (1.0, 1.0, 1.0))
    extents, factors = list(shape), [1, 1, 1]
    levels: list[Shape] = []
    while True:
        levels.append((factors[0], factors[1], factors[2]))
        if (len(levels) >= count) if count is not None else (max(extents) <= SMALLEST):
            return levels
        halvable = [axis for axis in range(3) if extents[axis] > 1]
        if not halvable:
            return levels
        shortest = min(edges[axis] for axis in halvable)
        for axis in halvable:
            if edges[axis] < 2 * shortest * (1 - 1e-6):
                edges[axis] *= 2
                factors[axis] *= 2
                extents[axis] = -(-extents[axis] // 2)


def lay_out(
    shape: Shape,
    voxel_size: VoxelSize | None,
    itemsize: int,
    *,
    chunks: Shape | None = None,
    shards: Shape | None = None,
    sharded: bool = True,
    count: int | None = None,
) -> Pyramid:
    """Levels of a volume, their chunks and shards, and the stages in which they are made.

    Parameters
    ----------
    shape, voxel_size, count
        As :func:`level_factors` takes them.
    itemsize
        Bytes of a voxel.
    chunks
        Extent of a chunk; default: 64 x 128 x 128.
    shards
        Extent of a shard of the finest level; default: 4 chunks along each axis. Those of coarser levels are smaller
        where that saves reading a level back.
    sharded
        Whether chunks lie in shards at all.
    count
        Levels.

    Raises
    ------
    ConfigError
        Extents that do not fit each other, or cannot be stored.
    """
    chunks = chunks or CHUNKS
    _check(chunks, shards, itemsize)
    many = _times(chunks, CHUNKS_IN_SHARD)
    base = (shards or many) if sharded else chunks
    factors = level_factors(shape, voxel_size, count)
    block = base if sharded else many
    if len(factors) > 1:  # an even number of chunks, so that half a block is made of whole ones
        block = _triple([b if b // c % 2 == 0 else 2 * b for b, c in zip(block, chunks, strict=True)])
    levels: list[Level] = []
    stages: list[Stage] = []
    while len(levels) < len(factors):
        source = len(levels) - 1 if levels else None
        finer = (1, 1, 1) if source is None else factors[source]
        read = shape if source is None else levels[source].grid.shape
        made: list[int] = []
        for number in range(len(levels), len(factors)):
            steps = _triple([each // before for each, before in zip(factors[number], finer, strict=True)])
            if made and not all(
                extent <= step or step % (each * chunk) == 0
                for extent, step, each, chunk in zip(read, block, steps, chunks, strict=True)
            ):
                break
            extents = _triple([-(-extent // each) for extent, each in zip(shape, factors[number], strict=True)])
            levels.append(Level(factors[number], _grid(extents, chunks, base if sharded else None, block, steps)))
            made.append(number)
        stages.append(Stage(source, tuple(made), block))
    return Pyramid(tuple(levels), tuple(stages))


def _grid(shape: Shape, chunks: Shape, base: Shape | None, block: Shape, steps: Shape) -> Grid:
    """Chunks and shards of a level; its part of a block is `block` / `steps`."""
    own = _triple([min(chunk, extent) for chunk, extent in zip(chunks, shape, strict=True)])
    if base is None:
        return Grid(shape, own, None)
    shards = []
    for extent, chunk, shard, whole, each in zip(shape, chunks, base, block, steps, strict=True):
        part = -(-whole // (each * chunk)) * chunk
        fitting = shard if part % shard == 0 else part
        shards.append(extent if extent <= chunk else min(fitting, -(-extent // chunk) * chunk))
    return Grid(shape, own, _triple(shards))


def _check(chunks: Shape, shards: Shape | None, itemsize: int) -> None:
    if math.prod(chunks) * itemsize > LARGEST_CHUNK_BYTES:
        raise ConfigError(f"--chunks {_text(chunks)}: a chunk is compressed at once and must be below 2 GiB")
    if shards is None:
        return
    for axis, shard, chunk in zip(AXES, shards, chunks, strict=True):
        if shard % chunk:
            raise ConfigError(
                f"--shards {_text(shards)}: {shard} along {axis} is no multiple of {chunk}, the extent of a chunk "
                f"(--chunks {_text(chunks)})"
            )


def _text(extents: Shape) -> str:
    return ",".join(map(str, extents))


def _times(extents: Shape, factor: int) -> Shape:
    return extents[0] * factor, extents[1] * factor, extents[2] * factor


def _triple(values: list[int]) -> Shape:
    z, y, x = values
    return z, y, x
