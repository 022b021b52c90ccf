"""Results of finished blocks on disk, one file each, so that a run that died goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cytolith.io.record import Record, RecordError, read_record, write_record


def run_digest(identity: Mapping[str, Any]) -> str:
    """Name of a run: the same for the same input, parameters, code and cut of the volume."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Checkpoints:
    """A folder with the results of the finished blocks of one run; it travels to workers as its path.

    A result is written by the worker that has it: aside, flushed, renamed. So each file is whole or not there, and
    nobody writes another's.
    """

    folder: Path
    run: str
    """From :func:`run_digest`; results of another run are no results."""

    def path(self, index: int) -> Path:
        """File of a block's result."""
        return self.folder / f"{index:07d}.block"

    def save(self, index: int, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Keep the result of a block.

        Raises
        ------
        OutputError
            It cannot be written; says so when the disk is full.
        """
        write_record(self.path(index), arrays, {**info, "run": self.run, "block": index})

    def load(self, index: int) -> Record:
        """Result of a block.

        Raises
        ------
        RecordError
            It is not there, not whole, changed, or of another run; names the file.
        """
        path = self.path(index)
        record = read_record(path)
        if record.info.get("run") != self.run or record.info.get("block") != index:
            raise RecordError(f"{path}: is not the result of block {index} of this run")
        return record

    def finished(self, indices: Iterable[int]) -> tuple[dict[int, dict[str, Any]], list[str]]:
        """Which of these blocks have a result, and what is wrong with files that are none.

        A file that is not whole, was changed or is of another run is removed, so that its block is done again.

        Returns
        -------
        finished : dict of int to dict
            What was noted beside the arrays of each result.
        complaints : list of str
            One line for each file that was removed.
        """
        found: dict[int, dict[str, Any]] = {}
        complaints = []
        there = {path.name for path in self.folder.glob("*.block")}
        for index in indices:
            if self.path(index).name not in there:
                continue
            try:
                found[index] = self.load(index).info
            except RecordError as error:
                complaints.append(f"{error}; its block is done again")
                self.path(index).unlink(missing_ok=True)
        return found, complaints

    def remove(self) -> None:
        """Remove all results."""
        shutil.rmtree(self.folder, ignore_errors=True)
