"""Image steps and maxima of some regions, for many parameters: what was computed for one is used for the next.

An image depends on the steps up to it and on nothing after. Each is kept under the parameters of those steps, the least
recently used go first when memory is full.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_origin, region_shape
from cytolith.cells.block import cells_in_images
from cytolith.cells.config import IMAGE_STEPS, CellsConfig, Step
from cytolith.cells.images import Image, run_step
from cytolith.cells.owners import places
from cytolith.cells.pipeline import Prepared, sample_noise
from cytolith.cells.resolve import in_voxels, with_noise
from cytolith.engine.grid import Block, halo_block
from cytolith.engine.workspace import Workspace
from cytolith.quantities import Threshold


@dataclass(frozen=True, eq=False)
class Candidates:
    """Maxima of the regions, whatever their height above a low floor.

    Attributes
    ----------
    positions : float64 (n, 3)
        Centres (z, y, x) in voxels of the volume.
    heights : float64 (n,)
        Grey value of the filtered image at the top of each.
    noise : float
        What a multiple of the noise stands for in grey values.
    dtype : dtype
        Of the filtered image.
    """

    positions: NDArray[np.float64]
    heights: NDArray[np.float64]
    noise: float
    dtype: np.dtype[Any]


class ImageCache:
    """Images by key within a number of bytes; the least recently used go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[Hashable, Image] = OrderedDict()
        self.held = 0
        """Bytes of the images that are kept."""

    def get(self, key: Hashable, make: Callable[[], Image]) -> Image:
        """The image under this key, made where it is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        image = make()
        self._kept[key] = image
        self.held += image.nbytes
        while self.held > self._most and len(self._kept) > 1:
            self.held -= self._kept.popitem(last=False)[1].nbytes
        return image


class Chain:
    """Candidates in some regions of a volume, for any parameters of the image steps.

    Parameters
    ----------
    prepared
        A run of the volume, for its reader, its flat field and its noise. What it says of illumination and
        equalization holds for all.
    regions
        Where candidates are wanted.
    halo
        Voxels around the regions that the largest parameters need, (z, y, x).
    most_bytes
        Memory for images that are kept.
    """

    def __init__(self, prepared: Prepared, regions: Sequence[Region], halo: Shape, most_bytes: int) -> None:
        self._prepared = prepared
        self._blocks = [halo_block(n, region, halo, prepared.setting.shape) for n, region in enumerate(regions)]
        self._read = [prepared.reader.read(block, Workspace()) for block in self._blocks]
        self._images = ImageCache(most_bytes)
        self._noise: dict[Hashable, float] = {}
        self._candidates: dict[Hashable, Candidates] = {}
        self.runs = dict.fromkeys(IMAGE_STEPS, 0)
        """How often each image step was computed, over all regions."""

    def candidates(self, config: CellsConfig, floor: Threshold) -> Candidates:
        """Maxima of at least the floor, for parameters as the user means them."""
        resolved = in_voxels(unsaved(config), self._prepared.reader.volume.voxel_size)
        assert resolved.maxima_detection is not None
        maxima = resolved.maxima_detection.model_copy(update={"threshold": floor})
        # shapes do not move centres, and which maxima lie above their threshold the sweep knows
        resolved = resolved.model_copy(
            update={"maxima_detection": maxima, "shape_detection": None, "intensity_detection": None}
        )
        key = step_key(resolved, "dog_filter"), maxima, resolved.background_jump
        if key not in self._candidates:
            self._candidates[key] = self._find(resolved)
        return self._candidates[key]

    def _find(self, resolved: CellsConfig) -> Candidates:
        noise = self._noise_after(resolved)
        setting = replace(self._prepared.setting, config=with_noise(resolved, noise))
        positions, heights = [np.empty((0, 3))], [np.empty(0)]
        for block in self._blocks:
            images = self._run(block, resolved)
            cells = cells_in_images(images, block, setting, Workspace())
            at = places(cells.keys, setting.shape) - np.array(region_origin(block.read))
            z, y, x = at.T
            positions.append(np.stack([cells.table[axis] for axis in "zyx"], 1))
            heights.append(images["dog_filter"][z, y, x].astype(np.float64))
            dtype = images["dog_filter"].dtype
        return Candidates(np.concatenate(positions), np.concatenate(heights), noise, dtype)

    def _run(self, block: Block, resolved: CellsConfig) -> dict[str, Image]:
        image, mask = self._read[block.index]
        setting = replace(self._prepared.setting, config=resolved)
        images = {"source": image}

        def make(name: str, before: Image) -> Image:
            self.runs[name] += 1
            after: Image = run_step(name, before, block.read, setting, Workspace(), mask=mask)
            return after

        for name in IMAGE_STEPS:
            if getattr(resolved, name) is not None and (name != "illumination_correction" or setting.flat_field):
                key = block.index, step_key(resolved, name)
                image = self._images.get(key, lambda name=name, before=image: make(name, before))  # type: ignore[misc]
            images[name] = image
        return images

    def noise_of(self, config: CellsConfig) -> float:
        """Noise of the volume for parameters as the user means them."""
        return self._noise_after(in_voxels(unsaved(config), self._prepared.reader.volume.voxel_size))

    def _noise_after(self, resolved: CellsConfig) -> float:
        key = step_key(resolved, "equalization")
        if key not in self._noise:
            setting = replace(self._prepared.setting, config=resolved)
            self._noise[key] = sample_noise(replace(self._prepared, setting=setting))
        return self._noise[key]


def step_key(resolved: CellsConfig, name: str) -> Hashable:
    """Parameters of the image steps up to this one that may differ between trials."""
    until = IMAGE_STEPS[: IMAGE_STEPS.index(name) + 1]
    fixed = {"illumination_correction", "equalization"}
    return until[-1], tuple(getattr(resolved, step) for step in until if step not in fixed)


def block_voxels(region: Region, halo: Shape, shape: Shape) -> int:
    """Voxels that are read for a region."""
    return math.prod(region_shape(halo_block(0, region, halo, shape).read))


def unsaved(config: CellsConfig) -> CellsConfig:
    """The configuration without files that steps write."""
    changed: dict[str, Step] = {
        name: step.model_copy(update={"save": None})
        for name, step in config
        if step is not None and getattr(step, "save", None) is not None
    }
    return config.model_copy(update=changed)


def grey_level(threshold: Threshold, noise: float, dtype: np.dtype[Any]) -> float:
    """Least grey value of a maximum in an image of this type, rounded as the pipeline does it."""
    value = threshold.value * noise if threshold.unit == "mad" else threshold.value
    return float(np.float32(value)) if dtype.kind == "f" else value
