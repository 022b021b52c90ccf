"""Reading blocks for the cells pipeline: the volume, the mask of the equalization, and what is refused in them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cytolith.axes import Region, region_origin, region_shape
from cytolith.cells.config import CellsConfig
from cytolith.cells.images import Image
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.errors import ConfigError, VolumeError
from cytolith.io.flat_fields import read_flat_field
from cytolith.io.volume import Volume, open_volume
from cytolith.kernels.illumination import FlatField, flat_field


class Reader:
    """Reads a block of the volume, and of the mask of the equalization, and refuses what cannot be computed on."""

    def __init__(self, volume: Volume, config: CellsConfig) -> None:
        self.volume = volume
        self._config = config
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

    @property
    def side_files(self) -> list[Path]:
        """Files beside the volume and the mask that blocks depend on."""
        step = self._config.illumination_correction
        given = () if step is None else (step.flatfield, step.background)
        return [Path(each) for each in given if isinstance(each, (str, Path))]

    def read(self, block: Block, workspace: Workspace) -> tuple[Image, Image | None]:
        """Voxels and mask of ``block.read``, in buffers of the workspace; NaN and infinity are refused."""
        image = workspace.array("source", region_shape(block.read), self.volume.dtype)
        self.read_planes(block.read, 0, image)
        return image, self.read_mask(block.read, workspace)

    def read_planes(self, region: Region, first: int, image: Image) -> None:
        """Fill the planes of an image of a region from the `first` on; NaN and infinity are refused."""
        rest = slice(region[0].start + first, region[0].stop), region[1], region[2]
        self.volume.read(rest, out=image[first:])
        if image.dtype.kind == "f":
            _refuse_not_finite(image[first:], rest, self.volume.name)

    def read_mask(self, region: Region, workspace: Workspace) -> Image | None:
        """Which voxels of a region the equalization counts; None: all."""
        if self.mask is None:
            return None
        stored = self.mask.read(region, out=workspace.array("mask as stored", region_shape(region), self.mask.dtype))
        mask = workspace.array("mask", region_shape(region), np.bool_)
        np.not_equal(stored, 0, out=mask)
        return mask


@dataclass
class _Buffers:
    """One of the two places that a worker reads into."""

    workspace: Workspace
    region: Region | None = None
    image: Image | None = None
    is_free: threading.Event = field(default_factory=threading.Event)
    """Nobody copies from here any more."""


class AheadReader:
    """Reads the blocks of one worker: the next one while the worker computes, planes that both need only once.

    There are two buffers of the size of a block, which the plan counts. Where the next block continues the one before
    along z, the planes that both need are copied in memory.
    """

    def __init__(self, reader: Reader, workspace: Callable[[], Workspace] = Workspace) -> None:
        """Reads into buffers of workspaces that this makes."""
        self._reader = reader
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._current, self._other = _Buffers(workspace()), _Buffers(workspace())
        self._ahead: tuple[Block, Future[tuple[Image, Image | None]]] | None = None

    def take(self, block: Block, ahead: Block | None) -> tuple[Image, Image | None]:
        """Voxels and mask of ``block.read``, until the next call; begins to read `ahead`."""
        pending, self._ahead = self._ahead, None
        if pending is not None and pending[0] != block:
            pending[1].exception()  # it was for another worker in the end; its buffer is free when it is read
            pending = None
        image, mask = self._read(block) if pending is None else pending[1].result()
        self._current, self._other = self._other, self._current
        if ahead is not None:
            self._current.is_free.clear()
            self._ahead = ahead, self._thread.submit(self._read, ahead)
        return image, mask

    def again(self, region: Block) -> tuple[Image, Image | None]:
        """Voxels and mask of ``region.read`` in the place of the block taken last, whose voxels are given up."""
        if self._ahead is not None:
            self._current.is_free.wait()
        self._current.region = None
        return self._reader.read(region, self._current.workspace)

    def _read(self, block: Block) -> tuple[Image, Image | None]:
        """Read into the other buffer, by way of what the current one has."""
        here, there = self._other, self._current
        here.region = None
        try:
            image = here.workspace.array("source", region_shape(block.read), self._reader.volume.dtype)
            planes = _copy_overlap(there, block.read, image)
        finally:
            there.is_free.set()
        self._reader.read_planes(block.read, planes, image)
        mask = self._reader.read_mask(block.read, here.workspace)
        here.region, here.image = block.read, image
        return image, mask

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("an AheadReader stays where it is")


def _copy_overlap(buffers: _Buffers, region: Region, out: Image) -> int:
    """Copy the first planes of a region from a buffer that ends with them; how many there were."""
    if buffers.region is None or buffers.image is None or buffers.region[1:] != region[1:]:
        return 0
    before, after = buffers.region[0], region[0]
    if not before.start <= after.start < before.stop <= after.stop:
        return 0
    count = int(before.stop - after.start)
    np.copyto(out[:count], buffers.image[after.start - before.start :])
    return count


def load_flat_field(config: CellsConfig, volume: Volume) -> FlatField | None:
    """Flat field of the planes of a volume from an array or a file; ConfigError names the option."""
    step = config.illumination_correction
    if step is None:
        return None
    try:
        return flat_field(
            read_flat_field(step.flatfield, "illumination_correction.flatfield"),
            volume.shape[1:],
            background=None
            if step.background is None
            else read_flat_field(step.background, "illumination_correction.background"),
            scaling=step.scaling,
            axis=step.axis,
        )
    except ValueError as error:
        raise ConfigError(f"illumination_correction.flatfield: {error}") from None


def _refuse_not_finite(image: Image, region: Region, name: str) -> None:
    for z, plane in enumerate(image):
        if not np.isfinite(plane).all():
            y, x = np.argwhere(~np.isfinite(plane))[0] + region_origin(region)[1:]
            raise VolumeError(
                f"{name}: plane {z + region[0].start} has a voxel that is no finite number (first at "
                f"y {y}, x {x}): replace NaN and infinity, for example by 0"
            )
