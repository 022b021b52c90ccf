"""Blocks partition the volume, read what they must, and hold in memory."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytolith.axes import region_shape
from cytolith.engine.grid import Costs, plan_blocks, tile
from cytolith.errors import MemoryBudgetError

triples = st.tuples(*[st.integers(1, 40)] * 3)
halos = st.tuples(*[st.integers(0, 9)] * 3)


@given(triples, triples, halos)
def test_cores_partition_the_volume_and_reads_add_the_halo(shape, core, halo):
    owned = np.zeros(shape, int)
    for block in tile(shape, core, halo):
        owned[block.core] += 1
        for c, r, h, s in zip(block.core, block.read, halo, shape, strict=True):
            assert r.start == max(0, c.start - h)
            assert r.stop == min(s, c.stop + h)
        seen = np.zeros(shape, int)[block.read][block.inner]
        assert seen.shape == region_shape(block.core)
    assert (owned == 1).all()


def test_open_margins_are_at_the_faces_inside_the_volume():
    blocks = tile((10, 20, 30), (5, 20, 15), (1, 2, 3))
    assert len(blocks) == 4
    assert blocks[0].open_margins((10, 20, 30), (0, 4, 7)) == (0, 1, 0, 0, 0, 8)
    assert blocks[3].open_margins((10, 20, 30), (2, 4, 0)) == (3, 0, 0, 0, 1, 0)
    assert blocks[0].trimmed((10, 20, 30), (1, 2, 2)).read == (slice(0, 5), slice(0, 20), slice(0, 16))


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 700), st.integers(1, 900)),
    halos,
    st.floats(2, 30),
    st.integers(1, 8),
    st.integers(26, 34),
)
def test_a_plan_holds_in_memory_or_is_refused(shape, halo, voxel_bytes, workers, log_memory):
    memory = 2**log_memory
    costs = Costs(halo, voxel_bytes, 2**25)
    try:
        plan = plan_blocks(shape, costs, memory=memory, workers=workers)
    except MemoryBudgetError:
        return
    assert plan.bytes_total <= memory
    largest = max(math.prod(region_shape(b.read)) for b in plan.blocks)
    assert largest * voxel_bytes <= plan.bytes_block + 1
    assert sum(math.prod(region_shape(b.core)) for b in plan.blocks) == math.prod(shape)


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 300), st.integers(1, 400)), halos, st.floats(2, 30), st.integers(1, 5)
)
def test_a_refused_plan_names_the_smallest_budget_that_does(shape, halo, voxel_bytes, workers):
    costs = Costs(halo, voxel_bytes, 300 * 2**20)
    with pytest.raises(MemoryBudgetError, match=r"give at least --memory (\d+)MiB") as caught:
        plan_blocks(shape, costs, memory=300 * 2**20, workers=workers)
    enough = int(re.findall(r"--memory (\d+)MiB", str(caught.value))[-1]) * 2**20
    assert plan_blocks(shape, costs, memory=enough, workers=workers).bytes_total <= enough


def test_workers_make_room_for_a_block():
    costs = Costs((5, 10, 10), 30.0, 350 * 2**20)
    one = plan_blocks((16, 600, 600), costs, memory=352 * 2**20, workers=1)
    many = plan_blocks((16, 600, 600), costs, memory=352 * 2**20, workers=32)
    assert one.workers == 1
    assert 1 <= many.workers < 32


def test_two_workers_get_two_blocks_with_little_read_twice():
    plan = plan_blocks((64, 1024, 1024), Costs((18, 25, 25), 12.0), memory=2**34, workers=2)
    assert len(plan.blocks) % 2 == 0
    assert plan.voxels_read < 1.2 * 64 * 1024 * 1024


def test_cuts_follow_storage_chunks_when_decoding_is_dear():
    costs = Costs((2, 2, 2), 8.0)
    plan = plan_blocks((512, 512, 512), costs, memory=300 * 2**20, workers=1, chunks=(1, 512, 512))
    assert plan.core[1:] == (512, 512)


def test_a_block_that_is_given_is_taken_and_checked():
    costs = Costs((2, 2, 2), 8.0)
    plan = plan_blocks((50, 60, 70), costs, memory=2**30, workers=3, core=(20, 100, 30))
    assert plan.core == (20, 60, 30)
    assert len(plan.blocks) == 9
    with pytest.raises(MemoryBudgetError, match=r"--block 50,60,70 with 1 workers needs"):
        plan_blocks((50, 60, 70), costs, memory=2**20, workers=3, core=(50, 60, 70))
