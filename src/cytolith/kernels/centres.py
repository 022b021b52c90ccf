"""Mean positions of groups of voxels, with the same bits wherever an image was cut from its volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.jit import jit


@jit
def average_positions(
    out: NDArray[np.float64],
    starts: NDArray[np.int64],
    voxels: NDArray[np.int64],
    weights: NDArray[Any],
    weighted: bool,
    zero: Any,
    shape: tuple[int, int, int],
    origin: tuple[int, int, int],
) -> None:
    """Write the mean positions of groups; `zero` is the 0 of the type in which weights are summed."""
    _, Y, X = shape
    for i in range(out.shape[0]):
        first = voxels[starts[i]]
        z0, y0, x0 = first // (Y * X), first // X % Y, first % X
        total, sz, sy, sx = zero, zero, zero, zero
        n, nz, ny, nx = 0, 0, 0, 0
        for j in range(starts[i], starts[i + 1]):
            p = voxels[j]
            dz, dy, dx = p // (Y * X) - z0, p // X % Y - y0, p % X - x0
            n, nz, ny, nx = n + 1, nz + dz, ny + dy, nx + dx
            if weighted and weights[p] > 0:
                w = zero + weights[p]
                total, sz, sy, sx = total + w, sz + w * dz, sy + w * dy, sx + w * dx
        if 0 < total < np.inf:
            out[i, 0] = (origin[0] + z0) + sz / total
            out[i, 1] = (origin[1] + y0) + sy / total
            out[i, 2] = (origin[2] + x0) + sx / total
        else:
            out[i, 0] = (origin[0] + z0) + nz / n
            out[i, 1] = (origin[1] + y0) + ny / n
            out[i, 2] = (origin[2] + x0) + nx / n
