"""``cytolith density``: a map of how many cells lie where."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cytolith.cli.lengths import voxel_edges
from cytolith.errors import ConfigError
from cytolith.quantities import parse_triple


def density(
    table: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    voxel_size: str,
    radius: str | None = None,
    weights: str | None = None,
    per_mm3: Annotated[bool, Parameter(negative="")] = False,
    shape: str | None = None,
    volume_voxel_size: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write a density map: each voxel holds the number of cells in a ball around it.

    Parameters
    ----------
    table
        Folder of a run, or a table of cells with columns z_um, y_um, x_um (or z, y, x in voxels).
    output
        File for the map: .tif, .zarr (OME-Zarr) or .npy. Counts are uint32; with weights or per mm3 float32.
    voxel_size
        Edges of a voxel of the map in micrometres: one ("25 um") or three Z,Y,X.
    radius
        Radius of the ball: micrometres ("50 um") or voxels of the map (2). Default: only the voxel that holds the
        cell.
    weights
        Column that cells are counted with instead of 1, such as size.
    per_mm3
        Divide by the volume of the ball (of its part in the map, near the faces): cells per mm3.
    shape
        Extent Z,Y,X of the map in voxels. Default: what covers the volume of the run.
    volume_voxel_size
        Edges Z,Y,X in micrometres of a voxel of the volume that the cells were found in; columns z, y, x are in it.
        Default: what the run knew.
    overwrite
        Replace an existing file.
    """
    edges = voxel_edges(voxel_size, "--voxel-size")
    volume_edges = None if volume_voxel_size is None else voxel_edges(volume_voxel_size, "--volume-voxel-size")
    extents = None if shape is None else [int(extent) for extent in parse_triple(shape, "--shape", integer=True)]

    from cytolith.atlas.density import write_density_map
    from cytolith.atlas.positions import cells_of
    from cytolith.io.files import same_place

    if same_place(table, output):
        raise ConfigError(f"--output {output}: is the table; give another file")
    done = write_density_map(
        cells_of(table, voxel_size=volume_edges),
        output,
        edges,
        shape=extents,
        radius=radius,
        weights=weights,
        per_mm3=per_mm3,
        overwrite=overwrite,
    )
    size, extent = " x ".join(f"{edge:g}" for edge in done.voxel_size), " x ".join(map(str, done.shape))
    print(f"{done.cells:,} cells in {extent} voxels of {size} um (z, y, x), highest {done.highest:.6g}: {done.path}")
    if done.outside:
        print(f"{done.outside:,} cells lie outside the map and were left out")
    return 0
