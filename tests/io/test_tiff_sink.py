"""TIFF written block by block, read back by tifffile, by Pillow and as a volume."""

import errno
import os
import shutil

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cytolith.axes import full_region
from cytolith.errors import OutputError, VolumeError
from cytolith.io import tiff_sink
from cytolith.io.sink import create_sink
from cytolith.io.tiff_sink import DTYPES
from cytolith.io.volume import open_volume

SHAPE = (5, 13, 17)


def values(dtype, shape=SHAPE):
    bits = np.random.default_rng(4).integers(0, 256, (*shape, np.dtype(dtype).itemsize), "uint8")
    array = bits.view(dtype)[..., 0]
    return np.where(np.isfinite(array), array, 0).astype(dtype)


def write(path, array, **options):
    with create_sink(path, array.shape, array.dtype, array.shape, **options) as sink:
        sink.write(full_region(array.shape), array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
@pytest.mark.parametrize("voxel_size", [None, (5.0, 1.62, 0.325)])
@pytest.mark.parametrize("big", [False, True])
def test_every_dtype_in_both_sizes_of_file(tmp_path, monkeypatch, dtype, suffix, voxel_size, big):
    if big:
        monkeypatch.setattr(tiff_sink, "_CLASSIC_BYTES", 0)
    path, array = tmp_path / f"a{suffix}", values(dtype)
    write(path, array, voxel_size=voxel_size)
    with tifffile.TiffFile(path) as tif:
        assert (tif.is_bigtiff, tif.byteorder, len(tif.pages)) == (big, "<", len(array))
        assert all(page.aspage().photometric == 1 and len(page.dataoffsets) == 1 for page in tif.pages)
        assert all(page.aspage().compression == 1 for page in tif.pages)
        np.testing.assert_array_equal(tif.asarray(), array)
        assert tif.asarray().dtype == dtype
    if dtype in ("uint8", "uint16", "int16", "float32"):
        volume = open_volume(path)
        volume.check()
        np.testing.assert_array_equal(volume.read(full_region(SHAPE)), array)
        assert volume.voxel_size == voxel_size
        assert volume.describe()["format"].endswith("(BigTIFF)") == big


def test_a_library_that_reads_page_by_page_sees_all_planes(tmp_path):
    array = values("uint8")
    write(tmp_path / "a.tif", array, voxel_size=(5, 2, 1))
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == len(array)
        for z, plane in enumerate(array):
            image.seek(z)
            np.testing.assert_array_equal(np.array(image), plane)


def test_imagej_finds_the_calibration_where_it_looks_for_it(tmp_path):
    write(tmp_path / "a.tif", values("uint8"), voxel_size=(5.0, 1.62, 0.325))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_imagej
        assert {**tif.imagej_metadata, "loop": None} == {
            "ImageJ": "1.11a", "images": 5, "slices": 5, "unit": "micron", "spacing": 5.0, "loop": None,
        }  # fmt: skip
        assert tif.pages[0].tags["XResolution"].value == (40, 13)
        assert tif.pages[0].tags["YResolution"].value == (50, 81)
    write(tmp_path / "b.tif", values("uint8"))
    with tifffile.TiffFile(tmp_path / "b.tif") as tif:
        assert not tif.is_imagej
        assert "ImageDescription" not in tif.pages[0].tags


@given(st.floats(1e-6, 1e6))
@settings(max_examples=200)
def test_lengths_come_back_from_the_resolution_tags(length):
    pixels, units = tiff_sink._per_micrometre(length)
    assert 0 < pixels < 1 << 32
    assert 0 < units < 1 << 32
    assert units / pixels == pytest.approx(length, rel=1e-3 if not 1e-4 < length < 1e4 else 1e-8)


@given(
    st.lists(
        st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, n)) | st.just((0, n)) for n in SHAPE)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=60)
def test_regions_in_any_order_and_zeros_where_nothing_was_written(tmp_path_factory, boxes):
    path = tmp_path_factory.mktemp("sink") / "a.tif"
    array, expected = values("uint16"), np.zeros(SHAPE, "uint16")
    with create_sink(path, SHAPE, "uint16", SHAPE) as sink:
        for box in boxes:
            region = tuple(slice(min(begin, end - 1), end) for begin, end in box)
            sink.write(region, array[region])
            expected[region] = array[region]
            np.testing.assert_array_equal(sink.read(region), expected[region])
    np.testing.assert_array_equal(tifffile.imread(path), expected)


@pytest.mark.parametrize("shape", [(70_001, 2, 3), (2, 70_001, 3), (2, 3, 70_001)])
def test_any_axis_may_be_longer_than_65535(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype="uint32").astype("uint8").reshape(shape)
    write(tmp_path / "a.tif", array, voxel_size=(3, 2, 1))
    volume = open_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.read(full_region(shape)), array)
    assert volume.voxel_size == (3, 2, 1)


def test_more_than_4_gib(tmp_path):
    shape = (10, 20_000, 25_000)  # with holes: takes a few blocks of the disk
    if shutil.disk_usage(tmp_path).free < 2 * np.prod(shape):
        pytest.skip("needs 10 GB of free disk")
    last = (slice(9, 10), slice(19_999, 20_000), slice(24_990, 25_000))
    with create_sink(tmp_path / "a.tif", shape, "uint8", shape, voxel_size=(3, 2, 1)) as sink:
        sink.write(last, np.arange(1, 11, dtype="uint8").reshape(1, 1, 10))
    volume = open_volume(tmp_path / "a.tif")
    volume.check()
    assert volume.shape == shape
    np.testing.assert_array_equal(volume.read(last).ravel(), np.arange(1, 11))
    assert not volume.read((slice(8, 10), slice(19_998, 19_999), slice(0, 25_000))).any()
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_bigtiff
        assert [page.dataoffsets[0] for page in tif.pages][9] > 1 << 32


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float64", "complex64"])
def test_dtypes_that_viewers_do_not_read_are_refused(tmp_path, dtype):
    with pytest.raises(OutputError, match=rf"a\.tif: {dtype} voxels are not written as TIFF, only uint8, .*; choose"):
        create_sink(tmp_path / "a.tif", SHAPE, dtype, SHAPE)
    assert not list(tmp_path.iterdir())


def test_a_volume_without_voxels_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"a\.tif: a volume of \(0, 3, 4\) has no voxels"):
        create_sink(tmp_path / "a.tif", (0, 3, 4), "uint8", SHAPE)


def test_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(OutputError, match=r"a\.tif needs \d+ bytes, but 1000 are free there"):
        create_sink(tmp_path / "a.tif", SHAPE, "uint16", SHAPE)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.tif: cannot be written: the disk is full"):  # noqa: SIM117, PT012
        with create_sink(tmp_path / "a.tif", SHAPE, "uint8", SHAPE) as sink:
            monkeypatch.setattr(os, "pwrite", full)
            sink.write(full_region(SHAPE), values("uint8"))
    assert not list(tmp_path.iterdir())


def test_short_writes_are_continued(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: pwrite(file, data[:7], place))
    write(tmp_path / "a.tif", values("uint16"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), values("uint16"))


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("voxel_size", [None, (3, 2, 1)])
def test_a_file_cut_off_is_not_taken_for_a_whole_one(tmp_path, part, voxel_size):
    path = tmp_path / "a.tif"
    write(path, values("uint8", (5, 40, 50)), voxel_size=voxel_size)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(VolumeError, match=r"a\.tif"):
        open_volume(path).check()
