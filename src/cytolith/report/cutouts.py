"""Cells seen closely: three planes through each, with the outlines that the run gave, computed again on small crops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, VoxelSize, region_origin
from cytolith.cells.block import cells_of_block
from cytolith.cells.config import CellsConfig, IntensityDetection
from cytolith.cells.costs import block_halo
from cytolith.cells.images import Setting
from cytolith.cells.reader import Reader, load_flat_field
from cytolith.cells.resolve import in_voxels, noise_scaled, with_noise
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.io.volume import Volume
from cytolith.report.images import contrast, stretch

FINAL = "dog_filter"
"""Name of the image that maxima are looked for in, whichever steps run."""
PANE = 120
"""Pixels of a plane's edge."""
_GAP = 4
_BEYOND = 44  # grey of what lies outside the volume
_PAPER = 255
_OWN, _OTHER = (255, 140, 40), (86, 180, 233)  # orange and sky blue: told apart by the colour-blind
_CENTRE_VOXELS = 2  # a centre may lie so far from the highest voxel that makes a block own a cell
_WIDEST_CROP = 64_000_000  # voxels


@dataclass(frozen=True)
class Look:
    """A cell and what is around it."""

    image: NDArray[Any]
    """Grey values of a box around the cell, (Z, Y, X)."""
    labels: NDArray[np.int32] | None
    """1 where the cell is, 2 where its neighbours are; None when shapes are off, or the cell was not found again."""
    origin: Shape
    """First voxel of the box in the volume."""
    peak: float | None
    """Highest value of the cell in the image that maxima are looked for in; None when it was not found again."""


class Cutter:
    """Runs the pipeline on small crops of a volume, as it ran on the whole.

    Parameters
    ----------
    volume
        What the run read.
    config
        Parameters of the run, as a user means them.
    noise
        Noise that the run found, None when no threshold is a multiple of it.
    half
        Half the edge of what is shown, (z, y, x) in voxels.

    Attributes
    ----------
    decoded : int
        Voxels that are read or decoded for a cell.
    """

    def __init__(self, volume: Volume, config: CellsConfig, noise: float | None, half: Shape) -> None:
        measured = IntensityDetection(method="max", measure=(FINAL,))
        if config.intensity_detection is not None and config.shape_detection is None:
            measured = config.intensity_detection.model_copy(update={"method": "max", "measure": (FINAL,)})
        resolved = in_voxels(config.model_copy(update={"intensity_detection": measured}), volume.voxel_size)
        if noise_scaled(resolved):
            resolved = with_noise(resolved, noise or 0.0)
        halo = block_halo(resolved, volume.voxel_size)
        self._volume, self._half = volume, half
        self._halo = max(halo[0], half[0]), max(halo[1], half[1]), max(halo[2], half[2])
        self._reader = Reader(volume, resolved)
        self._setting = Setting(resolved, volume.shape, load_flat_field(resolved, volume))
        self._workspace = Workspace()
        extents = [2 * (n + _CENTRE_VOXELS) + 1 for n in self._halo]
        chunks = volume.chunks or (1, 1, 1)
        self.decoded = math.prod(
            min(-(-extent // chunk) * chunk + chunk - 1, size)
            for extent, chunk, size in zip(extents, chunks, volume.shape, strict=True)
        )
        self.too_wide = math.prod(map(min, extents, volume.shape)) > _WIDEST_CROP

    def look(self, centre: NDArray[np.float64], *, shown: bool = True) -> Look:
        """The cell with its centre, z, y, x in voxels, nearest to a place; without `shown` its image is left out."""
        core = self._box(centre, (_CENTRE_VOXELS,) * 3)
        box = self._box(centre, self._half)
        if self.too_wide:
            return Look(self._volume.read(box), None, region_origin(box), None)
        block = Block(0, core, self._box(centre, self._halo, _CENTRE_VOXELS))
        image, mask = self._reader.read(block, self._workspace)
        kept = _part(image, block.read, box).copy() if shown else np.empty((0, 0, 0), image.dtype)
        found = cells_of_block(image, block, self._setting, self._workspace, mask=mask)
        rows = np.column_stack([found.table[axis] for axis in "zyx"])
        if not len(rows):
            return Look(kept, None, region_origin(box), None)
        row = int(np.abs(rows - centre).sum(1).argmin())
        peak = float(found.table[FINAL][row])
        labels = None
        if shown and found.shapes is not None and found.trusted is not None:
            own = int(np.flatnonzero(found.maxima_keys == found.keys[row])[0]) + 1
            dense = _part(found.shapes.to_dense(), found.trusted.read, box)
            labels = np.where(dense == own, 1, np.where(dense > 0, 2, 0)).astype(np.int32)
        return Look(kept, labels, region_origin(box), peak)

    def _box(self, centre: NDArray[np.float64], half: Shape, more: int = 0) -> Region:
        z, y, x = (
            slice(max(round(float(c)) - h - more, 0), min(round(float(c)) + h + more + 1, size))
            for c, h, size in zip(centre, half, self._volume.shape, strict=True)
        )
        return z, y, x


def _part(image: NDArray[Any], region: Region, box: Region) -> NDArray[Any]:
    """What an image of a region has of a box."""
    return image[tuple(slice(max(b.start - r.start, 0), b.stop - r.start) for b, r in zip(box, region, strict=True))]


def half_of(width: float, voxel_size: VoxelSize | None) -> Shape:
    """Voxels from a centre to the edge of what is shown of a cell, for its width in micrometres (or voxels)."""
    z, y, x = (math.ceil(width / 2 / edge) + 1 for edge in voxel_size or (1.0, 1.0, 1.0))
    return z, y, x


def draw(look: Look, centre: NDArray[np.float64], width: float, voxel_size: VoxelSize | None) -> NDArray[np.uint8]:
    """Planes z, y and x through the centre of a cell side by side, in true proportions.

    Parameters
    ----------
    look
        The cell.
    centre
        z, y, x in voxels of the volume.
    width
        Edge of each plane in micrometres, or in voxels where their size is unknown.
    voxel_size
        Edges (z, y, x) of a voxel.

    Returns
    -------
    ndarray
        uint8, (PANE, 3 PANE + gaps, 3): black is the 0.5th percentile of what is shown, white the largest value near
        the centre; its outline in orange, those of its neighbours in blue.
    """
    if not look.image.size:
        return np.full((PANE, 3 * PANE + 2 * _GAP, 3), _PAPER, np.uint8)
    edges = np.array(voxel_size or (1.0, 1.0, 1.0))
    away = (np.arange(PANE) + 0.5) / PANE * width - width / 2
    places = [np.floor(c + away / e + 0.5).astype(np.int64) - o
              for c, e, o in zip(centre, edges, look.origin, strict=True)]  # fmt: skip
    middle = [int(np.clip(round(float(c)) - o, 0, n - 1))
              for c, o, n in zip(centre, look.origin, look.image.shape, strict=True)]  # fmt: skip
    near = look.image[tuple(slice(max(m - n // 4, 0), m + n // 4 + 1)
                            for m, n in zip(middle, look.image.shape, strict=True))]  # fmt: skip
    grey = stretch(look.image, contrast(look.image)[0], float(near.max()))  # what is brighter beside it may not dim it
    picture = np.full((PANE, 3 * PANE + 2 * _GAP, 3), _PAPER, np.uint8)
    for axis in range(3):
        rows, columns = (places[other] for other in range(3) if other != axis)
        sides = [n for other, n in enumerate(grey.shape) if other != axis]
        seen = ((rows >= 0) & (rows < sides[0]))[:, np.newaxis] & ((columns >= 0) & (columns < sides[1]))
        grid = np.ix_(np.clip(rows, 0, sides[0] - 1), np.clip(columns, 0, sides[1] - 1))
        pane = np.repeat(np.where(seen, np.take(grey, middle[axis], axis)[grid], _BEYOND)[..., np.newaxis], 3, axis=2)
        if look.labels is not None:
            label = np.where(seen, np.take(look.labels, middle[axis], axis)[grid], 0)
            for value, colour in ((2, _OTHER), (1, _OWN)):
                pane[_rim(label == value)] = colour
        left = axis * (PANE + _GAP)
        picture[:, left : left + PANE] = pane
    return picture


def _rim(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a region that have a neighbour outside of it."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rim: NDArray[np.bool_] = inside & ~core
    return rim
