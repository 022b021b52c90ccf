"""Numbers with a unit as users write them: lengths, thresholds and memory sizes, parsed once and printed back.

A length is a number of voxels (``5``) or of micrometres (``"8 um"``). A threshold is a grey value (``700``) or a
multiple of the noise of the image (``"6 mad"``). Nothing is ever guessed: a text without a unit is a plain number.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from cytolith.axes import AXES, Region, Shape, VoxelSize
from cytolith.errors import ConfigError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUANTITY = re.compile(rf"^\s*({_NUMBER})\s*([a-zA-Zµμ]*)\s*$")
_MICROMETRE = {"um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"}
_VOXEL = {"", "vx", "voxel", "voxels", "px", "pixel", "pixels"}
_RANGE = re.compile(r"^\s*(\d*)\s*:\s*(\d*)\s*$")
_BYTES = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}


def _split(text: str, kind: str) -> tuple[float, str]:
    found = _QUANTITY.match(text)
    if found is None:
        raise ConfigError(f"{text!r} is not {kind}")
    return float(found.group(1)), found.group(2).lower()


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real)


def _digits(value: float) -> str:
    """All digits of a number, and no more."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


class Length(NamedTuple):
    """A length along one axis, in voxels or in micrometres."""

    value: float
    unit: Literal["voxel", "um"] = "voxel"

    def in_voxels(self, edge_um: float | None) -> float:
        """Length in voxels of the given edge (um); ConfigError when micrometres meet an unknown voxel size."""
        if self.unit == "voxel":
            return self.value
        if edge_um is None:
            raise ConfigError(f"{self} is given in micrometres but the voxel size is unknown: add --voxel-size Z,Y,X")
        return self.value / edge_um

    def __str__(self) -> str:
        return f"{_digits(self.value)} um" if self.unit == "um" else _digits(self.value)


def parse_length(value: Any) -> Length:
    """Length from a number (voxels) or a text such as ``"8 um"``; ConfigError names what it cannot read."""
    if isinstance(value, Length):
        length = value
    elif _is_number(value):
        length = Length(float(value))
    elif isinstance(value, str):
        number, unit = _split(value, 'a length: give voxels (5) or micrometres ("8 um")')
        if unit in _MICROMETRE:
            length = Length(number, "um")
        elif unit in _VOXEL:
            length = Length(number)
        else:
            raise ConfigError(f'{value!r} has the unknown unit {unit!r}: give voxels (5) or micrometres ("8 um")')
    else:
        raise ConfigError(f'{value!r} is not a length: give voxels (5) or micrometres ("8 um")')
    if not math.isfinite(length.value) or length.value < 0:
        raise ConfigError(f"{value!r} is not a length: it must be finite and not negative")
    return length


def parse_lengths(value: Any, count: int) -> tuple[Length, ...]:
    """`count` lengths from a sequence, a text with commas, or one length for all axes.

    ``"18, 8, 8 um"`` is three lengths in micrometres: a unit at the end holds for the numbers before it without one.
    """
    if hasattr(value, "tolist"):  # NumPy arrays and numbers
        value = value.tolist()
    if isinstance(value, str):
        parts: Sequence[Any] = value.strip().strip("()[]").split(",")
        last = _QUANTITY.match(parts[-1])
        unit = last.group(2) if last else ""
        parts = [f"{p} {unit}" if unit and re.fullmatch(rf"\s*{_NUMBER}\s*", p) else p for p in parts]
    elif isinstance(value, Length) or not isinstance(value, Sequence):
        parts = [value]
    else:
        parts = value
    lengths = tuple(parse_length(p) for p in parts)
    if len(lengths) == 1:
        lengths = lengths * count
    if len(lengths) != count:
        names = {2: "(y, x)", 3: "(z, y, x)"}[count]
        raise ConfigError(f"{value!r} has {len(lengths)} lengths: give one for all axes or {count} {names}")
    return lengths


class Threshold(NamedTuple):
    """A grey value, or a multiple of the noise of the image that it is applied to."""

    value: float
    unit: Literal["grey", "mad"] = "grey"

    def __str__(self) -> str:
        return f"{_digits(self.value)} mad" if self.unit == "mad" else _digits(self.value)


def parse_threshold(value: Any) -> Threshold:
    """Threshold from a number or a text such as ``"6 mad"``; ConfigError names what it cannot read."""
    if isinstance(value, Threshold):
        return value
    if _is_number(value):
        threshold = Threshold(float(value))
    elif isinstance(value, str):
        number, unit = _split(value, 'a threshold: give a grey value (700) or a multiple of the noise ("6 mad")')
        if unit not in {"", "mad"}:
            raise ConfigError(f'{value!r} has the unknown unit {unit!r}: give a grey value (700) or "6 mad"')
        threshold = Threshold(number, "mad" if unit else "grey")
    else:
        raise ConfigError(f'{value!r} is not a threshold: give a grey value (700) or "6 mad"')
    if not math.isfinite(threshold.value):
        raise ConfigError(f"{value!r} is not a threshold: it must be finite")
    return threshold


def parse_bytes(text: str | float) -> int:
    """Bytes from a number or a text: ``"8GiB"``, ``"500 MB"``, ``2e9``; ConfigError names what it cannot read."""
    if isinstance(text, (int, float)):
        number, unit = float(text), ""
    else:
        number, unit = _split(text, 'a memory size: give for example "8GiB" or "500MB"')
    binary = unit.endswith("ib")
    prefix = unit.removesuffix("ib").removesuffix("b") if unit != "b" else ""
    if prefix not in _BYTES:
        raise ConfigError(f'{text!r} has the unknown unit {unit!r}: give for example "8GiB" or "500MB"')
    scale = 1024 ** "_kmgtp".index(prefix) if binary and prefix else _BYTES[prefix]
    size = number * scale
    if not math.isfinite(size) or size <= 0:
        raise ConfigError(f"{text!r} is not a memory size: it must be positive")
    return int(size)


def format_rate(voxels_per_second: float) -> str:
    """A rate as people read it: ``35 Mvoxel/s``, ``0.35 Mvoxel/s``."""
    rate = voxels_per_second / 1e6
    return f"{rate:,.0f} Mvoxel/s" if rate >= 1 else f"{rate:.2g} Mvoxel/s"


def format_bytes(size: float) -> str:
    """A size in bytes as people read it: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def parse_triple(text: str, option: str, *, integer: bool = False) -> tuple[float, float, float]:
    """Three positive numbers ``Z,Y,X`` as given to an option; ConfigError names the option."""
    parts = text.strip().strip("()[]").split(",")
    try:
        numbers = [float(int(p)) if integer else float(p) for p in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(math.isfinite(n) and n > 0 for n in numbers):
        kind = "whole numbers" if integer else "numbers"
        raise ConfigError(
            f"{option} {text!r}: give three positive {kind} Z,Y,X, for example 6,1.62,1.62"
            if not integer
            else f"{option} {text!r}: give three positive {kind} Z,Y,X, for example 64,512,512"
        )
    return numbers[0], numbers[1], numbers[2]


def edges(voxel_size: VoxelSize | None, count: int) -> tuple[float | None, ...]:
    """Edge lengths (um) of the last `count` axes, None where the voxel size is unknown."""
    return voxel_size[-count:] if voxel_size is not None else (None,) * count


def parse_region(text: str, shape: Shape, option: str = "--region") -> Region:
    """Region of a volume from ``z0:z1,y0:y1,x0:x1`` in voxels; a side that is left open is the volume's.

    Raises
    ------
    ConfigError
        A text that is no region, an empty one, or one that is not inside the volume.
    """
    parts = text.strip().strip("[]()").split(",")
    found = [_RANGE.match(part) for part in parts]
    if len(parts) != 3 or not all(found):
        raise ConfigError(f"{option} {text!r}: give z0:z1,y0:y1,x0:x1 in voxels, for example 0:64,100:400,:")
    slices = []
    for axis, match, extent in zip(AXES, found, shape, strict=True):
        assert match is not None
        start, stop = int(match[1] or 0), int(match[2] or extent)
        if not start < stop <= extent:
            raise ConfigError(f"{option} {text!r}: {start}:{stop} along {axis}, but the volume has 0:{extent}")
        slices.append(slice(start, stop))
    return slices[0], slices[1], slices[2]


def format_region(region: Region) -> str:
    """The region as `parse_region` reads it."""
    return ",".join(f"{part.start}:{part.stop}" for part in region)
