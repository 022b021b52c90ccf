"""Results of steps written to volumes while a run goes on, so that a person can look at what the pipeline did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import region_origin, region_shape
from cytolith.cells.block import BlockCells
from cytolith.cells.config import CellsConfig
from cytolith.cells.images import image_dtypes
from cytolith.cells.owners import Voxels, join_voxels, places
from cytolith.engine.grid import Block, Plan
from cytolith.errors import ConfigError, OutputError
from cytolith.io.files import same_place
from cytolith.io.sink import Sink, create_sink
from cytolith.io.volume import Volume


def refuse_clashes(config: CellsConfig, source: str) -> None:
    """Refuse volumes to save that would replace each other or what the run reads.

    Raises
    ------
    ConfigError
        Names the step, the path and what it clashes with.
    """
    taken = {Path(source).resolve(): "the input"}
    for name, step in config:
        for field in ("flatfield", "background", "mask"):
            value = getattr(step, field, None)
            if isinstance(value, (str, Path)):
                taken[Path(value).resolve()] = f"{name}.{field}"
    for name, step in config:
        save = getattr(step, "save", None)
        if save is None:
            continue
        path = Path(save).resolve()
        for other, what in taken.items():
            if _lies_in(other, path) or (other.suffix == ".zarr" and _lies_in(path, other)):
                raise ConfigError(f"{name}.save: {save} is {what} or lies in it; give another path")
        taken[path] = f"what {name} saves"


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is another or lies below it."""
    return any(each == folder or same_place(each, folder) for each in (path, *path.parents))


class Saves:
    """Volumes of all steps that save, as a context: they appear when it is left well, and nothing appears otherwise.

    It travels to workers, which write into the same volumes.

    Labels are written in two passes, as a label is the row of its cell in the sorted table, which is known only at
    the end: first the key of each cell (index in the volume of its maximum, the same in every block that sees the
    cell), then the rows. A block writes what it is sure of in its core; what is left of the cells, found out by the
    blocks that own them or by reading again, is added at the end, to labels and maxima alike.
    """

    def __init__(
        self,
        config: CellsConfig,
        volume: Volume,
        plan: Plan,
        *,
        overwrite: bool,
        resume: bool = False,
        closing: bool = False,
        keep: Callable[[], bool] = lambda: False,
    ) -> None:
        """Volumes of a run; `resume`: go on with what an unfinished run left; `closing`: some may be in place already.

        `keep` tells, after an error, whether what was written is of use to a run that goes on.
        """
        self._volume = volume
        self._plan = plan
        self._overwrite = overwrite
        self._resume, self._closing, self._keep = resume, closing, keep
        self._left = False
        self._sinks: dict[str, Sink] = {}
        self._keys: Sink | None = None
        self._dtypes = image_dtypes(config, volume.dtype) | {
            "maxima_detection": np.dtype(np.uint8),
            "shape_detection": np.dtype(np.uint32),
        }
        self._paths = {
            name: step.save for name, step in config if step is not None and getattr(step, "save", None) is not None
        }

    @property
    def resumed(self) -> bool:
        """Whether all volumes hold what the unfinished run wrote."""
        return all(sink.resumed for sink in self._all)

    @property
    def needs_rows(self) -> bool:
        """Whether `finish` makes use of the rows."""
        return bool({"maxima_detection", "shape_detection"} & set(self._sinks))

    def __enter__(self) -> Self:
        try:
            for name, path in self._paths.items():
                if self._closing and self._is_in_place(Path(path)):
                    continue
                self._sinks[name] = self._create(path, self._dtypes[name])
            if "shape_detection" in self._sinks:
                path = Path(self._paths["shape_detection"])
                self._keys = self._create(str(path.with_name(f"{path.stem}-keys{path.suffix}")), np.dtype(np.uint64))
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._left = True
            self._let_go()
            return
        for sink in self._sinks.values():
            sink.close()
        if self._keys is not None:
            self._keys.discard()

    def write(self, block: Block, cells: BlockCells) -> None:
        """Write what the core of a block has of each saved step."""
        for name, sink in self._sinks.items():
            if name in cells.images:
                sink.write(block.core, np.ascontiguousarray(cells.images[name][block.inner]))
        if cells.trusted is None:
            return
        inner = cells.trusted.inner
        if "maxima_detection" in self._sinks and cells.maxima is not None:
            marks = np.zeros(region_shape(cells.trusted.read), np.uint8)
            marked = self._marked(cells)
            marks.reshape(-1)[cells.maxima.voxels[np.repeat(marked, np.diff(cells.maxima.starts))]] = 1
            self._sinks["maxima_detection"].write(block.core, np.ascontiguousarray(marks[inner]))
        if self._keys is not None and cells.shapes is not None:
            assert cells.maxima is not None
            known = ~cells.maxima.open & ~cells.shapes.open
            keys = np.concatenate([[0], np.where(known, cells.maxima_keys + 1, 0)]).astype(np.uint64)
            self._keys.write(block.core, keys[cells.shapes.to_dense()[inner]])

    def _marked(self, cells: BlockCells) -> NDArray[np.bool_]:
        """Which maxima of a block are written as far as they lie in its core: those that are sure to have rows."""
        assert cells.maxima is not None
        return np.asarray(~cells.maxima.open & (cells.maxima_keys >= 0))

    def flush(self, block: Block) -> None:
        """Bring what was written of a block to the disk, before anything says that the block is done.

        Raises
        ------
        OutputError
            The run has ended: an interrupt does not wait for the workers of threads.
        """
        if self._left:
            raise OutputError(f"block {block.index} came after the end of its run")
        for sink in self._all:
            sink.flush(block.core)

    def finish(
        self, keys: NDArray[np.int64], is_truncated: NDArray[np.bool_], apart: Iterable[dict[str, Voxels]]
    ) -> None:
        """Write what is left: the labels, and maxima that no block could write alone. Doing it twice is harmless.

        Parameters
        ----------
        keys, is_truncated
            Of the rows of the run, in their order: the label of a cell is the number of its row, counted from 1.
        apart
            Voxels to be added, of each block (`BlockCells.apart`).
        """
        if not self.needs_rows:
            return
        truncated, apart = keys[is_truncated], list(apart)
        if "maxima_detection" in self._sinks:
            for block, (at, _, _) in self._added("maxima_detection", apart, truncated):
                marks = self._sinks["maxima_detection"].read(block.core)
                marks[at] = 1
                self._sinks["maxima_detection"].write(block.core, marks)
        if self._keys is None:
            return
        order = np.argsort(keys)
        known = np.concatenate([[0], keys[order] + 1]).astype(np.uint64)
        rows = np.concatenate([[0], order + 1]).astype(np.uint32)
        added = {block.index: rest for block, rest in self._added("shape_detection", apart, truncated)}
        for block in self._plan.blocks:
            found = self._keys.read(block.core)
            if block.index in added:
                at, theirs, sure = added[block.index]
                found[at] = np.where(sure | (found[at] == 0), theirs + 1, found[at])
            place = np.minimum(np.searchsorted(known, found), known.size - 1)
            # a key without a row belongs to a cell that was dropped: no label
            self._sinks["shape_detection"].write(block.core, np.where(known[place] == found, rows[place], np.uint32(0)))

    def _added(
        self, name: str, apart: Sequence[dict[str, Voxels]], truncated: NDArray[np.int64]
    ) -> Iterator[tuple[Block, tuple[tuple[NDArray[np.int64], ...], NDArray[np.uint64], NDArray[np.bool_]]]]:
        """For each block with voxels to add: where in its core, the key of each, whether its cell is not truncated.

        Cells that are not truncated do not overlap. Others may, and give way; among them the least key stays.
        """
        voxels = [of_block[name] for of_block in apart if name in of_block]
        joined = join_voxels([Voxels(np.empty(0, np.int64), np.empty(0, np.int64)), *voxels])
        index, keys = joined.index, joined.keys
        owner = np.zeros(index.size, np.int64)
        for axis, position in enumerate(np.unravel_index(index, self._volume.shape)):
            starts = np.unique([block.core[axis].start for block in self._plan.blocks])
            owner = owner * starts.size + np.searchsorted(starts, position, side="right") - 1
        sure = ~np.isin(keys, truncated)
        order = np.lexsort((-keys, sure, owner))
        index, keys, sure, owner = index[order], keys[order], sure[order], owner[order]
        if not index.size:
            return
        begins = np.flatnonzero(np.diff(owner, prepend=-1))
        for begin, end in zip(begins, np.append(begins[1:], index.size), strict=True):
            block = self._plan.blocks[owner[begin]]
            at = places(index[begin:end], self._volume.shape) - np.array(region_origin(block.core))
            yield block, (tuple(at.T), keys[begin:end].astype(np.uint64), sure[begin:end])

    def _create(self, path: str, dtype: np.dtype[Any]) -> Sink:
        return create_sink(
            path,
            self._volume.shape,
            dtype,
            self._plan.core,
            overwrite=self._overwrite,
            voxel_size=self._volume.voxel_size,
            resume=self._resume,
        )

    @staticmethod
    def _is_in_place(path: Path) -> bool:
        return path.exists() and not path.with_name(f"{path.name}.partial").exists()

    @property
    def _all(self) -> list[Sink]:
        return [*self._sinks.values(), *([self._keys] if self._keys is not None else [])]

    def _let_go(self) -> None:
        keep = self._keep()
        for sink in self._all:
            if keep:
                sink.leave()
            else:
                sink.discard()

    def __getstate__(self) -> dict[str, Any]:
        """What workers need: where to write."""
        return self.__dict__ | {"_volume": None, "_plan": None, "_keep": None}
