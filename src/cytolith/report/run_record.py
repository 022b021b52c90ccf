"""What a run of cells left in words and numbers, as tables of a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cytolith.axes import VoxelSize
from cytolith.cells.build import read_toml
from cytolith.cells.config import STEPS, CellsConfig
from cytolith.cells.resolve import with_defaults
from cytolith.errors import ConfigError, VolumeError
from cytolith.io.volume import Volume, open_volume
from cytolith.quantities import format_bytes
from cytolith.report.page import DASH, duration

_OPTIONS = ("channel", "timepoint", "level", "dataset")


def read_record(path: Path) -> dict[str, Any]:
    """What a run wrote about itself as JSON; VolumeError names the file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise VolumeError(f"{path}: is not JSON ({error}); run again") from error
    if not isinstance(record, dict):
        raise VolumeError(f"{path}: is no record of a run; run again")
    return record


def open_input(folder: Path, record: Mapping[str, Any]) -> tuple[Volume, str, dict[str, Any]]:
    """The volume that a run of cells read, what it was opened from, and with which options.

    Raises
    ------
    VolumeError
        It is gone, cannot be read, or is another one now.
    """
    asked, identity = record["input"], record.get("identity", {}).get("input", {})
    size = asked.get("voxel_size_um")
    options = {name: identity[name] for name in _OPTIONS if identity.get(name) is not None}
    try:
        _, keys = read_toml(folder / "config.toml")
        given = str(keys.get("input", ""))
        options = {name: keys[name] for name in _OPTIONS if keys.get(name) not in (None, "none")}
    except ConfigError:  # the record is enough
        given = ""
    volume, source = open_first([identity.get("path"), given, asked.get("source")], folder, size, options)
    if list(volume.shape) != list(asked["shape"]) or str(volume.dtype) != asked["dtype"]:
        raise VolumeError(
            f"{source} has changed since the run: it is {volume.shape} {volume.dtype} now, and was "
            f"{tuple(asked['shape'])} {asked['dtype']}"
        )
    return volume, source, options


def open_first(
    names: list[str | None], folder: Path, size: VoxelSize | None, options: Mapping[str, Any]
) -> tuple[Volume, str]:
    """The first of some paths that can be opened, from where we are, or from beside the run folder.

    Raises
    ------
    VolumeError
        None can; says why of the first.
    """
    first: VolumeError | None = None
    known = [name for name in names if name]
    for name in [*known, *(str(folder.resolve().parent / name) for name in known)]:
        try:
            volume = open_volume(name, voxel_size=size, **options)
            volume.check()
        except VolumeError as error:
            first = first or error
        else:
            return volume, name
    raise first or VolumeError("the record names no input")


def config_of(record: Mapping[str, Any]) -> CellsConfig | None:
    """Parameters of the run; None when this version does not know them."""
    try:
        return CellsConfig.model_validate(record["config"])
    except (ValueError, KeyError, ConfigError):
        return None


_SWITCHES = {"illumination_correction": "flatfield", "dog_filter": "shape"}
"""Steps that do nothing as long as this parameter of them is not given."""


def parameter_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each parameter of each step: step, name, value, default, and whether the two differ."""
    size = record["input"].get("voxel_size_um")
    defaults = with_defaults(CellsConfig(), None if size is None else tuple(size)).model_dump(mode="json")
    given = record["config"]
    rows: list[dict[str, Any]] = []
    for step in [*(name for name in STEPS if name in given), *(name for name in given if name not in STEPS)]:
        value, default = given[step], defaults.get(step)
        if not isinstance(value, Mapping):
            shown = _shown(value) if value is not None else "off"
            changed = value != default
            rows.append(_row(step, "", shown, "on" if isinstance(default, Mapping) else _shown(default), changed))
            continue
        switch = _SWITCHES.get(step)
        if switch is not None and value.get(switch) is None:  # what its other parameters are makes no difference
            rows.append(_row(step, "", "off", "off", False))
            continue
        if not isinstance(default, Mapping):
            rows.append(_row(step, "", "on", "off", True))
        for name, content in value.items():
            usual = default.get(name) if isinstance(default, Mapping) else None
            if name == "stripe_axis" and value.get("stripe_length") is None:
                continue
            changed = isinstance(default, Mapping) and content != usual
            if changed or content is not None:
                rows.append(_row(step, name, _shown(content), _shown(usual), changed))
    for before, row in zip([None, *rows], rows, strict=False):
        row["first"] = before is None or before["step"] != row["step"]
    return rows


def _row(step: str, name: str, value: str, default: str, changed: bool) -> dict[str, Any]:
    return {"step": step.replace("_", " "), "name": name, "value": value, "default": default, "changed": changed}


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def step_bars(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Time of each step, added up over workers: name, words, and per cent of the longest."""
    steps = {name: float(value) for name, value in seconds.items() if name not in ("run", "report")}
    longest = max(steps.values(), default=0.0)
    return [
        {"name": name.replace("_", " "), "time": duration(value), "percent": round(100 * value / longest, 1)}
        for name, value in steps.items()
        if longest > 0
    ]


def memory_text(record: Mapping[str, Any]) -> tuple[str, str | None]:
    """Memory that the run planned, and that it used where that was recorded."""
    memory = record.get("memory", {})
    planned = memory.get("planned", record.get("plan", {}).get("bytes_total"))
    used = memory.get("used")
    return DASH if planned is None else format_bytes(planned), None if used is None else format_bytes(used)


def volume_mm3(shape: tuple[int, ...], size: VoxelSize | None) -> float | None:
    """Volume in cubic millimetres, None where the voxel size is unknown."""
    return None if size is None else math.prod(shape) * math.prod(size) * 1e-9
