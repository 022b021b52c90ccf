"""Windows around voxels against SciPy and plain loops."""

import numpy as np
import pytest
from scipy import ndimage

from cytolith.kernels.surroundings import (
    background_near,
    easiest_way_out,
    window_centiles,
    window_statistics,
    window_widths,
)

SHAPE = (7, 19, 23)
RNG = np.random.default_rng(3)
POSITIONS = np.stack([RNG.integers(0, n, 40) for n in SHAPE], 1)


def test_window_is_the_ellipse():
    widths = window_widths((2, 4, 6))
    for dy in range(-4, 5):
        inside = [dx for dx in range(-6, 7) if (dy / 4) ** 2 + (dx / 6) ** 2 <= 1 + 1e-12]
        assert widths[dy + 4] == max(inside)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("radius", [(1, 3, 5), (0, 2, 2), (2, 1, 4)])
def test_background_near_is_a_dilation_of_the_background(dtype, radius):
    background = RNG.integers(0, 90, SHAPE).astype(dtype)
    corrected = RNG.integers(0, 30, SHAPE).astype(dtype)
    own, largest = background_near(background + corrected, corrected, POSITIONS, radius)
    z, y, x = (np.arange(-r, r + 1) for r in radius)
    footprint = np.hypot(y[:, None] / max(radius[1], 1), x / max(radius[2], 1)) <= 1 + 1e-12
    dilated = ndimage.grey_dilation(
        background.astype(float), footprint=np.repeat(footprint[None], z.size, 0), mode="constant", cval=-1
    )
    at = tuple(POSITIONS.T)
    np.testing.assert_array_equal(own, background[at])
    np.testing.assert_array_equal(largest, dilated[at])


def test_background_near_looks_at_the_known_part_only():
    background = np.zeros((3, 9, 9), np.uint16)
    background[1, 4, 8] = 50
    zero = np.zeros_like(background)
    known = (slice(0, 3), slice(0, 9), slice(0, 8))
    assert background_near(background, zero, [[1, 4, 4]], (1, 5, 5))[1] == 50
    assert background_near(background, zero, [[1, 4, 4]], (1, 5, 5), known)[1] == 0
    with pytest.raises(ValueError, match="extent"):
        background_near(background, zero[:2], [[1, 4, 4]], (1, 5, 5))


def values_at(image, position, offsets):
    places = position + offsets
    inside = ((places >= 0) & (places < image.shape)).all(1)
    return image[tuple(places[inside].T)]


def test_statistics_and_centiles():
    image = RNG.normal(1e4, 30, SHAPE).astype(np.float32)
    offsets = RNG.integers(-6, 7, (50, 3))
    low, high, mean, deviation = window_statistics(image, POSITIONS, offsets)
    centiles = window_centiles(image, POSITIONS, offsets, [0.5, 0.95, 1.0])
    for i, position in enumerate(POSITIONS):
        values = values_at(image, position, offsets).astype(np.float64)
        assert (low[i], high[i]) == (values.min(), values.max())
        np.testing.assert_allclose([mean[i], deviation[i]], [values.mean(), values.std()], rtol=1e-9)
        wanted = np.percentile(values, [50, 95, 100], method="inverted_cdf")
        np.testing.assert_array_equal(centiles[:, i], wanted)


def test_no_voxel_in_the_image_is_not_a_number():
    image, away = np.zeros(SHAPE, np.float32), [[0, 0, 50]]
    assert np.isnan(window_statistics(image, [[0, 0, 0]], away)).all()
    assert np.isnan(window_centiles(image, [[0, 0, 0]], away, [0.5])).all()
    assert easiest_way_out(image, [[0, 0, 0]], np.array([away])) == -np.inf


def test_easiest_way_out():
    image = RNG.random(SHAPE).astype(np.float32)
    rays = np.cumsum(RNG.integers(-1, 2, (9, 5, 3)), axis=1)
    found = easiest_way_out(image, POSITIONS, rays)
    for i, position in enumerate(POSITIONS):
        ways = [
            values_at(image, position, ray).min()
            for ray in rays
            if ((position + ray >= 0) & (position + ray < image.shape)).all()
        ]
        assert found[i] == max(ways, default=-np.inf)
