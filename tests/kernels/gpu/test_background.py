"""Background removal on a GPU: bit-equal with that on the CPU, by tiles and by whole planes."""

import numpy as np
import pytest

import cytolith.kernels.gpu.background as on_gpu
from cytolith.kernels.background import remove_background as on_cpu
from cytolith.kernels.gpu.background import remove_background
from cytolith.kernels.gpu.cuda import array_module

DTYPES = ["uint8", "uint16", "int16", "float32"]
SHAPES = [1, 2, 3, 4, 5, 10, 19, 30, (1, 40), (40, 1), (6, 9), (4, 58), 51]  # disks of 19 and 51 leave a core
NO_SHARED, LITTLE_SHARED = 1 << 10, 24 << 10


def make_image(rng, shape, dtype):
    """Noise over all values, and plateaus, with the bounds of the dtype among the values."""
    if dtype == "float32":
        image = rng.normal(0, 300, shape).astype(dtype)
    else:
        bounds = np.iinfo(dtype)
        image = rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
        image.flat[:2] = bounds.min, bounds.max
    image[:, :, : shape[2] // 3] = rng.choice(image.ravel()[:5], image[:, :, : shape[2] // 3].shape)
    return image


@pytest.fixture
def shared_bytes(monkeypatch):
    """Sets how much shared memory a block may have."""
    return lambda size: monkeypatch.setattr(on_gpu, "_shared_bytes", lambda: size)


def removed(image, shape, form="disk", **options):
    return remove_background(array_module().asarray(image), shape, form, **options).get()


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_cpu(gpu, rng, dtype):
    image = make_image(rng, (2, 50, 101), dtype)
    for shape in SHAPES:
        for form in ("disk", "cube"):
            np.testing.assert_array_equal(removed(image, shape, form), on_cpu(image, shape, form), f"{form} {shape}")
    assert gpu is None or set(gpu.launches) == {"erode_tiles", "subtract_tiles"}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_several_tiles(gpu, rng, shared_bytes, dtype):
    shared_bytes(LITTLE_SHARED)
    image = make_image(rng, (1, 67, 131), dtype)
    for shape in (1, 3, 10, (1, 40), (40, 1), (6, 9)):
        np.testing.assert_array_equal(removed(image, shape), on_cpu(image, shape), str(shape))
    assert gpu is None or set(gpu.launches) == {"erode_tiles", "subtract_tiles"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_footprints_too_large_for_a_tile(gpu, rng, shared_bytes, dtype):
    shared_bytes(NO_SHARED)
    image = make_image(rng, (2, 21, 45), dtype)
    for shape in (1, 3, 5, 10, 19, (1, 40), 58):  # chains that end in each of the buffers
        np.testing.assert_array_equal(removed(image, shape), on_cpu(image, shape), str(shape))
    assert gpu is None or set(gpu.launches) == {"surround_planes", "narrow_planes", "subtract_planes"}


@pytest.mark.parametrize("shared", [NO_SHARED, LITTLE_SHARED])
def test_footprint_as_it_is(gpu, rng, shared_bytes, shared):
    shared_bytes(shared)
    image = make_image(rng, (1, 40, 50), "uint16")
    for shape in (4, 5, 10, (6, 7), (7, 6)):
        for form in ("disk", "cube"):
            found = removed(image, shape, form, reflect_footprint=False)
            np.testing.assert_array_equal(found, on_cpu(image, shape, form, reflect_footprint=False))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 70), (3, 70, 1), (1, 16, 32), (2, 17, 33), (1, 200, 3)])
def test_images_of_all_extents(gpu, rng, shape):
    image = make_image(rng, shape, "uint16")
    for footprint in (1, 3, 10, 90):
        np.testing.assert_array_equal(removed(image, footprint), on_cpu(image, footprint))
    np.testing.assert_array_equal(removed(image[0], 3), on_cpu(image[0], 3))


@pytest.mark.parametrize("shared", [NO_SHARED, LITTLE_SHARED])
def test_planes_are_taken_in_groups(gpu, rng, shared_bytes, monkeypatch, shared):
    shared_bytes(shared)
    image = make_image(rng, (7, 20, 30), "uint16")
    monkeypatch.setattr(on_gpu, "_SCRATCH", 3 * 20 * 30 * 2 if shared > NO_SHARED else 4 * 22 * 32 * 2 * 2)
    taken = []

    def allocate(name, shape, dtype):
        taken.append((name, shape[0]))
        return array_module().empty(shape, dtype)

    np.testing.assert_array_equal(removed(image, 3, allocate=allocate), on_cpu(image, 3))
    assert taken == [("background eroded", 3)] if shared > NO_SHARED else [("background scratch", 4)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [NO_SHARED, LITTLE_SHARED])
def test_smaller_of_two(gpu, rng, shared_bytes, dtype, shared):
    shared_bytes(shared)
    image = make_image(rng, (2, 30, 40), dtype)
    out = array_module().empty(image.shape, image.dtype)
    assert remove_background(array_module().asarray(image), 7, out=out) is out
    remove_background(array_module().asarray(image), (1, 25), "cube", smaller=True, out=out)
    np.testing.assert_array_equal(out.get(), np.minimum(on_cpu(image, 7), on_cpu(image, (1, 25), "cube")))


@pytest.mark.parametrize("shared", [NO_SHARED, LITTLE_SHARED])
def test_in_place(gpu, rng, shared_bytes, shared):
    shared_bytes(shared)
    image = make_image(rng, (2, 50, 90), "int16")
    on_device = array_module().asarray(image)
    remove_background(on_device, 7, out=on_device)
    np.testing.assert_array_equal(on_device.get(), on_cpu(image, 7))


def test_empty_image(stand_in):
    assert removed(np.empty((2, 0, 5), np.uint16), 3).shape == (2, 0, 5)
    assert not stand_in.launches


def test_chain_stays_in_its_buffers():
    # reads outside would go unnoticed here: all that a step reads is what the step before it has written
    for shape in (*range(1, 30), (1, 90), (90, 1), (17, 40), 51, 58, 64, 115):
        for form in ("disk", "cube"):
            mask = on_gpu.footprint(form, on_gpu.plane_shape(shape))
            for height, width in ((1, 1), (16, 32), (5, 7)):
                pitch = width + mask.shape[1] - 1
                chain = on_gpu._lay_out(on_gpu.row_minima(mask), pitch, height, width)
                assert chain.size <= (height + mask.shape[0] - 1) * pitch
                written = {0: chain.size}
                for step in chain.steps:
                    assert min(step.shifts) >= 0
                    assert max(step.shifts) + step.size <= written[step.source]
                    assert step.size <= chain.size
                    assert step.source != step.target < chain.buffers
                    assert not step.narrow or written[step.target] == step.size
                    written[step.target] = step.size
                assert chain.offset + (height - 1) * pitch + width <= written[chain.result]


def test_what_does_not_fit_is_refused(gpu):
    image = array_module().zeros((2, 3, 4), np.uint16)
    with pytest.raises(ValueError, match="needs out"):
        remove_background(image, 3, smaller=True)
    with pytest.raises(ValueError, match=r"out must be C-contiguous uint16 of shape \(2, 3, 4\)"):
        remove_background(image, 3, out=array_module().zeros((2, 3, 4), np.int16))
    with pytest.raises(ValueError, match="float64"):
        remove_background(array_module().zeros((2, 3, 4), np.float64), 3)
    with pytest.raises(ValueError, match="got one of shape"):
        remove_background(array_module().zeros(4, np.uint16), 3)
    with pytest.raises(ValueError, match="two of them"):
        remove_background(image, (3, 3, 3))
