"""Regions as users write them: ``z0:z1,y0:y1,x0:x1``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, Region, Shape
from cytolith.errors import ConfigError

_RANGE = re.compile(r"^\s*(\d*)\s*:\s*(\d*)\s*$")


def parse_region(text: str, shape: Shape, option: str = "--region") -> Region:
    """Region of a volume from ``z0:z1,y0:y1,x0:x1`` in voxels; a side that is left open is the volume's.

    Raises
    ------
    ConfigError
        A text that is no region, an empty one, or one that is not inside the volume.
    """
    parts = text.strip().strip("[]()").split(",")
    found = [_RANGE.match(part) for part in parts]
    if len(parts) != 3 or not all(found):
        raise ConfigError(f"{option} {text!r}: give z0:z1,y0:y1,x0:x1 in voxels, for example 0:64,100:400,:")
    slices = []
    for axis, match, extent in zip(AXES, found, shape, strict=True):
        assert match is not None
        start, stop = int(match[1] or 0), int(match[2] or extent)
        if not start < stop <= extent:
            raise ConfigError(f"{option} {text!r}: {start}:{stop} along {axis}, but the volume has 0:{extent}")
        slices.append(slice(start, stop))
    return slices[0], slices[1], slices[2]


def format_region(region: Region) -> str:
    """The region as `parse_region` reads it."""
    return ",".join(f"{part.start}:{part.stop}" for part in region)


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
