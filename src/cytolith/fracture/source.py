"""What is fracture in a volume: the one place where voxels become true or false."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, region_origin, region_shape
from cytolith.engine.workspace import Workspace
from cytolith.errors import VolumeError
from cytolith.io.volume import Volume

_SAMPLE_PLANES = 3
_SAMPLE_EDGE = 512


@dataclass(frozen=True)
class Source:
    """A volume and what is fracture in it.

    A voxel is fracture where it is not 0, or greater than `threshold` when there is one; `invert` exchanges fracture
    and rock.
    """

    volume: Volume
    threshold: float | None = None
    invert: bool = False

    @property
    def copies(self) -> bool:
        """Whether voxels are compared into an image of their own before runs are found."""
        return self.invert or (self.threshold is None and self.volume.dtype.kind not in "u")

    def read(self, region: Region, workspace: Workspace) -> tuple[NDArray[Any], float]:
        """Image of a region and the level above which its voxels are fracture, in buffers of the workspace.

        Raises
        ------
        VolumeError
            A voxel is NaN: neither fracture nor rock. Names the plane.
        """
        shape = region_shape(region)
        image = self.volume.read(region, out=workspace.array("source", shape, self.volume.dtype))
        if image.dtype.kind == "f":
            self._refuse_nan(image, region)
        if not self.copies:
            return image, 0 if self.threshold is None else self.threshold
        mask = workspace.array("mask", shape, np.uint8)
        if self.threshold is None:
            compare: np.ufunc = np.equal if self.invert else np.not_equal
        else:
            compare = np.less_equal
        with np.errstate(over="ignore"):  # a threshold beyond float32
            compare(image, self.threshold or 0, out=mask.view(np.bool_))
        return mask, 0

    def _refuse_nan(self, image: NDArray[Any], region: Region) -> None:
        for z, plane in enumerate(image):
            if np.isnan(plane).any():
                y, x = np.argwhere(np.isnan(plane))[0] + region_origin(region)[1:]
                raise VolumeError(
                    f"{self.volume.name}: plane {z + region[0].start} has a voxel that is not a number (first at "
                    f"y {y}, x {x}): replace NaN, for example by 0"
                )


def looks_grey(volume: Volume) -> bool:
    """Whether a volume seems to hold grey values rather than two values or labels.

    Three planes are looked at. In a binary or labelled image neighbours inside of something have the same value; in a
    grey one most differ.
    """
    Z, Y, X = volume.shape
    pairs = unequal = 0
    for z in sorted({Z * (2 * k + 1) // (2 * _SAMPLE_PLANES) for k in range(_SAMPLE_PLANES)}):
        y, x = (slice(max(n - _SAMPLE_EDGE, 0) // 2, (n + min(n, _SAMPLE_EDGE)) // 2) for n in (Y, X))
        try:
            plane = volume.read((slice(z, z + 1), y, x))[0]
        except VolumeError:  # the run will say so in its turn, after it has done what it can
            continue
        for a, b in ((plane[:, :-1], plane[:, 1:]), (plane[:-1], plane[1:])):
            both = (a != 0) & (b != 0)
            pairs += int(both.sum())
            unequal += int((both & (a != b)).sum())
    return unequal > 0.2 * pairs
