"""A worker reads the next block while it computes, and planes that two blocks need only once."""

import threading
import time

import numpy as np
import pytest

from cytolith.cells import reader as module
from cytolith.cells.build import build_config
from cytolith.cells.reader import AheadReader, Reader
from cytolith.engine.grid import tile
from cytolith.errors import VolumeError
from cytolith.io.volume import open_volume

VOLUME = np.random.default_rng(2).integers(0, 60_000, (23, 9, 11), np.uint16)


class Counting(Reader):
    """Notes the planes that are really read, and in which thread."""

    def __init__(self, array):
        super().__init__(open_volume(array), build_config())
        self.planes, self.threads = [], []

    def read_planes(self, region, first, image):
        self.planes += range(region[0].start + first, region[0].stop)
        self.threads.append(threading.current_thread().name)
        super().read_planes(region, first, image)


def read_all(blocks, reader, announce=True):
    ahead = AheadReader(reader)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        image, mask = ahead.take(block, following if announce else None)
        assert mask is None
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, VOLUME[block.read])


@pytest.mark.parametrize("announce", [True, False])
def test_planes_of_two_blocks_are_read_once(announce):
    reader = Counting(VOLUME)
    blocks = tile(VOLUME.shape, (5, 9, 11), (3, 2, 2))
    assert sum(block.read[0].stop - block.read[0].start for block in blocks) > 23
    read_all(blocks, reader, announce)
    assert reader.planes == list(range(23))
    assert sum(name.startswith("read") for name in reader.threads) == (len(blocks) - 1 if announce else 0)


def test_blocks_side_by_side_and_out_of_order_are_right():
    blocks = tile(VOLUME.shape, (7, 4, 6), (3, 2, 2))
    read_all(blocks, Counting(VOLUME))
    read_all(blocks[::-1], Counting(VOLUME))
    order = np.random.default_rng(1).permutation(len(blocks))
    read_all([blocks[k] for k in order], Counting(VOLUME))


def test_a_block_that_was_announced_and_goes_to_another_worker():
    blocks = tile(VOLUME.shape, (5, 9, 11), (3, 2, 2))
    ahead = AheadReader(Counting(VOLUME))
    ahead.take(blocks[0], blocks[1])
    image, _ = ahead.take(blocks[3], blocks[4])
    np.testing.assert_array_equal(image, VOLUME[blocks[3].read])
    image, _ = ahead.take(blocks[4], None)
    np.testing.assert_array_equal(image, VOLUME[blocks[4].read])


def test_a_region_read_again_waits_for_the_planes_that_the_next_block_takes_over(monkeypatch):
    copy = np.copyto

    def slow(*arguments, **more):
        if threading.current_thread().name.startswith("read"):
            time.sleep(0.05)  # as when the reading thread gets its turn late
        copy(*arguments, **more)

    monkeypatch.setattr(module.np, "copyto", slow)
    blocks = tile(VOLUME.shape, (5, 9, 11), (3, 2, 2))
    ahead = AheadReader(Counting(VOLUME))
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        image, _ = ahead.take(block, following)
        np.testing.assert_array_equal(image, VOLUME[block.read])
        image, _ = ahead.again(blocks[-1])
        np.testing.assert_array_equal(image, VOLUME[blocks[-1].read])


def test_an_error_is_that_of_the_block_that_has_it_and_passes_with_it():
    array = VOLUME.astype(np.float32)
    array[13, 4, 5] = np.nan
    blocks = tile(VOLUME.shape, (5, 9, 11), (0, 0, 0))
    ahead = AheadReader(Counting(array))
    ahead.take(blocks[0], blocks[1])
    ahead.take(blocks[1], blocks[2])
    with pytest.raises(VolumeError, match="plane 13 has a voxel that is no finite number"):
        ahead.take(blocks[2], blocks[3])
    image, _ = ahead.take(blocks[3], None)
    np.testing.assert_array_equal(image, array[blocks[3].read])
