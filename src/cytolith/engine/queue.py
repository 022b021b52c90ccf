"""Which block a worker gets next: its own stretch of the volume in order, so that it reads little twice."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from cytolith.engine.grid import Block


class BlockQueue:
    """Blocks in as many stretches as there are lanes; a lane that is empty takes half of what the longest has left."""

    def __init__(self, blocks: Sequence[Block], lanes: int) -> None:
        cuts = [len(blocks) * k // lanes for k in range(lanes + 1)]
        self._lanes = [deque(blocks[a:b]) for a, b in itertools.pairwise(cuts)]

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    def take(self, lane: int) -> Block | None:
        """The next block of a lane, or of what it takes over; None when nothing is left."""
        own = self._lanes[lane % len(self._lanes)]
        if not own:
            longest = max(self._lanes, key=len)
            for _ in range((len(longest) + 1) // 2):
                own.appendleft(longest.pop())
        return own.popleft() if own else None

    def take_own(self, lane: int) -> Block | None:
        """The next block of a lane itself; None when its stretch is done."""
        own = self._lanes[lane % len(self._lanes)]
        return own.popleft() if own else None

    def peek(self) -> Block | None:
        """The first block of the first lane, not taken."""
        return self._lanes[0][0] if self._lanes[0] else None
