"""``cytolith export``: a table of cells in the format of another tool."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cytolith.quantities import parse_triple


def export(
    table: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    format_: Annotated[str | None, Parameter(name="--format")] = None,
    voxel_size: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write a table of cells for ClearMap, cellfinder, napari or neuroglancer.

    Parameters
    ----------
    table
        Folder of a run, or a table: .parquet, .csv or structured .npy.
    output
        File, or for neuroglancer folder.
    format_
        clearmap (.npy), cellfinder (.xml), napari (.csv of points), neuroglancer (folder), csv or parquet. Default: by
        the ending of the output.
    voxel_size
        Edges Z,Y,X of a voxel in micrometres, for neuroglancer. Default: what the run knew.
    overwrite
        Replace an existing output.
    """
    from cytolith.io.points.export import export_table

    size = None if voxel_size is None else parse_triple(voxel_size, "--voxel-size")
    rows = export_table(table, output, format_, voxel_size=size, overwrite=overwrite)
    print(f"{rows:,} rows: {output}")
    return 0
