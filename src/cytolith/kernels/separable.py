"""Sums of one or two separable, symmetric kernels over a volume: the engine of the smoothing and of the DoG filter.

The value of a voxel depends on its neighbourhood alone, to the last bit: every voxel is summed in the same order
wherever it lies in a block, and nothing is contracted or reassociated.  So blocks cut differently, and other machines,
give equal results.

How it runs: the volume is cut into tiles of `TILE_ROWS` rows that stay in the cache for all z.  In a tile, plane after
plane and a batch of rows at a time, the z pass reads rows of the source planes, the y pass sums rows of the z pass
(kept in a ring of just the rows still needed), the x pass sums shifted copies of one row.  All three are the same
operation, a weighted sum of pairs of rows that lie symmetrically around the centre; only the offsets of the rows
differ.  Up to three pairs are summed in one sweep, so that the destination is loaded and stored seldom.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import float32 as f32
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.kernels.jit import jit

Image = NDArray[Any]
Float32Array = NDArray[np.float32]
Offsets = NDArray[np.uint64]

TILE_ROWS = 64
"""Rows of a tile: the rows of all planes under the kernel should fit into the second-level cache."""

BATCH_ROWS = 8
"""Rows that run through the three passes together, long enough for stores to settle before they are loaded again."""

ALIGN = 16
"""Rows of scratch begin at multiples of this many float32, a cache line."""


def half_weights(weights: NDArray[np.float64]) -> Float32Array:
    """Weights of the pairs of a symmetric kernel, outermost first; a centre is a pair with itself at half its weight.

    Halving and adding a value to itself are exact, so odd and even kernels share their loops.
    """
    n = weights.size
    half = weights[: (n + 1) // 2].copy()
    if n % 2:
        half[-1] /= 2
    return half.astype(np.float32)


def sum_separable(
    image: NDArray[Any],
    kernels: list[tuple[Float32Array, Float32Array, Float32Array]],
    shape: Shape,
    out: Float32Array,
    *,
    clip: bool,
) -> None:
    """Write the sum of one or two separable kernels of one shape, applied to an image, into ``out``.

    Borders are mirrored at the outer edge of the voxels (``reflect`` of SciPy), as often as it takes.

    Parameters
    ----------
    image
        Block in (z, y, x), C-contiguous; integers of up to 16 bits or float32.
    kernels
        One or two triples of `half_weights` for (z, y, x).
    shape
        Number of taps of the kernels, (z, y, x); the centre is tap ``n // 2``.
    out
        Float32, C-contiguous, shape of the image, not overlapping it.
    clip
        Set negative values to 0.
    """
    if image.size == 0:
        return
    z, y, x = (np.stack(axis) for axis in zip(*kernels, strict=True))
    _sum_separable(image, out, z, y, x, *shape, clip)


@jit
def mirrored(i: int, n: int) -> int:
    """Index that a mirrored border shows at any index ``i``: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    while i < 0 or i >= n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return i


@jit
def _sum_separable(
    src: Image,
    out: Float32Array,
    weights_z: Float32Array,
    weights_y: Float32Array,
    weights_x: Float32Array,
    taps_z: int,
    taps_y: int,
    taps_x: int,
    clip: bool,
) -> None:
    """Weights are (kernels, pairs) for each axis."""
    Z, Y, X = src.shape
    planes = src.reshape(-1)
    flat_out = out.reshape(-1)
    kernels, pairs_z = weights_z.shape
    pairs_y = weights_y.shape[1]
    pairs_x = weights_x.shape[1]
    all_weights_x = weights_x.reshape(-1)
    before_z, before_y, before_x = taps_z // 2, taps_y // 2, taps_x // 2
    after_y, after_x = taps_y - 1 - before_y, taps_x - 1 - before_x
    margin = (before_x + ALIGN - 1) // ALIGN * ALIGN
    pitch = margin + (X + after_x + ALIGN - 1) // ALIGN * ALIGN
    ring_rows = taps_y - 1 + BATCH_ROWS
    ring = np.empty(ring_rows * kernels * pitch, np.float32)
    batch = np.empty(BATCH_ROWS * kernels * pitch, np.float32)
    plane = np.empty(taps_z, np.int64)
    z1, z2 = np.empty(pairs_z, np.uint64), np.empty(pairs_z, np.uint64)
    y1, y2 = np.empty(pairs_y, np.uint64), np.empty(pairs_y, np.uint64)
    x1, x2 = np.empty(kernels * pairs_x, np.uint64), np.empty(kernels * pairs_x, np.uint64)

    for tile in range(0, Y, TILE_ROWS):
        tile_end = min(Y, tile + TILE_ROWS)
        first = tile - before_y  # row that lies in the first slot of the ring
        for z in range(Z):
            for k in range(taps_z):
                plane[k] = mirrored(z - before_z + k, Z) * Y
            next_row = first
            for start in range(tile, tile_end, BATCH_ROWS):
                stop = min(tile_end, start + BATCH_ROWS)
                for row in range(next_row, stop + after_y):
                    y = mirrored(row, Y)
                    for k in range(pairs_z):
                        z1[k] = (plane[k] + y) * X
                        z2[k] = (plane[taps_z - 1 - k] + y) * X
                    at = (row - first) % ring_rows * kernels * pitch
                    if kernels == 2:
                        _sum_pairs_twice(planes, z1, z2, weights_z, ring, at, at + pitch, X)
                    else:
                        _sum_pairs(planes, z1, z2, weights_z[0], ring, at, X)
                next_row = stop + after_y

                # one kernel after the other: then rows of the ring that neighbours share stay in the first-level cache
                for g in range(kernels):
                    for row in range(start, stop):
                        for k in range(pairs_y):
                            y1[k] = ((row - tile + k) % ring_rows * kernels + g) * pitch
                            y2[k] = ((row - tile + taps_y - 1 - k) % ring_rows * kernels + g) * pitch
                        at = ((row - start) * kernels + g) * pitch + margin
                        _sum_pairs(ring, y1, y2, weights_y[g], batch, at, X)
                        for x in range(-before_x, 0):
                            batch[at + x] = batch[at + mirrored(x, X)]
                        for x in range(X, X + after_x):
                            batch[at + x] = batch[at + mirrored(x, X)]

                for row in range(start, stop):
                    for g in range(kernels):
                        at = ((row - start) * kernels + g) * pitch + margin - before_x
                        for k in range(pairs_x):
                            x1[g * pairs_x + k] = at + k
                            x2[g * pairs_x + k] = at + taps_x - 1 - k
                    _sum_pairs(batch, x1, x2, all_weights_x, flat_out, (z * Y + row) * X, X)
                    if clip:
                        _clip_negative(flat_out, np.uint64((z * Y + row) * X), np.uint64(X))


# Loops over rows.  Rows are offsets into flat arrays, since making views costs more than summing a short row; the
# offsets are unsigned, since a signed index may count from the end and then the compiler cannot vectorise the loop.


@jit
def _sum_pairs(src: Image, a: Offsets, b: Offsets, w: Float32Array, dst: Float32Array, at: int, n: int) -> None:
    """Row of ``n`` values at ``dst[at]`` = sum over the pairs k of ``w[k] * (row at a[k] + row at b[k])``."""
    to, length = np.uint64(at), np.uint64(n)
    k = np.int64(0)  # typed at once; from a plain 0 numba compiles the loops twice
    while k < a.size:
        left = a.size - k
        if left == 3 or left > 4:
            _add_3(src, a, b, w, k, dst, to, length)
            k += 3
        elif left > 1:
            _add_2(src, a, b, w, k, dst, to, length)
            k += 2
        else:
            _add_1(src, a, b, w, k, dst, to, length)
            k += 1


@jit
def _sum_pairs_twice(
    src: Image, a: Offsets, b: Offsets, w: Float32Array, dst: Float32Array, at_1: int, at_2: int, n: int
) -> None:
    """As `_sum_pairs` with two rows of weights and two results, the source loaded once."""
    to_1, to_2, length = np.uint64(at_1), np.uint64(at_2), np.uint64(n)
    k = np.int64(0)  # typed at once; from a plain 0 numba compiles the loops twice
    while k < a.size:
        left = a.size - k
        if left == 3 or left > 4:
            _add_3_twice(src, a, b, w, k, dst, to_1, to_2, length)
            k += 3
        elif left > 1:
            _add_2_twice(src, a, b, w, k, dst, to_1, to_2, length)
            k += 2
        else:
            _add_1_twice(src, a, b, w, k, dst, to_1, to_2, length)
            k += 1


@jit
def _add_1(src: Image, a: Offsets, b: Offsets, w: Float32Array, k: Any, dst: Float32Array, at: Any, n: Any) -> None:
    a0, b0, w0 = a[k], b[k], w[k]
    if k == 0:
        for i in range(n):
            dst[at + i] = w0 * (f32(src[a0 + i]) + f32(src[b0 + i]))
    else:
        for i in range(n):
            dst[at + i] += w0 * (f32(src[a0 + i]) + f32(src[b0 + i]))


@jit
def _add_2(src: Image, a: Offsets, b: Offsets, w: Float32Array, k: Any, dst: Float32Array, at: Any, n: Any) -> None:
    a0, b0, w0 = a[k], b[k], w[k]
    a1, b1, w1 = a[k + 1], b[k + 1], w[k + 1]
    if k == 0:
        for i in range(n):
            s0 = w0 * (f32(src[a0 + i]) + f32(src[b0 + i]))
            dst[at + i] = s0 + w1 * (f32(src[a1 + i]) + f32(src[b1 + i]))
    else:
        for i in range(n):
            s0 = w0 * (f32(src[a0 + i]) + f32(src[b0 + i]))
            dst[at + i] += s0 + w1 * (f32(src[a1 + i]) + f32(src[b1 + i]))


@jit
def _add_3(src: Image, a: Offsets, b: Offsets, w: Float32Array, k: Any, dst: Float32Array, at: Any, n: Any) -> None:
    a0, b0, w0 = a[k], b[k], w[k]
    a1, b1, w1 = a[k + 1], b[k + 1], w[k + 1]
    a2, b2, w2 = a[k + 2], b[k + 2], w[k + 2]
    if k == 0:
        for i in range(n):
            s0 = w0 * (f32(src[a0 + i]) + f32(src[b0 + i]))
            s1 = w1 * (f32(src[a1 + i]) + f32(src[b1 + i]))
            dst[at + i] = s0 + s1 + w2 * (f32(src[a2 + i]) + f32(src[b2 + i]))
    else:
        for i in range(n):
            s0 = w0 * (f32(src[a0 + i]) + f32(src[b0 + i]))
            s1 = w1 * (f32(src[a1 + i]) + f32(src[b1 + i]))
            dst[at + i] += s0 + s1 + w2 * (f32(src[a2 + i]) + f32(src[b2 + i]))


@jit
def _add_1_twice(
    src: Image, a: Offsets, b: Offsets, w: Float32Array, k: Any, dst: Float32Array, at: Any, to: Any, n: Any
) -> None:
    a0, b0, v0, w0 = a[k], b[k], w[0, k], w[1, k]
    if k == 0:
        for i in range(n):
            s0 = f32(src[a0 + i]) + f32(src[b0 + i])
            dst[at + i] = v0 * s0
            dst[to + i] = w0 * s0
    else:
        for i in range(n):
            s0 = f32(src[a0 + i]) + f32(src[b0 + i])
            dst[at + i] += v0 * s0
            dst[to + i] += w0 * s0


@jit
def _add_2_twice(
    src: Image, a: Offsets, b: Offsets, w: Float32Array, k: Any, dst: Float32Array, at: Any, to: Any, n: Any
) -> None:
    a0, b0, v0, w0 = a[k], b[k], w[0, k], w[1, k]
    a1, b1, v1, w1 = a[k + 1], b[k + 1], w[0, k + 1], w[1, k + 1]
    if k == 0:
        for i in range(n):
            s0 = f32(src[a0 + i]) + f32(src[b0 + i])
            s1 = f32(src[a1 + i]) + f32(src[b1 + i])
            dst[at + i] = v0 * s0 + v1 * s1
            dst[to + i] = w0 * s0 + w1 * s1
    else:
        for i in range(n):
            s0 = f32(src[a0 + i]) + f32(src[b0 + i])
            s1 = f32(src[a1 + i]) + f32(src[b1 + i])
            dst[at + i] += v0 * s0 + v1 * s1
            dst[to + i] += w0 * s0 + w1 * s1


@jit
def _add_3_twice(
    src: Image, a: Offsets, b: Offsets, w: Float32Array, k: Any, dst: Float32Array, at: Any, to: Any, n: Any
) -> None:
    a0, b0, v0, w0 = a[k], b[k], w[0, k], w[1, k]
    a1, b1, v1, w1 = a[k + 1], b[k + 1], w[0, k + 1], w[1, k + 1]
    a2, b2, v2, w2 = a[k + 2], b[k + 2], w[0, k + 2], w[1, k + 2]
    if k == 0:
        for i in range(n):
            s0 = f32(src[a0 + i]) + f32(src[b0 + i])
            s1 = f32(src[a1 + i]) + f32(src[b1 + i])
            s2 = f32(src[a2 + i]) + f32(src[b2 + i])
            dst[at + i] = v0 * s0 + v1 * s1 + v2 * s2
            dst[to + i] = w0 * s0 + w1 * s1 + w2 * s2
    else:
        for i in range(n):
            s0 = f32(src[a0 + i]) + f32(src[b0 + i])
            s1 = f32(src[a1 + i]) + f32(src[b1 + i])
            s2 = f32(src[a2 + i]) + f32(src[b2 + i])
            dst[at + i] += v0 * s0 + v1 * s1 + v2 * s2
            dst[to + i] += w0 * s0 + w1 * s1 + w2 * s2


@jit
def _clip_negative(dst: Float32Array, at: Any, n: Any) -> None:
    for i in range(n):
        if dst[at + i] < 0:
            dst[at + i] = 0
