"""``cytolith train``: a filter from annotated cells of the user's own sample."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from cytolith.cli.numbers import WHOLE, Whole
from cytolith.errors import ConfigError, OutputError
from cytolith.quantities import parse_bytes, parse_length, parse_triple


def train(
    input: Annotated[str, Parameter()],  # noqa: A002 - the name users see
    truth: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    region: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)] = (),
    without: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)] = (),
    voxel_size: str | None = None,
    channel: Whole = None,
    timepoint: Whole = None,
    level: Whole = None,
    dataset: str | None = None,
    config: Path | None = None,
    tolerance: str = "8 um",
    seed: Annotated[int, WHOLE] = 0,
    workers: Whole = None,
    memory: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
) -> int:
    """Train a filter on annotated cells of your own sample, and tell how good it is where it was not fitted.

    ``cytolith cells INPUT --classifier FILE`` then keeps what the filter takes for a cell. A filter does not carry over
    to another sample: train one for each kind of sample, and look at what it does.

    Parameters
    ----------
    input
        Folder or glob of planes, TIFF file, .npy, HDF5, Imaris, BigDataViewer, or zarr.
    truth
        Annotated centres: a table, XML of cellfinder or Cell Counter, napari points, or a volume of labels or a mask.
    output
        File for the filter, .skops.
    region
        Where every cell is annotated, z0:z1,y0:y1,x0:x1 in voxels; may be given several times. Default: everywhere.
    without
        A part to leave out, as for --region.
    voxel_size
        Edges Z,Y,X of a voxel in micrometres. Default: from the metadata.
    channel
        Channel, counted from 0; needed when there are several.
    timepoint
        Timepoint, counted from 0; needed when there are several.
    level
        Resolution level of an OME-Zarr; 0 is the finest.
    dataset
        Array of a zarr group, or dataset of an HDF5 file, that holds several.
    config
        TOML file of parameters that candidates are found with, with features and loose thresholds. Default: those of
        cytolith cells with a threshold of 4.5 mad.
    tolerance
        Largest distance of a candidate from its annotated cell, micrometres ("8 um").
    seed
        Number that random choices are drawn with; the same seed gives the same filter.
    workers
        Blocks at work at once. Default: all cores.
    memory
        Memory to stay below, for example 8GiB. Default: half of the machine's.
    overwrite
        Replace an existing file.
    quiet
        Print errors only.
    """
    from cytolith.cells.build import build_config, read_toml
    from cytolith.cells.classifier import require_train, save_classifier
    from cytolith.io.volume import open_volume
    from cytolith.score.positions import read_positions
    from cytolith.score.regions import parse_boxes
    from cytolith.train.training import train_classifier

    require_train()
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists; give another file, or --overwrite to replace it")
    if output.is_dir() or not output.parent.is_dir():
        raise OutputError(f"{output}: give a file name in a folder that exists, for example filter.skops")
    distance = parse_length(tolerance)
    if distance.unit != "um":
        raise ConfigError(f'--tolerance {tolerance}: give micrometres, for example "8 um"')
    size = parse_triple(voxel_size, "--voxel-size") if voxel_size is not None else None
    chosen: dict[str, Any] = {"channel": channel, "timepoint": timepoint, "level": level, "dataset": dataset}
    volume = open_volume(input, voxel_size=size, **chosen)
    if volume.voxel_size is None:
        raise ConfigError(f"{volume.name}: the voxel size is unknown; add --voxel-size Z,Y,X")
    result = train_classifier(
        volume,
        read_positions(truth).in_voxels(volume.voxel_size),
        regions=parse_boxes(region),
        without=parse_boxes(without),
        tolerance=distance.value,
        config=None if config is None else build_config((str(config), read_toml(config)[0])),
        seed=seed,
        workers=workers,
        memory=None if memory is None else parse_bytes(memory),
    )
    save_classifier(result.classifier, output)
    if not quiet:
        found = f"{result.found:,} of {result.cells:,} annotated cells are among {result.candidates:,} candidates"
        print(f"{found} (the most that a filter can find: {100 * result.found / result.cells:.0f} %)")
        for name, scored in (("default, no filter", result.default), ("filter, held out", result.held_out)):
            print(f"{name:<19} precision {scored.precision:.3f}  recall {scored.recall:.3f}  F1 {scored.f1:.3f}")
        if result.held_out.f1 <= result.default.f1:
            print("The filter is no better than the default where it was not fitted: annotate more cells")
        print(f"Filter: {output}; use it with cytolith cells INPUT -o OUT --classifier {output}")
    return 0
