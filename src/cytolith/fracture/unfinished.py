"""What a run that died has left in its scratch folder, and whether this one may go on with it.

::

    .cytolith-fracture/
        run.json          what the run is: code, input, parameters; how the volume is cut
        input.stamps      the files that it reads, as they were
        pass1/, pass2/    results of finished blocks
        stack.tif.partial and the like: results in progress
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cytolith.engine.checkpoint import Checkpoints, run_digest
from cytolith.engine.grid import Block
from cytolith.engine.version import code_version
from cytolith.errors import OutputError
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.passes import Kept
from cytolith.fracture.plan import Cut
from cytolith.io.files import one_spelling, write_text
from cytolith.io.record import RecordError, read_record, write_record
from cytolith.io.remote import is_url
from cytolith.io.stamps import Stamps, changed_planes
from cytolith.io.volume import Volume

log = logging.getLogger(__name__)

_RUN, _STAMPS, _PASSES = "run.json", "input.stamps", ("pass1", "pass2")


def identity_of(
    volume: Volume, source: str | Path, config: FractureConfig, chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the results of a run depend on, but for the voxels, in words that its user knows."""
    parameters = asdict(config)
    parameters |= parameters.pop("offsets")
    identity = {
        "cytolith": code_version(),
        "input": str(source) if is_url(str(source)) else one_spelling(source),
        **chosen,
        "shape": volume.shape,
        "dtype": str(volume.dtype),
        "voxel_size": volume.voxel_size,
        **parameters,
    }
    as_kept: dict[str, Any] = json.loads(json.dumps(identity, default=_plain))
    return as_kept


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    return value.item() if hasattr(value, "item") else str(value)


@dataclass(frozen=True)
class Unfinished:
    """A run that was begun in a folder and has finished blocks."""

    identity: dict[str, Any]
    cut: Cut
    boot: str
    """Which start of which machine it ran in."""


def read_unfinished(scratch: Path) -> Unfinished | None:
    """The run that a scratch folder is of; None when it has no finished block, or cannot be gone on with."""
    if not has_blocks(scratch):
        return None
    try:
        record = json.loads((scratch / _RUN).read_text(encoding="utf-8"))
        return Unfinished(dict(record["identity"]), Cut(**record["cut"]), str(record["boot"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def has_blocks(scratch: Path) -> bool:
    """Whether a block is finished there."""
    return any((scratch / _PASSES[0]).glob("*.block"))


def refuse_changed(scratch: Path, unfinished: Unfinished, now: Stamps) -> None:
    """Refuse to go on when a file has changed that finished blocks have read; others may be mended.

    Raises
    ------
    OutputError
        Names the file.
    """
    try:
        before = Stamps.from_arrays(read_record(scratch / _STAMPS).arrays)
    except RecordError as error:
        raise OutputError(f"{error}: whether the input has changed cannot be told; -f (--force) begins anew") from None
    planes = unfinished.cut.block_planes
    read = {int(path.stem) for path in (scratch / _PASSES[0]).glob("*.block") if path.stem.isdigit()}
    for name, first, last in changed_planes(before, now):
        if any(index in read for index in range(first // planes, -(-last // planes))):
            raise OutputError(
                f"{name} has changed since the unfinished run has read it: put it back, or -f (--force) to begin anew"
            )


def tidy(scratch: Path, keep: Iterable[Path]) -> None:
    """Remove what a run that died has left half-made; `keep`: results in progress."""
    kept = {_RUN, _STAMPS, *_PASSES, *(path.name for path in keep)}
    for path in scratch.iterdir():
        if path.name not in kept:
            remove(path)


def begin(scratch: Path, identity: Mapping[str, Any], cut: Cut, stamps: Stamps) -> None:
    """Say what run the scratch folder is of, anew when one goes on: files that it has not read may have changed."""
    write_record(scratch / _STAMPS, stamps.to_arrays(), {})
    record = {"identity": identity, "cut": asdict(cut), "boot": boot()}
    write_text(scratch / _RUN, json.dumps(record, indent=2) + "\n")
    for name in _PASSES:
        (scratch / name).mkdir(exist_ok=True)


def forget(scratch: Path) -> None:
    """Make the scratch folder that of no run: the first step of its removal."""
    (scratch / _RUN).unlink(missing_ok=True)


def open_kept(
    scratch: Path, identity: Mapping[str, Any], cut: Cut, blocks: Iterable[Block], *, stacks_are_there: bool
) -> Kept:
    """Finished blocks, each verified; damaged ones are removed and said in the log.

    Parameters
    ----------
    stacks_are_there
        Whether what finished blocks of the second pass have painted is still there; otherwise they are done again.
    """
    run = run_digest({**identity, **asdict(cut)})
    found, applied = (Checkpoints((scratch / name).absolute(), run) for name in _PASSES)  # a worker may be elsewhere
    if not stacks_are_there:
        for path in applied.folder.glob("*.block"):
            path.unlink()
    indices = [block.index for block in blocks]
    finished = []
    for checkpoints in (found, applied):
        done, complaints = checkpoints.finished(indices)
        finished.append(frozenset(done))
        for complaint in complaints:
            log.warning("%s", complaint)
    if finished[0]:
        log.info(
            "going on with an unfinished run: %d of %d blocks have been read, and results made of %d",
            len(finished[0]),
            len(indices),
            len(finished[1]),
        )
    return Kept(found, applied, (finished[0], finished[1]))


def boot() -> str:
    """Which start of which machine this is.

    What was painted reaches the disk when the system sees fit. That is as good as written when a process dies, but not
    when a machine does.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
