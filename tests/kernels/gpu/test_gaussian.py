"""Smoothing and DoG on a GPU: bit-equal with those on the CPU."""

import numpy as np
import pytest

from cytolith.kernels import gaussian as cpu
from cytolith.kernels.gpu import gaussian as gpu_gaussian
from cytolith.kernels.gpu import separable
from cytolith.kernels.gpu.cuda import array_module
from cytolith.kernels.gpu.gaussian import dog_filter, smooth
from cytolith.kernels.gpu.separable import choose_tile

MOST_SHARED = 232448


def random_image(rng, shape, dtype):
    """Values over the whole range, of which hardly two sums round alike in another order."""
    if dtype == "float32":
        return rng.normal(500, 3000, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def check(name, image, *arguments):
    """The filter of this name gives the same bits on both."""
    found = getattr(gpu_gaussian, name)(array_module().asarray(image), *arguments).get()
    expected = getattr(cpu, name)(image, *arguments)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_dog_equals_cpu(gpu, rng, dtype):
    """Several tiles along each axis, cut off at the end; rows of whole fours, which are stored at once, and others."""
    for shape in ((7, 41, 70), (5, 33, 36)):
        check("dog_filter", random_image(rng, shape, dtype), 7)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_smoothing_equals_cpu(gpu, rng, dtype):
    """The default of the pipeline, without and with voxels of another size along z."""
    image = random_image(rng, (6, 35, 71), dtype)
    check("smooth", image, (0.7, 1.5, 1.5))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (7, 1, 70), (3, 40, 1), (2, 1, 9)])
def test_thinner_than_the_kernel_or_the_tile(gpu, rng, shape):
    """Borders are mirrored again and again."""
    check("dog_filter", random_image(rng, shape, "uint16"), 7)
    check("smooth", random_image(rng, shape, "uint16"), (0.7, 1.5, 1.5))


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        pytest.param("dog_filter", (4, 5, 6), id="even"),
        pytest.param("dog_filter", 1, id="one tap"),
        pytest.param("smooth", 0, id="nothing"),
        pytest.param("smooth", (0, 6, 1.2), id="wide"),
        pytest.param("dog_filter", (10, 13, 3), id="groups of pairs with two left over"),
        pytest.param("dog_filter", (49, 50, 51), id="more than registers hold"),
        pytest.param("smooth", (17, 0, 1), id="more than registers hold along z alone"),
        pytest.param("dog_filter", (101, 301, 401), id="more weights than arguments hold"),
    ],
)
def test_kernels_of_all_extents(gpu, rng, name, argument):
    check(name, random_image(rng, (4, 12, 35), "int16"), argument)


@pytest.mark.parametrize("most_shared", [16 << 10, 12 << 10])
def test_little_shared_memory(gpu, rng, monkeypatch, most_shared):
    """The z pass is made in strips, of which the last is narrower."""
    monkeypatch.setattr(separable, "_most_shared", lambda device: most_shared)
    taps = (3, 23, 31)
    tile = choose_tile(taps, 2, most_shared, 4)
    assert tile.strip < tile.columns + taps[2] - 1
    assert (tile.columns + taps[2] - 1) % tile.strip
    check("dog_filter", random_image(rng, (4, 20, 70), "uint16"), taps)


@pytest.mark.parametrize("kernels", [1, 2])
@pytest.mark.parametrize("most_shared", [48 << 10, 101376, MOST_SHARED])
@pytest.mark.parametrize("taps", [(1, 1, 1), (5, 9, 9), (7, 7, 7), (1, 37, 37), (37, 37, 37), (61, 61, 61)])
def test_tiles_fit(taps, most_shared, kernels):
    tile = choose_tile(taps, kernels, most_shared, 64)
    assert tile.shared_bytes(taps, kernels) <= most_shared
    assert choose_tile(taps, kernels, most_shared, 1).planes == 1


def test_too_large_a_kernel_is_refused(gpu):
    image = array_module().zeros((2, 3, 4), np.uint16)
    with pytest.raises(ValueError, match=r"\(1, 6001, 6001\) voxels .* too large for this GPU"):
        smooth(image, (0, 1000, 1000))


def test_outputs(gpu, rng):
    """The given output is what comes back; none of a wrong kind is written to, and nothing of an empty image."""
    image = array_module().asarray(random_image(rng, (2, 3, 4), "uint16"))
    out = array_module().empty((2, 3, 4), np.float32)
    assert dog_filter(image, 7, out=out) is out
    with pytest.raises(ValueError, match=r"out is float32 of shape \(2, 3, 5\)"):
        smooth(image, 1, out=array_module().empty((2, 3, 5), np.float32))
    with pytest.raises(ValueError, match="image has 2 dimensions"):
        smooth(image[0], 1)
    with pytest.raises(ValueError, match="image has dtype uint32"):
        dog_filter(array_module().zeros((2, 3, 4), np.uint32), 7)
    assert smooth(array_module().zeros((0, 3, 4), np.uint16), 1).shape == (0, 3, 4)


def test_an_output_that_is_not_aligned(gpu, rng):
    image = random_image(rng, (3, 5, 8), "uint16")
    memory = array_module().empty(image.size + 1, np.float32)
    out = memory[1:].reshape(image.shape)
    smooth(array_module().asarray(image), (0.7, 1.5, 1.5), out=out)
    np.testing.assert_array_equal(out.get(), cpu.smooth(image, (0.7, 1.5, 1.5)))
