"""``cytolith filter``: rows of a table of cells within limits."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cytolith.errors import ConfigError


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
        Folder of a run, or a table of cells: .parquet, .csv or structured .npy.
    output
        File for the rows that are kept, .parquet or .csv.
    overwrite
        Replace an existing file.
    limits
        Column and limits.
    """
    from cytolith.cells.select import filter_cells, parse_range
    from cytolith.errors import OutputError
    from cytolith.io.points.export import table_path
    from cytolith.io.tables import read_table, write_table

    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists; give another file, or --overwrite to replace it")
    if not limits:
        raise ConfigError("no limits: give at least one, for example --size 20,900")
    rows, metadata = read_table(table_path(table))
    ranges = {name.replace("-", "_"): parse_range(text, f"--{name}") for name, text in limits.items()}
    kept = filter_cells(rows, ranges)
    write_table(kept, output, metadata=metadata)
    before, after = (len(next(iter(t.values()))) for t in (rows, kept))
    print(f"{after:,} of {before:,} rows kept: {output}")
    return 0
