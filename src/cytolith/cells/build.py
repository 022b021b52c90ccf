"""From what a user wrote (keyword arguments, TOML, flags) to one checked configuration, and back to TOML."""

from __future__ import annotations

import json
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cytolith.cells.config import STEPS, CellsConfig, step_model
from cytolith.cells.fields import nearest
from cytolith.errors import ConfigError

RUN_KEYS = ("preset", "input", "classifier", "voxel_size", "channel", "timepoint", "level", "dataset")
"""Top-level names of a ``config.toml`` beside the steps: what the run read, so that the file runs again as it is, and a
preset that the steps stand above."""


def build_config(*layers: tuple[str, Mapping[str, Any]]) -> CellsConfig:
    """Configuration from layers of parameters, later ones over earlier ones.

    Parameters
    ----------
    *layers
        Pairs of a name for messages (a file, ``"command line"``, or ``""``) and a mapping of step names to parameters:
        a mapping, a model of :mod:`cytolith.cells.config`, None (skip the step) or ``"on"``.

    Raises
    ------
    ConfigError
        An unknown step or field (with the nearest right word) or a value out of range, with the name of its layer.
    """
    merged: dict[str, Any] = {}
    for origin, layer in layers:
        for step, given in layer.items():
            if step not in STEPS:
                raise ConfigError(f"{_where(origin)}unknown step {step!r}; {nearest(step, STEPS)}")
            fields = given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else given
            if isinstance(fields, Mapping):
                known = list(step_model(step).model_fields)
                for field in fields:
                    if field not in known:
                        raise ConfigError(f"{_where(origin)}unknown parameter {step}.{field}; {nearest(field, known)}")
                below = merged.get(step)
                fields = {**below, **fields} if isinstance(below, Mapping) else dict(fields)
            merged[step] = fields
        try:
            config = CellsConfig.model_validate(merged)
        except ValidationError as errors:
            first = errors.errors()[0]
            place = ".".join(str(p) for p in first["loc"] if str(p) in STEPS or (isinstance(p, str) and p.islower()))
            text = str(first["msg"]).removeprefix("Value error, ")
            given = first["input"]
            shown = "" if isinstance(given, Mapping) or repr(given) in text else f" (given: {given!r})"
            raise ConfigError(f"{_where(origin)}{place}: {text}{shown}") from None
    return config if layers else CellsConfig()


def _where(origin: str) -> str:
    return f"{origin}: " if origin else ""


def read_toml(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Steps and run keys (`RUN_KEYS`) of a TOML file; ConfigError names the file and what is wrong with it."""
    try:
        data = path.read_bytes()
        # Notepad writes a mark in front of UTF-8, and > of PowerShell UTF-16 with one.
        text = data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; write one with --print-config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    run = {key: document.pop(key) for key in RUN_KEYS if key in document}
    for key in document:
        if key not in STEPS:
            raise ConfigError(f"{path}: unknown name {key!r}; {nearest(key, [*STEPS, *RUN_KEYS])}")
    return document, run


def to_toml(config: CellsConfig, run: Mapping[str, Any] | None = None) -> str:
    """TOML text of a configuration with the help of every field as a comment; reads back to an equal one."""
    lines = [
        '# Parameters of `cytolith cells`. Lengths: voxels (5) or micrometres ("8 um"), in the order z, y, x.',
        '# Thresholds: grey values (700) or multiples of the noise ("6 mad"). none switches off.',
        "",
    ]
    for key, value in (run or {}).items():
        if value is not None:
            lines.append(f"{key} = {_toml_value(value)}")
    if run:
        lines.append("")
    skipped = [name for name in STEPS if getattr(config, name) is None]
    for name in skipped:
        lines += [f"# {_first_line(step_model(name))}", f'{name} = "none"', ""]
    for name in STEPS:
        step = getattr(config, name)
        if step is None:
            continue
        lines += [f"# {_first_line(type(step))}", f"[{name}]"]
        values = step.model_dump()
        for field, info in type(step).model_fields.items():
            lines += [f"# {line}" for line in (info.description or "").splitlines()]
            lines.append(f"{field} = {_toml_value(values[field])}")
        lines.append("")
    return "\n".join(lines)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").splitlines()[0]


def _toml_value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)  # its escapes are those of TOML
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    raise ConfigError(
        f"a {type(value).__name__} given as a parameter cannot be written to config.toml: save it to a file "
        "and give its path"
    )
