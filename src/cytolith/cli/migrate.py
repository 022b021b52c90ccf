"""``cytolith migrate``: a file of ClearMap, cellfinder or apmapflow as files of this package."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cytolith.cli.numbers import Whole
from cytolith.quantities import parse_triple


def migrate(
    file: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path(),
    intensities: Path | None = None,
    voxel_size: str | None = None,
    channel: str | None = None,
    type_: Annotated[Whole, Parameter(name="--type")] = None,
    keep_values: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Take over a file of ClearMap, cellfinder or apmapflow; what it is, its content tells.

    Parameters
    ----------
    file
        Configuration of ClearMap 2.1 or 3 with a cell map (.cfg): becomes config.toml. Cells of ClearMap 2 or 3 (.npy),
        coordinates of ClearMap 1 (.npy) or markers of cellfinder (.xml): become cells.parquet and cells.csv. Map of
        apmapflow (.txt): becomes an image, .tif or .npy.
    output
        Folder for the results, or a file (.toml, .parquet, .csv, .tif, .npy). Default: the current folder.
    intensities
        ClearMap 1: file with the intensities of the same cells.
    voxel_size
        Edges Z,Y,X of a voxel in micrometres: for columns in micrometres, for config.toml, or for the image of a map.
    channel
        ClearMap 3: channel of the configuration, needed when several have cells.
    type_
        Markers: which type to take. Default: cells.
    keep_values
        Leave offsets of apmapflow as they are, counted from 1.
    overwrite
        Replace existing files.
    """
    from cytolith.compat.migrate import migrate as take_over

    size = None if voxel_size is None else parse_triple(voxel_size, "--voxel-size")
    done = take_over(
        file,
        output,
        intensities=intensities,
        voxel_size=size,
        channel=channel,
        marker_type=type_,
        keep_values=keep_values,
        overwrite=overwrite,
    )
    print(f"{done.what[:1].upper()}{done.what[1:]}:")
    for path in done.paths:
        print(f"  {path}")
    for line in done.left_out:
        print(f"Note: {line}", file=sys.stderr)
    return 0
