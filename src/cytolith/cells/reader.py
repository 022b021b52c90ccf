"""Reading blocks for the cells pipeline: the volume, the mask of the equalization, and what is refused in them."""

from __future__ import annotations

import numpy as np

from cytolith.axes import region_origin, region_shape
from cytolith.cells.config import CellsConfig
from cytolith.cells.images import Image
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.errors import ConfigError, VolumeError
from cytolith.io.volume import Volume, open_volume


class Reader:
    """Reads a block of the volume, and of the mask of the equalization, and refuses what cannot be computed on."""

    def __init__(self, volume: Volume, config: CellsConfig) -> None:
        self.volume = volume
        step = config.equalization
        self.mask = None
        if step is not None and step.mask is not None:
            try:
                self.mask = open_volume(step.mask)
            except VolumeError as error:
                raise ConfigError(f"equalization.mask: {error}") from None
            if self.mask.shape != volume.shape:
                raise ConfigError(
                    f"equalization.mask {self.mask.name}: shape {self.mask.shape}, but the volume has {volume.shape}"
                )
            self.mask.check()

    def read(self, block: Block, workspace: Workspace) -> tuple[Image, Image | None]:
        """Voxels and mask of ``block.read``, in buffers of the workspace; NaN and infinity are refused."""
        shape = region_shape(block.read)
        image = self.volume.read(block.read, out=workspace.array("source", shape, self.volume.dtype))
        if image.dtype.kind == "f":
            _refuse_not_finite(image, block, self.volume.name)
        mask = None
        if self.mask is not None:
            mask = self.mask.read(block.read, out=workspace.array("mask", shape, self.mask.dtype)) != 0
        return image, mask


def _refuse_not_finite(image: Image, block: Block, name: str) -> None:
    for z, plane in enumerate(image):
        if not np.isfinite(plane).all():
            y, x = np.argwhere(~np.isfinite(plane))[0] + region_origin(block.read)[1:]
            raise VolumeError(
                f"{name}: plane {z + block.read[0].start} has a voxel that is no finite number (first at "
                f"y {y}, x {x}): replace NaN and infinity, for example by 0"
            )
