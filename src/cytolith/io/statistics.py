"""What the voxels of a volume are like: range, percentiles, saturation, planes without signal or unreadable."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_shape
from cytolith.errors import VolumeError
from cytolith.io.remote import is_url
from cytolith.io.volume import Volume

PERCENTILES = (1.0, 50.0, 99.0, 99.9)
SAMPLE_VOXELS = 24_000_000
"""Voxels that a sample decodes, about."""
_BOX_VOXELS = 16_000_000
"""Voxels in memory at a time."""
_PIECE = 1 << 20
"""Voxels that are counted at a time."""
_KEPT = 2_000_000
"""Floating-point values that percentiles are taken from."""
_CAMERA_BITS = (8, 10, 11, 12, 13, 14, 15, 16)
_THREADS = 4  # they wait for the disk or the network more than for the processor
_R2 = (0.7548776662466927, 0.5698402909980532)
"""Steps of the two-dimensional low-discrepancy sequence R2 (Roberts 2018): boxes spread evenly without a pattern."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the finite voxels of a volume, or of a sample of it; from `statistics_of`."""

    voxels: int
    """Voxels looked at."""
    complete: bool
    """Whether they are all there are."""
    lowest: float
    highest: float
    mean: float
    percentiles: dict[float, float]
    """Of at most two million of them, evenly spread, where they are floating-point numbers."""
    not_finite: int
    """Voxels that are NaN or infinite."""
    full_scale: float | None
    """The largest value of the dtype, or of a camera with fewer bits when that is the highest found; else None."""
    saturated: int
    """Voxels of that value."""
    whole_planes: int
    """Planes of which every voxel was looked at."""
    constant_planes: list[int]
    """Those of them that have one value only."""
    unreadable: dict[int, str]
    """Planes that could not be read, and why."""
    read_seconds: float
    """Time that reading took."""


@dataclass
class _Count:
    """What is known of the voxels looked at so far."""

    volume: Volume
    stride: int
    lows: NDArray[np.float64] = field(init=False)
    highs: NDArray[np.float64] = field(init=False)
    seen: NDArray[np.int64] = field(init=False)
    histogram: NDArray[np.int64] | None = field(init=False)
    kept: list[NDArray[Any]] = field(default_factory=list)
    voxels: int = 0
    finite: int = 0
    total: float = 0.0
    highest: float = -math.inf
    at_highest: int = 0

    def __post_init__(self) -> None:
        planes, dtype = self.volume.shape[0], self.volume.dtype
        self.lows, self.highs = np.full(planes, math.inf), np.full(planes, -math.inf)
        self.seen = np.zeros(planes, np.int64)
        self.histogram = None if dtype.kind == "f" else np.zeros(1 << (8 * dtype.itemsize), np.int64)

    def add(self, first: int, box: NDArray[Any]) -> None:
        """Count a box of voxels whose first plane is `first`."""
        for z, plane in enumerate(box, first):
            values = plane.reshape(-1)
            self.seen[z] += values.size
            self.voxels += values.size
            for begin in range(0, values.size, _PIECE):
                self._add_piece(z, values[begin : begin + _PIECE])

    def _add_piece(self, z: int, values: NDArray[Any]) -> None:
        if self.histogram is None:
            finite = values[np.isfinite(values)]
            self.kept.append(finite[:: self.stride].copy())
        else:
            finite = values
            unsigned = values.astype(np.int64)
            unsigned -= int(np.iinfo(values.dtype).min)
            self.histogram += np.bincount(unsigned, minlength=self.histogram.size)
        self.finite += finite.size
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
        self.lows[z], self.highs[z] = min(self.lows[z], low), max(self.highs[z], high)
        self.total += float(finite.sum(dtype=np.float64))
        if high >= self.highest:
            if high > self.highest:
                self.highest, self.at_highest = high, 0
            self.at_highest += int(np.count_nonzero(finite == high))

    def percentile(self, share: float) -> float:
        """Linear between neighbours, as NumPy's default is."""
        if self.histogram is None:
            values = np.concatenate(self.kept) if self.kept else np.empty(0)
            return float(np.percentile(values, share)) if values.size else math.nan
        if not self.finite:
            return math.nan
        place = share / 100 * (self.finite - 1)
        ends = np.cumsum(self.histogram)
        below, above = np.searchsorted(ends, [math.floor(place), math.ceil(place)], side="right")
        value = below + (above - below) * (place - math.floor(place))
        return float(value) + float(np.iinfo(self.volume.dtype).min)


def statistics_of(volume: Volume, *, complete: bool = False) -> Statistics:
    """Statistics of the voxels of a volume.

    Parameters
    ----------
    volume
        Any volume; planes of it may be damaged.
    complete
        Look at all voxels, 16 million in memory at a time, instead of a fixed sample of about 24 million: whole planes,
        or whole layers of chunks, evenly spread; of larger ones boxes.

    Returns
    -------
    Statistics
        Planes that cannot be read are left out and listed.
    """
    boxes = list(_all_boxes(volume.shape, _grain(volume)) if complete else _sample_boxes(volume))
    voxels = sum(math.prod(region_shape(box)) for box in boxes)
    count = _Count(volume, max(1, voxels // _KEPT))
    unreadable: dict[int, str] = {}
    seconds = 0.0
    for box in boxes:
        begin = time.perf_counter()
        try:
            values = volume.read(box)
            seconds += time.perf_counter() - begin
            count.add(box[0].start, values)
        except VolumeError:
            for layer in _layers(box, _grain(volume)[0]):  # of which some may be well
                try:
                    count.add(layer[0].start, volume.read(layer))
                except VolumeError as error:
                    for z in range(layer[0].start, layer[0].stop):
                        unreadable.setdefault(z, str(error))
    whole = count.seen == volume.shape[1] * volume.shape[2]
    constant = np.flatnonzero(whole & (count.lows == count.highs))
    full_scale, saturated = _saturation(count)
    found = count.finite > 0
    return Statistics(
        count.voxels,
        count.voxels == math.prod(volume.shape),
        float(count.lows.min()) if found else math.nan,
        count.highest if found else math.nan,
        count.total / count.finite if found else math.nan,
        {share: count.percentile(share) for share in PERCENTILES},
        count.voxels - count.finite,
        full_scale,
        saturated,
        int(whole.sum()),
        constant.tolist(),
        dict(sorted(unreadable.items())),
        seconds,
    )


def unreadable_planes(volume: Volume) -> dict[int, str]:
    """Planes whose headers, or last voxels, cannot be read, and why; a plane is only named when it alone is at fault.

    Raises
    ------
    VolumeError
        The volume does not pass its check though each plane can be read.
    """
    try:
        volume.check()
    except VolumeError as error:
        if is_url(volume.name):  # each plane would wait for the same server
            raise
        first = error
    else:
        return {}
    _, y, x = volume.shape

    def problem(z: int) -> str | None:
        try:
            volume.read((slice(z, z + 1), slice(y - 1, y), slice(x - 1, x)))
        except VolumeError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = {z: text for z, text in enumerate(pool.map(problem, range(volume.shape[0]))) if text is not None}
    if not found:
        raise first
    return found


def _saturation(count: _Count) -> tuple[float | None, int]:
    """The value at which voxels are saturated, and how many are."""
    largest = None if count.histogram is None else float(np.iinfo(count.volume.dtype).max)
    if count.highest in (largest, *(2.0**bits - 1 for bits in _CAMERA_BITS)):
        return count.highest, count.at_highest
    return largest, 0


def _grain(volume: Volume) -> Shape:
    """What one read decodes at least, (z, y, x)."""
    z, y, x = (min(c, s) for c, s in zip(volume.chunks or (1, 1, volume.shape[2]), volume.shape, strict=True))
    return z, y, x


def _box_extent(shape: Shape, grain: Shape, voxels: int) -> Shape:
    """Extent of boxes of about so many voxels that decode little twice: grains first in x, then in y, then in z."""
    extent = list(grain)
    for axis in (2, 1, 0):
        times = max(1, voxels // math.prod(extent))
        extent[axis] = min(shape[axis], extent[axis] * times)
    while math.prod(extent) > max(voxels, _BOX_VOXELS):  # a single grain is too large to hold
        axis = int(np.argmax(extent))
        extent[axis] = math.ceil(extent[axis] / 2)
    return extent[0], extent[1], extent[2]


def _all_boxes(shape: Shape, grain: Shape) -> Iterator[Region]:
    extent = _box_extent(shape, grain, _BOX_VOXELS)
    starts = (range(0, s, e) for s, e in zip(shape, extent, strict=True))
    rows = list(starts)
    for z in rows[0]:
        for y in rows[1]:
            for x in rows[2]:
                z_, y_, x_ = (slice(o, min(o + e, s)) for o, e, s in zip((z, y, x), extent, shape, strict=True))
                yield z_, y_, x_


def _sample_boxes(volume: Volume) -> Iterator[Region]:
    """Layers of grains, evenly spread along z; of layers that are too large, boxes in them."""
    shape, grain = volume.shape, _grain(volume)
    if math.prod(shape) <= SAMPLE_VOXELS:
        yield from _all_boxes(shape, grain)
        return
    layer = (grain[0], shape[1], shape[2])
    extent = layer if math.prod(layer) <= SAMPLE_VOXELS // 4 else _box_extent(shape, grain, SAMPLE_VOXELS // 32)
    extent = (min(extent[0], grain[0]), extent[1], extent[2])
    layers = math.ceil(shape[0] / grain[0])
    # what is decoded counts, which is more than the box where a grain is too large to hold
    cost = math.prod(max(e, g) for e, g in zip(extent, grain, strict=True))
    wanted = max(1, SAMPLE_VOXELS // cost)
    count = min(wanted, layers) if extent == layer else wanted
    for index in range(count):
        z = min((2 * index + 1) * layers // (2 * count), layers - 1) * grain[0]
        y, x = (
            int((0.5 + index * step) % 1 * max(1, math.ceil((s - e) / g) + 1)) * g
            for step, s, e, g in zip(_R2, shape[1:], extent[1:], grain[1:], strict=True)
        )
        y, x = min(y, (shape[1] - 1) // grain[1] * grain[1]), min(x, (shape[2] - 1) // grain[2] * grain[2])
        z_, y_, x_ = (slice(o, min(o + e, s)) for o, e, s in zip((z, y, x), extent, shape, strict=True))
        yield z_, y_, x_


def _layers(box: Region, planes: int) -> Iterator[Region]:
    """A box in layers of so many planes, which are decoded together."""
    first, stop = box[0].start, box[0].stop
    cuts = [first, *range((first // planes + 1) * planes, stop, planes), stop]
    return ((slice(begin, end), box[1], box[2]) for begin, end in itertools.pairwise(cuts))
