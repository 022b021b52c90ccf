"""Buffers that a worker keeps from block to block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytolith.axes import Shape


class Workspace:
    """Buffers of one worker, kept between blocks: the first touch of fresh memory costs more than a copy."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
        """Uninitialised C-contiguous array in the buffer of this name, which grows when it must."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            self._buffers.pop(name, None)  # free the old one first
            buffer = self._buffers[name] = self._make(size)
        return buffer[:size].view(dtype).reshape(shape)

    def _make(self, size: int) -> NDArray[np.uint8]:
        return np.empty(size, np.uint8)
