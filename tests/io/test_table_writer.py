"""Tables from parts: the same bytes however rows are dealt out, and none of them when something goes wrong."""

import csv
import errno
import io
import os
import tracemalloc
from itertools import pairwise

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.errors import OutputError
from cytolith.io import table_writer
from cytolith.io.tables import TableWriter, read_table, write_table

SUFFIXES = (".parquet", ".csv")
NUMBERS = np.random.default_rng(9)


def table(rows, *, text=True):
    numbers = np.random.default_rng(rows)
    columns = {
        "z": np.where(numbers.random(rows) < 0.2, np.nan, numbers.normal(size=rows) * 10.0 ** numbers.integers(-9, 20)),
        "size": numbers.integers(-(2**62), 2**62, rows),
        "level": numbers.random(rows).astype("float32"),
        "truncated": numbers.random(rows) < 0.5,
        "small": numbers.integers(0, 255, rows, "uint8"),
    }
    if text:
        columns["region"] = np.array([("", "CA1", 'say "x", y', "longer than others")[k % 4] for k in range(rows)], str)
    return columns


def parts_of(columns, cuts):
    rows = len(columns["z"])
    ends = [0, *sorted(cut % (rows + 1) for cut in cuts), rows]
    for start, stop in pairwise(ends):
        part = {name: column[start:stop] for name, column in columns.items()}
        if "region" in part:  # texts are as wide as the longest of their part
            part["region"] = np.array(part["region"].tolist(), str)
        yield part


def write_parts(path, parts, metadata=None):
    with TableWriter(path, metadata) as writer:
        for part in parts:
            writer.write(part)
    return writer.rows


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=100)
@given(
    rows=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 60), max_size=12),
    group=st.integers(1, 20),
    text=st.booleans(),
)
def test_bytes_depend_on_the_rows_alone(tmp_path_factory, suffix, rows, cuts, group, text):
    folder = tmp_path_factory.mktemp("tables")
    columns = table(rows, text=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_writer, "ROWS_IN_GROUP", group)
        assert write_parts(folder / f"parts{suffix}", parts_of(columns, cuts), {"made": "here"}) == rows
        write_table(columns, folder / f"whole{suffix}", {"made": "here"})
    assert (folder / f"parts{suffix}").read_bytes() == (folder / f"whole{suffix}").read_bytes()
    if suffix == ".parquet":
        found = pyarrow.parquet.read_metadata(folder / "parts.parquet")
        sizes = [found.row_group(number).num_rows for number in range(found.num_row_groups)]
        assert [size for size in sizes if size] == [min(group, rows - start) for start in range(0, rows, group)]
        back, metadata = read_table(folder / "parts.parquet")
        assert metadata == {"made": "here"}
        for name, column in columns.items():
            assert back[name].dtype.kind == column.dtype.kind
            np.testing.assert_array_equal(back[name], column)


def csv_of(columns):
    """Row by row with the csv module of Python, as slow as it is plain."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        lines.writerow(
            [
                "" if value != value else str(value).lower() if isinstance(value, np.bool) else str(value)
                for value in row
            ]
        )
    return file.getvalue().encode()


@pytest.mark.parametrize("names", [None, ["z"], ["level", "truncated"], ["region"], ["size", "region"], ["small", "z"]])
def test_csv_is_what_python_writes(tmp_path, names):
    columns = {name: column for name, column in table(9000).items() if names is None or name in names}
    for name in ("z", "level"):
        if name in columns:
            columns[name][:6] = [np.nan, np.inf, -np.inf, -0.0, 1e16, 1e-5]
    write_table(columns, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == csv_of(columns)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_real_row_groups(tmp_path, suffix):
    rows = 2 * table_writer.ROWS_IN_GROUP + 3
    columns = {"z": NUMBERS.random(rows), "n": np.arange(rows)}
    write_table(columns, tmp_path / f"whole{suffix}")
    write_parts(tmp_path / f"parts{suffix}", parts_of(columns, [1, 5000, 200_000, 200_001]))
    assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    np.testing.assert_array_equal(read_table(tmp_path / f"parts{suffix}")[0]["n"], columns["n"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_follows_the_row_group(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(table_writer, "ROWS_IN_GROUP", 2000)
    monkeypatch.setattr(table_writer, "_ROWS_AT_ONCE", 500)
    part = {"z": NUMBERS.random(70), "n": np.arange(70)}
    peaks = []
    for count in (100, 1500):
        tracemalloc.start()
        write_parts(tmp_path / f"a{suffix}", (part for _ in range(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000  # the rows more would be 1.6 MB; a row group is noted in the footer


def test_parts_may_be_reused_by_who_gave_them(tmp_path):
    """A part that is held back is a copy."""
    column = np.zeros(3)
    with TableWriter(tmp_path / "a.parquet") as writer:
        for number in range(4):
            column[:] = number
            writer.write({"a": column})
    assert read_table(tmp_path / "a.parquet")[0]["a"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_part_and_parts_without_rows(tmp_path, suffix):
    write_parts(tmp_path / f"none{suffix}", [])
    write_table({}, tmp_path / f"no columns{suffix}")
    assert (tmp_path / f"none{suffix}").read_bytes() == (tmp_path / f"no columns{suffix}").read_bytes()
    empty = table(0)
    write_parts(tmp_path / f"parts{suffix}", [empty] * 3)
    write_table(empty, tmp_path / f"empty{suffix}")
    assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"empty{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"a": np.zeros(2), "c": np.zeros(2)}, r"the columns are a float64, c float64, but were a float64, b int64"),
        ({"b": np.zeros(2, int), "a": np.zeros(2)}, "the columns are b int64, a float64, but were"),
        ({"a": np.zeros(2, "float32"), "b": np.zeros(2, int)}, "are a float32, b int64, but were a float64"),
        ({"a": np.zeros(2), "b": np.array(["x", "y"])}, "b text, but were"),
        ({}, "the columns are none, but were"),
        ({"a": np.zeros(2), "b": np.zeros(3, int)}, "same length, not a 2, b 3"),
        ({"a": np.zeros((2, 2)), "b": np.zeros(2, int)}, "'a' has the shape"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, suffix, part, text):
    with pytest.raises(ValueError, match=text):
        write_parts(tmp_path / f"a{suffix}", [{"a": np.zeros(2), "b": np.zeros(2, int)}, part])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt(), OSError(5, "of something else")])
def test_what_goes_wrong_elsewhere_leaves_the_old_table(tmp_path, monkeypatch, suffix, error):
    monkeypatch.setattr(table_writer, "ROWS_IN_GROUP", 5)
    path = tmp_path / f"a{suffix}"
    write_table({"a": np.ones(3)}, path)
    before = path.read_bytes()

    def parts():
        yield {"a": np.zeros(13)}
        raise error

    with pytest.raises(type(error)) as caught:
        write_parts(path, parts())
    assert caught.value is error
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rows", [3, 10_000, 200_000])
def test_a_disk_that_fills_up(tmp_path, monkeypatch, suffix, rows):
    """While rows are written, and at the end when the last of them are."""
    monkeypatch.setattr(table_writer, "ROWS_IN_GROUP", 50_000)
    (tmp_path / f"a{suffix}.partial").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=rf"a\{suffix}: cannot be written: the disk is full") as caught:
        write_parts(tmp_path / f"a{suffix}", [{"a": NUMBERS.random(rows)}] * 3)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full_at_the_end(tmp_path, monkeypatch, suffix):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=rf"a\{suffix}: cannot be written: the disk is full"):
        write_parts(tmp_path / f"a{suffix}", [table(3)])
    assert not list(tmp_path.iterdir())


def test_wrong_use(tmp_path):
    with pytest.raises(OutputError, match=r"a\.npy: \.npy is no kind of table; known: \.parquet, \.csv"):
        TableWriter(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="is used as a context"):
        TableWriter(tmp_path / "a.csv").write(table(3))
    with pytest.raises(OutputError, match=r"none[/\\]a\.csv: cannot be written: (No such file|The system cannot find)"):
        write_parts(tmp_path / "none" / "a.csv", [])
    assert not list(tmp_path.iterdir())
