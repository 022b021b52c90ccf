"""From parameters as users mean them (micrometres, multiples of the noise) to plain voxels and grey values."""

from __future__ import annotations

from typing import Any

import numpy as np

from cytolith.axes import VoxelSize
from cytolith.cells.config import CellsConfig, Step
from cytolith.errors import ConfigError
from cytolith.quantities import Length, Threshold, edges

_DEFAULTS: dict[tuple[str, str], tuple[tuple[Length, ...], tuple[Length, ...]]] = {
    ("background_correction", "shape"): ((Length(16, "um"),) * 2, (Length(10),) * 2),
    ("smoothing", "sigma"): (
        (Length(4.2, "um"), Length(2.4, "um"), Length(2.4, "um")),
        (Length(0.7), Length(1.5), Length(1.5)),
    ),
    ("maxima_detection", "shape"): (
        (Length(18, "um"), Length(8, "um"), Length(8, "um")),
        (Length(3), Length(5), Length(5)),
    ),
    ("background_jump", "radius"): (
        (Length(12, "um"), Length(25, "um"), Length(25, "um")),
        (Length(2), Length(15), Length(15)),
    ),
    ("features", "cell"): ((Length(12, "um"),) * 3, (Length(2), Length(7.4), Length(7.4))),
    ("intensity_detection", "shape"): ((Length(8, "um"),) * 3, (Length(3),) * 3),
}
"""Defaults of lengths, in micrometres for a known voxel size and in voxels for an unknown one. Disk, Gaussian and
window are those that did best on annotated c-Fos volumes of 6 x 1.62 x 1.62 um; the voxel numbers are the same
lengths
there."""

_ODD = {("maxima_detection", "shape"), ("intensity_detection", "shape")}
"""Windows around a centre: micrometres are rounded to an odd number of voxels, so that they are symmetric."""

JUMP = 1.5
"""Largest background near a cell, as a multiple of its own: the one rule about surroundings that carried over between
annotated volumes."""
FRACTION = 0.5
"""Part of its own maximum at which a cell ends: shapes then have the sizes of cells, dim and bright ones alike."""

_LEAST = float(np.finfo(np.float32).tiny)
_REAL = {"sigma", "sigma2", "cell"}
"""Fields that need not be whole voxels."""


def with_defaults(config: CellsConfig, voxel_size: VoxelSize | None) -> CellsConfig:
    """The configuration with every length that was left open filled in, still in micrometres where those are known."""
    changed: dict[str, Step] = {}
    for (name, field), (known, unknown) in _DEFAULTS.items():
        step: Any = getattr(config, name)
        if step is None or getattr(step, field) is not None:
            continue
        if name == "maxima_detection" and step.h_max is not None:
            continue  # extended maxima have no window unless one is given
        changed[name] = step.model_copy(update={field: known if voxel_size is not None else unknown})
    config = config.model_copy(update=changed)
    return config.model_copy(update=_scaled_defaults(config))


def _scaled_defaults(config: CellsConfig) -> dict[str, Step | None]:
    """What goes with thresholds in multiples of the noise; grey values mean the plain steps, as ClearMap has them."""
    changed: dict[str, Step | None] = {}
    jump, maxima, shapes = config.background_jump, config.maxima_detection, config.shape_detection
    if jump is not None and jump.ratio is None:
        scaled = maxima is not None and maxima.threshold is not None and maxima.threshold.unit == "mad"
        changed["background_jump"] = jump.model_copy(update={"ratio": JUMP}) if scaled else None
    if shapes is not None and shapes.fraction == "auto":
        scaled = shapes.threshold is not None and shapes.threshold.unit == "mad"
        changed["shape_detection"] = shapes.model_copy(update={"fraction": FRACTION if scaled else None})
    return changed


def in_voxels(config: CellsConfig, voxel_size: VoxelSize | None) -> CellsConfig:
    """The configuration with all lengths in voxels and with steps that would do nothing set to None.

    Raises
    ------
    ConfigError
        Micrometres with an unknown voxel size, a window below one voxel, a part of a voxel where whole ones are needed.
    """
    config = with_defaults(config, voxel_size)
    changed: dict[str, Step | None] = {}
    for name in type(config).model_fields:
        step = getattr(config, name)
        if step is None:
            continue
        update: dict[str, Any] = {}
        for field, value in step:
            if isinstance(value, tuple) and value and isinstance(value[0], Length):
                update[field] = _voxels(value, edges(voxel_size, len(value)), name, field)
            elif isinstance(value, Length):  # along one axis of the plane
                edge = edges(voxel_size, 2)[0 if getattr(step, "stripe_axis", "x") == "y" else 1]
                (update[field],) = _voxels((value,), (edge,), name, field)
        changed[name] = step.model_copy(update=update)
    for name, needed in (("illumination_correction", "flatfield"), ("dog_filter", "shape")):
        step = getattr(config, name)
        if step is not None and getattr(step, needed) is None:
            if step != type(step)():
                raise ConfigError(f"{name}: without a {needed} the step does nothing; give {name}.{needed}, or none")
            changed[name] = None
    if changed.get("background_correction") is None:
        changed["background_jump"] = None
    return config.model_copy(update=changed)


def _voxels(
    lengths: tuple[Length, ...], voxel_edges: tuple[float | None, ...], name: str, field: str
) -> tuple[Length, ...]:
    result = []
    for length, edge in zip(lengths, voxel_edges, strict=True):
        try:
            value = length.in_voxels(edge)
        except ConfigError as error:
            raise ConfigError(f"{name}.{field}: {error}") from None
        if field not in _REAL:
            if length.unit == "um":
                odd = (name, field) in _ODD
                value = 2 * round((value - 1) / 2) + 1 if odd else round(value)
                # a window of one plane would give a maximum in every plane of a cell
                value = max(value, 3 if name == "maxima_detection" else 1)
            elif value != int(value) or value < 1:
                raise ConfigError(f"{name}.{field}: {length} voxels: give whole voxels, at least 1")
        result.append(Length(float(value)))
    return tuple(result)


def noise_scaled(config: CellsConfig) -> bool:
    """Whether a threshold is a multiple of the noise, or a feature, so that the noise of the volume must be known."""
    if config.features is not None and "peak_to_noise" in config.features.measure:
        return True
    return any(t is not None and t.unit == "mad" for t in _thresholds(config))


def with_noise(config: CellsConfig, noise: float) -> CellsConfig:
    """The configuration with every threshold a grey value: multiples of the noise times `noise`."""
    changed: dict[str, Step] = {}
    for name in ("maxima_detection", "shape_detection"):
        step = getattr(config, name)
        if step is None:
            continue
        update = {
            # a height must be positive even where there is no noise: any step is high enough then
            field: Threshold(max(value.value * noise, _LEAST) if field == "h_max" else value.value * noise)
            for field, value in step
            if isinstance(value, Threshold) and value.unit == "mad"
        }
        changed[name] = step.model_copy(update=update)
    return config.model_copy(update=changed)


def _thresholds(config: CellsConfig) -> list[Threshold | None]:
    maxima, shapes = config.maxima_detection, config.shape_detection
    return [
        *((maxima.h_max, maxima.threshold) if maxima is not None else ()),
        *((shapes.threshold,) if shapes is not None else ()),
    ]


def whole(lengths: tuple[Length, ...]) -> tuple[int, ...]:
    """Lengths of a resolved configuration as whole voxels."""
    return tuple(int(length.value) for length in lengths)


def real(lengths: tuple[Length, ...]) -> tuple[float, ...]:
    """Lengths of a resolved configuration as real numbers of voxels."""
    return tuple(length.value for length in lengths)
