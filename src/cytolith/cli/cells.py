"""``cytolith cells``: every field of every step is a flag ``--step-name.field``, made from the models."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from cytolith.axes import Shape
from cytolith.cells.build import build_config, read_toml, to_toml
from cytolith.cells.config import STEPS, step_model
from cytolith.cells.fields import SWITCH_ON, nearest
from cytolith.cells.presets import preset as named
from cytolith.cells.resolve import with_defaults
from cytolith.cli.numbers import Whole
from cytolith.errors import ConfigError
from cytolith.quantities import format_rate, parse_bytes, parse_triple

_INPUT = Group("Input", sort_key=1)
_RUN = Group("Run", sort_key=2)


def _cells(
    input: Annotated[str | None, Parameter(group=_INPUT)] = None,  # noqa: A002 - the name users see
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], group=_RUN)] = None,
    voxel_size: Annotated[str | None, Parameter(group=_INPUT)] = None,
    channel: Annotated[Whole, Parameter(group=_INPUT)] = None,
    timepoint: Annotated[Whole, Parameter(group=_INPUT)] = None,
    level: Annotated[Whole, Parameter(group=_INPUT)] = None,
    dataset: Annotated[str | None, Parameter(group=_INPUT)] = None,
    config: Annotated[Path | None, Parameter(group=_RUN)] = None,
    preset: Annotated[str | None, Parameter(group=_RUN)] = None,
    features: Annotated[bool | None, Parameter(group=_RUN)] = None,
    classifier: Annotated[Path | None, Parameter(group=_RUN)] = None,
    labels: Annotated[bool, Parameter(negative="", group=_RUN)] = False,
    export: Annotated[str | None, Parameter(group=_RUN)] = None,
    report: Annotated[bool, Parameter(group=_RUN)] = True,
    workers: Annotated[Whole, Parameter(group=_RUN)] = None,
    memory: Annotated[str | None, Parameter(group=_RUN)] = None,
    block: Annotated[str | None, Parameter(group=_RUN)] = None,
    executor: Annotated[str, Parameter(group=_RUN)] = "threads",
    device: Annotated[str, Parameter(group=_RUN)] = "cpu",
    dask: Annotated[str | None, Parameter(group=_RUN)] = None,
    dask_scheduler_file: Annotated[Path | None, Parameter(group=_RUN)] = None,
    resume: Annotated[bool, Parameter(negative="", group=_RUN)] = False,
    overwrite: Annotated[bool, Parameter(negative="", group=_RUN)] = False,
    print_config: Annotated[bool, Parameter(negative="", group=_RUN)] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", group=_RUN)] = False,
    **steps: str,
) -> int:
    """Find, outline and measure the cells of a volume.

    Parameters
    ----------
    input
        Folder or glob of planes, TIFF file, .npy, HDF5, Imaris, BigDataViewer, or zarr, also as a URL.
    output
        Folder for the results.
    voxel_size
        Edges Z,Y,X of a voxel in micrometres. Default: from the metadata.
    channel
        Channel of the input, counted from 0; needed when there are several.
    timepoint
        Timepoint of the input, counted from 0; needed when there are several.
    level
        Resolution level of an OME-Zarr; 0 is the finest.
    dataset
        Array of a zarr group, or dataset of an HDF5 file, that holds several.
    config
        TOML file of parameters; flags win over it.
    preset
        Parameters to begin with, below --config and flags: c-fos (the defaults), c-fos-striped (light sheet with
        stripes along x), clearmap (what ClearMap begins with).
    features
        Add a column for each of the measures that tell cells from what looks like them (docs/detection.md).
    classifier
        Keep what a filter from cytolith train takes for a cell, and add the column probability. The filter brings its
        parameters; --config and flags win over them.
    labels
        Write OUTPUT/labels.zarr: each voxel of a cell holds the row of the cell, counted from 1.
    export
        Write the table for other tools too, with commas between: clearmap (cells.npy), cellfinder (cells.xml), napari
        (cells-napari.csv), neuroglancer (cells.precomputed).
    report
        Write OUTPUT/report.html, one page to look at; not with less than 1 GiB of --memory.
    workers
        Blocks at work at once. Default: all cores.
    memory
        Memory to stay below, for example 8GiB. Default: half of the machine's. On a cluster: of each worker process.
    block
        Extent Z,Y,X of a block's core. Default: chosen from memory and workers; never changes the result.
    executor
        Where blocks run on this machine: threads, processes, or serial (one after the other). Never changes the result.
    device
        What the dense part of the work runs on: cpu, gpu (NVIDIA, needs cytolith[gpu]), or auto, a GPU if there is one.
        Never changes the result.
    dask
        Run blocks on a Dask cluster instead: the address of its scheduler (tcp://HOST:PORT), or local:N to start N
        worker processes here.
    dask_scheduler_file
        File that a Dask scheduler wrote about itself, instead of its address.
    resume
        Go on with an unfinished run of the same input and parameters. The same command does that by itself; with
        --resume one that is finished already is fine too, which is what batch scripts want.
    overwrite
        Replace an earlier result in the output folder, or an unfinished run of something else.
    print_config
        Print the parameters as TOML and stop.
    quiet
        Print errors only.
    """
    given = _steps_given(steps)
    if features is not None:
        given["features"] = given.get("features", "on") if features else "none"
    layers: list[tuple[str, Mapping[str, Any]]] = []
    document: dict[str, Any] = {}
    run_keys: dict[str, Any] = {}
    if config is not None:
        document, run_keys = read_toml(config)
    name = preset if preset is not None else run_keys.get("preset")
    if name is not None:
        layers.append(("--preset", named(name)))
    trained = None
    filter_file = classifier if classifier is not None else run_keys.get("classifier")
    if filter_file is not None:
        from cytolith.cells.classifier import load_classifier

        trained = load_classifier(filter_file)
        layers.append((str(filter_file), trained.config.model_dump()))
    layers.append((str(config), document))
    if labels:
        if output is None:
            raise ConfigError("--labels goes into the folder of the results: --output (-o) is missing")
        layers.append(("--labels", {"shape_detection": {"save": str(output / "labels.zarr")}}))
    layers.append(("command line", given))
    formats = [] if export is None else [part.strip().lower() for part in export.split(",") if part.strip()]
    parameters = build_config(*layers)
    if labels and parameters.shape_detection is None:
        raise ConfigError(
            "--labels and --shape-detection none: without shapes there are no labels; give one of the two"
        )
    size = parse_triple(voxel_size, "--voxel-size") if voxel_size is not None else _size_of(run_keys, config)
    options: dict[str, Any] = {"channel": channel, "timepoint": timepoint, "level": level, "dataset": dataset}
    options = {name: run_keys.get(name) if value is None else value for name, value in options.items()}
    source = input if input is not None else run_keys.get("input")
    if print_config:
        keys = {"input": source, "classifier": filter_file, "voxel_size": size, **options}
        if source is not None and size is None:
            from cytolith.io.volume import open_volume

            size = open_volume(source, **options).voxel_size
        print(to_toml(with_defaults(parameters, size), keys), end="")
        return 0
    if source is None:
        raise ConfigError(
            "INPUT is missing: give a folder of planes or a file, for example cytolith cells PLANES -o OUT"
        )
    if output is None:
        raise ConfigError("--output (-o) is missing: give a folder for the results")
    core: Shape | None = None
    if block is not None:
        z, y, x = parse_triple(block, "--block", integer=True)
        core = int(z), int(y), int(x)

    from cytolith.cells.run import run_cells
    from cytolith.cli.afterwards import write_exports, write_page
    from cytolith.cli.console import Console
    from cytolith.cli.where import pool_of
    from cytolith.io.points.export import RUN_FILES

    for format_name in formats:
        if format_name not in RUN_FILES:
            raise ConfigError(f"--export {format_name}: is unknown; {nearest(format_name, tuple(RUN_FILES))}")

    budget = None if memory is None else parse_bytes(memory)
    with Console(quiet=quiet) as console:
        outcome = run_cells(
            source,
            output,
            parameters,
            voxel_size=size,
            options=options,
            pool=pool_of(executor, dask, dask_scheduler_file, workers),
            memory=budget,
            block=core,
            device=device,
            overwrite=overwrite,
            resume=resume,
            classifier=trained,
            listener=console,
            notes=console.notes,
        )
    console.notes(outcome.hints)
    written = write_exports(output, formats)
    page = write_page(output, console.notes, budget) if report and not outcome.already else None
    if not quiet:
        if outcome.already:
            print(f"{outcome.rows:,} cells; the run was finished before")
        else:
            rate = format_rate(outcome.voxels / max(outcome.seconds, 1e-6))
            print(f"{outcome.rows:,} cells in {outcome.seconds:.1f} s ({rate})")
        for path in written:
            print(f"For other tools: {path}")
        if page is not None:
            print(f"Report: {page}")
        print(f"Table: {output / 'cells.parquet'} and {output / 'cells.csv'}")
    return 0


def _size_of(run_keys: dict[str, Any], config: Path | None) -> tuple[float, float, float] | None:
    value = run_keys.get("voxel_size")
    if value is None or value == "none":
        return None
    return parse_triple(",".join(str(v) for v in value), f"{config}: voxel_size")


def _steps_given(steps: Mapping[str, str | None]) -> dict[str, Any]:
    """Flags that were given as nested parameters: ``a__b`` is field b of step a, ``a`` switches the step."""
    given: dict[str, Any] = {}
    for key, text in steps.items():
        if text is None:
            continue
        step, _, field = key.partition("__")
        if not field:
            given.setdefault(step, text)
            continue
        if isinstance(given.get(step), str) and given[step].strip().lower() in SWITCH_ON:
            given[step] = {}
        fields = given.setdefault(step, {})
        if not isinstance(fields, dict):
            raise ConfigError(
                f"--{step.replace('_', '-')} {fields} and a parameter of the same step: give one of the two"
            )
        fields[field] = text
    return given


def _with_step_flags(function: Any) -> Any:
    """Replace ``**steps`` in the signature by one flag a field, with the text of the field as its help."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    for position, step in enumerate(STEPS):
        model = step_model(step)
        flag = "--" + step.replace("_", "-")
        group = Group(f"Step {position + 1}: {step.replace('_', ' ')}", sort_key=10 + position)
        about = (model.__doc__ or "").splitlines()[0]
        texts = (
            {} if step == "features" else {step: (flag, f"{about} Give none to skip the step, on for its defaults.")}
        )
        for field, info in model.model_fields.items():
            default = info.default
            shown = (
                ",".join(map(str, default)) if isinstance(default, tuple) and not hasattr(default, "unit") else default
            )
            text = " ".join((info.description or "").split())
            if default is not None and "Default" not in text:
                text += f" [default: {shown}]"
            texts[f"{step}__{field}"] = (f"{flag}.{field.replace('_', '-')}", text)
        parameters += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    str | None,
                    Parameter(name=option, help=text, group=group, allow_leading_hyphen=True, show_default=False),
                ],
            )
            for name, (option, text) in texts.items()
        ]
    function.__signature__ = signature.replace(parameters=parameters)
    return function


cells = _with_step_flags(_cells)
"""The command."""
