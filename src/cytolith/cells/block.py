"""The science of the cells pipeline: from one block of a volume in memory to a table of its cells. Pure.

What comes after the thresholds touches only maxima and the voxels of the mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, VoxelSize, region_origin, region_shape
from cytolith.cells.background_jump import beside_brighter
from cytolith.cells.config import MEASURES, CellsConfig
from cytolith.cells.costs import near_reach
from cytolith.cells.features import empty_columns, feature_columns
from cytolith.cells.images import Clock, Found, Image, Look, Setting, dense_halo, look_on_cpu, triple
from cytolith.cells.loose import NOTHING, Loose, holds, looked_at, where_loose
from cytolith.cells.owners import (
    Voxels,
    inside_region,
    key_voxels,
    maxima_voxels,
    open_candidates,
    places,
    shape_voxels,
    volume_index,
)
from cytolith.cells.seeds import crosses, lists_flat, seed_reach, seed_threshold
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.kernels.components import MaskTooLargeError, Runs
from cytolith.kernels.footprints import ball_offsets
from cytolith.kernels.maxima import Maxima, detect_maxima, maxima_reach
from cytolith.kernels.measure import measure_balls, measure_shapes
from cytolith.kernels.watershed import Shapes, grow_shapes, trim_shapes

Table: TypeAlias = dict[str, NDArray[Any]]

_MAXIMUM_VOXELS = 12
"""Memory of a maximum with its seed and its row, as that of so many voxels of a mask."""


class TooManyMaximaError(MaskTooLargeError):
    """More maxima than memory holds."""


@dataclass
class BlockCells:
    """Cells of a block and how they came about."""

    table: Table
    """Columns z, y, x, size, the measures, truncated; one row a cell that the block owns, or may own."""
    keys: NDArray[np.int64]
    """Identity of each row: index in the volume of the first highest voxel of its maximum, or of a candidate."""
    loose: Loose
    """Where the cells of truncated rows lie, in their order."""
    images: dict[str, Image]
    """Result of each image step over the read region; a skipped step has its input."""
    trusted: Block | None = None
    """The block with the part of its read region that `maxima` and `shapes` are over."""
    maxima: Maxima | None = None
    maxima_keys: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    shapes: Shapes | None = None
    apart: dict[str, Voxels] = field(default_factory=dict)
    """For maxima and shapes that are saved, by the name of the step: voxels of the rows that what lies in the core of
    the block does not tell, those beyond it and those of truncated rows."""
    mask_voxels: int = 0
    brightest: float = -math.inf
    """Largest value of the image that maxima are looked for in, when there is no row to tell it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each step."""
    widened: int = 0
    """Regions that were read again to settle rows, see :mod:`cytolith.cells.widen`."""

    @property
    def unsettled(self) -> int:
        """Truncated rows."""
        return int(self.table["truncated"].sum())

    def forget_voxels(self) -> None:
        """Let go of everything that is as large as the block, before the result is kept."""
        self.images = {}
        self.maxima = self.shapes = None
        self.maxima_keys = np.empty(0, np.int64)

    def rows(self, kept: NDArray[np.bool_]) -> BlockCells:
        """The result with these rows only, bool (n,)."""
        keys, open_kept = self.keys[kept], kept[self.table["truncated"]]
        return replace(
            self,
            table={name: column[kept] for name, column in self.table.items()},
            keys=keys,
            loose=Loose(self.loose.extents[open_kept], self.loose.touched[open_kept]),
            apart={name: voxels.of(keys) for name, voxels in self.apart.items()},
        )


def cells_of_block(
    image: Image,
    block: Block,
    setting: Setting,
    workspace: Workspace,
    *,
    mask: Image | None = None,
    mask_limit: int | None = None,
    asked: NDArray[np.int64] | None = None,
    look: Look = look_on_cpu,
) -> BlockCells:
    """Cells that a block owns, as far as it sees them.

    Rows that are not truncated are those of the whole volume. Every cell of the volume whose key lies in the core has
    a row; a truncated one may also be of a part of a cell that another block owns, see :mod:`cytolith.cells.owners`.

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
    asked
        Keys to give rows of, int64 (n,), instead of all in the core.
    look
        Does the dense part: here, or on a GPU. Never changes the result.

    Raises
    ------
    MaskTooLargeError
        More voxels than `mask_limit` lie above the shape threshold.
    """
    seconds: dict[str, float] = {}
    if _is_empty(setting) and _is_flat(image):
        return BlockCells(_empty_table(setting.config), np.empty(0, np.int64), NOTHING, {}, brightest=0.0)
    images, found = look(image, block, setting, workspace, mask=mask, mask_limit=mask_limit, seconds=seconds)
    return cells_in_images(
        images, block, setting, workspace, found=found, mask_limit=mask_limit, asked=asked, seconds=seconds
    )


def cells_in_images(
    images: dict[str, Image],
    block: Block,
    setting: Setting,
    workspace: Workspace,
    *,
    found: Found | None = None,
    mask_limit: int | None = None,
    asked: NDArray[np.int64] | None = None,
    seconds: dict[str, float] | None = None,
) -> BlockCells:
    """Cells that a block owns, from the images that `run_image_steps` gave over its read region.

    Parameters and errors are those of `cells_of_block`; time of each step is added to `seconds`. With what was `found`
    in the last image already, images are read at voxels of the mask alone.
    """
    config, seconds = setting.config, {} if seconds is None else seconds
    clock = Clock(seconds)
    if config.maxima_detection is None:
        return BlockCells(_empty_table(config), np.empty(0, np.int64), NOTHING, images, seconds=seconds)
    step = config.maxima_detection
    # The rim of what was read lacks the neighbours that the image steps needed. Local maxima see no further than
    # their window, so it is enough to mark what is near the rim; a flood may come from anywhere in it, and the rim
    # goes.
    rim = dense_halo(config)
    window, arm = maxima_reach(None if step.shape is None else triple(step.shape)), seed_reach(config)
    trusted = block
    if step.h_max is not None:
        trusted, rim = block.trimmed(setting.shape, rim), (0, 0, 0)
    origin = region_origin(trusted.read)
    unsure = rim[0] + window[0] + arm, rim[1] + window[1] + arm, rim[2] + window[2] + arm
    margins = trusted.open_margins(setting.shape, unsure)

    def crop(name: str) -> Image:
        return _crop(images[name], block, trusted, workspace, name)

    final = crop("dog_filter")
    if step.h_max is not None and setting.extended_maxima is not None:
        maxima = setting.extended_maxima(final, step)
    else:
        maxima = detect_maxima(
            final,
            h_max=None if step.h_max is None else step.h_max.value,
            shape=None if step.shape is None else triple(step.shape),
            threshold=seed_threshold(config),
            open_margins=trusted.open_margins(setting.shape, rim),
            merge_plateaus=step.merge_plateaus,
            found=None if found is None else found.maxima,
        )
    limited = mask_limit is not None and not step.merge_plateaus and not lists_flat(config)
    if limited and mask_limit is not None and len(maxima) > mask_limit // _MAXIMUM_VOXELS:
        raise TooManyMaximaError(len(maxima), mask_limit // _MAXIMUM_VOXELS)  # a bright part is flat
    centres = maxima.centres(crop("source") if step.h_max is not None else None, origin=origin)
    if step.whole_centres:
        centres = np.trunc(centres)
    keys = volume_index(key_voxels(maxima, final), maxima.shape, origin, setting.shape)
    clock.lap("maxima_detection")

    settled, some = ~maxima.open, np.ones(len(maxima), bool)
    shapes: Shapes | None = None
    columns: Table = {}
    if config.shape_detection is not None:
        threshold = config.shape_detection.threshold
        from_crosses = config.shape_detection.from_crosses
        starts, voxels = crosses(centres - origin, maxima.shape) if from_crosses else (maxima.starts, maxima.voxels)
        shapes = grow_shapes(
            final,
            starts,
            voxels,
            None if threshold is None else threshold.value,
            margins,
            open_seeds=maxima.open,
            limit=mask_limit,
            runs=None if found is None else found.runs,
        )
        if isinstance(config.shape_detection.fraction, float):
            values = maxima.values.astype(np.float64)
            shapes = trim_shapes(shapes, final, values - (1 - config.shape_detection.fraction) * np.abs(values))
        clock.lap("shape_detection")
        settled, some = settled & ~shapes.open, shapes.size > 0
        columns["size"] = shapes.size
    balls: NDArray[np.int64] | None = None
    if config.intensity_detection is not None:
        measure = config.intensity_detection
        if shapes is None:
            # halves are rounded up in the volume: rounding in the block would depend on where it begins
            assert measure.shape is not None
            middle, ball = np.floor(centres + 0.5).astype(np.int64), ball_offsets(triple(measure.shape))
            balls = np.hstack([middle + ball.min(0), middle + ball.max(0) + 1])
            settled &= holds(block.trimmed(setting.shape, dense_halo(config)).read, balls, setting.shape)
        for name in measure.measure:
            if shapes is not None:
                columns[name] = measure_shapes(shapes, crop(name), measure.method)
            else:
                columns[name] = measure_balls(crop(name), middle - np.array(origin), ball, measure.method)
        clock.lap("intensity_detection")

    # Rows: maxima that are not open by their keys, open ones by their candidates, if the block may own them.
    index, row_keys = np.arange(len(maxima)), keys
    if step.valid:
        if step.h_max is None and maxima.open.any():
            right = tuple(max(margin - 1, 0) for margin in margins)
            of, at = open_candidates(maxima, maxima.open & some, right)
            index = np.concatenate([index[~maxima.open], of])
            row_keys = np.concatenate([keys[~maxima.open], volume_index(at, maxima.shape, origin, setting.shape)])
        if asked is None:
            owned = inside_region(places(row_keys, setting.shape), block.core)
        else:
            owned = np.isin(row_keys, asked)
        index, row_keys = index[owned], row_keys[owned]
    index, row_keys = index[some[index]], row_keys[some[index]]
    known, windows = block.trimmed(setting.shape, dense_halo(config)).read, None
    at = places(row_keys, setting.shape)
    if config.background_jump is not None and config.background_jump.ratio is not None:
        # a larger background that is seen is there whatever else is: to drop needs no more, to keep needs all in view
        seen = None if found is None else found.backgrounds(at - np.array(origin), maxima.shape)
        kept = ~beside_brighter(images, block, known, at, config, seen)
        index, row_keys, at = index[kept], row_keys[kept], at[kept]
        shown = np.zeros(len(maxima), bool)
        shown[index] = True
        some &= shown  # what is not a row here is written by its owner, or by nobody
    loose = ~settled[index]
    reach = np.array(near_reach(config))
    if reach.any():
        windows = np.hstack([at - reach, at + reach + 1])
        loose |= ~holds(known, windows, setting.shape)
    table = {axis: centres[index, i] for i, axis in enumerate("zyx")}
    table |= {name: column[index] for name, column in columns.items()}
    if config.features is not None:
        table |= feature_columns(images, at - np.array(region_origin(block.read)), setting.noise, config, workspace)
        clock.lap("features")
    table["truncated"] = loose
    cells = BlockCells(
        table,
        row_keys,
        where_loose(maxima, shapes, looked_at(balls, windows, index, loose), index[loose], trusted, margins),
        images,
        trusted=trusted,
        maxima=maxima,
        maxima_keys=np.where(some, keys, -1),
        shapes=shapes,
        mask_voxels=0 if shapes is None else _masked_in(shapes.runs, trusted.inner),
        brightest=-math.inf if index.size else _brightest(final, trusted, found),
        seconds=seconds,
    )
    cells.apart = _apart(cells, index, setting, everything=asked is not None)
    return cells


def _apart(cells: BlockCells, index: NDArray[np.int64], setting: Setting, *, everything: bool) -> dict[str, Voxels]:
    """What saved steps need beside what the core of the block tells, see `BlockCells.apart`; `index` of each row."""
    config, trusted, maxima = setting.config, cells.trusted, cells.maxima
    apart: dict[str, Voxels] = {}
    assert trusted is not None
    assert maxima is not None
    origin = region_origin(trusted.read)
    if config.maxima_detection is not None and config.maxima_detection.save is not None:
        apart["maxima_detection"] = maxima_voxels(maxima, index, cells.keys, origin, setting.shape)
    if cells.shapes is not None and config.shape_detection is not None and config.shape_detection.save is not None:
        apart["shape_detection"] = shape_voxels(cells.shapes, index, cells.keys, origin, setting.shape)
    if everything:
        return apart
    loose = cells.keys[cells.table["truncated"]]
    for name, voxels in apart.items():
        kept = ~inside_region(places(voxels.index, setting.shape), trusted.core) | np.isin(voxels.keys, loose)
        apart[name] = Voxels(voxels.index[kept], voxels.keys[kept])
    return apart


def _brightest(final: Image, trusted: Block, found: Found | None) -> float:
    return float(final[trusted.inner].max()) if found is None else found.brightest


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
    table |= empty_columns(config)
    table["truncated"] = np.empty(0, bool)
    return table


def _is_empty(setting: Setting) -> bool:
    """Whether there is nothing in a block of one grey value: its background is all of it, and 0 is below thresholds."""
    config = setting.config
    if setting.keeps_images or any(getattr(step, "save", None) for _, step in config):
        return False
    maxima, shapes = config.maxima_detection, config.shape_detection
    if maxima is None or config.background_correction is None:
        return False
    if config.illumination_correction is not None or config.equalization is not None:
        return False
    peaks = maxima.threshold is not None and maxima.threshold.value > 0
    return peaks or (shapes is not None and shapes.threshold is not None and shapes.threshold.value >= 0)


def _is_flat(image: Image) -> bool:
    """Whether all voxels have one value, found out plane by plane."""
    first = image[0, 0, 0]
    return all(bool((plane == first).all()) for plane in image)
