"""The cell map section of a ClearMap configuration, as a configuration of the cells pipeline."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from cytolith.axes import VoxelSize
from cytolith.cells.build import build_config, to_toml
from cytolith.cells.config import CellsConfig
from cytolith.cells.fields import nearest, no_text
from cytolith.cells.presets import preset
from cytolith.errors import ConfigError, VolumeError
from cytolith.quantities import Length, parse_length

Section: TypeAlias = dict[str, Any]

_HEADING = re.compile(r"(\[+)\s*([^\[\]]+?)\s*(\]+)$")
_QUOTED = re.compile(r"""("[^"]*"|'[^']*')|#.*""")


@dataclass(frozen=True)
class CellMap:
    """Parameters of a cell map, and what of the file has no place among them."""

    config: CellsConfig
    left_out: list[str] = field(default_factory=list)

    def to_toml(self, name: str, voxel_size: VoxelSize | None = None) -> str:
        """Text of a ``config.toml``, with what was left out of the file `name` as comments above."""
        lines = [
            f"# Made by `cytolith migrate` from {name} of ClearMap. What that file does not say is ClearMap's default.",
            *(["# It also says:", *(f"#   {line}" for line in self.left_out)] if self.left_out else []),
            "",
        ]
        run = {} if voxel_size is None else {"voxel_size": list(voxel_size)}
        return "\n".join([*lines, to_toml(self.config, run)])


def read_cell_map(path: Path, channel: str | None = None) -> CellMap:
    """The cell map section of a ClearMap configuration (.cfg).

    Parameters
    ----------
    path
        ``cell_map_params.cfg`` of ClearMap 2.1, with a section ``[detection]``, or of ClearMap 3, with one for each
        channel below ``[channels]``.
    channel
        Name of the channel, of ClearMap 3; needed when several have cells.

    Returns
    -------
    CellMap
        Lengths are turned from ClearMap's (x, y, z) to (z, y, x), in voxels. What the file does not say is ClearMap's
        default: the preset ``clearmap``.

    Raises
    ------
    VolumeError
        A file that cannot be read, a line that is neither section nor value, a name that is there twice, no section of
        a cell map.
    ConfigError
        A channel that is not there, or a value that a step does not take.
    """
    document = _parse(path)
    section, where = _section(document, path, channel)
    left_out: list[str] = []
    layer: dict[str, Any] = {}
    for name, value in section["detection"].items():
        if name in _STEPS:
            try:
                layer[name] = _step(name, value, f"{where}detection.{name}", left_out)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
        elif name == "test_set_slicing" and isinstance(value, dict):
            left_out.append(_slicing(value, where))
        else:
            left_out += _lines(f"{where}detection.{name}", value, _no_place)
    for name, value in section.items():
        if name != "detection":
            left_out += _lines(f"{where}{name}", value, _later)
    return CellMap(build_config(("", preset("clearmap")), (str(path), layer)), left_out)


def _lengths(axes: str, *, positive: bool = False) -> Callable[[Any], Any]:
    """Lengths of the axes (x, y, z) turned to (z, y, x); one for all axes stays.

    They are checked here, for messages with the values in the order of the file.
    """

    def turned(value: Any) -> tuple[Length, ...] | None:
        if no_text(value) is None:
            return None
        lengths = [parse_length(each) for each in _listed(value)]
        if len(lengths) not in (1, len(axes)):
            shown = ", ".join(axes)
            raise ConfigError(f"has {len(lengths)} lengths: give one for all axes or {len(axes)} ({shown})")
        if positive and any(length.value <= 0 for length in lengths):
            raise ConfigError("must be positive")
        return tuple(reversed(lengths))

    return turned


def _listed(value: Any) -> list[Any]:
    """What is in a list, also in a text with commas; anything else as a list of one."""
    if isinstance(value, str):
        value = _value(value)
    return list(value) if isinstance(value, (list, tuple)) else [value]


_in_plane, _in_space = _lengths("xy"), _lengths("xyz")
_wide = _lengths("xyz", positive=True)


def _same(value: Any) -> Any:
    return value


def _measures(value: Any) -> Any:
    names = _listed(value)
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError("give names of images, for example source, background")
    return [{"background": "background_correction"}.get(name, name) for name in names]


_STEPS: dict[str, dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "illumination_correction": {name: (name, _same) for name in ("flatfield", "background", "scaling")},
    "background_correction": {
        "diameter": ("shape", _in_plane),  # what ClearMap's windows call it
        "shape": ("shape", _in_plane),
        "form": ("form", _same),
    },
    "equalization": {
        **{name: (name, _same) for name in ("percentile", "max_value", "mask")},
        **{name: (name, _in_space) for name in ("selem", "spacing")},
        "interpolate": ("interpolate", lambda value: value or 0),
    },
    "dog_filter": {"shape": ("shape", _in_space), **{name: (name, _wide) for name in ("sigma", "sigma2")}},
    "maxima_detection": {
        **{name: (name, _same) for name in ("h_max", "threshold", "valid")},
        "shape": ("shape", _in_space),
    },
    "shape_detection": {"threshold": ("threshold", _same)},
    "intensity_detection": {
        "method": ("method", _same),
        "shape": ("shape", _in_space),
        "measure": ("measure", _measures),
    },
}
"""For each step what its parameters are called here, and how their values change."""

_MAY_BE_NONE = {"h_max", "threshold", "scaling", "flatfield", "background", "mask", "interpolate", "sigma", "sigma2"}


def _step(name: str, value: Any, where: str, left_out: list[str]) -> dict[str, Any] | None:
    """Parameters of a step; None skips it."""
    if value is None or value == {} or (isinstance(value, dict) and name == "dog_filter" and not value.get("shape")):
        return None
    if not isinstance(value, dict):
        raise ConfigError(f"{where} = {value!r}: give a section [[{name}]], or None to skip the step")
    fields: dict[str, Any] = {}
    for key, given in value.items():
        if key == "save":
            if given:
                left_out.append(
                    f"{where}.save = {given!r}: to save what the step makes, add save = PATH (.zarr or .npy) to its "
                    "section"
                )
        elif key not in _STEPS[name]:
            left_out.append(f"{where}.{key} = {given!r}: not known; {nearest(str(key), list(_STEPS[name]))}")
        elif given is None and key not in _MAY_BE_NONE:
            left_out.append(f"{where}.{key} = None: ClearMap's default is used")
        elif key == "flatfield" and given is True:
            left_out.append(f"{where}.flatfield = True: ClearMap's own flat field is not here; give a file of yours")
        else:
            ours, change = _STEPS[name][key]
            if not isinstance(given, (int, float, str, list, tuple, type(None))):  # a section, or what Python has more
                raise ConfigError(f"{where}.{key} = {given!r}: give a number, a text or a list")
            used = given
            if change is _in_plane and len(_listed(given)) == 3:
                used = _listed(given)[:2]
                left_out.append(f"{where}.{key} = {given!r}: the first two, x and y, are used, as ClearMap does")
            try:
                fields[ours] = change(used)
            except ConfigError as error:
                raise ConfigError(f"{where}.{key} = {given!r}: {error}") from None
            if key in ("flatfield", "background", "mask") and isinstance(given, str) and given.endswith(".npy"):
                left_out.append(
                    f"{where}.{key} = {given!r}: is taken as (z, y, x); ClearMap's is (x, y, z): transpose it"
                )
    return fields


def _slicing(value: Section, where: str) -> str:
    """The part of a volume to try parameters on; dim_0 is x."""
    parts = []
    for axis in ("dim_2", "dim_1", "dim_0"):
        limits = value.get(axis)
        low, high = limits if isinstance(limits, (list, tuple)) and len(limits) == 2 else (None, None)
        parts.append(f"{'' if low is None else low}:{'' if high is None else high}")
    return f"{where}detection.test_set_slicing: to look at that part, cytolith preview --region {','.join(parts)}"


def _later(where: str, value: Any) -> str:
    """What becomes of a value that is for the time after the detection."""
    name = where.rpartition(".")[2]
    if ".thresholds." in f".{where}":
        column = {"intensity": "source"}.get(name, name)
        low, high = value if isinstance(value, (list, tuple)) and len(value) == 2 else (value, None)
        if not low and not high:
            return "no rows are left out, as here"
        limits = f"{'' if low is None else low},{'' if high is None else high}"
        return f"afterwards, cytolith filter OUT/cells.parquet -o kept.parquet --{column} {limits}"
    if name == "radii":
        radii = [each for each in _listed(value) if isinstance(each, (int, float))]
        radius = max(radii, default="RADIUS")
        return f'afterwards, cytolith density OUT -o density.tif --voxel-size "25 um" --radius {radius}'
    return _no_place(where, value)


def _no_place(where: str, _: Any) -> str:
    shown = any(word in where for word in ("preview", "plot", "run."))
    return "of ClearMap's windows" if shown else "has no equivalent"


def _lines(where: str, value: Any, says: Callable[[str, Any], str]) -> list[str]:
    """A line for each value of a section."""
    if isinstance(value, dict):
        return [line for name, each in value.items() for line in _lines(f"{where}.{name}", each, says)]
    return [f"{where} = {value!r}: {says(where, value)}"]


def _section(document: Section, path: Path, channel: str | None) -> tuple[Section, str]:
    """The section of the cell map, and what its names begin with in messages."""
    if isinstance(document.get("detection"), dict):
        if channel is not None:
            raise ConfigError(f"--channel {channel}: {path} has no channels; leave it out")
        return document, ""
    channels = document.get("channels")
    found = {
        name: each
        for name, each in (channels.items() if isinstance(channels, dict) else ())
        if isinstance(each, dict) and isinstance(each.get("detection"), dict)
    }
    if not found:
        raise VolumeError(
            f"{path}: has no section of a cell map ([detection]); give cell_map_params.cfg of the experiment"
        )
    if channel is None and len(found) > 1:
        raise ConfigError(f"{path}: has cells in several channels: choose one with --channel, {' or '.join(found)}")
    name = channel or next(iter(found))
    if name not in found:
        raise ConfigError(f"--channel {name}: has no cells in {path}; {nearest(name, list(found))}")
    return found[name], f"channels.{name}."


def _parse(path: Path) -> Section:
    """Sections in sections, by the number of brackets around their names, and the values in them."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VolumeError(f"{path}: cannot be read as text: {error}") from None
    stack: list[Section] = [{}]
    path_of: list[str] = []
    first_at: dict[tuple[str, ...], int] = {}
    hint = ""
    for number, raw in enumerate(lines, 1):
        line = _QUOTED.sub(lambda found: found.group(1) or "", raw).strip()
        if not line:
            continue
        heading = _HEADING.match(line)
        name, equals, text = line.partition("=")
        if heading is not None:
            depth = len(heading.group(1))
            if depth != len(heading.group(3)) or depth > len(stack):
                raise VolumeError(f"{path}, line {number}: {line!r} is no section: its brackets do not fit")
            del stack[depth:], path_of[depth - 1 :]
            name = heading.group(2).strip("'\"")
        elif equals and name.strip():
            name, text = name.strip().strip("'\""), text.strip()
        else:
            raise VolumeError(f"{path}, line {number}: {line[:60]!r} is neither a [section] nor NAME = VALUE{hint}")
        before = first_at.setdefault((*path_of, name), number)
        if before != number:
            shown = line if heading is not None else repr(name)
            raise VolumeError(f"{path}, line {number}: {shown} is there already in line {before}; put the two together")
        if heading is not None:
            stack.append(stack[-1].setdefault(name, {}))
            path_of.append(name)
            continue
        if _goes_on(text):
            raise VolumeError(f"{path}, line {number}: {name!r} does not end in its line; write the list on one line")
        hint = f"; if it belongs to the list of line {number}, write the list on one line" if text[-1:] == "," else ""
        stack[-1][name] = _value(text)
    return stack[0]


def _goes_on(text: str) -> bool:
    """Whether a value has a bracket or a quotation that is still open at its end."""
    if text[:3] in ('"""', "'''"):
        return text.count(text[:3]) < 2
    plain = _QUOTED.sub("", text)
    return text[:1] in ("[", "(", "{") and sum(map(plain.count, "[({")) > sum(map(plain.count, "])}"))


def _value(text: str) -> Any:
    """A value as Python writes it, or texts between commas."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    parts = [part.strip().strip("[]()'\"") for part in text.split(",") if part.strip()]
    if len(parts) > 1 or text.endswith(","):
        return [_value(part) if part else "" for part in parts]
    return text.strip("'\"")


def is_config(first_line: str) -> bool:
    """Whether a text with this first line, comments left out, looks like a configuration."""
    return bool(_HEADING.match(first_line)) or bool(re.match(r"[\w .'\"-]+=", first_line))
