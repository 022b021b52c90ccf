"""``cytolith regions``: how many cells lie in each region of an annotation."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cytolith.cli.lengths import shift, voxel_edges
from cytolith.errors import ConfigError, OutputError

_SHOWN = 20


def regions(
    table: Path,
    annotation: str,
    /,
    *,
    names: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    voxel_size: str | None = None,
    offset: Annotated[str, Parameter(allow_leading_hyphen=True)] = "0,0,0",
    hemispheres: str | None = None,
    volume_voxel_size: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Count the cells in each region of an annotation that lies in the space of the volume.

    Parameters
    ----------
    table
        Folder of a run, or a table of cells with columns z_um, y_um, x_um (or z, y, x in voxels).
    annotation
        Volume of integer labels, 0 for outside: TIFF, zarr or .npy. It may be coarser than the volume.
    names
        Ids and names: .csv with the columns id and name (and acronym, parent_structure_id or structure_id_path), or the
        .json of Allen or BrainGlobe. With parents known, regions are counted with all their parts too.
    output
        File for the table, .csv or .parquet. Default: the largest counts are shown.
    voxel_size
        Edges of a voxel of the annotation in micrometres: one ("25 um") or three Z,Y,X. Default: its metadata.
    offset
        Where the corner of the annotation lies in the volume: Z,Y,X in micrometres.
    hemispheres
        Volume of labels of the same extents as the annotation, such as 1 left and 2 right: regions are counted for
        each.
    volume_voxel_size
        Edges Z,Y,X in micrometres of a voxel of the volume that the cells were found in; columns z, y, x are in it.
        Default: what the run knew.
    overwrite
        Replace an existing file.
    """
    edges = None if voxel_size is None else voxel_edges(voxel_size, "--voxel-size")
    volume_edges = None if volume_voxel_size is None else voxel_edges(volume_voxel_size, "--volume-voxel-size")
    moved = shift(offset, "--offset")

    from cytolith.atlas.positions import cells_of
    from cytolith.atlas.regions import UNKNOWN, mismatch, placed, region_table
    from cytolith.io.files import same_place
    from cytolith.io.label_volume import label_volume
    from cytolith.io.structures import read_structures
    from cytolith.io.tables import write_table

    if output is not None:
        if output.suffix.lower() not in (".csv", ".parquet"):
            raise ConfigError(f"--output {output}: give a file that ends in .csv or .parquet")
        if any(path is not None and same_place(path, output) for path in (table, names, Path(annotation))):
            raise ConfigError(f"--output {output}: is an input; give another file")
        if output.exists() and not overwrite:
            raise OutputError(f"{output}: exists; give another file, or --overwrite to replace it")
    cells = cells_of(table, voxel_size=volume_edges)
    structures = [] if names is None else read_structures(names)
    labels = label_volume(annotation)
    placement = placed(cells, labels, voxel_size=edges, offset=moved, hemispheres=hemispheres)
    rows = region_table(cells, placement, structures)
    if output is not None:
        write_table(rows, output)
    else:
        _show(rows)
    inside = cells.total - int(rows["cells"][0])
    held = len({*rows["id"][rows["cells"] > 0].tolist()} - {0})
    print(
        f"{inside:,} of {cells.total:,} cells lie in {held:,} regions, "
        f"{cells.total - inside:,} outside" + (f": {output}" if output is not None else "")
    )
    odd = mismatch(cells, labels, placement.voxel_size) if not any(moved) else ""
    if odd:
        print(f"cytolith: {odd}", file=sys.stderr)
    if placement.beyond:
        print(
            f"cytolith: {placement.beyond:,} cells lie beyond the annotation: look at --voxel-size and --offset",
            file=sys.stderr,
        )
    unknown = sorted(set(rows["id"][rows["name"] == UNKNOWN].tolist()) - {each.id for each in structures})
    if structures and unknown:
        listed = ", ".join(map(str, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
        print(f"cytolith: {names} does not name {len(unknown):,} ids of the annotation: {listed}", file=sys.stderr)
    return 0


def _show(rows: dict) -> None:  # type: ignore[type-arg]
    """The rows with most cells."""
    order = rows["cells"].argsort(kind="stable")[::-1][:_SHOWN]
    print(f"{'id':>10} {'cells':>10} {'mm3':>10} {'per mm3':>10}  name")
    for row in sorted(order.tolist(), key=lambda row: (-int(rows["cells"][row]), row)):
        side = f" (hemisphere {rows['hemisphere'][row]})" if "hemisphere" in rows and row else ""
        print(
            f"{rows['id'][row]:>10} {rows['cells'][row]:>10,} {rows['volume_mm3'][row]:>10.4g} "
            f"{rows['cells_per_mm3'][row]:>10.4g}  {rows['name'][row]}{side}"
        )
    if len(rows["id"]) > _SHOWN:
        print(f"{'...':>10}  (all rows: -o counts.csv)")
