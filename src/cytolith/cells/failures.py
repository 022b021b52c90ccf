"""What a run says about blocks that failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cytolith.engine.grid import Block
from cytolith.engine.run import BlocksFailedError, FailedBlock, planes_text

_LISTED = 10
"""Reasons, and blocks of each, that the error lists; ``run.json`` has all."""


class RunFailedError(BlocksFailedError):
    """Blocks of a run failed, and the others are kept; a line for each reason."""

    def __init__(self, error: BlocksFailedError, total: int, output: Path) -> None:
        super().__init__(error.failed, total)
        lines = _reasons(self.failed)
        more = [f"... and {len(lines) - _LISTED} more, see {output / 'run.json'}"] if len(lines) > _LISTED else []
        head = (
            f"{len(self.failed)} of {total} blocks failed; what the others found is kept in {output}: mend this and "
            "give the same command again"
        )
        self.args = ("\n  ".join([head, *lines[:_LISTED], *more]),)


def _reasons(failed: Sequence[FailedBlock]) -> list[str]:
    """What went wrong, each with its blocks and the planes that they read."""
    reasons: dict[str, list[Block]] = {}
    for each in failed:
        reasons.setdefault(each.failure.message, []).append(each.block)
    lines = []
    for message, blocks in reasons.items():
        first, last = min(b.read[0].start for b in blocks), max(b.read[0].stop for b in blocks)
        numbers = ", ".join(str(block.index) for block in blocks[:_LISTED]) + (", ..." if len(blocks) > _LISTED else "")
        plural = "s" if len(blocks) > 1 else ""
        lines.append(f"block{plural} {numbers}, {planes_text((slice(first, last), *blocks[0].read[1:]))}: {message}")
    return lines


def describe(failed: FailedBlock) -> dict[str, Any]:
    """A failed block as the record of a run keeps it."""
    core, read = failed.block.core, failed.block.read
    return {
        "block": failed.block.index,
        "core": [[part.start, part.stop] for part in core],
        "planes": [read[0].start, read[0].stop],
        "error": failed.failure.message,
    }
