"""The files of a fracture run: named and checked before any work, put in place together at its end."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from numpy.typing import DTypeLike

from cytolith.axes import Shape, VoxelSize
from cytolith.errors import OutputError
from cytolith.fracture.config import FractureConfig
from cytolith.io.files import flush, lock_folder, output_error
from cytolith.io.sink import SUFFIXES, Sink, create_sink

_SCRATCH = ".cytolith-fracture-"
_WILD = "*?["


def stem_of(source: str | Path) -> str:
    """What files made from an input are called: its name without endings, or its folder's for a pattern."""
    path = Path(source)
    if any(mark in path.name for mark in _WILD):
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

    Until then they lie in a scratch folder of the run beside where they belong. Nothing is made before it is entered,
    and while it is no other run may write into the same folders.

    Parameters
    ----------
    folder
        Where most results and scratch files go; made when it is not there.
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
        Two files have one path, a file exists and `force` is not set, a folder cannot be written in, or another run
        writes there.
    """

    def __init__(self, folder: Path, stem: str, paths: dict[str, Path], source: str | Path, *, force: bool) -> None:
        self.folder = folder
        self.stem = stem
        self.paths = paths
        self._force = force
        self._sinks: list[Sink] = []
        self._scratch: dict[Path, Path] = {}
        self._locks: list[int] = []
        self._made: list[Path] = []
        self._names: dict[str, str] = {}
        for key in ("stack", "cluster_image"):
            if key in paths and paths[key].suffix.lower() not in SUFFIXES:
                raise OutputError(f"{paths[key]}: a stack is written as {', '.join(SUFFIXES)}; give it such an ending")
        self._refuse_clashes(source)
        self._refuse_existing()

    @property
    def scratch(self) -> Path:
        """Folder for scratch files; it is removed at the end."""
        return self._scratch[self.folder]

    def partial(self, key: str) -> Path:
        """Where a file is written before it is put in place."""
        path = self.paths[key]
        return self._scratch[path.parent] / f"{key}{path.suffix.lower()}"

    def sink(self, key: str, shape: Shape, dtype: DTypeLike, block_shape: Shape, voxel_size: VoxelSize | None) -> Sink:
        """A stack to be written; it is put in place with the others."""
        sink = create_sink(self.partial(key), shape, dtype, block_shape, voxel_size=voxel_size)
        self._sinks.append(sink)
        return sink

    def named(self, error: OutputError) -> OutputError:
        """The error with the names of results in the place of scratch files."""
        text = str(error)
        for scratch, shown in self._names.items():
            text = text.replace(scratch, shown)
        return OutputError(text)

    def commit(self) -> None:
        """Put all files in place; when one cannot be, those that were there before come back."""
        placed: list[tuple[Path, Path, Path]] = []
        try:
            for sink in self._sinks:
                sink.close()
            for key in self.paths:
                if self.partial(key).is_file():
                    flush(self.partial(key))
            for key, path in self.paths.items():
                new = self.partial(key)
                old = new.with_name(f"{new.name}.old")
                placed.append((path, new, old))
                if os.path.lexists(path):
                    path.rename(old)
                new.rename(path)
        except BaseException as error:
            for path, new, old in reversed(placed):
                if not os.path.lexists(new):
                    _remove(path)
                if os.path.lexists(old):
                    old.rename(path)
            if isinstance(error, OSError):
                raise output_error(path, error) from error
            raise

    def __enter__(self) -> Self:
        try:
            for parent in self._parents():
                self._make_writable(parent)
                lock = lock_folder(parent)
                if lock is not None:
                    self._locks.append(lock)
                    for left in parent.glob(f"{_SCRATCH}*"):  # of a run that was killed: no other one is at work
                        _remove(left)
                self._scratch[parent] = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
            self._names = {str(self.partial(key)): str(path) for key, path in self.paths.items()}
            self._names |= {f"{scratch}{os.sep}": f"{parent}{os.sep}" for parent, scratch in self._scratch.items()}
            self._refuse_existing()
        except OSError as error:
            self.__exit__(OSError, error, None)
            raise output_error(self.folder, error) from error
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for sink in self._sinks:
            with suppress(OSError):  # what went wrong before is what counts
                sink.discard()
        self._sinks.clear()
        for scratch in self._scratch.values():
            shutil.rmtree(scratch, ignore_errors=True)
        self._scratch.clear()
        if error is not None:
            self._remove_made()
        while self._locks:
            os.close(self._locks.pop())

    def _parents(self) -> list[Path]:
        return sorted({self.folder, *(path.parent for path in self.paths.values())})

    def _refuse_existing(self) -> None:
        existing = []
        for path in self.paths.values():
            try:
                path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # a name too long
                raise output_error(path, error) from None
            existing.append(path)
        for path in existing:
            if path.is_dir() and path.suffix != ".zarr":
                raise OutputError(f"{path}: is a folder; give another name")
        if existing and not self._force:
            more = f" (and {len(existing) - 1} more of the results)" if len(existing) > 1 else ""
            raise OutputError(
                f"{existing[0]} exists already{more}: -f (--force) replaces, or give another folder with -o"
            )

    def _refuse_clashes(self, source: str | Path) -> None:
        seen: dict[Path, str] = {}
        given = Path(source).expanduser()
        while any(mark in str(given) for mark in _WILD) and not given.exists():  # a pattern stands for its folder
            given = given.parent
        given = given.resolve()
        for key, path in self.paths.items():
            real = path.resolve()
            if real in seen:
                raise OutputError(f"{path}: would be both {seen[real]} and {key}; give different names")
            seen[real] = key
            if real == given or real in given.parents:
                raise OutputError(f"{path}: is the input, or holds it; give the {key} another name")
            if given.is_dir() and given in real.parents:
                raise OutputError(f"{path}: lies in the input folder; give another folder with -o")

    def _make_writable(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: is a file; give a folder for the results")
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._made += missing
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OutputError(f"{folder}: cannot be used for the results: {error.strerror or error}") from None

    def _remove_made(self) -> None:
        for folder in self._made:  # the deepest first
            with suppress(OSError):
                folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
