"""Background removal on a GPU, see :mod:`cytolith.kernels.background`: an erosion, then a dilation and the subtraction.

A thread block loads a tile of a plane with all that the footprint sees around it into shared memory and runs the chain
of minima of `cytolith.kernels.opening_plan` there, from buffer to buffer. All buffers have one row pitch, so that a
step is minima of one run of memory read from up to four starting points: no rows, no columns, no bank conflicts. Each
buffer is as much shorter than the one before as the longest shift of the step, so that nothing beyond it is read; the
positions in it whose minima run on into the next row hold nothing useful, and only such positions look at them.

Footprints that leave no room for a tile are done with whole planes in global memory, a launch a step: a plane with its
surroundings is one large tile.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cytolith.kernels.background import plane_shape
from cytolith.kernels.footprints import footprint
from cytolith.kernels.gpu.cuda import C_TYPES, Allocate, Array, allocate, array_module, c_type, kernel
from cytolith.kernels.opening_plan import mask_bounds, row_minima

COMPILED = [("background", "erode_tiles", {"VOXEL": name, "REAL": int(name == "float")}) for name in C_TYPES.values()]

_THREADS = 512
"""Threads of a block that has a tile (kThreads in the source)."""
_ROW_THREADS = 256
_BATCH = 3
"""Voxels of a thread in a step in global memory (kBatch in the source)."""
_MOST_BLOCKS = 65535
"""Along y and z."""
_SCRATCH = 64 << 20
"""Bytes of scratch memory that are enough: planes are taken in groups whose eroded voxels stay in the L2 cache."""
_MOST_RESIDENT = 3
"""Blocks of a multiprocessor, by their registers."""
_RESERVED = 1 << 10
"""Bytes of shared memory that CUDA keeps for itself in each block."""
_STEP_BYTES = 32
_TILE_HEIGHTS = (16, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512)  # a row a warp
_TILE_WIDTHS = range(32, 1025, 32)  # whole warps along a row
_GLOBAL_COST = 3.0
"""Time of an access to global memory, mostly in its caches, by that of one to shared memory."""


def remove_background(
    image: Array,
    shape: int | Sequence[int],
    form: str = "disk",
    *,
    reflect_footprint: bool = True,
    smaller: bool = False,
    out: Array | None = None,
    allocate: Allocate = allocate,
) -> Array:
    """Subtract from every plane its grey opening, as `cytolith.kernels.background.remove_background`.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X) or (Y, X), C-contiguous: uint8, uint16, int16 or float32 without NaN.
    shape
        Extent of the footprint in voxels, (y, x), or one number for both.
    form
        "disk" or "cube".
    reflect_footprint
        See `cytolith.kernels.background.opening`.
    smaller
        `out` receives the smaller of what it holds and the result: what is above the larger of two backgrounds.
    out
        CuPy array of the shape and dtype of the image, C-contiguous. May be the image.
    allocate
        Gives scratch memory: 64 MiB or less, or as much as one plane takes when that is more; for footprints too large
        for tiles two or three planes with their surroundings.

    Returns
    -------
    cupy.ndarray
        Shape and dtype of the image; `out` when given.

    Raises
    ------
    ValueError
        For a dtype, shape, form or out that does not fit.
    """
    if image.ndim not in (2, 3) or not image.flags.c_contiguous:
        raise ValueError(f"image must be C-contiguous, (Y, X) or (Z, Y, X), got one of shape {image.shape}")
    if out is None:
        if smaller:
            raise ValueError("smaller=True needs out: the result is compared with what it holds")
        out = array_module().empty(image.shape, image.dtype)
    elif out.shape != image.shape or out.dtype != image.dtype or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be C-contiguous {image.dtype} of shape {image.shape}, got {out.dtype} of shape {out.shape}"
        )
    c_type(image.dtype)
    mask = footprint(form, plane_shape(shape))
    if image.size == 0:
        return out
    planes, opened = (each.reshape(-1, *image.shape[-2:]) for each in (image, out))
    plan = _plan(mask.tobytes(), mask.shape, reflect_footprint, *planes.shape[1:], image.itemsize, _shared_bytes())
    run = _run_planes if plan.tile is None else _run_tiles
    run(planes, opened, plan, smaller, allocate)
    return out


class _Step(NamedTuple):
    """Minima of up to four shifted copies of a buffer, written to another one or, narrowing it, into it."""

    source: int
    target: int
    size: int
    narrow: bool
    shifts: tuple[int, int, int, int]


class _Chain(NamedTuple):
    """Minima over a footprint of all voxels of a tile."""

    steps: tuple[_Step, ...]
    size: int
    """Elements of the source, and room for each buffer."""
    buffers: int
    result: int
    """The buffer with the minima; there, the first voxel of the tile is at `offset`."""
    offset: int
    pitch: int

    def rows(self, order: Sequence[int]) -> Iterator[tuple[int, int, bool, int, int, int, int]]:
        """Target, size, whether it is narrowed and four sources of each step, when buffers lie in this order."""
        for source, target, size, narrow, (a, b, c, d) in self.steps:
            first = order[source] * self.size
            yield order[target] * self.size, size, narrow, first + a, first + b, first + c, first + d

    @property
    def accesses(self) -> int:
        """Reads and writes of buffers, the source and the result included."""
        total = self.size
        for step in self.steps:
            reads = 2 if step.shifts[2] == step.shifts[1] else 4
            total += step.size * (reads + step.narrow + 1)
        return total


class _Plan(NamedTuple):
    """Both passes. Named footprints are mirror symmetric: one chain serves both, only its place is another."""

    tile: tuple[int, int] | None
    """Extent (y, x); None when planes are done in global memory."""
    chain: _Chain
    erosion: tuple[int, int]
    """First voxel (y, x) that the first one of a tile sees."""
    dilation: tuple[int, int]
    rows: int
    """Rows of a tile or a plane, with what is around it."""


@functools.lru_cache(maxsize=64)
def _plan(
    mask_bytes: bytes, mask_shape: tuple[int, int], reflect: bool, height: int, width: int, item: int, shared: int
) -> _Plan:
    mask = np.frombuffer(mask_bytes, np.bool_).reshape(mask_shape)
    below_y, above_y, below_x, above_x = mask_bounds(mask)
    minima = row_minima(mask)
    around_y, around_x = above_y - below_y, above_x - below_x
    dilation = (-above_y, -above_x) if reflect else (below_y, below_x)
    chain = _lay_out(minima, width + around_x, height, width)
    tile, best = None, _GLOBAL_COST * chain.accesses
    for tile_width in _TILE_WIDTHS:
        for tile_height in _TILE_HEIGHTS:
            if tile_width >= width + 32 or (tile_height >= 2 * height and tile_height > _TILE_HEIGHTS[0]):
                break  # a smaller one covers the plane
            candidate = _lay_out(minima, tile_width + around_x, tile_height, tile_width)
            size = _shared_size(candidate, item)
            if size > shared:
                break
            # while blocks of a multiprocessor load or wait for each other, others compute, if there are others
            resident = min(_MOST_RESIDENT, (shared + _RESERVED) // (size + _RESERVED))
            tiles = -(-height // tile_height) * -(-width // tile_width)
            cost = tiles * candidate.accesses * (1 + 0.5 / resident)
            if cost < best:
                tile, chain, best = (tile_height, tile_width), candidate, cost
    rows = (height if tile is None else tile[0]) + around_y
    return _Plan(tile, chain, (below_y, below_x), dilation, rows)


def _lay_out(minima: list[list[tuple[int, int, int]]], pitch: int, height: int, width: int) -> _Chain:
    """Steps for all voxels of a tile.

    Each buffer of `row_minima` but the last looks at the one before it alone, so two take turns. The last may look at
    several: then it is a third one, narrowed whenever one of these is there.
    """
    last = len(minima) - 1
    leftmost = [0] * len(minima)
    for k, terms in enumerate(minima[1:], 1):
        leftmost[k] = min(leftmost[source] + dx for source, _, dx in terms)
    sizes = [0] * len(minima)
    sizes[last] = (height - 1) * pitch + width - leftmost[last]
    for k in range(last, 0, -1):
        for source, dy, dx in minima[k]:
            sizes[source] = max(sizes[source], sizes[k] + dy * pitch + dx)
    apart = any(source != last - 1 for source, _, _ in minima[last])
    result = 2 if apart else last % 2
    steps: list[_Step] = []
    for k in range(last):
        if k > 0:
            steps += _steps(minima[k], k - 1, (k - 1) % 2, k % 2, sizes[k], pitch, narrow=False)
        begun = apart and any(step.target == result for step in steps)
        steps += _steps(minima[last], k, k % 2, result, sizes[last], pitch, narrow=begun)
    return _Chain(tuple(steps), sizes[0], 3 if apart else 2, result, -leftmost[last], pitch)


def _steps(
    terms: list[tuple[int, int, int]], seen: int, source: int, target: int, size: int, pitch: int, *, narrow: bool
) -> Iterator[_Step]:
    """Steps for those terms that look at one of the buffers, four at a time."""
    shifts = [dy * pitch + dx for each, dy, dx in terms if each == seen]
    for i in range(0, len(shifts), 4):
        a, b, c, d = (shifts[i : i + 4] + shifts[i : i + 4][-1:] * 3)[:4]
        yield _Step(source, target, size, narrow or i > 0, (a, b, c, d))


def _shared_size(chain: _Chain, item: int) -> int:
    """Bytes of shared memory for the steps and the buffers of a tile."""
    return _STEP_BYTES * len(chain.steps) + chain.buffers * chain.size * item


def _shared_bytes() -> int:
    """Shared memory that a block of the current device may have."""
    return _shared_bytes_of(array_module().cuda.Device().id)


@functools.cache
def _shared_bytes_of(device: int) -> int:
    return int(array_module().cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"])


def _run_tiles(planes: Array, out: Array, plan: _Plan, smaller: bool, allocate: Allocate) -> None:
    assert plan.tile is not None
    n_planes, height, width = planes.shape
    chain = plan.chain
    size = _shared_size(chain, planes.itemsize)
    steps = _upload_steps(chain)
    erode = _kernel("erode_tiles", planes.dtype, size)
    subtract = _kernel("subtract_tiles", planes.dtype, size)
    group = _group(n_planes, height * width * planes.itemsize)
    eroded = allocate("background eroded", (group, height, width), planes.dtype)
    tiles = -(-height // plan.tile[0]) * -(-width // plan.tile[1])
    top = _top(planes.dtype)
    extents = tuple(np.int32(n) for n in (height, width, *plan.tile))
    result = chain.result * chain.size + chain.offset
    tail = (steps, *(np.int32(n) for n in (len(chain.steps), chain.size, chain.pitch, result)), top)
    for z in range(0, n_planes, group):
        image = planes[z : z + group]
        grid = (tiles, image.shape[0])
        first = (np.int32(n) for n in plan.erosion)
        erode(grid, (_THREADS,), (image, eroded, *extents, *first, *tail), shared_mem=size)
        first = (np.int32(n) for n in plan.dilation)
        arguments = (eroded, image, out[z : z + group], *extents, *first, *tail, np.int32(smaller))
        subtract(grid, (_THREADS,), arguments, shared_mem=size)


def _run_planes(planes: Array, out: Array, plan: _Plan, smaller: bool, allocate: Allocate) -> None:
    n_planes, height, width = planes.shape
    chain = plan.chain
    region = chain.buffers * chain.size
    group = _group(n_planes, region * planes.itemsize)
    scratch = allocate("background scratch", (group, region), planes.dtype)
    subtract = _kernel("subtract_planes", planes.dtype)
    # what is dilated begins in another buffer than the one that it comes from
    order = (0, 1, 2)
    swapped = (1, 0, 2) if chain.result == 0 else order
    eroded, dilated = (each[chain.result] * chain.size + chain.offset for each in (order, swapped))
    grid = (-(-width // _ROW_THREADS), min(height, _MOST_BLOCKS))
    for z in range(0, n_planes, group):
        image = planes[z : z + group]
        n = image.shape[0]
        source = (image, np.int64(height * width), np.int64(width), np.int32(0))
        _run_chain(source, scratch, n, planes.shape, plan, order, plan.erosion)
        source = (scratch.ravel()[eroded:], np.int64(region), np.int64(chain.pitch), np.int32(1))
        _run_chain(source, scratch, n, planes.shape, plan, swapped, plan.dilation)
        result = (scratch, np.int64(region), np.int64(dilated), np.int64(chain.pitch))
        extents = (np.int32(height), np.int32(width), _top(planes.dtype), np.int32(smaller))
        subtract((*grid, n), (_ROW_THREADS,), (*result, image, out[z : z + group], *extents))


def _run_chain(
    source: tuple[Any, ...],
    scratch: Array,
    n: int,
    shape: tuple[int, int, int],
    plan: _Plan,
    order: tuple[int, int, int],
    first: tuple[int, int],
) -> None:
    """Run the chain on n planes of a source: array, distances of its planes and of its rows, whether to turn it."""
    chain = plan.chain
    region = np.int64(scratch.shape[1])
    begin = scratch.ravel()[order[0] * chain.size :]
    extents = (np.int32(shape[1]), np.int32(shape[2]))
    padded = (begin, region, np.int64(chain.size), np.int64(chain.pitch), np.int32(plan.rows))
    arguments = (*source, *extents, *padded, *(np.int32(v) for v in first), _top(scratch.dtype))
    grid = (-(-chain.pitch // _ROW_THREADS), min(plan.rows, _MOST_BLOCKS), n)
    _kernel("surround_planes", scratch.dtype)(grid, (_ROW_THREADS,), arguments)
    narrow = _kernel("narrow_planes", scratch.dtype)
    for target, size, narrowed, *sources in chain.rows(order):
        arguments = (scratch, region, np.int64(target), np.int64(size), np.int32(narrowed), *map(np.int64, sources))
        narrow((-(-size // (_ROW_THREADS * _BATCH)), n), (_ROW_THREADS,), arguments)


def _upload_steps(chain: _Chain) -> Array:
    """Steps as the source has them: eight numbers each."""
    rows = [(*row, 0) for row in chain.rows((0, 1, 2))]
    return array_module().asarray(np.array(rows, np.int32).reshape(-1, 8))


def _kernel(name: str, dtype: np.dtype[Any], shared: int = 0) -> Any:
    voxel = c_type(dtype)
    return kernel("background", name, shared=shared, VOXEL=voxel, REAL=int(voxel == "float"))


def _group(n_planes: int, plane_bytes: int) -> int:
    """Planes that are done together."""
    return max(1, min(n_planes, _MOST_BLOCKS, _SCRATCH // plane_bytes))


def _top(dtype: np.dtype[Any]) -> Any:
    """Largest value of a dtype."""
    return dtype.type(np.inf if dtype.kind == "f" else np.iinfo(dtype).max)
