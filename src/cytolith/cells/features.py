"""Measures of a cell and of what lies around it, for telling cells from what looks like them.

All are taken at the first highest voxel of the maximum, on windows of fixed extent, so each is the same in whatever
block it is computed. Extents are multiples of the `cell` of the step (12 um by default).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape
from cytolith.cells.config import FEATURES, CellsConfig, Features
from cytolith.cells.images import TRUNCATE, Image, sigmas
from cytolith.cells.resolve import real
from cytolith.engine.workspace import Workspace
from cytolith.kernels.gaussian import smooth
from cytolith.kernels.surroundings import easiest_way_out, window_centiles, window_statistics

WIDEST = 5.0
"""Radius of the widest window, in cells."""
WIDER = 1.6
"""Width of the second smoothing of `dog_to_peak` against the first."""
_RAY = 14 / 12
"""Length of the rays of `relief`, in cells."""


def features_reach(step: Features) -> Shape:
    """Voxels around a maximum that its features depend on, beside the images' own reach."""
    z, y, x = (int(np.floor(WIDEST * extent)) for extent in _cell(step))
    return z, y, x


@dataclass(frozen=True, eq=False)
class Windows:
    """Offsets of the windows, in voxels."""

    ring: NDArray[np.int64]
    """Shell of 5/6 to 4/3 cells: the nearest surroundings."""
    inner_ring: NDArray[np.int64]
    """Shell of 2/3 to 1 cell."""
    near: NDArray[np.int64]
    """Cylinder of 2 cells."""
    wide: NDArray[np.int64]
    """Cylinder of 10/3 cells."""
    high: NDArray[np.int64]
    """Cylinder of 2.5 cells, every voxel."""
    around: NDArray[np.int64]
    """Cylinder of 5 cells, every half cell."""
    rays: NDArray[np.int64]
    """(84, 13, 3): lines outwards in all directions."""


def windows_of(step: Features) -> Windows:
    """The windows for the resolved cell of a step."""
    cell = _cell(step)
    return Windows(
        ring=_shell(cell, 10 / 12, 16 / 12),
        inner_ring=_shell(cell, 8 / 12, 1.0),
        near=_cylinder(cell, 2.0, 0.3),
        wide=_cylinder(cell, 40 / 12, 0.3),
        high=_cylinder(cell, 2.5, 0.0),
        around=_cylinder(cell, WIDEST, 0.5),
        rays=_rays(cell),
    )


def feature_columns(
    images: dict[str, Image], at: NDArray[np.int64], noise: float | None, config: CellsConfig, workspace: Workspace
) -> dict[str, NDArray[np.float64]]:
    """The features that a configuration asks for, one column each.

    Parameters
    ----------
    images
        What the image steps gave, in the voxels of one region.
    at
        (n, 3): voxels of the region, one a cell.
    noise
        Noise of the image that maxima are looked for in.
    config
        Resolved parameters, with features.
    workspace
        Buffers.

    Returns
    -------
    dict of str to ndarray
        float64, (n,) each, in the order of `cytolith.cells.config.FEATURES`; NaN where a ratio has no value, as with a
        noise of 0.
    """
    step = config.features
    assert step is not None
    windows, shape = windows_of(step), images["source"].shape
    final, source = _real(images["dog_filter"], "features final", workspace), images["source"]
    background = workspace.array("features background", shape, np.float32)
    np.subtract(images["illumination_correction"], images["background_correction"], out=background, dtype=np.float32)
    width = _smoothing(config)
    raw = smooth(source, width, truncate=TRUNCATE, out=workspace.array("features raw", shape, np.float32))
    wider = smooth(
        images["equalization"],
        (WIDER * width[0], WIDER * width[1], WIDER * width[2]),
        truncate=TRUNCATE,
        out=workspace.array("features wider", shape, np.float32),
    )
    voxel = tuple(at.T)
    peak, own = final[voxel].astype(np.float64), background[voxel].astype(np.float64)
    bright = raw[voxel].astype(np.float64)
    _, near_high, _, near_sd = window_statistics(background, at, windows.near)
    wide_low, wide_high, _, _ = window_statistics(background, at, windows.wide)
    (ring,) = window_centiles(final, at, windows.ring, [0.95])
    (raw_ring,) = window_centiles(raw, at, windows.inner_ring, [0.95])
    (raw_middle,) = window_centiles(raw, at, windows.ring, [0.5])
    _, highest, _, _ = window_statistics(final, at, windows.high)
    _, _, mean, deviation = window_statistics(final, at, windows.around)
    one = np.maximum(own, 1.0)
    columns = {
        "peak_to_noise": _ratio(peak, np.full(len(peak), noise if noise else np.nan)),
        "peak_to_background": peak / one,
        "background": own,
        "ring_to_peak": _ratio(ring, peak),
        "raw_contrast": _ratio(bright - raw_ring, peak),
        "raw_height": _ratio(bright - raw_middle, bright),
        "relief": 1 - _ratio(easiest_way_out(final, at, windows.rays), peak),
        "dog_to_peak": 1 - _ratio(wider[voxel].astype(np.float64), peak),
        "background_sd": _ratio(near_sd, peak),
        "background_jump": near_high / one,
        "background_jump_wide": wide_high / one,
        "background_low": wide_low / one,
        "relative_height": _ratio(peak, highest),
        "mean_around": _ratio(mean, peak),
        "sd_around": _ratio(deviation, peak),
    }
    return {name: columns[name] for name in FEATURES if name in step.measure}


def _ratio(value: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.full(value.shape, np.nan)
    np.divide(value, by, out=result, where=(by != 0) & np.isfinite(value) & np.isfinite(by))
    return result


def _real(image: Image, name: str, workspace: Workspace) -> NDArray[np.float32]:
    if image.dtype == np.float32:
        return image
    out: NDArray[np.float32] = workspace.array(name, image.shape, np.float32)
    np.copyto(out, image)
    return out


def _cell(step: Features) -> tuple[float, float, float]:
    assert step.cell is not None
    z, y, x = real(step.cell)
    return z, y, x


def _smoothing(config: CellsConfig) -> tuple[float, float, float]:
    """Standard deviations of the smoothing, or those of the default one for this cell."""
    assert config.features is not None
    if config.smoothing is not None and config.smoothing.sigma is not None:
        return sigmas(config.smoothing.sigma)
    z, y, x = _cell(config.features)
    return 0.35 * z, 0.2 * y, 0.2 * x


def _grid(cell: tuple[float, ...], radius: float, stride: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Offsets on a grid through 0 within a radius, in voxels and in cells; `stride` in cells, at least a voxel."""
    axes = []
    for extent in cell:
        step = max(1, int(stride * extent))
        most = int(radius * extent) // step
        axes.append(step * np.arange(-most, most + 1))
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.int64)
    return voxels, voxels / np.array(cell)


def _shell(cell: tuple[float, ...], inner: float, outer: float) -> NDArray[np.int64]:
    voxels, places = _grid(cell, outer, 0.0)
    distance = np.linalg.norm(places, axis=1)
    kept: NDArray[np.int64] = voxels[(distance > inner) & (distance <= outer)]
    return kept


def _cylinder(cell: tuple[float, ...], radius: float, stride: float) -> NDArray[np.int64]:
    voxels, places = _grid(cell, radius, stride)
    kept: NDArray[np.int64] = voxels[np.hypot(places[:, 1], places[:, 2]) <= radius]
    return kept


def _rays(cell: tuple[float, ...]) -> NDArray[np.int64]:
    """Seven cones of twelve rays; each has a voxel every twelfth of a cell, beginning at a sixth."""
    up = np.repeat(np.linspace(-1, 1, 7), 12)
    turn = np.tile(np.arange(12) * (np.pi / 6), 7)
    across = np.sqrt(np.maximum(1 - up * up, 0.0))
    directions = np.stack([up, across * np.sin(turn), across * np.cos(turn)], 1)
    steps = np.arange(2, round(12 * _RAY) + 1) / 12
    # a hair above the half, so that a last bit does not decide on which side of it a voxel lies
    voxels = np.floor(directions[:, None] * steps[:, None] * np.array(cell) + 0.5 + 1e-9)
    return np.asarray(voxels, np.int64)


def empty_columns(config: CellsConfig) -> dict[str, NDArray[Any]]:
    """The columns of no cell."""
    if config.features is None:
        return {}
    return {name: np.empty(0) for name in FEATURES if name in config.features.measure}
