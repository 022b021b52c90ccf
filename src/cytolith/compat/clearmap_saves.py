"""Results of steps that are saved for a look at them: float64 ``.npy`` files (x, y, z) as large as the source."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_origin, region_shape
from cytolith.compat.clearmap_shapes import Found
from cytolith.engine.grid import Block
from cytolith.errors import ConfigError, OutputError
from cytolith.io.flat_sink import NpySink
from cytolith.io.sink import check_place

_PLANES = 16
"""Planes of labels that are numbered at a time."""


class Saves:
    """Files of all steps that save, as a context: they appear when it is left well, and nothing appears otherwise.

    Labels are written in two passes, as a label is the row of its cell in the sorted table, which is known only at the
    end: first keys of cells, then rows. A block writes the cells that it owns, wherever their voxels lie.
    """

    def __init__(self, paths: dict[str, Path], volume: Shape, taken: list[Path]) -> None:
        """Files at these paths by the name of the step; none may be one that is `taken`."""
        self._volume = volume
        self._paths: dict[str, Path] = {}
        used = {path.resolve(): "the source or the sink" for path in taken}
        for step, path in paths.items():
            if path.resolve() in used:
                raise ConfigError(f"{step}: save {path} is {used[path.resolve()]}; give another path")
            used[path.resolve()] = f"what {step} saves"
            self._paths[step] = check_place(path, overwrite=True)
            _refuse_other_shape(path, volume)
        self._sinks: dict[str, _XyzSink] = {}
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        try:
            for step, path in self._paths.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._sinks[step] = _XyzSink(path, self._volume, np.dtype(np.float64), self._volume, None)
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

    def write_images(self, block: Block, images: dict[str, NDArray[Any]]) -> None:
        """Write what the core of a block has of each image."""
        for step, sink in self._sinks.items():
            if step in images:
                sink.write(block.core, images[step][block.inner].astype(np.float64))

    def write_marks(self, block: Block, marks: NDArray[np.int64]) -> None:
        """Write the maxima in the core of a block, given as flat indices into its read region."""
        if "maxima_detection" in self._sinks:
            mask = np.zeros(region_shape(block.read))
            mask.reshape(-1)[marks] = 1
            self._sinks["maxima_detection"].write(block.core, np.ascontiguousarray(mask[block.inner]))

    def write_cells(self, region: Region, found: Found) -> None:
        """Write the keys of the settled cells that were found in a region, beside what is there."""
        sink = self._sinks.get("shape_detection")
        rows = found.rows
        chosen = ~rows.open
        if sink is None or found.shapes is None or not chosen.any():
            return
        low, high = rows.boxes[chosen, :3].min(0), rows.boxes[chosen, 3:].max(0)
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        origin = region_origin(region)
        part = tuple(slice(b.start - o, b.stop - o) for b, o in zip(box, origin, strict=True))
        keys = found.keys_of_voxels(chosen)[part]
        with self._turn:  # boxes of different blocks overlap, cells do not
            sink.write(box, np.where(keys > 0, keys, sink.read(box)))

    def finish(self, keys: NDArray[np.int64]) -> None:
        """Turn keys into labels: the row of each cell in the table, counted from 1."""
        sink = self._sinks.get("shape_detection")
        if sink is None:
            return
        order = np.argsort(keys)
        known, label = np.concatenate([[0], keys[order] + 1]), np.concatenate([[0], order + 1]).astype(np.float64)
        depth, height, width = self._volume
        for z in range(0, depth, _PLANES):
            region = slice(z, min(z + _PLANES, depth)), slice(0, height), slice(0, width)
            sink.write(region, label[np.searchsorted(known, sink.read(region))])

    def _discard(self) -> None:
        for sink in self._sinks.values():
            sink.discard()


class _XyzSink(NpySink):
    """A ``.npy`` file (x, y, z) in Fortran order: it has the bytes of (z, y, x) in C order."""

    def _header(self) -> bytes:
        file = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": True, "shape": self.shape[::-1]}
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue()


def _refuse_other_shape(path: Path, volume: Shape) -> None:
    """Refuse to replace a file that holds something else, as the original does."""
    if not path.exists():
        return
    try:
        shape = np.lib.format.open_memmap(path, mode="r").shape
    except (OSError, ValueError):
        shape = ()
    if shape != volume[::-1]:
        what = f"an array of shape {shape}" if shape else "something else"
        raise OutputError(f"{path} holds {what}, not one of {volume[::-1]} (x, y, z); delete it or give another path")
