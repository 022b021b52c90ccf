"""Results of steps that are saved for a look at them: float64 ``.npy`` files (x, y, z) as large as the source."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape
from cytolith.cells.block import BlockCells
from cytolith.cells.config import CellsConfig
from cytolith.cells.owners import Voxels
from cytolith.cells.saves import Saves
from cytolith.engine.grid import Plan
from cytolith.errors import ConfigError, OutputError
from cytolith.io.files import output_error, same_place
from cytolith.io.flat_sink import NpySink
from cytolith.io.sink import Sink, check_place
from cytolith.io.volume import Volume


class ClearMapSaves(Saves):
    """Files of all steps that save, also of those that pass their input on; of maxima, those without a row too."""

    def __init__(
        self,
        config: CellsConfig,
        volume: Volume,
        plan: Plan,
        *,
        paths: dict[str, Path],
        check: Callable[[], None],
        overwrite: bool,
    ) -> None:
        """Files at these paths, by the name of the step; `check` is called before they are put in place."""
        super().__init__(config, volume, plan, overwrite=overwrite)
        self._check = check
        self._paths = {step: str(path) for step, path in paths.items()}
        self._dtypes = dict.fromkeys(paths, np.dtype(np.float64))

    def finish(
        self, keys: NDArray[np.int64], is_truncated: NDArray[np.bool_], apart: Iterable[dict[str, Voxels]]
    ) -> None:
        """As of any saves, and the last moment at which the run can be cancelled."""
        super().finish(keys, is_truncated, apart)
        self._check()

    def _create(self, path: str, dtype: np.dtype[Any]) -> Sink:
        at = check_place(path, overwrite=True)
        try:
            at.parent.mkdir(parents=True, exist_ok=True)
            return _XyzSink(at, self._volume.shape, dtype, self._plan.core, None)
        except OSError as error:
            raise output_error(at, error) from error

    def _marked(self, cells: BlockCells) -> NDArray[np.bool_]:
        assert cells.maxima is not None
        return np.ones(len(cells.maxima), np.bool_)


class _XyzSink(NpySink):
    """A ``.npy`` file (x, y, z) in Fortran order: it has the bytes of (z, y, x) in C order."""

    def _partial_ending(self) -> str:
        return f".{secrets.token_hex(4)}.partial"  # another run may write to the same place; the last one stays

    def write(self, region: Region, array: NDArray[Any]) -> None:
        for n in range(len(array)):  # a plane at a time: float64 may be eight times what there is
            z = region[0].start + n
            super().write((slice(z, z + 1), *region[1:]), array[n : n + 1].astype(self.dtype, copy=False))

    def _header(self) -> bytes:
        file = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": True, "shape": self.shape[::-1]}
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue()


def check_places(paths: dict[str, Path], sink: Path | None, reads: list[Path], volume: Shape) -> None:
    """Refuse to write where something else is, before any work.

    Parameters
    ----------
    paths
        What is saved, by the name of the step.
    sink
        Where the table is written.
    reads
        What is read.
    volume
        Extent (z, y, x).

    Raises
    ------
    ConfigError, OutputError
        A path is that of something else; a file that is no array of this extent is in the place of a save.
    """
    used = {_place(path): "what is read" for path in reads}

    def taken(path: Path) -> str | None:
        place = _place(path)
        return next((what for each, what in used.items() if each == place or same_place(each, place)), None)

    if sink is not None:
        if taken(sink):
            raise ConfigError(f"sink {sink} is what is read; give another path")
        used[_place(sink)] = "the sink"
    for step, path in paths.items():
        if taken(path):
            raise ConfigError(f"{step}: save {path} is {taken(path)}; give another path")
        used[_place(path)] = f"what {step} saves"
        if not check_place(path, overwrite=True).exists():
            continue
        try:
            shape = np.lib.format.open_memmap(path, mode="r").shape
        except (OSError, ValueError):
            shape = ()
        if shape != volume[::-1]:
            what = f"an array of shape {shape}" if shape else "something else"
            raise OutputError(
                f"{path} holds {what}, not one of {volume[::-1]} (x, y, z); delete it or give another path"
            )


def _place(path: Path) -> Path:
    return path.expanduser().resolve()
