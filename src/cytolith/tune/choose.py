"""Which parameters are believed: gains over the start that are more than luck of the annotation.

F1 of many parameters on the same few cells is a race that luck wins. Every gain over the start is therefore counted
less what it may be by luck: so many times its standard error over blocks of the annotated space (linearization of a
ratio, blocks as clusters), and a little for each octave that a threshold moves. The threshold is one parameter and
needs little; the others are the best of hundreds and need what Bonferroni's rule asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

STEPS_AN_OCTAVE = 16
OCTAVES = 1.5
EXPONENTS = np.arange(-int(OCTAVES * STEPS_AN_OCTAVE), int(OCTAVES * STEPS_AN_OCTAVE) + 1) / STEPS_AN_OCTAVE
"""Thresholds that are looked at, in octaves around that of the start."""
START = int(OCTAVES * STEPS_AN_OCTAVE)
"""Index of the threshold of the start."""
FEWEST = 30
"""With fewer annotated cells nothing is changed."""
FEWEST_FOR_STEPS = 100
"""With fewer annotated cells only the threshold is tuned."""
_THRESHOLD_ERRORS = 0.5
"""Standard errors that a gain of a threshold is worth less by."""
_LUCK = 0.01
"""Chance that the best of many choices of the other parameters, all no better than the start, is believed."""
_OCTAVE = 0.2
"""F1 that a threshold an octave away is worth less by."""


@dataclass(frozen=True, eq=False)
class Counts:
    """What parameters find and miss in each block, at each threshold.

    Attributes
    ----------
    pairs, false_alarms : int32 (blocks, thresholds)
        Annotated cells that are found, and detections that are none, in each block.
    annotations : int32 (blocks,)
        Annotated cells of each block.
    valid : bool (thresholds,)
        Thresholds for which all detections are known.
    """

    pairs: NDArray[np.int32]
    false_alarms: NDArray[np.int32]
    annotations: NDArray[np.int32]
    valid: NDArray[np.bool_]

    def f1(self, blocks: NDArray[np.bool_], threshold: int) -> float:
        """F1 over some blocks at a threshold; 1 where there is nothing."""
        pairs, alarms, cells = self.numbers(blocks, threshold)
        return f1_of(pairs, alarms, cells)

    def numbers(self, blocks: NDArray[np.bool_], threshold: int) -> tuple[int, int, int]:
        """Pairs, false alarms and annotated cells over some blocks at a threshold."""
        pairs, alarms = self.pairs[blocks, threshold].sum(), self.false_alarms[blocks, threshold].sum()
        return int(pairs), int(alarms), int(self.annotations[blocks].sum())


def f1_of(pairs: int, false_alarms: int, annotations: int) -> float:
    """F1 of so many pairs, detections without an annotation, and annotated cells; 1 where there is nothing."""
    whole = pairs + false_alarms + annotations
    return 2 * pairs / whole if whole else 1.0


def sure_gains(counts: Counts, start: Counts, blocks: NDArray[np.bool_], *, among: int) -> NDArray[np.float64]:
    """Gain in F1 over the start at each threshold, less what it may be by luck; minus infinity where unknown.

    Parameters
    ----------
    counts, start
        Of the parameters and of the start.
    blocks
        Blocks that are looked at, bool.
    among
        How many choices of other parameters than the threshold there are to choose from; 0 where only the threshold
        differs from the start.
    """
    errors = _THRESHOLD_ERRORS if among == 0 else NormalDist().inv_cdf(1 - _LUCK / among)
    f1, influence = _f1(counts, blocks)
    f1_start, influence_start = _f1(start, blocks)
    error = np.sqrt(((influence - influence_start[:, START, None]) ** 2).sum(0))
    lucky = errors * error + _OCTAVE * EXPONENTS**2
    gains: NDArray[np.float64] = np.where(counts.valid, f1 - f1_start[START] - lucky, -np.inf)
    return gains


def choose(pool: Sequence[tuple[Counts, bool]], start: Counts, blocks: NDArray[np.bool_]) -> tuple[int, int]:
    """Index in the pool and of the threshold that gain most for sure on these blocks; (0, START) when none does.

    The pool has counts of parameters and whether only the threshold differs from the start; its first entry is the
    start.
    """
    best, where = 1e-9, (0, START)
    cells = int(start.annotations[blocks].sum())
    if cells < FEWEST:
        return where
    among = sum(not same_steps for _, same_steps in pool)
    for index, (counts, same_steps) in enumerate(pool):
        if not same_steps and cells < FEWEST_FOR_STEPS:
            continue
        gains = sure_gains(counts, start, blocks, among=0 if same_steps else among)
        at = int(gains.argmax())
        if gains[at] > best:
            best, where = float(gains[at]), (index, at)
    return where


def _f1(counts: Counts, blocks: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F1 at each threshold, and by how much each block moves it."""
    pairs = counts.pairs[blocks].astype(np.float64)
    whole = pairs + counts.false_alarms[blocks] + counts.annotations[blocks, None]
    total = np.maximum(whole.sum(0), 1)
    f1 = 2 * pairs.sum(0) / total
    return f1, (2 * pairs - f1 * whole) / total
