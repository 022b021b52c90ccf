"""Illumination correction on a GPU: bit-equal with that on the CPU."""

import numpy as np
import pytest

from cytolith.kernels.gpu.cuda import array_module
from cytolith.kernels.gpu.illumination import apply_flat_field
from cytolith.kernels.illumination import FlatField
from cytolith.kernels.illumination import apply_flat_field as on_cpu


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("with_offset", [False, True])
def test_equals_cpu(gpu, rng, dtype, with_offset):
    image = rng.integers(0, 200, (19, 23, 41)).astype(dtype)
    field = FlatField(
        rng.uniform(0.3, 3, image.shape[1:]).astype(np.float32),
        rng.uniform(0, 50, image.shape[1:]).astype(np.float32) if with_offset else None,
    )
    found = apply_flat_field(array_module().asarray(image), field)
    np.testing.assert_array_equal(found.get(), on_cpu(image, field))


def test_shape_that_does_not_fit_is_refused(gpu):
    image = array_module().zeros((2, 3, 4), np.uint16)
    with pytest.raises(ValueError, match=r"does not fit a flat field of \(3, 5\)"):
        apply_flat_field(image, FlatField(np.ones((3, 5), np.float32)))
