"""Aperture and offset: how much of a mask lies along an axis, and where it begins there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES
from cytolith.kernels.components import Runs
from cytolith.kernels.jit import jit


def map_shape(shape: tuple[int, int, int], axis: str) -> tuple[int, int]:
    """Shape (rows, columns) of a map along an axis: the two other axes in the order z, y, x."""
    rows, columns = (extent for name, extent in zip(AXES, shape, strict=True) if name != axis)
    return rows, columns


def project_runs(
    runs: Runs,
    values: NDArray[np.uint8],
    axis: str,
    z: int,
    aperture: NDArray[np.int32],
    first: NDArray[np.int32],
) -> None:
    """Add a slab to the maps of a volume.

    Parameters
    ----------
    runs
        The mask of a slab.
    values
        uint8, (n_runs,): runs with 0 are left out.
    axis
        ``"z"``, ``"y"`` or ``"x"``: the opening axis.
    z
        Plane of the volume that the slab begins with.
    aperture
        int32: number of voxels along the axis, to which those of the slab are added. Shape (Z, X) for y and (Z, Y)
        for x, where Z are the planes of the slab; (Y, X) for z.
    first
        int32, the same shape: smallest index along the axis (in the volume), -1 where there is none. Slabs may come in
        any order.
    """
    Z, Y, _ = runs.shape
    if axis == "z":
        _along_z(Z, Y, z, runs.row_start, runs.start, runs.stop, values, aperture, first)
    else:
        loop = _along_y if axis == "y" else _along_x
        loop(Z, Y, runs.row_start, runs.start, runs.stop, values, aperture, first)


@jit
def _along_z(
    Z: int,
    Y: int,
    z0: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    values: NDArray[np.uint8],
    aperture: NDArray[np.int32],
    first: NDArray[np.int32],
) -> None:
    for z in range(Z):
        for y in range(Y):
            for r in range(row_start[z * Y + y], row_start[z * Y + y + 1]):
                if values[r] != 0:
                    for x in range(start[r], stop[r]):
                        aperture[y, x] += 1
                        if first[y, x] < 0 or z0 + z < first[y, x]:
                            first[y, x] = z0 + z


@jit
def _along_y(
    Z: int,
    Y: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    values: NDArray[np.uint8],
    aperture: NDArray[np.int32],
    first: NDArray[np.int32],
) -> None:
    for z in range(Z):
        for y in range(Y):
            for r in range(row_start[z * Y + y], row_start[z * Y + y + 1]):
                if values[r] != 0:
                    for x in range(start[r], stop[r]):
                        aperture[z, x] += 1
                        if first[z, x] < 0:  # rows come in order
                            first[z, x] = y


@jit
def _along_x(
    Z: int,
    Y: int,
    row_start: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    values: NDArray[np.uint8],
    aperture: NDArray[np.int32],
    first: NDArray[np.int32],
) -> None:
    for z in range(Z):
        for y in range(Y):
            for r in range(row_start[z * Y + y], row_start[z * Y + y + 1]):
                if values[r] != 0:
                    aperture[z, y] += stop[r] - start[r]
                    if first[z, y] < 0:  # runs come in order
                        first[z, y] = start[r]
