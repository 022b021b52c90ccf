"""``cytolith convert``: a volume in another format."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from cytolith.axes import Shape
from cytolith.cli.numbers import Whole
from cytolith.quantities import format_bytes, parse_bytes, parse_triple

_INPUT = Group("Input", sort_key=1)
_ZARR = Group("OME-Zarr", sort_key=2)
_RUN = Group("Run", sort_key=3)


def convert(
    input: Annotated[str, Parameter(group=_INPUT)],  # noqa: A002 - the name users see
    output: Annotated[Path, Parameter(group=_INPUT)],
    /,
    *,
    voxel_size: Annotated[str | None, Parameter(group=_INPUT)] = None,
    channel: Annotated[Whole, Parameter(group=_INPUT)] = None,
    timepoint: Annotated[Whole, Parameter(group=_INPUT)] = None,
    level: Annotated[Whole, Parameter(group=_INPUT)] = None,
    dataset: Annotated[str | None, Parameter(group=_INPUT)] = None,
    region: Annotated[str | None, Parameter(group=_INPUT)] = None,
    levels: Annotated[Whole, Parameter(group=_ZARR)] = None,
    labels: Annotated[bool, Parameter(negative="", group=_ZARR)] = False,
    chunks: Annotated[str | None, Parameter(group=_ZARR)] = None,
    shards: Annotated[str | None, Parameter(group=_ZARR)] = None,
    compression: Annotated[str | None, Parameter(group=_ZARR)] = None,
    workers: Annotated[Whole, Parameter(group=_RUN)] = None,
    memory: Annotated[str | None, Parameter(group=_RUN)] = None,
    resume: Annotated[bool, Parameter(negative="", group=_RUN)] = False,
    overwrite: Annotated[bool, Parameter(negative="", group=_RUN)] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", group=_RUN)] = False,
) -> int:
    """Write a volume as OME-Zarr with coarser levels, BigTIFF or .npy.

    Parameters
    ----------
    input
        Folder or glob of planes, TIFF file, .npy, zarr, or whatever else is read.
    output
        Ends in .zarr (OME-Zarr 0.5: chunks in shards, coarser levels), .tif (BigTIFF where it must be) or .npy.
    voxel_size
        Edges Z,Y,X of a voxel in micrometres. Default: from the metadata.
    channel
        Channel of the input, counted from 0; needed when there are several.
    timepoint
        Timepoint of the input, counted from 0; needed when there are several.
    level
        Resolution level of an OME-Zarr; 0 is the finest.
    dataset
        Path of the array inside a file or group that holds several.
    region
        Part of the volume, z0:z1,y0:y1,x0:x1 in voxels; a side may be left out: 0:100,:,500:. Default: all of it.
    levels
        Levels, 1 for the volume alone. Default: until the coarsest has at most 256 voxels along each axis. An axis is
        halved only while its voxels are less than twice as long as along the others.
    labels
        Voxels are labels: in coarser levels the most frequent one stands for others, not their mean.
    chunks
        Extent Z,Y,X of a chunk. Default: 64,128,128.
    shards
        Extent Z,Y,X of a shard, a file of many chunks; none for a file a chunk. Default: 4 chunks along each axis.
    compression
        zstd (default), lz4 or none.
    workers
        Blocks at work at once. Default: all cores.
    memory
        Memory to stay below, for example 8GiB. Default: half of the machine's.
    resume
        Go on with what ended early. The same command does so in any case; with this one, an output that is there and
        whole is fine too.
    overwrite
        Replace what is at the output, and an unfinished conversion to it of something else.
    quiet
        Print errors only.
    """
    size = None if voxel_size is None else parse_triple(voxel_size, "--voxel-size")
    budget = None if memory is None else parse_bytes(memory)
    sharded = shards is None or shards.strip().lower() != "none"

    from cytolith.cli.console import Console
    from cytolith.convert.pipeline import convert_volume
    from cytolith.io.volume import shape_text

    with Console(quiet=quiet) as console:
        try:
            done = convert_volume(
                input,
                output,
                voxel_size=size,
                channel=channel,
                timepoint=timepoint,
                level=level,
                dataset=dataset,
                region=region,
                chunks=_extents(chunks, "--chunks"),
                shards=_extents(shards, "--shards") if sharded else None,
                sharded=sharded,
                levels=levels,
                labels=labels,
                compression=compression,
                workers=workers,
                memory=budget,
                resume=resume,
                overwrite=overwrite,
                listener=console,
            )
        except Exception as error:  # an interrupt says itself what it has left
            console.notes(getattr(error, "__notes__", []))
            raise
    console.notes(done.notes)
    if not quiet:
        coarser = f", {len(done.levels)} levels down to {shape_text(done.levels[-1])}" if len(done.levels) > 1 else ""
        print(
            f"{shape_text(done.shape)} {done.dtype}{coarser}, {format_bytes(done.bytes)}, {console.seconds:.1f} s: "
            f"{done.path}"
        )
    return 0


def _extents(text: str | None, option: str) -> Shape | None:
    if text is None:
        return None
    z, y, x = parse_triple(text, option, integer=True)
    return int(z), int(y), int(x)
