"""Aperture and first index of a volume along an axis: parts of blocks, and the maps that they add up to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.engine.grid import Block
from cytolith.fracture.plan import Needs
from cytolith.io.row_file import RowFile
from cytolith.kernels.components import Runs
from cytolith.kernels.projection import map_shape, project_runs

_CELL_BYTES = 8
"""Of a cell of both maps."""


class MapPart:
    """What a block adds to the maps of its volume: its rows, or for the axis z the cells in which it has something."""

    def __init__(self, axis: str, shape: Shape, block: Block) -> None:
        begin, end = block.core[0].start, block.core[0].stop
        rows, columns = map_shape(shape, axis)
        self._axis, self._begin = axis, begin
        cells = (rows if axis == "z" else end - begin, columns)
        self._aperture, self._first = np.zeros(cells, np.int32), np.full(cells, -1, np.int32)

    def add(self, runs: Runs, values: NDArray[np.uint8], z: int) -> None:
        """Add the runs of a slab whose value is not 0; the slab begins with plane `z`."""
        top = 0 if self._axis == "z" else z - self._begin
        stop = len(self._aperture) if self._axis == "z" else top + runs.shape[0]
        project_runs(runs, values, self._axis, z, self._aperture[top:stop], self._first[top:stop])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The part as it travels and is kept."""
        aperture, first = self._aperture, self._first
        if self._axis == "z":
            cells = np.flatnonzero(aperture)
            if 2 * len(cells) < aperture.size:
                return {"cells": cells, "aperture": aperture.ravel()[cells], "first": first.ravel()[cells]}
        return {"aperture": aperture, "first": first}


class Maps:
    """The maps of a volume, in row files; parts of blocks come in any order."""

    def __init__(self, axis: str, shape: Shape, folder: Path) -> None:
        self.axis = axis
        cells = map_shape(shape, axis)
        self._whole: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
        if axis == "z":  # every block adds to every cell
            self._whole = np.zeros(cells, np.int32), np.full(cells, -1, np.int32)
        self.aperture = RowFile(folder / "aperture", cells, np.int32)
        try:
            self.first = RowFile(folder / "first", cells, np.int32)
        except BaseException:
            self.aperture.remove()
            raise

    @staticmethod
    def needs(shape: Shape, axis: str) -> Needs:
        """Memory that maps take, besides voxels."""
        rows, columns = map_shape(shape, axis)
        if axis == "z":
            return Needs(0, fixed_bytes=_CELL_BYTES * rows * columns, result_bytes=_CELL_BYTES * rows * columns)
        return Needs(0, plane_bytes=_CELL_BYTES * columns)

    def add(self, block: Block, part: Mapping[str, NDArray[Any]]) -> None:
        """Add what :meth:`MapPart.to_arrays` gave of a block."""
        aperture, first = part["aperture"], part["first"]
        if self._whole is None:
            self.aperture.write(block.core[0].start, aperture)
            self.first.write(block.core[0].start, first)
            return
        whole, lowest = (image.reshape(-1) for image in self._whole)
        cells = part["cells"] if "cells" in part else slice(None)
        whole[cells] += aperture.reshape(-1)
        # as unsigned numbers "none" is the largest
        lower = np.minimum(lowest[cells].view(np.uint32), first.reshape(-1).view(np.uint32))
        lowest[cells] = lower.view(np.int32)

    def finish(self) -> None:
        """Write what was held back."""
        if self._whole is not None:
            self.aperture.write(0, self._whole[0])
            self.first.write(0, self._whole[1])
            self._whole = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.aperture.remove()
        self.first.remove()
