"""Single planes as plain TIFF files: what a microscope's stack folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytolith.axes import VoxelSize
from cytolith.io.files import written_aside


def write_plane(path: Path, image: NDArray[Any], *, voxel_size: VoxelSize | None = None) -> None:
    """Write one plane (Y, X) as an uncompressed single-page TIFF, whole or not at all.

    Parameters
    ----------
    path : Path
        File to write; an existing one is replaced.
    image : ndarray of shape (Y, X)
        Grey values of any numeric dtype that TIFF knows.
    voxel_size : tuple of float, optional
        Edges (z, y, x) in micrometres; y and x go to the resolution tags. A plane has no place for z.

    Raises
    ------
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> write_plane(Path("z0000.tif"), np.zeros((4, 5), np.uint16), voxel_size=(6, 1.62, 1.62))  # doctest: +SKIP
    """
    if image.ndim != 2:
        raise ValueError(f"image has the shape {image.shape}: a plane has two axes (y, x)")
    tags: dict[str, Any] = {}
    if voxel_size is not None:
        _, y, x = voxel_size
        tags = {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"}
    with written_aside(path) as aside:
        tifffile.imwrite(
            aside, np.ascontiguousarray(image), photometric="minisblack", metadata=None, software="cytolith", **tags
        )
