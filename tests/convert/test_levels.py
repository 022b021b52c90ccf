"""Levels of a pyramid: how much coarser, how they are stored, and that no two blocks write into one file."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.convert.levels import lay_out, level_factors
from cytolith.convert.plan import PROCESS_BYTES, plan_file, plan_stage
from cytolith.engine.grid import tile
from cytolith.errors import ConfigError, MemoryBudgetError
from cytolith.io.volume import open_volume
from cytolith.quantities import parse_region


class Sparse:
    """An array of any extent that takes no memory."""

    dtype = "uint16"

    def __init__(self, shape, chunks=None):
        self.shape, self.chunks = shape, chunks

    def __getitem__(self, region):
        raise AssertionError


@pytest.mark.parametrize(
    ("shape", "voxel_size", "count", "factors"),
    [
        ((256, 256, 256), None, None, [(1, 1, 1)]),
        ((257, 20, 20), None, None, [(1, 1, 1), (2, 2, 2)]),
        ((300, 1100, 1300), (6, 1.62, 1.62), None, [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)]),
        ((300, 1000, 1000), (8, 2, 1), None, [(1, 1, 1), (1, 1, 2), (1, 2, 4), (1, 4, 8), (2, 8, 16)]),
        (
            (1000, 1000, 1000),
            (2, 1, 1),
            None,
            [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)],
        ),  # exactly twice
        ((1, 600, 600), None, None, [(1, 1, 1), (1, 2, 2), (1, 4, 4)]),
        ((2, 2, 3), None, 9, [(1, 1, 1), (2, 2, 2), (2, 2, 4)]),
        ((900, 900, 900), None, 1, [(1, 1, 1)]),
        ((10, 10, 10), None, 3, [(1, 1, 1), (2, 2, 2), (4, 4, 4)]),
    ],
)
def test_factors(shape, voxel_size, count, factors):
    assert level_factors(shape, voxel_size, count) == factors


def test_default_layout():
    pyramid = lay_out((2000, 4000, 5000), None, 2)
    assert [level.grid.shards for level in pyramid.levels] == [
        (256, 512, 512), (128, 256, 256), (64, 128, 128), (128, 256, 256), (64, 128, 128), (63, 125, 256),
    ]  # fmt: skip
    assert [(stage.source, stage.levels) for stage in pyramid.stages] == [(None, (0, 1, 2)), (2, (3, 4)), (4, (5,))]


EXTENT = st.integers(1, 60)


@settings(max_examples=60)
@given(
    st.tuples(EXTENT, EXTENT, EXTENT),
    st.tuples(*[st.sampled_from([1.0, 1.62, 2.0, 3.9, 6.0, 25.0])] * 3),
    st.tuples(*[st.sampled_from([1, 3, 4, 16])] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.booleans(),
    st.integers(1, 7),
    st.tuples(*[st.integers(1, 3)] * 3),
)
def test_every_level_is_made_once_of_whole_files(shape, size, chunks, times, sharded, count, many):
    shards = tuple(c * n for c, n in zip(chunks, times, strict=True)) if sharded else None
    pyramid = lay_out(shape, size, 2, chunks=chunks, shards=shards, sharded=sharded, count=count)
    assert sorted(number for stage in pyramid.stages for number in stage.levels) == list(range(len(pyramid.levels)))
    for level in pyramid.levels:
        grid = level.grid
        assert grid.shape == tuple(math.ceil(s / f) for s, f in zip(shape, level.factors, strict=True))
        assert (grid.shards is None) == (not sharded)
        assert all(f % c == 0 for f, c in zip(grid.files, grid.chunks, strict=True))
    for number, stage in enumerate(pyramid.stages):
        finer = (1, 1, 1) if stage.source is None else pyramid.levels[stage.source].factors
        read = shape if stage.source is None else pyramid.levels[stage.source].grid.shape
        assert stage.source is None or stage.source in pyramid.stages[number - 1].levels
        block = [b * n for b, n in zip(stage.block, many, strict=True)] if stage.source is None else stage.block
        for each in tile(read, tuple(block), (0, 0, 0))[:50]:
            for made in stage.levels:
                level = pyramid.levels[made]
                step = [f // g for f, g in zip(level.factors, finer, strict=True)]
                part = tuple(slice(c.start // f, -(-c.stop // f)) for c, f in zip(each.core, step, strict=True))
                assert all(c.start % f == 0 for c, f in zip(each.core, step, strict=True))
                assert level.grid.aligned(part), (pyramid, each, made)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"chunks": (64, 64, 64), "shards": (64, 100, 64)}, "--shards 64,100,64: 100 along y is no multiple of 64"),
        ({"chunks": (1024, 1024, 1024)}, "--chunks 1024,1024,1024: a chunk is compressed at once"),
        ({"count": 0}, "--levels 0: give at least 1"),
    ],
)
def test_layouts_that_cannot_be(options, text):
    with pytest.raises(ConfigError, match=text):
        lay_out((500, 500, 500), None, 2, **options)


def test_memory_is_kept_and_storage_decoded_once_where_it_allows():
    shape = (1000, 3000, 3000)
    volume = open_volume(Sparse(shape, (1, 3000, 3000)))  # planes that are decoded whole
    pyramid = lay_out(shape, None, 2)
    stage = pyramid.stages[0]
    ample = plan_stage(stage, pyramid, volume, shape, 64 * 2**30, 2)
    assert ample.core == (256, 3000, 3000)
    assert ample.workers == 2
    short = plan_stage(stage, pyramid, volume, shape, 2**30, 2)
    assert short.bytes_total <= 2**30
    assert all(c % b == 0 or c == s for c, b, s in zip(short.core, stage.block, shape, strict=True))
    one = plan_stage(stage, pyramid, volume, shape, PROCESS_BYTES + 300 * 2**20, 16)
    assert one.workers == 1
    too_small = r"does not hold a block of 256 x 512 x 512 .* or smaller --shards"
    with pytest.raises(MemoryBudgetError, match=too_small) as e:
        plan_stage(stage, pyramid, volume, shape, PROCESS_BYTES, 2)
    least = int(str(e.value).split("--memory ")[2].split("MiB")[0])
    assert plan_stage(stage, pyramid, volume, shape, least * 2**20, 2).workers == 1


def test_files_are_written_in_whole_chunks_of_what_is_read():
    shape = (1000, 3000, 3000)
    planes, chunked = open_volume(Sparse(shape, (1, 3000, 3000))), open_volume(Sparse(shape, (64, 128, 128)))
    assert plan_file(planes, shape, 2**30, 2).core[1:] == (3000, 3000)
    for memory in (2**29, 2**30, 2**34):
        plan = plan_file(chunked, shape, memory, 4)
        assert plan.bytes_total <= memory
        assert plan.core[0] % 64 == 0
        assert plan.core[1] % 128 == 0
        assert plan.core[2] == 3000
    assert plan_file(planes, shape, PROCESS_BYTES + planes.read_bytes + 10**6, 4).core == (1, 83, 3000)
    with pytest.raises(MemoryBudgetError, match="does not hold a block"):
        plan_file(planes, shape, PROCESS_BYTES, 1)


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("1:2,3:4,5:6", ((1, 2), (3, 4), (5, 6))),
        (" 1: , :4 ,:", ((1, 10), (0, 4), (0, 30))),
        ("[1:10, 0:20, 29:30]", ((1, 10), (0, 20), (29, 30))),
    ],
)
def test_regions(text, region):
    assert parse_region(text, (10, 20, 30)) == tuple(slice(*part) for part in region)


@pytest.mark.parametrize("text", ["", "1:2", "1,2,3", "1:2,3:4,5:6,7:8", "5:5,:,:", ":,:,:31", "-1:5,:,:", "a:b,:,:"])
def test_wrong_regions(text):
    with pytest.raises(ConfigError, match="--region"):
        parse_region(text, (10, 20, 30))
