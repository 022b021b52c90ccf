"""Illumination correction: divide every plane by the flat field, the image of an evenly bright object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cytolith.kernels.jit import jit

_DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class FlatField:
    """What a plane is corrected with: ``(plane - offset) * gain``. Made by `flat_field`, or by hand."""

    gain: NDArray[np.float32]
    """Factor for each voxel of a plane, (Y, X)."""

    offset: NDArray[np.float32] | None = None
    """Background to subtract first, (Y, X)."""

    def crop(self, y: slice, x: slice) -> FlatField:
        """Return the correction of a part of the plane, for a block."""
        offset = None if self.offset is None else np.ascontiguousarray(self.offset[y, x])
        return FlatField(np.ascontiguousarray(self.gain[y, x]), offset)


def correct_illumination(
    image: NDArray[Any],
    flatfield: ArrayLike,
    *,
    background: ArrayLike | None = None,
    scaling: float | Literal["mean", "max"] | None = "mean",
    axis: Literal["y", "x"] | None = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Divide every plane by the flat field: ``(I - B) / (F - B) * scaling``.

    Parameters
    ----------
    image
        Image (Z, Y, X) or plane (Y, X): uint8, uint16, int16 or float32; bool is taken as uint8, float64 as float32.
    flatfield, background, scaling, axis
        See `flat_field`.
    dtype
        None: the result is float32, with fractions. An integer dtype: rounded to the nearest whole number and clipped
        to its range.
    out
        C-contiguous array of the shape of the image and the dtype of the result, filled and returned.

    Returns
    -------
    NDArray[Any]
        Corrected image.

    Raises
    ------
    ValueError
        When the flat field or background does not fit the planes, or F - B is not positive somewhere.

    Notes
    -----
    ClearMap casts the flat field and the quotient to the dtype of the image: for integers both lose their fractions. A
    flat field of 0.5 ... 2 turned a constant 1000 into 0, 500 and 1000. Here nothing is rounded unless asked for.

    Examples
    --------
    >>> image = np.array([[[90, 120, 60]]], np.uint16)
    >>> correct_illumination(image, [3, 4, 2], axis="x")
    array([[[90., 90., 90.]]], dtype=float32)
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(f"image must be (Y, X) or (Z, Y, X), got shape {image.shape}")
    field = flat_field(flatfield, (image.shape[-2], image.shape[-1]), background, scaling, axis)
    target = np.dtype(np.float32 if dtype is None else dtype)
    if target == np.float32:
        return apply_flat_field(image, field, out=out)
    if target.kind not in "iu" or target.itemsize > 4:
        raise ValueError(f"dtype must be None, float32 or an integer dtype of at most 32 bits, got {target}")
    out = _checked_out(out, image.shape, target)
    bounds = np.iinfo(target)
    plane = np.empty(image.shape[-2:], np.float32)  # one at a time: float32 of all would be twice the memory
    for source, target_plane in zip(image.reshape(-1, *plane.shape), out.reshape(-1, *plane.shape), strict=True):
        apply_flat_field(source, field, out=plane)
        # float64, because it holds the bounds of all these dtypes exactly
        target_plane[...] = np.clip(np.rint(plane.astype(np.float64)), bounds.min, bounds.max)
    return out


def flat_field(
    flatfield: ArrayLike,
    plane_shape: tuple[int, int],
    background: ArrayLike | None = None,
    scaling: float | Literal["mean", "max"] | None = "mean",
    axis: Literal["y", "x"] | None = None,
) -> FlatField:
    """Prepare a correction once for all blocks of a volume.

    Parameters
    ----------
    flatfield
        F: (Y, X) as the planes, or a profile along one axis of them.
    plane_shape
        Extent of the planes, (Y, X).
    background
        B: what an image without light shows: a number, or (Y, X).
    scaling
        What the quotient is multiplied with: a number; "mean" or "max" of the flat field F (of F, not of F - B, as in
        ClearMap), which keeps the brightness of the image about as it was; None for the bare quotient.
    axis
        Axis along which a profile varies. Needed only where the planes are square.

    Returns
    -------
    FlatField
        ``gain = scaling / (F - B)`` and ``offset = B``.

    Raises
    ------
    ValueError
        When a shape does not fit, the axis of a profile is not clear, or F - B is zero, negative or not a number
        somewhere.
    """
    height, width = plane_shape
    flat = np.asarray(flatfield, np.float64)
    if flat.ndim == 1:
        flat = flatfield_from_line(flat, plane_shape, _axis_of_profile(flat.size, plane_shape, axis))
    if flat.shape != (height, width):
        raise ValueError(f"flatfield has the shape {flat.shape}, the planes have {(height, width)} (y, x)")
    below = None if background is None else np.asarray(background, np.float64)
    if below is not None and below.shape not in ((), (height, width)):
        raise ValueError(f"background has the shape {below.shape}, the planes have {(height, width)} (y, x)")
    signal = flat if below is None else flat - below
    bad = int(np.count_nonzero(~(np.isfinite(signal) & (signal > 0))))
    if bad:
        name = "flatfield" if below is None else "flatfield - background"
        raise ValueError(
            f"{name} is zero, negative or not finite at {bad} of {signal.size} voxels; "
            "replace them by their neighbours' values, or take a lower background"
        )
    if scaling == "mean":
        factor = float(flat.mean())
    elif scaling == "max":
        factor = float(flat.max())
    elif scaling is None:
        factor = 1.0
    elif isinstance(scaling, str | bool) or not (np.isfinite(scaling) and scaling > 0):
        raise ValueError(f"scaling must be 'mean', 'max', a positive number or None, got {scaling!r}")
    else:
        factor = float(scaling)
    gain = np.ascontiguousarray(factor / signal, np.float32)
    offset = None if below is None else np.ascontiguousarray(np.broadcast_to(below, flat.shape), np.float32)
    return FlatField(gain, offset)


def apply_flat_field(
    image: NDArray[Any], field: FlatField, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Correct every plane: ``(image - field.offset) * field.gain`` in float32.

    Parameters
    ----------
    image
        Image (Z, Y, X) or plane (Y, X), dtypes as in `correct_illumination`.
    field
        Correction of planes of that extent, see `flat_field` and `FlatField.crop`.
    out
        C-contiguous float32 array of the shape of the image, filled and returned. It may be the image itself.

    Raises
    ------
    ValueError
        When a shape or dtype does not fit.
    """
    image = np.asarray(image)
    dtype = np.dtype({"bool": "uint8", "float64": "float32"}.get(image.dtype.name, image.dtype.name))
    if image.ndim not in (2, 3) or dtype.name not in _DTYPES:
        raise ValueError(
            f"image must be (Y, X) or (Z, Y, X) of {', '.join(_DTYPES)}, got {image.dtype} of shape {image.shape}"
        )
    if field.gain.shape != image.shape[-2:]:
        raise ValueError(f"field has the shape {field.gain.shape}, the planes have {image.shape[-2:]} (y, x)")
    out = _checked_out(out, image.shape, np.dtype(np.float32))
    source = np.ascontiguousarray(image, dtype)
    if source.size:
        planes = source.reshape(-1, field.gain.size)
        gain = np.ascontiguousarray(field.gain, np.float32).ravel()
        if field.offset is None:
            _multiply(planes, gain, out.reshape(planes.shape))
        else:
            offset = np.ascontiguousarray(field.offset, np.float32).ravel()
            _subtract_and_multiply(planes, offset, gain, out.reshape(planes.shape))
    return out


def flatfield_from_line(line: ArrayLike, shape: tuple[int, int], axis: Literal["y", "x"]) -> NDArray[np.float64]:
    """Spread a profile over a plane, so that it varies along the named axis.

    Parameters
    ----------
    line
        Profile (n,).
    shape
        Extent of the plane (Y, X) in voxels.
    axis
        "y" or "x": the axis along which the profile varies; n is its extent.

    Returns
    -------
    ndarray
        float64, (Y, X).

    Raises
    ------
    ValueError
        The profile is not as long as that axis, or the axis is another one.

    Notes
    -----
    ``flatfield_from_line`` of ClearMap takes square planes only.
    """
    profile = np.asarray(line, np.float64)
    if axis not in ("y", "x"):
        raise ValueError(f"axis must be 'y' or 'x', got {axis!r}")
    extent = shape[0 if axis == "y" else 1]
    if profile.shape != (extent,):
        raise ValueError(f"line has the shape {profile.shape}, the planes have {extent} voxels along {axis}")
    along = profile[:, np.newaxis] if axis == "y" else profile
    return np.ascontiguousarray(np.broadcast_to(along, shape))


def flatfield_line_from_regression(
    data: ArrayLike,
    positions: ArrayLike | None = None,
    method: Literal["polynomial", "gaussian"] = "polynomial",
    *,
    reverse: bool = False,
    at: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Fit a smooth profile to a measured one.

    Parameters
    ----------
    data
        Measured intensities: one profile (n,), or m of them, (n, m), of which the mean is taken.
    positions
        Positions of the n samples; None for 0 ... n - 1.
    method
        "polynomial": ``a + b d^2 + c d^4 + e d^6``; "gaussian": ``a exp(-d^2 / (2 s)) + b``; d is the distance to a
        centre that is fitted too.
    reverse
        Return the fitted profile from its end to its start, for samples taken against the direction of the axis.
    at
        Positions where the fit is evaluated; None for those of the samples.

    Returns
    -------
    NDArray[np.float64]
        The fitted profile, one value per position.

    Raises
    ------
    ValueError
        When the samples are too few for the method (5, or 4 for a Gaussian), not finite, or not as many as positions.

    Notes
    -----
    As ClearMap's function of this name, with these differences: a 1-d input is a profile (there, it is averaged to one
    number); positions are always given as such (there, 'source' takes the first column and loses the last); ``reverse``
    works; positions and values are scaled before the fit, and the linear part is solved exactly for several centres to
    start from the best, so that the result does not depend on the units.
    """
    values = np.asarray(data, np.float64)
    values = values.mean(axis=1) if values.ndim == 2 and values.shape[1] else values
    x = np.arange(values.size, dtype=np.float64) if positions is None else np.asarray(positions, np.float64)
    if values.ndim != 1 or x.shape != values.shape:
        raise ValueError(f"data must be (n,) or (n, m) with n positions, got {np.shape(data)} and {x.shape}")
    if method not in ("polynomial", "gaussian"):
        raise ValueError(f"method must be 'polynomial' or 'gaussian', got {method!r}")
    unknowns = 5 if method == "polynomial" else 4
    if len(values) < unknowns or not (np.isfinite(values).all() and np.isfinite(x).all()):
        raise ValueError(f"data must hold at least {unknowns} finite samples for a {method}, got {values.size}")
    centre, half = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2 or 1.0
    height = float(np.abs(values).max()) or 1.0
    fit = _fit_polynomial if method == "polynomial" else _fit_gaussian
    curve = fit((x - centre) / half, values / height)
    wanted = x if at is None else np.asarray(at, np.float64)
    line = curve((wanted - centre) / half) * height
    return line[::-1].copy() if reverse else line


_Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _fit_polynomial(u: NDArray[np.float64], values: NDArray[np.float64]) -> _Curve:
    def shapes(x: NDArray[np.float64], nonlinear: NDArray[np.float64]) -> NDArray[np.float64]:
        square = (x - nonlinear[0]) ** 2
        return np.stack([np.ones_like(x), square, square**2, square**3], axis=1)

    return _separable_fit(shapes, u, values, [[centre] for centre in np.linspace(-1, 1, 41)])


def _fit_gaussian(u: NDArray[np.float64], values: NDArray[np.float64]) -> _Curve:
    def shapes(x: NDArray[np.float64], nonlinear: NDArray[np.float64]) -> NDArray[np.float64]:
        centre, log_sigma = nonlinear
        return np.stack([np.ones_like(x), np.exp(-0.5 * ((x - centre) / np.exp(log_sigma)) ** 2)], axis=1)

    starts = [[centre, np.log(sigma)] for centre in np.linspace(-1, 1, 9) for sigma in (0.1, 0.2, 0.4, 0.8, 1.6)]
    return _separable_fit(shapes, u, values, starts)


def _separable_fit(
    shapes: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    u: NDArray[np.float64],
    values: NDArray[np.float64],
    starts: list[list[float]],
) -> _Curve:
    """Least squares of ``shapes(u, nonlinear) @ linear``; the linear part is solved for every nonlinear one."""
    from scipy.optimize import least_squares  # only here: a fit is rare and the import slow

    def solve(nonlinear: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.lstsq(shapes(u, nonlinear), values, rcond=None)[0], np.float64)

    def residual(nonlinear: NDArray[np.float64]) -> NDArray[np.float64]:
        return shapes(u, nonlinear) @ solve(nonlinear) - values

    def cost(nonlinear: NDArray[np.float64]) -> float:
        return float(np.sum(residual(nonlinear) ** 2))

    def refined(start: NDArray[np.float64]) -> NDArray[np.float64]:
        def residual_from_start(change: NDArray[np.float64]) -> NDArray[np.float64]:
            return residual(start + change)

        # a change, as the fit takes the size of what it begins with for the size of its first step
        return np.asarray(start + least_squares(residual_from_start, np.zeros_like(start), xtol=1e-12).x, np.float64)

    promising = sorted((np.array(start) for start in starts), key=cost)[:4]
    nonlinear = min((refined(start) for start in promising), key=cost)
    linear = solve(nonlinear)
    return lambda x: shapes(x, nonlinear) @ linear


def _axis_of_profile(length: int, plane_shape: tuple[int, int], axis: Literal["y", "x"] | None) -> Literal["y", "x"]:
    if axis is not None:
        return axis
    fits: list[Literal["y", "x"]] = []
    if plane_shape[0] == length:
        fits.append("y")
    if plane_shape[1] == length:
        fits.append("x")
    if len(fits) != 1:
        why = "both axes of" if fits else "no axis of"
        raise ValueError(f"flatfield, a line of {length} values, fits {why} planes of {plane_shape} (y, x); give axis")
    return fits[0]


def _checked_out(out: NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous {dtype} of shape {shape}, got {out.dtype} of shape {out.shape}")
    return out


_CHUNK = 1 << 15
"""Voxels of a plane that are corrected in all planes before the next: their gain stays in the cache."""


@jit
def _multiply(planes: NDArray[Any], gain: NDArray[Any], out: NDArray[Any]) -> None:
    for start in range(0, gain.size, _CHUNK):
        stop = min(start + _CHUNK, gain.size)
        for z in range(planes.shape[0]):
            _multiply_run(planes[z, start:stop], gain[start:stop], out[z, start:stop])


@jit
def _subtract_and_multiply(planes: NDArray[Any], offset: NDArray[Any], gain: NDArray[Any], out: NDArray[Any]) -> None:
    for start in range(0, gain.size, _CHUNK):
        stop = min(start + _CHUNK, gain.size)
        for z in range(planes.shape[0]):
            _subtract_and_multiply_run(planes[z, start:stop], offset[start:stop], gain[start:stop], out[z, start:stop])


@jit
def _multiply_run(run: NDArray[Any], gain: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(run.size):
        out[i] = np.float32(run[i]) * gain[i]


@jit
def _subtract_and_multiply_run(run: NDArray[Any], offset: NDArray[Any], gain: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(run.size):
        out[i] = (np.float32(run[i]) - offset[i]) * gain[i]
