import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve

from cytolith.kernels.voxelization import add_balls, ball_runs, ball_voxels_inside


def ball(radii):
    """Mask of all voxels whose centres lie in the ball, by the definition."""
    reach = [int(radius) for radius in radii]
    grid = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    return sum((axis / radius) ** 2 for axis, radius in zip(grid, radii, strict=True)) <= 1


@pytest.mark.parametrize("radii", [(1, 1, 1), (2, 2, 2), (1.5, 3.2, 2.7), (0.5, 4, 1), (0.3, 0.3, 0.3), (7, 5, 6)])
def test_runs_are_the_voxels_of_the_ball(radii):
    mask = ball(radii)
    made = np.zeros_like(mask)
    middle = np.array(mask.shape) // 2
    for dz, dy, first, last in ball_runs(radii):
        made[middle[0] + dz, middle[1] + dy, middle[2] + first : middle[2] + last + 1] = True
    np.testing.assert_array_equal(made, mask)


def test_no_radius_is_a_voxel():
    for radii in (None, (0, 0, 0)):
        np.testing.assert_array_equal(ball_runs(radii), [[0, 0, 0, 0]])
    with pytest.raises(ValueError, match="positive"):
        ball_runs((0, 1, 1))


extents = st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(1, 10))
radii = st.tuples(*[st.floats(0.2, 4)] * 3)


@settings(max_examples=60)
@given(shape=extents, radii=radii, seed=st.integers(0, 99), count=st.integers(0, 40))
def test_sums_are_a_convolution_of_the_counts(shape, radii, seed, count):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, shape, (count, 3))
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, tuple(centres.T), 1)
    image = np.zeros(shape, np.uint32)
    add_balls(image, (0, 0, 0), centres, np.ones(count, np.uint32), ball_runs(radii))
    np.testing.assert_array_equal(image, convolve(counts, ball(radii).astype(np.int64), mode="constant"))


@settings(max_examples=40)
@given(shape=extents, radii=radii, seed=st.integers(0, 99), cut=st.integers(1, 7))
def test_parts_are_those_of_the_whole_to_the_last_bit(shape, radii, seed, cut):
    rng = np.random.default_rng(seed)
    centres, weights = (
        rng.integers(-2, np.array(shape) + 2, (30, 3)),
        rng.normal(size=30) * 10.0 ** rng.integers(0, 9, 30),
    )
    runs = ball_runs(radii)
    whole = np.zeros(shape)
    add_balls(whole, (0, 0, 0), centres, weights, runs)
    for y in range(0, shape[1], cut):
        part = np.zeros((shape[0], min(cut, shape[1] - y), shape[2]))
        add_balls(part, (0, y, 0), centres, weights, runs)
        np.testing.assert_array_equal(part, whole[:, y : y + cut])


@settings(max_examples=60)
@given(shape=extents, radii=radii, cut=st.integers(0, 7))
def test_volume_of_a_ball_inside_the_map(shape, radii, cut):
    expected = convolve(np.ones(shape, np.int64), ball(radii).astype(np.int64), mode="constant")
    rows = slice(min(cut, shape[1] - 1), shape[1])
    for z in range(shape[0]):
        inside = ball_voxels_inside(ball_runs(radii), shape, z, rows)
        np.testing.assert_array_equal(inside, expected[z, rows])


def test_what_does_not_fit_is_refused():
    centres, runs = np.zeros((2, 3), np.int64), ball_runs(None)
    with pytest.raises(ValueError, match="uint32 or float64"):
        add_balls(np.zeros((2, 2, 2), np.float32), (0, 0, 0), centres, np.ones(2, np.float32), runs)
    with pytest.raises(ValueError, match="do not fit"):
        add_balls(np.zeros((2, 2, 2)), (0, 0, 0), centres, np.ones(3), runs)
    with pytest.raises(ValueError, match="do not fit"):
        add_balls(np.zeros((2, 2, 2)), (0, 0, 0), centres, np.ones(2, np.uint32), runs)
