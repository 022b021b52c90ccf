"""The largest value of a region on a GPU."""

import numpy as np
import pytest

from cytolith.kernels.gpu.cuda import array_module
from cytolith.kernels.gpu.extremes import largest


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_equals_numpy(gpu, rng, dtype):
    image = rng.integers(0, 250, (5, 9, 70)).astype(dtype)
    if dtype in ("int16", "float32"):
        image = (image - 300).astype(dtype)  # none above 0
    image[0] = 251
    for region in (np.s_[1:5, 2:9, 3:70], np.s_[0:5, 0:9, 0:70], np.s_[4:5, 8:9, 69:70], np.s_[2:3, 0:9, 1:34]):
        assert largest(array_module().asarray(image), region) == image[region].max()
