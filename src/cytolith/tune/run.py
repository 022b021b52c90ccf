"""The shell of tune: a volume and annotated cells in, ``config.toml``, ``tune.json`` and ``trials.csv`` out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, VoxelSize, full_region
from cytolith.cells.build import to_toml
from cytolith.cells.config import CellsConfig
from cytolith.cells.costs import bytes_per_voxel
from cytolith.cells.pipeline import PROCESS_BYTES, Prepared, prepare
from cytolith.cells.resolve import in_voxels
from cytolith.engine.machine import default_memory
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError
from cytolith.io.files import output_error, write_text
from cytolith.io.tables import read_points, write_table
from cytolith.io.volume import Volume, open_volume
from cytolith.quantities import Length, format_bytes, format_region, parse_region
from cytolith.tune.chain import Chain, block_voxels, unsaved
from cytolith.tune.regions import inside, largest_inside, refuse_overlap
from cytolith.tune.search import Numbers, Scorer, Trial, Tuned, search
from cytolith.tune.space import Space, make_space

CONFIG, RECORD, TRIALS = "config.toml", "tune.json", "trials.csv"
_CACHE_AT_MOST = 4 * 2**30


@dataclass(frozen=True)
class TuneReport:
    """What a command tells of a search."""

    tuned: Tuned
    files: tuple[Path, ...]
    cells: int
    """Annotated cells inside the regions."""
    outside: int
    """Annotated cells that lie outside and were not looked at."""
    seconds: float
    runs: Mapping[str, int]
    """How often each image step was computed."""
    trials: int
    """Different choices among the trials."""
    factors: Mapping[str, float]
    """What the tuned parameters differ from the start by."""


@dataclass(frozen=True)
class TunePaths:
    """Where the results go."""

    config: Path
    record: Path
    trials: Path

    @classmethod
    def of(cls, output: Path, *, overwrite: bool) -> TunePaths:
        """Files in a folder, or beside a .toml that is named; refuses what is there without `overwrite`."""
        if output.suffix.lower() == ".toml":
            paths = cls(output, output.with_suffix(".json"), output.with_suffix(".trials.csv"))
        else:
            paths = cls(output / CONFIG, output / RECORD, output / TRIALS)
        for path in (paths.config, paths.record, paths.trials):
            if path.is_dir():
                raise OutputError(f"{path}: is a folder; give another --output")
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: exists; give another --output, or --overwrite to replace it")
        return paths


def tune_cells(
    source: Any,
    truth: Path | str | NDArray[np.float64],
    output: Path | None = None,
    *,
    config: CellsConfig | None = None,
    regions: Sequence[str | Region] = (),
    voxel_size: VoxelSize | None = None,
    options: Mapping[str, Any] | None = None,
    tolerance: Length = Length(8, "um"),  # noqa: B008 - a tuple
    trials: int = 200,
    seed: int = 0,
    timeout: float | None = None,
    only: Iterable[str] | None = None,
    memory: int | None = None,
    overwrite: bool = False,
    listener: Callable[[Trial], None] = lambda _: None,
) -> TuneReport:
    """Find parameters of the cells pipeline for annotated cells.

    Parameters
    ----------
    source
        What :func:`cytolith.open_volume` reads.
    truth
        Annotated centres: a file with columns z, y, x in voxels, or float64 (n, 3).
    output
        Folder, or a .toml; None writes nothing.
    config
        Where the search starts, and what is kept unless something is better. Default: the defaults.
    regions
        Where the annotation is complete, as slices or ``z0:z1,y0:y1,x0:x1``; default: everywhere. Detections and
        annotated cells elsewhere do not count.
    voxel_size
        Edges (z, y, x) of a voxel in micrometres; default: from the metadata.
    options
        Channel, timepoint, level and dataset of the source.
    tolerance
        Largest distance of a detection from its annotated cell.
    trials, seed, timeout, listener
        As in :func:`cytolith.tune.search.search`.
    only
        Names of the parameters to tune, of :data:`cytolith.tune.space.NAMES`; default: all.
    memory
        Bytes to stay below; default: half of the machine's.
    overwrite
        Replace earlier results.

    Returns
    -------
    TuneReport
        The parameters, and F1 on cells fitted to and on cells held out, for the start and tuned.

    Raises
    ------
    VolumeError, ConfigError
        Input that cannot be read, options that cannot be used, no annotated cell in the regions.
    MemoryBudgetError
        Regions that memory does not hold; the largest that fits is named.
    OutputError
        Results that are there already, or cannot be written.
    """
    begin = time.perf_counter()
    if trials < 1:
        raise ConfigError(f"--trials {trials}: give at least 1")
    if timeout is not None and not timeout > 0:
        raise ConfigError(f"--timeout {timeout:g}: give a time above 0 in seconds")
    options = dict(options or {})
    paths = None if output is None else TunePaths.of(output, overwrite=overwrite)
    volume = open_volume(source, voxel_size=voxel_size, **options)
    parsed = [parse_region(r, volume.shape) if isinstance(r, str) else r for r in regions]
    refuse_overlap(parsed)
    parsed = parsed or [full_region(volume.shape)]
    if tolerance.unit == "um" and volume.voxel_size is None:
        raise ConfigError(f"--tolerance {tolerance}: the voxel size is unknown; add --voxel-size Z,Y,X")
    points = read_points(truth) if isinstance(truth, (str, Path)) else np.asarray(truth, np.float64).reshape(-1, 3)
    name = str(truth) if isinstance(truth, (str, Path)) else "the annotated cells"
    cells = points[inside(points, parsed)]
    if not len(cells):
        raise ConfigError(_nothing(name, points, volume.shape))
    start = unsaved(config if config is not None else CellsConfig())
    space = make_space(start, volume.voxel_size, only)
    budget = default_memory() if memory is None else memory
    prepared = prepare(volume, space.start, workers=1, memory=2**62)
    room = _room_for_images(space, prepared, parsed, budget)
    edges = volume.voxel_size if tolerance.unit == "um" else None
    chain = Chain(prepared, parsed, space.halo(), room)
    scorer = Scorer(chain, space, cells, tolerance.value, edges or (1.0, 1.0, 1.0))
    tuned = search(scorer, space, trials=trials, seed=seed, timeout=timeout, listener=listener)
    if paths is not None:
        keys = {"input": str(source), "voxel_size": volume.voxel_size, **options}
        record = _record(tuned, space, volume, name, parsed, tolerance, seed, len(cells))
        _write(paths, tuned, space, to_toml(_for_file(tuned, config), keys), record)
    return TuneReport(
        tuned,
        () if paths is None else (paths.config, paths.record, paths.trials),
        len(cells),
        len(points) - len(cells),
        time.perf_counter() - begin,
        chain.runs,
        scorer.scored,
        _factors(tuned, space),
    )


def _nothing(name: str, points: NDArray[np.float64], shape: Shape) -> str:
    if not len(points):
        return f"{name}: no annotated cells; tune needs some to learn from"
    last = ", ".join(f"{value:g}" for value in points.max(0))
    return (
        f"{name}: none of {len(points):,} annotated cells lies in the region (largest z, y, x: {last}; the volume has "
        f"{' x '.join(map(str, shape))}): positions are voxels in the order z, y, x"
    )


def _room_for_images(space: Space, prepared: Prepared, regions: Sequence[Region], budget: int) -> int:
    """Bytes that images may be kept in; MemoryBudgetError where the regions do not even fit once."""
    volume = prepared.reader.volume
    shape = volume.shape
    everything: dict[str, float] = {"dog": 1.0} if "dog" in space.names else {}
    resolved = in_voxels(space.config(everything), space.voxel_size)
    per_voxel = bytes_per_voxel(resolved.model_copy(update={"shape_detection": None}), volume.dtype)
    halo = space.halo()
    source = volume.dtype.itemsize * sum(block_voxels(region, halo, shape) for region in regions)
    largest = max(regions, key=lambda region: block_voxels(region, halo, shape))
    needed = PROCESS_BYTES + volume.read_bytes + source + math.ceil(per_voxel * block_voxels(largest, halo, shape))
    if needed > budget:
        free = budget - PROCESS_BYTES - volume.read_bytes
        fits = largest_inside(largest, halo, shape, free / (per_voxel + volume.dtype.itemsize * len(regions)))
        advice = "give more --memory" if fits is None else f"the largest that fits is --region {format_region(fits)}"
        raise MemoryBudgetError(
            f"--region {format_region(largest)}: tune needs {format_bytes(needed)}, more than --memory "
            f"{format_bytes(budget)}; {advice}"
        )
    return min(budget - needed, _CACHE_AT_MOST)


def _for_file(tuned: Tuned, config: CellsConfig | None) -> CellsConfig:
    """The recommended parameters, with files that steps of the user's own configuration write."""
    if config is None:
        return tuned.config
    changed = {
        name: step.model_copy(update={"save": getattr(config, name).save})
        for name, step in tuned.config
        if step is not None and getattr(getattr(config, name), "save", None) is not None
    }
    return tuned.config.model_copy(update=changed)


def _factors(tuned: Tuned, space: Space) -> dict[str, float]:
    return {name: tuned.choice[name] for name, start in space.start_choice.items() if tuned.choice[name] != start}


def _numbers(numbers: Numbers) -> dict[str, float]:
    scores = {"precision": numbers.precision, "recall": numbers.recall, "f1": numbers.f1}
    return asdict(numbers) | {name: round(value, 6) for name, value in scores.items()}


def _record(
    tuned: Tuned,
    space: Space,
    volume: Volume,
    truth: str,
    regions: Sequence[Region],
    tolerance: Length,
    seed: int,
    cells: int,
) -> dict[str, Any]:
    return {
        "input": volume.name,
        "truth": truth,
        "annotated_cells": cells,
        "regions": [format_region(region) for region in regions],
        "tolerance": str(tolerance),
        "seed": seed,
        "trials": len(tuned.trials),
        "interrupted": tuned.interrupted,
        "tuned": [*space.names, "threshold"],
        "changed": tuned.changed,
        "reason": tuned.reason,
        "threshold": str(tuned.threshold),
        "factors": _factors(tuned, space),
        "fitted": {"start": _numbers(tuned.start_fitted), "tuned": _numbers(tuned.fitted)},
        "held_out": {"start": _numbers(tuned.start_held_out), "tuned": _numbers(tuned.held_out)},
    }


def _write(paths: TunePaths, tuned: Tuned, space: Space, config: str, record: Mapping[str, Any]) -> None:
    try:
        paths.config.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(paths.config.parent, error) from error
    trials = tuned.trials
    columns: dict[str, NDArray[Any]] = {"trial": np.array([t.number for t in trials], np.int64)}
    start = space.start_choice
    for name in space.names:
        columns[name] = np.array([t.choice.get(name, start[name]) for t in trials], np.float64)
    columns["threshold"] = np.array([str(t.threshold) for t in trials])
    columns["f1_fitted"] = np.array([t.f1 for t in trials], np.float64)
    columns["best_f1_fitted"] = np.array([t.best_f1 for t in trials], np.float64)
    write_table(columns, paths.trials)
    write_text(paths.record, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    write_text(paths.config, _remark(record) + config)


def _remark(record: Mapping[str, Any]) -> str:
    """What a reader of the configuration should know of where it comes from."""
    held, fitted = record["held_out"], record["fitted"]
    what = "Tuned" if record["changed"] else f"Kept as it was ({record['reason']})"
    return (
        f"# {what}: {record['annotated_cells']} annotated cells, within {record['tolerance']}.\n"
        f"# F1 on cells held out: {held['start']['f1']:.3f} at the start, {held['tuned']['f1']:.3f} tuned; on cells "
        f"that parameters were fitted to: {fitted['start']['f1']:.3f}, {fitted['tuned']['f1']:.3f}.\n"
    )
