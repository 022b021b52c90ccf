"""neuroglancer's precomputed annotations: points with properties that a browser shows however many there are.

Written by the published description of ``neuroglancer_annotations_v1`` and ``neuroglancer_uint64_sharded_v1``
(neuroglancer, src/datasource/precomputed: annotations.md, sharded.md).
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import VoxelSize
from cytolith.io.points.rows import Column, Rows

TYPE = "neuroglancer_annotations_v1"
_LIMIT = 5_000
"""Points that one file of the spatial index holds at most: what a browser loads at once."""
_MINISHARD_BITS = 10
"""An index of 2^10 points is read to find one."""
_SMALLEST = 1.0
"""Voxels along the edges of a cell that is not cut further: points on each other are written whatever their number."""
_POINT = 12  # bytes of a position


@dataclass(frozen=True)
class _Property:
    """A column as the format holds it."""

    column: str
    id: str
    type: str

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.type).newbyteorder("<")

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"id": self.id, "type": self.type, "description": self.column}
        if self.type == "uint8":  # bool
            described |= {"enum_values": [0, 1], "enum_labels": ["false", "true"]}
        return described


def write_neuroglancer(folder: Path, rows: Rows, voxel_size: VoxelSize | None) -> None:
    """Write a table as a folder of point annotations.

    Parameters
    ----------
    folder
        An empty folder, to be served by a web server and opened as ``precomputed://http://.../FOLDER``. The server
        must answer requests for ranges of bytes (as ``npx http-server --cors`` does), or points can be seen but not
        selected.
    rows
        The table. The id of a point is its row, from 0; its properties are the columns of numbers: integers as int32
        where they fit, bool as uint8, others as float32.
    voxel_size
        Edges (z, y, x) in micrometres, which neuroglancer gets in metres; None: voxels without a unit.

    Notes
    -----
    Dimensions are x, y, z. neuroglancer counts positions from the corner of a voxel, cytolith from its centre: half a
    voxel is added. The spatial index begins with one cell and halves cells along their long axes, until all points
    are in it; of a crowded cell a random sample is taken, which depends on the rows alone.

    Memory holds about 60 bytes a row; the rest is read back from the disk.
    """
    properties = _properties(rows.others)
    record = np.dtype(
        {
            "names": ["point", *(p.id for p in properties)],
            "formats": [("<f4", 3), *(p.dtype for p in properties)],
            "offsets": [0, *_offsets(properties)],
            "itemsize": -(-(_POINT + sum(p.dtype.itemsize for p in properties)) // 4) * 4,
        }
    )
    (folder / "by_id").mkdir()
    sharding, header = _sharding(rows.count)
    points = np.empty((rows.count, 3), np.float32)
    with (folder / "by_id" / "0.shard").open("wb") as file:
        file.write(header_bytes := bytes(header))
        done = 0
        for part in _records(rows, properties, record):
            points[done : done + len(part)] = part["point"]
            file.write(part.tobytes())
            done += len(part)
        _write_index(file, rows.count, record.itemsize, header)
        file.flush()
        os.fsync(file.fileno())
    low = np.floor(points.min(axis=0)) if rows.count else np.zeros(3)
    # the bound is exclusive
    high = np.floor(points.max(axis=0)) + 1.0 if rows.count else np.ones(3)
    records = (
        np.memmap(folder / "by_id" / "0.shard", f"V{record.itemsize}", "r", len(header_bytes), (rows.count,))
        if rows.count
        else np.empty(0, f"V{record.itemsize}")
    )
    edges = np.array(voxel_size[::-1] if voxel_size else (1.0, 1.0, 1.0))
    spatial = [
        _write_level(folder, level, records)
        for level in _levels(points, low.astype(np.float64), high.astype(np.float64), edges)
    ]
    unit = "m" if voxel_size else ""
    info = {
        "@type": TYPE,
        "dimensions": {
            axis: [_metres(edge) if voxel_size else 1, unit] for axis, edge in zip("xyz", edges.tolist(), strict=True)
        },
        "lower_bound": low.tolist(),
        "upper_bound": high.tolist(),
        "annotation_type": "POINT",
        "properties": [p.describe() for p in properties],
        "relationships": [],
        "by_id": {"key": "by_id", "sharding": sharding},
        "spatial": spatial,
    }
    with (folder / "info").open("w", encoding="utf-8", newline="\n") as text:
        text.write(json.dumps(info, indent=1) + "\n")
        text.flush()
        os.fsync(text.fileno())


def _metres(um: float) -> float:
    """Metres with the digits of the micrometres: 1.62 um is 1.62e-06, not 1.6199999999999998e-06."""
    return float(f"{um!r}e-6") if "e" not in repr(um) else um * 1e-6


def _properties(columns: dict[str, Column]) -> list[_Property]:
    """Properties in the order in which they are stored: those of four bytes, then those of one."""
    properties, ids = [], {"point"}
    for name, column in columns.items():
        if column.kind == "U":
            continue
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = plain if re.match("[a-z]", plain) else plain[:1].lower() + plain[1:]
        plain = plain if re.match("[a-z]", plain) else f"p_{plain}"
        while plain in ids:
            plain += "_"
        ids.add(plain)
        properties.append(_Property(name, plain, _type(column)))
    return sorted(properties, key=lambda p: p.type == "uint8")


def _type(column: Column) -> str:
    if column.kind == "b":
        return "uint8"
    # not uint32, which the Python package of neuroglancer aligns otherwise than its viewer
    fits = column.low > column.high or (column.low >= -(2**31) and column.high < 2**31)
    return "int32" if column.kind == "i" and fits else "float32"


def _offsets(properties: list[_Property]) -> list[int]:
    offsets, end = [], _POINT
    for p in properties:
        offsets.append(end)
        end += p.dtype.itemsize
    return offsets


def _records(rows: Rows, properties: list[_Property], record: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    for points, table in rows.parts():
        part = np.zeros(len(points), record)
        part["point"] = points[:, ::-1] + 0.5
        for p in properties:
            with np.errstate(over="ignore"):  # beyond float32: infinity
                part[p.id] = table[p.column]
        yield part


def _sharding(count: int) -> tuple[dict[str, Any], NDArray[np.uint64]]:
    """Description of a single shard of `count` points, and its index of minishards, still empty."""
    bits = max(-(-count >> _MINISHARD_BITS) - 1, 0).bit_length()
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": _MINISHARD_BITS,
        "hash": "identity",
        "minishard_bits": bits,
        "shard_bits": 0,
        "minishard_index_encoding": "raw",
        "data_encoding": "raw",
    }
    return sharding, np.zeros((1 << bits, 2), "<u8")


def _write_index(file: BinaryIO, count: int, size: int, header: NDArray[np.uint64]) -> None:
    """Write behind the points of a shard, which lie in order of their ids, where each of them is."""
    end = count * size
    for number, start in enumerate(range(0, count, 1 << _MINISHARD_BITS)):
        n = min(1 << _MINISHARD_BITS, count - start)
        index = np.zeros((3, n), "<u8")
        index[0] = 1  # ids and places are differences
        index[0, 0], index[1, 0], index[2] = start, start * size, size
        file.write(index.tobytes())
        header[number] = end, end + index.nbytes
        end += index.nbytes
    file.seek(0)
    file.write(header.tobytes())


@dataclass(frozen=True)
class _Level:
    """Points of one level of the spatial index, cell by cell."""

    number: int
    grid: NDArray[np.int64]
    chunk: NDArray[np.float64]
    ids: NDArray[np.int64]
    cells: NDArray[np.int64]
    """Cell of each point, sorted."""


def _levels(
    points: NDArray[np.float32], low: NDArray[np.float64], high: NDArray[np.float64], edges: NDArray[np.float64]
) -> Iterator[_Level]:
    chunk, grid = high - low, np.ones(3, np.int64)
    left = np.arange(len(points))
    for number in itertools.count():
        place = np.clip(((points[left] - low) / chunk).astype(np.int64), 0, grid - 1)
        cell = np.ravel_multi_index((place[:, 0], place[:, 1], place[:, 2]), grid.tolist())
        del place
        chance = _hash(left, number)
        order = np.lexsort((chance, cell))
        cell, chance, left = cell[order], chance[order], left[order]
        starts = _starts(cell)
        counts = np.diff(np.r_[starts, len(cell)])
        most = int(counts.max(initial=0))
        taken = np.ones(len(cell), bool)
        if most > _LIMIT and (chunk > _SMALLEST).any():
            taken = chance < np.uint64(_LIMIT / most * 2**64)
            taken &= np.arange(len(cell)) - np.repeat(starts, counts) < _LIMIT
        yield _Level(number, grid, chunk, left[taken], cell[taken])
        left = np.sort(left[~taken])
        if not len(left):
            return
        halved = chunk * edges > (chunk * edges).max() / 2
        chunk, grid = np.where(halved, chunk / 2, chunk), np.where(halved, 2 * grid, grid)


def _starts(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each cell begins in sorted cells."""
    return np.flatnonzero(np.diff(cells, prepend=-1))


def _hash(ids: NDArray[np.int64], level: int) -> NDArray[np.uint64]:
    """A number below 2^64 that looks random, from an id and a level (splitmix64, Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        h = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64((level * 0xD1B54A32D192ED03) % 2**64)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(h ^ (h >> np.uint64(31)))


def _write_level(folder: Path, level: _Level, records: NDArray[Any]) -> dict[str, Any]:
    """Write the cells of a level that hold points, a file each; returns its description."""
    key = f"spatial{level.number}"
    (folder / key).mkdir()
    starts = _starts(level.cells)
    limit = 1
    for start, stop in zip(starts, np.append(starts, len(level.cells))[1:], strict=True):
        ids = level.ids[start:stop]
        place = np.unravel_index(level.cells[start], level.grid.tolist())
        with (folder / key / "_".join(str(int(p)) for p in place)).open("wb") as file:
            file.write(np.uint64(len(ids)).astype("<u8").tobytes())
            file.write(records[ids].tobytes())
            file.write(ids.astype("<u8").tobytes())
        limit = max(limit, len(ids))
    return {
        "key": key,
        "grid_shape": level.grid.tolist(),
        "chunk_size": level.chunk.tolist(),
        "limit": limit,
    }
