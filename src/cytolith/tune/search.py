"""The search: choices that optuna proposes, scored at every threshold, one study a fold and one for all.

A study never sees the cells of the fold that it holds out, neither to propose nor to choose. So F1 on the fold is of
cells that nothing was fitted to. What one study had computed the others get for nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import VoxelSize
from cytolith.cells.config import CellsConfig
from cytolith.errors import ConfigError
from cytolith.quantities import Threshold
from cytolith.tune.chain import Chain, grey_level
from cytolith.tune.choose import (
    EXPONENTS,
    FEWEST,
    FEWEST_FOR_STEPS,
    START,
    Counts,
    choose,
    f1_of,
    sure_gains,
)
from cytolith.tune.parts import FOLDS, Parts, cut_parts
from cytolith.tune.space import LADDERS, STRIPES, Choice, Space, start_threshold, with_threshold
from cytolith.tune.sweep import sweep

_FLOOR, _DOG_FLOOR = 8.0, 400.0
"""Maxima are looked for down to the threshold of the start divided by this; a difference of Gaussians is lower."""


@dataclass(frozen=True, eq=False)
class Scored:
    """A choice and what it finds."""

    choice: Choice
    config: CellsConfig
    """Thresholds as in the start."""
    thresholds: tuple[Threshold, ...]
    """Threshold of the maxima for each column of the counts."""
    counts: Counts
    same_steps: bool
    """Whether only the threshold differs from the start, or stripes are taken off."""


@dataclass(frozen=True)
class Trial:
    """What a listener learns of each trial."""

    number: int
    total: int
    choice: Choice
    threshold: Threshold
    """The one with the best F1 for this choice."""
    f1: float
    best_f1: float
    """F1 of what would be chosen now, on all cells."""


@dataclass(frozen=True)
class Numbers:
    """Pairs, detections without an annotation and annotated cells."""

    pairs: int = 0
    false_alarms: int = 0
    annotations: int = 0

    def __add__(self, other: Numbers) -> Numbers:
        return Numbers(
            self.pairs + other.pairs, self.false_alarms + other.false_alarms, self.annotations + other.annotations
        )

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return f1_of(self.pairs, self.false_alarms, self.annotations)

    @property
    def precision(self) -> float:
        """Share of the detections that are right."""
        found = self.pairs + self.false_alarms
        return self.pairs / found if found else float(self.annotations == 0)

    @property
    def recall(self) -> float:
        """Share of the annotated cells that are found."""
        return self.pairs / self.annotations if self.annotations else float(self.false_alarms == 0)


@dataclass(frozen=True, eq=False)
class Tuned:
    """What the search came to."""

    config: CellsConfig
    """The parameters that are recommended: tuned, or those of the start."""
    changed: bool
    """Whether they differ from the start."""
    reason: str
    """Why the start was kept, or empty."""
    choice: Choice
    threshold: Threshold
    start_fitted: Numbers
    fitted: Numbers
    """On all annotated cells, which the tuned parameters were fitted to."""
    start_held_out: Numbers
    held_out: Numbers
    """Over the folds, each scored with parameters fitted to the others."""
    trials: list[Trial] = field(default_factory=list)
    interrupted: bool = False


class Scorer:
    """Scores choices on the annotated cells of some regions, each choice once."""

    def __init__(
        self, chain: Chain, space: Space, truth: NDArray[np.float64], tolerance: float, voxel_size: VoxelSize
    ) -> None:
        self._chain, self._space, self._truth = chain, space, truth
        self._tolerance, self._voxel_size = tolerance, voxel_size
        self.parts: Parts = cut_parts(truth, voxel_size)
        self._blocks = self.parts.of(truth)
        self._scored: dict[CellsConfig | tuple[Any, ...], Scored] = {}
        self._start_threshold, self._level = start_threshold(space.start, chain.noise_of(space.start))
        self.start = self.score(space.start_choice)

    def score(self, choice: Choice) -> Scored:
        """Counts of a choice at every threshold."""
        key = tuple(choice.get(name) for name in self._space.names)
        if key not in self._scored:
            self._scored[key] = self._score(choice)
        return self._scored[key]

    @property
    def scored(self) -> int:
        """Different choices that were scored."""
        return len(self._scored)

    def _score(self, choice: Choice) -> Scored:
        config = self._space.config(choice)
        dog = config.dog_filter is not None and config.dog_filter.shape is not None
        floor = self._level / (_DOG_FLOOR if dog else _FLOOR)
        found = self._chain.candidates(config, Threshold(floor))
        unit = self._start_threshold.unit
        noise = found.noise if unit == "mad" else 1.0
        heights = found.heights
        same_images = self._space.same_images(choice)
        middle = self._start_threshold.value if same_images else self._middle(heights) / max(noise, 1e-30)
        values = [self._start_threshold.value if same_images and e == 0 else _short(middle * 2**e) for e in EXPONENTS]
        thresholds = tuple(Threshold(value, unit) for value in values)
        levels = np.array([grey_level(t, found.noise, found.dtype) for t in thresholds])
        result = sweep(found.positions, heights, self._truth, self._tolerance, self._voxel_size)
        alarms = ~result.paired
        counts = Counts(
            self._count(self._blocks, result.found_at, levels),
            self._count(self.parts.of(found.positions[alarms]), heights[alarms], levels),
            np.bincount(self._blocks, minlength=self.parts.count).astype(np.int32),
            levels >= floor,
        )
        return Scored(dict(choice), config, thresholds, counts, self._space.same_but_stripes(choice))

    def _middle(self, heights: NDArray[np.float64]) -> float:
        """Grey value above which there are as many maxima as the start finds: other images have other heights."""
        start = self.start.counts
        wanted = int(start.pairs[:, START].sum() + start.false_alarms[:, START].sum())
        if not heights.size:
            return self._level
        return float(np.sort(heights)[::-1][min(max(wanted, 1), heights.size) - 1])

    def _count(
        self, blocks: NDArray[np.int64], heights: NDArray[np.float64], levels: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """How many heights in each block reach each level, int32 (blocks, levels); levels ascend."""
        passed = np.searchsorted(levels, heights, side="right")  # levels 0 .. passed - 1 are reached
        table = np.zeros((self.parts.count, len(levels) + 1), np.int32)
        np.add.at(table, (blocks, passed), 1)
        counts: NDArray[np.int32] = table[:, ::-1].cumsum(1, dtype=np.int32)[:, ::-1][:, 1:]
        return counts


def search(
    scorer: Scorer,
    space: Space,
    *,
    trials: int = 200,
    seed: int = 0,
    timeout: float | None = None,
    listener: Callable[[Trial], None] = lambda _: None,
) -> Tuned:
    """The parameters that gain most for sure on the annotated cells, and what they score on cells held out.

    Parameters
    ----------
    scorer, space
        What scores choices, and what there is to choose.
    trials
        Choices that are proposed; the first is the start.
    seed
        Of the proposals: the same seed gives the same result.
    timeout
        Seconds after which no new trial begins.
    listener
        Is told of each trial. An interrupt (Ctrl-C) ends the search and keeps what it has.

    Raises
    ------
    ConfigError
        optuna is missing.
    """
    blocks = [scorer.parts.folds != fold for fold in range(FOLDS)]  # what each study is fitted to
    blocks.append(np.ones(scorer.parts.count, bool))
    cells = int(scorer.start.counts.annotations.sum())
    free = space.names if cells >= FEWEST_FOR_STEPS and trials > 1 else ()
    pools: list[list[Scored]] = [[scorer.start] for _ in blocks]
    done: list[Trial] = []
    interrupted, end = False, math.inf if timeout is None else time.monotonic() + timeout
    total = trials if free else 1
    try:
        _tell(done, total, scorer.start, pools[-1], listener)
        for kind in STRIPES if "stripes" in space.names else ():
            if kind != scorer.start.choice["stripes"]:  # known beforehand, not searched for: few cells can tell
                striped = scorer.score({**scorer.start.choice, "stripes": kind})
                for pool in pools:
                    pool.append(striped)
        studies = _studies(seed, len(blocks), space) if free else []
        for number in range(1, total):
            if time.monotonic() >= end:
                break
            which = number % len(blocks)
            trial = studies[which].ask()
            choice = {name: LADDERS[name][trial.suggest_int(name, 0, len(LADDERS[name]) - 1)] for name in free}
            scored = scorer.score(choice)
            gains = sure_gains(
                scored.counts, scorer.start.counts, blocks[which], among=0 if scored.same_steps else total
            )
            studies[which].tell(trial, float(max(gains.max(), -1.0)))
            pools[which].append(scored)
            if which < FOLDS:  # the study of all cells may choose from everything
                pools[-1].append(scored)
            _tell(done, total, scored, pools[-1], listener)
    except KeyboardInterrupt:
        interrupted = True
    return _conclude(scorer, pools, blocks, done, interrupted=interrupted)


def _studies(seed: int, count: int, space: Space) -> list[Any]:
    try:
        import optuna
    except ImportError:
        raise ConfigError("tune needs optuna, which is not installed: pip install 'cytolith[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = []
    for number in range(count):
        sampler = optuna.samplers.TPESampler(seed=seed * count + number, n_startup_trials=8)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        # near the start first: one step along each parameter
        index = {name: LADDERS[name].index(factor) for name, factor in space.start_choice.items()}
        names = list(index)
        name = names[number % len(names)]
        for step in (1, -1):
            if 0 <= index[name] + step < len(LADDERS[name]):
                study.enqueue_trial(index | {name: index[name] + step})
        studies.append(study)
    return studies


def _tell(
    done: list[Trial], total: int, scored: Scored, pool: Sequence[Scored], listener: Callable[[Trial], None]
) -> None:
    everything = np.ones(len(scored.counts.annotations), bool)
    values = [scored.counts.f1(everything, at) if ok else -1.0 for at, ok in enumerate(scored.counts.valid)]
    at = int(np.argmax(values))
    chosen, threshold = _choose(pool, everything)
    trial = Trial(
        len(done),
        total,
        scored.choice,
        scored.thresholds[at],
        max(values[at], 0.0),
        chosen.counts.f1(everything, threshold),
    )
    done.append(trial)
    listener(trial)


def _choose(pool: Sequence[Scored], blocks: NDArray[np.bool_]) -> tuple[Scored, int]:
    index, threshold = choose([(each.counts, each.same_steps) for each in pool], pool[0].counts, blocks)
    return pool[index], threshold


def _conclude(
    scorer: Scorer, pools: list[list[Scored]], blocks: list[NDArray[np.bool_]], done: list[Trial], *, interrupted: bool
) -> Tuned:
    start = scorer.start
    everything = blocks[-1]
    start_held, held = Numbers(), Numbers()
    for pool, fitted in zip(pools[:FOLDS], blocks[:FOLDS], strict=True):
        chosen, at = _choose(pool, fitted)
        start_held += Numbers(*start.counts.numbers(~fitted, START))
        held += Numbers(*chosen.counts.numbers(~fitted, at))
    best, at = _choose(pools[-1], everything)
    fitted_numbers = Numbers(*best.counts.numbers(everything, at))
    reason = ""
    if best is start and at == START:
        cells = int(start.counts.annotations.sum())
        reason = (
            f"{cells} annotated cells are too few to change anything ({FEWEST} are needed)"
            if cells < FEWEST
            else "no gain is more than the luck of so many annotated cells"
        )
    elif held.f1 < start_held.f1:
        reason = "on cells held out the tuned parameters are not better"
        best, at = start, START
    return Tuned(
        with_threshold(best.config, best.thresholds[at], start.thresholds[START]) if not reason else best.config,
        not reason,
        reason,
        best.choice,
        best.thresholds[at],
        Numbers(*start.counts.numbers(everything, START)),
        fitted_numbers,
        start_held,
        held,
        done,
        interrupted,
    )


def _short(value: float) -> float:
    """A number in four digits: what is written to a file is what was scored."""
    return float(f"{value:.4g}")
