"""A part of a volume as users write it."""

from __future__ import annotations

import re

from cytolith.axes import AXES, Region, Shape, full_region
from cytolith.errors import ConfigError

_RANGE = re.compile(r"\s*(\d*)\s*:\s*(\d*)\s*")


def parse_region(text: str | None, shape: Shape) -> Region:
    """Region from ``z0:z1,y0:y1,x0:x1``; a side that is left out is that of the volume, as in ``10:20,:,:500``.

    Parameters
    ----------
    text
        None: all of the volume.
    shape
        Extent of the volume, (z, y, x).

    Raises
    ------
    ConfigError
        It is no region, is empty, or lies not inside the volume.
    """
    if text is None:
        return full_region(shape)
    found = [_RANGE.fullmatch(part) for part in text.strip().strip("[]()").split(",")]
    parts = []
    for match, axis, extent in zip(found, AXES, shape, strict=False):
        if match is None:
            break
        first, last = int(match[1] or 0), int(match[2] or extent)
        if not first < last <= extent:
            raise ConfigError(f"--region {text}: {axis} {first}:{last} is empty or not inside 0:{extent}")
        parts.append(slice(first, last))
    if len(found) != 3 or len(parts) != 3:
        raise ConfigError(f"--region {text}: give z0:z1,y0:y1,x0:x1 in voxels, for example 0:100,500:1500,:")
    return parts[0], parts[1], parts[2]
