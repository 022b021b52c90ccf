"""What a conversion that ended early has left beside its output, and whether another may go on with it.

::

    OUT.partial           the output in progress
    OUT.unfinished/
        run.json          what the conversion is: code, input, options; extent of its blocks
        input.stamps      the files that it reads, as they were
        stage0/, ...      which blocks are done
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cytolith.axes import Shape
from cytolith.engine.checkpoint import Checkpoints, run_digest
from cytolith.engine.grid import Block
from cytolith.errors import OutputError
from cytolith.io.files import output_error, write_text
from cytolith.io.record import RecordError, read_record, write_record
from cytolith.io.stamps import Stamps, changed_planes

_RUN, _STAMPS = "run.json", "input.stamps"


@dataclass(frozen=True)
class Unfinished:
    """A conversion that was begun and has finished blocks."""

    identity: dict[str, Any]
    core: Shape
    """Extent of its blocks."""


def record_folder(path: Path) -> Path:
    """Folder with what is known of an unfinished conversion to a path."""
    return path.with_name(f"{path.name}.unfinished")


def has_blocks(folder: Path) -> bool:
    """Whether a block is finished there."""
    return any(folder.glob("stage0/*.block"))


def read_unfinished(folder: Path) -> Unfinished | None:
    """The conversion that a folder is of; None when it has no finished block, or cannot be gone on with."""
    if not has_blocks(folder):
        return None
    try:
        record = json.loads((folder / _RUN).read_text(encoding="utf-8"))
        z, y, x = map(int, record["core"])
        return Unfinished(dict(record["identity"]), (z, y, x))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def as_kept(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it comes back from a file."""
    kept: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return kept


def refuse_changed(folder: Path, blocks: Sequence[Block], first_plane: int, now: Stamps | None) -> None:
    """Refuse to go on when a file has changed that finished blocks have read; others may be mended.

    Parameters
    ----------
    folder
        From :func:`record_folder`.
    blocks
        Blocks of the first stage.
    first_plane
        Plane of the volume that the blocks begin with.
    now
        Of the volume.

    Raises
    ------
    OutputError
        Names the file.
    """
    if now is None:
        return
    try:
        before = Stamps.from_arrays(read_record(folder / _STAMPS).arrays)
    except RecordError as error:
        raise OutputError(f"{error}: whether the input has changed cannot be told; --overwrite begins anew") from None
    changed = changed_planes(before, now)
    if not changed:
        return
    done = {int(file.stem) for file in (folder / "stage0").glob("*.block") if file.stem.isdigit()}
    spans = {(b.core[0].start + first_plane, b.core[0].stop + first_plane) for b in blocks if b.index in done}
    for name, first, last in changed:
        if any(start < last and first < stop for start, stop in spans):
            raise OutputError(
                f"{name} has changed since the unfinished conversion has read it: put it back, or --overwrite to begin "
                "anew"
            )


def begin(folder: Path, identity: Mapping[str, Any], core: Shape, stamps: Stamps | None, stages: int) -> None:
    """Say what conversion the folder is of, anew when one goes on: files that it has not read may have changed."""
    if stamps is not None:
        write_record(folder / _STAMPS, stamps.to_arrays(), {})
    write_text(folder / _RUN, json.dumps({"identity": identity, "core": core}, indent=2) + "\n")
    try:
        for stage in range(stages):
            _stage(folder, stage).mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def checkpoints_of(folder: Path, stage: int, identity: Mapping[str, Any], core: Shape) -> Checkpoints:
    """Where the blocks of a stage are noted that are done."""
    return Checkpoints(_stage(folder, stage).absolute(), run_digest({**identity, "core": core, "stage": stage}))


def _stage(folder: Path, stage: int) -> Path:
    return folder / f"stage{stage}"


def forget(folder: Path) -> None:
    """Remove what is known of a conversion; its lock stays."""
    (folder / _RUN).unlink(missing_ok=True)  # first: without it the rest is nothing
    for each in folder.glob("stage*"):
        shutil.rmtree(each, ignore_errors=True)
    (folder / _STAMPS).unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Remove the folder itself, unless another run is there by now."""
    with suppress(OSError):
        folder.rmdir()
