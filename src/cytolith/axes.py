"""The order rule: everything inside is C-contiguous ``(z, y, x)``, voxel sizes and origins too."""

from __future__ import annotations

from typing import TypeAlias

Shape: TypeAlias = tuple[int, int, int]
"""Extent in voxels, (z, y, x)."""

Region: TypeAlias = tuple[slice, slice, slice]
"""A box of voxels: three slices with explicit start and stop, (z, y, x)."""

VoxelSize: TypeAlias = tuple[float, float, float]
"""Edge lengths of a voxel in micrometres, (z, y, x)."""

AXES = ("z", "y", "x")


def region_shape(region: Region) -> Shape:
    """Extent of a region in voxels, (z, y, x)."""
    z, y, x = (s.stop - s.start for s in region)
    return z, y, x


def region_origin(region: Region) -> Shape:
    """First voxel of a region, (z, y, x)."""
    return region[0].start, region[1].start, region[2].start


def full_region(shape: Shape) -> Region:
    """The region that covers a whole volume of the given shape."""
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
