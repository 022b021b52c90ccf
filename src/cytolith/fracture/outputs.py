"""The files of a fracture run: named and checked before any work, put in place together at its end."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from numpy.typing import DTypeLike

from cytolith.axes import Shape, VoxelSize
from cytolith.errors import OutputError
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.plan import stack_chunk
from cytolith.fracture.unfinished import forget, has_blocks, remove, tidy
from cytolith.io.files import BINARY, flush, output_error, patiently, same_place, write_text
from cytolith.io.lock import FolderLock
from cytolith.io.sink import SUFFIXES, Sink, create_sink

log = logging.getLogger(__name__)

SCRATCH = ".cytolith-fracture"
_JOURNAL = "commit.json"
_WILD = "*?["


def stem_of(source: str | Path) -> str:
    """What files made from an input are called: its name without endings, or its folder's for a pattern."""
    path = Path(source)
    if any(mark in path.name for mark in _WILD):
        path = path.parent
    if path.suffix == "" or path.is_dir():
        path = next((part for part in (path, *path.parents) if ".zarr" in part.suffixes), path)
    name = path.resolve().name
    for ending in (".ome.tif", ".ome.tiff", ".ome.zarr", ".tif", ".tiff", ".zarr", ".npy", ".hdf5", ".h5", ".ims"):
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
    """Files that appear together when all are whole, and of which nothing but scratch is left when a run fails.

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
    apart
        Whether runs of other stems may write into the folder at the same time; what is left of a run then stands for
        its stem alone, and one of something else takes its place.

    Attributes
    ----------
    resumable : bool
        Whether scratch is left for the next run when this one fails, once a block is finished. False at first.

    Raises
    ------
    OutputError
        Two files have one path, a file exists and `force` is not set, a folder cannot be written in, or another run
        writes there.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        paths: dict[str, Path],
        source: str | Path,
        *,
        force: bool,
        apart: bool = False,
    ) -> None:
        self.folder = folder
        self.stem = stem
        self.apart = apart
        self.paths = paths
        self.resumable = False
        self._force = force
        self._begun = self._committed = False
        self._sinks: list[Sink] = []
        self._locks: list[FolderLock] = []
        self._made: list[Path] = []
        for path in self.stacks.values():
            if path.suffix.lower() not in SUFFIXES:
                raise OutputError(f"{path}: a stack is written as {', '.join(SUFFIXES)}; give it such an ending")
        self._refuse_clashes(source)
        if not self._journal.exists():  # else what is there is ours, and is taken back first
            self._refuse_existing()

    @property
    def scratch(self) -> Path:
        """Folder for scratch files; it is removed at the end."""
        return self._scratch_of(self.folder)

    def _scratch_of(self, parent: Path) -> Path:
        """Scratch folder beside results; in other folders than that of the run it has the run's name."""
        own = f"{SCRATCH}-{self.stem}" if self.apart else SCRATCH
        if parent == self.folder:
            return parent / own
        name = hashlib.blake2b(os.fsencode(self.folder.resolve()), digest_size=8).hexdigest()
        return parent / f"{own}-{name}"

    def lock_of(self, parent: Path) -> FolderLock:
        """What keeps other runs out of a folder."""
        return FolderLock(parent, f".cytolith-{self.stem}.lock") if self.apart else FolderLock(parent)

    @property
    def committed(self) -> bool:
        """Whether all files are in place."""
        return self._committed

    @property
    def stacks(self) -> dict[str, Path]:
        """Those of the files that are stacks."""
        return {key: self.paths[key] for key in ("stack", "cluster_image") if key in self.paths}

    @property
    def _journal(self) -> Path:
        return self.scratch / _JOURNAL

    def partial(self, key: str) -> Path:
        """Where a file is written before it is put in place."""
        path = self.paths[key]
        return self._scratch_of(path.parent) / f"{key}{path.suffix.lower()}"

    def begin_anew(self) -> None:
        """Remove what a run before has left."""
        self._begun = True
        for parent in self._parents():
            scratch = self._scratch_of(parent)
            if scratch == self.scratch:
                forget(scratch)
            remove(scratch)
            scratch.mkdir()

    def go_on(self) -> bool:
        """Keep what a run before has left of its stacks, and remove what is half-made; whether all stacks are there."""
        self._begun = True
        stacks = [self.partial(key) for key in self.stacks]
        for path in stacks:
            if path.exists():  # it was closed, when the results were about to be put in place
                _rename(path, _in_progress(path))
        for parent in self._parents():
            scratch = self._scratch_of(parent)
            scratch.mkdir(exist_ok=True)
            tidy(scratch, map(_in_progress, stacks))
        return all(_in_progress(path).exists() for path in stacks)

    def sink(self, key: str, shape: Shape, dtype: DTypeLike, voxel_size: VoxelSize | None) -> Sink:
        """A stack to be written, or to be gone on with; it is put in place with the others."""
        path = self.partial(key)
        sink = create_sink(path, shape, dtype, stack_chunk(shape, path), voxel_size=voxel_size, resume=True)
        self._sinks.append(sink)
        return sink

    def named(self, error: OutputError) -> OutputError:
        """The error with the names of results in the place of scratch files."""
        text = str(error)
        shown = {str(self.partial(key)): str(path) for key, path in self.paths.items()}
        shown |= {f"{self._scratch_of(parent)}{os.sep}": f"{parent}{os.sep}" for parent in self._parents()}
        for scratch, name in shown.items():
            text = text.replace(scratch, name)
        return OutputError(text)

    def commit(self) -> None:
        """Put all files in place; when one cannot be, those that were there before come back."""
        if self.apart:
            self._refuse_existing()  # a run of another stem may have written there meanwhile
        path = self.folder
        moves = []
        for key, place in self.paths.items():
            new = self.partial(key).absolute()
            moves.append((place.absolute(), new, new.with_name(f"{new.name}.old")))
        try:
            for sink in self._sinks:
                sink.close()
            for key in self.paths:
                if self.partial(key).is_file():
                    flush(self.partial(key))
            # for the next run, should this one be killed in between
            write_text(self._journal, json.dumps([[str(each) for each in move] for move in moves]))
            for path, new, old in moves:
                if os.path.lexists(path):
                    _rename(path, old)
                _rename(new, path)
            self._committed = True
        except BaseException as error:
            self._take_back()
            if isinstance(error, OSError):
                raise output_error(path, error) from error
            raise

    def _take_back(self) -> None:
        """Undo what has been put in place so far, by this run or by one that was killed meanwhile."""
        try:
            moves = json.loads(self._journal.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        for path, new, old in (map(Path, move) for move in reversed(moves)):
            if os.path.lexists(path) and not os.path.lexists(new):
                _rename(path, new)
            if os.path.lexists(old):
                _rename(old, path)
        self._journal.unlink()

    def __enter__(self) -> Self:
        try:
            for parent in self._parents():
                self._make_writable(parent)
                lock = self.lock_of(parent)
                lock.acquire()
                self._locks.append(lock)
                if lock.stale is not None:
                    log.info("%s", lock.stale)
            self._take_back()
            self._refuse_existing()
        except OSError as error:
            self.__exit__(OSError, error, None)
            raise output_error(self.folder, error) from error
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        failed = error is not None and not self._committed
        try:
            if self._begun and not (failed and self.resumable and has_blocks(self.scratch)):
                self._discard()
            for sink in self._sinks:
                sink.leave()
        finally:
            self._sinks.clear()
            while self._locks:
                self._locks.pop().release()
        if failed:
            self._remove_made()

    def _discard(self) -> None:
        for sink in self._sinks:
            with suppress(OSError):  # what went wrong before is what counts
                sink.discard()
        # killed between the two, the next run takes the results back and makes them anew; the other way round it would
        # find results and a run that goes on
        forget(self.scratch)
        self._journal.unlink(missing_ok=True)
        for parent in self._parents():
            remove(self._scratch_of(parent))

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
            if real in given.parents or same_place(path, given):
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
            # not by tempfile, which tries two thousand million names where Windows denies access (gh-66305)
            probe = folder / f".cytolith-probe-{secrets.token_hex(8)}"
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | BINARY, 0o600))
            patiently(probe.unlink)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be used for the results: {error.strerror or error}") from None

    def _remove_made(self) -> None:
        for folder in self._made:  # the deepest first
            with suppress(OSError):
                folder.rmdir()


def _rename(path: Path, target: Path) -> None:
    patiently(lambda: path.rename(target))


def _in_progress(path: Path) -> Path:
    """Where a sink keeps a volume until it is whole."""
    return path.with_name(f"{path.name}.partial")
