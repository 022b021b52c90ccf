"""Regions of a volume that count, and how much of them memory holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape
from cytolith.errors import ConfigError
from cytolith.quantities import format_region


def refuse_overlap(regions: Sequence[Region], option: str = "--region") -> None:
    """ConfigError where two regions share a voxel: what lies there would count twice."""
    for i, one in enumerate(regions):
        for other in regions[:i]:
            if all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True)):
                raise ConfigError(
                    f"{option} {format_region(other)} and {format_region(one)} overlap: join or part them"
                )


def inside(positions: NDArray[np.float64], regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Whether positions (n, 3) lie in any of the regions; a voxel reaches half an edge around its number."""
    nearest = np.floor(positions + 0.5)
    result = np.zeros(len(positions), bool)
    for region in regions:
        low, high = [part.start for part in region], [part.stop for part in region]
        result |= ((nearest >= low) & (nearest < high)).all(1)
    return result


def largest_inside(region: Region, halo: Shape, shape: Shape, voxels: float) -> Region | None:
    """The largest region of the same form around the same middle that reads at most so many voxels, None if none."""
    best = None
    for share in np.linspace(0.02, 1, 50):
        parts = []
        for part in region:
            extent = max(1, int((part.stop - part.start) * share))
            start = part.start + (part.stop - part.start - extent) // 2
            parts.append(slice(start, start + extent))
        read = [
            min(p.stop + h, s) - max(p.start - h, 0) for p, h, s in zip(parts, halo, shape, strict=True)
        ]  # as a block reads it
        if float(np.prod(read, dtype=float)) <= voxels:
            best = parts[0], parts[1], parts[2]
    return best
