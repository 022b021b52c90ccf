"""``cytolith preview``: the steps side by side on a part of a volume, for choosing parameters by eye."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from cytolith.cli.numbers import Whole
from cytolith.errors import ConfigError
from cytolith.quantities import parse_bytes, parse_triple


def preview(
    input: Annotated[str, Parameter()],  # noqa: A002 - the name users see
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("preview.html"),
    region: str | None = None,
    config: Path | None = None,
    set_: Annotated[
        tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=True, allow_leading_hyphen=False)
    ] = (),
    voxel_size: str | None = None,
    channel: Whole = None,
    timepoint: Whole = None,
    level: Whole = None,
    dataset: str | None = None,
    noise: float | None = None,
    memory: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Show what each step of ``cytolith cells`` does to a part of a volume, as one page for any browser.

    Parameters
    ----------
    input
        Folder or glob of planes, TIFF file, .npy, or zarr.
    output
        File for the page, .html.
    region
        The part to show, z0:z1,y0:y1,x0:x1 in voxels. Default: 64 x 512 x 512 voxels in the middle.
    config
        TOML file of parameters.
    set_
        A parameter over those of the file, STEP.FIELD=VALUE; may be given several times. STEP=none skips a step.
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
    noise
        Noise of the volume as a grey value. Default: measured on a sample of the volume, as in a run.
    memory
        Memory to stay below, for example 8GiB. Default: half of the machine's.
    overwrite
        Replace an existing page.
    """
    from cytolith.cells.build import build_config, read_toml
    from cytolith.preview.run import preview_cells
    from cytolith.quantities import format_region

    layers: list[tuple[str, dict[str, Any]]] = []
    run_keys: dict[str, Any] = {}
    if config is not None:
        document, run_keys = read_toml(config)
        layers.append((str(config), document))
    layers += [("--set", _assigned(text)) for text in set_]
    options: dict[str, Any] = {"channel": channel, "timepoint": timepoint, "level": level, "dataset": dataset}
    options = {name: run_keys.get(name) if value is None else value for name, value in options.items()}
    size = None
    if voxel_size is not None:
        size = parse_triple(voxel_size, "--voxel-size")
    elif isinstance(run_keys.get("voxel_size"), list):
        size = parse_triple(",".join(map(str, run_keys["voxel_size"])), f"{config}: voxel_size")
    report = preview_cells(
        input,
        output,
        region=region,
        config=build_config(*layers),
        voxel_size=size,
        options=options,
        noise=noise,
        memory=None if memory is None else parse_bytes(memory),
        overwrite=overwrite,
    )
    print(f"{report.cells:,} cells in {format_region(report.region)}, {report.seconds:.1f} s: {report.path}")
    return 0


def _assigned(text: str) -> dict[str, Any]:
    """A parameter from ``step.field=value`` or a switch from ``step=none``."""
    name, equals, value = text.partition("=")
    step, dot, field = name.strip().replace("-", "_").partition(".")
    if not equals or not step or (dot and not field):
        raise ConfigError(f"--set {text!r}: give STEP.FIELD=VALUE, for example maxima_detection.threshold=9mad")
    return {step: {field: value.strip()} if dot else value.strip()}
