"""Voxel sizes in micrometres out of OME-XML, ImageJ and OME-Zarr metadata; absurd values count as not given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import tifffile

from cytolith.io.volume import UNKNOWN_VOXEL_SIZE, PartialVoxelSize

_MICROMETRES = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "angstrom": 1e-4,
    "å": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "µm": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "inch": 25400.0,
    "in": 25400.0,
}


def to_micrometres(length: Any, unit: str | None) -> float | None:
    """A length in micrometres; None where the unit is no length or the number is not finite and above 0."""
    text = (unit or "").replace("\\u00B5", "µ").replace("Â", "").replace("\u03bc", "µ").strip().lower()
    scale = _MICROMETRES.get(text.replace("metre", "meter"))
    try:
        number = float(length) * (scale or math.nan)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def tiff_voxel_size(tif: tifffile.TiffFile, page: tifffile.TiffPage, image: int = 0) -> PartialVoxelSize:
    """What the first page of a TIFF file says: OME-XML of one image of the file, or ImageJ's calibration."""
    if page.description.strip().endswith("OME>"):
        return ome_voxel_size(page.description, image)
    if tif.is_imagej:
        return imagej_voxel_size(tif.imagej_metadata or {}, page)
    return UNKNOWN_VOXEL_SIZE


def ome_voxel_size(xml: str, image: int = 0) -> PartialVoxelSize:
    """``PhysicalSizeZ``, ``Y`` and ``X`` of one image of an OME-XML text, with their units."""
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 (expat bounds entity expansion; the file is the user's own)
    except ElementTree.ParseError:
        return UNKNOWN_VOXEL_SIZE
    pixels = root.findall("{*}Image/{*}Pixels")
    if image >= len(pixels):
        return UNKNOWN_VOXEL_SIZE
    found = pixels[image].attrib
    z, y, x = (
        to_micrometres(found.get(f"PhysicalSize{axis}"), found.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"
    )
    return z, y, x


def imagej_voxel_size(metadata: Mapping[str, Any], page: tifffile.TiffPage) -> PartialVoxelSize:
    """ImageJ's ``spacing`` between planes, and its pixels per unit, which it keeps in the TIFF resolution tags."""
    unit = metadata.get("unit")
    lengths: list[float | None] = [to_micrometres(metadata.get("spacing"), unit)]
    for tag in ("YResolution", "XResolution"):
        pixels, units = page.tags.valueof(tag, default=(0, 0))
        lengths.append(to_micrometres(units / pixels, unit) if pixels else None)
    z, y, x = lengths
    return z, y, x


def ome_zarr_voxel_size(
    axes: Sequence[Mapping[str, Any]], transformations: Sequence[Mapping[str, Any]]
) -> PartialVoxelSize:
    """Product of the ``scale`` transformations of one resolution level, for the axes z, y and x with a length unit."""
    lengths: dict[str, float | None] = {}
    for number, axis in enumerate(axes):
        scale = math.nan
        for transformation in transformations:
            if transformation.get("type") == "scale" and len(transformation.get("scale", ())) == len(axes):
                factor = float(transformation["scale"][number])
                scale = factor if math.isnan(scale) else scale * factor
        lengths[str(axis.get("name"))] = to_micrometres(scale, axis.get("unit"))
    return lengths.get("z"), lengths.get("y"), lengths.get("x")
