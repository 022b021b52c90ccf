"""A volume from one TIFF file that holds many planes: multi-page, BigTIFF, OME-TIFF, ImageJ hyperstack."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytolith.axes import Region, VoxelSize
from cytolith.errors import VolumeError
from cytolith.io.plane_packs import pack_planes, unpack_planes
from cytolith.io.stamps import Stamps, stamp_files
from cytolith.io.tiff_planes import (
    PageLayout,
    PlaneReader,
    StoredPlane,
    first_page,
    layout_key,
    log_display,
    plane_kind,
    stored_plane,
    tiff_error,
)
from cytolith.io.volume import PartialVoxelSize, Selection, Storage, Volume, shape_text
from cytolith.io.voxel_sizes import tiff_voxel_size

_KINDS = {"ome": "OME-TIFF", "imagej": "ImageJ TIFF", "lsm": "LSM", "mmstack": "Micro-Manager TIFF"}
_LAYOUT_TAGS = frozenset(
    (*range(254, 260), 262, 266, 277, 278, 284, 292, 293, 317, 320, 322, 323, 338, 339, 347, *range(32_000, 35_000))
)
_DESCRIPTION = 270  # the tag with OME-XML, ImageJ or other metadata
_MOST_CHANNELS = 7  # of ImageJ; more, and no z, is how tifffile writes a plain stack for ImageJ: they are planes
_UNNAMED = "IQ"  # tifffile's letters for pages that are just one after the other


def open_tiff(path: Path, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume of one channel and timepoint of a TIFF file with several planes; all page headers are read."""
    return TiffFile(path, voxel_size, selection)


@dataclass(frozen=True)
class _Opened:
    """What is known of a file after its headers were read."""

    planes: list[StoredPlane]
    storage: Storage
    voxel_size: PartialVoxelSize


class TiffFile(Volume):
    """A volume of planes that lie in one file, or in the several that an OME-TIFF names."""

    def __init__(self, path: Path, voxel_size: VoxelSize | None, selection: Selection) -> None:
        self._path, self._selection = path, selection
        opened = _open(path, selection)
        self._planes = opened.planes
        layout = opened.planes[0].layout
        super().__init__(
            str(path),
            (len(opened.planes), layout.rows, layout.columns),
            layout.dtype,
            opened.storage,
            voxel_size=voxel_size,
            metadata_voxel_size=opened.voxel_size,
        )
        log_display(layout, self.name)

    def check(self) -> None:
        """Verify that every page is still there, whole, and of the first one's kind; see `Volume.check`."""
        planes = _open(self._path, self._selection, every_page=True).planes
        if len(planes) != self.shape[0] or planes[0].layout.kind != self._planes[0].layout.kind:
            raise VolumeError(f"{self.name} has changed since it was opened; open it again")
        self._planes = planes

    def _read_into(self, region: Region, out: NDArray[Any]) -> None:
        planes, rows, columns = region
        with PlaneReader() as reader:
            for plane, part in zip(self._planes[planes], out, strict=True):
                reader.read(plane, rows, columns, part)

    def stamps(self) -> Stamps:
        """The file, with all planes; of an OME-TIFF in several files, each run of planes that lie in one of them."""
        files, first = [], 0
        for path, planes in groupby(self._planes, lambda plane: plane.path):
            last = first + sum(1 for _ in planes)
            files.append((path, first, last))
            first = last
        return stamp_files(files)

    def __getstate__(self) -> dict[str, Any]:
        # absolute, as a worker may run in another folder
        return {**self.__dict__, "_path": self._path.absolute(), "_planes": pack_planes(self._planes)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._planes = unpack_planes(state["_planes"], self.name)


def _open(path: Path, selection: Selection, *, every_page: bool = False) -> _Opened:
    name = str(path)
    try:
        with tifffile.TiffFile(path) as tif:
            page = first_page(tif, name)
            _refuse_lost_pages(tif, name)
            image, series = _choose_image(tif, name, selection)
            level = _choose_level(series, name, selection)
            _refuse_lost_planes(tif, series, name)
            numbers, channels, timepoints = _choose_pages(level, name, selection)
            planes = _planes(level, numbers, name, every_page=every_page)
            _check_sizes(planes)
            storage = Storage(
                _format(tif, series, channels),
                chunks=planes[0].layout.chunk,
                compression=planes[0].layout.compression,
                channels=tuple(range(channels)),
                timepoints=tuple(range(timepoints)),
                levels=tuple((len(planes), *_extent(each)) for each in series.levels),
                display=planes[0].layout.display,
            )
            sizes = _at_level(tiff_voxel_size(tif, page, image), series, level)
            return _Opened(planes, storage, sizes)
    except VolumeError:
        raise
    except Exception as error:
        raise tiff_error(path, error) from error


def _refuse_lost_pages(tif: tifffile.TiffFile, name: str) -> None:
    """Refuse a file whose last page or description lies past its end: tifffile would take the rest as the whole."""
    count = len(tif.pages)
    last = tif.pages[count - 1]
    if last.offset > 0 and _next_page(tif, last.offset)[1] != 0:  # planes without pages of their own have no offset
        raise VolumeError(f"{name} is cut off after page {count - 1}; copy or export it again")
    if _DESCRIPTION in _next_page(tif, tif.pages.first.offset)[0] and _DESCRIPTION not in tif.pages.first.tags:
        raise VolumeError(f"{name} is cut off, its description is lost; copy or export it again")


def _next_page(tif: tifffile.TiffFile, offset: int) -> tuple[dict[int, bytes], int]:
    """Tags of the page at an offset as stored, by code, and the offset of the page that follows; 0 ends the chain."""
    layout, file = tif.tiff, tif.filehandle
    file.seek(offset)
    count = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))[0]
    entries = file.read(count * layout.tagsize)
    tags = {
        struct.unpack_from(f"{layout.byteorder}H", entries, place)[0]: entries[place : place + layout.tagsize]
        for place in range(0, len(entries), layout.tagsize)
    }
    return tags, struct.unpack(layout.offsetformat, file.read(layout.offsetsize))[0]


def _refuse_lost_planes(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, name: str) -> None:
    """Refuse an ImageJ file with fewer planes than its header names, which tifffile reads as an ordinary file."""
    named = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
    if series.kind != "imagej" and isinstance(named, int) and named > len(series):
        raise VolumeError(f"{name} is cut off: ImageJ's header names {named} planes; copy or export it again")


def _choose_image(tif: tifffile.TiffFile, name: str, selection: Selection) -> tuple[int, tifffile.TiffPageSeries]:
    """The one image of the file, or the one chosen with ``dataset``; thumbnails do not count."""
    images = [each for each in enumerate(tif.series) if not (each[1].keyframe.is_reduced or each[1].keyframe.is_mask)]
    if not images:
        raise VolumeError(f"{name} holds no image that can be read; export it as a gray TIFF stack")
    if selection.dataset is not None:
        chosen = [each for each in images if selection.dataset in (str(each[0]), each[1].name)]
        if len(chosen) != 1:
            allowed = ", ".join(_image_text(*each) for each in images[:4])
            raise VolumeError(f"dataset={selection.dataset!r} is not an image of {name}, which holds {allowed}")
        return chosen[0]
    if len(images) == 1:
        return images[0]
    single = all(len(series) == 1 and series[0] is not None for _, series in images)
    odd = next(
        (series for _, series in images if plane_kind(series.keyframe) != plane_kind(images[0][1].keyframe)), None
    )
    if single and images[0][1].kind == "shaped" and odd is None:
        return 0, _joined(images)
    if odd is not None and (images[0][1].kind in ("generic", "uniform") or (single and images[0][1].kind == "shaped")):
        first = images[0][1]
        raise VolumeError(
            f"{name}: page {_page_number(odd)} is {plane_kind(odd.keyframe)}, but page {_page_number(first)} is "
            f"{plane_kind(first.keyframe)}: "
            "all planes must be equal; remove the odd ones, or choose pages of one kind with dataset=0"
        )
    shown = ", ".join(_image_text(*each) for each in images[:4])
    raise VolumeError(f"{name} holds {len(images)} images: choose one with dataset=..., of {shown}")


def _joined(images: Sequence[tuple[int, tifffile.TiffPageSeries]]) -> tifffile.TiffPageSeries:
    """Planes that were written one by one, each as an image of its own, as tifffile does: one series of pages."""
    pages = [series[0] for _, series in images]
    keyframe = images[0][1].keyframe
    shape = (len(pages), keyframe.imagelength, keyframe.imagewidth)
    return tifffile.TiffPageSeries(pages, shape, keyframe.dtype, "IYX", kind="generic")


def _choose_level(series: tifffile.TiffPageSeries, name: str, selection: Selection) -> tifffile.TiffPageSeries:
    listing = f" ({', '.join(shape_text(_extent(level)) for level in series.levels)})"
    return series.levels[selection.index("level", len(series.levels), name, listing)]


def _image_text(number: int, series: tifffile.TiffPageSeries) -> str:
    named = f" ({series.name})" if series.name else ""
    return f"{number}{named}: {shape_text(series.shape)} {series.dtype}"


def _page_number(series: tifffile.TiffPageSeries) -> int:
    page = series[0]
    return page.index if page else 0


def _extent(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    return series.keyframe.imagelength, series.keyframe.imagewidth


def _choose_pages(series: tifffile.TiffPageSeries, name: str, selection: Selection) -> tuple[list[int], int, int]:
    """Numbers of the planes of one channel and timepoint within the series; how many channels and timepoints it has."""
    axes, shape = series.get_axes(squeeze=False), series.get_shape(squeeze=False)
    if series.keyframe.samplesperpixel != 1:
        raise VolumeError(
            f"{name} holds {series.keyframe.samplesperpixel} samples a pixel (RGB or interleaved channels): "
            "split it into gray planes"
        )
    if axes.endswith("S"):
        axes, shape = axes[:-1], shape[:-1]
    if axes[-2:] != "YX":
        raise VolumeError(f"{name}: its axes are {axes}, not ending in YX; export it as planes in (z, y, x) order")
    leading, sizes = axes[:-2], shape[:-2]
    z = _plane_axis(series, leading, sizes)
    counts = {"C": 1, "T": 1}
    taken: list[int | slice] = []
    for place, (letter, size) in enumerate(zip(leading, sizes, strict=True)):
        if place == z:  # also where ImageJ calls planes channels
            taken.append(slice(None))
        elif letter in counts:
            counts[letter] = size
            taken.append(0)
        elif size > 1:
            raise VolumeError(
                f"{name}: it holds {size} images along axis {letter!r} of {axes} {tuple(shape)}, and which is meant is "
                "not known; save one of them as a file of its own"
            )
        else:
            taken.append(0)
    if z < 0 or sizes[z] == 1:
        _refuse_single_plane(name, counts)
    for letter, option in (("C", "channel"), ("T", "timepoint")):
        chosen = selection.index(option, counts[letter], name)
        if letter in leading and leading.index(letter) != z:
            taken[leading.index(letter)] = chosen
    numbers = np.arange(int(np.prod(sizes))).reshape(sizes)[tuple(taken)]
    return [int(number) for number in np.atleast_1d(numbers)], counts["C"], counts["T"]


def _plane_axis(series: tifffile.TiffPageSeries, leading: str, sizes: Sequence[int]) -> int:
    """Which of the axes before y and x numbers the planes; below 0 where none does."""
    named = leading.find("Z")
    if named >= 0 and sizes[named] > 1:
        return named
    large = [place for place, size in enumerate(sizes) if size > 1]
    unnamed = [place for place in large if leading[place] in _UNNAMED]
    if len(unnamed) == 1:
        return unnamed[0]
    if series.kind == "imagej" and len(large) == 1 and leading[large[0]] == "C" and sizes[large[0]] > _MOST_CHANNELS:
        return large[0]
    return named


def _refuse_single_plane(name: str, counts: dict[str, int]) -> None:
    for letter, word in (("T", "timepoints"), ("C", "channels")):
        if counts[letter] > 1:
            raise VolumeError(
                f"{name} holds {counts[letter]} {word} of a single plane, no z: if they are planes, say so in ImageJ "
                "(Image > Properties, slices) and save again"
            )
    raise VolumeError(
        f"{name} is a single plane, not a volume: give the folder that holds the planes, or a pattern such as '*.tif' "
        "(alone in a folder, it is a volume of one plane)"
    )


def _planes(
    series: tifffile.TiffPageSeries, numbers: Sequence[int], name: str, *, every_page: bool
) -> list[StoredPlane]:
    """Where the planes of these numbers lie."""
    keyframe = series.keyframe
    first = PageLayout(keyframe, keyframe.parent.filehandle.path)
    if first.raw and not series.is_multifile and series.dataoffset is not None:
        size = first.rows * first.columns * first.dtype.itemsize
        begins = [series.dataoffset + number * size for number in numbers]
        path = keyframe.parent.filehandle.path
        return [stored_plane(f"{name}, plane {z}", path, first, [begin], [size]) for z, begin in enumerate(begins)]
    layouts = {first.key: first}
    planes = []
    expected = _layout_tags(keyframe.parent, keyframe.offset) if every_page and not series.is_multifile else None
    for z, number in enumerate(numbers):
        page = series[number] if number < len(series) else None
        if page is None:
            raise VolumeError(f"{name}: plane {z} is missing (cut off, or in another file that is gone); put it back")
        key_page = page.keyframe or keyframe
        is_open = not page.parent.filehandle.closed
        if (
            every_page
            and is_open
            and isinstance(page, tifffile.TiffFrame)
            and page.offset > 0
            # parsing the page as a whole costs 20 times as much
            and (expected is None or _layout_tags(page.parent, page.offset) != expected)
        ):
            key_page = page.aspage()
        key, path = layout_key(key_page), page.parent.filehandle.path
        if key not in layouts:
            layouts[key] = PageLayout(key_page, path)
        if layouts[key].kind != first.kind:
            raise VolumeError(
                f"{name}: plane {z} is {layouts[key].kind}, but the first is {first.kind}: all planes must be equal"
            )
        planes.append(
            stored_plane(
                f"{name}, plane {z}", path, layouts[key], page.dataoffsets, page.databytecounts, page.jpegtables
            )
        )
    return planes


def _layout_tags(tif: tifffile.TiffFile, offset: int) -> dict[int, bytes]:
    """Tags that say how the voxels of the page at an offset are stored, where they lie excepted."""
    return {code: entry for code, entry in _next_page(tif, offset)[0].items() if code in _LAYOUT_TAGS}


def _check_sizes(planes: Sequence[StoredPlane]) -> None:
    sizes: dict[str, int] = {}
    for plane in planes:
        if plane.path not in sizes:
            sizes[plane.path] = Path(plane.path).stat().st_size
        plane.check(sizes[plane.path])


def _format(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, channels: int) -> str:
    kind = _KINDS.get(series.kind, "multi-page TIFF")
    if channels == 1 and "C" in series.get_axes(squeeze=True):
        kind = f"{kind}, channels read as planes"
    return f"{kind} (BigTIFF)" if tif.is_bigtiff else kind


def _at_level(
    size: PartialVoxelSize, full: tifffile.TiffPageSeries, level: tifffile.TiffPageSeries
) -> PartialVoxelSize:
    """Voxel size of a resolution level of a TIFF pyramid, which is reduced in y and x only."""
    z, y, x = size
    (rows, columns), (level_rows, level_columns) = _extent(full), _extent(level)
    return z, y and y * rows / level_rows, x and x * columns / level_columns
