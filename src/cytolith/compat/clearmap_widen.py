"""Cells that run on beyond what was read are looked at again in larger regions, until they are those of the volume."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape
from cytolith.cells.costs import ROOM_VOXELS
from cytolith.cells.owners import region_corners
from cytolith.cells.widen import READ_ALL
from cytolith.compat.clearmap_shapes import Rows, join_rows
from cytolith.kernels.components import MaskTooLargeError


def settle(
    rows: Rows,
    look: Callable[[Region, NDArray[np.int64]], Rows],
    volume: Shape,
    reach: Shape,
    *,
    most_voxels: int,
    budget: float,
) -> Rows:
    """Rows with all of them settled that memory allows.

    Parameters
    ----------
    rows
        Cells of a block.
    look
        Gives rows for the keys asked from what it reads of a region.
    volume
        Extent of the volume (z, y, x).
    reach
        Voxels around a cell that decide about it (z, y, x).
    most_voxels
        Voxels of the largest region that memory holds.
    budget
        Voxels that all regions together may have, unless the volume can be read at once.

    Returns
    -------
    Rows
        Those that are still open were seen in part.
    """
    parts, loose = [rows.take(~rows.open)], rows.take(rows.open)
    whole = np.array([0, 0, 0, *volume])
    room, spent = ROOM_VOXELS, 0
    while len(loose):
        wanted = _regions(loose, whole, np.array(reach), room)
        fits = _voxels(wanted) <= most_voxels
        parts.append(loose.take(~fits))
        loose, wanted = loose.take(fits), wanted[fits]
        groups = _groups(wanted, np.arange(len(loose)), most_voxels) if len(loose) else []
        hulls = [_hull(wanted[group]) for group in groups]
        cost = int(sum(_voxels(hull[None])[0] for hull in hulls))
        if math.prod(volume) <= most_voxels:
            if spent + cost > READ_ALL * math.prod(volume):  # reading all of it ends it
                groups, hulls = [np.arange(len(loose))], [whole]
        elif spent + cost > budget:
            parts.append(loose)
            break
        again: list[Rows] = []
        for group, hull in zip(groups, hulls, strict=True):
            asked = loose.take(group)
            z0, y0, x0, z1, y1, x1 = hull.tolist()
            try:
                found = look((slice(z0, z1), slice(y0, y1), slice(x0, x1)), asked.keys)
            except MaskTooLargeError:
                parts.append(asked)
                continue
            parts.append(found.take(~found.open))
            again.append(found.take(found.open))
        loose = join_rows(again) if again else loose.take(np.zeros(len(loose), bool))
        room, spent = 2 * room, spent + cost
    return join_rows(parts)


def is_whole(region: Region, volume: Shape) -> bool:
    """Whether a region is all of the volume."""
    return bool((region_corners(region) == [0, 0, 0, *volume]).all())


def _regions(rows: Rows, whole: NDArray[np.int64], reach: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Regions (n, 6) around cells, larger than what was seen; a cell that runs into a face gets more room there."""
    regions = np.empty((len(rows), 6), np.int64)
    todo, rooms = np.arange(len(rows)), np.full(len(rows), room)
    while todo.size:
        boxes, seen = rows.boxes[todo], rows.seen[todo]
        length = boxes[:, 3:] - boxes[:, :3]
        around = reach + rooms[todo, None]
        low = boxes[:, :3] - around - np.where(boxes[:, :3] - reach <= seen[:, :3], length, 0)
        high = boxes[:, 3:] + around + np.where(boxes[:, 3:] + reach >= seen[:, 3:], length, 0)
        regions[todo] = np.hstack([np.maximum(low, 0), np.minimum(high, whole[3:])])
        again = (regions[todo, :3] >= seen[:, :3]).all(1) & (regions[todo, 3:] <= seen[:, 3:]).all(1)
        rooms[todo] *= 2
        todo = todo[again & ~(seen == whole).all(1)]
    return regions


def _groups(regions: NDArray[np.int64], group: NDArray[np.int64], most_voxels: int) -> list[NDArray[np.int64]]:
    """Regions that are read together: halved along the longest spread as long as that reads less."""
    part = regions[group]
    together = _voxels(_hull(part)[None])[0]
    if group.size == 1 or (together <= most_voxels and together <= 2 * _voxels(part).min()):
        return [group]
    centres = part[:, :3] + part[:, 3:]
    order = group[np.argsort(centres[:, int(np.argmax(np.ptp(centres, axis=0)))], kind="stable")]
    halves = [
        *_groups(regions, order[: group.size // 2], most_voxels),
        *_groups(regions, order[group.size // 2 :], most_voxels),
    ]
    apart = sum(_voxels(_hull(regions[half])[None])[0] for half in halves)
    return [group] if together <= min(apart, most_voxels) else halves


def _hull(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([boxes[:, :3].min(0), boxes[:, 3:].max(0)])


def _voxels(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray((boxes[:, 3:] - boxes[:, :3]).prod(1))
