"""Counts per region: which region of an annotation each cell lies in, and what the regions hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.atlas.hierarchy import Hierarchy
from cytolith.atlas.placement import OUTSIDE, Placement, place_cells
from cytolith.atlas.positions import Cells, cells_of
from cytolith.axes import VoxelSize
from cytolith.errors import ConfigError, VolumeError
from cytolith.io.label_volume import LabelVolume, label_volume
from cytolith.io.structures import Structure, read_structures

UNKNOWN = "unknown"
"""Name of regions that the list of names does not have."""

_AGREEMENT = 0.1

Table = dict[str, NDArray[Any]]


def count_regions(
    cells: Any,
    annotation: Any,
    *,
    names: Path | str | Sequence[Structure] | None = None,
    voxel_size: Sequence[float] | None = None,
    offset: Sequence[float] = (0.0, 0.0, 0.0),
    hemispheres: Any = None,
    volume_voxel_size: Sequence[float] | None = None,
) -> Table:
    """Cells per region of an annotation that lies in the space of the volume.

    Parameters
    ----------
    cells : path, mapping of str to ndarray, array of shape (n, 3), or Cells
        Folder of a run, a table, its columns, or positions in micrometres from the corner of the volume; see
        `cytolith.atlas.positions.cells_of`.
    annotation
        Volume of integer labels, 0 for outside: anything that `cytolith.open_volume` reads. Ids of up to 2^53 are read
        without loss, box by box.
    names : path or sequence of Structure, optional
        Ids, names and what is part of what; see `cytolith.io.structures.read_structures`.
    voxel_size : three floats, optional
        Edges (z, y, x) in micrometres of a voxel of the annotation; default: its metadata, or the voxel size of the
        volume when both have the same extents in voxels.
    offset : three floats
        Where the corner of the annotation lies in the volume, (z, y, x) in micrometres.
    hemispheres : optional
        Volume of labels with the extents of the annotation, such as 1 for left and 2 for right: each region is counted
        for each of them.
    volume_voxel_size : three floats, optional
        Edges of a voxel of the volume that the cells were found in; default: what the table says.

    Returns
    -------
    dict of str to ndarray
        One row a region (and hemisphere): ``id``, ``acronym`` and ``name`` (with `names`), ``hemisphere`` (with
        `hemispheres`), ``cells`` (int64), ``volume_mm3``, ``cells_per_mm3`` and the mean of each measured column
        (``mean_size``, ...); when it is known what is part of what, the same with all parts of the region, as
        ``cells_with_children`` and so on. The first row is id 0, ``outside``: cells on voxels of 0 and beyond the
        annotation; it has no density. Regions come in the order of `names`, then unknown ones by id; those without a
        voxel and without a cell are left out. ``cells`` adds up to the number of rows of the table, always.

    Raises
    ------
    ConfigError, VolumeError
        A voxel size that is unknown, a file that cannot be read, labels that are no whole numbers.

    Examples
    --------
    >>> annotation = np.zeros((2, 2, 2), np.uint32)
    >>> annotation[1] = 997
    >>> table = count_regions([[12, 5, 5], [12, 15, 5], [99, 5, 5]], annotation, voxel_size=(10, 10, 10))
    >>> table["id"].tolist(), table["cells"].tolist()
    ([0, 997], [1, 2])
    """
    if not isinstance(cells, Cells):
        cells = cells_of(cells, voxel_size=volume_voxel_size)
    structures = list(read_structures(names) if isinstance(names, (str, Path)) else names or ())
    placement = placed(cells, label_volume(annotation), voxel_size=voxel_size, offset=offset, hemispheres=hemispheres)
    return region_table(cells, placement, structures)


def placed(
    cells: Cells,
    annotation: LabelVolume,
    *,
    voxel_size: Sequence[float] | None = None,
    offset: Sequence[float] = (0.0, 0.0, 0.0),
    hemispheres: Any = None,
) -> Placement:
    """Region of each cell; parameters and errors as for `count_regions`."""
    sides = None if hemispheres is None else label_volume(hemispheres)
    if sides is not None and sides.shape != annotation.shape:
        raise ConfigError(
            f"{sides.name}: hemispheres of the extents {sides.shape}, but the annotation has {annotation.shape}; they "
            "must be the same"
        )
    size = voxel_size or annotation.voxel_size
    if size is None and annotation.shape == cells.shape:
        size = cells.voxel_size
    if size is None:
        raise ConfigError(f"{annotation.name}: the voxel size of the annotation is unknown: add --voxel-size Z,Y,X")
    z, y, x = (float(edge) for edge in size)
    dz, dy, dx = (float(shift) for shift in offset)
    if not np.isfinite([z, y, x, dz, dy, dx]).all() or min(z, y, x) <= 0:
        raise ConfigError(f"voxel size {tuple(size)} and offset {tuple(offset)}: give finite numbers, sizes above 0")
    return place_cells(cells, annotation, (z, y, x), (dz, dy, dx), sides)


def region_table(cells: Cells, placement: Placement, structures: Sequence[Structure]) -> Table:
    """The table of `count_regions` from the region of each cell; rows of the table are read part by part."""
    tree = Hierarchy(structures)
    if any(structure.id == OUTSIDE for structure in structures):
        structures = [structure for structure in structures if structure.id != OUTSIDE]
    found = {region for region, _ in placement.regions}
    ids = _order(tree.above(found - {OUTSIDE}), structures)
    sides = sorted({side for region, side in placement.regions if region != OUTSIDE}) or [0]
    keys = [(OUTSIDE, 0), *((region, side) for region in ids for side in sides)]
    row = {key: number for number, key in enumerate(keys)}
    counts, sums, valid = _accumulate(cells, placement, row)
    voxels = np.zeros(len(keys), np.int64)
    for number, key in enumerate(placement.regions):
        voxels[row[key]] += placement.voxels[number]
    direct = _Quantities(counts, voxels, sums, valid)
    full = direct
    if tree.known:
        full = _Quantities(*(np.zeros_like(each) for each in direct.all))
        for number, _ in enumerate(sides):
            rows = np.arange(1 + number, len(keys), len(sides))
            for total, own in zip(full.all, direct.all, strict=True):
                total[rows] = tree.sums(ids, own[rows])
        for total, own in zip(full.all, direct.all, strict=True):
            total[0] = own[0]
    kept = np.flatnonzero((full.counts > 0) | (full.voxels > 0) | (np.arange(len(keys)) == 0))
    table = _labels(np.array(keys, np.int64)[kept], structures, hemispheres=placement.has_hemispheres)
    table |= direct.columns(kept, placement.voxel_mm3, cells.measures, "")
    if tree.known:
        table |= full.columns(kept, placement.voxel_mm3, cells.measures, "_with_children")
    return table


def mismatch(cells: Cells, annotation: LabelVolume, voxel_size: VoxelSize) -> str:
    """What is odd about the extents of an annotation beside those of the volume, in words; empty where they agree."""
    if cells.extent is None:
        return ""
    extent = [count * edge for count, edge in zip(annotation.shape, voxel_size, strict=True)]
    if all(
        abs(a - v) <= max(_AGREEMENT * v, edge) for a, v, edge in zip(extent, cells.extent, voxel_size, strict=True)
    ):
        return ""
    a, v = (" x ".join(f"{length:.0f}" for length in lengths) for lengths in (extent, cells.extent))
    return f"the annotation is {a} um and the volume {v} um (z, y, x): is it in the space of the volume?"


class _Quantities:
    """What is added up per row of the result."""

    def __init__(
        self,
        counts: NDArray[np.int64],
        voxels: NDArray[np.int64],
        sums: NDArray[np.float64],
        valid: NDArray[np.int64],
    ) -> None:
        self.counts, self.voxels, self.sums, self.valid = counts, voxels, sums, valid
        self.all: tuple[NDArray[Any], ...] = (counts, voxels, sums, valid)

    def columns(self, kept: NDArray[np.int64], voxel_mm3: float, measures: Sequence[str], suffix: str) -> Table:
        counts, volume = self.counts[kept], self.voxels[kept] * voxel_mm3
        with np.errstate(invalid="ignore", divide="ignore"):
            density = np.where(volume > 0, counts / volume, np.nan)
            means = self.sums[kept] / self.valid[kept]
        density[0] = np.nan  # outside is no region of this volume: cells beyond the annotation count too
        table: Table = {f"cells{suffix}": counts, f"volume_mm3{suffix}": volume, f"cells_per_mm3{suffix}": density}
        return table | {f"mean_{name}{suffix}": means[:, number] for number, name in enumerate(measures)}


def _order(ids: set[int], structures: Sequence[Structure]) -> list[int]:
    listed = [structure.id for structure in structures if structure.id in ids]
    return listed + sorted(ids - set(listed))


def _accumulate(
    cells: Cells, placement: Placement, row: Mapping[tuple[int, int], int]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Cells of each row of the result; sums of each measure, and of how many cells (NaN is left out)."""
    measures = cells.measures
    target = np.array([row[key] for key in placement.regions], np.int64)
    counts = np.zeros(len(row), np.int64)
    sums, valid = np.zeros((len(row), len(measures))), np.zeros((len(row), len(measures)), np.int64)
    begin = 0
    for part, length in enumerate(cells.parts.rows):
        rows = target[placement.region_of[begin : begin + length]]
        counts += np.bincount(rows, minlength=len(row))
        if measures:
            columns = cells.parts.read(part, measures)
            for number, name in enumerate(measures):
                values = columns[name]
                known = ~np.isnan(values)
                sums[:, number] += np.bincount(rows[known], values[known], len(row))
                valid[:, number] += np.bincount(rows[known], minlength=len(row))
        begin += length
    if counts.sum() != cells.total:
        raise VolumeError(f"{cells.parts.name}: has changed while it was read; run again")
    return counts, sums, valid


def _labels(keys: NDArray[np.int64], structures: Sequence[Structure], *, hemispheres: bool) -> Table:
    table: Table = {"id": keys[:, 0].copy()}
    if structures:
        known = {structure.id: structure for structure in structures}
        known[OUTSIDE] = Structure(OUTSIDE, "outside", "outside")
        nobody = Structure(0, UNKNOWN, "")
        rows = [known.get(int(region), nobody) for region in keys[:, 0]]
        table |= {"acronym": np.array([r.acronym for r in rows]), "name": np.array([r.name for r in rows])}
    else:
        table["name"] = np.array(["outside" if region == OUTSIDE else "" for region in keys[:, 0]])
    if hemispheres:
        table["hemisphere"] = keys[:, 1].copy()
    return table
