"""``cytolith filter`` and ``cytolith score``: what is done with a table of cells."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cytolith.errors import ConfigError
from cytolith.quantities import parse_length, parse_triple


def filter_table(
    table: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    **limits: str,
) -> int:
    """Keep the rows of a table within limits, one flag a column: ``--size 20,900 --source 300,``.

    A limit ``low,high`` keeps rows with low <= value < high; either side may be left open.

    Parameters
    ----------
    table
        Table of cells: .parquet, .csv or structured .npy.
    output
        File for the rows that are kept, .parquet or .csv.
    overwrite
        Replace an existing file.
    limits
        Column and limits.
    """
    from cytolith.cells.select import filter_cells, parse_range
    from cytolith.errors import OutputError
    from cytolith.io.tables import read_table, write_table

    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists; give another file, or --overwrite to replace it")
    if not limits:
        raise ConfigError("no limits: give at least one, for example --size 20,900")
    rows, metadata = read_table(table)
    ranges = {name.replace("-", "_"): parse_range(text, f"--{name}") for name, text in limits.items()}
    kept = filter_cells(rows, ranges)
    write_table(kept, output, metadata=metadata)
    before, after = (len(next(iter(t.values()))) for t in (rows, kept))
    print(f"{after:,} of {before:,} rows kept: {output}")
    return 0


def score(
    detections: Path,
    truth: Path,
    /,
    *,
    tolerance: str = "8 um",
    voxel_size: str | None = None,
) -> int:
    """Compare a table of cells with annotated centres, matched one to one within a distance.

    Parameters
    ----------
    detections
        Table with columns z, y, x in voxels.
    truth
        Table of annotated centres with columns z, y, x in voxels.
    tolerance
        Largest distance of a match: micrometres ("8 um") or voxels (5).
    voxel_size
        Edges Z,Y,X of a voxel in micrometres. Default: what the run that made the detections knew.
    """
    from cytolith.io.tables import read_points, read_voxel_size
    from cytolith.score.match import match

    distance = parse_length(tolerance)
    size = parse_triple(voxel_size, "--voxel-size") if voxel_size is not None else read_voxel_size(detections)
    if distance.unit == "um" and size is None:
        raise ConfigError(f"--tolerance {tolerance}: the voxel size is unknown; add --voxel-size Z,Y,X")
    result = match(
        read_points(detections),
        read_points(truth),
        distance.value,
        size if distance.unit == "um" and size is not None else (1.0, 1.0, 1.0),
    )
    print(
        f"precision {result.precision:.3f}  recall {result.recall:.3f}  F1 {result.f1:.3f}  "
        f"(matched {result.true_positives:,}, only detected {result.false_positives:,}, "
        f"only annotated {result.false_negatives:,}; within {distance})"
    )
    return 0
