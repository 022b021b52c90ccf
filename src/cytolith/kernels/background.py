"""Background removal: the grey opening of every plane, and the image less its opening."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.footprints import footprint as named_footprint
from cytolith.kernels.jit import jit
from cytolith.kernels.opening_plan import BATCH, LINE, Plan, mask_bounds, plan_opening

_DTYPES = ("uint8", "uint16", "int16", "float32")
_OPEN, _SUBTRACT, _SMALLER = range(3)
"""What is made of an opening: itself, the image less it, the smaller of that and what is there."""


def remove_background(
    image: NDArray[Any],
    shape: int | Sequence[int],
    form: str = "disk",
    *,
    reflect_footprint: bool = True,
    smaller: bool = False,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Subtract from every plane its grey opening: what is narrower than the footprint stays, the background goes.

    The result is ``I - min(I, opening(I))``. It is never negative and, for unsigned and floating-point images, exact;
    for int16 a difference above 32767 becomes 32767.

    Parameters
    ----------
    image
        Image (Z, Y, X) or plane (Y, X): uint8, uint16, int16 or float32; bool is taken as uint8, float64 as float32.
        It should not contain NaN, which compare false with everything and spread by accident.
    shape
        Extent of the footprint in voxels, (y, x), or one number for both. Larger than the cells.
    form
        "disk" or "cube", see `cytolith.kernels.footprints.footprint`.
    reflect_footprint
        See `opening`.
    smaller
        `out` receives the smaller of what it holds and the result: what is above the larger of two backgrounds.
    out
        C-contiguous array of the shape of the image and the dtype of the result, filled and returned.

    Returns
    -------
    NDArray[Any]
        Same shape and dtype as the image.

    Raises
    ------
    ValueError
        For a dtype, shape, form or out that do not fit, and for `smaller` without `out`.

    Notes
    -----
    ClearMap's ``remove_background`` is this with ``reflect_footprint=False``. Both are equal for odd extents.

    Examples
    --------
    >>> image = np.full((1, 9, 9), 100, np.uint16)
    >>> image[0, 4, 4] = 250
    >>> remove_background(image, 3)[0, 4, 3:6]
    array([  0, 150,   0], dtype=uint16)
    """
    if smaller and out is None:
        raise ValueError("smaller=True needs out: the result is compared with what it holds")
    mask = named_footprint(form, plane_shape(shape))
    return _opening(image, mask, reflect_footprint, _SMALLER if smaller else _SUBTRACT, out)


def opening(
    image: NDArray[Any],
    footprint: NDArray[np.bool_],
    *,
    reflect_footprint: bool = True,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Open every plane with a flat footprint: the upper envelope of all footprints that fit under the image.

    An erosion (minimum over the footprint) and then a dilation (maximum over the reflected footprint). Voxels outside
    the plane are ignored in both.

    Parameters
    ----------
    image
        Image (Z, Y, X) or plane (Y, X), dtypes as in `remove_background`.
    footprint
        2-d mask (y, x) of any form with at least one voxel. Its anchor is the voxel n // 2 of each axis.
    reflect_footprint
        True: the opening of the textbooks, nowhere above the image. False: the dilation uses the footprint as it is,
        as `cv2.morphologyEx` and with it ClearMap do. For a footprint that is symmetric about its anchor (odd extents)
        both are the same; for a disk or box of even extent the second is the first shifted by one voxel in y and x.
    out
        C-contiguous array of the shape of the image and the dtype of the result, filled and returned.

    Returns
    -------
    NDArray[Any]
        Same shape and dtype as the image. Where an erosion or dilation sees nothing but outside (possible only for
        footprints without their anchor) it gives the largest or smallest value of the dtype, as OpenCV's; for float32
        the infinite ones.

    Raises
    ------
    ValueError
        For a dtype, footprint or out that do not fit.

    Notes
    -----
    The footprint is taken apart into pairs of points (`two_point_factors`), two pairs a sweep over the rows; what does
    not come apart is done by its chords (Urbach and Wilkinson, Efficient 2-D grayscale morphological transformations
    with arbitrary flat structuring elements, IEEE TIP 17, 1-8, 2008). So the time grows with the number of directions
    of the outline, not with the number of voxels. Minima and maxima of given values: nothing is rounded.
    """
    mask = np.asarray(footprint)
    if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(
            f"footprint must be a 2-d bool mask with at least one voxel, got {mask.dtype} of shape {mask.shape}"
        )
    return _opening(image, mask, reflect_footprint, _OPEN, out)


def background_reach(
    shape: int | Sequence[int], form: str = "disk", *, reflect_footprint: bool = True
) -> tuple[int, int, int]:
    """Return how far, in voxels (z, y, x), the result of `remove_background` at a voxel depends on the image.

    In the opening, an erosion and a dilation of extent n, these are n - 1 voxels on either side; n for even extents
    with ``reflect_footprint=False``. Nothing beyond has any influence; something at that distance can have.
    """
    below_y, above_y, below_x, above_x = mask_bounds(named_footprint(form, plane_shape(shape)))
    if reflect_footprint:
        return 0, above_y - below_y, above_x - below_x
    return 0, 2 * max(-below_y, above_y), 2 * max(-below_x, above_x)


def plane_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """Two extents (y, x) of a footprint from one or two; ValueError for any other number of them."""
    extents = tuple(shape) if isinstance(shape, Sequence | np.ndarray) else (shape, shape)
    if len(extents) != 2:
        raise ValueError(f"shape must be a number of voxels or two of them, (y, x), got {shape!r}")
    return extents


def _opening(
    image: NDArray[Any], mask: NDArray[np.bool_], reflect: bool, ending: int, out: NDArray[Any] | None
) -> NDArray[Any]:
    image = np.asarray(image)
    dtype = np.dtype({"bool": "uint8", "float64": "float32"}.get(image.dtype.name, image.dtype.name))
    if image.ndim not in (2, 3) or dtype.name not in _DTYPES:
        raise ValueError(
            f"image must be (Y, X) or (Z, Y, X) of {', '.join(_DTYPES)}, got {image.dtype} of shape {image.shape}"
        )
    if out is None:
        out = np.empty(image.shape, dtype)
    elif out.shape != image.shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be C-contiguous {dtype} of shape {image.shape}, got {out.dtype} of shape {out.shape}"
        )
    source = np.ascontiguousarray(image, dtype)
    if np.may_share_memory(source, out):
        source = source.copy()
    if source.size == 0:
        return out
    planes = source.reshape(-1, *source.shape[-2:])
    integer = dtype.kind != "f"
    top = np.iinfo(dtype).max if integer else np.inf
    # value -> pivot - value turns the order round without loss; for float -0.0, which makes it a change of sign
    pivot = top + np.iinfo(dtype).min if integer else -0.0
    plan = plan_opening(mask.tobytes(), mask.shape, reflect, planes.shape[1], planes.shape[2], dtype.itemsize)
    _open_planes(
        planes,
        out.reshape(planes.shape),
        _aligned(plan.scratch_size, dtype.type(top)),
        plan,
        dtype.type(top),
        dtype.type(pivot),
        ending,
        dtype.kind == "i",
    )
    return out


def _aligned(size: int, value: np.generic) -> NDArray[Any]:
    """Return an array filled with a value that begins at a cache line."""
    line = LINE // value.itemsize
    array = np.full(size + line, value)
    offset = -array.ctypes.data % LINE // value.itemsize
    return array[offset : offset + size]


@jit
def _open_planes(
    planes: NDArray[Any],
    opened: NDArray[Any],
    scratch: NDArray[Any],
    plan: Plan,
    top: Any,
    pivot: Any,
    ending: int,
    signed: bool,
) -> None:
    """Open every plane into `opened`, or put there what its ending says. Scratch is filled with `top`."""
    n_planes, height, width = planes.shape
    length = BATCH * plan.stride
    for z in range(n_planes):
        for first in range(plan.first_row, plan.last_row + 1, BATCH):
            for i in range(BATCH):
                y = first + i
                fed = plan.erosion_source + i * plan.stride
                if 0 <= y < height:
                    _copy(scratch[fed : fed + width], planes[z, y])
                else:
                    _fill(scratch[fed : fed + width], top)
            _minima(scratch, plan.erosion, length)
            for i in range(BATCH):
                y = first + i - plan.erosion_lag
                eroded = plan.erosion_result + i * plan.stride
                fed = plan.dilation_source + i * plan.stride
                if 0 <= y < height:
                    _turn(scratch[fed : fed + width], scratch[eroded : eroded + width], pivot)
                else:
                    _fill(scratch[fed : fed + width], top)
            _minima(scratch, plan.dilation, length)
            for i in range(BATCH):
                y = first + i - plan.opening_lag
                dilated = plan.dilation_result + i * plan.stride
                if not 0 <= y < height:
                    continue
                if ending == _SMALLER:
                    _lower(opened[z, y], planes[z, y], scratch[dilated : dilated + width], pivot, top)
                    continue
                _turn(opened[z, y], scratch[dilated : dilated + width], pivot)
                if ending == _SUBTRACT:
                    _subtract_from(planes[z, y], opened[z, y])
                    if signed:
                        _undo_overflow(opened[z, y], top)
            for k in range(plan.moves.shape[0]):
                target, source, n = plan.moves[k]
                _copy(scratch[target : target + n], scratch[source : source + n])


@jit
def _minima(scratch: NDArray[Any], steps: NDArray[Any], n: int) -> None:
    for k in range(steps.shape[0]):
        narrow, t, a, b, c, d = steps[k]
        if narrow:
            _narrow4(scratch[t : t + n], scratch[a : a + n], scratch[b : b + n], scratch[c : c + n], scratch[d : d + n])
        elif c == b:  # padded
            _min2(scratch[t : t + n], scratch[a : a + n], scratch[b : b + n])
        else:
            _min4(scratch[t : t + n], scratch[a : a + n], scratch[b : b + n], scratch[c : c + n], scratch[d : d + n])


@jit
def _min2(target: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> None:
    for i in range(target.size):
        target[i] = a[i] if a[i] < b[i] else b[i]


@jit
def _min4(target: NDArray[Any], a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]) -> None:
    for i in range(target.size):
        p = a[i] if a[i] < b[i] else b[i]
        q = c[i] if c[i] < d[i] else d[i]
        target[i] = p if p < q else q


@jit
def _narrow4(target: NDArray[Any], a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]) -> None:
    for i in range(target.size):
        p = a[i] if a[i] < b[i] else b[i]
        q = c[i] if c[i] < d[i] else d[i]
        p = p if p < q else q
        target[i] = p if p < target[i] else target[i]


@jit
def _copy(target: NDArray[Any], source: NDArray[Any]) -> None:
    for i in range(target.size):
        target[i] = source[i]


@jit
def _fill(target: NDArray[Any], value: Any) -> None:
    for i in range(target.size):
        target[i] = value


@jit
def _turn(target: NDArray[Any], source: NDArray[Any], pivot: Any) -> None:
    for i in range(target.size):
        target[i] = pivot - source[i]


@jit
def _subtract_from(image: NDArray[Any], opened: NDArray[Any]) -> None:
    for i in range(opened.size):
        below = opened[i] if opened[i] < image[i] else image[i]
        opened[i] = image[i] - below


@jit
def _lower(target: NDArray[Any], image: NDArray[Any], turned: NDArray[Any], pivot: Any, top: Any) -> None:
    for i in range(target.size):
        opened = pivot - turned[i]
        left = image[i] - (opened if opened < image[i] else image[i])
        left = left if left < top else top
        target[i] = left if left < target[i] else target[i]


@jit
def _undo_overflow(difference: NDArray[Any], top: Any) -> None:
    for i in range(difference.size):
        difference[i] = difference[i] if difference[i] >= 0 else top
