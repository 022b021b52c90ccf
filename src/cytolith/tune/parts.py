"""Parts of the annotated space: folds that are held out, and small blocks that tell how far F1 is luck.

Cells that lie together look alike, so parts are compact. Space is halved again and again where half of the annotated
cells lie on either side, along the axis on which they spread furthest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import VoxelSize

FOLD_LEVELS = 2
"""Halvings that make the folds: four."""
FOLDS = 2**FOLD_LEVELS
_MOST_LEVELS = 6
_CELLS_A_BLOCK = 4


@dataclass(frozen=True)
class Parts:
    """How the annotated space is cut."""

    cuts: tuple[tuple[int, float], ...]
    """Axis and place of the cut of each inner node, root first, the children of node i at 2 i + 1 and 2 i + 2."""
    levels: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return int(2**self.levels)

    @property
    def folds(self) -> NDArray[np.int64]:
        """Fold of each block."""
        return np.arange(self.count) >> max(self.levels - FOLD_LEVELS, 0)

    def of(self, positions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Block of each position (n, 3)."""
        node = np.zeros(len(positions), np.int64)
        axes = np.array([axis for axis, _ in self.cuts], np.int64)
        places = np.array([place for _, place in self.cuts])
        for _ in range(self.levels):
            above = positions[np.arange(len(positions)), axes[node]] >= places[node]
            node = 2 * node + 1 + above
        return node - (self.count - 1)


def cut_parts(truth: NDArray[np.float64], voxel_size: VoxelSize | None) -> Parts:
    """Parts for annotated positions (n, 3) in voxels: about four cells a block, 64 blocks at most."""
    levels = int(np.clip(np.log2(max(len(truth), 1) / _CELLS_A_BLOCK), FOLD_LEVELS, _MOST_LEVELS))
    edges = np.array(voxel_size if voxel_size is not None else (1.0, 1.0, 1.0))
    cuts: list[tuple[int, float]] = []
    groups = [truth]
    for _ in range(levels):
        halves = []
        for group in groups:
            axis, place = 0, 0.0
            if len(group):
                axis = int(((group.max(0) - group.min(0)) * edges).argmax())
                place = float(np.median(group[:, axis]))
            cuts.append((axis, place))
            above = group[:, axis] >= place
            halves += [group[~above], group[above]]
        groups = halves
    return Parts(tuple(cuts), levels)
