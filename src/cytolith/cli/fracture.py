"""``cytolith fracture``: clusters, aperture and offset of a stack of a fractured rock."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from cytolith.cli.numbers import Whole
from cytolith.quantities import parse_bytes, parse_triple

_INPUT = Group("Input", sort_key=1)
_CLUSTERS = Group("Clusters", sort_key=2)
_MAPS = Group("Maps", sort_key=3)
_FILES = Group("Files", sort_key=4)
_RUN = Group("Run", sort_key=5)


def fracture(
    input: Annotated[str, Parameter(group=_INPUT)],  # noqa: A002 - the name users see
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], group=_FILES)] = Path(),
    threshold: Annotated[float | None, Parameter(group=_INPUT, allow_leading_hyphen=True)] = None,
    invert: Annotated[bool, Parameter(name=["--invert", "-i"], negative="", group=_INPUT)] = False,
    voxel_size: Annotated[str | None, Parameter(group=_INPUT)] = None,
    channel: Annotated[Whole, Parameter(group=_INPUT)] = None,
    timepoint: Annotated[Whole, Parameter(group=_INPUT)] = None,
    level: Annotated[Whole, Parameter(group=_INPUT)] = None,
    dataset: Annotated[str | None, Parameter(group=_INPUT)] = None,
    n: Annotated[Whole, Parameter(name="-n", group=_CLUSTERS)] = None,
    gen_cluster_img: Annotated[bool, Parameter(negative="", group=_CLUSTERS)] = False,
    axis: Annotated[str, Parameter(group=_MAPS)] = "y",
    interpolation: Annotated[str, Parameter(group=_MAPS)] = "linear",
    filter: Annotated[str, Parameter(group=_MAPS)] = "largest",  # noqa: A002 - the name users see
    percentile: Annotated[float, Parameter(group=_MAPS, allow_leading_hyphen=True)] = 99.0,
    map_images: Annotated[bool, Parameter(negative="", group=_MAPS)] = False,
    no_aper_map: Annotated[bool, Parameter(negative="", group=_FILES)] = False,
    no_offset_map: Annotated[bool, Parameter(negative="", group=_FILES)] = False,
    no_img_stack: Annotated[bool, Parameter(negative="", group=_FILES)] = False,
    no_clusters: Annotated[bool, Parameter(negative="", group=_FILES)] = False,
    no_pictures: Annotated[bool, Parameter(negative="", group=_FILES)] = False,
    no_summary: Annotated[bool, Parameter(negative="", group=_FILES)] = False,
    report: Annotated[bool, Parameter(group=_FILES)] = True,
    aper_map_name: Annotated[str | None, Parameter(group=_FILES)] = None,
    offset_map_name: Annotated[str | None, Parameter(group=_FILES)] = None,
    img_stack_name: Annotated[str | None, Parameter(group=_FILES)] = None,
    zarr: Annotated[bool, Parameter(negative="", group=_FILES)] = False,
    force: Annotated[bool, Parameter(name=["--force", "-f", "--overwrite"], negative="", group=_FILES)] = False,
    workers: Annotated[Whole, Parameter(group=_RUN)] = None,
    memory: Annotated[str | None, Parameter(group=_RUN)] = None,
    executor: Annotated[str, Parameter(group=_RUN)] = "threads",
    dask: Annotated[str | None, Parameter(group=_RUN)] = None,
    dask_scheduler_file: Annotated[Path | None, Parameter(group=_RUN)] = None,
    resume: Annotated[bool, Parameter(negative="", group=_RUN)] = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="", group=_RUN)] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", group=_RUN)] = False,
) -> int:
    """Clean a binary stack of a fractured rock and map its aperture and its offset.

    Parameters
    ----------
    input
        TIFF stack, folder or glob of planes, .npy, HDF5, or zarr, also as a URL.
    output
        Folder for the results. Default: the current one.
    threshold
        Fracture is where the stack is greater than this; for grey stacks. Compared in single precision where voxels
        have 32 or 64 bits.
    invert
        Fracture is black: exchange fracture and rock.
    voxel_size
        Edges Z,Y,X of a voxel in micrometres. Default: from the metadata.
    channel
        Channel of the input, counted from 0; needed when there are several.
    timepoint
        Timepoint of the input, counted from 0; needed when there are several.
    level
        Resolution level of an OME-Zarr; 0 is the finest.
    dataset
        Path of the array inside a zarr group that is no OME-Zarr, or which image of a TIFF file.
    n
        Keep the N largest clusters of voxels connected over faces, edges and corners. Default: keep all voxels.
    gen_cluster_img
        Write NAME-processed-clusters.tif: the 16 largest clusters in 67, 75, ... 187, all others in 255.
    axis
        Opening axis, z, y (along the columns of a plane) or x: aperture is the number of fracture voxels along it,
        offset the index of the first.
    interpolation
        How holes of the offset map are patched: linear, axes (mean along rows and columns), nearest or harmonic.
    filter
        What leaves the offset map before it is patched again: largest (steep cells, and what they cut off the largest
        rest), steep (steep cells only) or none.
    percentile
        Cells are steep where a component of the gradient exceeds this percentile of its magnitude.
    map_images
        Write the maps as 32-bit TIFF images too.
    no_aper_map
        Do not write the aperture map.
    no_offset_map
        Do not write the offset map.
    no_img_stack
        Do not write the processed stack.
    no_clusters
        Do not write clusters.csv.
    no_pictures
        Do not draw the maps.
    no_summary
        Do not write summary.json.
    report
        Write report.html, one page to look at; not with less than 1 GiB of --memory.
    aper_map_name
        Name of the aperture map, joined to the output folder.
    offset_map_name
        Name of the offset map.
    img_stack_name
        Name of the processed stack; .tif, .zarr or .npy.
    zarr
        Write stacks as OME-Zarr (compressed) instead of TIFF.
    force
        Replace existing files, and an unfinished run of something else.
    workers
        Blocks at work at once. Default: all cores.
    memory
        Memory to stay below, for example 8GiB: of all that runs on this machine; on a cluster elsewhere, of each worker
        process. Default: half of the machine's, or what the cluster allows its workers.
    executor
        Where blocks are at work: threads, processes (for storage whose reading holds up threads) or serial (one block
        at a time, for finding errors). The results are the same.
    dask
        Dask cluster to work on: tcp://HOST:PORT of its scheduler, or local:N for N worker processes on this machine.
        Input and output must be on paths that every worker can reach.
    dask_scheduler_file
        The same, by the file that the scheduler wrote with --scheduler-file.
    resume
        Go on with an unfinished run in the output folder. The same command does so in any case; nothing happens when
        there is none.
    verbose
        Say what is done.
    quiet
        Print errors only.
    """
    from cytolith.fracture.config import FractureConfig
    from cytolith.fracture.maps import OffsetSettings

    config = FractureConfig(
        n=n,
        threshold=threshold,
        invert=invert,
        axis=axis,
        offsets=OffsetSettings(interpolation, percentile, filter),
        aperture_map=not no_aper_map,
        offset_map=not no_offset_map,
        image_stack=not no_img_stack,
        cluster_image=gen_cluster_img,
        clusters=not no_clusters,
        pictures=not no_pictures,
        summary=not no_summary,
        map_images=map_images,
        zarr=zarr,
        aperture_name=aper_map_name,
        offset_name=offset_map_name,
        stack_name=img_stack_name,
    )
    size = None if voxel_size is None else parse_triple(voxel_size, "--voxel-size")
    budget = None if memory is None else parse_bytes(memory)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    from cytolith.cli.afterwards import write_page
    from cytolith.cli.console import Console
    from cytolith.cli.where import pool_of
    from cytolith.fracture.pipeline import execute
    from cytolith.fracture.preparation import prepare
    from cytolith.fracture.unfinished import has_blocks
    from cytolith.io.volume import open_volume

    with Console(quiet=quiet) as console:
        chosen: dict[str, Any] = {"channel": channel, "timepoint": timepoint, "level": level, "dataset": dataset}
        volume = open_volume(input, voxel_size=size, **chosen)
        with pool_of(executor, dask, dask_scheduler_file, workers) as pool:
            prepared = prepare(volume, input, output, config, pool, chosen=chosen, memory=budget, force=force)
            console.notes([*prepared.hints, *prepared.notes])
            if resume and prepared.unfinished is None:
                console.notes([f"there is no unfinished run in {output} to go on with"])
            try:
                result = execute(prepared, console)
            except BaseException:
                if prepared.outputs.committed:
                    console.notes([f"the results are in place in {output}"])
                elif prepared.outputs.resumable and has_blocks(prepared.outputs.scratch):
                    console.notes([f"what is finished is kept in {output}; the same command goes on from there"])
                raise
    console.notes(result.hints[len(prepared.hints) :])
    page = write_page(output, console.notes, budget) if report and not no_summary else None
    if not quiet:
        print(_text(result.summary, console.seconds))
        for path in [*result.paths.values(), *([] if page is None else [page])]:
            print(f"  {path}")
    return 0


def _text(summary: dict[str, Any], seconds: float) -> str:
    """The summary as people read it."""
    voxels, kept, total = summary["voxels"], summary["voxels_kept"], summary["clusters"]
    share, plural = 100 * summary["voxels_share"], "" if total == 1 else "s"
    lines = [
        f"{voxels:,} fracture voxels ({share:.3g} % of the volume) in {total:,} cluster{plural}, {seconds:.1f} s",
    ]
    if summary["n"] is not None and voxels:
        lines.append(
            f"Kept: {kept:,} voxels ({summary['kept_percent']:.4g} %) in {summary['clusters_kept']:,}; removed: "
            f"{summary['voxels_removed']:,}"
        )
    for key, unit in (("aperture", "voxels"), ("aperture_um", "um")):
        found = summary.get(key)
        if found:
            quantiles = found["percentiles"]
            lines.append(
                f"Aperture ({unit}): mean {found['mean']:.4g}, median {found['median']:.4g}, 5 to 95 % "
                f"{quantiles['5']:.4g} to {quantiles['95']:.4g}, largest {found['max']:.4g}"
                + (f"; zero in {100 * found['zero_share']:.3g} % of the map" if key == "aperture" else "")
            )
    offset = summary.get("offset")
    if offset:
        lines.append(
            f"Offset: {100 * offset['missing_share']:.3g} % of the map had none, the filter removed "
            f"{100 * offset['removed_share']:.3g} %"
        )
    return "\n".join(lines)
