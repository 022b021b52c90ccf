"""Blocks of whole planes for the memory given."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytolith.axes import region_shape
from cytolith.engine.executors import ProcessPool, SerialPool, ThreadPool
from cytolith.engine.machine import default_memory
from cytolith.errors import MemoryBudgetError
from cytolith.fracture.places import places_of
from cytolith.fracture.plan import BLOCK_VOXELS, BLOCKS_A_WORKER, PROCESS_BYTES, Needs, Places, plan_slabs

MIB = 2**20


@given(
    st.tuples(st.integers(1, 400), st.integers(1, 3000), st.integers(1, 3000)),
    st.builds(
        Needs,
        st.integers(1, 8),
        fixed_bytes=st.sampled_from([0, 50 * MIB]),
        result_bytes=st.sampled_from([0, 3 * MIB]),
        plane_bytes=st.sampled_from([0, 8_000]),
    ),
    st.integers(1, 128),
    st.integers(1, 16),
    st.integers(1, 4000),
    st.booleans(),
    st.sampled_from([1, 6]),
)
def test_slabs_partition_the_planes_within_the_memory(shape, needs, chunk, workers, room, processes, machines):
    there = Places(workers, PROCESS_BYTES + room * MIB, processes, machines)
    try:
        slabs = plan_slabs(shape, needs, there, chunk_planes=chunk)
    except MemoryBudgetError as error:
        smallest = int(str(error).rsplit("--memory ", 1)[1].removesuffix("MiB"))
        assert smallest * MIB > there.memory
        plan_slabs(shape, needs, replace(there, memory=smallest * MIB), chunk_planes=chunk)
        with pytest.raises(MemoryBudgetError):
            plan_slabs(shape, needs, replace(there, memory=(smallest - 1) * MIB), chunk_planes=chunk)
        return
    plan, cut = slabs.plan, slabs.cut
    blocks = cut.piece_planes * math.prod(shape[1:]) * needs.voxel_bytes
    assert plan.bytes_total >= PROCESS_BYTES * (1 + processes * plan.workers) + plan.workers * blocks
    assert plan.bytes_total + slabs.room == there.memory
    assert 1 <= plan.workers <= workers
    slabs_of = [cut.slabs_of(block) for block in plan.blocks]
    cuts = [each for of_block in slabs_of for each in of_block]
    assert [low for low, _ in cuts] == [0, *(high for _, high in cuts[:-1])]
    assert cuts[-1][1] == shape[0]
    firsts = [cut.first_slab(block) for block in plan.blocks]
    assert firsts == [sum(map(len, slabs_of[:k])) for k in range(len(plan.blocks))]
    assert all(region_shape(block.core)[1:] == shape[1:] for block in plan.blocks)
    assert cut.block_planes % cut.piece_planes == 0  # a chunk of a stack that is written lies in one block


def test_pieces_are_whole_chunks_when_memory_holds_them():
    needs = Needs(2)
    roomy = plan_slabs((300, 1000, 1000), needs, Places(2, 4096 * MIB), chunk_planes=64)
    assert roomy.cut.piece_planes == 64
    tight = plan_slabs((300, 1000, 1000), needs, Places(2, PROCESS_BYTES + 100 * MIB), chunk_planes=64)
    assert tight.cut.piece_planes < 64


def test_blocks_are_few_but_enough_to_share_out():
    needs = Needs(2, plane_bytes=8_000)
    large = plan_slabs((40_000, 1000, 1000), needs, Places(4, 4096 * MIB))
    assert large.plan.core[0] * 1e6 == pytest.approx(BLOCK_VOXELS, rel=0.1)
    small = plan_slabs((400, 1000, 1000), needs, Places(4, 4096 * MIB))
    assert len(small.plan.blocks) >= 4 * BLOCKS_A_WORKER
    everywhere = plan_slabs((400, 1000, 1000), needs, Places(4, 4096 * MIB, machines=5))
    assert len(everywhere.plan.blocks) >= 20 * BLOCKS_A_WORKER


def test_a_cut_stays_and_workers_follow_the_memory():
    shape, needs = (300, 1000, 1000), Needs(2, plane_bytes=8_000)
    first = plan_slabs(shape, needs, Places(8, 8192 * MIB), chunk_planes=16)
    assert first.plan.workers == 8
    fewer = plan_slabs(shape, needs, Places(8, PROCESS_BYTES + 300 * MIB), cut=first.cut)
    assert fewer.cut == first.cut
    assert fewer.plan.blocks == first.plan.blocks
    assert 1 <= fewer.plan.workers < 8
    assert fewer.plan.bytes_total <= PROCESS_BYTES + 300 * MIB
    with pytest.raises(
        MemoryBudgetError, match=r"does not hold the blocks of 16 planes that the unfinished run has: .* -f \(--force\)"
    ):
        plan_slabs(shape, needs, Places(8, PROCESS_BYTES + 50 * MIB), cut=first.cut)


def test_the_message_names_the_smallest_memory():
    with pytest.raises(
        MemoryBudgetError, match=r"does not hold a plane of 5000 x 4000 voxels: give at least --memory"
    ) as caught:
        plan_slabs((10, 5000, 4000), Needs(1), Places(2, PROCESS_BYTES))
    assert math.isclose(int(str(caught.value).split()[-1].removesuffix("MiB")), PROCESS_BYTES / MIB + 105, abs_tol=10)


def test_places_of_pools():
    assert places_of(ThreadPool(3), None, 7) == Places(3, 7)
    assert places_of(SerialPool(3), 8, None) == Places(1, default_memory())
    assert places_of(ProcessPool(3), 2, 7) == Places(2, 7, processes=True)
    cluster = SimpleNamespace(kind="dask", workers=4, machines=5, share=lambda memory: (memory or 99) - 1)
    assert places_of(cluster, None, None) == Places(4, 98, machines=5)
    assert places_of(cluster, None, 7) == Places(4, 6, machines=5)
