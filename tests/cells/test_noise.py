"""The noise of a volume: a fixed sample and a robust number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import median_abs_deviation

from cytolith.axes import region_shape
from cytolith.cells.noise import robust_noise, sample_blocks


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]), st.integers(1, 60), elements=st.integers(0, 200)
    )
)
def test_is_the_median_absolute_deviation(values):
    wanted = median_abs_deviation(values.astype(np.float64), scale=1 / 1.4826)
    assert robust_noise(values) == pytest.approx(wanted, rel=1e-12)


def test_no_values_have_no_noise():
    assert robust_noise(np.empty(0, np.uint16)) == 0


@given(st.tuples(st.integers(1, 200), st.integers(1, 3000), st.integers(1, 3000)), st.tuples(*[st.integers(0, 40)] * 3))
def test_the_sample_lies_in_the_volume_and_is_small(shape, halo):
    blocks = sample_blocks(shape, halo)
    assert 1 <= len(blocks) <= 32
    for block in blocks:
        for c, r, h, s in zip(block.core, block.read, halo, shape, strict=True):
            assert 0 <= c.start < c.stop <= s
            assert r.start == max(c.start - h, 0)
            assert r.stop == min(c.stop + h, s)
        assert region_shape(block.core) == (1, min(512, shape[1]), min(512, shape[2]))
    planes = [b.core[0].start for b in blocks]
    assert planes == sorted(set(planes))
