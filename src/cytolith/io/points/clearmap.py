"""ClearMap's table of cells: a structured .npy with whole-numbered positions."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from cytolith.io.points.rows import Rows

_DTYPES = {"b": np.bool_, "i": np.int64, "f": np.float64}
_INT64 = 2.0**63


def write_clearmap(file: BinaryIO, rows: Rows) -> None:
    """Write a table as ClearMap 2 saves cells.

    Parameters
    ----------
    file
        Open for writing.
    rows
        The table. Fields are ``x, y, z`` (int64: the nearest voxel, halves to the even one), ``size`` (int64), then
        one for each other column of numbers, as float64, int64 or bool, in the order of the table; positions in
        micrometres and texts are left out, which ClearMap does not know.
    """
    others = {name: column for name, column in rows.others.items() if column.kind != "U" and not name.endswith("_um")}
    names = sorted(others, key=lambda name: name != "size")  # stable: size comes first
    fields: list[Any] = [(axis, np.int64) for axis in "xyz"]
    for name in names:
        column = others[name]
        whole = column.kind != "i" or column.high < _INT64
        fields.append((name if name not in "xyz" else f"{name}_", _DTYPES[column.kind] if whole else np.float64))
    dtype = np.dtype(fields)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows.count,)}
    np.lib.format.write_array_header_1_0(file, header)
    for points, table in rows.parts():
        part = np.empty(len(points), dtype)
        for axis, field in enumerate("zyx"):
            part[field] = np.rint(points[:, axis])
        for name, field in zip(names, dtype.names[3:] if dtype.names else (), strict=True):
            part[field] = table[name]
        file.write(part.tobytes())
