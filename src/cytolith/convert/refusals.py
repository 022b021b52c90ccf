"""Outputs that are refused before anything is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cytolith.errors import ConfigError, OutputError
from cytolith.io.files import same_place
from cytolith.io.stamps import Stamps


def refuse_options(path: Path, **options: Any) -> None:
    """Refuse options that mean something for zarr only; None and False are not given.

    Raises
    ------
    ConfigError
        Names the option.
    """
    if path.suffix == ".zarr":
        return
    for name, value in options.items():
        if value is not None and value is not False:
            raise ConfigError(f"--{name} is for .zarr only, {path} is none; leave it out")


def refuse_input(path: Path, source: Any, stamps: Stamps | None) -> None:
    """Refuse to write over what is read, or into it.

    Parameters
    ----------
    path
        Of the output.
    source
        What the volume was opened from.
    stamps
        Of the volume.

    Raises
    ------
    OutputError
        Names both.
    """
    out = Path(os.path.abspath(path))  # noqa: PTH100 (a link to the input is another name for it)
    names = [] if stamps is None else stamps.names
    real = out.resolve()
    if out.exists() and any(real in Path(name).resolve().parents or same_place(out, Path(name)) for name in names):
        raise OutputError(f"{path} is, or holds, the input; choose another path")
    if isinstance(source, str | Path):
        folder = Path(source).expanduser()
        if folder.is_dir():
            inside = real.is_relative_to(folder.resolve())
            plane = path.suffix in (".tif", ".tiff") and real.parent == folder.resolve()
            if inside and (plane or any(Path(name).name in ("zarr.json", ".zarray") for name in names)):
                raise OutputError(f"{path} lies in the input {source}; choose another folder for it")
