"""Arrays and figures as data that a page carries within itself."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUALITY = 82
"""Of lossy WebP: about a fifth of the bytes of PNG on noisy images, and no block that an eye finds."""


def image_uri(pixels: NDArray[np.uint8], *, lossless: bool = False) -> str:
    """Address of an image that holds the image itself, as WebP.

    Parameters
    ----------
    pixels
        uint8, (rows, columns) grey, (rows, columns, 3) colour or (rows, columns, 4) colour and opacity.
    lossless
        Keep every value: for thin lines.

    Returns
    -------
    str
        ``data:image/webp;base64,...``
    """
    from matplotlib.image import imsave

    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
    file = io.BytesIO()
    options = {"lossless": True} if lossless else {"quality": QUALITY, "method": 4}
    imsave(file, np.ascontiguousarray(pixels), format="webp", pil_kwargs=options)
    return _uri("webp", file.getvalue())


def figure_uri(figure: Figure, *, transparent: bool = False, dots: int | None = None) -> str:
    """The same of a figure: as SVG, or as WebP of so many dots an inch."""
    from matplotlib import rc_context

    file = io.BytesIO()
    if dots is None:
        with rc_context({"svg.hashsalt": "cytolith"}):  # the same figure gives the same bytes
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=transparent)
        return _uri("svg+xml", file.getvalue())
    figure.savefig(file, format="webp", dpi=dots, transparent=transparent, pil_kwargs={"quality": QUALITY + 8})
    return _uri("webp", file.getvalue())


def stretch(image: NDArray[Any], low: float, high: float, gamma: float = 1.0) -> NDArray[np.uint8]:
    """Grey values between two limits as 0 ... 255; what lies beyond them gets the nearer end.

    A `gamma` below 1 makes what is dark brighter.
    """
    shares = np.clip(np.nan_to_num((image.astype(np.float32) - low) / max(high - low, 1e-30)), 0, 1)
    grey: NDArray[np.uint8] = np.rint(255 * shares**gamma).astype(np.uint8)
    return grey


def contrast(image: NDArray[Any], tails: tuple[float, float] = (0.5, 99.5)) -> tuple[float, float]:
    """Grey values that are shown as black and as white: percentiles of the image."""
    finite = image[np.isfinite(image)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, tails))
    return (low, high) if high > low else (float(finite.min()), max(float(finite.max()), float(finite.min()) + 1))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
