"""The sweep over thresholds against a matching made anew at each of them."""

import numpy as np
import pytest

from cytolith.score.match import match
from cytolith.tune.sweep import sweep


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tolerance", [2.0, 6.0])
def test_pairs_at_every_threshold_are_those_of_a_matching(seed, tolerance):
    random = np.random.default_rng(seed)
    # crowded, with equal heights and one count of detections above that of annotations and one below
    found = random.integers(0, 12, (random.integers(5, 60), 3)).astype(float)
    real = random.uniform(0, 12, (random.integers(5, 60), 3))
    heights = random.integers(0, 15, len(found)).astype(float)
    edges = (2.0, 1.0, 1.5)
    result = sweep(found, heights, real, tolerance, edges)
    for level in np.unique(heights):
        there = heights >= level
        expected = match(found[there], real, tolerance, edges).true_positives
        assert (result.paired & there).sum() == expected
        assert (result.found_at >= level).sum() == expected


def test_a_detection_moves_on_when_another_can_have_no_other_annotation():
    # the higher detection is nearest to the annotation that is the only one of the lower
    result = sweep([[0, 0, 1], [0, 0, 0]], [5.0, 3.0], [[0, 0, 0.8], [0, 0, 2.5]], 1.5)
    assert result.paired.tolist() == [True, True]
    assert sorted(result.found_at.tolist()) == [3.0, 5.0]


def test_nothing_to_pair():
    assert sweep(np.empty((0, 3)), [], [[1, 1, 1]], 2.0).found_at.tolist() == [-np.inf]
    assert sweep([[1, 1, 1]], [4.0], np.empty((0, 3)), 2.0).paired.tolist() == [False]
    assert sweep([[1, 1, 1]], [4.0], [[9, 9, 9]], 2.0).paired.tolist() == [False]
