"""Which gains are believed."""

import numpy as np
import pytest

from cytolith.tune.choose import EXPONENTS, START, Counts, choose, f1_of
from cytolith.tune.parts import FOLDS, cut_parts

BLOCKS = 64
WIDTH = len(EXPONENTS)
EVERYWHERE = np.ones(BLOCKS, bool)


def counts(rng, recall, alarms, cells):
    """Counts of a detector whose recall and false alarms a cell are given at each threshold."""
    n = np.full(BLOCKS, cells // BLOCKS, np.int32)
    draws = rng.random((cells // BLOCKS, BLOCKS, 1))
    pairs = (draws < np.asarray(recall)).sum(0)
    false = (rng.random((cells // BLOCKS, BLOCKS, 1)) < np.asarray(alarms)).sum(0)
    return Counts(pairs.astype(np.int32), false.astype(np.int32), n, np.ones(WIDTH, bool))


def flat(value):
    return np.full(WIDTH, value)


def test_the_threshold_moves_when_the_gain_is_clear():
    recall = np.clip(0.6 - EXPONENTS, 0, 0.95)
    start = counts(np.random.default_rng(0), recall, flat(0.1), 640)
    index, at = choose([(start, True)], start, EVERYWHERE)
    assert index == 0
    assert at < START
    assert start.f1(EVERYWHERE, at) > start.f1(EVERYWHERE, START) + 0.1


def test_few_cells_change_nothing():
    recall = np.clip(0.6 - EXPONENTS, 0, 0.95)
    start = counts(np.random.default_rng(0), recall, flat(0.1), 640)
    few = np.arange(BLOCKS) < 2  # 20 cells
    assert choose([(start, True)], start, few) == (0, START)


def test_the_luckiest_of_many_that_are_all_alike_is_rarely_believed():
    gains, believed = [], 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        start = counts(rng, flat(0.8), flat(0.2), 192)
        pool = [(start, True), *((counts(rng, flat(0.8), flat(0.2), 192), False) for _ in range(100))]
        gains.append(max(each.f1(EVERYWHERE, START) for each, _ in pool) - start.f1(EVERYWHERE, START))
        believed += choose(pool, start, EVERYWHERE) != (0, START)
    assert np.mean(gains) > 0.03  # a plain race would be won by luck, each time
    assert believed <= 2


def test_steps_that_are_clearly_better_are_chosen_when_there_are_cells_enough():
    rng = np.random.default_rng(2)
    start = counts(rng, flat(0.7), flat(0.3), 640)
    better = counts(rng, flat(0.9), flat(0.1), 640)
    assert choose([(start, True), (better, False)], start, EVERYWHERE)[0] == 1
    few = np.arange(BLOCKS) < 8  # 80 cells: only the threshold
    assert choose([(start, True), (better, False)], start, few)[0] == 0


def test_a_threshold_whose_detections_are_not_all_known_is_not_chosen():
    recall = np.clip(0.6 - EXPONENTS, 0, 0.95)
    start = counts(np.random.default_rng(0), recall, flat(0.1), 640)
    known = EXPONENTS >= 0
    start = Counts(start.pairs, start.false_alarms, start.annotations, known)
    assert choose([(start, True)], start, EVERYWHERE)[1] >= START


@pytest.mark.parametrize("cells", [1, 5, 40, 700])
def test_parts_are_compact_and_share_the_cells(cells):
    points = np.random.default_rng(cells).uniform(0, (50, 300, 200), (cells, 3))
    parts = cut_parts(points, (6, 1.62, 1.62))
    blocks = parts.of(points)
    assert parts.count >= FOLDS
    assert np.array_equal(np.unique(parts.folds), np.arange(FOLDS))
    sizes = np.bincount(parts.folds[blocks], minlength=FOLDS)
    assert sizes.sum() == cells
    if cells >= 40:
        assert sizes.max() - sizes.min() <= 3
        boxes = [points[parts.folds[blocks] == fold] for fold in range(FOLDS)]
        for i, one in enumerate(boxes):  # no two folds reach into each other
            for other in boxes[:i]:
                assert any(one[:, a].max() < other[:, a].min() or other[:, a].max() < one[:, a].min() for a in range(3))


def test_f1():
    assert f1_of(0, 0, 0) == 1.0
    assert f1_of(0, 3, 0) == 0.0
    assert f1_of(3, 1, 5) == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
