"""Lengths, thresholds and memory sizes as users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytolith.errors import ConfigError
from cytolith.quantities import (
    Length,
    Threshold,
    format_bytes,
    parse_bytes,
    parse_length,
    parse_lengths,
    parse_threshold,
    parse_triple,
)


@pytest.mark.parametrize(
    ("given", "length"),
    [
        (5, Length(5)),
        ("5", Length(5)),
        ("8 um", Length(8, "um")),
        ("8um", Length(8, "um")),
        ("1.5e1 µm", Length(15, "um")),
        ("3 px", Length(3)),
    ],
)
def test_lengths(given, length):
    assert parse_length(given) == length


@pytest.mark.parametrize("given", ["8 nm", "um", "", "-3", -3, float("nan"), "inf", True, None, "1,2"])
def test_what_is_no_length_is_refused(given):
    with pytest.raises(ConfigError):
        parse_length(given)


def test_several_lengths_share_the_unit_at_the_end():
    assert parse_lengths("18, 8, 8 um", 3) == (Length(18, "um"), Length(8, "um"), Length(8, "um"))
    assert parse_lengths("18 um, 5 px, 8", 3) == (Length(18, "um"), Length(5), Length(8))
    assert parse_lengths([1, "2 um", 3.0], 3) == (Length(1), Length(2, "um"), Length(3))
    assert parse_lengths("7", 2) == (Length(7), Length(7))
    with pytest.raises(ConfigError, match=r"3 lengths: give one for all axes or 2 \(y, x\)"):
        parse_lengths("1,2,3", 2)


@given(st.floats(0.001, 1e6), st.sampled_from(["voxel", "um"]))
def test_a_length_printed_reads_back(value, unit):
    length = Length(value, unit)
    assert parse_length(str(length)) == length


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    assert parse_lengths(np.array([7, 8, 9]), 3) == (Length(7), Length(8), Length(9))
    assert parse_length(np.uint16(7)) == Length(7)
    assert parse_threshold(np.float32(2.5)) == Threshold(2.5)


def test_micrometres_need_a_voxel_size():
    assert Length(9, "um").in_voxels(1.5) == 6
    assert Length(9).in_voxels(None) == 9
    with pytest.raises(ConfigError, match="add --voxel-size"):
        Length(9, "um").in_voxels(None)


def test_thresholds():
    assert parse_threshold("9 mad") == Threshold(9, "mad")
    assert parse_threshold("700") == parse_threshold(700) == Threshold(700)
    assert parse_threshold("-3.5") == Threshold(-3.5)
    for wrong in ("9 kg", "mad", "nan", [], True):
        with pytest.raises(ConfigError):
            parse_threshold(wrong)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("500 MB", 500 * 10**6), ("2e9", 2 * 10**9), (7, 7), ("1k", 1000), ("3 b", 3)],
)
def test_memory_sizes(text, size):
    assert parse_bytes(text) == size


def test_what_is_no_memory_size_is_refused():
    for wrong in ("8 potatoes", "-1", "0", "GiB"):
        with pytest.raises(ConfigError):
            parse_bytes(wrong)
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(3 * 2**40) == "3.0 TiB"


def test_triples_name_their_option():
    assert parse_triple("6,1.62,1.62", "--voxel-size") == (6, 1.62, 1.62)
    for wrong in ("6,1", "a,b,c", "0,1,1", "1,1,-1", "nan,1,1"):
        with pytest.raises(ConfigError, match="--voxel-size"):
            parse_triple(wrong, "--voxel-size")
    with pytest.raises(ConfigError, match="whole"):
        parse_triple("1.5,2,2", "--block", integer=True)
