"""Pictures of maps (PNG): colours, colour bar, scales and a title, large enough to read and small enough to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cytolith.io.files import output_error

# Viridis at nine equal steps: perceptually uniform, and ordered in print and for the colour-blind.
_ANCHORS = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
    (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip
_MISSING = (190, 190, 190)
_INK = (30, 30, 30)
_WIDEST, _HIGHEST, _THINNEST = 1000, 900, 40  # pixels of the map within the picture
_LEFT, _TOP, _RIGHT, _BOTTOM = 120, 80, 220, 110  # pixels around it
_NARROWEST = 900  # pixels of the picture
_BAR_WIDTH, _BAR_HEIGHT, _GAP = 28, 300, 40
_TEXT, _TITLE, _SMALL = 20, 26, 18
_DIGITS = 6  # of numbers at scales; with more they are written as 1e+06
_UM_AT_MOST = 5000  # from here on scales are in mm
_TAIL = (1.0, 99.0)  # percentiles that the colours span where a few cells lie far out


def reduce_map(strips: Iterable[NDArray[Any]], shape: tuple[int, int], longest: int = 1000) -> NDArray[np.float64]:
    """Reduce a map to a size for pictures by the means of square blocks of cells.

    Parameters
    ----------
    strips : iterable of ndarray
        Rows of the map from top to bottom, (rows, columns) each; NaN is no value.
    shape : tuple of int
        Extent of the whole map, (rows, columns).
    longest : int
        Cells that the longer side of the result has at most.

    Returns
    -------
    ndarray of float64
        Means over the values of each block, NaN where there is none; blocks at the far edges may be cut. A map that is
        small enough comes back as it is.
    """
    rows, columns = shape
    edge = max(-(-max(shape) // longest), 1)
    sums = np.zeros((-(-rows // edge), -(-columns // edge)))
    counts = np.zeros(sums.shape, np.int64)
    lefts = np.arange(0, columns, edge)
    row = 0
    for strip in strips:
        places = np.arange(row, row + len(strip)) // edge
        valid = np.isfinite(strip)
        np.add.at(sums, places, np.add.reduceat(np.where(valid, strip, 0.0), lefts, axis=1))
        np.add.at(counts, places, np.add.reduceat(valid, lefts, axis=1, dtype=np.int64))
        row += len(strip)
    if row != rows:
        raise ValueError(f"the strips hold {row} rows of a map of {shape}")
    sums[counts == 0] = np.nan
    return sums / np.maximum(counts, 1)


@dataclass(frozen=True)
class _Limits:
    """Values that the ends of the colour map stand for."""

    low: float
    high: float
    clipped: bool

    @property
    def constant(self) -> bool:
        return self.high - self.low <= 1e-9 * max(abs(self.low), abs(self.high))

    def shares(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far values are on the way from the lower limit to the higher, 0 to 1."""
        if self.constant:
            return np.full(values.shape, 0.5)
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)


def write_map_picture(
    path: Path,
    image: NDArray[Any],
    *,
    title: str,
    label: str,
    cell_size: tuple[float, float] | None = None,
    full_shape: tuple[int, int] | None = None,
    axes: tuple[str, str] = ("rows", "columns"),
) -> None:
    """Draw a map as a PNG of 900 to 1 400 pixels across.

    Parameters
    ----------
    path : Path
        File to write; an existing one is replaced. It is written to directly: give a name aside and rename it when all
        is well.
    image : ndarray of shape (rows, columns)
        The map, or what :func:`reduce_map` made of it. NaN is drawn in grey.
    title : str
        Above the map; shortened where it does not fit.
    label : str
        Of the colour bar: quantity and unit, ``"aperture (voxels)"``.
    cell_size : tuple of float, optional
        Edges (row, column) of a cell of the full map in micrometres; the scales are then in um or mm, and cells have
        their true proportions. Without it the scales count cells.
    full_shape : tuple of int, optional
        Extent (rows, columns) of the map that `image` was reduced from; default: the image's own.
    axes : tuple of str
        Names of the scales down the rows and along the columns.

    Raises
    ------
    OutputError
        The file cannot be written; says so when the disk is full.

    Notes
    -----
    Colours span the values, or the 1st to 99th percentile where all values span more than twice that; a line below the
    map then says so.
    """
    values = np.asarray(image, np.float64)
    cells = full_shape or (values.shape[0], values.shape[1])
    extents, unit = _extents(cells, cell_size)
    height, width = _drawn_size(values.shape, extents)
    limits = _limits(values)
    down, along = (-(-whole // drawn) for whole, drawn in zip(cells, values.shape, strict=True))
    notes = {
        f"pixels are means of {down} x {along} cells": max(down, along) > 1,
        "colours span the 1st to 99th percentile": limits is not None and limits.clipped,
        "not to scale": min(height, width) == _THINNEST,
    }
    tall, marks = max(height, _BAR_HEIGHT), _marks(limits)
    label_right = _GAP + _BAR_WIDTH + 34 + max(round(_font(_TEXT).getlength(text)) for text, _ in marks)
    right = max(_RIGHT, label_right + _TEXT)
    canvas = Image.new("RGB", (max(width + _LEFT + right, _NARROWEST), tall + _TOP + _BOTTOM), "white")
    left, top = (canvas.width - width + _LEFT - right) // 2, _TOP + (tall - height) // 2
    draw = ImageDraw.Draw(canvas)
    canvas.paste(_coloured(values, limits).resize((width, height), Image.Resampling.BOX), (left, top))
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_INK)
    draw.text((canvas.width // 2, 25), _fitted(title, _TITLE, canvas.width - 40), _INK, _font(_TITLE), "ma")
    for place, share in _ticks(0, extents[1], width // 120, whole=unit == "voxels"):
        x = left + round(share * width)
        draw.line((x, top + height, x, top + height + 6), _INK)
        draw.text((x, top + height + 10), place, _INK, _font(_TEXT), "ma")
    label_left = left - 30
    for place, share in _ticks(0, extents[0], height // 60, whole=unit == "voxels"):
        label_left = min(label_left, left - 36 - round(_font(_TEXT).getlength(place)))
        y = top + round(share * height)
        draw.line((left - 7, y, left - 1, y), _INK)
        draw.text((left - 12, y), place, _INK, _font(_TEXT), "rm")
    draw.text((left + width // 2, top + height + 38), f"{axes[1]} ({unit})", _INK, _font(_TEXT), "ma")
    _draw_upright(canvas, f"{axes[0]} ({unit})", (label_left, top + height // 2), tall)
    bottom = _TOP
    if limits is not None:
        bottom += tall
        _draw_upright(canvas, label, (left + width + label_right, _TOP + tall // 2), tall)
        _draw_bar(canvas, (left + width + _GAP, _TOP, tall), limits, marks)
    if not np.isfinite(values).all():
        x = left + width + _GAP
        draw.rectangle((x - 1, bottom + 18, x + _BAR_WIDTH, bottom + 38), _MISSING, _INK)
        draw.text((x + _BAR_WIDTH + 12, bottom + 28), "no value", _INK, _font(_TEXT), "lm")
    draw.text(
        (canvas.width // 2, canvas.height - 32),
        "; ".join(note for note, holds in notes.items() if holds),
        _INK,
        _font(_SMALL),
        "ma",
    )
    try:
        canvas.save(path, "PNG", compress_level=2)
    except OSError as error:
        raise output_error(path, error) from error


def _extents(cells: tuple[int, int], cell_size: tuple[float, float] | None) -> tuple[tuple[float, float], str]:
    """Height and width of the whole map in the unit of its scales."""
    if cell_size is None:
        return (float(cells[0]), float(cells[1])), "voxels"
    height, width = (count * edge for count, edge in zip(cells, cell_size, strict=True))
    return ((height / 1e3, width / 1e3), "mm") if max(height, width) >= _UM_AT_MOST else ((height, width), "um")


def _drawn_size(shape: tuple[int, ...], extents: tuple[float, float]) -> tuple[int, int]:
    """Pixels of the map's height and width, cells enlarged by whole factors where they are enlarged at all."""
    scale = min(_HIGHEST / extents[0], _WIDEST / extents[1])
    cell = min(scale * extent / count for extent, count in zip(extents, shape, strict=True))
    if cell >= 1:
        scale *= int(cell) / cell
    height, width = (max(round(extent * scale), _THINNEST) for extent in extents)
    return height, width


def _limits(values: NDArray[np.float64]) -> _Limits | None:
    """What the colours span; None where there is no value."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    inner = np.percentile(finite, _TAIL)
    if high - low > 2 * (inner[1] - inner[0]) > 0:
        return _Limits(float(inner[0]), float(inner[1]), clipped=True)
    return _Limits(low, high, clipped=False)


def _coloured(values: NDArray[np.float64], limits: _Limits | None) -> Image.Image:
    steps = np.linspace(0, len(_ANCHORS) - 1, 256)
    table = np.stack([np.interp(steps, range(len(_ANCHORS)), band) for band in zip(*_ANCHORS, strict=True)], axis=1)
    missing = ~np.isfinite(values)
    shares = np.zeros(values.shape) if limits is None else limits.shares(np.where(missing, limits.low, values))
    pixels = np.rint(table).astype(np.uint8)[np.rint(shares * 255).astype(np.intp)]
    pixels[missing] = _MISSING
    return Image.fromarray(pixels)


def _ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[tuple[str, float]]:
    """About 5 round numbers between two ends, as text and as a share of the way; the ends where few fit."""
    if most < 2:
        return [(f"{low:.4g}", 0.0), (f"{high:.4g}", 1.0)]
    rough = (high - low) / min(most, 5)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= 0.6 * rough)
    step = max(step, 1.0) if whole else step
    power = math.floor(math.log10(step) + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    number = f".{max(0, -power)}f"
    if max(len(f"{k * step:{number}}") for k in (first, last)) > _DIGITS:
        number = f".{math.floor(math.log10(max(abs(first), abs(last)) * step)) - power + 1}g"
    return [(f"{k * step + 0.0:{number}}", (k * step - low) / (high - low)) for k in range(first, last + 1)]


def _marks(limits: _Limits | None) -> list[tuple[str, float]]:
    """Ticks of the colour bar."""
    if limits is None:
        return [("no value", 0.5)]
    return [(f"{limits.low:.6g}", 0.5)] if limits.constant else _ticks(limits.low, limits.high, 5)


def _draw_bar(canvas: Image.Image, box: tuple[int, int, int], limits: _Limits, marks: list[tuple[str, float]]) -> None:
    """Colour bar with ticks; `box` is its left, top and height."""
    left, top, height = box
    draw = ImageDraw.Draw(canvas)
    ramp = np.linspace(limits.high, limits.low, height)[:, np.newaxis]
    canvas.paste(_coloured(ramp, limits).resize((_BAR_WIDTH, height)), (left, top))
    draw.rectangle((left - 1, top - 1, left + _BAR_WIDTH, top + height), outline=_INK)
    for text, share in marks:
        y = top + height - round(share * height)
        draw.line((left + _BAR_WIDTH, y, left + _BAR_WIDTH + 6, y), _INK)
        draw.text((left + _BAR_WIDTH + 12, y), text, _INK, _font(_TEXT), "lm")


def _draw_upright(canvas: Image.Image, text: str, middle: tuple[int, int], longest: int) -> None:
    """Text that reads from bottom to top, around a point."""
    text = _fitted(text, _TEXT, longest)
    length = round(ImageDraw.Draw(canvas).textlength(text, _font(_TEXT)))
    strip = Image.new("L", (length + 4, 2 * _TEXT))
    ImageDraw.Draw(strip).text((length // 2 + 2, _TEXT), text, 255, _font(_TEXT), "mm")
    upright = strip.transpose(Image.Transpose.ROTATE_90)
    canvas.paste(_INK, (middle[0] - upright.width // 2, middle[1] - upright.height // 2), upright)


def _fitted(text: str, size: int, width: int) -> str:
    """Text that is at most so many pixels wide, without its middle where it is too long: endings tell files apart."""
    font, kept = _font(size), len(text)
    shown = text
    while font.getlength(shown) > width and kept > 2:
        kept -= 2
        shown = f"{text[: kept // 2]}...{text[-(kept // 2) :]}"
    return shown


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
