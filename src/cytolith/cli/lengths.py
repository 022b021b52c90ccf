"""Three lengths in micrometres on the command line, with or without their unit."""

import math
import re

from cytolith.axes import VoxelSize
from cytolith.errors import ConfigError

_UNIT = re.compile(r"\s*(?:um|µm|μm|microns?|micromet(?:er|re)s?)\s*$", re.IGNORECASE)


def voxel_edges(text: str, option: str) -> VoxelSize:
    """Edges (z, y, x) from ``"25 um"``, ``25`` or ``6,1.62,1.62``; ConfigError names the option."""
    edges = _numbers(text)
    if len(edges) == 1:
        edges *= 3
    if len(edges) != 3 or not all(math.isfinite(edge) and edge > 0 for edge in edges):
        raise ConfigError(f'{option} {text!r}: give micrometres above 0, one or three Z,Y,X, for example "25 um"')
    return edges[0], edges[1], edges[2]


def shift(text: str, option: str) -> VoxelSize:
    """Three lengths (z, y, x) of either sign; ConfigError names the option."""
    values = _numbers(text)
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ConfigError(f"{option} {text!r}: give three lengths Z,Y,X in micrometres, for example 0,-250,100")
    return values[0], values[1], values[2]


def _numbers(text: str) -> list[float]:
    try:
        return [float(_UNIT.sub("", part)) for part in text.strip().strip("()[]").split(",")]
    except ValueError:
        return []
