"""Maps as text, byte for byte as NumPy writes them, and as TIFF images."""

import errno
import os

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from cytolith.errors import OutputError, VolumeError
from cytolith.io import tiff_sink
from cytolith.io.map_files import read_map_text, write_map_text, write_map_tiff

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)
FLOATS = arrays(np.float64, SHAPES, elements=st.floats(-1e12, 1e12) | st.just(np.nan) | st.just(np.inf))
INTEGERS = arrays(np.int64, SHAPES) | arrays(np.int32, SHAPES)


def in_strips(image, height):
    return (image[row : row + height] for row in range(0, len(image), height))


@given(FLOATS | INTEGERS, st.integers(1, 4))
@settings(max_examples=100)
def test_text_has_the_bytes_of_savetxt_and_comes_back(tmp_path_factory, image, height):
    folder = tmp_path_factory.mktemp("maps")
    number = "%d" if image.dtype.kind == "i" else "%f"
    write_map_text(folder / "a.txt", in_strips(image, height), number)
    np.savetxt(folder / "b.txt", image, fmt=number, delimiter="\t")
    assert (folder / "a.txt").read_bytes() == (folder / "b.txt").read_bytes()
    again = read_map_text(folder / "a.txt")
    assert again.dtype == ("int64" if number == "%d" else "float64")
    if number == "%d":
        np.testing.assert_array_equal(again, image)
    else:
        np.testing.assert_allclose(again, image, rtol=1e-15, atol=5.1e-7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\t2\t3\n4\t5\t6\n", [[1, 2, 3], [4, 5, 6]]),
        ("1 2\r\n3 4\r\n\r\n", [[1, 2], [3, 4]]),
        ("7", [[7]]),
        ("1\n2\n", [[1], [2]]),
        ("1\t2\n3\t1e2\n", [[1.0, 2.0], [3.0, 100.0]]),
        ("1\tnan\n", [[1.0, np.nan]]),
        ("\ufeff1\t-2\n", [[1, -2]]),
        ("\ufeff1.5\t2\n", [[1.5, 2.0]]),
        (f"{2**63 - 1}\t{-(2**63)}\t{'0' * 30}1\n", [[2**63 - 1, -(2**63), 1]]),
    ],
)
def test_maps_of_other_programs(tmp_path, text, expected):
    (tmp_path / "a.txt").write_bytes(text.encode())
    read = read_map_text(tmp_path / "a.txt")
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == np.array(expected).dtype


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"1\t2\n3\t4\n5\n", r"a\.txt, line 3 has 1 cells, but the first has 2"),
        (b"1\t2\n3\t\n", r"a\.txt, line 2 has 1 cells"),
        (b"1.5\t2\n3\tx4\n", r"a\.txt, line 2: 'x4' is not a number"),
        (b"z\tx\n3\t4\n", r"a\.txt, line 1: 'z' is not a number"),
        (b"1,2\n3,4\n", r"a\.txt, line 1: '1,2' is not a number"),
        (b"1\t2\n\n3\t4\n", r"a\.txt, line 2 is empty"),
        (b"1\n99999999999999999999\n", r"a\.txt, line 2: 99999999999999999999 is an integer beyond 64 bits; mend"),
        (b"1\n9223372036854775808\n", r"a\.txt, line 2: 9223372036854775808 is an integer beyond 64 bits"),
        (b"-9223372036854775809\n", r"a\.txt, line 1: -9223372036854775809 is an integer beyond 64 bits"),
        (b"1\n" + b"7" * 9_000, r"a\.txt, line 2: 7{40} is an integer beyond 64 bits"),
        (b"1\n2\n1_000\n", r"a\.txt, line 3: '1_000' is not a number"),
        (b"1.5\n1_000\n", r"a\.txt, line 2: '1_000' is not a number"),
        ("1\n\u0663\n".encode(), r"a\.txt, line 2: '\u0663' is not a number"),
        (b"", r"a\.txt is empty"),
        (b" \n\n", r"a\.txt is empty"),
        (b"II*\0\xff\xfe", r"a\.txt is not text"),
    ],
)
def test_what_is_no_map_is_named_by_line(tmp_path, content, text):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(VolumeError, match=text) as caught:
        read_map_text(tmp_path / "a.txt")
    assert "\n" not in str(caught.value)


def test_a_map_that_is_not_there(tmp_path):
    with pytest.raises(VolumeError, match=r"a\.txt cannot be read: No such file"):
        read_map_text(tmp_path / "a.txt")


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("height", [1, 4, 100])
def test_tiff_of_a_map(tmp_path, monkeypatch, dtype, big, height):
    if big:
        monkeypatch.setattr(tiff_sink, "_CLASSIC_BYTES", 0)
    image = np.random.default_rng(1).normal(0, 1e4, (11, 7)).astype(dtype)
    if dtype == "float32":
        image[3, 2] = np.nan
    write_map_tiff(tmp_path / "a.tif", in_strips(image, height), image.shape, dtype, (20.0, 12.5))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        page = tif.pages[0]
        assert (len(tif.pages), tif.is_bigtiff, page.photometric, page.dtype) == (1, big, 1, dtype)
        np.testing.assert_array_equal(page.asarray(), image)
        per_centimetre = [page.tags[name].value for name in ("YResolution", "XResolution")]
        assert [pixels / units for pixels, units in per_centimetre] == pytest.approx([500, 800])
        assert page.tags["ResolutionUnit"].value == 3
    with Image.open(tmp_path / "a.tif") as other:
        np.testing.assert_array_equal(np.array(other), image)


def test_tiff_without_cell_size_claims_none(tmp_path):
    write_map_tiff(tmp_path / "a.tif", [np.zeros((3, 4), np.int64)], (3, 4), np.int32)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages[0].tags["ResolutionUnit"].value == 1


@pytest.mark.parametrize("strips", [[(2, 4)], [(2, 4), (2, 4)], [(3, 5)], []])
def test_strips_that_are_not_the_map(tmp_path, strips):
    with pytest.raises(ValueError, match=r"of a map of \(3, 4\)"):
        write_map_tiff(tmp_path / "a.tif", [np.zeros(shape, "int32") for shape in strips], (3, 4), "int32")


def failing(error):
    yield np.zeros((1, 4), "int32")
    raise error


@pytest.mark.parametrize("kind", ["text", "tiff"])
def test_what_the_disk_says_is_told(tmp_path, kind):
    def write(path, strips):
        if kind == "text":
            write_map_text(path, strips, "%d")
        else:
            write_map_tiff(path, strips, (3, 4), "int32")

    with pytest.raises(OutputError, match=r"a: cannot be written: the disk is full"):
        write(tmp_path / "a", failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OutputError, match=r"no[/\\]a: cannot be written: No such file or directory"):
        write(tmp_path / "no" / "a", [np.zeros((3, 4), "int32")])
