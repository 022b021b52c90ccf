"""Figures of a report: histograms, profiles and maps, by matplotlib's object interface, without a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, INK = "#0072b2", "#d55e00", "#8a8f98", "#22262b"
"""Of Okabe and Ito's palette for the colour-blind."""
_BINS = 48
_SPREAD = 8  # a quantity that spans more than so many times its median is shown on a logarithmic scale


def new_figure(width: float, height: float) -> Figure:
    """Empty figure of a size in inches, in the style of the report."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def style(axes: Axes) -> Axes:
    """Axes with what distracts taken off."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=GREY)
    axes.xaxis.label.set(color=INK, size=10)
    axes.yaxis.label.set(color=INK, size=10)
    return axes


def histogram(
    values: NDArray[Any], label: str, limits: Sequence[float | None] = (None, None), *, unit: str = "cells"
) -> Figure:
    """How often values occur; what is not finite is left out.

    Parameters
    ----------
    values
        Any numbers, any count.
    label
        Quantity and unit, below the axis.
    limits
        Minimum and maximum of a filter, drawn as lines where they are given.
    unit
        What is counted.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = new_figure(4.6, 2.6)
    axes = style(figure.add_subplot())
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    axes.set(xlabel=label, ylabel=unit)
    if not values.size:
        axes.set(yticks=[], xticks=[])
        axes.text(0.5, 0.5, "no values", ha="center", va="center", color=GREY, transform=axes.transAxes)
        return figure
    bins, is_log = bins_of(values)
    counts, edges = np.histogram(values, bins)
    axes.stairs(counts, edges, fill=True, color=BLUE)
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if bins[-1] < 40 * bins[0] else (1.0,)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    median = float(np.median(values))
    axes.axvline(median, color=INK, lw=1, ls=":", label=f"median {median:,.4g}")
    for limit, name in zip(limits, ("minimum", "maximum"), strict=True):
        if limit is not None:
            axes.axvline(limit, color=ORANGE, lw=1.5, label=f"{name} {limit:,.4g}")
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    axes.set_ylim(bottom=0)
    return figure


def bins_of(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Edges of the bins of a histogram that hold all values, and whether they are equal on a logarithmic scale."""
    low, high = float(values.min()), float(values.max())
    median = float(np.median(values))
    if low > 0 and high > _SPREAD * median:
        return np.geomspace(low, high * (1 + 1e-12), _BINS + 1), True
    if high <= low:
        return np.array([low - 0.5, low + 0.5]), False
    if (values == np.rint(values)).all():
        step = max(1, -(-int(high - low + 1) // _BINS))  # bins of whole numbers all hold equally many of them
        return np.arange(low - 0.5, high + step + 0.5, step), False
    return np.linspace(low, high, _BINS + 1), False


def plane_profiles(cells: NDArray[Any], planes: NDArray[Any] | None, mean: NDArray[Any] | None) -> Figure:
    """Cells in each plane, and the mean grey value of the planes below it where it is known."""
    figure = new_figure(9.4, 2.6 if mean is None else 4.2)
    if mean is None or planes is None:
        upper = style(figure.add_subplot())
        upper.set_xlabel("plane z")
    else:
        upper, lower = (style(axes) for axes in figure.subplots(2, 1, sharex=True, height_ratios=(3, 2)))
        lower.plot(planes, mean, color=INK, lw=1, marker="." if len(planes) < 3 else None)
        lower.set(xlabel="plane z", ylabel="mean grey value")
        lower.set_ylim(min(0.0, float(np.min(mean))), max(float(np.max(mean)) * 1.08, 1e-6))
    upper.stairs(cells, np.arange(len(cells) + 1) - 0.5, fill=True, color=BLUE)
    upper.set(ylabel="cells in plane")
    upper.set_xlim(-0.5, len(cells) - 0.5)
    upper.set_ylim(bottom=0)
    return figure


def density_maps(places: NDArray[np.float64], extents: Sequence[float], unit: str) -> Figure:
    """Cells in a unit of volume, averaged over the depth along each axis.

    Parameters
    ----------
    places
        (n, 3): z, y, x in `unit`, from the corner of the volume.
    extents
        Edges of the volume (z, y, x).
    unit
        ``"µm"`` or ``"voxels"``.
    """
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    depth, height, width = extents
    edge = _bin_edge(len(places), extents)
    scale, per = (1e9, "cells / mm³") if unit == "µm" else (1e6, "cells / million voxels")
    is_deep, is_flat = depth > 1.2 * max(height, width), depth <= edge
    views = [((1, 2), 0), ((1, 0), 2), ((2, 0) if is_deep else (0, 2), 1)]  # rows and columns, and what is averaged
    if is_flat:
        tall = float(np.clip(7.0 * height / width, 2.5, 8))
    elif is_deep:
        tall = float(np.clip(4.0 * height / width, 3.6, 8))
    else:
        tall = float(np.clip(8.4 * (height + depth) / (width + depth), 3, 9))
    figure = new_figure(9.4, tall)
    ratios = (1, 1.25) if is_deep else (1, depth / width)
    grid = figure.add_gridspec(2, 2, width_ratios=ratios, height_ratios=(1, 1 if is_deep else depth / height))
    places_in_grid = [grid[:, 0] if is_deep else grid[0, 0], grid[0, 1], grid[1, 1] if is_deep else grid[1, 0]]
    for ((rows, columns), through), place in zip(views, [grid[:, :]] if is_flat else places_in_grid, strict=False):
        axes = style(figure.add_subplot(place))
        density = _density(places, extents, (rows, columns), through, edge) * scale
        box = (0, extents[columns], extents[rows], 0)
        top = float(np.percentile(density, 99.5)) or 1.0
        image = axes.imshow(density, extent=box, vmin=0, vmax=top, cmap="viridis", aspect="equal")
        axes.set(xlabel=f"{'zyx'[columns]} ({unit})", ylabel=f"{'zyx'[rows]} ({unit})")
        axes.locator_params(nbins=4)
        axes.set_title(f"averaged along {'zyx'[through]}", fontsize=9, color=INK, loc="left")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=22, pad=0.02, extend="max")
        bar.set_label(per, size=9, color=INK)
        bar.formatter = StrMethodFormatter("{x:,.0f}" if top >= 10 else "{x:.2g}")
        bar.ax.tick_params(labelsize=8)
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
    return figure


def _bin_edge(count: int, extents: Sequence[float]) -> float:
    """Edge of square bins that hold a few cells each, where there are enough."""
    longest = max(extents)
    area = extents[1] * extents[2]
    return float(np.clip(np.sqrt(area * 6 / max(count, 1)), longest / 160, longest / 8))


def _density(
    places: NDArray[np.float64], extents: Sequence[float], view: tuple[int, int], through: int, edge: float
) -> NDArray[np.float64]:
    bins = [max(round(extents[axis] / edge), 1) for axis in view]
    box = [(0.0, float(extents[axis])) for axis in view]
    counts, _, _ = np.histogram2d(places[:, view[0]], places[:, view[1]], bins=bins, range=box)
    area = np.prod([extents[axis] / n for axis, n in zip(view, bins, strict=True)])
    density: NDArray[np.float64] = counts / (area * extents[through])
    return density
