"""The noise of a volume is measured on a sample of it: its tiles are read here and go through the image steps."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import region_shape
from cytolith.cells.costs import bytes_per_voxel
from cytolith.cells.images import Setting, dense_halo, run_image_steps
from cytolith.cells.noise import robust_noise, sample_blocks
from cytolith.cells.reader import Reader
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace


def measure_noise(reader: Reader, setting: Setting, *, at_once: int) -> float:
    """Noise of the background-corrected (and equalized) volume, from the fixed sample of :mod:`cytolith.cells.noise`.

    Voxels whose source is 0 are left out: stitching and cropping fill with it what was never imaged. It is measured
    here, whatever the blocks run on: the sample is small.

    Parameters
    ----------
    reader, setting
        Of the run.
    at_once
        Tiles that memory holds at once.
    """
    setting = _without_smoothing(setting)

    def values(tile: Block) -> NDArray[Any]:
        workspace = Workspace()
        image, mask = reader.read(tile, workspace)
        final = run_image_steps(image, tile.read, setting, workspace, mask=mask)["equalization"]
        return np.asarray(final[tile.inner][image[tile.inner] != 0])

    tiles = sample_blocks(setting.shape, dense_halo(setting.config))
    with ThreadPoolExecutor(at_once) as executor:
        try:
            return robust_noise(np.concatenate(list(executor.map(values, tiles))))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def sample_bytes(setting: Setting, dtype: np.dtype[Any]) -> int:
    """Memory of the largest tile of the sample of a volume of this type."""
    config = _without_smoothing(setting).config
    largest = max(math.prod(region_shape(tile.read)) for tile in sample_blocks(setting.shape, dense_halo(config)))
    return math.ceil(largest * bytes_per_voxel(config, dtype))


def _without_smoothing(setting: Setting) -> Setting:
    """The steps that the noise is measured after.

    It is measured before smoothing and the difference of Gaussians, which keep the unit of the image and make noise
    small: measured after them, a volume of nothing but noise would be full of cells.
    """
    return replace(setting, config=setting.config.model_copy(update={"smoothing": None, "dog_filter": None}))
