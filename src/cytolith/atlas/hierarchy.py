"""Regions that are part of others: what is counted in one is counted in all that contain it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.errors import VolumeError
from cytolith.io.structures import Structure


class Hierarchy:
    """The tree of regions.

    Parameters
    ----------
    structures
        Regions, each with those it is part of, as far as its row of the file tells.

    Attributes
    ----------
    known : bool
        Whether any region is part of another.

    Raises
    ------
    VolumeError
        Regions that are parts of each other in a circle.
    """

    def __init__(self, structures: Sequence[Structure]) -> None:
        self._parents: dict[int, int] = {}
        for structure in structures:
            path = (*structure.ancestors, structure.id)
            for parent, child in pairwise(path):
                # what a region's own row says comes before what a path says in passing
                if child == structure.id or child not in self._parents:
                    self._parents[child] = parent
        self._lines: dict[int, tuple[int, ...]] = {}
        for structure in structures:
            self.line(structure.id)
        self.known = bool(self._parents)

    def line(self, region: int) -> tuple[int, ...]:
        """A region and all that it is part of, the nearest first."""
        found = self._lines.get(region)
        if found is None:
            path = [region]
            while (parent := self._parents.get(path[-1])) is not None:
                if parent in path:
                    raise VolumeError(f"the regions {parent} and {path[-1]} are said to be parts of each other")
                path.append(parent)
            found = self._lines[region] = tuple(path)
        return found

    def above(self, regions: Iterable[int]) -> set[int]:
        """All regions that some regions are part of, themselves included."""
        return {each for region in regions for each in self.line(region)}

    def sums(self, regions: Sequence[int], values: NDArray[Any]) -> NDArray[Any]:
        """Values of regions with those of all that are parts of them.

        Parameters
        ----------
        regions
            Their ids; with each region all that contain it.
        values
            One row a region.

        Returns
        -------
        ndarray
            Of the shape and dtype of `values`.
        """
        place = {region: number for number, region in enumerate(regions)}
        total = np.zeros_like(values)
        for number, region in enumerate(regions):
            for each in self.line(region):
                total[place[each]] += values[number]
        return total
