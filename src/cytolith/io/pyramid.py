"""A volume and its coarser levels written block by block as OME-Zarr 0.5, in shards that no two blocks share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

from cytolith.axes import AXES, Region, Shape, VoxelSize, region_shape
from cytolith.errors import OutputError
from cytolith.io.files import output_error
from cytolith.io.shards import Grid, encoder, flush_chunks, remove_asides, write_chunks, zarr_codecs
from cytolith.io.sink import Sink, check_place
from cytolith.io.volume import one_line, region_text, shape_text
from cytolith.io.zarr_sink import ome_metadata


@dataclass(frozen=True)
class Level:
    """A level of a pyramid."""

    factors: Shape
    """Voxels of the finest level along an edge of one of this level, (z, y, x)."""
    grid: Grid
    """Its extent, chunks and shards."""


def create_pyramid(
    path: str | Path,
    levels: Sequence[Level],
    dtype: DTypeLike,
    *,
    voxel_size: VoxelSize | None = None,
    origin: Shape = (0, 0, 0),
    compression: str = "zstd",
    labels: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> PyramidSink:
    """Create an OME-Zarr 0.5 image with several levels, that blocks are written into.

    Parameters
    ----------
    path : str or Path
        Ends in ``.zarr``.
    levels : sequence of Level
        From the finest to the coarsest.
    dtype : dtype
        Of the voxels.
    voxel_size, origin
        As `ome_metadata` takes them.
    compression : str
        ``"zstd"``, ``"lz4"`` or ``"none"``; the first two by Blosc.
    labels : bool
        Whether voxels are labels; the metadata says so, and how levels were made.
    overwrite, resume
        As `create_sink` takes them.

    Returns
    -------
    PyramidSink
        ``write(region, array)`` writes into the finest level, ``write_level`` into any.

    Raises
    ------
    OutputError, ConfigError
        As for `create_sink`; the compression is not known.
    """
    path = check_place(path, overwrite=overwrite)
    if path.suffix != ".zarr":
        raise OutputError(f"{path}: levels are written as .zarr only; give the path this ending")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return PyramidSink(path, levels, np.dtype(dtype), voxel_size, origin, compression, labels=labels, resume=resume)
    except OSError as error:
        raise output_error(path, error) from error


class PyramidSink(Sink):
    """An OME-Zarr 0.5 image of several levels; made by `create_pyramid`.

    Attributes
    ----------
    levels : tuple of Level
    """

    def __init__(
        self,
        path: Path,
        levels: Sequence[Level],
        dtype: np.dtype[Any],
        voxel_size: VoxelSize | None,
        origin: Shape,
        compression: str,
        *,
        labels: bool = False,
        resume: bool = False,
    ) -> None:
        self.levels = tuple(levels)
        self._compression = compression
        self._codecs = zarr_codecs(compression, dtype)
        factors = [level.factors for level in levels]
        self._ome = ome_metadata(path.stem, voxel_size, factors, origin=origin, labels=labels)
        finest = levels[0].grid
        super().__init__(path, finest.shape, dtype, finest.files, voxel_size, resume=resume)

    def _create(self, at: Path) -> None:
        group = zarr.open_group(at, mode="w", zarr_format=3)
        group.attrs["ome"] = self._ome
        for number, level in enumerate(self.levels):
            group.create_array(
                str(number),
                shape=level.grid.shape,
                chunks=level.grid.chunks,
                shards=level.grid.shards,
                dtype=self.dtype,
                compressors=self._codecs,
                dimension_names=AXES,
            )

    def _reopen(self) -> None:
        try:
            group = zarr.open_group(self._partial, mode="r")
            arrays = [group[str(number)] for number in range(len(self.levels))]
        except Exception as error:
            raise self._unlike(f"is no zarr group that can be read ({one_line(error)})") from error
        for array, level in zip(arrays, self.levels, strict=True):
            grid = level.grid
            kept = isinstance(array, zarr.Array) and (array.shape, array.dtype, array.chunks, array.shards)
            if kept != (grid.shape, self.dtype, grid.chunks, grid.shards):
                raise self._unlike(f"has another layout than {shape_text(grid.shape)} {self.dtype}")
        if group.attrs.get("ome") != self._ome:
            raise self._unlike("has another voxel size or name")

    def _at(self, level: int) -> Path:
        return self._partial / str(level)

    def write_level(self, level: int, region: Region, array: NDArray[Any]) -> None:
        """Write one box of voxels of a level, whole shards of it; as `Sink.write` does.

        Raises
        ------
        OutputError
            As for `Sink.write`.
        """
        grid = self.levels[level].grid
        if array.shape != region_shape(region) or array.dtype != self.dtype or not grid.aligned(region):
            raise OutputError(
                f"{self.path}, level {level}: {region_text(region)} {array.dtype} does not fit "
                f"{shape_text(grid.shape)} {self.dtype} in files of {shape_text(grid.files)}; write whole files"
            )
        with self._writing():
            self._put(level, region, array)

    def _put(self, level: int, region: Region, array: NDArray[Any]) -> None:
        at = self._at(level)
        os.stat(at / "zarr.json")  # noqa: PTH116 (the folder of one that has gone would be made)
        write_chunks(at, self.levels[level].grid, region, array, encoder(self._compression, self.dtype))

    def _write(self, region: Region, array: NDArray[Any]) -> None:
        grid = self.levels[0].grid
        if not grid.aligned(region):
            raise OutputError(
                f"{self.path}: the region {region_text(region)} shares files with its neighbours; write whole ones of "
                f"{shape_text(grid.files)}"
            )
        self._put(0, region, array)

    def read_level(self, level: int, region: Region) -> NDArray[Any]:
        """Read back a box of voxels of a level that was written before; 0 where nothing was.

        Raises
        ------
        OutputError
            It cannot be read.
        """
        at = self._at(level)
        try:
            os.stat(at / "zarr.json")  # noqa: PTH116 (one that has gone would be read as 0)
            return np.asarray(zarr.open_array(at, mode="r")[region])
        except (OSError, ValueError, RuntimeError) as error:
            raise OutputError(f"{self.path}, level {level}: cannot be read back: {one_line(error)}") from error

    def _read(self, region: Region) -> NDArray[Any]:
        return self.read_level(0, region)

    def flush_level(self, level: int, region: Region) -> None:
        """Bring a box that was written to the disk; as `Sink.flush` does."""
        try:
            flush_chunks(self._at(level), self.levels[level].grid, region)
        except OSError as error:
            raise output_error(self.path, error) from error

    def _flush(self, region: Region) -> None:
        self.flush_level(0, region)

    def _tidy(self) -> None:
        if self.resumed:
            for number in range(len(self.levels)):
                remove_asides(self._at(number))
