"""What may be tuned, and the configuration for a choice of it.

Every parameter is a factor on what the start has, so that the same choices make sense in micrometres and in voxels and
the start itself is the middle of the space. Factors are few and ordered: neighbouring trials share images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cytolith.axes import Shape, VoxelSize
from cytolith.cells.config import CellsConfig, DogFilter, Smoothing
from cytolith.cells.costs import clear_reach
from cytolith.cells.fields import nearest
from cytolith.cells.resolve import in_voxels, with_defaults
from cytolith.errors import ConfigError
from cytolith.quantities import Length, Threshold

_ROOT2 = 2**0.5
LADDERS: dict[str, tuple[float, ...]] = {
    "background": (0.5, 0.63, 0.79, 1.0, 1.26, 1.59, 2.0),
    "stripes": (0.0, 1.0, 2.0),
    "smoothing_z": (0.0, 0.5, 1 / _ROOT2, 1.0, _ROOT2, 2.0),
    "smoothing_plane": (0.0, 0.5, 1 / _ROOT2, 1.0, _ROOT2, 2.0),
    "dog": (0.0, 0.5, 1 / _ROOT2, 1.0, _ROOT2, 2.0),
    "window_z": (0.5, 1 / _ROOT2, 1.0, _ROOT2, 2.0),
    "window_plane": (0.5, 1 / _ROOT2, 1.0, _ROOT2, 2.0),
}
"""Factors of each parameter; 0 switches the step off along its axes. Of stripes: none, along x, along y."""
STRIPES = LADDERS["stripes"]
_STRIPE_UM, _STRIPE_VOXELS = Length(73, "um"), Length(45)
THRESHOLD = "threshold"
NAMES = (THRESHOLD, *LADDERS)
"""Names that `--only` knows."""
_UM = (Length(4.2, "um"), Length(2.4, "um"), Length(2.4, "um"))
_VOXELS = (Length(0.7), Length(1.5), Length(1.5))
_CELL_UM = (Length(18, "um"), Length(12, "um"), Length(12, "um"))
_CELL_VOXELS = (Length(3), Length(7), Length(7))

Choice = Mapping[str, float]
"""Factor of each parameter; one that is left out is that of the start."""


@dataclass(frozen=True)
class Space:
    """Parameters that may be tuned around a start."""

    start: CellsConfig
    """With every default filled in."""
    voxel_size: VoxelSize | None
    names: tuple[str, ...]
    """Parameters beside the threshold, of those that the start has."""

    @property
    def start_choice(self) -> dict[str, float]:
        """The start itself."""
        return {name: _start_factor(self.start, name) for name in self.names}

    def config(self, choice: Choice) -> CellsConfig:
        """Configuration of a choice, thresholds as in the start.

        Raises
        ------
        ConfigError
            The choice cannot be used, for example a window below one voxel.
        """
        changed: dict[str, Any] = {}
        start, known = self.start, self.voxel_size is not None
        given = {name: factor for name, factor in choice.items() if factor != _start_factor(start, name)}
        if "background" in given and start.background_correction is not None:
            step = start.background_correction
            assert step.shape is not None
            disk = tuple(_times(length, given["background"], whole=True) for length in step.shape)
            changed["background_correction"] = step.model_copy(update={"shape": disk})
        if "stripes" in given and start.background_correction is not None:
            step = changed.get("background_correction", start.background_correction)
            length = step.stripe_length or (_STRIPE_UM if known else _STRIPE_VOXELS)
            update = {"stripe_length": length if given["stripes"] else None}
            update |= {"stripe_axis": "y" if given["stripes"] == 2 else "x"}
            changed["background_correction"] = step.model_copy(update=update)
        if {"smoothing_z", "smoothing_plane"} & set(given):
            smoothing = start.smoothing or Smoothing()
            sigma = smoothing.sigma if start.smoothing is not None else (_UM if known else _VOXELS)
            assert sigma is not None
            z = choice.get("smoothing_z", _start_factor(start, "smoothing_z"))
            plane = choice.get("smoothing_plane", _start_factor(start, "smoothing_plane"))
            sigmas = tuple(_times(length, f) for length, f in zip(sigma, (z, plane, plane), strict=True))
            on = any(length.value for length in sigmas)
            changed["smoothing"] = smoothing.model_copy(update={"sigma": sigmas}) if on else None
        if "dog" in given:
            filter_ = start.dog_filter or DogFilter()
            base = filter_.shape or (_CELL_UM if known else _CELL_VOXELS)
            blob = tuple(_times(length, given["dog"], whole=True, least=2) for length in base)
            changed["dog_filter"] = filter_.model_copy(update={"shape": blob}) if given["dog"] else DogFilter()
        if {"window_z", "window_plane"} & set(given):
            maxima = start.maxima_detection
            assert maxima is not None
            assert maxima.shape is not None
            factors = choice.get("window_z", 1.0), choice.get("window_plane", 1.0), choice.get("window_plane", 1.0)
            window = tuple(_times(n, f, whole=True, odd=True) for n, f in zip(maxima.shape, factors, strict=True))
            changed["maxima_detection"] = maxima.model_copy(update={"shape": window})
        return start.model_copy(update=changed)

    def distance(self, choice: Choice) -> int:
        """How many parameters differ from the start."""
        return sum(choice.get(name, factor) != factor for name, factor in self.start_choice.items())

    def same_but_stripes(self, choice: Choice) -> bool:
        """Whether a choice differs from the start in stripes at most, of which there are three kinds only."""
        return self.distance({**choice, "stripes": self.start_choice.get("stripes", 0.0)}) == 0

    def same_images(self, choice: Choice) -> bool:
        """Whether a choice leaves all image steps as in the start."""
        return all(
            choice.get(name, factor) == factor
            for name, factor in self.start_choice.items()
            if not name.startswith("window")
        )

    def halo(self) -> Shape:
        """Voxels around a region that any choice needs, (z, y, x), with room for plateaus."""
        biggest: dict[str, float] = {name: max(LADDERS[name]) for name in self.names}
        kinds = STRIPES if "stripes" in self.names else (0.0,)
        choices = [biggest | ({"stripes": kind} if kind else {}) for kind in kinds]
        reaches = [clear_reach(in_voxels(self.config(choice), self.voxel_size)) for choice in choices]
        z, y, x = (max(axis) + 2 for axis in zip(*reaches, strict=True))
        return z, y, x


def make_space(start: CellsConfig, voxel_size: VoxelSize | None, only: Iterable[str] | None = None) -> Space:
    """Space around a start, of all parameters that it has or of those named; the threshold is always tuned.

    Raises
    ------
    ConfigError
        A name that is no parameter, or a start without maxima.
    """
    start = with_defaults(start, voxel_size)
    if start.maxima_detection is None:
        raise ConfigError("maxima_detection: tune looks for centres of cells; do not skip this step")
    names = list(LADDERS)
    if start.background_correction is None:
        names = [name for name in names if name not in ("background", "stripes")]
    if start.maxima_detection.shape is None or start.maxima_detection.h_max is not None:
        names = [name for name in names if not name.startswith("window")]
    wanted = NAMES if only is None else tuple(name.strip().lower().replace("-", "_") for name in only)
    for name in wanted:
        if name not in NAMES:
            raise ConfigError(f"--only {name}: {nearest(name, NAMES)}")
    return Space(start, voxel_size, tuple(name for name in names if name in wanted))


def start_threshold(start: CellsConfig, noise: float) -> tuple[Threshold, float]:
    """What a maximum must reach to be a cell in the start, and the same as a grey value.

    That is the threshold of the maxima, or that of the shapes where it is higher: a maximum outside all shapes is no
    cell. Without either it is 6 times the noise.
    """
    assert start.maxima_detection is not None
    shapes = start.shape_detection
    both = [start.maxima_detection.threshold, None if shapes is None else shapes.threshold]
    given = [t for t in both if t is not None and t.value > 0] or [Threshold(6.0, "mad")]
    levels = [t.value * noise if t.unit == "mad" else t.value for t in given]
    at = max(range(len(given)), key=levels.__getitem__)
    return given[at], levels[at]


def with_threshold(config: CellsConfig, threshold: Threshold, start: Threshold) -> CellsConfig:
    """The configuration with another threshold of the maxima, where `start` was that of the start.

    Where cells end says nothing about where they are: the threshold of the shapes stays, unless it comes nearer to that
    of the maxima than it was in the start. Then it goes down with it.
    """
    assert config.maxima_detection is not None
    changed: dict[str, Any] = {"maxima_detection": config.maxima_detection.model_copy(update={"threshold": threshold})}
    shapes = config.shape_detection
    if shapes is not None and shapes.threshold is not None:
        own = shapes.threshold
        ratio = own.value / start.value if own.unit == start.unit and 0 < own.value < start.value else 2 / 3
        limit = Threshold(float(f"{ratio * threshold.value:.4g}"), threshold.unit)
        if own.unit != limit.unit or own.value > limit.value:
            changed["shape_detection"] = shapes.model_copy(update={"threshold": limit})
    return config.model_copy(update=changed)


def _start_factor(start: CellsConfig, name: str) -> float:
    if name == "dog" and (start.dog_filter is None or start.dog_filter.shape is None):
        return 0.0
    if name == "stripes":
        step = start.background_correction
        if step is None or step.stripe_length is None:
            return 0.0
        return 2.0 if step.stripe_axis == "y" else 1.0
    if name.startswith("smoothing") and start.smoothing is None:
        return 0.0
    return 1.0


def _times(length: Length, factor: float, *, whole: bool = False, odd: bool = False, least: float = 1) -> Length:
    """A length times a factor, in three digits, in the unit it has; voxels stay whole where they must be."""
    value = length.value * factor
    if factor == 1.0:
        return length
    if length.unit == "voxel" and whole:
        return Length(float(max(2 * round((value - 1) / 2) + 1 if odd else round(value), 3 if odd else least)))
    return Length(0.0 if value == 0 else round(value, 2 - math.floor(math.log10(value))), length.unit)
