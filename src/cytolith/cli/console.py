"""What a run shows on the terminal: a listener of the engine's events; a bar on a terminal, lines elsewhere."""

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cytolith.axes import region_shape
from cytolith.engine.events import BlockDone, Event, Failed, Finished, Planned, Retried, Stalled
from cytolith.kernels.jit import NO_CACHE, compiled_before, keeps_compiled
from cytolith.quantities import format_bytes, format_rate

_SECONDS_BETWEEN = 2.0
"""Lines of progress, where there is no bar, are at least this far apart."""

_MOST_LINES = 20
"""Lines about blocks that went wrong, on the terminal."""


class Console:
    """Progress with rate and time left on stderr, notes after it; a context that leaves the terminal clean."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._err,
            transient=True,
        )
        self._lines_from = 0.1
        self._quiet_until = _SECONDS_BETWEEN
        self._done = self._total = 0
        self._name = ""
        self._told = False
        self._said = 0
        self._begin = 0.0
        self._started = time.monotonic()
        if not quiet and not compiled_before():
            later = "later runs start at once" if keeps_compiled() else f"every time, as {NO_CACHE}"
            self._err.print(f"First run on this machine: compiling the kernels takes about a minute; {later}.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show an event of the engine."""
        if self._quiet:
            return
        if isinstance(event, Planned):
            self._planned(event)
        elif isinstance(event, BlockDone):
            self._advance(math.prod(region_shape(event.block.core)))
        elif isinstance(event, Finished):
            self._stop()
        elif isinstance(event, (Retried, Failed)):
            again = "; it will be tried again" if isinstance(event, Retried) else ""
            self._say(f"Block {event.block.index}: {event.message}{again}")
        elif isinstance(event, Stalled):
            self._say("There are no workers; waiting for some")

    def _planned(self, event: Planned) -> None:
        plan = event.plan
        todo = plan.blocks if event.todo is None else event.todo
        self._total = sum(math.prod(region_shape(block.core)) for block in todo)
        self._begin = time.monotonic()
        self._done, self._lines_from, self._quiet_until, self._name = 0, 0.1, _SECONDS_BETWEEN, event.name
        if not self._told:
            self._told = True
            self._err.print(
                f"{self._total / 1e6:,.1f} Mvoxel in {len(todo)} block{'' if len(todo) == 1 else 's'} "
                f"of {' x '.join(map(str, plan.core))}, {plan.workers} at a time, {format_bytes(plan.bytes_total)} of "
                "memory"
            )
        if self._err.is_terminal:
            self._bar.start()
            for task in self._bar.task_ids:  # of the pass before
                self._bar.remove_task(task)
            self._task = self._bar.add_task(event.name, total=self._total, rate="")

    def _advance(self, voxels: int) -> None:
        self._done += voxels
        elapsed = max(time.monotonic() - self._begin, 1e-6)
        rate = format_rate(self._done / elapsed)
        if self._err.is_terminal:
            self._bar.update(self._task, completed=self._done, rate=rate)
            return
        share = self._done / max(self._total, 1)
        if share >= self._lines_from and share < 1 and elapsed >= self._quiet_until:
            left = elapsed / share - elapsed
            self._err.print(f"{self._name} {100 * share:3.0f} %  {rate}  {left:,.0f} s left")
            self._lines_from = math.floor(share * 10 + 1) / 10
            self._quiet_until = elapsed + _SECONDS_BETWEEN

    def _say(self, text: str) -> None:
        self._said += 1
        if self._said <= _MOST_LINES:
            self._err.print(text)
        elif self._said == _MOST_LINES + 1:
            self._err.print("... more such lines are in the log")

    @property
    def seconds(self) -> float:
        """Time since the command began to work."""
        return time.monotonic() - self._started

    @property
    def voxels(self) -> int:
        """Voxels of the volume, known once a run is planned."""
        return self._total

    def notes(self, hints: Sequence[str]) -> None:
        """Print what should be known about an input or a result."""
        if not self._quiet:
            for hint in hints:
                self._err.print(f"Note: {hint}" + ("" if hint.endswith("?") else "."))
