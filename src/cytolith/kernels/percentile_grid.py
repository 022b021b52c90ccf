"""The grid of windows that local percentiles are taken in, and the interpolation between its points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, Shape
from cytolith.kernels.arguments import positive_extents
from cytolith.kernels.jit import jit

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

Interpolation = Literal[0, 1, "nearest", "linear"]


@dataclass(frozen=True)
class Positions:
    """Where the voxels of an axis lie between the points of the grid: value = low + (high - low) * fraction."""

    low: IntArray
    high: IntArray
    fraction: Float32Array


@dataclass(frozen=True)
class GridAxis:
    """Points of the grid along one axis whose windows a block holds whole."""

    centres: IntArray
    """Voxel of each point, counted in the volume."""
    starts: IntArray
    """First voxel of the window of each point, counted in the block."""
    stops: IntArray
    """Voxel behind the window of each point, counted in the block."""
    spacing: int
    origin: int
    """First voxel of the block in the volume."""
    length: int
    """Voxels of the block."""

    def positions(self, interpolate: Interpolation) -> Positions:
        """Where the voxels of the block lie between the points; those beyond the outermost lie on it.

        Raises
        ------
        ValueError
            If interpolate is none of the names allowed.
        """
        if interpolate not in (0, 1, "nearest", "linear"):
            raise ValueError(f"interpolate is {interpolate!r}; 0 or 'nearest', 1 or 'linear' are allowed")
        distance = np.arange(self.origin, self.origin + self.length) - self.centres[0]
        last = self.centres.size - 1
        if interpolate in (0, "nearest"):
            low = (2 * distance + self.spacing) // (2 * self.spacing)
            fraction = np.zeros(self.length, np.float32)
        else:
            low = distance // self.spacing
            inside = (low >= 0) & (low < last)
            fraction = np.where(inside, distance % self.spacing / self.spacing, 0).astype(np.float32)
        low = np.clip(low, 0, last)
        # a voxel on a point depends on no other one, which a block need not hold
        return Positions(low, low + (fraction > 0), fraction)


Grid = tuple[GridAxis, GridAxis, GridAxis]


def percentile_grid(
    shape: tuple[int, ...],
    selem: int | Shape,
    spacing: int | Shape,
    origin: Shape = (0, 0, 0),
    volume_shape: Shape | None = None,
) -> Grid:
    """The points of the grid over a volume whose windows lie whole in a block of it, for (z, y, x).

    Parameters
    ----------
    shape
        Extent of the block.
    selem, spacing
        Extent of the windows and distance of the points in voxels.
    origin
        First voxel of the block in the volume.
    volume_shape
        Extent of the volume, which the block ends if it is not given.

    Raises
    ------
    ValueError
        If extents are not positive, or if the block does not lie in the volume or holds no window.
    """
    windows, steps = positive_extents("selem", selem), positive_extents("spacing", spacing)
    axes = []
    for axis in range(3):
        start, stop = origin[axis], origin[axis] + shape[axis]
        extent = stop if volume_shape is None else volume_shape[axis]
        if not 0 <= start < stop <= extent:
            raise ValueError(f"image at origin {origin} with shape {shape} is no block of a volume of {volume_shape}")
        window, step = windows[axis], steps[axis]
        n = max(1, extent // step)
        centres = (extent - (n - 1) * step) // 2 + step * np.arange(n)
        starts = np.maximum(centres - window // 2, 0)
        stops = np.minimum(centres - window // 2 + window, extent)
        held = (starts >= start) & (stops <= stop)
        if not held.any():
            raise ValueError(
                f"image has {shape[axis]} voxels along {AXES[axis]} and holds no window of selem {window} that the"
                f" grid of spacing {step} has there; percentile_reach tells how far a block must extend"
            )
        axes.append(GridAxis(centres[held], starts[held] - start, stops[held] - start, step, start, shape[axis]))
    return axes[0], axes[1], axes[2]


def percentile_reach(selem: int | Shape, spacing: int | Shape) -> Shape:
    """Voxels on either side, (z, y, x), that a voxel depends on that is interpolated between percentiles of windows.

    Raises
    ------
    ValueError
        If extents are not positive.

    Examples
    --------
    >>> percentile_reach((5, 200, 200), (5, 50, 50))
    (6, 149, 149)
    """
    windows, steps = positive_extents("selem", selem), positive_extents("spacing", spacing)
    # the farther of the two points around a voxel is less than one spacing away, and half a window lies beyond it
    z, y, x = (step - 1 + window // 2 for window, step in zip(windows, steps, strict=True))
    return z, y, x


def interpolate_x(values: NDArray[Any], x: Positions) -> Float32Array:
    """Values (Gz, Gy, Gx) of the grid, interpolated along x to the voxels: float32 (Gz, Gy, X)."""
    low: Float32Array = values[:, :, x.low].astype(np.float32)
    high: Float32Array = values[:, :, x.high].astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # beside infinities
        return low + (high - low) * x.fraction


def interpolate_zy(values: Float32Array, z: Positions, y: Positions, out: Float32Array) -> None:
    """Interpolate values (Gz, Gy, X) along z and y into ``out`` (Z, Y, X)."""
    _interpolate_zy(values, z.low, z.high, z.fraction, y.low, y.high, y.fraction, out)


@jit
def _interpolate_zy(
    values: Float32Array,
    z_low: IntArray,
    z_high: IntArray,
    z_fraction: Float32Array,
    y_low: IntArray,
    y_high: IntArray,
    y_fraction: Float32Array,
    out: Float32Array,
) -> None:
    plane = np.empty((values.shape[1], values.shape[2]), np.float32)
    for z in range(out.shape[0]):
        for g in range(plane.shape[0]):
            interpolate_row(values[z_low[z], g], values[z_high[z], g], z_fraction[z], plane[g])
        for y in range(out.shape[1]):
            interpolate_row(plane[y_low[y]], plane[y_high[y]], y_fraction[y], out[z, y])


@jit
def interpolate_row(low: Float32Array, high: Float32Array, fraction: np.float32, out: Float32Array) -> None:
    """Write ``low + (high - low) * fraction`` into a row."""
    for i in range(out.size):
        out[i] = low[i] + (high[i] - low[i]) * fraction
