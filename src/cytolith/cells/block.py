"""The science of the cells pipeline: from one block of a volume in memory to a table of its cells. Pure.

What comes after the thresholds touches only maxima and the voxels of the mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, VoxelSize, region_origin, region_shape
from cytolith.cells.config import MEASURES, CellsConfig
from cytolith.cells.images import Clock, Image, Setting, dense_halo, image_dtypes, run_image_steps, triple
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.kernels.components import Runs
from cytolith.kernels.footprints import ball_offsets
from cytolith.kernels.maxima import Maxima, detect_maxima, maxima_reach
from cytolith.kernels.measure import measure_balls, measure_shapes
from cytolith.kernels.watershed import Shapes, grow_shapes

Table: TypeAlias = dict[str, NDArray[Any]]

ROOM_UM = 32.0
"""Room for a cell around a core, in micrometres: a cell whose centre is in the core lies within, with what touches
it."""
ROOM_VOXELS = 16
"""The same when the voxel size is unknown."""


@dataclass
class BlockCells:
    """Cells of a block and how they came about."""

    table: Table
    """Columns z, y, x, size, the measures, truncated; one row a cell whose centre the core holds."""
    keys: NDArray[np.int64]
    """Identity of each row: index in the volume of the first voxel of its maximum."""
    images: dict[str, Image]
    """Result of each image step over the read region; a skipped step has its input."""
    trusted: Block | None = None
    """The block with the part of its read region that `maxima` and `shapes` are over."""
    maxima: Maxima | None = None
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    """Which of `maxima` have a row in `table`."""
    maxima_keys: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    shapes: Shapes | None = None
    mask_voxels: int = 0
    brightest: float = -math.inf
    """Largest value of the image that maxima are looked for in, when there is no row to tell it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each step."""

    def forget_voxels(self) -> None:
        """Let go of everything that is as large as the block, before the result is kept."""
        self.images = {}
        self.maxima = self.shapes = None
        self.maxima_keys = np.empty(0, np.int64)


def block_halo(config: CellsConfig, voxel_size: VoxelSize | None) -> Shape:
    """Voxels that a block reads around its core: reach of the image steps, of the maxima, and room for cells."""
    window = (0, 0, 0)
    if config.maxima_detection is not None and config.maxima_detection.shape is not None:
        window = maxima_reach(triple(config.maxima_detection.shape))
    ball = (0, 0, 0)
    if config.intensity_detection is not None and config.intensity_detection.shape is not None:
        ball = triple(config.intensity_detection.shape)
    room = [ROOM_VOXELS] * 3 if voxel_size is None else [max(2, round(ROOM_UM / edge)) for edge in voxel_size]
    z, y, x = (d + w + max(r, 2 * w, b) for d, w, r, b in zip(dense_halo(config), window, room, ball, strict=True))
    return z, y, x


def bytes_per_voxel(config: CellsConfig, dtype: np.dtype[Any]) -> float:
    """Memory of a block for each voxel that it reads: the source, an image a step, and what follows the thresholds."""
    total = float(dtype.itemsize) + sum(d.itemsize for d in image_dtypes(config, dtype).values())
    if config.equalization is not None:
        total += 4.0  # sorted copies of the windows
        total += 2.0 if config.equalization.mask is not None else 0.0
    maxima, shapes = config.maxima_detection, config.shape_detection
    if maxima is not None:
        total += (1.0 if maxima.h_max is not None else 0.0) + (2.0 if maxima.save else 0.0)
    if shapes is not None:
        total += 4.0  # runs, labels and flood of a fifth of the voxels
        total += 8.0  # the box around the largest group of touching cells, which may be all of the block
        total += 16.0 if shapes.save else 0.0  # dense labels and keys
    return total


def cells_of_block(
    image: Image,
    block: Block,
    setting: Setting,
    workspace: Workspace,
    *,
    mask: Image | None = None,
    mask_limit: int | None = None,
) -> BlockCells:
    """Cells whose centre lies in the core of a block.

    Parameters
    ----------
    image
        Voxels of ``block.read``, (Z, Y, X).
    block
        Where the image lies in the volume and what of it this block owns.
    setting
        Parameters in voxels and grey values, shape of the volume, flat field.
    workspace
        Buffers of the calling worker.
    mask
        Voxels that equalization counts.
    mask_limit
        Voxels above the shape threshold that memory holds.

    Raises
    ------
    MaskTooLargeError
        More voxels than `mask_limit` lie above the shape threshold.
    """
    seconds: dict[str, float] = {}
    images = run_image_steps(image, block.read, setting, workspace, mask=mask, seconds=seconds)
    config, clock = setting.config, Clock(seconds)
    if config.maxima_detection is None:
        return BlockCells(_empty_table(config), np.empty(0, np.int64), images, seconds=seconds)
    step = config.maxima_detection
    # The rim of what was read lacks the neighbours that the image steps needed. Local maxima see no further than
    # their window, so it is enough to mark what is near the rim; a flood may come from anywhere in it, and the rim
    # goes.
    rim = dense_halo(config)
    window = maxima_reach(None if step.shape is None else triple(step.shape))
    trusted = block
    if step.h_max is not None:
        trusted, rim = block.trimmed(setting.shape, rim), (0, 0, 0)
    origin = region_origin(trusted.read)

    def crop(name: str) -> Image:
        return _crop(images[name], block, trusted, workspace, name)

    final = crop("dog_filter")
    maxima = detect_maxima(
        final,
        h_max=None if step.h_max is None else step.h_max.value,
        shape=None if step.shape is None else triple(step.shape),
        threshold=_seed_threshold(config),
        open_margins=trusted.open_margins(setting.shape, rim),
    )
    centres = maxima.centres(crop("source") if step.h_max is not None else None, origin=origin)
    keys = _volume_index(maxima, trusted.read, setting.shape)
    clock.lap("maxima_detection")

    keep = np.ones(len(maxima), bool)
    truncated = maxima.open.copy()
    shapes: Shapes | None = None
    columns: Table = {}
    if config.shape_detection is not None:
        threshold = config.shape_detection.threshold
        shapes = grow_shapes(
            final,
            maxima.starts,
            maxima.voxels,
            None if threshold is None else threshold.value,
            trusted.open_margins(setting.shape, (rim[0] + window[0], rim[1] + window[1], rim[2] + window[2])),
            open_seeds=maxima.open,
            limit=mask_limit,
        )
        clock.lap("shape_detection")
        keep &= shapes.size > 0
        truncated |= shapes.open
        columns["size"] = shapes.size
    if step.valid:
        keep &= _owned(maxima, centres, trusted)
    if config.intensity_detection is not None:
        measure = config.intensity_detection
        for name in measure.measure:
            if shapes is not None:
                columns[name] = measure_shapes(shapes, crop(name), measure.method)
            else:
                assert measure.shape is not None
                # halves are rounded up in the volume: rounding in the block would depend on where it begins
                voxels = np.floor(centres + 0.5).astype(np.int64) - np.array(origin)
                columns[name] = measure_balls(crop(name), voxels, ball_offsets(triple(measure.shape)), measure.method)
        clock.lap("intensity_detection")
    table = {axis: centres[keep, i] for i, axis in enumerate("zyx")}
    table |= {name: column[keep] for name, column in columns.items()}
    table["truncated"] = truncated[keep]
    brightest = -math.inf if keep.any() else float(final[trusted.inner].max())
    return BlockCells(
        table,
        keys[keep],
        images,
        trusted=trusted,
        maxima=maxima,
        maxima_keys=keys,
        kept=keep,
        shapes=shapes,
        mask_voxels=0 if shapes is None else _masked_in(shapes.runs, trusted.inner),
        brightest=brightest,
        seconds=seconds,
    )


def _masked_in(runs: Runs, part: Region) -> int:
    """Voxels of a mask in a part of its image."""
    lengths = np.clip(runs.stop, part[2].start, part[2].stop) - np.clip(runs.start, part[2].start, part[2].stop)
    before = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    rows = before[runs.row_start[1:]] - before[runs.row_start[:-1]]
    return int(rows.reshape(runs.shape[:2])[part[:2]].sum())


def _crop(image: Image, block: Block, trusted: Block, workspace: Workspace, name: str) -> Image:
    """The trusted part of an image over the read region, contiguous; a copy only where rows are cut."""
    z, y, x = (slice(t.start - r.start, t.stop - r.start) for t, r in zip(trusted.read, block.read, strict=True))
    part = image[z, y, x]
    if part.flags.c_contiguous:
        return part
    out = workspace.array(f"trusted {name}", region_shape(trusted.read), image.dtype)
    np.copyto(out, part)
    return out


def merge_tables(
    tables: list[Table], keys: list[NDArray[np.int64]], *, once: bool = True
) -> tuple[Table, NDArray[np.int64]]:
    """One table of all rows and their keys, sorted by (z, y, x) and then by key, so that no tie is left to chance.

    With `once`, rows of the same key are given once, and a row that is not truncated goes before one that is.
    """
    columns = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    key = np.concatenate(keys)
    if once:
        order = np.lexsort((columns["truncated"], key))
        first = order[np.concatenate([[True], np.diff(key[order]) != 0])] if order.size else order
        columns, key = {name: column[first] for name, column in columns.items()}, key[first]
    order = np.lexsort((key, columns["x"], columns["y"], columns["z"]))
    return {name: column[order] for name, column in columns.items()}, key[order]


def with_micrometres(table: Table, voxel_size: VoxelSize | None) -> Table:
    """The table with columns z_um, y_um, x_um after x when the voxel size is known."""
    if voxel_size is None:
        return table
    result: Table = {axis: table[axis] for axis in "zyx"}
    result |= {f"{axis}_um": table[axis] * edge for axis, edge in zip("zyx", voxel_size, strict=True)}
    return result | {name: column for name, column in table.items() if name not in "zyx"}


def _empty_table(config: CellsConfig) -> Table:
    table: Table = {axis: np.empty(0) for axis in "zyx"}
    if config.shape_detection is not None:
        table["size"] = np.empty(0, np.int64)
    if config.intensity_detection is not None:
        table |= {name: np.empty(0) for name in MEASURES if name in config.intensity_detection.measure}
    table["truncated"] = np.empty(0, bool)
    return table


def _seed_threshold(config: CellsConfig) -> float | None:
    """Least value of a maximum that can become a row.

    A local maximum that is not above the shape threshold is outside the mask, gets size 0 and is dropped in the end:
    not looking for it saves most of the work when its own threshold is low. Not so with a height, where a maximum is a
    region.
    """
    assert config.maxima_detection is not None
    own = config.maxima_detection.threshold
    shape = config.shape_detection.threshold if config.shape_detection is not None else None
    if config.maxima_detection.h_max is not None or shape is None:
        return None if own is None else own.value
    return shape.value if own is None else max(own.value, shape.value)


def _volume_index(maxima: Maxima, region: Region, shape: Shape) -> NDArray[np.int64]:
    first = np.unravel_index(maxima.voxels[maxima.starts[:-1]], maxima.shape)
    z, y, x = (f.astype(np.int64) + o for f, o in zip(first, region_origin(region), strict=True))
    return np.asarray((z * shape[1] + y) * shape[2] + x, np.int64)


def _owned(maxima: Maxima, centres: NDArray[np.float64], block: Block) -> NDArray[np.bool_]:
    """Maxima that the block gives a row: those with their centre in its core.

    The centre of a maximum that may go on beyond what was read is unknown, and each block that sees a part of it
    might leave
    it to another. So every block with a part of it in the core gives a row, marked as truncated.
    """
    owned = inside_region(centres, block.core)
    for index in np.flatnonzero(maxima.open):
        voxels = maxima.voxels[maxima.starts[index] : maxima.starts[index + 1]]
        places = np.stack(np.unravel_index(voxels, maxima.shape), 1) + np.array(region_origin(block.read))
        owned[index] = inside_region(places, block.core).any()
    return owned


def inside_region(centres: NDArray[Any], core: Region) -> NDArray[np.bool_]:
    """Whether each position (n, 3) lies in the half-open region."""
    inside = np.ones(len(centres), bool)
    for i, side in enumerate(core):
        inside &= (centres[:, i] >= side.start) & (centres[:, i] < side.stop)
    return inside
