"""Gaussian smoothing and the difference of Gaussians (DoG), both separable, in float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.kernels.arguments import float_output, positive_extents, usable_image
from cytolith.kernels.separable import half_weights, sum_separable

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian of sigma 1."""

SIGMA_RATIO = 1.5
"""Ratio of the wide to the narrow sigma of the DoG filter, unless given."""

Triple = tuple[float, float, float]
Kernel = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def smooth(
    image: NDArray[Any],
    sigma: float | Triple,
    *,
    truncate: float = 3.0,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Smooth a 3-d image with a Gaussian.

    The Gaussian reaches ``int(truncate * sigma + 0.5)`` voxels to either side and sums to 1; borders are mirrored, as
    in `scipy.ndimage.gaussian_filter` with mode ``reflect``.  The value of a voxel is the same to the last bit in
    whatever block it is computed, if the block extends `smooth_reach` voxels around it or ends with the volume.

    Parameters
    ----------
    image
        Image (z, y, x); bool, uint8, uint16, int16, float32, or float64 (used as float32).  Copied if not C-contiguous.
    sigma
        Standard deviation in voxels, one number or (z, y, x); 0 leaves that axis as it is.
    truncate
        Reach of the Gaussian in standard deviations.
    out
        Float32 array of the image's shape, C-contiguous, that receives the result; may not overlap the image.

    Returns
    -------
    ndarray of float32
        Smoothed image of the same shape; off by less than 1e-6 of the largest value.

    Raises
    ------
    ValueError
        If sigma or truncate is negative or not finite, or if image or out is of another kind than allowed.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((1, 1, 9), np.uint16)
    >>> image[0, 0, 4] = 1000
    >>> smooth(image, (0, 0, 1)).round().tolist()
    [[[0.0, 4.0, 54.0, 242.0, 399.0, 242.0, 54.0, 4.0, 0.0]]]
    """
    kernels, extents = smooth_kernels(sigma, truncate)
    image = usable_image(image)
    out = float_output(image, out)
    sum_separable(image, kernels, extents, out, clip=False)
    return out


def dog_filter(
    image: NDArray[Any],
    shape: int | Shape,
    sigma: float | Triple | None = None,
    sigma2: float | Triple | None = None,
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Filter a 3-d image with a difference of Gaussians (DoG), which answers to bright blobs of about the given size.

    The kernel is a narrow Gaussian minus a wide one.  Both are cut to a box of the given shape and normalised to sum
    1 in it, so that a flat image gives 0 up to rounding.  Negative answers are set to 0.  Borders are mirrored
    (``reflect`` of SciPy).  The value of a voxel is the same to the last bit in whatever block it is computed, if the
    block extends `dog_reach` voxels around it or ends with the volume.

    Parameters
    ----------
    image
        Image (z, y, x); bool, uint8, uint16, int16, float32, or float64 (used as float32).  Copied if not C-contiguous.
    shape
        Extent of the kernel in voxels, one number or (z, y, x): about the extent of the cells.  The kernel of an even
        extent n is symmetric around the middle of its box; its answer is written at voxel n // 2.
    sigma
        Standard deviation of the narrow Gaussian in voxels, one number or (z, y, x); sigma2 / 1.5 if not given.
    sigma2
        Standard deviation of the wide Gaussian; if not given, the one whose full width at half maximum is the shape.
    out
        Float32 array of the image's shape, C-contiguous, that receives the result; may not overlap the image.

    Returns
    -------
    ndarray of float32
        Answers >= 0, same shape as the image; off by less than 1e-6 of the largest value of the image.

    Raises
    ------
    ValueError
        If shape is not of positive whole numbers or a sigma not positive, or if image or out is of another kind than
        allowed.

    Notes
    -----
    The ``dog_filter`` of ClearMap, with the same kernels.  There the result has the dtype of the image, so that
    negative answers on unsigned images wrap to large values; here it is float32 always.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.full((9, 9, 9), 100, np.uint16)
    >>> image[4, 4, 4] = 500
    >>> answer = dog_filter(image, 5)
    >>> np.unravel_index(answer.argmax(), answer.shape)
    (np.int64(4), np.int64(4), np.int64(4))
    """
    kernels, extents = dog_kernels(shape, sigma, sigma2)
    image = usable_image(image)
    out = float_output(image, out)
    sum_separable(image, kernels, extents, out, clip=True)
    return out


def smooth_kernels(sigma: float | Triple, truncate: float) -> tuple[list[Kernel], Shape]:
    """Kernel of `smooth` as `sum_separable` takes it, and its number of taps (z, y, x)."""
    z, y, x = (2 * radius + 1 for radius in smooth_reach(sigma, truncate))
    return [_kernel((z, y, x), _numbers("sigma", sigma))], (z, y, x)


def dog_kernels(
    shape: int | Shape, sigma: float | Triple | None, sigma2: float | Triple | None
) -> tuple[list[Kernel], Shape]:
    """Narrow and wide kernel of `dog_filter`, the wide one negative, and their number of taps (z, y, x)."""
    z, y, x = extents = positive_extents("shape", shape)
    wide = (z / FWHM, y / FWHM, x / FWHM) if sigma2 is None else _positive("sigma2", sigma2)
    narrow = (
        (wide[0] / SIGMA_RATIO, wide[1] / SIGMA_RATIO, wide[2] / SIGMA_RATIO)
        if sigma is None
        else _positive("sigma", sigma)
    )
    wide_z, wide_y, wide_x = _kernel(extents, wide)
    return [_kernel(extents, narrow), (wide_z, wide_y, -wide_x)], extents


def smooth_reach(sigma: float | Triple, truncate: float = 3.0) -> Shape:
    """Voxels on either side, (z, y, x), that a voxel of `smooth` depends on.

    Raises
    ------
    ValueError
        If sigma or truncate is negative or not finite.

    Examples
    --------
    >>> smooth_reach((0.7, 1.48, 1.48))
    (2, 4, 4)
    """
    z, y, x = _numbers("sigma", sigma)
    if not (math.isfinite(truncate) and truncate >= 0):
        raise ValueError(f"truncate is {truncate}; a finite number >= 0 is needed")
    return int(truncate * z + 0.5), int(truncate * y + 0.5), int(truncate * x + 0.5)


def dog_reach(shape: int | Shape) -> Shape:
    """Voxels on either side, (z, y, x), that a voxel of `dog_filter` depends on; the larger side for an even extent.

    Raises
    ------
    ValueError
        If shape is not of positive whole numbers.

    Examples
    --------
    >>> dog_reach((5, 6, 7))
    (2, 3, 3)
    """
    z, y, x = positive_extents("shape", shape)
    return z // 2, y // 2, x // 2


def _kernel(taps: Shape, sigma: Triple) -> Kernel:
    z, y, x = (half_weights(_gaussian(n, s)) for n, s in zip(taps, sigma, strict=True))
    return z, y, x


def _gaussian(taps: int, sigma: float) -> NDArray[np.float64]:
    """Gaussian at ``taps`` voxels, symmetric around their middle, sum 1."""
    if taps == 1:
        return np.ones(1)
    distance = np.arange(taps) - (taps - 1) / 2
    # relative to the innermost taps, since those of an even kernel may all underflow when sigma is small
    nearest = abs(distance).min()
    with np.errstate(over="ignore"):
        values = np.exp((nearest**2 - distance**2) / 2 / sigma / sigma)
    return np.asarray(values / values.sum(), np.float64)


def _numbers(name: str, value: float | Triple) -> Triple:
    """Three finite numbers >= 0 (z, y, x) from one or three."""
    values = np.asarray(value)
    if (
        values.shape not in ((), (3,))
        or values.dtype.kind not in "iuf"
        or not np.isfinite(values).all()
        or (values < 0).any()
    ):
        raise ValueError(f"{name} is {value}; one or three (z, y, x) finite numbers >= 0 are needed")
    z, y, x = np.broadcast_to(values, 3).tolist()
    return z, y, x


def _positive(name: str, value: float | Triple) -> Triple:
    """Three finite numbers > 0 (z, y, x) from one or three."""
    z, y, x = _numbers(name, value)
    if not min(z, y, x) > 0:
        raise ValueError(f"{name} is {value}; it must be > 0")
    return z, y, x
