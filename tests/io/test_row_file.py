"""Scratch files of rows: what is written is read, in any order, and the disk's refusals are told in one line."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cytolith.errors import OutputError
from cytolith.io.row_file import RowFile

SHAPE = (23, 5)


@pytest.fixture
def rows(tmp_path):
    with RowFile(tmp_path / "map.rows", SHAPE, np.int32) as file:
        yield file


def numbers(shape=SHAPE, dtype=np.int32):
    return np.arange(shape[0] * shape[1], dtype=dtype).reshape(shape)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_rows_come_back_whatever_the_order(tmp_path, dtype):
    expected = numbers(dtype=dtype)
    with RowFile(tmp_path / "map.rows", SHAPE, dtype) as file:
        for start, stop in [(17, 23), (0, 4), (4, 4), (5, 17), (4, 5)]:
            file.write(start, expected[start:stop])
        assert file.path.read_bytes() == expected.tobytes()
        part = file.read(3, 9)
        assert part.dtype == dtype
        np.testing.assert_array_equal(part, expected[3:9])
        assert file.read(7, 7).shape == (0, 5)


def test_rows_never_written_are_zero_and_take_no_room(tmp_path):
    (tmp_path / "map.rows").write_bytes(b"left by a run that was killed")
    with RowFile(tmp_path / "map.rows", (1 << 20, 1 << 10), np.float64) as file:
        assert file.path.stat().st_size == 8 << 30
        assert file.path.stat().st_blocks * 512 < 1 << 20
        assert not file.read(0, 3).any()
        assert not file.read((1 << 20) - 3, 1 << 20).any()


@pytest.mark.parametrize("at_once", [1, 7, 23, 100])
def test_strips_cover_all_rows_in_order(rows, at_once):
    rows.write(0, numbers())
    strips = list(rows.strips(at_once))
    assert [start for start, _ in strips] == list(range(0, 23, at_once))
    np.testing.assert_array_equal(np.concatenate([strip for _, strip in strips]), numbers())


def test_what_is_read_is_a_copy(rows):
    rows.read(0, 2)[:] = 7
    assert not rows.read(0, 2).any()


def test_other_dtypes_and_memory_orders_are_converted(rows):
    rows.write(0, np.asfortranarray(numbers().astype(np.float64)))
    np.testing.assert_array_equal(rows.read(0, 23), numbers())


def test_threads_write_and_read_at_once(tmp_path):
    expected = numbers((400, 301), np.float64)
    with RowFile(tmp_path / "map.rows", expected.shape, np.float64) as file, ThreadPoolExecutor(8) as pool:

        def turn(row):
            file.write(row, expected[row : row + 1])
            return file.read(row, row + 1)

        np.testing.assert_array_equal(np.concatenate(list(pool.map(turn, range(400)))), expected)


def test_transfers_that_stop_half_way_go_on(rows, monkeypatch):
    # the system moves at most 2 GiB in one call
    preadv, pwrite = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda fd, into, at: preadv(fd, [into[0][:13]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:11], at))
    rows.write(0, numbers())
    np.testing.assert_array_equal(rows.read(0, 23), numbers())


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (22, 24), (5, 4)])
def test_rows_outside_are_refused(rows, start, stop):
    with pytest.raises(ValueError, match="not inside 0:23"):
        rows.read(start, stop)


@pytest.mark.parametrize("wrong", [np.zeros((2, 6)), np.zeros(5), np.zeros((2, 5, 1))])
def test_rows_of_another_width_are_refused(rows, wrong):
    with pytest.raises(ValueError, match="rows of 5 cells"):
        rows.write(0, wrong)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_a_map_without_cells_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="at least one row"):
        RowFile(tmp_path / "map.rows", shape, np.uint8)
    assert not list(tmp_path.iterdir())


def test_full_disk_is_said(rows, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match=r"map\.rows: cannot be written: the disk is full$"):
        rows.write(0, numbers())


def test_full_disk_at_the_start_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(OutputError, match="File too large"):
        RowFile(tmp_path / "map.rows", SHAPE, np.uint8)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        RowFile(tmp_path / "nowhere" / "map.rows", SHAPE, np.uint8)
    with pytest.raises(OutputError, match="nowhere: no scratch file can be made there"):
        RowFile.temporary(tmp_path / "nowhere", SHAPE, np.uint8)


def test_file_cut_off_while_in_use_is_said(rows):
    os.truncate(rows.path, 100)
    with pytest.raises(OutputError, match="cut off while in use"):
        rows.read(0, 23)


def test_temporary_files_have_their_own_names_and_go(tmp_path):
    one, two = (RowFile.temporary(tmp_path, SHAPE, np.int32) for _ in range(2))
    assert one.path.parent == tmp_path
    assert one.path != two.path
    one.close()
    assert one.path.exists()
    one.remove()
    two.remove()
    two.remove()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is closed"):
        two.read(0, 1)
