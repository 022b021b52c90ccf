"""Lists of the regions of a brain as they come with an atlas: csv or json, with ids, names and what is part of what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cytolith.errors import VolumeError
from cytolith.io.tables import read_table

_ID = ("id", "structure_id", "region_id", "label")
_NAME = ("name", "safe_name", "structure_name", "region_name")
_ACRONYM = ("acronym", "abbreviation")
_PARENT = ("parent_structure_id", "parent_id", "parent")
_PATH = ("structure_id_path", "id_path")


@dataclass(frozen=True)
class Structure:
    """One region: its id, name and acronym, and the ids of the regions that it is part of, the nearest last."""

    id: int
    name: str = ""
    acronym: str = ""
    ancestors: tuple[int, ...] = ()
    """As far as the row tells: all of them from a path, the parent alone from its id."""


def read_structures(path: Path | str) -> list[Structure]:
    """Regions in the order of the file.

    Parameters
    ----------
    path : path
        A ``.csv`` (also ``.parquet``) with the columns id and name, and, where they are known, acronym,
        parent_structure_id or structure_id_path, as in Allen's and BrainGlobe's ``structures.csv``; or a ``.json``: a
        list of such objects as BrainGlobe's ``structures.json``, or Allen's ontology, with ``children`` in each object.

    Raises
    ------
    VolumeError
        A file that cannot be read or lists no regions; an id that is missing, no whole number, or there twice.
    """
    path = Path(path)
    rows = _read_json(path) if path.suffix.lower() == ".json" else _read_rows(path)
    structures: list[Structure] = []
    seen: set[int] = set()
    for number, (row, above) in enumerate(rows, 1):
        known = {str(key).strip().lower(): value for key, value in row.items()}
        own = _whole(_first(known, _ID))
        if own is None:
            raise VolumeError(f"{path}: row {number} has no id that is a whole number: a column 'id' is needed")
        if own in seen:
            raise VolumeError(f"{path}: the id {own} is there twice")
        seen.add(own)
        ancestors = above or _ancestors(known, own)
        if own in ancestors:
            raise VolumeError(f"{path}: region {own} is said to be part of itself")
        structures.append(Structure(own, _text(_first(known, _NAME)), _text(_first(known, _ACRONYM)), ancestors))
    if not structures:
        raise VolumeError(f"{path}: lists no regions")
    return structures


def _read_rows(path: Path) -> Iterator[tuple[dict[str, Any], tuple[int, ...]]]:
    table, _ = read_table(path)
    columns = {name: column.tolist() for name, column in table.items()}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True)), ()


def _read_json(path: Path) -> Iterator[tuple[dict[str, Any], tuple[int, ...]]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file") from None
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise VolumeError(f"{path}: is no JSON ({str(error) or type(error).__name__})") from error
    if isinstance(document, dict) and isinstance(document.get("msg"), list):  # what Allen's server wraps it in
        document = document["msg"]
    todo: list[tuple[Any, tuple[int, ...]]] = [(each, ()) for each in _listed(document)]
    todo.reverse()
    while todo:
        node, above = todo.pop()
        if not isinstance(node, Mapping):
            raise VolumeError(f"{path}: lists {str(node)[:40]!r} where a region with id and name is expected")
        yield {key: value for key, value in node.items() if key != "children"}, above
        own = _whole(_first({str(key).lower(): value for key, value in node.items()}, _ID))
        inside = above if own is None else (*above, own)
        todo += [(child, inside) for child in reversed(_listed(node.get("children") or []))]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _ancestors(row: Mapping[str, Any], own: int) -> tuple[int, ...]:
    path = _first(row, _PATH)
    if isinstance(path, str):
        path = [part for part in path.replace(",", "/").strip("/[] ").split("/") if part.strip()]
    if isinstance(path, Sequence) and path:
        ids = [each for each in map(_whole, path) if each is not None]
        return tuple(ids[:-1] if ids[-1:] == [own] else ids)
    parent = _whole(_first(row, _PARENT))
    # 0, -1 and the region itself are how some lists say that there is none
    return () if parent is None or parent in (0, -1, own) else (parent,)


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _whole(value: Any) -> int | None:
    """A whole number however it is written; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not np.isfinite(number) or number != int(number):
        return None
    try:
        return int(value)  # text of more digits than a float has
    except ValueError:
        return int(number)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(value).strip()
