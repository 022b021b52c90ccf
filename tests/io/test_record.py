"""Records: what comes back is what was written, and nothing else is taken for it."""

import errno
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytolith.errors import CytolithError, OutputError
from cytolith.io.record import RecordError, read_record, write_record

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
          "float64", ">u2", ">f8", ">i8")  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARRAYS = {"places": np.arange(6, dtype="int64").reshape(2, 3) - 4, "none": np.empty((0, 3), "float32")}
INFO = {"block": 7, "nested": {"a": [1.5, None, "ü"]}}


@settings(max_examples=150)
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("records") / "a.record"
    arrays = {
        name: data.draw(
            hnp.arrays(data.draw(st.sampled_from(DTYPES)), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
        )
        for name in data.draw(st.lists(st.text(), max_size=3, unique=True))
    }
    info = data.draw(st.dictionaries(st.text(), JSON, max_size=3))
    write_record(path, arrays, info)
    record = read_record(path)
    assert record.info == info
    assert list(record.arrays) == list(arrays)
    for name, array in arrays.items():
        back = record.arrays[name]
        assert (back.shape, back.dtype) == (array.shape, array.dtype.newbyteorder("="))
        assert (back.dtype.isnative, back.flags.c_contiguous, back.flags.writeable, back.flags.aligned) == (True,) * 4
        assert back.tobytes() == array.astype(back.dtype).tobytes()  # NaN by its bits too
    before = path.read_bytes()
    write_record(path, arrays, info)
    assert path.read_bytes() == before


def test_views_of_any_order(tmp_path):
    array = np.arange(24, dtype="uint16").reshape(2, 3, 4)
    for view in (array.T, array[:, ::2, ::-1], np.asfortranarray(array)):
        write_record(tmp_path / "a", {"a": view}, {})
        np.testing.assert_array_equal(read_record(tmp_path / "a").arrays["a"], view)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "a.record"
    write_record(path, ARRAYS, INFO)
    return path


def test_cut_off_anywhere(small):
    whole = small.read_bytes()
    for length in range(len(whole)):
        small.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=rf"a\.record: is cut off, it has {length} "):
            read_record(small)


def test_any_byte_changed(small):
    whole = bytearray(small.read_bytes())
    for place in range(len(whole)):
        for change in (1, 0x80, 0xFF):
            whole[place] ^= change
            small.write_bytes(whole)
            with pytest.raises(RecordError, match=r"a\.record: (is|was) ") as caught:
                read_record(small)
            assert "\n" not in str(caught.value)
            whole[place] ^= change
    small.write_bytes(whole)
    assert read_record(small).info == INFO


def test_bytes_added(small):
    small.write_bytes(small.read_bytes() + b"\0")
    with pytest.raises(RecordError, match="is not what was written, its checksum differs"):
        read_record(small)


def test_another_version(small):
    whole = bytearray(small.read_bytes())
    whole[17:21] = struct.pack("<I", 2)
    small.write_bytes(whole)
    with pytest.raises(RecordError, match=r"a\.record: was written by another version of cytolith"):
        read_record(small)


@pytest.mark.parametrize("content", [b"x", b"PK\x03\x04" * 50, b"\x89cytolith" + b"\0" * 100])
def test_other_files(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RecordError, match="a: is not a record of cytolith"):
        read_record(tmp_path / "a")


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(RecordError, match="b: no such record") as caught:
        read_record(tmp_path / "b")
    assert isinstance(caught.value, CytolithError)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(RecordError, match=r"cannot be read: (Is a directory|Permission denied)"):
        read_record(tmp_path)


@pytest.mark.parametrize("array", [np.array(["a"]), np.zeros(2, complex), np.array([object()]), np.zeros(1, "M8[s]"),
                                   *([np.zeros(2, np.longdouble)] if np.longdouble().itemsize > 8 else []),
                                   np.zeros(2, [("a", "u1")])])  # fmt: skip
def test_dtypes_that_have_no_place(tmp_path, array):
    with pytest.raises(ValueError, match="array 'a' holds"):
        write_record(tmp_path / "a", {"a": array}, {})
    with pytest.raises(TypeError):
        write_record(tmp_path / "a", {}, {"a": object()})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_there(small, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.record: cannot be written: the disk is full"):
        write_record(small, {}, {})
    assert read_record(small).info == INFO
    assert [left.name for left in small.parent.iterdir()] == [small.name]


def test_two_processes_write_the_same_record(tmp_path):
    """An orphan of a killed run and its successor: whoever is last, what lies there is whole at any time."""
    code = (
        "import sys, numpy as np; from pathlib import Path; from cytolith.io.record import write_record\n"
        "for number in range(60):\n"
        "    write_record(Path(sys.argv[1]), {'a': np.full(20_000, number)}, {'number': number, 'who': sys.argv[2]})"
    )
    path = tmp_path / "a"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), str(who)]) for who in range(2)]
    seen = set()
    while any(process.poll() is None for process in processes):
        if path.exists():
            record = read_record(path)
            assert (record.arrays["a"] == record.info["number"]).all()
            assert record.arrays["a"].size == 20_000
            seen.add(record.info["who"])
    assert [process.returncode for process in processes] == [0, 0]
    assert read_record(path).info["number"] == 59
    assert seen
    assert [left.name for left in tmp_path.iterdir()] == ["a"]
