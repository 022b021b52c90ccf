"""The next level of a pyramid: an image with half the voxels along some axes.

A voxel of the smaller image stands for up to 2 x 2 x 2 voxels of the larger one, those at ``2 i`` and ``2 i + 1`` along
a halved axis. Where an extent is odd, the last one stands for what there is. So any cut of the image at even places
gives the same voxels.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.kernels.jit import jit

_SUMS = {1: np.int32, 2: np.int32, 4: np.int64}
"""Type that holds the sum of 8 integers of so many bytes."""


def halved_shape(shape: Shape, factors: Shape) -> Shape:
    """Extent of an image after halving it along the axes whose factor is 2: odd extents are rounded up."""
    z, y, x = (-(-extent // factor) for extent, factor in zip(shape, factors, strict=True))
    return z, y, x


def downsample_mean(image: NDArray[Any], factors: Shape = (2, 2, 2), out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Halve an image; each voxel is the mean of those that it stands for.

    Parameters
    ----------
    image : ndarray
        (z, y, x), integers or float32 or float64, in native byte order.
    factors : tuple of int
        1 or 2 for each axis, (z, y, x).
    out : ndarray, optional
        C-contiguous array of the dtype of the image and the halved shape; it is filled and returned.

    Returns
    -------
    ndarray
        Of the dtype of the image. Means of integers are exact and rounded to the nearest, halves to the even one, so
        that levels have no bias. Floating point is summed in double precision; NaN stays NaN.

    Raises
    ------
    ValueError
        An argument has another shape or dtype.

    Examples
    --------
    >>> downsample_mean(np.array([[[1, 2, 7]]], np.uint8), (1, 1, 2))
    array([[[2, 7]]], dtype=uint8)
    """
    given, out = _checked(image, factors, out)
    kind, size = given.dtype.kind, given.dtype.itemsize
    if kind not in "iuf" or given.dtype == np.float16:
        raise ValueError(f"image has dtype {given.dtype}; integers, float32 or float64 are needed")
    if kind == "f":
        _mean_float(given, *factors, out, np.empty(given.shape[2]))
    elif size in _SUMS:
        _mean_int(given, *factors, out, np.empty(given.shape[2], _SUMS[size]))
    else:
        _mean_long(given, factors, out)
    return out


def downsample_labels(image: NDArray[Any], factors: Shape = (2, 2, 2), out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Halve an image of labels; each voxel has the label that most of those it stands for have.

    Of labels that are equally frequent it is the one that comes first in the order of (z, y, x).

    Takes, returns and raises what :func:`downsample_mean` does.

    Examples
    --------
    >>> downsample_labels(np.array([[[0, 5, 5, 0], [5, 0, 5, 5]]], np.uint32), (1, 2, 2))
    array([[[0, 5]]], dtype=uint32)
    """
    given, out = _checked(image, factors, out)
    _mode(given, *factors, out, np.empty(8, given.dtype))
    return out


def _checked(image: NDArray[Any], factors: Shape, out: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    if image.ndim != 3 or any(factor not in (1, 2) for factor in factors):
        raise ValueError(f"image of shape {image.shape} and factors {factors}; three axes and 1 or 2 each are needed")
    shape = halved_shape((image.shape[0], image.shape[1], image.shape[2]), factors)
    if out is None:
        out = np.empty(shape, image.dtype)
    elif out.shape != shape or out.dtype != image.dtype or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}; C-contiguous {image.dtype} of {shape} is needed")
    return np.ascontiguousarray(image), out


@jit
def _mean_int(
    image: NDArray[Any], fz: int, fy: int, fx: int, out: NDArray[Any], sums: NDArray[np.signedinteger[Any]]
) -> None:
    Z, Y, X = image.shape
    zero, one = sums.dtype.type(0), sums.dtype.type(1)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            sums[:] = zero
            shift = zero
            rows = 0
            for zz in range(z * fz, min(z * fz + fz, Z)):
                for yy in range(y * fy, min(y * fy + fy, Y)):
                    row = image[zz, yy]
                    for x in range(X):
                        sums[x] += sums.dtype.type(row[x])
                    rows += 1
            if rows > 1:
                shift = one
            if rows > 2:
                shift = sums.dtype.type(2)
            target = out[z, y]
            if fx == 1:
                _round(sums, X, shift, target)
                continue
            pairs = X // 2
            if X % 2:
                last = sums[X - 1]
            for x in range(pairs):
                sums[x] = sums[2 * x] + sums[2 * x + 1]
            _round(sums, pairs, sums.dtype.type(shift + one), target)
            if X % 2:
                sums[0] = last
                _round(sums, 1, shift, target[pairs:])


@jit
def _round(sums: NDArray[Any], count: int, shift: Any, out: NDArray[Any]) -> None:
    """Sums of 2 ** shift numbers as their means, halves to the even number."""
    if shift == 0:
        for x in range(count):
            out[x] = sums[x]
        return
    one = sums.dtype.type(1)
    bias = sums.dtype.type((one << (shift - one)) - one)
    for x in range(count):
        total = sums[x]
        out[x] = (total + bias + ((total >> shift) & one)) >> shift


@jit
def _mean_float(
    image: NDArray[np.floating[Any]],
    fz: int,
    fy: int,
    fx: int,
    out: NDArray[np.floating[Any]],
    sums: NDArray[np.float64],
) -> None:
    Z, Y, X = image.shape
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            sums[:] = 0.0
            rows = 0
            for zz in range(z * fz, min(z * fz + fz, Z)):
                for yy in range(y * fy, min(y * fy + fy, Y)):
                    row = image[zz, yy]
                    for x in range(X):
                        sums[x] += row[x]
                    rows += 1
            share = 1.0 / rows  # a power of 2
            target = out[z, y]
            if fx == 1:
                for x in range(X):
                    target[x] = sums[x] * share
                continue
            for x in range(X // 2):
                target[x] = (sums[2 * x] + sums[2 * x + 1]) * (0.5 * share)
            if X % 2:
                target[X // 2] = sums[X - 1] * share


def _mean_long(image: NDArray[Any], factors: Shape, out: NDArray[Any]) -> None:
    """Means of 64-bit integers, whose sums would overflow: quotients and remainders are summed apart."""
    Z, Y, X = (range(0, 2, 1) if factor == 2 else range(1) for factor in factors)
    counts = np.ones((1, 1, 1), out.dtype)
    for axis, factor in enumerate(factors):
        if factor == 2:
            line = np.full(out.shape[axis], 2, out.dtype)
            line[-1] = 1 if image.shape[axis] % 2 else 2
            counts = counts * line.reshape([-1 if each == axis else 1 for each in range(3)])
    quotients, remainders = np.zeros(out.shape, out.dtype), np.zeros(out.shape, out.dtype)
    for offset in product(Z, Y, X):
        part = image[tuple(slice(first, None, factor) for first, factor in zip(offset, factors, strict=True))]
        box = tuple(slice(0, extent) for extent in part.shape)
        share = np.broadcast_to(counts, out.shape)[box]
        quotients[box] += part // share
        remainders[box] += part % share
    quotients += remainders // counts
    remainders = 2 * (remainders % counts)
    up = (remainders > counts) | ((remainders == counts) & (quotients % 2 == 1))
    np.add(quotients, up.astype(out.dtype), out=out)


@jit
def _mode(image: NDArray[Any], fz: int, fy: int, fx: int, out: NDArray[Any], values: NDArray[Any]) -> None:
    Z, Y, X = image.shape
    for z in range(out.shape[0]):
        z0, z1 = z * fz, min(z * fz + fz, Z) - 1
        for y in range(out.shape[1]):
            y0, y1 = y * fy, min(y * fy + fy, Y) - 1
            top, near, low, far = image[z0, y0], image[z0, y1], image[z1, y0], image[z1, y1]
            for x in range(out.shape[2]):
                x0, x1 = x * fx, min(x * fx + fx, X) - 1
                first = top[x0]
                out[z, y, x] = first
                # nearly all voxels lie inside of a label or of the background
                if not (
                    (top[x1] == first)
                    & (near[x0] == first)
                    & (near[x1] == first)
                    & (low[x0] == first)
                    & (low[x1] == first)
                    & (far[x0] == first)
                    & (far[x1] == first)
                ):
                    out[z, y, x] = _most_frequent(image[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1], values)


@jit
def _most_frequent(box: NDArray[Any], values: NDArray[Any]) -> Any:
    count = 0
    for z in range(box.shape[0]):
        for y in range(box.shape[1]):
            for x in range(box.shape[2]):
                values[count] = box[z, y, x]
                count += 1
    most, found = 0, values[0]
    for a in range(count):
        same = 0
        for b in range(count):
            same += values[a] == values[b]
        if same > most:  # of equally frequent ones the first stays
            most, found = same, values[a]
    return found
