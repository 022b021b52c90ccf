"""Stretches of blocks: each lane in order, the longest shared when one is done."""

from hypothesis import given
from hypothesis import strategies as st

from cytolith.engine.grid import tile
from cytolith.engine.queue import BlockQueue


def blocks(count):
    return tile((count, 1, 1), (1, 1, 1), (0, 0, 0)) if count else []


@given(st.integers(0, 40), st.integers(1, 7), st.data())
def test_every_block_is_given_once_whatever_lane_asks(count, lanes, data):
    queue = BlockQueue(blocks(count), lanes)
    taken = []
    while len(queue):
        block = queue.take(data.draw(st.integers(0, lanes + 2)))
        assert block is not None
        taken.append(block.index)
    assert sorted(taken) == list(range(count))
    assert all(queue.take(lane) is None for lane in range(lanes))


def test_lanes_are_stretches_in_order():
    queue = BlockQueue(blocks(10), 3)
    assert [queue.take(1).index for _ in range(3)] == [3, 4, 5]
    assert queue.take_own(1) is None
    assert [queue.take(0).index, queue.take(2).index] == [0, 6]


def test_an_empty_lane_takes_the_far_half_of_the_longest():
    queue = BlockQueue(blocks(10), 2)
    for _ in range(5):
        queue.take(0)
    assert [queue.take(0).index for _ in range(3)] == [7, 8, 9]
    assert [queue.take(1).index for _ in range(2)] == [5, 6]
    assert len(queue) == 0


def test_peek_takes_nothing():
    queue = BlockQueue(blocks(2), 1)
    assert queue.peek() is queue.peek() is queue.take(0)
    queue.take(0)
    assert queue.peek() is None
