"""Offset maps as apmapflow makes them: patched by SciPy's ``griddata``, filtered, patched again, counted from 1."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytolith.errors import VolumeError
from cytolith.fracture.maps import filter_offsets
from cytolith.kernels.patching import patch_map

PATCHING_BYTES = 1800
"""Memory of a cell while ``griddata`` triangulates all cells of a map."""


def calculate_offset_map(img_data: ArrayLike) -> NDArray[np.float64]:
    """Offset map of an image: patched, rid of steep cells, patched again.

    Parameters
    ----------
    img_data : array_like, shape (X, Y, Z)
        Fracture where it is not 0; y is the opening axis.

    Returns
    -------
    ndarray of shape (Z, X), float64
        Index along y of the first fracture voxel, plus 1, in voxels; NaN everywhere when there is no fracture at all.

    Raises
    ------
    VolumeError
        The image is not three-dimensional.

    Examples
    --------
    >>> image = np.zeros((4, 6, 3), bool)
    >>> image[:, 2:5] = True
    >>> calculate_offset_map(image)
    array([[3., 3., 3., 3.],
           [3., 3., 3., 3.],
           [3., 3., 3., 3.]])
    """
    image = np.asarray(img_data)
    if image.ndim != 3 or image.size == 0:
        raise VolumeError(f"img_data has shape {image.shape}; give a stack (x, y, z) with voxels in it")
    solid = image != 0
    first = np.where(solid.any(axis=1), solid.argmax(axis=1).astype(np.float64), np.nan)
    return settle_map(np.ascontiguousarray(first.T))


def settle_map(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """The offset map that is written, from the indices of first voxels, NaN where there is none."""
    if np.isnan(raw).all():
        return raw
    return patch_holes(filter_high_gradients(patch_holes(raw)))


def filter_high_gradients(data_map: ArrayLike) -> NDArray[np.float64]:
    """Map plus 1, without what is steeper than the 99th percentile and without what that cuts off.

    Parameters
    ----------
    data_map : array_like, shape (rows, columns)
        A patched map.

    Returns
    -------
    ndarray of shape (rows, columns), float64
        ``data_map + 1`` where a cell is kept, NaN elsewhere. apmapflow added the 1 to tell an offset of 0 from its mark
        of what is removed, and never took it off again.

    Raises
    ------
    ValueError
        The map is not two-dimensional, is empty, or holds NaN or infinity.

    See Also
    --------
    cytolith.filter_offsets : the rule, with other percentiles.
    """
    if not np.isfinite(np.asarray(data_map, np.float64)).all():
        raise ValueError("data_map holds NaN or infinity; patch it first (patch_holes)")
    return filter_offsets(data_map) + 1


def patch_holes(data_map: ArrayLike) -> NDArray[np.float64]:
    """Map whose cells that are not finite are filled: linear between all others, nearest beyond their convex hull.

    Parameters
    ----------
    data_map : array_like, shape (rows, columns)
        Real numbers. Not changed.

    Returns
    -------
    ndarray of shape (rows, columns), float64
        In the unit of the map; as it is when no cell is finite.

    Raises
    ------
    ValueError
        The map is not two-dimensional.

    Notes
    -----
    Values are those of ``scipy.interpolate.griddata`` on all finite cells in the order of rows, bit for bit, at its
    price: a triangulation of the whole map, 1.8 KB a cell, whenever one cell is missing. How it cuts squares of cells
    into triangles is left to Qhull; `cytolith.patch_map` does not depend on that. Where there is nothing to
    triangulate, because all finite cells lie on a line, the values are those of `patch_map`.
    """
    patched = np.array(data_map, np.float64)
    if patched.ndim != 2:
        raise ValueError(f"data_map has shape {patched.shape}; a map (rows, columns) is needed")
    valid = np.isfinite(patched)
    if valid.all() or not valid.any():
        return patched
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    cells, holes = np.argwhere(valid), np.argwhere(~valid)
    try:
        with _one_thread():
            values = griddata(cells, patched[valid], holes, method="linear")
    except QhullError:
        return patch_map(np.where(valid, patched, np.nan))
    beyond = np.isnan(values)
    if beyond.any():
        values[beyond] = griddata(cells, patched[valid], holes[beyond], method="nearest")
    patched[~valid] = values
    return patched


def _one_thread() -> AbstractContextManager[object]:
    """Linear algebra on one thread: on matrices of 2 x 2 several only wait for each other, most of all when busy."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1)  # type: ignore[no-any-return]
