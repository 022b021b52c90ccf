"""Volumes of labels, read without loss: ids of regions go far beyond what 32-bit floats hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape
from cytolith.errors import VolumeError
from cytolith.io.stored import as_stored
from cytolith.io.volume import Volume, open_volume, region_text

_WHOLE_BELOW = {"float32": 2**24, "float64": 2**53, "uint64": 2**63}


class LabelVolume:
    """A volume of whole numbers, read box by box as int64; made by `label_volume`.

    Attributes
    ----------
    name : str
    shape : tuple of int
        (z, y, x).
    voxel_size : tuple of float or None
        (z, y, x) in micrometres.
    chunks : tuple of int or None
        What costs one read, (z, y, x).

    Notes
    -----
    A volume reads integers of 32 and 64 bits as float32, exact to 2^24, which is what images need; Allen's ids go to
    614,454,277. Here they are read as they are stored.
    """

    def __init__(self, volume: Volume) -> None:
        self.name = volume.name
        self.shape: Shape = volume.shape
        self.voxel_size = volume.voxel_size
        self.chunks = volume.chunks
        self._volume = as_stored(volume)

    def read(self, region: Region) -> NDArray[np.int64]:
        """Labels of one box of voxels.

        Parameters
        ----------
        region : tuple of slice
            Three slices with explicit start and stop inside the volume, (z, y, x).

        Returns
        -------
        int64 ndarray

        Raises
        ------
        VolumeError
            The file cannot be read; a voxel that is no whole number, or so large that it may not be the number that
            was meant.
        """
        stored = self._volume.read(region)
        limit = _WHOLE_BELOW.get(stored.dtype.name)
        if limit is None:
            return stored.astype(np.int64)
        highest = max(-float(stored.min(initial=0)), float(stored.max(initial=0)))
        if np.isfinite(highest) and highest >= limit:
            raise VolumeError(
                f"{self.name}: {region_text(region)} has ids up to {highest:.0f}, which {stored.dtype} does not hold "
                "exactly: save it as uint32"
            )
        with np.errstate(invalid="ignore"):
            labels = stored.astype(np.int64)
        if (labels != stored).any():
            raise VolumeError(
                f"{self.name}: {region_text(region)} holds voxels that are no whole numbers: labels are needed"
            )
        return labels


def label_volume(source: Any, *, voxel_size: Sequence[float] | None = None) -> LabelVolume:
    """Volume of labels from anything that `cytolith.open_volume` reads.

    Raises
    ------
    VolumeError
        A source that is no volume.
    """
    return LabelVolume(open_volume(source, voxel_size=voxel_size))
