"""Regions of interest: boxes of voxels, or the labels of a volume, and which of them a position lies in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, Shape
from cytolith.errors import ConfigError, VolumeError
from cytolith.io.label_volume import label_volume
from cytolith.io.tables import read_table

_BOX = re.compile(r"(\d*):(\d*)")
_READ_BYTES = 64 * 2**20
OUTSIDE = "outside"
"""Where label 0 is, or no voxel of the labels."""


@dataclass(frozen=True)
class Box:
    """A box of voxels, half-open: z0, y0, x0 and z1, y1, x1; None where it is open."""

    name: str
    low: tuple[int, int, int]
    high: tuple[int | None, int | None, int | None]

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the voxel that is nearest to each position (n, 3) is in the box."""
        voxels = nearest_voxels(points)
        inside = (voxels >= self.low).all(axis=1)
        for axis, stop in enumerate(self.high):
            if stop is not None:
                inside &= voxels[:, axis] < stop
        return np.asarray(inside)


def nearest_voxels(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """The voxel in which each position lies: centres have whole numbers, a voxel goes half an edge to either side."""
    return np.floor(points + 0.5).astype(np.int64)


def parse_box(text: str) -> Box:
    """Box from ``NAME=z0:z1,y0:y1,x0:x1`` or without a name, which is then the text itself.

    Either end of a range may be left out, as in a slice.

    Raises
    ------
    ConfigError
        A text that is no such box, or a box without voxels.

    Examples
    --------
    >>> parse_box("CA1=0:20,100:300,:").low
    (0, 100, 0)
    """
    name, equals, ranges = text.rpartition("=")
    found = [_BOX.fullmatch(part.strip()) for part in ranges.split(",")]
    if len(found) != 3 or None in found or (equals and not name.strip()):
        raise ConfigError(
            f"--region {text!r}: give NAME=z0:z1,y0:y1,x0:x1 in voxels, for example CA1=0:20,100:300,0:50"
        )
    ends = [(int(match[1] or 0), int(match[2]) if match[2] else None) for match in found if match]
    for axis, (start, stop) in zip(AXES, ends, strict=True):
        if stop is not None and start >= stop:
            raise ConfigError(f"--region {text!r}: holds no voxel along {axis}, {start}:{stop}")
    (z0, z1), (y0, y1), (x0, x1) = ends
    return Box(name.strip() or ranges.strip(), (z0, y0, x0), (z1, y1, x1))


def parse_boxes(texts: Sequence[str]) -> list[Box]:
    """Boxes with names of their own; ConfigError."""
    boxes = [parse_box(text) for text in texts]
    names = [box.name for box in boxes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--region {twice!r} is given {names.count(twice)} times: give each region a name of its own")
    return boxes


def labels_at(source: Any, points: NDArray[np.float64], shape: Shape | None = None) -> NDArray[np.int64]:
    """Label of the voxel in which each position (n, 3) lies; 0 outside of the volume.

    Parameters
    ----------
    source
        Volume of whole numbers, anything that :func:`cytolith.open_volume` reads, in the voxels of the positions.
    points
        z, y, x in voxels.
    shape
        Extent that the volume must have, where it is known.

    Raises
    ------
    ConfigError
        The volume has another shape.
    VolumeError
        It cannot be read, or holds no labels.
    """
    volume = label_volume(source)
    if shape is not None and volume.shape != shape:
        raise ConfigError(
            f"--regions {volume.name}: has the shape {volume.shape}, the run's volume {shape}: give labels of it"
        )
    voxels = nearest_voxels(points)
    labels = np.zeros(len(points), np.int64)
    inside = np.flatnonzero(((voxels >= 0) & (voxels < volume.shape)).all(axis=1))
    inside = inside[np.argsort(voxels[inside, 0], kind="stable")]
    z = voxels[inside, 0]
    _, Y, X = volume.shape
    planes = max(_READ_BYTES // (8 * Y * X), 1)
    start = 0
    while start < len(inside):
        first = int(z[start])
        stop = int(np.searchsorted(z, first + planes))
        rows = inside[start:stop]
        last = int(z[stop - 1]) + 1
        (y0, x0), (y1, x1) = voxels[rows, 1:].min(axis=0), voxels[rows, 1:].max(axis=0) + 1
        read = volume.read((slice(first, last), slice(int(y0), int(y1)), slice(int(x0), int(x1))))
        labels[rows] = read[tuple((voxels[rows] - (first, y0, x0)).T)]
        start = stop
    return labels


def read_region_names(path: Path) -> dict[int, str]:
    """Names of labels from a table with the columns id (or label) and name; VolumeError."""
    table, _ = read_table(path)
    known = {name.strip().lower(): name for name in reversed(table)}
    ids = next((known[name] for name in ("id", "label", "index", "value") if name in known), None)
    names = next((known[name] for name in ("name", "acronym", "region") if name in known), None)
    if ids is None or names is None or table[ids].dtype.kind not in "iu":
        raise VolumeError(
            f"{path}: names of regions need the columns id (whole numbers) and name; it has {', '.join(table)}"
        )
    return dict(zip(table[ids].tolist(), map(str, table[names].tolist()), strict=True))
