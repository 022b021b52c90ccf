"""Sums of one or two separable, symmetric kernels on a GPU, see :mod:`cytolith.kernels.separable`.

A block of threads makes a tile of some planes, rows and columns: the z pass goes from the image to shared memory, the y
pass from there to there, the x pass from there to the result. In the z pass both kernels share what is loaded and the
sums of pairs. A thread makes several neighbours in each pass and has what they share in registers, so that sums, not
loads, bound this: about 170 instructions a voxel for two kernels of 7 x 7 x 7 taps. Beyond `_MOST_KEPT` taps along an
axis it loads each value when it needs it.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.kernels.gpu.cuda import C_TYPES, Array, array_module, c_type, kernel

_THREADS = 256
_MOST_KEPT = 48
"""As ``kMostKept`` in the source."""
_SUMS_Y, _SUMS_X = 8, 4
"""Neighbours that a thread makes in the y and x pass, ``kRows`` and ``kColumns`` in the source."""
_MOST_ARGUMENTS = 3 << 10
"""Bytes of weights that are given as arguments, whose limit is 4096; more of them lie in memory."""
_START = 60
"""Instructions of a thread before the passes, and for each strip."""
_MOST_BESIDE = 5
"""Blocks of threads that an SM has registers for."""
_RESERVED = 1 << 10
"""Bytes of shared memory that CUDA takes for each block of threads."""


class Tile(NamedTuple):
    """What a block of threads makes, and how many columns of the z pass it holds at a time."""

    planes: int
    rows: int
    columns: int
    strip: int

    def shared_bytes(self, taps: Shape, kernels: int) -> int:
        """Dynamic shared memory of a block of threads."""
        pitch = -(-(self.columns + taps[2] - 1) // _SUMS_X) * _SUMS_X
        sums = self.planes * kernels * (self.rows * pitch + (self.rows + taps[1] - 1) * self.strip)
        return 4 * (sums + sums % 2) + 8 * (self.planes + taps[0] - 1)

    def cost(self, taps: Shape, kernels: int) -> float:
        """Instructions a voxel of the result, about; loads and stores are four times as dear as sums."""
        z, y, x = taps
        pairs_z, pairs_y, pairs_x = ((n + 1) // 2 for n in taps)
        strips = -(-(self.columns + x - 1) // self.strip)
        narrow = max(1, 32 / self.strip)  # a load of less than a warp's width takes as long
        first = 4 * narrow * ((self.planes + z - 1) / self.planes + kernels) + 2 * pairs_z * (1 + kernels)
        second = kernels * (4 * ((_SUMS_Y + y - 1) / _SUMS_Y + 1) + 3 * pairs_y)
        third = kernels * (4 * (_SUMS_X + x - 1) / _SUMS_X + 3 * pairs_x)
        wide, high = strips * self.strip / self.columns, 1 + (y - 1) / self.rows
        start = _START * (1 + strips) * _THREADS / (self.planes * self.rows * self.columns)
        return first * wide * high + second * wide + third + start


def sum_separable(
    image: Array,
    kernels: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]],
    taps: Shape,
    out: Array,
    *,
    clip: bool,
) -> None:
    """Write the sum of one or two separable kernels of one shape, applied to an image, into ``out``.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous: uint8, uint16, int16 or float32.
    kernels, taps, clip
        As `cytolith.kernels.separable.sum_separable` takes them, in host memory.
    out
        CuPy array, float32, of the shape of the image, not overlapping it.

    Raises
    ------
    ValueError
        For another dtype, or for kernels so large that no tile fits into the shared memory of the GPU.
    """
    Z, Y, X = image.shape
    if image.size == 0:
        return
    cupy = array_module()
    tile = choose_tile(taps, len(kernels), _most_shared(cupy.cuda.Device().id), Z)
    shared = tile.shared_bytes(taps, len(kernels))
    z, y, x = (np.stack(axis) for axis in zip(*kernels, strict=True))
    in_memory = z.nbytes + y.nbytes + x.nbytes > _MOST_ARGUMENTS
    on_device = [cupy.asarray(axis) for axis in (z, y, x)] if in_memory else []
    weights = _pointers(len(kernels), on_device) if in_memory else _struct(z=z, y=y, x=x.reshape(-1))
    blocks = -(-Z // tile.planes) * -(-Y // tile.rows) * -(-X // tile.columns)
    aligned = X % _SUMS_X == 0 and out.data.ptr % (4 * _SUMS_X) == 0
    run = kernel(
        "separable",
        "sum_separable",
        shared=shared,
        **_macros(c_type(image.dtype), len(kernels), taps, tile, in_memory, clip),
    )
    arguments = (image, out, weights, np.int32(Z), np.int32(Y), np.int32(X), np.bool_(aligned))
    run((blocks,), (_THREADS,), arguments, shared_mem=shared)


@functools.cache
def choose_tile(taps: Shape, kernels: int, most_shared: int, planes: int) -> Tile:
    """The tile that is done soonest, about: larger ones have less around them, of smaller ones more are at work.

    Parameters
    ----------
    taps
        Extent of the kernels, (z, y, x).
    kernels
        One or two.
    most_shared
        Bytes of shared memory that a block of threads may have.
    planes
        Planes of the image.

    Raises
    ------
    ValueError
        If no tile fits.
    """
    width = taps[2] - 1
    most_planes = min(planes, 4) if taps[0] <= _MOST_KEPT else 1
    costs = {}
    for deep, rows, columns, part in itertools.product((1, 2, 4), (8, 16, 32, 64), (32, 64), (None, 32, 8)):
        tile = Tile(deep, rows, columns, part or columns + width)
        beside = (most_shared + _RESERVED) // (tile.shared_bytes(taps, kernels) + _RESERVED)
        if deep <= most_planes and beside:
            # the fewer blocks an SM has, the longer it waits at barriers and for memory
            costs[tile] = tile.cost(taps, kernels) * (1 + 1 / min(beside, _MOST_BESIDE))
    if not costs:
        raise ValueError(f"a Gaussian of {taps} voxels (z, y, x) is too large for this GPU; smaller sigmas are needed")
    return min(costs, key=lambda tile: costs[tile])


@functools.cache
def _most_shared(device: int) -> int:
    return int(array_module().cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"])


def _struct(**fields: NDArray[Any]) -> NDArray[np.void]:
    """Arrays as the fields of a struct: an argument that CuPy passes by value, as it has one element."""
    kind = np.dtype([(name, each.dtype, each.shape) for name, each in fields.items()])
    return np.array([tuple(fields.values())], kind)


def _pointers(kernels: int, on_device: list[Array]) -> NDArray[np.void]:
    """Where the weights of each kernel begin; of x those of all kernels are one list."""
    z, y, x = (
        np.array([axis.data.ptr + axis.nbytes // kernels * k for k in range(kernels)], np.uint64) for axis in on_device
    )
    return _struct(z=z, y=y, x=x[:1])


def _macros(voxel: str, kernels: int, taps: Shape, tile: Tile, in_memory: bool, clip: bool) -> dict[str, str | int]:
    return {
        "VOXEL": voxel,
        "KERNELS": kernels,
        "TAPS_Z": taps[0],
        "TAPS_Y": taps[1],
        "TAPS_X": taps[2],
        "PLANES": tile.planes,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "STRIP": tile.strip,
        "IN_MEMORY": int(in_memory),
        "CLIP": int(clip),
    }


def _compiled() -> list[tuple[str, str, dict[str, str | int]]]:
    most = 232448
    wanted: list[tuple[str, int, Shape, bool]] = [(name, 2, (7, 7, 7), False) for name in C_TYPES.values()]
    wanted += [(name, 1, (5, 11, 11), False) for name in C_TYPES.values()]
    wanted += [
        ("uint16", 2, (10, 37, 48), False),
        ("float", 2, (61, 50, 49), False),
        ("uint16", 2, (1, 301, 301), True),
    ]
    return [
        ("separable", "sum_separable", _macros(name, n, taps, choose_tile(taps, n, most, 64), in_memory, n == 2))
        for name, n, taps, in_memory in wanted
    ]


COMPILED = _compiled()
