"""napari's points: a csv that its viewer opens as a layer of points with properties."""

from __future__ import annotations

import csv
import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cytolith.io.points.rows import Rows


def write_napari(file: BinaryIO, rows: Rows) -> None:
    """Write a table as napari saves a layer of points.

    Parameters
    ----------
    file
        Open for writing.
    rows
        The table. Columns are ``index`` (row of the table, from 0), ``axis-0, axis-1, axis-2`` (z, y, x in voxels;
        the layer's scale is the voxel size) and all others, which become properties. napari takes a property for
        numbers only where every text is one: NaN is written ``nan``, bool 0 and 1.
    """
    names = list(rows.others)
    texts = any(column.kind == "U" for column in rows.others.values())
    _put(file, [["index", "axis-0", "axis-1", "axis-2", *names]])
    done = 0
    for points, table in rows.parts():
        columns = [
            map(str, range(done, done + len(points))),
            *(_texts(points[:, axis]) for axis in range(3)),
            *(_texts(table[name]) for name in names),
        ]
        lines = zip(*columns, strict=True)
        if texts:
            _put(file, lines)
        elif len(points):
            file.write(("\n".join(map(",".join, lines)) + "\n").encode())
        done += len(points)


def _put(file: BinaryIO, lines: Any) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    file.write(text.getvalue().encode())


def _texts(column: NDArray[Any]) -> list[str]:
    if column.dtype.kind == "U":
        return list(column.tolist())
    if column.dtype.kind == "b":
        column = column.astype(np.uint8)
    if column.dtype == np.float32:  # the fewest digits of the float32, not of the float64 it becomes in a list
        return list(map(str, column))
    return list(map(repr, column.tolist()))
