"""What an earlier run has left in a folder, and whether this one may go on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cytolith.axes import Shape
from cytolith.cells.config import CellsConfig
from cytolith.cells.reader import Reader
from cytolith.cells.results import Tally, tally_of
from cytolith.engine.checkpoint import Checkpoints, run_digest
from cytolith.engine.grid import Block
from cytolith.engine.identity import first_difference
from cytolith.engine.version import code_version
from cytolith.errors import OutputError
from cytolith.io.record import RecordError, read_record, write_record
from cytolith.io.stamps import Stamps, changed_planes, stamp_files
from cytolith.io.volume import Volume

BLOCKS = "blocks"
"""Folder of the results of finished blocks, inside the run folder; it goes when the run is finished."""
_STAMPS = "input.stamps"
_CARRIED = ("noise", "closing", "failed")


@dataclass(frozen=True)
class Earlier:
    """An unfinished run of the same input and parameters."""

    core: Shape
    carried: dict[str, Any]
    """What its record says about the work done, for that of the run that goes on."""

    @property
    def noise(self) -> float | None:
        """Noise of the volume; None when no threshold is a multiple of it, or it was not known yet."""
        noise: float | None = self.carried.get("noise")
        return noise

    @property
    def closing(self) -> bool:
        """Whether all blocks were done and the results were being put in place."""
        return bool(self.carried.get("closing"))

    @property
    def failed(self) -> list[tuple[int, int]]:
        """First plane, and the one after the last, that each block read that failed."""
        return [(first, last) for first, last in (each["planes"] for each in self.carried.get("failed", []))]


def identity_of(volume: Volume, config: CellsConfig, selection: Mapping[str, Any]) -> dict[str, Any]:
    """All that the result of a run depends on, but for the voxels."""
    return {
        "version": code_version(),
        "input": {
            "path": str(Path(volume.name).resolve()) if Path(volume.name).exists() else volume.name,
            "shape": list(volume.shape),
            "dtype": str(volume.dtype),
            "voxel_size_um": None if volume.voxel_size is None else list(volume.voxel_size),
            **{name: value for name, value in selection.items() if value is not None},
        },
        "config": config.model_dump(mode="json"),
    }


def find_earlier(folder: Path, identity: Mapping[str, Any], *, overwrite: bool) -> Earlier | None:
    """The unfinished run of a folder when it is this one; None when there is nothing to go on with.

    Raises
    ------
    OutputError
        It is another one, has finished blocks, and `overwrite` is not set; names the first difference.
    """
    record = read_run(folder)
    if record is None or record.get("state") == "finished" or not any((folder / BLOCKS).glob("*.block")):
        return None
    if record.get("identity") == identity:
        try:
            z, y, x = (int(extent) for extent in record["plan"]["core"])
            carried: dict[str, Any] = {name: record[name] for name in _CARRIED if name in record}
            return Earlier((z, y, x), carried)
        except (KeyError, TypeError, ValueError):
            pass
    elif not overwrite:
        raise OutputError(
            f"{folder}: holds an unfinished run of something else: {_difference(record.get('identity'), identity)}; "
            "give what it was begun with to go on with it, another folder, or --overwrite to begin anew"
        )
    return None


def is_finished(folder: Path, identity: Mapping[str, Any], *, unasked: bool) -> bool:
    """Whether a folder holds the finished result of this run.

    With `unasked`, only when the run ended before it had tidied up: to its user it is one that was killed.
    """
    record = read_run(folder)
    same = record is not None and record.get("state") == "finished" and record.get("identity") == identity
    return same and (unasked is False or (folder / BLOCKS).exists())


def read_run(folder: Path) -> dict[str, Any] | None:
    """What ``run.json`` of a folder says; None when there is none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    """The first difference of two identities in words."""
    if not isinstance(before, Mapping) or "version" not in before:
        return "it is of an older version of cytolith"
    if before["version"] != now["version"]:
        return f"it is of cytolith {before['version']}, and this is {now['version']}"
    difference = first_difference(now, before)
    if difference is None:
        return "its record is damaged"
    name, here, there = difference
    return f"{name.removeprefix('config.')} is {here}, and there {there}"


@dataclass
class Progress:
    """What of a run is on disk."""

    checkpoints: Checkpoints
    finished: dict[int, Tally] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is wrong with files that were there, in words."""


def open_progress(
    folder: Path,
    identity: Mapping[str, Any],
    core: Shape,
    blocks: list[Block],
    reader: Reader,
    earlier: Earlier | None,
) -> Progress:
    """Finished blocks of a run, checked; the folder for the others, made.

    Parameters
    ----------
    folder
        Run folder, locked.
    identity
        From :func:`identity_of`.
    core
        Extent of the cores of the blocks.
    blocks
        All blocks of the plan.
    reader
        What is read; files that finished blocks have read must be as they were.
    earlier
        The unfinished run to go on with; None: what is there is removed.

    Raises
    ------
    OutputError
        A file that finished blocks have read has changed; names it.
    """
    checkpoints = Checkpoints(folder / BLOCKS, run_digest({**identity, "core": list(core)}))
    progress = Progress(checkpoints)
    stamps = input_stamps(reader)
    if earlier is not None:
        found, progress.notes = checkpoints.finished(block.index for block in blocks)
        progress.finished = {index: tally_of(info) for index, info in found.items()}
        _look_at_changed(progress, stamps, earlier.failed)
    else:
        checkpoints.remove()
    checkpoints.folder.mkdir(parents=True, exist_ok=True)
    if stamps is not None:
        write_record(checkpoints.folder / _STAMPS, stamps.to_arrays(), {})
    return progress


def _look_at_changed(progress: Progress, now: Stamps | None, failed: Sequence[tuple[int, int]]) -> None:
    """Take back blocks that have read a file which was replaced as it made others fail; refuse other changes."""
    if now is None or not progress.finished:
        return
    try:
        before = Stamps.from_arrays(read_record(progress.checkpoints.folder / _STAMPS).arrays)
    except RecordError as error:
        raise OutputError(f"{error}: what the run has read cannot be told; --overwrite begins anew") from None
    for name, first, last in changed_planes(before, now):
        read = [
            index for index, tally in progress.finished.items() if first < tally.planes[1] and tally.planes[0] < last
        ]
        if read and not any(first < stop and start < last for start, stop in failed):
            raise OutputError(
                f"{name} has changed since finished blocks of this run were read from it: put it back, or --overwrite "
                "to begin anew"
            )
        if read:
            progress.notes.append(f"{name} was replaced: {len(read)} finished blocks that read it too are done again")
        for index in read:
            del progress.finished[index]
            progress.checkpoints.path(index).unlink(missing_ok=True)


def input_stamps(reader: Reader) -> Stamps | None:
    """Stamps of all files that a run reads; None for arrays in memory."""
    stamps = reader.volume.stamps()
    if stamps is None:
        return None
    planes = reader.volume.shape[0]
    others: list[Stamps | None] = [stamp_files((path, 0, planes) for path in reader.side_files)]
    others += [reader.mask.stamps()] if reader.mask is not None else []
    return join_stamps([each for each in (stamps, *others) if each is not None])


def join_stamps(parts: Sequence[Stamps]) -> Stamps:
    """Stamps of all files of several volumes."""
    numbers = (np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "times", "first", "last"))
    return Stamps([name for part in parts for name in part.names], *numbers)
