import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from cytolith.errors import ConfigError
from cytolith.score.assignment import assign
from cytolith.score.match import match


def brute_force(found, real, tolerance, voxel_size):
    """Number of pairs and total distance by the Hungarian method: a far pair costs more than all near ones together."""
    differences = (found[:, None] - real[None]) * voxel_size
    distances = np.sqrt((differences**2).sum(axis=2))
    near = distances <= tolerance
    rows, columns = linear_sum_assignment(np.where(near, distances, 1e4))
    chosen = near[rows, columns]
    return chosen.sum(), distances[rows, columns][chosen].sum()


def check(result, found, real, tolerance, voxel_size):
    """All that a matching promises by itself."""
    assert result.pairs.shape == (len(result.distances), 2)
    assert result.pairs.dtype == np.int64
    assert len(set(result.pairs[:, 0])) == len(set(result.pairs[:, 1])) == len(result.pairs)
    assert (np.diff(result.pairs[:, 0]) > 0).all()
    differences = (found[result.pairs[:, 0]] - real[result.pairs[:, 1]]) * voxel_size
    np.testing.assert_allclose(result.distances, np.sqrt((differences**2).sum(axis=1)), rtol=1e-12)
    assert (result.distances <= tolerance).all()
    assert result.true_positives + result.false_positives == result.detections == len(found)
    assert result.true_positives + result.false_negatives == result.annotations == len(real)


# few places, so that ties, equal positions and distances of exactly the tolerance are frequent
lattice = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=14).map(lambda p: np.array(p, float).reshape(-1, 3))
anywhere = st.lists(st.tuples(*[st.floats(0, 8)] * 3), max_size=14).map(lambda p: np.array(p, float).reshape(-1, 3))


@settings(max_examples=300)
@given(
    found=lattice | anywhere,
    real=lattice | anywhere,
    tolerance=st.sampled_from([0.0, 1.0, 2.0, 2.5, 5.0, 100.0]),
    voxel_size=st.sampled_from([(1.0, 1.0, 1.0), (2.0, 0.5, 1.5), (6.0, 1.62, 1.62)]),
)
@example(
    found=np.array([[0, 0, 1.0], [0, 0, 3]]),
    real=np.array([[0, 0, 0.0], [0, 0, 2]]),
    tolerance=1.0,
    voxel_size=(1, 1, 1),
)
def test_against_the_hungarian_method(found, real, tolerance, voxel_size):
    result = match(found, real, tolerance, voxel_size)
    check(result, found, real, tolerance, voxel_size)
    count, total = brute_force(found, real, tolerance, voxel_size)
    assert result.true_positives == count
    assert result.distances.sum() == pytest.approx(total, abs=1e-6)
    turned = match(real, found, tolerance, voxel_size)
    assert turned.true_positives == count
    assert turned.distances.sum() == pytest.approx(total, abs=1e-6)
    assert turned.f1 == result.f1
    assert (turned.precision, turned.recall) == (result.recall, result.precision)


@pytest.mark.parametrize(
    ("counts", "tolerance"), [((300, 300), 20), ((250, 400), 30), ((400, 250), 12), ((300, 300), 200)]
)
def test_crowded_sets_against_the_hungarian_method(counts, tolerance):
    rng = np.random.default_rng(counts[0] + tolerance)
    found, real = (rng.uniform(0, 100, (count, 3)) for count in counts)
    result = match(found, real, tolerance)
    check(result, found, real, tolerance, 1)
    count, total = brute_force(found, real, tolerance, 1)
    assert result.true_positives == count
    assert result.distances.sum() == pytest.approx(total, abs=1e-6)


def test_many_points_make_as_many_pairs_as_can_be():
    rng = np.random.default_rng(0)
    real = rng.uniform(0, 300, (20_000, 3))
    found = np.concatenate([real[:15_000] + rng.normal(0, 1.5, (15_000, 3)), rng.uniform(0, 300, (3_000, 3))])
    result = match(found, real, 8.0)
    check(result, found, real, 8.0, 1)
    near = cKDTree(found).sparse_distance_matrix(cKDTree(real), 8.0, output_type="coo_matrix")
    most = (maximum_bipartite_matching(csr_array(near), perm_type="column") >= 0).sum()
    assert result.true_positives == most


def test_more_pairs_win_over_closer_ones():
    # the middle detection is closest to the first annotation, which is the only one that the first detection reaches
    found, real = [[0, 0, 0], [0, 0, 3]], [[0, 0, 2], [0, 0, 5]]
    result = match(found, real, 2)
    assert result.pairs.tolist() == [[0, 0], [1, 1]]
    assert result.distances.tolist() == [2, 2]


def test_distance_is_inclusive_and_in_units_of_the_voxel_size():
    point = np.array([[10.0, 20.0, 30.0]])
    for axis, edge in enumerate((6.0, 2.0, 1.5)):
        other = point.copy()
        other[0, axis] += 2
        assert match(point, other, 2 * edge, (6, 2, 1.5)).true_positives == 1
        assert match(point, other, 2 * edge - 0.01, (6, 2, 1.5)).true_positives == 0


def test_equal_positions_match_at_tolerance_zero():
    points = np.array([[1.5, 2, 3], [1.5, 2, 3], [4, 5, 6]])
    result = match(points, points[[2, 0, 1]], 0)
    assert result.true_positives == 3
    assert result.distances.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("found", "real", "scores"), [(0, 0, (1, 1, 1)), (0, 4, (0, 0, 0)), (4, 0, (0, 0, 0)), (4, 4, (1, 1, 1))]
)
def test_empty_sets(found, real, scores):
    points = np.arange(12.0).reshape(4, 3)
    result = match(points[:found], points[:real], 1)
    assert (result.precision, result.recall, result.f1) == scores
    assert (result.detections, result.annotations) == (found, real)
    assert result.pairs.shape[1] == 2


def test_plain_empty_lists():
    assert match([], [], 1).f1 == 1
    assert match([], [[1, 2, 3]], 1).f1 == 0


def test_scores():
    found = [[0, 0, 0], [0, 0, 10], [0, 0, 20], [0, 0, 31]]
    real = [[0, 0, 0], [0, 0, 10], [0, 0, 21]]
    result = match(found, real, 1)
    assert (result.true_positives, result.false_positives, result.false_negatives) == (3, 1, 0)
    assert (result.precision, result.recall) == (0.75, 1.0)
    assert result.f1 == pytest.approx(2 * 0.75 / 1.75)


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), "8"])
def test_bad_tolerance(tolerance):
    with pytest.raises(ConfigError, match="tolerance"):
        match([[0, 0, 0]], [[0, 0, 0]], tolerance)


@pytest.mark.parametrize("voxel_size", [(1, 1), (1, 0, 1), (1, float("nan"), 1)])
def test_bad_voxel_size(voxel_size):
    with pytest.raises(ConfigError, match="voxel_size"):
        match([[0, 0, 0]], [[0, 0, 0]], 1, voxel_size)


def test_bad_positions():
    with pytest.raises(ValueError, match=r"truth has the shape \(1, 2\)"):
        match([[0, 0, 0]], [[0, 0]], 1)
    with pytest.raises(ValueError, match="detections has positions that are not finite"):
        match([[0, 0, np.nan]], [[0, 0, 0]], 1)


def test_a_tolerance_that_links_everything_is_refused(monkeypatch):
    monkeypatch.setattr("cytolith.score.match._MOST_CANDIDATES", 1000)
    points = np.random.default_rng(0).uniform(0, 10, (50, 3))
    with pytest.raises(ConfigError, match="tolerance 100: 2,500 pairs are that close, 50 for each point"):
        match(points, points, 100)


@settings(max_examples=200)
@given(st.data())
def test_assignment_of_any_graph(data):
    rows, columns = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    linked = np.array(data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)), bool)
    costs = np.array(data.draw(st.lists(st.integers(0, 5), min_size=rows * columns, max_size=rows * columns)), float)
    linked, costs = linked.reshape(rows, columns), costs.reshape(rows, columns)
    graph_rows, graph_columns = np.nonzero(linked)
    starts = np.searchsorted(graph_rows, np.arange(rows + 1))
    column_of = assign(starts, graph_columns, costs[linked], columns)
    taken = np.flatnonzero(column_of >= 0)
    assert linked[taken, column_of[taken]].all()
    assert len(set(column_of[taken])) == len(taken)
    best_rows, best_columns = linear_sum_assignment(np.where(linked, costs, 1000))
    best = linked[best_rows, best_columns]
    assert len(taken) == best.sum()
    assert costs[taken, column_of[taken]].sum() == costs[best_rows, best_columns][best].sum()


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), clusters=st.integers(1, 6), spread=st.sampled_from([0.5, 3.0, 8.0]))
def test_clustered_sets_against_the_hungarian_method(seed, clusters, spread):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 60, (clusters, 3))
    real = centres[rng.integers(0, clusters, 40)] + rng.normal(0, spread, (40, 3))
    found = np.concatenate([real[:25] + rng.normal(0, 1, (25, 3)), centres + rng.normal(0, spread, centres.shape)])
    result = match(found, real, 4.0, (2.0, 1.0, 0.5))
    check(result, found, real, 4.0, (2.0, 1.0, 0.5))
    count, total = brute_force(found, real, 4.0, (2.0, 1.0, 0.5))
    assert result.true_positives == count
    assert result.distances.sum() == pytest.approx(total, abs=1e-6)
