"""zarr arrays of format 2 and 3, bare or in OME-Zarr 0.4 and 0.5 images."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.storage
from numpy.typing import NDArray
from zarr.buffer.cpu import NDBuffer

from cytolith.axes import Region, VoxelSize
from cytolith.errors import CytolithError, VolumeError
from cytolith.io.arrays import check_three_axes
from cytolith.io.remote import Place, UrlPath
from cytolith.io.stamps import Stamps, stamp_content, stamp_files
from cytolith.io.volume import (
    UNKNOWN_VOXEL_SIZE,
    PartialVoxelSize,
    Selection,
    Storage,
    Volume,
    one_line,
    read_dtype,
    region_text,
    shape_text,
)
from cytolith.io.voxel_sizes import ome_zarr_voxel_size
from cytolith.io.zarr_stores import array_metadata, is_node, openable

_CHUNKS_IN_FLIGHT = 4
_DEFAULT_AXES = ({"name": "t"}, {"name": "c"}, {"name": "z"}, {"name": "y"}, {"name": "x"})  # OME-Zarr before 0.3

if zarr.config.get("async.concurrency") == 10:  # zarr's default, so nobody has chosen another
    # Every block that is being read holds this many decoded chunks; blocks already run in parallel.
    zarr.config.set({"async.concurrency": _CHUNKS_IN_FLIGHT})


@dataclass(frozen=True)
class _Found:
    """An array within a store, with what the metadata around it says."""

    array: zarr.Array[Any]
    path: Place
    axes: Sequence[Mapping[str, Any]] | None = None
    voxel_size: PartialVoxelSize = UNKNOWN_VOXEL_SIZE
    levels: tuple[tuple[int, ...], ...] | None = None
    version: str = ""


def open_zarr(path: Place, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume of one array, channel and timepoint of a zarr store; only metadata is read."""
    try:
        found = _find(path, selection)
        return ZarrVolume(path, found, voxel_size, selection)
    except CytolithError:
        raise
    except Exception as error:
        _refuse_unreachable(path, error)
        raise VolumeError(
            f"{path} is not a zarr store that can be read ({one_line(error)}); export it again"
        ) from error


def _refuse_unreachable(path: Place, error: Exception) -> None:
    """Raise what went wrong on the way to a URL as such; it says nothing about the store."""
    if isinstance(path, UrlPath):
        from cytolith.io.remote_store import UnreachableError

        if isinstance(error, UnreachableError):
            raise VolumeError(error.strerror or str(error)) from error


def _find(path: Place, selection: Selection) -> _Found:
    if not is_node(path):
        store = next((parent for parent in path.parents if is_node(parent)), None)
        if store is None:
            raise VolumeError(f"{path}: no zarr array or group is there; check the URL")
        held = _held(_members(zarr.open(openable(store), mode="r")))
        raise VolumeError(f"{path}: nothing of that name in {store}, which holds {held}")
    node = zarr.open(openable(path), mode="r")
    if isinstance(node, zarr.Array):
        selection.refuse(str(path), "level", "dataset")
        return _array_in_image(path) or _Found(node, path)
    return _find_in_group(node, path, selection)


def _find_in_group(group: zarr.Group, path: Place, selection: Selection) -> _Found:
    images = _multiscales(group)
    if selection.dataset is not None:
        named = [image for image in images if image.get("name") == selection.dataset]
        if len(named) == 1:
            return _level(group, path, named[0], selection)
        inner = path / selection.dataset
        if not is_node(inner):
            raise VolumeError(f"dataset={selection.dataset!r} is not in {path}, which holds {_held(_members(group))}")
        return _find(inner, Selection(selection.channel, selection.timepoint, selection.level))
    if len(images) == 1:
        return _level(group, path, images[0], selection)
    if images:
        names = ", ".join(repr(image.get("name", "")) for image in images)
        raise VolumeError(f"{path} holds {len(images)} images: choose one with dataset=..., of {names}")
    readable = {
        name: node for name, node in _members(group).items() if isinstance(node, zarr.Array) or _multiscales(node)
    }
    if len(readable) == 1:
        return _find(path / next(iter(readable)), selection)
    if not readable and isinstance(path, UrlPath):
        if is_node(path / "0"):  # where bioformats2raw puts the first image
            return _find(path / "0", selection)
        raise VolumeError(
            f"{path} is a zarr group whose members the server does not list: choose one with dataset=..., or give its "
            "URL"
        )
    if not readable:
        raise VolumeError(f"{path} is a zarr group without an image; give the path of an array inside it")
    raise VolumeError(
        f"{path} is no OME-Zarr image but holds {_held(readable)}: choose one with dataset={next(iter(readable))!r}"
    )


def _members(group: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files that do not belong to zarr, such as .DS_Store
        try:
            return dict(sorted(group.members())) if isinstance(group, zarr.Group) else {}
        except OSError:
            if isinstance(group.store, zarr.storage.FsspecStore):  # many servers do not list
                return {}
            raise


def _held(members: Mapping[str, Any]) -> str:
    parts = [
        f"{name} ({shape_text(node.shape)} {node.dtype})" if isinstance(node, zarr.Array) else f"{name} (group)"
        for name, node in members.items()
    ]
    return ", ".join(parts[:6]) + (" ..." if len(parts) > 6 else "") or "nothing"


def _multiscales(group: zarr.Group) -> list[dict[str, Any]]:
    """The images of an OME-Zarr group, each with the version of the metadata filled in."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome")
    ome = ome if isinstance(ome, dict) else {}
    images = ome.get("multiscales") or attributes.get("multiscales") or []
    if not isinstance(images, list):
        return []
    return [{"version": ome.get("version", ""), **image} for image in images if isinstance(image, dict)]


def _level(group: zarr.Group, path: Place, image: Mapping[str, Any], selection: Selection) -> _Found:
    """One resolution level of an image; its scale is that of the level times that of the whole image."""
    datasets = image["datasets"]
    members = [group[dataset["path"]] for dataset in datasets]
    arrays = [member for member in members if isinstance(member, zarr.Array)]
    if not arrays or len(arrays) < len(members):
        raise VolumeError(f"{path}: its OME-Zarr metadata names no arrays as levels; export it again")
    shapes = [array.shape for array in arrays]
    listing = f" ({', '.join(shape_text(shape) for shape in shapes)})"
    number = selection.index("level", len(arrays), str(path), listing)
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", _DEFAULT_AXES)]
    transformations = [
        *datasets[number].get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ]
    return _Found(
        arrays[number],
        path / datasets[number]["path"],
        axes,
        ome_zarr_voxel_size(axes, transformations),
        tuple(shapes),
        str(image["version"]),
    )


def _array_in_image(path: Place) -> _Found | None:
    """The same array as a level of the OME-Zarr image around it, which names its axes; None where there is none."""
    for parent in path.parents:
        if not is_node(parent):
            return None
        group = zarr.open_group(openable(parent), mode="r")
        for image in _multiscales(group):
            for number, dataset in enumerate(image.get("datasets", ())):
                if parent / str(dataset.get("path", "")) == path:
                    return _level(group, parent, image, Selection(level=number))
    return None


class ZarrVolume(Volume):
    """A volume over one zarr array; pickled as its path."""

    def __init__(self, path: Place, found: _Found, voxel_size: VoxelSize | None, selection: Selection) -> None:
        array, name = found.array, str(path)
        axes = _axis_names(found)
        counts = {"c": 1, "t": 1}
        self._chosen: list[int | None] = []  # the index along each axis of the array; None for z, y and x
        for axis, size in zip(axes, array.shape, strict=True):
            if axis in "zyx":
                self._chosen.append(None)
                continue
            option = {"c": "channel", "t": "timepoint"}.get(axis)
            if option is None and size > 1:
                raise VolumeError(
                    f"{name} holds {size} images along axis {axis!r}; save one of them as an array of its own"
                )
            self._chosen.append(selection.index(option, size, name) if option else 0)
            counts[axis] = size
        selection.index("channel", counts["c"], name)
        selection.index("timepoint", counts["t"], name)
        self._array_path = found.path
        self._metadata = array_metadata(found.path)
        self._content = self._metadata_content()
        self._array: zarr.Array[Any] | None = array
        format_ = f"OME-Zarr {found.version}".strip() if found.axes else f"zarr {array.metadata.zarr_format}"
        super().__init__(
            name,
            self._spatial(array.shape),
            array.dtype,
            Storage(
                format_,
                chunks=check_three_axes(self._spatial(array.chunks), name),
                compression=_compression(array),
                channels=tuple(range(counts["c"])),
                timepoints=tuple(range(counts["t"])),
                levels=found.levels and tuple(self._spatial(shape) for shape in found.levels),
            ),
            voxel_size=voxel_size,
            metadata_voxel_size=found.voxel_size,
        )

    def _spatial(self, extents: Sequence[int]) -> tuple[int, ...]:
        return tuple(extent for extent, chosen in zip(extents, self._chosen, strict=True) if chosen is None)

    @property
    def read_bytes(self) -> int:
        """Memory that a read takes besides its result: zarr decodes several chunks at a time."""
        return super().read_bytes * int(zarr.config.get("async.concurrency"))

    def check(self) -> None:
        """Verify that the array is still there and of the same extent and dtype; see `Volume.check`."""
        self._array = None
        array = self._open()
        if self._spatial(array.shape) != self.shape or read_dtype(array.dtype, self.name) != self.dtype:
            raise VolumeError(f"{self.name} has changed since it was opened; open it again")

    def stamps(self) -> Stamps | None:
        """The metadata file of the array, with all planes; see `Volume.stamps`."""
        if self._metadata is None:
            return None
        if isinstance(self._metadata, UrlPath):
            return stamp_content(str(self._metadata), self._metadata_content(), self.shape[0])
        return stamp_files([(self._metadata, 0, self.shape[0])])

    def _metadata_content(self) -> bytes:
        """What the metadata behind a URL says now; nothing for a file, which has a time of change."""
        if not isinstance(self._metadata, UrlPath):
            return b""
        from cytolith.io.remote_store import UnreachableError, read_content

        try:
            content = read_content(self._metadata)
        except UnreachableError as error:
            raise VolumeError(f"{self._metadata.url} cannot be read: {error.strerror}") from error
        if content is None:
            missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._metadata))
            raise VolumeError(
                f"{self.name} is no longer there ({self._metadata}: {missing.strerror}); put it back and run again"
            ) from missing
        return content

    def _open(self) -> zarr.Array[Any]:
        array = self._array
        if array is None:
            try:
                array = self._array = zarr.open_array(openable(self._array_path), mode="r")
            except Exception as error:
                _refuse_unreachable(self._array_path, error)
                raise VolumeError(
                    f"{self.name} can no longer be opened ({one_line(error)}); put it back and run again"
                ) from error
        return array

    def _read_into(self, region: Region, out: NDArray[Any]) -> None:
        array = self._open()
        missing = getattr(array.store, "missing", 0)
        spatial = iter(region)
        box = tuple(next(spatial) if index is None else slice(index, index + 1) for index in self._chosen)
        target = out.reshape(tuple(part.stop - part.start for part in box))
        try:
            if array.dtype == out.dtype:
                buffer = NDBuffer.from_ndarray_like(target)  # type: ignore[arg-type]  # its protocol predates NumPy 2.4
                array.get_basic_selection(box, out=buffer)
            else:
                np.copyto(target, np.asarray(array[box]), casting="unsafe")
        except Exception as error:
            _refuse_unreachable(self._array_path, error)
            self._refuse_absence()
            raise VolumeError(
                f"{self.name}: reading {region_text(region)} failed, a chunk is damaged ({one_line(error)})"
            ) from error
        if isinstance(self._metadata, Path) or getattr(array.store, "missing", 0) != missing:
            self._refuse_absence()

    def _refuse_absence(self) -> None:
        """Refuse what was read from a store that has gone away: chunks that are not there are read as fill values."""
        if self._metadata is None:
            return
        if isinstance(self._metadata, UrlPath):
            if self._metadata_content() != self._content:
                raise VolumeError(f"{self.name} has changed since it was opened; open it again")
            return
        try:
            self._metadata.stat()
        except OSError as error:
            raise VolumeError(
                f"{self.name} is no longer there ({self._metadata}: {error.strerror or error}); put it back and run "
                "again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        # absolute, as a worker may run in another folder
        metadata = self._metadata and self._metadata.absolute()
        return {**self.__dict__, "_array": None, "_array_path": self._array_path.absolute(), "_metadata": metadata}


def _axis_names(found: _Found) -> list[str]:
    """Names of the axes of an array; those without metadata are taken as (z, y, x) after axes of a single entry."""
    array, name = found.array, str(found.path)
    if found.axes:
        names = [str(axis.get("name", "")).lower() for axis in found.axes]
    else:
        given = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
        names = [str(axis).lower() for axis in given] if isinstance(given, list | tuple) else []
        if not {"z", "y", "x"} <= set(names):
            if any(size > 1 for size in array.shape[:-3]):
                raise VolumeError(
                    f"{name} is {array.ndim}-d, {array.shape}, without names for its axes: give one 3-d part of "
                    "zarr.open(path) from Python, or write OME-Zarr metadata"
                )
            check_three_axes(array.shape[-3:], name)
            names = [*("?" * (array.ndim - 3)), "z", "y", "x"]
    if [axis for axis in names if axis in "zyx"] != ["z", "y", "x"] or len(names) != array.ndim:
        raise VolumeError(
            f"{name} has the axes ({', '.join(names)}) and shape {array.shape}: z, y and x are needed, in that order"
        )
    return names


def _compression(array: zarr.Array[Any]) -> str:
    names = []
    for codec in array.compressors:
        kind = type(codec).__name__.removesuffix("Codec").lower()
        inner = getattr(codec, "cname", None)
        names.append(f"{kind} {getattr(inner, 'value', inner)}" if inner else kind)
    return ", ".join(names) or "none"
