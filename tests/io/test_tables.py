import errno
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytolith.errors import OutputError, VolumeError
from cytolith.io.tables import read_points, read_table, read_voxel_size, write_table

SUFFIXES = (".parquet", ".csv", ".npy")
TABLE = {
    "z": np.array([0.5, 1 / 3, -2e-300, 1e22]),
    "size": np.array([1, -5, 2**62, 0]),
    "source": np.array([7.0, np.nan, np.inf, -0.0]),
    "truncated": np.array([True, False, False, True]),
}
EMPTY = {"z": np.empty(0), "size": np.empty(0, np.int64), "truncated": np.empty(0, bool)}


def assert_same(read, written):
    assert list(read) == list(written)
    for name, column in written.items():
        assert read[name].dtype == column.dtype
        np.testing.assert_array_equal(read[name], column)
        assert read[name].flags.c_contiguous


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"cells{suffix}"
    write_table(TABLE, path)
    table, _ = read_table(path)
    assert_same(table, TABLE)
    assert np.signbit(table["source"][3])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), rows=st.integers(1, 8), suffix=st.sampled_from(SUFFIXES))
def test_round_trip_of_any_numbers(tmp_path, data, rows, suffix):
    kinds = {"a": np.float64, "b": np.int64, "c": np.bool_, 'odd, "name"': np.float64}
    table = {name: data.draw(hnp.arrays(kind, rows), label=name) for name, kind in kinds.items()}
    path = tmp_path / f"any{suffix}"
    write_table(table, path)
    assert_same(read_table(path)[0], table)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "float32", ">f8", "<U5"])
def test_dtypes_are_kept(tmp_path, suffix, dtype):
    column = np.array([1, 2, 3]).astype(dtype)
    write_table({"a": column}, tmp_path / f"a{suffix}")
    read = read_table(tmp_path / f"a{suffix}")[0]["a"]
    assert read.dtype.kind == column.dtype.kind
    if column.dtype.kind != "U":
        assert read.dtype == column.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read, column)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_table_same_bytes(tmp_path, suffix):
    big = {"z": np.random.default_rng(0).random(70_000), "n": np.arange(70_000)}
    for name in ("a", "b"):
        write_table(big, tmp_path / f"{name}{suffix}", {"made": "here"})
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert_same(read_table(tmp_path / f"a{suffix}")[0], big)


def test_empty_tables_keep_their_columns(tmp_path):
    for suffix in (".parquet", ".npy"):
        write_table(EMPTY, tmp_path / f"none{suffix}")
        assert_same(read_table(tmp_path / f"none{suffix}")[0], EMPTY)
    write_table(EMPTY, tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_bytes() == b"z,size,truncated\n"
    assert {name: len(column) for name, column in read_table(tmp_path / "none.csv")[0].items()} == dict.fromkeys(
        EMPTY, 0
    )


def test_csv_text(tmp_path):
    columns = TABLE | {
        "f": np.array([0.1, 1, 3.4e38, np.nan], np.float32),
        "region": np.array(["CA1", "", "a,b", 'say "x"']),
    }
    write_table(columns, tmp_path / "cells.csv")
    assert (tmp_path / "cells.csv").read_bytes().decode() == (
        "z,size,source,truncated,f,region\n"
        "0.5,1,7.0,true,0.1,CA1\n"
        "0.3333333333333333,-5,,false,1.0,\n"
        '-2e-300,4611686018427387904,inf,false,3.4e+38,"a,b"\n'
        '1e+22,0,-0.0,true,,"say ""x"""\n'
    )
    table, _ = read_table(tmp_path / "cells.csv")
    assert table["region"].tolist() == ["CA1", "", "a,b", 'say "x"']


def test_metadata_travels_with_parquet(tmp_path):
    notes = {"voxel_size_um": "[6.0, 1.62, 1.62]", "cytolith": "1.0", "unit": "µm"}
    write_table(TABLE, tmp_path / "a.parquet", notes)
    table, metadata = read_table(tmp_path / "a.parquet")
    assert metadata == notes
    write_table(table, tmp_path / "b.parquet", metadata)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_voxel_size(tmp_path / "a.parquet") == (6.0, 1.62, 1.62)


@pytest.mark.parametrize("note", [None, "null", "[1, 2]", "[1, 2, 0]", "[1, 2, NaN]", "6", '["a", 1, 1]', "{"])
def test_no_voxel_size(tmp_path, note):
    write_table(TABLE, tmp_path / "a.parquet", {} if note is None else {"voxel_size_um": note})
    assert read_voxel_size(tmp_path / "a.parquet") is None


def test_pandas_opens_parquet_with_the_right_dtypes(tmp_path):
    pandas = pytest.importorskip("pandas")
    for name, table in (("full", TABLE), ("empty", EMPTY)):
        write_table(table, tmp_path / f"{name}.parquet", {"a": "b"})
        frame = pandas.read_parquet(tmp_path / f"{name}.parquet")
        assert {n: str(d) for n, d in frame.dtypes.items()} == {n: str(c.dtype) for n, c in table.items()}
        assert len(frame) == len(table["z"])


def test_parquet_is_zstd(tmp_path):
    write_table(TABLE, tmp_path / "a.parquet")
    assert pyarrow.parquet.read_metadata(tmp_path / "a.parquet").row_group(0).column(0).compression == "ZSTD"


def test_a_frame_written_by_pandas_is_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"z": [1, 2], "flag": [True, None], "when": pandas.to_datetime(["2020-01-02"] * 2)})
    frame.to_parquet(tmp_path / "a.parquet")
    table, metadata = read_table(tmp_path / "a.parquet")
    assert metadata == {}
    assert table["z"].tolist() == [1, 2]
    assert table["flag"][0] == 1
    assert np.isnan(table["flag"][1])
    assert table["when"].dtype.kind == "U"


def test_missing_values_of_a_csv(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"n,empty,text,day\r\n1,,a,2020-01-02\r\n,,b,\r\n")
    table, _ = read_table(tmp_path / "a.csv")
    np.testing.assert_array_equal(table["n"], [1, np.nan])
    np.testing.assert_array_equal(table["empty"], [np.nan, np.nan])
    assert table["text"].tolist() == ["a", "b"]
    assert table["day"].tolist() == ["2020-01-02", ""]


def test_unknown_suffix(tmp_path):
    with pytest.raises(OutputError, match=r"cells\.xlsx: \.xlsx .*known: \.parquet, \.csv, \.npy"):
        write_table(TABLE, tmp_path / "cells.xlsx")
    assert not list(tmp_path.iterdir())
    for name in ("cells", "cells.xlsx"):
        with pytest.raises(VolumeError, match=rf"{name}: no such file"):
            read_table(tmp_path / name)
    (tmp_path / "cells").touch()
    with pytest.raises(VolumeError, match=r"no suffix .*known: \.parquet, \.csv, \.npy"):
        read_table(tmp_path / "cells")


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(VolumeError, match="is a folder; give the table in it"):
        read_table(tmp_path)
    write_table(TABLE, tmp_path / "cells.csv")
    with pytest.raises(VolumeError, match=r"is a folder; give .*cells\.csv"):
        read_table(tmp_path)


def test_columns_that_are_no_table(tmp_path):
    with pytest.raises(ValueError, match="same length, not a 1, b 2"):
        write_table({"a": np.zeros(1), "b": np.zeros(2)}, tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"'a' has the shape \(2, 2\)"):
        write_table({"a": np.zeros((2, 2))}, tmp_path / "a.csv")
    with pytest.raises(ValueError, match="'a' holds complex128"):
        write_table({"a": np.zeros(2, complex)}, tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_named_and_the_old_table_stays(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"cells{suffix}"
    write_table(TABLE, path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=rf"cells\{suffix}.*the disk is full") as caught:
        write_table(EMPTY, path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"none/cells\.csv"):
        write_table(TABLE, tmp_path / "none" / "cells.csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_no_tables(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(VolumeError, match="no such file"):
        read_table(path)
    path.write_bytes(b"")
    with pytest.raises(VolumeError, match=rf"a\{suffix}: cannot be read as a table") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(b'a,b\n"1,2,3\n4\xff' * 3)
    with pytest.raises(VolumeError, match="cannot be read as a table"):
        read_table(path)


def test_half_a_parquet_is_refused(tmp_path):
    write_table(TABLE, tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-40])
    with pytest.raises(VolumeError, match=r"a\.parquet"):
        read_table(tmp_path / "a.parquet")


def test_a_plain_npy_has_no_columns(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    with pytest.raises(VolumeError, match="not rows with named columns"):
        read_table(tmp_path / "a.npy")


def test_columns_of_npy_that_tables_do_not_have(tmp_path):
    rows = np.zeros(2, [("name", "S9"), ("half", "f2"), ("long", "g"), ("day", "M8[D]"), ("big", ">i4")])
    rows["name"] = "Höhle".encode(), b"a\xff"
    rows["half"], rows["long"], rows["big"] = 0.5, 0.25, 7
    np.save(tmp_path / "a.npy", rows)
    table, _ = read_table(tmp_path / "a.npy")
    assert table["name"].tolist() == ["Höhle", "a\ufffd"]
    assert [table[name].dtype.kind for name in rows.dtype.names] == ["U", "f", "f", "U", "i"]
    assert (table["half"].dtype, table["long"].dtype) == (np.float32, np.float64)
    assert table["day"].tolist() == ["1970-01-01"] * 2
    write_table(table, tmp_path / "a.csv")
    np.save(tmp_path / "none.npy", rows[:0])
    assert {name: column.shape for name, column in read_table(tmp_path / "none.npy")[0].items()} == dict.fromkeys(
        rows.dtype.names, (0,)
    )
    for odd in ("c16", "V3", "2f8", "2S4", "3f2"):
        np.save(tmp_path / "b.npy", np.zeros(2, [("z", "f8"), ("odd", odd)]))
        with pytest.raises(VolumeError, match=r"column 'odd' holds .*; leave that column out"):
            read_table(tmp_path / "b.npy")


def test_a_doubled_column_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("z,y,z\n1,2,3\n")
    with pytest.raises(VolumeError, match="'z' is there 2 times"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "header", ["x,y,z", "X,Y,Z", "centroid-2,centroid-1,centroid-0", " x , y , z ", "axis-2,axis-1,axis-0"]
)
def test_points_by_name(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"id,{header}\n9,3,2,1\n9,6,5.5,4\n")
    points = read_points(tmp_path / "a.csv")
    assert points.dtype == np.float64
    assert points.flags.c_contiguous
    assert points.tolist() == [[1, 2, 3], [4, 5.5, 6]]


def test_points_of_parquet_and_npy(tmp_path):
    rows = np.array([(1, 2, 3, 4)], [("x", "i8"), ("y", "i8"), ("z", "i8"), ("size", "i8")])
    np.save(tmp_path / "a.npy", rows)
    assert read_points(tmp_path / "a.npy").tolist() == [[3, 2, 1]]
    pyarrow.parquet.write_table(pa.table({"z": [1.0], "y": [2], "x": [3]}), tmp_path / "a.parquet")
    assert read_points(tmp_path / "a.parquet").tolist() == [[1, 2, 3]]


def test_the_exact_name_wins(tmp_path):
    (tmp_path / "a.csv").write_text("Z,z,y,x\n9,1,2,3\n")
    assert read_points(tmp_path / "a.csv").tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y,x\n1,2\n", "no column 'z' for positions; it has the columns y, x"),
        ("z;y;x\n1;2;3\n", "no column 'z'.*z;y;x"),
        ("z,y,x\na,2,3\n", "'z' holds .*, not numbers"),
        ("z,y,x\n1,2,3\n4,,6\n", "row 2 has no position: 1 of 2 rows"),
    ],
)
def test_points_that_are_none(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(VolumeError, match=rf"a\.csv: .*{message}"):
        read_points(tmp_path / "a.csv")


def test_annotations_of_real_volumes(shared):
    path = shared / "data" / "cells" / "delivr" / "cfos_695_cells.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    points = read_points(path)
    assert points.shape == (443, 3)
    assert points[0].tolist() == [0.654, 25.808, 34.038]
