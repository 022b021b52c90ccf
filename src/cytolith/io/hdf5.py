"""HDF5 files: any dataset of three axes, and what Imaris and BigDataViewer keep in theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, VoxelSize
from cytolith.errors import VolumeError
from cytolith.io.hdf5_file import HeldFile, compression_text, hdf5_error, other_files, refuse_missing_filter
from cytolith.io.stamps import Stamps, stamp_files
from cytolith.io.volume import (
    UNKNOWN_VOXEL_SIZE,
    PartialVoxelSize,
    Selection,
    Storage,
    Volume,
    one_line,
    region_text,
    shape_text,
)
from cytolith.io.voxel_sizes import to_micrometres

_LISTED = 8
"""Datasets that a message lists."""


@dataclass(frozen=True)
class Found:
    """A dataset of an HDF5 file, and what is known about it."""

    dataset: str
    """Its path inside the file."""
    format: str
    chosen: tuple[int | None, ...]
    """The index along each axis; None for z, y and x."""
    shape: tuple[int, ...] | None = None
    """Extent (z, y, x) that holds the image; None: all that is stored."""
    view: str | None = None
    """dtype that the stored bytes mean; None: the stored one."""
    voxel_size: PartialVoxelSize = UNKNOWN_VOXEL_SIZE
    channels: int = 1
    timepoints: int = 1
    levels: tuple[tuple[int, ...], ...] | None = None


def open_hdf5(path: Path, voxel_size: VoxelSize | None, selection: Selection) -> Volume:
    """Volume of one dataset of an HDF5 file; only metadata is read.

    Imaris (``.ims``) and BigDataViewer files are known by their groups: their channels (setups), timepoints and levels
    are chosen as in any other source. Elsewhere `dataset` names the dataset; one that is alone needs no name.

    Raises
    ------
    VolumeError
        The file is damaged, holds no dataset of three axes, or several of which none was chosen.
    """
    from cytolith.io import bigdataviewer, imaris

    held = HeldFile(path)
    try:
        with held.opened() as file:
            if selection.dataset is None and imaris.is_imaris(file):
                found = imaris.find(file, str(path), selection)
            elif selection.dataset is None and bigdataviewer.is_bigdataviewer(file):
                found = bigdataviewer.find(file, path, selection)
            else:
                found = _find(file, str(path), selection)
            return Hdf5Volume(path, held, file[found.dataset], found, voxel_size)
    except VolumeError:
        held.close()
        raise
    except Exception as error:  # h5py raises RuntimeError, KeyError and others on damaged metadata
        held.close()
        raise hdf5_error(path, error) from error


class Hdf5Volume(Volume):
    """A volume over one HDF5 dataset; pickled as its path.

    h5py lets one thread at a time into the HDF5 library: threads that read wait for each other, computing does not.
    """

    def __init__(
        self, path: Path, held: HeldFile, dataset: h5py.Dataset, found: Found, voxel_size: VoxelSize | None
    ) -> None:
        name = str(path) if found.format != "HDF5" else f"{path}, dataset {found.dataset}"
        refuse_missing_filter(dataset, name)
        stored = self._spatial(dataset.shape, found)
        shape = found.shape or stored
        if any(extent > there for extent, there in zip(shape, stored, strict=True)):
            raise VolumeError(
                f"{name} is said to hold {shape_text(shape)} voxels, but only {shape_text(stored)} are stored; export "
                "it again"
            )
        self._path = path
        self._held = held
        self._found = found
        self._stored = dataset.shape, dataset.dtype
        self._others = other_files(dataset, path)
        chunks = None if dataset.chunks is None else self._spatial(dataset.chunks, found)
        z, y, x = (min(c, s) for c, s in zip(chunks or (1, 1, stored[2]), shape, strict=True))
        super().__init__(
            str(path),
            shape,
            found.view or dataset.dtype,
            Storage(
                found.format,
                chunks=(z, y, x),
                compression=compression_text(dataset),
                channels=tuple(range(found.channels)),
                timepoints=tuple(range(found.timepoints)),
                levels=found.levels,
            ),
            voxel_size=voxel_size,
            metadata_voxel_size=found.voxel_size,
        )

    @staticmethod
    def _spatial(extents: Sequence[int], found: Found) -> tuple[int, ...]:
        return tuple(int(extent) for extent, index in zip(extents, found.chosen, strict=True) if index is None)

    def check(self) -> None:
        """Verify that the file is still there, whole and of the same kind; see `Volume.check`."""
        self._held.close()
        self._refuse_lost_files()
        try:
            with self._held.opened() as file:
                self._dataset(file)
        except VolumeError:
            raise
        except Exception as error:
            raise hdf5_error(self._path, error) from error

    def stamps(self) -> Stamps:
        """The file, and those that it takes voxels from, with all planes; see `Volume.stamps`."""
        return stamp_files((path, 0, self.shape[0]) for path in (self._path, *self._others))

    def describe(self) -> dict[str, object]:
        """See `Volume.describe`; names the dataset too."""
        listing = super().describe()
        return {"source": listing.pop("source"), "dataset": self._found.dataset, **listing}

    def _dataset(self, file: h5py.File) -> h5py.Dataset:
        dataset = file.get(self._found.dataset)
        if not isinstance(dataset, h5py.Dataset) or (dataset.shape, dataset.dtype) != self._stored:
            raise VolumeError(f"{self.name} has changed since it was opened; open it again")
        return dataset

    def _refuse_lost_files(self) -> None:
        # HDF5 reads voxels of a file that is not there as fill values, without a word
        for path in self._others:
            try:
                with path.open("rb"):
                    pass
            except OSError as error:
                raise VolumeError(
                    f"{self.name} takes voxels from {path}, which cannot be opened ({error.strerror or error}); put it "
                    "back and run again"
                ) from error

    def _read_into(self, region: Region, out: NDArray[Any]) -> None:
        spatial = iter(region)
        box = tuple(next(spatial) if index is None else index for index in self._found.chosen)
        if self._others:
            self._refuse_lost_files()
        try:
            with self._held.opened() as file:
                dataset = self._dataset(file)
                if dataset.dtype == out.dtype or self._found.view is not None:
                    dataset.read_direct(out.view(dataset.dtype.newbyteorder("=")), source_sel=box)
                else:
                    self._convert_into(dataset, box, out)
        except VolumeError:
            raise
        except Exception as error:
            raise VolumeError(
                f"{self.name}: reading {region_text(region)} of {self._found.dataset} failed, it is damaged or cut off "
                f"({one_line(error)}); copy or export it again"
            ) from error

    def _convert_into(self, dataset: h5py.Dataset, box: tuple[Any, ...], out: NDArray[Any]) -> None:
        """Read as stored, converted here: HDF5 would clip what is beyond the range, and knows no bool."""
        axis = self._found.chosen.index(None)
        first = box[axis].start
        step = self.chunks[0] if self.chunks else 1
        begin = 0
        while begin < out.shape[0]:  # up to the end of a layer of chunks, so that none is decoded twice
            end = min((first + begin) // step * step + step - first, out.shape[0])
            part = (*box[:axis], slice(first + begin, first + end), *box[axis + 1 :])
            np.copyto(out[begin:end], dataset[part], casting="unsafe")
            begin = end

    def close(self) -> None:
        """Close the file; reading opens it again."""
        self._held.close()

    def __getstate__(self) -> dict[str, Any]:
        # absolute, as a worker may run in another folder
        path = self._path.absolute()
        return {**self.__dict__, "_path": path, "_held": None, "_others": [each.absolute() for each in self._others]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._held = HeldFile(self._path)


def _find(file: h5py.File, name: str, selection: Selection) -> Found:
    """The dataset that was named, or the only one there is."""
    wanted = selection.dataset
    if wanted is None:
        readable = _candidates(file, name)
        if not readable:
            raise VolumeError(
                f"{name} holds no dataset with the axes z, y and x: {_listing(_all_datasets(file)) or 'it is empty'}"
            )
        if len(readable) > 1:
            raise VolumeError(
                f"{name} holds {_listing(readable)}: choose one with dataset={readable[0].name.lstrip('/')!r}"
            )
        dataset = readable[0]
    else:
        member = file.get(wanted)
        if isinstance(member, h5py.Group):
            inside = [each for each in _all_datasets(file) if each.name.startswith(f"{member.name.rstrip('/')}/")]
            raise VolumeError(f"dataset={wanted!r} in {name} is a group, with {_listing(inside) or 'nothing'} in it")
        if not isinstance(member, h5py.Dataset):
            raise VolumeError(
                f"dataset={wanted!r} is not in {name}, which holds {_listing(_all_datasets(file)) or 'nothing'}"
            )
        dataset = member
    selection.refuse(name, "level")
    chosen, counts, order = _chosen(dataset, f"{name}, dataset {dataset.name.lstrip('/')}", selection)
    selection.index("channel", counts["c"], name)
    selection.index("timepoint", counts["t"], name)
    return Found(
        dataset.name.lstrip("/"),
        "HDF5",
        chosen,
        voxel_size=_voxel_size(dataset, order),
        channels=counts["c"],
        timepoints=counts["t"],
    )


def _all_datasets(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []

    def look(_: str, member: Any) -> None:
        if isinstance(member, h5py.Dataset):
            found.append(member)

    file.visititems(look)
    return found


def _candidates(file: h5py.File, name: str) -> list[h5py.Dataset]:
    """Datasets that are images of three axes, apart from those that would have to be chosen in."""
    readable = []
    for dataset in _all_datasets(file):
        if dataset.shape is None or dataset.ndim < 3 or dataset.dtype.kind not in "biuf" or 0 in dataset.shape:
            continue
        try:
            _chosen(dataset, name, Selection(0, 0))
        except VolumeError:
            continue
        readable.append(dataset)
    return readable


def _listing(datasets: Sequence[h5py.Dataset]) -> str:
    parts = [f"{each.name.lstrip('/')} ({shape_text(each.shape or ())} {each.dtype})" for each in datasets[:_LISTED]]
    return ", ".join(parts) + (" ..." if len(datasets) > _LISTED else "")


def _chosen(
    dataset: h5py.Dataset, name: str, selection: Selection
) -> tuple[tuple[int | None, ...], dict[str, int], list[str]]:
    """The index along each axis of a dataset, how many channels and timepoints it has, and the names of its axes."""
    names = _axis_names(dataset)
    counts = {"c": 1, "t": 1}
    if not names:
        if dataset.ndim < 3 or any(extent != 1 for extent in dataset.shape[:-3]):
            raise VolumeError(
                f"{name} is {dataset.ndim}-d, {shape_text(dataset.shape)}: three axes (z, y, x) are needed, after any "
                "of extent 1; write one image as a dataset of its own"
            )
        names = [*("?" * (dataset.ndim - 3)), "z", "y", "x"]
    if [axis for axis in names if axis in ("z", "y", "x")] != ["z", "y", "x"]:
        raise VolumeError(
            f"{name} has the axes ({', '.join(names)}) and shape {shape_text(dataset.shape)}: z, y and x are needed, "
            "in that order"
        )
    chosen: list[int | None] = []
    for axis, extent in zip(names, dataset.shape, strict=True):
        option = {"c": "channel", "t": "timepoint"}.get(axis)
        if axis in ("z", "y", "x"):
            chosen.append(None)
        elif option is not None:
            counts[axis] = extent
            chosen.append(selection.index(option, extent, name))
        elif extent == 1:
            chosen.append(0)
        else:
            raise VolumeError(f"{name} holds {extent} images along axis {axis!r}; save one of them as its own dataset")
    return tuple(chosen), counts, names


def _axis_names(dataset: h5py.Dataset) -> list[str]:
    """Names of the axes from ``axistags`` (ilastik, vigra) or dimension labels; empty where they do not say z, y, x."""
    names: list[str] = []
    tags = dataset.attrs.get("axistags")
    if tags is not None:
        try:
            names = [str(axis["key"]).lower() for axis in json.loads(tags)["axes"]]
        except (ValueError, KeyError, TypeError):
            names = []
    if not names:
        names = [str(dimension.label).strip().lower() for dimension in dataset.dims]
    return names if len(names) == dataset.ndim and {"z", "y", "x"} <= set(names) else []


def _voxel_size(dataset: h5py.Dataset, order: Sequence[str]) -> PartialVoxelSize:
    """``element_size_um`` of ilastik and of ImageJ's HDF5 plugin: (z, y, x), or one number an axis."""
    try:
        lengths = [float(length) for length in np.ravel(dataset.attrs["element_size_um"])]
    except (KeyError, ValueError, TypeError, OSError):
        return UNKNOWN_VOXEL_SIZE
    if len(lengths) == len(order) != 3:
        lengths = [length for length, axis in zip(lengths, order, strict=True) if axis in ("z", "y", "x")]
    if len(lengths) != 3:
        return UNKNOWN_VOXEL_SIZE
    z, y, x = (to_micrometres(length, "um") for length in lengths)
    return z, y, x
