"""Cells as a transparent layer over a projection: circles where they are few, shading where they are many."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

INK = (255, 140, 40)
"""Orange: seen on grey, also by the colour-blind."""
MOST_CIRCLES = 20_000
_COVERED = 0.2
"""Share of a layer's pixels from which circles would hide what is below them."""
_FINEST, _COARSEST = 4, 24  # pixels of a bin of the shading
_PER_BIN = 2.0
_SMALLEST = 4.0  # radius of circles that would else be too dense


def mark_cells(places: NDArray[np.float64], shape: tuple[int, int], radius: float) -> tuple[NDArray[np.uint8], str]:
    """Layer with a mark for each cell.

    Parameters
    ----------
    places
        (n, 2): row and column of each cell as shares of the extent, 0 ... 1.
    shape
        Pixels of the layer, (rows, columns).
    radius
        Of a circle, in pixels; smaller where circles would hide the picture.

    Returns
    -------
    layer
        uint8 (rows, columns, 4): colour and opacity.
    kind
        ``"circles"`` or ``"density"``.
    """
    inside = ((places >= 0) & (places <= 1)).all(axis=1)
    places = places[inside]
    if len(places) <= MOST_CIRCLES:
        for smaller in (radius, min(radius, _SMALLEST)):
            if len(places) * 2 * math.pi * smaller * 1.6 <= _COVERED * shape[0] * shape[1]:
                return _circles(places, shape, smaller), "circles"
    return _shading(places, shape), "density"


def _circles(places: NDArray[np.float64], shape: tuple[int, int], radius: float) -> NDArray[np.uint8]:
    """Circles with smooth edges: opacity falls off over a pixel, and where two meet the higher one stays."""
    opacity = np.zeros(shape, np.float32)
    reach = math.ceil(radius) + 2
    centres = places * np.array(shape) - 0.5
    whole = np.rint(centres).astype(np.int64)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            pixels = whole + np.array((dy, dx))
            seen = ((pixels >= 0) & (pixels < shape)).all(axis=1)
            away = np.hypot(*(pixels - centres)[seen].T)
            strength = np.clip(1.3 - np.abs(away - radius), 0, 1).astype(np.float32)
            np.maximum.at(opacity, tuple(pixels[seen].T), strength)
    return _coloured(opacity)


def _shading(places: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = math.prod(shape)
    edge = min(max(math.sqrt(_PER_BIN * pixels / max(len(places), 1)), _FINEST), _COARSEST)
    bins = tuple(max(round(extent / edge), 1) for extent in shape)
    counts, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=bins, range=((0, 1), (0, 1)))
    counts = ndimage.gaussian_filter(counts, 1.0)
    occupied = counts[counts > 1e-3]
    if not occupied.size:
        return np.zeros((*shape, 4), np.uint8)
    strength = np.clip(np.sqrt(counts / np.percentile(occupied, 99)), 0, 1) * 0.6
    rows, columns = (np.arange(extent) * count // extent for extent, count in zip(shape, bins, strict=True))
    return _coloured(strength[rows[:, np.newaxis], columns].astype(np.float32))


def _coloured(opacity: NDArray[np.float32]) -> NDArray[np.uint8]:
    layer = np.empty((*opacity.shape, 4), np.uint8)
    layer[..., :3] = INK
    layer[..., 3] = np.rint(opacity * 255).astype(np.uint8)
    return layer
