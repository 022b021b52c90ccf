import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytolith.cells.select import filter_cells, parse_range
from cytolith.errors import ConfigError

TABLE = {
    "z": np.array([1.5, 2.5, 3.5, 4.5]),
    "size": np.array([10, 20, 899, 900]),
    "mean": np.array([0.0, -1.0, np.nan, 5.0]),
    "truncated": np.array([False, True, False, True]),
}

number = st.none() | st.integers(-50, 50) | st.floats(-50, 50)
limits = st.tuples(number, number).filter(lambda p: None in p or p[0] < p[1])


@settings(max_examples=150)
@given(
    a=hnp.arrays(np.float64, 12, elements=st.floats(-60, 60) | st.just(np.nan) | st.just(np.inf)),
    b=hnp.arrays(np.int64, 12, elements=st.integers(-60, 60)),
    first=limits,
    second=limits | number,
)
def test_rows_within_all_limits(a, b, first, second):
    def within(value, limit):
        low, high = limit if isinstance(limit, tuple) else (limit, None)
        return (low is None or value >= low) and (high is None or value < high)

    table = {"a": a, "b": b, "row": np.arange(12)}
    kept = filter_cells(table, {"a": first, "b": second})
    expected = [row for row in range(12) if within(a[row], first) and within(b[row], second)]
    assert kept["row"].tolist() == expected
    assert list(kept) == ["a", "b", "row"]
    assert {name: column.dtype for name, column in kept.items()} == {n: c.dtype for n, c in table.items()}
    np.testing.assert_array_equal(kept["a"], a[expected])


def test_half_open():
    assert filter_cells(TABLE, {"size": (20, 900)})["size"].tolist() == [20, 899]


@pytest.mark.parametrize(
    ("threshold", "rows"),
    [
        (20, [20, 899, 900]),
        ((20, None), [20, 899, 900]),
        ([None, 20], [10]),
        (None, [10, 20, 899, 900]),
        ((None, None), [10, 20, 899, 900]),
        (np.float64(899), [899, 900]),
        (901, []),
    ],
)
def test_kinds_of_thresholds(threshold, rows):
    assert filter_cells(TABLE, {"size": threshold})["size"].tolist() == rows


def test_zero_is_a_threshold():
    assert filter_cells(TABLE, {"mean": 0})["size"].tolist() == [10, 900]


def test_nan_is_within_no_limit():
    assert 899 not in filter_cells(TABLE, {"mean": -1e9})["size"]
    assert 899 not in filter_cells(TABLE, {"mean": (None, 1e9)})["size"]
    assert 899 in filter_cells(TABLE, {"mean": None})["size"]


def test_bool_columns():
    assert filter_cells(TABLE, {"truncated": (None, 1)})["size"].tolist() == [10, 899]


def test_no_thresholds_and_no_rows():
    assert filter_cells(TABLE, {})["size"].tolist() == [10, 20, 899, 900]
    empty = {name: column[:0] for name, column in TABLE.items()}
    kept = filter_cells(empty, {"size": (1, 2)})
    assert {name: (column.dtype, len(column)) for name, column in kept.items()} == {
        name: (column.dtype, 0) for name, column in TABLE.items()
    }


def test_the_table_given_is_left_alone():
    table = {name: column.copy() for name, column in TABLE.items()}
    filter_cells(table, {"size": 20})
    for name, column in TABLE.items():
        np.testing.assert_array_equal(table[name], column)


def test_other_kinds_of_tables():
    thresholds = {"size": (20, 900), "z": 3}
    rows = np.array(list(zip(*TABLE.values(), strict=True)), [(name, c.dtype) for name, c in TABLE.items()])
    kept = filter_cells(rows, thresholds)
    assert kept.dtype == rows.dtype
    assert kept["size"].tolist() == [899]
    arrow = filter_cells(pa.table(TABLE), thresholds)
    assert isinstance(arrow, pa.Table)
    assert arrow.column("size").to_pylist() == [899]
    with_null = pa.table({"size": [1, None, 3]})
    assert filter_cells(with_null, {"size": 0}).column("size").to_pylist() == [1, 3]
    pandas = pytest.importorskip("pandas")
    frame = filter_cells(pandas.DataFrame(TABLE, index=list("abcd")), thresholds)
    assert list(frame.index) == ["c"]
    assert frame["size"].dtype == np.int64


def test_unknown_column_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no column 'sise'.*did you mean 'size'.*z, size, mean, truncated"):
        filter_cells(TABLE, {"sise": 20})
    with pytest.raises(ConfigError, match="no column 'qqqq' to filter by: there are z, size"):
        filter_cells(TABLE, {"qqqq": None})


@pytest.mark.parametrize("threshold", ["20", (1, 2, 3), (), (1, "2"), float("nan"), (float("nan"), 2), {}])
def test_limits_that_are_none(threshold):
    with pytest.raises(ConfigError, match=r"size .*: give a minimum"):
        filter_cells(TABLE, {"size": threshold})


@pytest.mark.parametrize("threshold", [(900, 20), (20, 20), (1, -1.5)])
def test_reversed_limits(threshold):
    with pytest.raises(ConfigError, match=r"size: the minimum .* is not below the maximum"):
        filter_cells(TABLE, {"size": threshold})


def test_text_has_no_limits():
    with pytest.raises(ConfigError, match="'region' holds <U3"):
        filter_cells({"region": np.array(["CA1"])}, {"region": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20,900", (20, 900)),
        ("300,", (300, None)),
        (",900", (None, 900)),
        ("20", (20, None)),
        (" 1.5 , 2e3 ", (1.5, 2000.0)),
        ("-5,-1", (-5, -1)),
        ("0", (0, None)),
        ("0,inf", (0, float("inf"))),
    ],
)
def test_ranges_of_the_command_line(text, expected):
    found = parse_range(text, "--size")
    assert found == expected
    assert [type(limit) for limit in found] == [type(limit) for limit in expected]


@pytest.mark.parametrize("text", ["", ",", "a", "1,b", "1,2,3", "20-900", "1;2", "20,900,", "nan,3"])
def test_ranges_that_are_none(text):
    with pytest.raises(ConfigError, match=r"^--size "):
        parse_range(text, "--size")


def test_a_reversed_range_names_the_option():
    with pytest.raises(ConfigError, match="--size: the minimum 900 is not below the maximum 20"):
        parse_range("900,20", "--size")
