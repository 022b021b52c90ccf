"""Background near positions on a GPU: bit-equal with that on the CPU."""

import numpy as np
import pytest

from cytolith.kernels.gpu.cuda import array_module
from cytolith.kernels.gpu.surroundings import background_near
from cytolith.kernels.surroundings import background_near as on_cpu

SHAPE = (7, 19, 43)
WINDOWS = [
    ((1, 3, 5), None),
    ((0, 0, 0), None),
    ((2, 5, 20), np.s_[1:6, 2:15, 3:40]),  # rows longer than a warp
    ((9, 1, 15), None),  # rows of 31: one less than a warp
    ((1, 30, 60), np.s_[0:7, 0:19, 8:43]),
]


def make_image(rng, dtype):
    if dtype == "float32":
        return rng.normal(100, 300, SHAPE).astype(dtype)
    bounds = np.iinfo(dtype)
    return rng.integers(bounds.min, bounds.max, SHAPE, dtype, endpoint=True)


def check(image, corrected, positions):
    cupy = array_module()
    for radius, known in WINDOWS:
        found = background_near(cupy.asarray(image), cupy.asarray(corrected), positions, radius, known)
        expected = on_cpu(image, corrected, positions, radius, known)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_equals_cpu(gpu, rng, dtype):
    image = make_image(rng, dtype)
    positions = np.stack([rng.integers(0, n, 37) for n in SHAPE], 1)
    background = make_image(rng, dtype) % 50
    check(np.maximum(image, background), np.maximum(image, background) - background, positions)
    check(image, make_image(rng, dtype), positions)  # also where the corrected image is the brighter one


@pytest.mark.parametrize(("dtype", "other"), [("uint16", "int16"), ("float32", "uint16"), ("int16", "float32")])
def test_corrected_of_another_dtype(gpu, rng, dtype, other):
    positions = np.stack([rng.integers(0, n, 9) for n in SHAPE], 1)
    check(make_image(rng, dtype), np.clip(make_image(rng, other), -3000, 3000).astype(other), positions)


def test_no_positions_and_other_extents(stand_in):
    image = array_module().zeros(SHAPE, np.uint16)
    own, largest = background_near(image, image, np.empty((0, 3), np.int64), (1, 1, 1))
    assert own.shape == largest.shape == (0,)
    assert not stand_in.launches
    with pytest.raises(ValueError, match=r"extent \(7, 19, 42\) given"):
        background_near(image, array_module().zeros((7, 19, 42), np.uint16), [[0, 0, 0]], (1, 1, 1))
