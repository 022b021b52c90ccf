"""Gaussian smoothing and the difference of Gaussians on a GPU, see :mod:`cytolith.kernels.gaussian`."""

from __future__ import annotations

import numpy as np

from cytolith.axes import Shape
from cytolith.kernels.gaussian import Triple, dog_kernels, smooth_kernels
from cytolith.kernels.gpu.cuda import Array, array_module
from cytolith.kernels.gpu.separable import sum_separable


def smooth(image: Array, sigma: float | Triple, *, truncate: float = 3.0, out: Array | None = None) -> Array:
    """Smooth a 3-d image with a Gaussian, as `cytolith.kernels.gaussian.smooth`.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous: uint8, uint16, int16 or float32.
    sigma
        Standard deviation in voxels, one number or (z, y, x); 0 leaves that axis as it is.
    truncate
        Reach of the Gaussian in standard deviations.
    out
        CuPy array, float32, of the shape of the image, not overlapping it.

    Returns
    -------
    cupy.ndarray
        float32; `out` when given.

    Raises
    ------
    ValueError
        If sigma or truncate is negative or not finite, if the image is of another kind than allowed, or if the Gaussian
        is too large for the GPU: hundreds of voxels along an axis.
    """
    kernels, taps = smooth_kernels(sigma, truncate)
    out = _output(image, out)
    sum_separable(image, kernels, taps, out, clip=False)
    return out


def dog_filter(
    image: Array,
    shape: int | Shape,
    sigma: float | Triple | None = None,
    sigma2: float | Triple | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Filter a 3-d image with a difference of Gaussians (DoG), as `cytolith.kernels.gaussian.dog_filter`.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous: uint8, uint16, int16 or float32.
    shape
        Extent of the kernel in voxels, one number or (z, y, x).
    sigma
        Standard deviation of the narrow Gaussian in voxels, one number or (z, y, x); sigma2 / 1.5 if not given.
    sigma2
        Standard deviation of the wide Gaussian; if not given, the one whose full width at half maximum is the shape.
    out
        CuPy array, float32, of the shape of the image, not overlapping it.

    Returns
    -------
    cupy.ndarray
        float32, answers >= 0; `out` when given.

    Raises
    ------
    ValueError
        If shape is not of positive whole numbers or a sigma not positive, if the image is of another kind than allowed,
        or if the kernel is too large for the GPU: hundreds of voxels along an axis.
    """
    kernels, taps = dog_kernels(shape, sigma, sigma2)
    out = _output(image, out)
    sum_separable(image, kernels, taps, out, clip=True)
    return out


def _output(image: Array, out: Array | None) -> Array:
    if image.ndim != 3:
        raise ValueError(f"image has {image.ndim} dimensions; a 3-d image (z, y, x) is needed")
    if out is None:
        return array_module().empty(image.shape, np.float32)
    if out.shape != image.shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}; float32 of {image.shape} is needed")
    return out
