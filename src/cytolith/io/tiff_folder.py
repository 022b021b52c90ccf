"""A volume from many single-plane TIFF files: a folder, a pattern, or a list of paths."""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tifffile
from numpy.typing import NDArray

from cytolith.axes import Region, VoxelSize
from cytolith.errors import VolumeError
from cytolith.io.plane_names import NumberedNames, order_names
from cytolith.io.stamps import Stamps, stamp_files
from cytolith.io.tiff_planes import (
    PageLayout,
    PlaneReader,
    StoredPlane,
    first_page,
    layout_key,
    log_display,
    stored_plane,
    tiff_error,
)
from cytolith.io.volume import Selection, Storage, Volume
from cytolith.io.voxel_sizes import tiff_voxel_size

SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
_CHECK_THREADS = 4  # headers wait for the disk or the network more than for the processor


def open_folder(folder: Path, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume of all TIFF files right inside a folder; other files, hidden files and folders are left out."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise VolumeError(f"{folder} cannot be listed: {error.strerror or error}") from error
    return _open_numbered([path for path in entries if _is_plane(path)], str(folder), entries, voxel_size, selection)


def open_pattern(pattern: Path, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume of all TIFF files that a pattern with ``*``, ``?`` or ``[...]`` matches."""
    base = next(parent for parent in pattern.parents if parent.is_dir())
    rest = str(pattern.relative_to(base))
    # "[00 x 00]" in names that microscopes give is text, but a set of letters in a pattern: try it as text as well.
    matches = sorted(base.glob(rest)) or sorted(base.glob(re.sub(r"\[", "[[]", rest)))
    return _open_numbered([path for path in matches if _is_plane(path)], str(pattern), matches, voxel_size, selection)


def open_listed_planes(paths: Sequence[Path], voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume of the planes listed, in that order; names are not looked at."""
    name = f"list of {len(paths)} files"
    selection.refuse(name, "channel", "timepoint")
    return _open_first([path.expanduser() for path in paths], name, NumberedNames([]), voxel_size, selection)


def _is_plane(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _open_numbered(
    paths: list[Path], where: str, found: Sequence[Path], voxel_size: VoxelSize | None, selection: Selection
) -> Volume:
    if not paths:
        raise VolumeError(
            f"{where}: no TIFF file there, found {_summary(found)}; give the folder that holds the planes"
        )
    base = os.path.commonpath([path.parent for path in paths])
    names = order_names([path.relative_to(base).as_posix() for path in paths], where, selection)
    return _open_first([paths[place] for place in names.order], where, names, voxel_size, selection)


def _open_first(
    paths: list[Path], where: str, names: NumberedNames, voxel_size: VoxelSize | None, selection: Selection
) -> Volume:
    selection.refuse(where, "level", "dataset")
    return TiffFolder([str(path) for path in paths], where, names, voxel_size)


def _summary(found: Sequence[Path]) -> str:
    if not found:
        return "nothing"
    kinds = Counter("folder" if path.is_dir() else f"{path.suffix or path.name} file" for path in found)
    return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in kinds.most_common(4))


class TiffFolder(Volume):
    """A volume of single-plane files; opening parses the first header, `check` the others, reading what it lacks."""

    def __init__(self, paths: list[str], name: str, names: NumberedNames, voxel_size: VoxelSize | None) -> None:
        self._paths = paths
        self._planes: list[StoredPlane | None] = [None] * len(paths)
        self._layouts: dict[tuple[Any, ...], PageLayout] = {}
        try:
            with tifffile.TiffFile(paths[0], is_ome=False) as tif:
                page = first_page(tif, paths[0])
                metadata_voxel_size = tiff_voxel_size(tif, page)
                first = self._planes[0] = self._parse(tif, paths[0])
        except VolumeError:
            raise
        except Exception as error:
            raise tiff_error(paths[0], error) from error
        self._layout = first.layout
        super().__init__(
            name,
            (len(paths), self._layout.rows, self._layout.columns),
            self._layout.dtype,
            Storage(
                "TIFF planes",
                chunks=self._layout.chunk,
                compression=self._layout.compression,
                channels=names.channels,
                timepoints=names.timepoints,
                display=self._layout.display,
            ),
            voxel_size=voxel_size,
            metadata_voxel_size=metadata_voxel_size,
        )
        log_display(self._layout, self.name)

    def check(self) -> None:
        """Verify that every plane is there, whole, single, and of the first one's extent and dtype."""
        with ThreadPoolExecutor(_CHECK_THREADS) as pool:
            problems = pool.map(self._problem, range(len(self._paths)))
            error = next((problem for problem in problems if problem), None)
            if error:
                pool.shutdown(cancel_futures=True)
                raise error

    def _problem(self, z: int) -> VolumeError | None:
        try:
            self._planes[z] = None  # the file may have changed since it was parsed
            self._plane(z)
        except VolumeError as error:
            return error
        return None

    def stamps(self) -> Stamps:
        """Each file is a plane; see `Volume.stamps`."""
        return stamp_files((path, z, z + 1) for z, path in enumerate(self._paths))

    def _plane(self, z: int) -> StoredPlane:
        plane = self._planes[z]
        if plane is None:  # two threads may both parse a header; they come to the same
            path = self._paths[z]
            try:
                with tifffile.TiffFile(path, is_ome=False) as tif:
                    plane = self._parse(tif, path)
            except VolumeError:
                raise
            except Exception as error:
                raise tiff_error(path, error) from error
            if plane.layout.kind != self._layout.kind:
                raise VolumeError(
                    f"{path} is {plane.layout.kind}, but {self._paths[0]} is {self._layout.kind}: "
                    "all planes must be equal; remove or replace the odd one"
                )
            self._planes[z] = plane
        return plane

    def _parse(self, tif: tifffile.TiffFile, path: str) -> StoredPlane:
        page = first_page(tif, path)
        pages = [each for each in tif.pages if isinstance(each, tifffile.TiffPage)]
        planes = sum(1 for each in pages if not (each.is_reduced or each.is_mask))
        if planes > 1:
            raise VolumeError(
                f"{path} holds {planes} pages, not a single plane: give that file itself, or one plane a file"
            )
        key = layout_key(page)
        if key not in self._layouts:
            self._layouts[key] = PageLayout(page, path)
        plane = stored_plane(path, path, self._layouts[key], page.dataoffsets, page.databytecounts, page.jpegtables)
        plane.check(tif.filehandle.size)
        return plane

    def _read_into(self, region: Region, out: NDArray[Any]) -> None:
        planes, rows, columns = region
        with PlaneReader() as reader:
            for z, part in zip(range(planes.start, planes.stop), out, strict=True):
                reader.read(self._plane(z), rows, columns, part)

    def __getstate__(self) -> dict[str, Any]:
        # A task of a few planes carries this: no headers, which are parsed again where a plane is read, and names that
        # differ in a few digits. Absolute, as a worker may run in another folder.
        paths = [os.path.abspath(path) for path in self._paths]  # noqa: PTH100 (thousands of them)
        drives = {os.path.splitdrive(path)[0] for path in paths}  # those of Windows have no folder in common
        folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if len(drives) == 1 else ""  # noqa: PTH120
        names = "\0".join(os.path.relpath(path, folder) if folder else path for path in paths)
        packed = zlib.compress(os.fsencode(names), 6)  # bytes: a worker may have another locale
        return {**self.__dict__, "_paths": (folder, packed), "_planes": None, "_layouts": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        folder, packed = state["_paths"]
        names = os.fsdecode(zlib.decompress(packed)).split("\0")
        self._paths = [os.path.join(folder, name) for name in names]  # noqa: PTH118
        self._planes = [None] * len(names)
        self._layouts = {}
