"""What blocks leave behind, in memory or on disk, and the one table that they make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.cells.block import Table
from cytolith.cells.owners import Voxels
from cytolith.engine.checkpoint import Checkpoints
from cytolith.engine.grid import Block
from cytolith.io.record import Record

_KEY = " key"
"""Column of the keys while rows are sorted; no image can have this name."""


@dataclass(frozen=True)
class Tally:
    """Numbers of a block that are small whatever the block holds."""

    rows: int = 0
    truncated: int = 0
    """Rows that are marked as truncated."""
    widened: int = 0
    """Regions that were read again with more around them."""
    mask_voxels: int = 0
    brightest: float = -math.inf
    first_z: float = math.inf
    """Least z of a row."""
    planes: tuple[int, int] = (0, 0)
    """First plane that was read, and the one after the last."""
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""
    """What the worker has to say about itself, for the log."""

    def __add__(self, other: Tally) -> Tally:
        names = self.seconds | other.seconds
        return Tally(
            self.rows + other.rows,
            self.truncated + other.truncated,
            self.widened + other.widened,
            self.mask_voxels + other.mask_voxels,
            max(self.brightest, other.brightest),
            min(self.first_z, other.first_z),
            (0, 0),
            {name: self.seconds.get(name, 0.0) + other.seconds.get(name, 0.0) for name in names},
        )


@dataclass(frozen=True, eq=False)
class BlockResult:
    """Rows of a block; what a worker sends back or puts on disk."""

    table: Table
    keys: NDArray[np.int64]
    """Identity of each row; see :mod:`cytolith.cells.owners`."""
    apart: dict[str, Voxels] = field(default_factory=dict)
    """See :class:`cytolith.cells.block.BlockCells`."""
    tally: Tally = field(default_factory=Tally)

    def to_record(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and info of a record."""
        arrays: dict[str, NDArray[Any]] = {f"column {name}": column for name, column in self.table.items()}
        arrays["keys"] = self.keys
        for name, voxels in self.apart.items():
            arrays[f"voxels {name}"], arrays[f"keys {name}"] = voxels.index, voxels.keys
        return arrays, {"tally": vars(self.tally), "columns": list(self.table), "apart": list(self.apart)}

    @staticmethod
    def from_record(record: Record) -> BlockResult:
        """The result that was made into a record."""
        arrays, info = record.arrays, record.info
        return BlockResult(
            {name: arrays[f"column {name}"] for name in info["columns"]},
            arrays["keys"],
            {name: Voxels(arrays[f"voxels {name}"], arrays[f"keys {name}"]) for name in info["apart"]},
            tally_of(info),
        )


def tally_of(info: Mapping[str, Any]) -> Tally:
    """Tally in the info of a record."""
    values = dict(info["tally"])
    first, last = values.pop("planes")
    return Tally(**values, planes=(first, last))


class Results:
    """Results of all blocks of a run: in memory, or on disk where there are checkpoints."""

    def __init__(self, checkpoints: Checkpoints | None = None) -> None:
        self._checkpoints = checkpoints
        self._kept: dict[int, BlockResult] = {}
        self.tallies: dict[int, Tally] = {}

    def add(self, index: int, result: BlockResult | Tally) -> None:
        """Take what a task has given: the result, or its tally when the result is on disk."""
        if isinstance(result, Tally):
            self.tallies[index] = result
        else:
            self._kept[index], self.tallies[index] = result, result.tally

    def load(self, index: int) -> BlockResult:
        """Result of a block; RecordError where its file is no longer whole."""
        if self._checkpoints is None:
            return self._kept[index]
        return BlockResult.from_record(self._checkpoints.load(index))

    @property
    def total(self) -> Tally:
        """Tally of all blocks."""
        return sum((self.tallies[index] for index in sorted(self.tallies)), Tally())

    def apart(self, blocks: Sequence[Block]) -> Iterator[dict[str, Voxels]]:
        """Voxels that saved steps need beside what each block could write."""
        return (self.load(block.index).apart for block in blocks)

    def rows(self, blocks: Sequence[Block]) -> Iterator[tuple[Table, NDArray[np.int64]]]:
        """Parts of the table of all rows and their keys, sorted by (z, y, x) and then by key: no tie is left to chance.

        Parameters
        ----------
        blocks
            All blocks, in raster order.

        Yields
        ------
        tuple of table and keys
            A part for each layer of blocks. Rows of one layer are in memory, and those that later ones may come before.
        """
        layers = [list(layer) for _, layer in itertools.groupby(blocks, key=lambda block: block.core[0].start)]
        # what comes later may still come before rows that are at hand
        later = [math.inf]
        for layer in layers[:0:-1]:
            later.append(min(later[-1], *(self.tallies[block.index].first_z for block in layer)))
        pending: list[Table] = []
        for layer, limit in zip(layers, reversed(later), strict=True):
            results = (self.load(block.index) for block in layer)
            pending += [result.table | {_KEY: result.keys} for result in results]
            rows = {name: np.concatenate([part[name] for part in pending]) for name in pending[-1]}
            order = np.lexsort((rows[_KEY], rows["x"], rows["y"], rows["z"]))
            ready = int(np.searchsorted(rows["z"][order], limit))
            pending = [{name: column[order[ready:]] for name, column in rows.items()}]
            part = {name: column[order[:ready]] for name, column in rows.items()}
            yield part, part.pop(_KEY)
