"""Results of steps written to volumes while a run goes on, so that a person can look at what the pipeline did."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import region_shape
from cytolith.cells.block import BlockCells
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
            marks.reshape(-1)[cells.maxima.voxels] = 1
            self._sinks["maxima_detection"].write(block.core, np.ascontiguousarray(marks[inner]))
        if self._keys is not None and cells.shapes is not None:
            labels = cells.shapes.to_dense()[inner]
            keys = np.concatenate([[0], cells.maxima_keys + 1]).astype(np.uint64)
            self._keys.write(block.core, keys[labels])

    def finish(self, keys: NDArray[np.int64]) -> None:
        """Write the labels: the number of each row of the table, counted from 1, given the keys of the rows."""
        if self._keys is None:
            return
        order = np.argsort(keys)
        known = np.concatenate([[0], keys[order] + 1]).astype(np.uint64)
        rows = np.concatenate([[0], order + 1]).astype(np.uint32)
        for block in self._plan.blocks:
            found = self._keys.read(block.core)
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
