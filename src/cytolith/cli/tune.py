"""``cytolith tune``: parameters of ``cytolith cells`` from annotated cells."""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

from cyclopts import Parameter

from cytolith.cli.numbers import WHOLE, Whole
from cytolith.errors import ConfigError
from cytolith.quantities import parse_bytes, parse_length, parse_triple

if TYPE_CHECKING:
    from cytolith.tune.run import TuneReport
    from cytolith.tune.search import Numbers, Trial


_SECONDS_BETWEEN = 2.0
"""Lines of progress, where there is no bar, are at least this far apart."""


def tune(
    input: Annotated[str, Parameter()],  # noqa: A002 - the name users see
    truth: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("config.toml"),
    region: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)] = (),
    voxel_size: str | None = None,
    channel: Whole = None,
    timepoint: Whole = None,
    level: Whole = None,
    dataset: str | None = None,
    config: Path | None = None,
    tolerance: str = "8 um",
    trials: Annotated[int, WHOLE] = 200,
    only: str | None = None,
    seed: Annotated[int, WHOLE] = 0,
    timeout: float | None = None,
    memory: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
) -> int:
    """Find parameters of ``cytolith cells`` for annotated cells, and tell how good they are on cells held out.

    Writes a config.toml that ``cytolith cells --config`` runs, a tune.json with the scores and a trials.csv.

    Parameters
    ----------
    input
        Folder or glob of planes, TIFF file, .npy, or zarr.
    truth
        Table of annotated centres with columns z, y, x in voxels.
    output
        A .toml, or a folder for all files.
    region
        Where every cell is annotated, z0:z1,y0:y1,x0:x1 in voxels; may be given several times. Default: the whole
        volume. What lies elsewhere does not count.
    voxel_size
        Edges Z,Y,X of a voxel in micrometres. Default: from the metadata.
    channel
        Channel, counted from 0; needed when there are several.
    timepoint
        Timepoint, counted from 0; needed when there are several.
    level
        Resolution level of an OME-Zarr; 0 is the finest.
    dataset
        Path of the array inside a zarr group that is no OME-Zarr.
    config
        TOML file of parameters to start from. Default: the defaults of cytolith cells.
    tolerance
        Largest distance of a detection from its annotated cell: micrometres ("8 um") or voxels (5).
    trials
        Choices of parameters to try; for each of them all thresholds are looked at.
    only
        Tune only these, with commas between: threshold, background, stripes, smoothing_z, smoothing_plane, dog,
        window_z, window_plane. Default: all. The threshold is always tuned.
    seed
        Number that the choices are drawn with; the same seed gives the same result.
    timeout
        Seconds after which no new trial begins; what was best until then is kept.
    memory
        Memory to stay below, for example 8GiB. Default: half of the machine's.
    overwrite
        Replace earlier results.
    quiet
        Print errors only.
    """
    from cytolith.cells.build import build_config, read_toml
    from cytolith.tune.run import tune_cells

    run_keys: dict[str, Any] = {}
    start = None
    if config is not None:
        document, run_keys = read_toml(config)
        start = build_config((str(config), document))
    options: dict[str, Any] = {"channel": channel, "timepoint": timepoint, "level": level, "dataset": dataset}
    options = {name: run_keys.get(name) if value is None else value for name, value in options.items()}
    size = None
    if voxel_size is not None:
        size = parse_triple(voxel_size, "--voxel-size")
    elif isinstance(run_keys.get("voxel_size"), list):
        size = parse_triple(",".join(map(str, run_keys["voxel_size"])), f"{config}: voxel_size")
    distance = parse_length(tolerance)
    if only is not None and not only.strip():
        raise ConfigError("--only: give names of parameters, for example threshold,background")
    with _Progress(quiet=quiet) as progress:
        report = tune_cells(
            input,
            truth,
            output,
            config=start,
            regions=region,
            voxel_size=size,
            options=options,
            tolerance=distance,
            trials=trials,
            seed=seed,
            timeout=timeout,
            only=None if only is None else only.split(","),
            memory=None if memory is None else parse_bytes(memory),
            overwrite=overwrite,
            listener=progress,
        )
    if not quiet:
        _tell(report)
    return 130 if report.tuned.interrupted else 0


def _tell(report: "TuneReport") -> None:
    tuned = report.tuned
    print(f"{report.cells:,} annotated cells" + (f", {report.outside:,} outside the region" if report.outside else ""))
    if tuned.interrupted:
        print(f"Interrupted after {len(tuned.trials)} trials; the best so far is kept")
    rows = (
        ("start, fitted", tuned.start_fitted),
        ("tuned, fitted", tuned.fitted),
        ("start, held out", tuned.start_held_out),
        ("tuned, held out", tuned.held_out),
    )
    for name, numbers in rows:
        print(f"{name:<16} {_scores(numbers)}")
    if tuned.changed:
        factors = ", ".join(f"{name} x {factor:g}" for name, factor in report.factors.items())
        print(f"Tuned: threshold {tuned.threshold}" + (f", {factors}" if factors else ""))
    else:
        print(f"Parameters kept as they were: {tuned.reason}")
    different = f"{report.trials} different choice{'' if report.trials == 1 else 's'} of parameters"
    count = f"{len(tuned.trials)} trial{'' if len(tuned.trials) == 1 else 's'}"
    print(f"{count}, {different}, in {report.seconds:.1f} s: {report.files[0]}")


def _scores(numbers: "Numbers") -> str:
    return f"F1 {numbers.f1:.3f}  precision {numbers.precision:.3f}  recall {numbers.recall:.3f}"


class _Progress:
    """A bar with the running best on a terminal, a line every few seconds elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._quiet = quiet
        self._err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        columns = TextColumn("trials"), BarColumn(), TextColumn("{task.fields[best]}"), TimeRemainingColumn()
        self._bar = Progress(*columns, console=self._err, transient=True)
        self._task = self._bar.add_task("trials", total=None, best="")
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet and self._err.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def __call__(self, trial: "Trial") -> None:
        """Show a trial."""
        done, best = trial.number + 1, f"best F1 {trial.best_f1:.3f}"
        self._bar.update(self._task, total=trial.total, completed=done, best=best)
        now = time.monotonic()
        if not self._quiet and not self._err.is_terminal and now - self._last > _SECONDS_BETWEEN:
            self._err.print(f"trial {done} of {trial.total}, {best}")
            self._last = now
