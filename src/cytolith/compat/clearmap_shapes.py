"""Cells of a region with ClearMap's conventions: a row a voxel of a plateau, and shapes grown from crosses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape, region_origin
from cytolith.cells.owners import inside_region, places, region_corners, volume_index
from cytolith.compat.clearmap_images import Image, dense_reach
from cytolith.compat.clearmap_maxima import centres_of_mass, extended_maxima
from cytolith.compat.clearmap_parameters import Parameters, ShapeDetection
from cytolith.engine.grid import Block
from cytolith.kernels.footprints import ball_offsets
from cytolith.kernels.maxima import detect_maxima, maxima_reach
from cytolith.kernels.measure import measure_balls, measure_shapes, shape_boxes
from cytolith.kernels.watershed import Shapes, grow_shapes

_CROSS = np.array([[0, 0, 0], [-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])


@dataclass(frozen=True, eq=False)
class Rows:
    """Cells, one entry each."""

    keys: NDArray[np.int64]
    """(n,): index in the volume of the maximum, or of the first voxel of an extended one; unlike any other's."""
    centres: NDArray[np.int64]
    """(n, 3): z, y, x in the volume."""
    columns: dict[str, NDArray[Any]]
    """Size and intensities."""
    open: NDArray[np.bool_]
    """(n,): what lies beyond the region may change the shape."""
    boxes: NDArray[np.int64]
    """(n, 6): box in the volume around what was seen of the cell, two half-open corners."""
    seen: NDArray[np.int64]
    """(n, 6): the region that it was seen in."""

    def take(self, chosen: NDArray[Any]) -> Rows:
        """Some of the rows, by index or mask."""
        columns = {name: column[chosen] for name, column in self.columns.items()}
        others = (each[chosen] for each in (self.open, self.boxes, self.seen))
        return Rows(self.keys[chosen], self.centres[chosen], columns, *others)

    def __len__(self) -> int:
        return self.keys.size


def join_rows(parts: list[Rows]) -> Rows:
    """The rows of all parts."""

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Rows(joined("keys"), joined("centres"), columns, joined("open"), joined("boxes"), joined("seen"))


def no_rows(parameters: Parameters) -> Rows:
    """A table without rows."""
    columns = {name: np.empty(0, kind) for name, kind in parameters.columns if name not in ("x", "y", "z")}
    boxes, keys = np.empty((0, 6), np.int64), np.empty(0, np.int64)
    return Rows(keys, np.empty((0, 3), np.int64), columns, np.empty(0, bool), boxes, boxes)


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in a region."""

    rows: Rows
    marks: NDArray[np.int64]
    """Voxels of all maxima of the region, as flat indices into its image."""
    shapes: Shapes | None
    label: NDArray[np.int32]
    """(n,): label of each row in the shapes."""

    def keys_of_voxels(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Image (z, y, x) of the region with the key of each of these cells, from 1, in its voxels; 0 elsewhere."""
        assert self.shapes is not None
        numbers = np.zeros(self.shapes.count + 1)
        numbers[self.label[chosen]] = self.rows.keys[chosen] + 1
        return np.asarray(numbers[self.shapes.to_dense()], np.float64)


def cells_in_images(
    images: dict[str, Image],
    block: Block,
    volume: Shape,
    parameters: Parameters,
    *,
    asked: NDArray[np.int64] | None = None,
    limit: int | None = None,
) -> Found:
    """Cells with centres in the core of a block, from the images over its read region.

    Rows that are not open are those of the whole volume. The read region must extend `settled_reach` around the core,
    or around the cells that are asked for; with extended maxima it must be the volume.

    Parameters
    ----------
    images
        As `run_image_steps` gives them.
    block
        Its core and what was read.
    volume
        Extent of the volume (z, y, x).
    parameters
        Of all steps, with maxima.
    asked
        Keys to give rows of, int64 (n,), instead of all in the core.
    limit
        Voxels above the shape threshold that memory holds.

    Raises
    ------
    MaskTooLargeError
        More voxels than `limit` lie above the shape threshold.
    """
    final, step = images["dog_filter"], parameters.maxima
    assert step is not None
    origin = np.array(region_origin(block.read))
    if step.h_max is not None:
        is_maximum = extended_maxima(final, step)
        marks = np.flatnonzero(is_maximum)
        weighted, firsts = centres_of_mass(is_maximum, images["source"])
        centres = weighted.astype(np.int64)
    else:
        threshold = lowest_seed(parameters)
        if "maxima_detection" in parameters.saves:
            threshold = step.threshold
        found = detect_maxima(final, shape=step.shape, threshold=threshold, merge_plateaus=False)
        marks = firsts = found.voxels
        if threshold != lowest_seed(parameters):
            firsts = marks[final.reshape(-1)[marks] >= lowest_seed(parameters)]
        centres = places(firsts, found.shape)
    keys = volume_index(firsts, final.shape, region_origin(block.read), volume)
    owned = inside_region(centres + origin, block.core) if asked is None else np.isin(keys, asked)
    columns: dict[str, NDArray[Any]] = {}
    is_open = np.zeros(len(keys), bool)
    boxes = np.hstack([centres, centres + 1])
    shapes: Shapes | None = None
    if parameters.shapes is not None:
        starts, voxels = crosses(centres, final.shape)
        margins = block.open_margins(volume, settled_reach(parameters))
        shapes = grow_shapes(final, starts, voxels, parameters.shapes.threshold, margins, limit=limit)
        columns["size"], is_open = shapes.size, shapes.open
        grown = shape_boxes(shapes)
        boxes = np.hstack([np.minimum(grown[:, :3], boxes[:, :3]), np.maximum(grown[:, 3:], boxes[:, 3:])])
        boxes[shapes.size == 0] = np.hstack([centres, centres + 1])[shapes.size == 0]
        owned &= is_open | (shapes.size > 0)
    if parameters.intensity is not None:
        method = parameters.intensity.method
        for name in parameters.intensity.measure:
            if shapes is not None:
                columns[name] = measure_shapes(shapes, images[name], method)
            else:
                columns[name] = measure_balls(images[name], centres, ball_offsets(parameters.intensity.shape), method)
    seen = np.tile(region_corners(block.read), (len(keys), 1))
    rows = Rows(keys, centres + origin, columns, is_open, boxes + np.tile(origin, 2), seen)
    label = np.arange(1, len(keys) + 1, dtype=np.int32)
    return Found(rows.take(owned), marks, shapes, label[owned])


def crosses(centres: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Seeds of seven voxels, centre and face neighbours, clipped to the image: starts and flat indices."""
    voxels = centres[:, None] + _CROSS
    inside = ((voxels >= 0) & (voxels < shape)).all(2)
    flat = (voxels[..., 0] * shape[1] + voxels[..., 1]) * shape[2] + voxels[..., 2]
    return np.concatenate([[0], np.cumsum(inside.sum(1))]), flat[inside]


def lowest_seed(parameters: Parameters) -> float | None:
    """Least value of a maximum that can become a row.

    A maximum that is not above the shape threshold has a cross that lies outside the mask, where the window spans the
    cross: its size is 0 and it takes no voxel from another. Not looking for it saves memory where an image is flat.
    """
    step, shapes = parameters.maxima, parameters.shapes
    assert step is not None
    if shapes is None or shapes.threshold is None or step.h_max is not None or min(step.shape) < 3:
        return step.threshold
    # a maximum counts from its threshold on, a mask above its own
    above = float(np.float32(shapes.threshold))
    if above <= shapes.threshold:
        above = float(np.nextafter(np.float32(above), np.float32(math.inf)))
    return above if step.threshold is None else max(step.threshold, above)


def settled_reach(parameters: Parameters) -> Shape:
    """Voxels (z, y, x) around a cell that decide about its maximum and its cross: images, window, neighbours' arms."""
    step = parameters.maxima
    window = (0, 0, 0) if step is None else maxima_reach(step.shape)
    z, y, x = (d + w + 1 for d, w in zip(dense_reach(parameters), window, strict=True))
    return z, y, x


def block_reach(parameters: Parameters) -> Shape:
    """Voxels (z, y, x) that a block must read around its core."""
    ball = (0, 0, 0)
    if parameters.intensity is not None and parameters.shapes is None:
        z, y, x = ball_offsets(parameters.intensity.shape).max(0).tolist()
        ball = z, y, x
    dense = dense_reach(parameters)
    z, y, x = (max(s, d + b) for s, d, b in zip(settled_reach(parameters), dense, ball, strict=True))
    return z, y, x


def shape_bytes(parameters: Parameters) -> int:
    """Memory of what follows the image steps, for each voxel."""
    maxima, shapes = parameters.maxima, parameters.shapes
    if maxima is None:
        return 0
    total = 8 if shapes is None else 12
    if shapes == ShapeDetection(None):  # everything is flooded
        total += 48
    lowest = None if maxima.h_max is not None else lowest_seed(parameters)
    if maxima.h_max is None and (lowest is None or lowest <= 0):  # where an image is flat every voxel is a maximum
        total += 100
    return total + (16 if "shape_detection" in parameters.saves else 0)
