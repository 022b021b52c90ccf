"""A picture of hits, misses and false alarms over the largest values of the volume along each axis."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.errors import ConfigError, CytolithError
from cytolith.io.files import written_aside
from cytolith.io.volume import Volume, open_volume
from cytolith.score.outcome import Outcome

_MOST_BYTES = 2 * 2**30
"""Of the volume that are read for its projections; of a larger one planes are left out evenly."""
_LONGEST = 1200
"""Pixels along the longer side of a projection."""
_WIDTH = 11.0  # inches
# Okabe and Ito's palette, told apart by the colour-blind and on grey; the shapes differ too
_MARKS = (("hits", "#56B4E9", "o"), ("misses", "#E69F00", "x"), ("false alarms", "#CC79A7", "+"))


def write_picture(outcome: Outcome, path: Path) -> None:
    """Write a PNG of projections along z, y and x with hits, misses and false alarms drawn on them.

    Parameters
    ----------
    outcome
        What is drawn. Behind it lies the volume that the run read, when it is still there.
    path
        File to make or to replace.

    Raises
    ------
    ConfigError
        matplotlib is missing; says how to get it.
    OutputError
        The file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(f"{path}: pictures need matplotlib: pip install 'cytolith[report]'") from None
    volume = _volume(outcome)
    projections, extent, note = _projections(volume) if volume is not None else (None, _extent(outcome), "")
    groups = _groups(outcome)
    edges = np.array(outcome.voxel_size or (1.0, 1.0, 1.0))
    depth, height, width = np.maximum(np.array(extent) * edges, 1e-9)
    figure = Figure(figsize=(_WIDTH, _height(depth, height, width)), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        2, 2, width_ratios=[width, _thick(depth, width)], height_ratios=[height, _thick(depth, height)], squeeze=False
    )
    panels = (
        (grid[0, 0], 0, (1, 2), "along z"), (grid[1, 0], 1, (0, 2), "along y"), (grid[0, 1], 2, (1, 0), "along x"),
    )  # fmt: skip
    for axes, along, (down, right), title in panels:
        box = (-0.5, extent[right] - 0.5, extent[down] - 0.5, -0.5)
        if projections is not None:
            image = projections[along] if (down, right) != (1, 0) else projections[along].T
            axes.imshow(image, cmap="gray", extent=box, aspect="auto", vmin=_low(image), vmax=_high(image))
        else:
            axes.set_facecolor("#222222")
        size = float(np.clip(40_000 / max(sum(map(len, groups)), 1), 0.5, 20))
        for points, (label, colour, mark) in zip(groups, _MARKS, strict=True):
            face = {"facecolors": "none", "edgecolors": colour} if mark == "o" else {"color": colour}
            axes.scatter(
                points[:, right], points[:, down], s=size, marker=mark, linewidths=min(0.3 + size / 20, 1.0),
                label=f"{label} ({len(points):,})", rasterized=True, **face,
            )  # fmt: skip
        axes.set(xlim=box[:2], ylim=box[2:], title=title, xlabel="zyx"[right], ylabel="zyx"[down])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    grid[1, 1].axis("off")
    grid[1, 1].legend(
        handles, labels, loc="center", frameon=True, facecolor="#555555", labelcolor="white", markerscale=2
    )
    result = outcome.matching
    scores = f"precision {result.precision:.3f}  recall {result.recall:.3f}  F1 {result.f1:.3f}"
    figure.suptitle(f"{scores}  within {outcome.tolerance}{note}")
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")


def _groups(outcome: Outcome) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    pairs = outcome.matching.pairs
    return (
        outcome.found[pairs[:, 0]],
        np.delete(outcome.real, pairs[:, 1], axis=0),
        np.delete(outcome.found, pairs[:, 0], axis=0),
    )


def _volume(outcome: Outcome) -> Volume | None:
    """The volume that the run read, when it is there, and is still the same."""
    source = outcome.detections.source
    if source is None:
        return None
    try:
        volume = open_volume(source)
    except CytolithError:
        return None
    return volume if volume.shape == outcome.detections.shape else None


def _extent(outcome: Outcome) -> tuple[int, int, int]:
    if outcome.detections.shape is not None:
        return outcome.detections.shape
    points = np.concatenate([outcome.found, outcome.real, np.zeros((1, 3))])
    z, y, x = (max(math.ceil(value) + 1, 1) for value in points.max(axis=0))
    return z, y, x


def _projections(volume: Volume) -> tuple[list[NDArray[Any]] | None, tuple[int, int, int], str]:
    """Largest values along z, y and x, made smaller, and what to say when planes were left out."""
    Z, Y, X = volume.shape
    plane_bytes = Y * X * volume.dtype.itemsize
    step = max(-(-Z * plane_bytes // _MOST_BYTES), 1)
    along_z = np.full((Y, X), -np.inf, np.float32)
    along_y, along_x = np.full((Z, X), -np.inf, np.float32), np.full((Z, Y), -np.inf, np.float32)
    try:
        for z in range(0, Z, step):
            plane = volume.read((slice(z, z + 1), slice(0, Y), slice(0, X)))[0].astype(np.float32)
            np.fmax(along_z, plane, out=along_z)
            along_y[z : z + step], along_x[z : z + step] = plane.max(axis=0), plane.max(axis=1)
    except CytolithError:  # a volume that is damaged is no reason to have no picture
        return None, volume.shape, ""
    finally:
        volume.close()
    note = f"  (every {step}. plane of the volume)" if step > 1 else ""
    return [_smaller(image) for image in (along_z, along_y, along_x)], volume.shape, note


def _smaller(image: NDArray[Any]) -> NDArray[Any]:
    """Largest values of blocks of pixels, so that a cell is still seen."""
    for axis in (0, 1):
        factor = max(-(-image.shape[axis] // _LONGEST), 1)
        image = np.maximum.reduceat(image, np.arange(0, image.shape[axis], factor), axis=axis)
    return image


def _low(image: NDArray[Any]) -> float:
    return float(np.percentile(image[np.isfinite(image)], 1)) if np.isfinite(image).any() else 0.0


def _high(image: NDArray[Any]) -> float:
    return float(np.percentile(image[np.isfinite(image)], 99.7)) if np.isfinite(image).any() else 1.0


def _thick(depth: float, other: float) -> float:
    """A side view that can be looked at, however thin the volume is."""
    return max(depth, 0.2 * other)


def _height(depth: float, height: float, width: float) -> float:
    ratio = (height + _thick(depth, height)) / (width + _thick(depth, width))
    return float(np.clip(_WIDTH * ratio, 4, 22))
