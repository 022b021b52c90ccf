"""Flat fields and camera offsets from arrays, numbers or files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytolith.errors import ConfigError


def read_flat_field(source: Any, option: str) -> NDArray[np.float64] | float:
    """Plane (Y, X), profile (N,) or number from an array, a number or a file.

    Parameters
    ----------
    source
        Array, number, or path of a ``.npy``, ``.tif``/``.tiff``, or a ``.csv``/``.txt`` of numbers (a profile in one
        row or column, or a plane).
    option
        Name of the option for messages.

    Raises
    ------
    ConfigError
        The file is missing, of an unknown kind, or holds anything but numbers of one or two dimensions.
    """
    if isinstance(source, (int, float)):
        return float(source)
    if isinstance(source, (str, Path)):
        array = _read(Path(source), option)
        name = f"{option} {source}"
    else:
        array, name = np.asarray(source), option
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{name}: holds {array.dtype}, not numbers")
    array = np.asarray(array, np.float64)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ConfigError(f"{name}: has shape {array.shape}; give a plane (Y, X) or a profile (N,)")
    return array


def _read(path: Path, option: str) -> NDArray[Any]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if suffix in (".tif", ".tiff"):
            return np.asarray(tifffile.imread(path))
        if suffix in (".csv", ".txt"):
            text = path.read_text(encoding="utf-8").replace(",", " ").replace(";", " ")
            return np.array([[float(v) for v in row.split()] for row in text.splitlines() if row.strip()])
    except FileNotFoundError:
        raise ConfigError(f"{option} {path}: there is no such file") from None
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise ConfigError(f"{option} {path}: cannot be read as numbers: {error}") from None
    raise ConfigError(f"{option} {path}: unknown kind of file; give .npy, .tif, .csv or .txt")
