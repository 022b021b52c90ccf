"""The files of a fracture run: named and checked before any work, put in place together at its end."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from numpy.typing import DTypeLike

from cytolith.axes import Shape, VoxelSize
from cytolith.errors import OutputError
from cytolith.fracture.config import FractureConfig
from cytolith.io.files import flush
from cytolith.io.sink import Sink, create_sink


def stem_of(source: str | Path) -> str:
    """What files made from an input are called: its name without endings, or its folder's for a pattern."""
    path = Path(source)
    if any(mark in path.name for mark in "*?["):
        path = path.parent
    if path.suffix == "" or path.is_dir():
        path = next((part for part in (path, *path.parents) if ".zarr" in part.suffixes), path)
    name = path.resolve().name
    for ending in (".ome.tif", ".ome.tiff", ".ome.zarr", ".tif", ".tiff", ".zarr", ".npy"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name or "stack"


def name_outputs(config: FractureConfig, folder: Path, stem: str) -> dict[str, Path]:
    """Path of each file that a run will write, by what it is. Names given are joined to the folder."""
    suffix = ".zarr" if config.zarr else ".tif"
    stack = Path(config.stack_name or f"{stem}-processed{suffix}")
    aperture = folder / (config.aperture_name or f"{stem}-aperture-map.txt")
    offset = folder / (config.offset_name or f"{stem}-offset-map.txt")
    wanted = {
        "stack": (config.writes_stack, folder / stack),
        "cluster_image": (config.cluster_image, folder / stack.with_name(f"{stack.stem}-clusters{stack.suffix}")),
        "aperture_map": (config.aperture_map, aperture),
        "aperture_image": (config.aperture_map and config.map_images, aperture.with_suffix(".tif")),
        "aperture_picture": (config.aperture_map and config.pictures, aperture.with_suffix(".png")),
        "offset_map": (config.offset_map, offset),
        "offset_image": (config.offset_map and config.map_images, offset.with_suffix(".tif")),
        "offset_picture": (config.offset_map and config.pictures, offset.with_suffix(".png")),
        "clusters": (config.clusters, folder / "clusters.csv"),
        "summary": (config.summary, folder / "summary.json"),
    }
    return {key: path.expanduser() for key, (write, path) in wanted.items() if write}


class Outputs:
    """Files that appear together when all are whole, and of which nothing is left when a run fails.

    Parameters
    ----------
    folder
        Where scratch files go; made when it is not there.
    stem
        What the results are called.
    paths
        From :func:`name_outputs`.
    source
        The input, which no file may replace.
    force
        Whether existing files may be replaced.

    Raises
    ------
    OutputError
        Two files have one path, a file exists and `force` is not set, or a folder cannot be written in.
    """

    def __init__(self, folder: Path, stem: str, paths: dict[str, Path], source: str | Path, *, force: bool) -> None:
        self.folder = folder
        self.stem = stem
        self.paths = paths
        self._sinks: list[Sink] = []
        self._refuse_clashes(source)
        existing = [path for path in paths.values() if path.exists()]
        for path in existing:
            if path.is_dir() and path.suffix != ".zarr":
                raise OutputError(f"{path}: is a folder; give another name")
        if existing and not force:
            more = f" (and {len(existing) - 1} more of the results)" if len(existing) > 1 else ""
            raise OutputError(
                f"{existing[0]} exists already{more}: -f (--force) replaces, or give another folder with -o"
            )
        for parent in {folder, *(path.parent for path in paths.values())}:
            _make_writable(parent)

    def partial(self, key: str) -> Path:
        """Where a file is written before it is put in place."""
        path = self.paths[key]
        return path.with_name(f"{path.stem}.partial{path.suffix}")

    def sink(self, key: str, shape: Shape, dtype: DTypeLike, block_shape: Shape, voxel_size: VoxelSize | None) -> Sink:
        """A stack to be written; it is put in place with the others."""
        sink = create_sink(self.paths[key], shape, dtype, block_shape, overwrite=True, voxel_size=voxel_size)
        self._sinks.append(sink)
        return sink

    def commit(self) -> None:
        """Put all files in place."""
        aside = {key: self.partial(key) for key in self.paths}
        try:
            for path in aside.values():
                if path.is_file():
                    flush(path)
            while self._sinks:
                self._sinks.pop().close()
            for key, path in aside.items():
                if path.is_file():
                    path.replace(self.paths[key])
        except OSError as error:
            raise OutputError(f"{error.filename}: cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for sink in self._sinks:
            sink.discard()
        self._sinks.clear()
        for key in self.paths:
            path = self.partial(key)
            if path.is_file():
                path.unlink(missing_ok=True)

    def _refuse_clashes(self, source: str | Path) -> None:
        seen: dict[Path, str] = {}
        given = Path(source).expanduser().resolve()
        for key, path in self.paths.items():
            real = path.resolve()
            if real in seen:
                raise OutputError(f"{path}: would be both {seen[real]} and {key}; give different names")
            seen[real] = key
            if real == given:
                raise OutputError(f"{path}: is the input; give the {key} another name")
            if given.is_dir() and given in real.parents:
                raise OutputError(f"{path}: lies in the input folder; give another folder with -o")


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used for the results: {error.strerror or error}") from None
