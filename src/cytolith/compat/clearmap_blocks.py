"""How ClearMap cuts a volume into blocks: the layout that its processing parameters stand for.

Along each axis that is split, blocks of nearly equal width overlap; the valid ranges meet in the middle of each overlap
and partition the axis. Everything here counts in ClearMap's order, (x, y, z).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from cytolith.axes import Region
from cytolith.cells.fields import nearest
from cytolith.errors import ConfigError

AXES = ("x", "y", "z")
FIXES = ("all", "decrease", "increase")
Extent: TypeAlias = tuple[int, int]
"""Half-open range of voxels along an axis."""


@dataclass(frozen=True)
class AxisBlock:
    """What a block covers of one axis, and what of that is its own."""

    range: Extent
    valid: Extent


@dataclass(frozen=True)
class LayoutBlock:
    """A block in three axes, (x, y, z)."""

    axes: tuple[AxisBlock, AxisBlock, AxisBlock]

    @property
    def core(self) -> Region:
        """The valid range, (z, y, x)."""
        x, y, z = (slice(*axis.valid) for axis in self.axes)
        return z, y, x

    @property
    def covered(self) -> Region:
        """The range, (z, y, x)."""
        x, y, z = (slice(*axis.range) for axis in self.axes)
        return z, y, x


@dataclass(frozen=True)
class Processing:
    """The processing parameters, checked."""

    axes: tuple[int, ...] | None
    """Axes to split, of (x, y, z); None: the slowest in memory."""
    size_max: Any
    size_min: Any
    overlap: Any
    """For all axes that are split, or one for each."""
    optimization: bool
    optimization_fix: str | None
    processes: int | None
    verbose: bool

    @staticmethod
    def of(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Processing:
        """Parameters from a dict like ClearMap's; what it lacks is as in `defaults`.

        Raises
        ------
        ConfigError
            A name that is unknown (with the nearest right one) or a value that cannot be used.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f"processing_parameter: {given!r} given; a dict is needed")
        for name in given:
            if name not in defaults:
                raise ConfigError(f"processing_parameter: unknown name {name!r}; {nearest(str(name), list(defaults))}")
        values = {**defaults, **given}
        fix = values["optimization_fix"]
        if fix is not None and fix not in FIXES:
            raise ConfigError(
                f"processing_parameter['optimization_fix']: {fix!r} is unknown; {nearest(str(fix), FIXES)}"
            )
        return Processing(
            _axes(values["axes"]),
            values["size_max"],
            values["size_min"],
            values["overlap"],
            bool(values["optimization"]),
            fix,
            _processes(values["processes"]),
            bool(values["verbose"]),
        )

    def layout(self, shape: tuple[int, int, int], slowest: int) -> list[LayoutBlock]:
        """Blocks of a volume in C order of their grid, the last axis fastest.

        Parameters
        ----------
        shape
            Extent of the volume (x, y, z).
        slowest
            The axis that is split when none is named.

        Raises
        ------
        ConfigError
            Sizes and overlap that do not go together.
        """
        split = (slowest,) if self.axes is None else self.axes
        ranges = [[AxisBlock((0, extent), (0, extent))] for extent in shape]
        for place, axis in enumerate(split):
            ranges[axis] = split_axis(
                shape[axis],
                self._along("size_max", place, len(split)),
                self._along("size_min", place, len(split)),
                self._along("overlap", place, len(split)),
                optimization=self.optimization,
                optimization_fix=self.optimization_fix,
                processes=self.processes,
                name=AXES[axis],
            )
        return [LayoutBlock((x, y, z)) for x, y, z in itertools.product(*ranges)]

    def _along(self, name: str, place: int, count: int) -> Any:
        """A parameter that is given for all axes that are split, or for each."""
        value = getattr(self, name)
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(value, (str, int, np.integer)) or value is None:
            return value
        if not isinstance(value, Sequence) or len(value) != count:
            raise ConfigError(f"processing_parameter[{name!r}]: {value!r} given; one number, or {count}, is needed")
        return value[place]


def split_axis(
    size: int,
    size_max: int | None = 100,
    size_min: int | Literal["fixed"] | None = 50,
    overlap: int = 32,
    *,
    optimization: bool = True,
    optimization_fix: str | None = "all",
    processes: int | None = None,
    name: str = "an axis",
) -> list[AxisBlock]:
    """Blocks along one axis.

    Parameters
    ----------
    size
        Extent of the axis in voxels.
    size_max, size_min
        Largest width of a block, and the smallest that is aimed at; ``"fixed"``: all blocks have the largest, and the
        last one is moved back. None: as large as the axis, as small as the overlap allows.
    overlap
        Voxels that neighbouring blocks share.
    optimization
        Make the number of blocks a multiple of the number of processes.
    optimization_fix
        ``"decrease"``: smaller and more blocks; ``"increase"``, with which there is nothing done, as in the original;
        ``"all"`` or None: the one that changes less.
    processes
        Blocks at work at once; None: one for each core.
    name
        The axis, for messages.

    Returns
    -------
    list of AxisBlock
        In order; their valid ranges partition the axis.

    Raises
    ------
    ConfigError
        The overlap is not below `size_min`, or `size_min` is above `size_max`.
    """
    largest = min(size if size_max is None else _whole("size_max", size_max), size)
    shared = min(_whole("overlap", overlap, least=0), size - 1)
    is_fixed = size_min == "fixed"
    smallest = min(largest, shared + 1) if size_min is None or size_min == "fixed" else _whole("size_min", size_min)
    smallest = min(smallest, largest) if size <= smallest else smallest
    if shared >= largest:
        raise ConfigError(
            f"processing_parameter['overlap']: {shared} voxels along {name} are not below the blocks' size_max of "
            f"{largest}; give a smaller overlap, or larger blocks"
        )
    if not shared < smallest <= largest:
        raise ConfigError(
            f"processing_parameter['size_min']: {smallest} voxels along {name} are not above the overlap of {shared} "
            f"and at most the size_max of {largest}; give another, or None"
        )
    count = math.ceil((size - largest) / (largest - shared) + 1)
    if count == 1:
        return [AxisBlock((0, size), (0, size))]
    if is_fixed:
        ranges = [(n * (largest - shared), n * (largest - shared) + largest) for n in range(count - 1)]
        ranges.append((size - largest, size))
    else:
        if optimization:
            count += _more_blocks(count, processes, optimization_fix)
        ranges = _even_ranges(size, count, shared)
    borders = [round((before[1] - after[0]) / 2 + after[0]) for before, after in itertools.pairwise(ranges)]
    valid = itertools.pairwise([0, *borders, size])
    return [AxisBlock(covered, own) for covered, own in zip(ranges, valid, strict=True)]


def _more_blocks(count: int, processes: int | None, fix: str | None) -> int:
    """Blocks to add so that all processes have as many."""
    workers = (os.cpu_count() or 1) if processes is None else processes
    over = count % workers
    if over == 0:
        return 0
    smaller = fix == "decrease" or (fix in (None, "all") and over >= workers / 2)
    return workers - over if smaller else 0


def _even_ranges(size: int, count: int, shared: int) -> list[Extent]:
    """Ranges of nearly equal width: whole voxels, one more whenever the fractions add up to one."""
    width = (size + (count - 1) * shared) / count
    fraction = width - math.floor(width)
    ranges, low, rest = [], 0, fraction
    for _ in range(count - 1):
        high = low + math.floor(width)
        if rest >= 1:
            high, rest = high + 1, rest - 1
        rest += fraction
        ranges.append((low, high))
        low = high - shared
    return [*ranges, (low, size)]


def _axes(given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    if isinstance(given, str) and given == "all":
        return 0, 1, 2
    given = given.tolist() if isinstance(given, np.ndarray) else given
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or not all(isinstance(axis, (int, np.integer)) and 0 <= axis <= 2 for axis in given):
        raise ConfigError(
            f"processing_parameter['axes']: {given!r} given; a list of axes of 0 (x), 1 (y), 2 (z), 'all' or None is "
            "needed"
        )
    return tuple(sorted({int(axis) for axis in given}))


def _processes(given: Any) -> int | None:
    if given == "serial":
        return 1
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1:
        raise ConfigError(
            f"processing_parameter['processes']: {given!r} given; a number from 1, 'serial', or None (all cores) is "
            "needed"
        )
    return int(given)


def _whole(name: str, given: Any, least: int = 1) -> int:
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < least:
        raise ConfigError(f"processing_parameter[{name!r}]: {given!r} given; a whole number from {least} is needed")
    return int(given)
