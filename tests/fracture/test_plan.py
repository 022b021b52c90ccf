"""Blocks of whole planes for the memory given."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytolith.axes import region_shape
from cytolith.errors import MemoryBudgetError
from cytolith.fracture.plan import PROCESS_BYTES, plan_slabs

MIB = 2**20


@given(
    st.tuples(st.integers(1, 400), st.integers(1, 3000), st.integers(1, 3000)),
    st.integers(1, 8),
    st.integers(1, 128),
    st.integers(1, 16),
    st.integers(1, 4000),
)
def test_slabs_partition_the_planes_within_the_memory(shape, voxel_bytes, chunk, workers, room):
    memory = PROCESS_BYTES + room * MIB
    options = {"voxel_bytes": voxel_bytes, "chunk_planes": chunk, "workers": workers}
    try:
        slabs = plan_slabs(shape, memory=memory, **options)
    except MemoryBudgetError as error:
        smallest = int(str(error).rsplit("--memory ", 1)[1].removesuffix("MiB"))
        assert smallest * MIB > memory
        assert plan_slabs(shape, memory=smallest * MIB, **options).plan.workers == 1
        return
    plan = slabs.plan
    assert plan.bytes_total <= memory
    assert plan.bytes_total + slabs.room == memory
    assert 1 <= plan.workers <= workers
    cuts = [cut for block in plan.blocks for cut in slabs.slabs(block)]
    assert [low for low, _ in cuts] == [0, *(high for _, high in cuts[:-1])]
    assert cuts[-1][1] == shape[0]
    firsts = [slabs.first_slab(block) for block in plan.blocks]
    assert firsts == [sum(len(slabs.slabs(block)) for block in plan.blocks[:k]) for k in range(len(plan.blocks))]
    assert all(region_shape(block.core)[1:] == shape[1:] for block in plan.blocks)


def test_blocks_are_whole_chunks_when_memory_holds_them():
    options = {"voxel_bytes": 2, "chunk_planes": 64, "workers": 2}
    assert plan_slabs((300, 1000, 1000), memory=4096 * MIB, **options).plan.core[0] == 64
    tight = plan_slabs((300, 1000, 1000), memory=PROCESS_BYTES + 100 * MIB, **options)
    assert tight.plan.core[0] < 64


def test_the_message_names_the_smallest_memory():
    with pytest.raises(
        MemoryBudgetError, match=r"does not hold a plane of 5000 x 4000 voxels: give at least --memory"
    ) as caught:
        plan_slabs((10, 5000, 4000), voxel_bytes=1, memory=PROCESS_BYTES, workers=2)
    assert math.isclose(int(str(caught.value).split()[-1].removesuffix("MiB")), PROCESS_BYTES / MIB + 105, abs_tol=10)
