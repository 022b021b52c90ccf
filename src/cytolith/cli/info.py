"""``cytolith info``: what a volume is, before a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cytolith.quantities import format_bytes, parse_triple

if TYPE_CHECKING:
    from cytolith.cli.estimate import Estimate
    from cytolith.io.statistics import Statistics
    from cytolith.io.volume import Volume


def info(
    input: Annotated[str, Parameter()],  # noqa: A002 - the name users see
    /,
    *,
    voxel_size: str | None = None,
    channel: int | None = None,
    timepoint: int | None = None,
    level: int | None = None,
    dataset: str | None = None,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show what a volume is, which planes cannot be read, how its voxels are spread, and what a run would take.

    Parameters
    ----------
    input
        Folder or glob of planes, TIFF file, .npy, HDF5, Imaris, BigDataViewer, or zarr, also as a URL.
    voxel_size
        Edges Z,Y,X of a voxel in micrometres, for the estimate. Default: from the metadata.
    channel
        Channel, counted from 0. Default: the first, and a note where there are several.
    timepoint
        Timepoint, counted from 0. Default: the first, and a note where there are several.
    level
        Resolution level of a pyramid; 0 is the finest.
    dataset
        Array of a zarr group, or dataset of an HDF5 file, that holds several.
    all_
        Read and decode every voxel instead of the headers and a sample.
    as_json
        Print one JSON object.
    """
    from cytolith.errors import VolumeError

    size = None if voxel_size is None else parse_triple(voxel_size, "--voxel-size")
    volume, shown = _open(input, size, channel=channel, timepoint=timepoint, level=level, dataset=dataset)
    listing = volume.describe()
    if shown:
        listing["shown"] = shown
    unreadable, statistics, estimate = _look(volume, complete=all_)
    if as_json:
        print(json.dumps(_as_json(listing, unreadable, statistics, estimate), indent=2))
    else:
        _print(listing, volume, unreadable, statistics, estimate)
    if unreadable:
        count = f"{len(unreadable):,} of {volume.shape[0]:,} planes cannot be read"
        raise VolumeError(f"{input}: {count} ({_ranges(unreadable)}); copy or export them again")
    return 0


def _open(source: str, size: Any, **options: Any) -> tuple[Volume, str]:
    """The volume, and which of several it is where none was chosen."""
    from cytolith.errors import VolumeError
    from cytolith.io.volume import open_volume

    try:
        return open_volume(source, size, **options), ""
    except VolumeError as error:
        if not any(f"choose one with {option}=" in str(error) for option in ("channel", "timepoint")):
            raise
    # what there is to choose from is what this command tells: the first of several stands for all
    given = {name: options[name] or 0 for name in ("channel", "timepoint")}
    volume = open_volume(source, size, **options | given)
    several = {"channel": volume.storage.channels, "timepoint": volume.storage.timepoints}
    return volume, ", ".join(f"{name} {given[name]}" for name, held in several.items() if len(held) > 1)


def _look(volume: Volume, *, complete: bool) -> tuple[dict[int, str], Statistics, Estimate | str]:
    """Planes that cannot be read, statistics of the others, and the estimate or why there is none."""
    from cytolith.cells.config import CellsConfig
    from cytolith.cells.pipeline import prepare
    from cytolith.cli.estimate import estimate_cells
    from cytolith.errors import CytolithError, VolumeError
    from cytolith.io.statistics import statistics_of, unreadable_planes

    unreadable: dict[int, str] = {}
    prepared, reason = None, ""
    try:
        prepared = prepare(volume, CellsConfig())  # which checks the volume too
    except VolumeError:
        unreadable = unreadable_planes(volume)
        reason = "planes cannot be read"
    except CytolithError as error:
        reason = str(error)
    statistics = statistics_of(volume, complete=complete)
    unreadable = dict(sorted({**statistics.unreadable, **unreadable}.items()))
    if prepared is None:
        return unreadable, statistics, reason
    try:
        per_voxel = statistics.read_seconds / max(statistics.voxels, 1)
        return unreadable, statistics, estimate_cells(volume, prepared, per_voxel)
    except CytolithError as error:
        return unreadable, statistics, str(error)


def _print(
    listing: Mapping[str, object],
    volume: Volume,
    unreadable: Mapping[int, str],
    statistics: Statistics,
    estimate: Estimate | str,
) -> None:
    for name, value in listing.items():
        if name == "bytes" and isinstance(value, int):
            value = f"{format_bytes(value)} ({value:,} bytes)"
        elif name == "voxel_size" and isinstance(value, tuple):
            value = f"{' x '.join(f'{edge:g}' for edge in value)} um (z, y, x)"
        elif isinstance(value, (tuple, list)):
            value = ", ".join(map(str, value))
        _line(name.replace("_", " "), value)
    of = "all voxels" if statistics.complete else f"a sample of {statistics.voxels:,} voxels; --all reads all"
    if statistics.voxels > statistics.not_finite:
        _line("values", f"{statistics.lowest:.6g} to {statistics.highest:.6g}, mean {statistics.mean:.6g} ({of})")
        _line("percentiles", ", ".join(f"{share:g} %: {value:.6g}" for share, value in statistics.percentiles.items()))
    if statistics.full_scale is not None:
        share = _percent(statistics.saturated, statistics.voxels)
        at = f"at {statistics.full_scale:g}{_camera(statistics, volume)}"
        _line("saturation", f"{share} of the voxels {at}" if statistics.saturated else f"no voxel {at}")
    if statistics.not_finite:
        share = _percent(statistics.not_finite, statistics.voxels)
        _line("not finite", f"{share} of the voxels are NaN or infinite: replace them before a run")
    if statistics.whole_planes:
        planes = statistics.constant_planes
        named = f"planes {_ranges(planes)}" if len(planes) > 1 else f"plane {_ranges(planes)}" if planes else "none"
        _line("no signal", f"{named} (of {statistics.whole_planes:,} planes looked at)")
    _line("readable", _readable(volume, unreadable, statistics))
    for z, text in unreadable.items():
        print(f"  plane {z}: {text}")
    for line in _estimate_lines(estimate):
        _line("cells run", line)


def _line(name: str, value: object) -> None:
    print(f"{name:<12} {value}")


def _camera(statistics: Statistics, volume: Volume) -> str:
    """Why a value is taken as the largest there can be."""
    bits = math.log2(statistics.full_scale + 1) if statistics.full_scale else 0
    if statistics.full_scale == 2 ** (8 * volume.dtype.itemsize - (volume.dtype.kind == "i")) - 1:
        return f", the largest {volume.dtype}"
    return f", the largest value of a camera of {bits:g} bits"


def _readable(volume: Volume, unreadable: Mapping[int, str], statistics: Statistics) -> str:
    how = "decoded" if statistics.complete or statistics.unreadable else "headers; --all decodes them"
    if not unreadable:
        return f"all {volume.shape[0]:,} planes ({how})"
    return f"not {len(unreadable):,} of {volume.shape[0]:,} planes:"


def _estimate_lines(estimate: Estimate | str) -> Iterable[str]:
    if isinstance(estimate, str):
        yield f"no estimate: {estimate}"
        return
    yield f"memory at least {format_bytes(estimate.least_bytes)}, planned {format_bytes(estimate.planned_bytes)}"
    blocks = f"{estimate.blocks:,} block{'s' if estimate.blocks > 1 else ''} of {', '.join(map(str, estimate.core))}"
    yield f"{blocks} on {estimate.workers} worker{'s' if estimate.workers > 1 else ''}"
    if estimate.seconds is None:
        yield "time: known once the kernels are compiled, which the first run does in about a minute"
    else:
        yield f"about {_duration(estimate.seconds)}, as measured on a small part of this volume"


def _duration(seconds: float) -> str:
    """A time as people say it, one or two digits."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{round(seconds, -1 if seconds > 30 else 0):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _percent(part: int, whole: int) -> str:
    """A share of something, which is never shown as 0."""
    share = 100 * part / whole
    return f"{share:.3g} %" if share >= 0.001 else "less than 0.001 %"


def _ranges(planes: Iterable[int]) -> str:
    """Plane numbers with neighbours joined: ``0-3, 7``."""
    parts: list[list[int]] = []
    for z in planes:
        if parts and parts[-1][1] == z - 1:
            parts[-1][1] = z
        else:
            parts.append([z, z])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in parts)


def _as_json(
    listing: Mapping[str, Any], unreadable: Mapping[int, str], statistics: Statistics, estimate: Estimate | str
) -> dict[str, Any]:
    """The same as numbers; None for what is not known."""
    size = listing["voxel_size"]
    return {
        **listing,
        "voxel_size": list(size) if isinstance(size, tuple) else None,
        "chunks": None if listing["chunks"] == "unknown" else listing["chunks"],
        "values": {
            "voxels": statistics.voxels,
            "complete": statistics.complete,
            "lowest": _number(statistics.lowest),
            "highest": _number(statistics.highest),
            "mean": _number(statistics.mean),
            "percentiles": {f"{share:g}": _number(value) for share, value in statistics.percentiles.items()},
            "not_finite": statistics.not_finite,
            "full_scale": statistics.full_scale,
            "saturated": statistics.saturated,
        },
        "planes": {
            "looked_at": statistics.whole_planes,
            "constant": statistics.constant_planes,
            "unreadable": [{"plane": z, "error": text} for z, text in unreadable.items()],
        },
        "cells_run": {"error": estimate}
        if isinstance(estimate, str)
        else {
            "memory_least": estimate.least_bytes,
            "memory_planned": estimate.planned_bytes,
            "workers": estimate.workers,
            "blocks": estimate.blocks,
            "core": list(estimate.core),
            "seconds": estimate.seconds,
        },
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
