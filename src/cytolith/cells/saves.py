"""Results of steps written to volumes while a run goes on, so that a person can look at what the pipeline did."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import region_origin, region_shape
from cytolith.cells.block import BlockCells, inside_region
from cytolith.cells.config import CellsConfig
from cytolith.cells.images import image_dtypes
from cytolith.engine.grid import Block, Plan
from cytolith.errors import ConfigError
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
            if path == other or path in other.parents or (other in path.parents and other.suffix == ".zarr"):
                raise ConfigError(f"{name}.save: {save} is {what} or lies in it; give another path")
        taken[path] = f"what {name} saves"


class Saves:
    """Volumes of all steps that save, as a context: they appear when it is left well, and nothing appears otherwise.

    Labels are written in two passes, as a label is the row of its cell in the sorted table, which is known only at
    the end: first the key of each cell (index in the volume of its maximum, the same in every block that sees the
    cell), then the rows.
    """

    def __init__(self, config: CellsConfig, volume: Volume, plan: Plan, *, overwrite: bool) -> None:
        self._volume = volume
        self._plan = plan
        self._overwrite = overwrite
        self._stopped = False
        self._beyond: list[tuple[NDArray[np.int64], NDArray[np.uint64]]] = []
        self._sinks: dict[str, Sink] = {}
        self._keys: Sink | None = None
        self._dtypes = image_dtypes(config, volume.dtype) | {
            "maxima_detection": np.dtype(np.uint8),
            "shape_detection": np.dtype(np.uint32),
        }
        self._paths = {
            name: step.save for name, step in config if step is not None and getattr(step, "save", None) is not None
        }

    def __enter__(self) -> Self:
        try:
            for name, path in self._paths.items():
                self._sinks[name] = self._create(path, self._dtypes[name])
            if "shape_detection" in self._paths:
                path = Path(self._paths["shape_detection"])
                self._keys = self._create(str(path.with_name(f"{path.stem}-keys{path.suffix}")), np.dtype(np.uint64))
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._discard()
            return
        for sink in self._sinks.values():
            sink.close()
        if self._keys is not None:
            self._keys.discard()

    def stop(self) -> None:
        """Write nothing from now on: an interrupt has come, and workers are still busy."""
        self._stopped = True

    def write(self, block: Block, cells: BlockCells) -> None:
        """Write what the core of a block has of each saved step."""
        if self._stopped:
            return
        for name, sink in self._sinks.items():
            if name in cells.images:
                sink.write(block.core, np.ascontiguousarray(cells.images[name][block.inner]))
        if cells.trusted is None:
            return
        inner = cells.trusted.inner
        if "maxima_detection" in self._sinks and cells.maxima is not None:
            marks = np.zeros(region_shape(cells.trusted.read), np.uint8)
            known = np.repeat(cells.kept | ~cells.maxima.open, np.diff(cells.maxima.starts))
            marks.reshape(-1)[cells.maxima.voxels[known]] = 1
            self._sinks["maxima_detection"].write(block.core, np.ascontiguousarray(marks[inner]))
        if self._keys is not None and cells.shapes is not None:
            labels = cells.shapes.to_dense()
            # of a cell that another block owns, this one may see a part only: what it is not sure of is left out
            keys = np.where(cells.kept | ~cells.shapes.open, cells.maxima_keys + 1, 0)
            self._keys.write(block.core, np.concatenate([[0], keys]).astype(np.uint64)[labels[inner]])
            # and what its own cells have beyond its core is kept until the end
            labels[inner] = 0
            beyond = np.flatnonzero(np.concatenate([[False], cells.kept])[labels])
            places = np.stack(np.unravel_index(beyond, labels.shape), 1) + np.array(region_origin(cells.trusted.read))
            self._beyond.append((places, (cells.maxima_keys[labels.reshape(-1)[beyond] - 1] + 1).astype(np.uint64)))

    def finish(self, keys: NDArray[np.int64]) -> None:
        """Write the labels: the number of each row of the table, counted from 1, given the keys of the rows."""
        if self._keys is None:
            return
        order = np.argsort(keys)
        known = np.concatenate([[0], keys[order] + 1]).astype(np.uint64)
        rows = np.concatenate([[0], order + 1]).astype(np.uint32)
        places = np.concatenate([np.empty((0, 3), np.int64), *(p for p, _ in self._beyond)])
        theirs = np.concatenate([np.empty(0, np.uint64), *(k for _, k in self._beyond)])
        for block in self._plan.blocks:
            found = self._keys.read(block.core)
            inside = inside_region(places, block.core)
            found[tuple((places[inside] - np.array(region_origin(block.core))).T)] = theirs[inside]
            place = np.minimum(np.searchsorted(known, found), known.size - 1)
            # a key without a row belongs to a cell that was dropped: no label
            self._sinks["shape_detection"].write(block.core, np.where(known[place] == found, rows[place], np.uint32(0)))

    def _create(self, path: str, dtype: np.dtype[Any]) -> Sink:
        return create_sink(
            path,
            self._volume.shape,
            dtype,
            self._plan.core,
            overwrite=self._overwrite,
            voxel_size=self._volume.voxel_size,
        )

    def _discard(self) -> None:
        for sink in (*self._sinks.values(), *([self._keys] if self._keys is not None else [])):
            sink.discard()
