"""How good detections are against annotations, in all and region by region, and the tables that say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import AXES, VoxelSize
from cytolith.errors import ConfigError
from cytolith.io.table_writer import Table
from cytolith.quantities import Length, parse_length
from cytolith.score.match import Matching, match
from cytolith.score.positions import Positions
from cytolith.score.regions import OUTSIDE, Box, labels_at

HIT, MISS, FALSE_ALARM = "hit", "miss", "false alarm"
ALL, TOGETHER = "all", "regions together"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Detections matched with annotations.

    Attributes
    ----------
    matching : Matching
        All of both.
    regions : dict of str to Matching
        Each region of interest, in the order given (labels: by number), and, of several, all together. A pair counts
        in the region that holds its annotation, a detection without one in the region that it lies in. Rows of pairs
        are those of `matching`.
    detections, annotations : Positions
        What was matched.
    found, real : float64 ndarray of shape (n, 3) and (m, 3)
        Positions of both, z, y, x in voxels of the detections.
    region_found, region_real : str ndarray, or None
        Region of each detection and annotation, empty where it lies in none; of several boxes the first. None without
        regions.
    tolerance : Length
    unit : str
        Of the distances: ``"um"`` or ``"voxel"``.
    voxel_size : tuple of float or None
        Edges (z, y, x) in micrometres, where they are known.
    """

    matching: Matching
    regions: dict[str, Matching]
    detections: Positions
    annotations: Positions
    found: NDArray[np.float64]
    real: NDArray[np.float64]
    region_found: NDArray[np.str_] | None
    region_real: NDArray[np.str_] | None
    tolerance: Length
    unit: str
    voxel_size: VoxelSize | None

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON: what was compared, and the scores."""
        return {
            "detections": self.detections.name,
            "annotations": self.annotations.name,
            "tolerance": str(self.tolerance),
            "voxel_size_um": None if self.voxel_size is None else list(self.voxel_size),
            "distances_in": self.unit,
            **_numbers(self.matching),
            "regions": [{"region": name, **_numbers(each)} for name, each in self.regions.items()],
        }

    def score_table(self) -> Table:
        """A row for all, then one a region: scores and counts; NaN where there is no mean distance."""
        rows = {ALL: self.matching, **self.regions}
        numbers = [_numbers(each) for each in rows.values()]
        table: Table = {"region": np.array(list(rows), dtype=str)}
        for name in numbers[0]:
            values = [math.nan if row[name] is None else row[name] for row in numbers]
            table[name] = np.array(values, np.int64 if name in _COUNTS else np.float64)
        return table

    def match_table(self) -> Table:
        """A row for each hit, miss and false alarm, sorted by position.

        Returns
        -------
        dict of str to ndarray
            ``outcome`` (hit, miss, false alarm), ``z, y, x`` (of the detection, of a miss that of the annotation,
            voxels), ``annotation_z, annotation_y, annotation_x`` (NaN for a false alarm), ``distance`` (of a hit),
            ``detection, annotation`` (rows in their files, from 0; -1 where there is none), ``region`` where there are
            regions, and the columns of the table of detections (NaN or empty text for a miss).
        """
        pairs = self.matching.pairs
        alarms = np.setdiff1d(np.arange(len(self.found)), pairs[:, 0])
        misses = np.setdiff1d(np.arange(len(self.real)), pairs[:, 1])
        none = np.full(len(alarms), -1), np.full(len(misses), -1)
        detection = np.concatenate([pairs[:, 0], none[1], alarms])
        annotation = np.concatenate([pairs[:, 1], misses, none[0]])
        table: Table = {"outcome": np.repeat([HIT, MISS, FALSE_ALARM], [len(pairs), len(misses), len(alarms)])}
        at = np.where((detection >= 0)[:, None], _taken(self.found, detection), _taken(self.real, annotation))
        table |= {axis: at[:, number] for number, axis in enumerate(AXES)}
        real = _taken(self.real, annotation)
        table |= {f"annotation_{axis}": real[:, number] for number, axis in enumerate(AXES)}
        table["distance"] = np.r_[self.matching.distances, np.full(len(misses) + len(alarms), np.nan)]
        table |= {"detection": detection, "annotation": annotation}
        if self.region_found is not None and self.region_real is not None:
            table["region"] = np.where(
                annotation >= 0, _taken(self.region_real, annotation), _taken(self.region_found, detection)
            )
        for name, column in self.detections.columns.items():
            table[name if name not in table else f"detection_{name}"] = _taken(column, detection)
        order = np.lexsort((detection, at[:, 2], at[:, 1], at[:, 0]))
        return {name: column[order] for name, column in table.items()}


_COUNTS = frozenset({"matched", "only_detected", "only_annotated"})


def _numbers(result: Matching) -> dict[str, Any]:
    return {
        "precision": result.precision,
        "recall": result.recall,
        "f1": result.f1,
        "mean_distance": float(result.distances.mean()) if len(result.distances) else None,
        "matched": result.true_positives,
        "only_detected": result.false_positives,
        "only_annotated": result.false_negatives,
    }


def _taken(values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an array; where the row is -1 NaN, or an empty text."""
    if values.dtype.kind in "iub" and (rows >= 0).all():
        return values[rows]
    text = values.dtype.kind == "U"
    dtype = values.dtype if text else np.float64
    filled = np.full((len(values) + 1, *values.shape[1:]), "" if text else np.nan, dtype)
    filled[:-1] = values
    return filled[rows]  # -1 is the last


def score(
    detections: Positions,
    annotations: Positions,
    tolerance: Length | str | float = "8 um",
    voxel_size: VoxelSize | None = None,
    *,
    boxes: Sequence[Box] = (),
    labels: Any = None,
    label_names: Mapping[int, str] | None = None,
) -> Outcome:
    """Compare detections with annotations, matched one to one within a distance.

    Parameters
    ----------
    detections, annotations : Positions
        From :func:`cytolith.score.positions.read_positions`.
    tolerance : Length, str or float
        Largest distance of a pair, inclusive: ``"8 um"``, or a number of voxels.
    voxel_size : tuple of float, optional
        Edges (z, y, x) in micrometres of the voxels that both are in. Default: positions in micrometres, where both
        have them; else what the run of the detections knew.
    boxes : sequence of Box
        Regions of interest; they may overlap.
    labels : optional
        Volume of labels, each a region of interest; see :func:`cytolith.score.regions.labels_at`. Not with boxes.
    label_names : mapping of int to str, optional
        Names of the labels; others are called by their number.

    Returns
    -------
    Outcome
        All are matched with all; then pairs, misses and false alarms are counted by region. A position lies in the
        voxel that is nearest to it.

    Raises
    ------
    ConfigError
        A tolerance in micrometres when the voxel size is unknown, or one far above the spacing of the cells; boxes and
        labels at once; labels of another shape than the run's volume.
    """
    length = parse_length(tolerance)
    if boxes and labels is not None:
        raise ConfigError("--region and --regions: give boxes or labels, not both")
    size = voxel_size or detections.voxel_size or annotations.voxel_size
    in_um = length.unit == "um"
    by_columns = in_um and voxel_size is None and detections.um is not None and annotations.um is not None
    if in_um and size is None and not by_columns:
        raise ConfigError(f"--tolerance {length}: the voxel size is unknown; add --voxel-size Z,Y,X")
    found, real = detections.in_voxels(size), annotations.in_voxels(size)
    if by_columns:
        assert detections.um is not None
        assert annotations.um is not None
        result = match(detections.um, annotations.um, length.value)
        if size is not None:  # annotations may have been made on other voxels
            real = annotations.um / size
    else:
        result = match(found, real, length.value, size if in_um and size is not None else (1.0, 1.0, 1.0))
    regions: dict[str, Matching] = {}
    names: list[NDArray[np.str_]] | None = None
    if boxes:
        inside = [[box.holds(points) for points in (found, real)] for box in boxes]
        regions = {box.name: _within(result, *held) for box, held in zip(boxes, inside, strict=True)}
        names = [
            np.select([held[side] for held in inside], [box.name for box in boxes], "").astype(str) for side in (0, 1)
        ]
    elif labels is not None:
        of = [labels_at(labels, points, detections.shape) for points in (found, real)]
        inside, names, regions = [[each != 0 for each in of]], *_by_label(result, of, label_names or {})
    if len(regions) > 1:
        union = [np.any([held[side] for held in inside], axis=0) for side in (0, 1)]
        regions[TOGETHER] = _within(result, *union)
    return Outcome(
        result,
        regions,
        detections,
        annotations,
        found,
        real,
        None if names is None else names[0],
        None if names is None else names[1],
        length,
        length.unit,
        size,
    )


def _within(result: Matching, found: NDArray[np.bool_], real: NDArray[np.bool_]) -> Matching:
    """The part of a matching in a region, given which detections and annotations lie in it."""
    kept = real[result.pairs[:, 1]]
    alone = found.copy()
    alone[result.pairs[:, 0]] = False
    pairs = result.pairs[kept]
    return Matching(pairs, result.distances[kept], len(pairs) + int(alone.sum()), int(real.sum()))


def _by_label(
    result: Matching, of: list[NDArray[np.int64]], names: Mapping[int, str]
) -> tuple[list[NDArray[np.str_]], dict[str, Matching]]:
    """Names of the regions of detections and annotations, and the scores of each label that has any."""
    known = np.unique(np.concatenate(of))
    regions: dict[str, Matching] = {}
    # sorted once: whole-brain annotations have a thousand labels
    pair_label = of[1][result.pairs[:, 1]]
    alone = np.ones(len(of[0]), bool)
    alone[result.pairs[:, 0]] = False
    order = np.argsort(pair_label, kind="stable")
    ends = np.searchsorted(pair_label[order], known, "left"), np.searchsorted(pair_label[order], known, "right")
    alarms, real = (_counts(each, known) for each in (of[0][alone], of[1]))
    called = []
    for number, label in enumerate(known.tolist()):
        name = OUTSIDE if label == 0 else names.get(label, str(label))
        called.append(name if name not in called else f"{name} ({label})")
        kept = np.sort(order[ends[0][number] : ends[1][number]])
        regions[called[-1]] = Matching(
            result.pairs[kept], result.distances[kept], len(kept) + int(alarms[number]), int(real[number])
        )
    if not called:
        called, known = [""], np.zeros(1, np.int64)
    return [np.array(called)[np.searchsorted(known, each)] for each in of], regions


def _counts(labels: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(known, labels), minlength=len(known))
