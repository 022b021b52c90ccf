"""``cytolith score``: detections against annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cytolith.errors import ConfigError, OutputError
from cytolith.quantities import parse_triple

if TYPE_CHECKING:
    from cytolith.score.match import Matching
    from cytolith.score.outcome import Outcome

_FILES = ("score.json", "score.csv", "matches.csv", "score.png")


def score(
    detections: Path,
    truth: Path,
    /,
    *,
    tolerance: str = "8 um",
    voxel_size: str | None = None,
    region: Annotated[list[str] | None, Parameter(negative="")] = None,
    regions: Path | None = None,
    region_names: Path | None = None,
    marker_type: Annotated[int | None, Parameter(name="--type")] = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Compare cells with annotated centres, matched one to one within a distance.

    Of all ways to match, the one with the most pairs is taken, and of those the one with the least distance in all.

    Parameters
    ----------
    detections
        Folder of a run, or anything that `truth` may be.
    truth
        Annotated centres: .parquet, .csv (columns z, y, x in voxels; napari's points), .npy (ClearMap: x, y, z), .xml
        (cellfinder, ImageJ Cell Counter), or a volume of labels or a mask, whose centroids count.
    tolerance
        Largest distance of a match: micrometres ("8 um") or voxels (5).
    voxel_size
        Edges Z,Y,X of a voxel in micrometres. Default: what the run that made the detections knew, or the columns in
        micrometres (z_um, y_um, x_um) where both tables have them.
    region
        A box of interest in voxels, NAME=z0:z1,y0:y1,x0:x1, scored by itself; may be given several times. A match
        counts in the region that holds its annotation, a false alarm in the one that it lies in.
    regions
        Volume of labels in the voxels of the run: each label is a region of interest.
    region_names
        Table with the columns id and name, for the labels.
    marker_type
        Type of the markers to take from .xml. Default: cells (2) of cellfinder, all of Cell Counter.
    output
        Folder for score.json, score.csv (a row a region), matches.csv (a row each hit, miss and false alarm) and
        score.png.
    overwrite
        Replace these files in a folder that has them.
    json_
        Print the scores as JSON.
    """
    from cytolith.score.outcome import score as compare
    from cytolith.score.positions import read_positions
    from cytolith.score.regions import parse_boxes, read_region_names

    size = None if voxel_size is None else parse_triple(voxel_size, "--voxel-size")
    boxes = parse_boxes(region or [])
    if region_names is not None and regions is None:
        raise ConfigError("--region-names: are the names of labels; add --regions LABELS")
    if output is not None:
        _refuse(output, overwrite=overwrite)
    found, real = (
        read_positions(path, marker_type if path.suffix.lower() == ".xml" else None) for path in (detections, truth)
    )
    if marker_type is not None and not any(path.suffix.lower() == ".xml" for path in (detections, truth)):
        raise ConfigError("--type: is for markers in .xml, and neither file is")
    names = None if region_names is None else read_region_names(region_names)
    outcome = compare(found, real, tolerance, size, boxes=boxes, labels=regions, label_names=names)
    if json_:
        print(json.dumps(outcome.summary(), indent=2, ensure_ascii=False))
    else:
        _print(outcome)
    if output is not None:
        _write(outcome, output, quiet=json_)
    return 0


def _print(outcome: Outcome) -> None:
    result = outcome.matching
    print(
        f"precision {result.precision:.3f}  recall {result.recall:.3f}  F1 {result.f1:.3f}  "
        f"(matched {result.true_positives:,}, only detected {result.false_positives:,}, "
        f"only annotated {result.false_negatives:,}; within {outcome.tolerance})"
    )
    if len(result.distances):
        print(f"mean distance {_distance(result, outcome.unit)}")
    if not outcome.regions:
        return
    print("by region: a match counts where its annotation lies, a false alarm where it lies itself")
    header = ("region", "precision", "recall", "F1", "mean distance", "matched", "only detected", "only annotated")
    rows = [
        (
            name,
            *(f"{value:.3f}" for value in (each.precision, each.recall, each.f1)),
            _distance(each, outcome.unit) if len(each.distances) else "-",
            *(f"{n:,}" for n in (each.true_positives, each.false_positives, each.false_negatives)),
        )
        for name, each in outcome.regions.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells: list[Any] = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def _distance(result: Matching, unit: str) -> str:
    return f"{result.distances.mean():.2f} {'um' if unit == 'um' else 'voxels'}"


def _refuse(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give a folder for the results")
    there = [name for name in _FILES if (output / name).exists()]
    if there and not overwrite:
        raise OutputError(f"{output}: holds an earlier score ({', '.join(there)}); give another folder, or --overwrite")


def _write(outcome: Outcome, output: Path, *, quiet: bool) -> None:
    import sys

    from cytolith.io.files import output_error, write_text
    from cytolith.io.tables import write_table
    from cytolith.score.picture import write_picture

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(output, error) from error
    write_text(output / "score.json", json.dumps(outcome.summary(), indent=2, ensure_ascii=False) + "\n")
    write_table(outcome.score_table(), output / "score.csv")
    write_table(outcome.match_table(), output / "matches.csv")
    try:
        write_picture(outcome, output / "score.png")
    except ConfigError as missing:  # what is not there is said, and the rest is of use without it
        (output / "score.png").unlink(missing_ok=True)  # of an earlier score
        print(f"cytolith: {missing}", file=sys.stderr)
    if not quiet:
        print(f"written: {output}")
