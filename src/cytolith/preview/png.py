"""Pixels as data that a page carries within itself: PNG, encoded for speed."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LEVEL = 2
"""Of zlib: higher ones take many times as long for a few per cent on noisy images."""


def grey_uri(pixels: NDArray[np.uint8]) -> str:
    """Address of a grey image, uint8 (rows, columns), that holds the image itself; 64 greys are kept."""
    return _uri(pixels & np.uint8(0xFC), 0)


def layer_uri(indices: NDArray[np.uint8], colours: Sequence[tuple[int, int, int]]) -> str:
    """The same of a layer to lie over an image: index 0 is transparent, i the colour ``colours[i - 1]``."""
    palette = bytes((0, 0, 0)) + b"".join(bytes(colour) for colour in colours)
    return _uri(indices, 3, (b"PLTE", palette), (b"tRNS", b"\0"))


def _uri(pixels: NDArray[np.uint8], kind: int, *chunks: tuple[bytes, bytes]) -> str:
    rows, columns = pixels.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # a zero before each row: it is not filtered
    lines[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines.tobytes(), _LEVEL)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
