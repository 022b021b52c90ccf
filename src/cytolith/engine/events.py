"""What a run tells its listeners: the console, the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cytolith.engine.grid import Block, Plan


@dataclass(frozen=True)
class Planned:
    """A run, or a pass of it, begins."""

    plan: Plan
    name: str = ""
    """What is done, in a word."""
    todo: Sequence[Block] | None = None
    """Blocks that are still to be done, where some were finished by an earlier run; None: all of the plan."""


@dataclass(frozen=True)
class BlockStarted:
    """A block is given to a worker."""

    block: Block


@dataclass(frozen=True)
class BlockDone:
    """A block is finished."""

    block: Block
    seconds: float


@dataclass(frozen=True)
class Retried:
    """A block went wrong and will be tried again."""

    block: Block
    message: str


@dataclass(frozen=True)
class Failed:
    """A block went wrong for good."""

    block: Block
    message: str


@dataclass(frozen=True)
class Widened:
    """A block was read again with more around it, so many times."""

    block: Block
    count: int


@dataclass(frozen=True)
class Stalled:
    """There are no workers; the run waits for some."""

    seconds: float


@dataclass(frozen=True)
class Finished:
    """All blocks are finished."""

    seconds: float


Event: TypeAlias = "Planned | BlockStarted | BlockDone | Retried | Failed | Widened | Stalled | Finished"
Listener: TypeAlias = Callable[[Event], None]
