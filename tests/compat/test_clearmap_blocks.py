"""Block layouts of ClearMap's processing parameters, against recorded ones and what any layout must be."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytolith.compat.clearmap import default_cell_detection_processing_parameter as defaults
from cytolith.compat.clearmap_blocks import Processing, split_axis
from cytolith.errors import ConfigError


def test_recorded_layouts(shared):
    path = shared / "golden" / "clearmap" / "block_sizes.json"
    if not path.exists():
        pytest.skip("no recorded layouts of ClearMap")
    recorded = json.loads(path.read_text())
    assert len(recorded) == 468
    for each in recorded:
        found = split_axis(each["size"], processes=each["processes"], **each["kwargs"])
        assert [list(block.range) for block in found] == each["blocks"], each
        assert [list(block.valid) for block in found] == each["valid"], each


@given(
    st.integers(1, 500),
    st.integers(2, 120),
    st.one_of(st.none(), st.just("fixed"), st.integers(1, 120)),
    st.integers(0, 60),
    st.booleans(),
    st.sampled_from(["all", None, "decrease", "increase"]),
    st.integers(1, 9),
)
def test_valid_ranges_partition_the_axis(size, size_max, size_min, overlap, optimization, fix, processes):
    largest, shared = min(size_max, size), min(overlap, size - 1)
    smallest = shared + 1 if size_min in (None, "fixed") else size_min
    if shared >= largest or not (shared < smallest <= largest or size <= smallest):
        with pytest.raises(ConfigError):
            split_axis(size, size_max, size_min, overlap)
        return
    found = split_axis(
        size, size_max, size_min, overlap, optimization=optimization, optimization_fix=fix, processes=processes
    )
    assert [block.valid[0] for block in found] == [0, *(block.valid[1] for block in found[:-1])]
    assert found[-1].valid[1] == size
    for block in found:
        assert block.range[0] <= block.valid[0] <= block.valid[1] <= block.range[1]
        assert block.range[1] - block.range[0] <= size_max
    if size_min == "fixed" and len(found) > 1:
        assert {block.range[1] - block.range[0] for block in found} == {size_max}


def test_more_blocks_for_more_processes():
    counts = {fix: len(split_axis(300, 100, 50, 32, optimization_fix=fix, processes=8)) for fix in ("all", "increase")}
    assert counts == {"all": 8, "increase": 4}  # 4 is half of 8: decrease; the other branch does nothing
    assert len(split_axis(300, 100, 50, 32, processes=8, optimization=False)) == 4
    assert len(split_axis(300, 100, 50, 32, processes=16)) == 4  # less than half of 16
    assert split_axis(300, 100, 50, 32) == split_axis(300, 100, 50, 32, processes=os.cpu_count())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((500, 100, 50, 100), "overlap"), ((500, 100, 30, 32), "size_min"), ((500, 100, 101, 32), "size_min")],
)
def test_sizes_that_do_not_go_together(sizes, message):
    with pytest.raises(ConfigError, match=rf"'{message}'.*along z"):
        split_axis(*sizes, name="z")


def processing(**given):
    return Processing.of(given, defaults)


def test_layout_in_three_axes():
    """C order of the grid, the last axis fastest, as recorded for sizes that differ along the axes."""
    blocks = processing(
        axes="all", size_max=(90, 70, 14), size_min=(50, 40, 9), overlap=(20, 16, 6), processes=1
    ).layout((160, 160, 26), 2)
    cores = [[(axis.valid[0], axis.valid[1]) for axis in block.axes] for block in blocks]
    assert len(blocks) == 2 * 3 * 3
    assert [core[2][0] for core in cores[:4]] == [0, *sorted({core[2][0] for core in cores})[1:], 0]
    assert blocks[0].core == tuple(slice(*axis.valid) for axis in blocks[0].axes[::-1])
    assert blocks[-1].covered == tuple(slice(*axis.range) for axis in blocks[-1].axes[::-1])
    owned = np.zeros((26, 160, 160), int)
    for block in blocks:
        owned[block.core] += 1
    assert (owned == 1).all()


def test_axes():
    shape = (210, 220, 230)
    split = {
        name: processing(axes=axes, processes=1).layout(shape, slowest=0) for name, axes in (("z", [2]), ("slow", None))
    }
    for name, axis in (("z", 2), ("slow", 0)):
        whole = [block.axes[other].range == (0, shape[other]) for block in split[name] for other in {0, 1, 2} - {axis}]
        assert all(whole)
        assert len(split[name]) == len(split_axis(shape[axis], processes=1)) > 1
    assert processing(axes=[2], processes=1).layout((5, 6, 7), 2)[0].covered == (slice(0, 7), slice(0, 6), slice(0, 5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"proceses": 2}, "unknown name 'proceses'; did you mean 'processes'"),
        ({"axes": 2}, r"'axes'\]: 2 given; a list"),
        ({"axes": [0, 3]}, "'axes'"),
        ({"axes": "none"}, "'axes'"),
        ({"processes": 0}, "'processes'.*from 1"),
        ({"processes": 2.0}, "'processes'"),
        ({"processes": "parallel"}, "'processes'.*'serial'"),
        ({"optimization_fix": "decreas"}, "did you mean 'decrease'"),
        ({"size_max": 0}, "'size_max'.*whole number from 1"),
        ({"size_max": 50.5}, "'size_max'"),
        ({"overlap": -1}, "'overlap'.*from 0"),
        ({"overlap": (1, 2)}, r"'overlap'.*\(1, 2\) given; one number, or 1"),
        ({"size_min": "fix"}, "'size_min'"),
    ],
)
def test_wrong_parameters(given, message):
    with pytest.raises(ConfigError, match=message):
        processing(**given).layout((200, 200, 200), 2)


def test_processes():
    with pytest.raises(ConfigError, match="a dict is needed"):
        Processing.of(None, defaults)
    assert processing(processes="serial").processes == 1
    assert processing(processes=np.int64(3)).processes == 3
    assert processing().processes is None
    assert processing(size_max=np.int32(40), size_min=None, overlap=np.int32(4)).layout((9, 9, 90), 2)
