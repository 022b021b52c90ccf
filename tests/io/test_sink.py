"""Volumes written block by block, aside, and put in place when whole."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import zarr

from cytolith.axes import full_region
from cytolith.errors import OutputError
from cytolith.io.sink import chunk_shape, create_sink
from cytolith.io.volume import open_volume

SHAPE = (70, 90, 110)
VOLUME = np.random.default_rng(8).integers(0, 60000, SHAPE, "uint16")


def grid(shape, block):
    starts = product(*(range(0, extent, step) for extent, step in zip(shape, block, strict=True)))
    return [
        tuple(slice(s, min(s + step, extent)) for s, step, extent in zip(start, block, shape, strict=True))
        for start in starts
    ]


def stored(path):
    volume = open_volume(path)
    return volume.read(full_region(volume.shape))


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
@pytest.mark.parametrize("block", [(70, 90, 110), (10, 40, 110), (32, 40, 64), (33, 37, 41), (7, 90, 31)])
def test_disjoint_blocks_from_many_threads_lose_nothing(tmp_path, suffix, block):
    path = tmp_path / f"a{suffix}"
    with create_sink(path, SHAPE, "uint16", block) as sink, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda region: sink.write(region, VOLUME[region]), grid(SHAPE, block)))
    np.testing.assert_array_equal(stored(path), VOLUME)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("planned", [(64, 64, 64), (35, 45, 55)])
def test_regions_that_do_not_fit_the_chunks_lose_nothing(tmp_path, planned):
    """Blocks of another grid than was said share chunks; their writers must wait for each other."""
    with create_sink(tmp_path / "a.zarr", SHAPE, "uint16", planned) as sink, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda region: sink.write(region, VOLUME[region]), grid(SHAPE, (11, 13, 110))))
    np.testing.assert_array_equal(stored(tmp_path / "a.zarr"), VOLUME)


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "uint32", "int64", "bool"])
def test_dtypes(tmp_path, suffix, dtype):
    path = tmp_path / f"a{suffix}"
    array = (VOLUME[:4, :5, :6] % 120).astype(dtype)
    with create_sink(str(path), array.shape, dtype, array.shape) as sink:
        sink.write(full_region(array.shape), array)
    written = np.load(path) if suffix == ".npy" else zarr.open_array(path / "0", mode="r")[...]
    np.testing.assert_array_equal(written, array)
    assert written.dtype == dtype


def test_zarr_is_an_ome_image_with_voxel_size(tmp_path):
    with create_sink(tmp_path / "brain.zarr", SHAPE, "uint16", SHAPE, voxel_size=(5.0, 2.0, 1.5)) as sink:
        sink.write(full_region(SHAPE), VOLUME)
    volume = open_volume(tmp_path / "brain.zarr")
    assert volume.voxel_size == (5.0, 2.0, 1.5)
    assert volume.describe()["format"] == "OME-Zarr 0.5"
    assert volume.describe()["compression"] == "blosc lz4"
    group = zarr.open_group(tmp_path / "brain.zarr", mode="r")
    assert group.attrs["ome"]["multiscales"][0]["name"] == "brain"
    assert group["0"].metadata.dimension_names == ("z", "y", "x")


def test_zarr_without_voxel_size_claims_none(tmp_path):
    with create_sink(tmp_path / "a.zarr", SHAPE, "uint16", SHAPE):
        pass
    assert open_volume(tmp_path / "a.zarr").voxel_size is None


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_nothing_is_at_the_path_before_it_is_whole(tmp_path, suffix):
    path = tmp_path / "new" / f"a{suffix}"
    sink = create_sink(path, SHAPE, "uint16", SHAPE)
    sink.write(full_region(SHAPE), VOLUME)
    assert not path.exists()
    assert path.with_name(path.name + ".partial").exists()
    sink.close()
    sink.close()
    np.testing.assert_array_equal(stored(path), VOLUME)
    with pytest.raises(OutputError, match="is closed"):
        sink.write(full_region(SHAPE), VOLUME)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_discard_and_errors_leave_what_was_there(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with create_sink(path, SHAPE, "uint16", SHAPE) as sink:
        sink.write(full_region(SHAPE), VOLUME)
    sink = create_sink(path, (2, 3, 4), "uint8", (2, 3, 4), overwrite=True)
    sink.discard()
    sink.discard()
    with pytest.raises(ZeroDivisionError), create_sink(path, (2, 3, 4), "uint8", (2, 3, 4), overwrite=True):
        _ = 1 / 0
    np.testing.assert_array_equal(stored(path), VOLUME)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_overwriting_must_be_allowed(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    create_sink(path, (2, 3, 4), "uint8", (2, 3, 4)).close()
    with pytest.raises(OutputError, match=rf"a\{suffix} exists already; choose another path, or --overwrite"):
        create_sink(path, SHAPE, "uint16", SHAPE)
    with create_sink(path, SHAPE, "uint16", SHAPE, overwrite=True) as sink:
        sink.write(full_region(SHAPE), VOLUME)
    np.testing.assert_array_equal(stored(path), VOLUME)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_folders_of_other_things_are_never_overwritten(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.mkdir()
    (path / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="is a folder that is no zarr store, and is not overwritten"):
        create_sink(path, SHAPE, "uint16", SHAPE, overwrite=True)
    assert (path / "thesis.txt").exists()


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_what_a_killed_run_left_is_replaced(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    create_sink(path, (2, 3, 4), "uint8", (2, 3, 4)).write(full_region((2, 3, 4)), np.ones((2, 3, 4), "uint8"))
    with create_sink(path, SHAPE, "uint16", SHAPE) as sink:
        sink.write(full_region(SHAPE), VOLUME)
    np.testing.assert_array_equal(stored(path), VOLUME)


@pytest.mark.parametrize("name", ["a.png", "a", "a.NPY.gz"])
def test_other_endings(tmp_path, name):
    with pytest.raises(OutputError, match=r"a volume is written as \.npy, \.tif, \.tiff or \.zarr"):
        create_sink(tmp_path / name, SHAPE, "uint16", SHAPE)


@pytest.mark.parametrize(
    ("region", "array", "text"),
    [
        ((slice(0, 71), slice(0, 90), slice(0, 110)), VOLUME, "region z 0:71 is not inside 0:70"),
        ((slice(0, 1), slice(0, 2), slice(0, 3)), VOLUME[:1, :2, :4], r"the block is \(1, 2, 4\) uint16, the region"),
        ((slice(0, 1), slice(0, 2), slice(0, 3)), VOLUME[:1, :2, :3].astype("uint8"), "uint8, the region"),
    ],
)
def test_wrong_blocks(tmp_path, region, array, text):
    with create_sink(tmp_path / "a.npy", SHAPE, "uint16", SHAPE) as sink, pytest.raises(OutputError, match=text):
        sink.write(region, array)


def test_a_disk_without_room_is_found_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(OutputError, match=r"a\.npy needs 1386000 bytes, but 1000 are free there"):
        create_sink(tmp_path / "a.npy", SHAPE, "uint16", SHAPE)


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "b").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        create_sink(tmp_path / "b" / "a.npy", SHAPE, "uint16", SHAPE)


@pytest.mark.parametrize(
    ("block", "shape", "chunks"),
    [
        ((64, 512, 1024), (500, 2048, 2048), (64, 128, 128)),
        ((96, 100, 200), (500, 2048, 2048), (96, 100, 100)),
        ((70, 90, 110), (70, 90, 110), (70, 90, 110)),
        ((300, 1009, 10), (300, 1009, 100), (128, 128, 10)),
        ((131, 1009, 262), (500, 4000, 4000), (131, 128, 262)),
        ((1, 1, 1), (5, 5, 5), (1, 1, 1)),
    ],
)
def test_chunks_divide_blocks_where_that_is_sensible(block, shape, chunks):
    assert chunk_shape(block, shape) == chunks


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_what_was_written_can_be_read_back_before_the_end(tmp_path, suffix):
    with create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", (32, 40, 64)) as sink:
        for region in grid(SHAPE, (32, 40, 64)):
            sink.write(region, VOLUME[region])
        region = (slice(3, 60), slice(7, 80), slice(1, 100))
        np.testing.assert_array_equal(sink.read(region), VOLUME[region])
    with pytest.raises(OutputError, match="closed"):
        sink.read(region)


@pytest.mark.parametrize("suffix", [".npy", ".zarr", ".tif"])
@pytest.mark.parametrize("end", ["discard", "close"])
def test_a_sink_waits_for_writers_before_it_lets_go(tmp_path, monkeypatch, suffix, end):
    sink = create_sink(tmp_path / f"a{suffix}", (2, 3, 4), "uint8", (2, 3, 4))
    region = (slice(0, 2), slice(0, 3), slice(0, 4))
    inside, go_on = threading.Event(), threading.Event()
    write = sink._write

    def slow(*arguments):
        inside.set()
        assert go_on.wait(10)
        write(*arguments)

    monkeypatch.setattr(sink, "_write", slow)
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(sink.write, region, np.ones((2, 3, 4), np.uint8))
        assert inside.wait(10)
        ending = pool.submit(getattr(sink, end))
        with pytest.raises(TimeoutError):
            ending.result(0.2)
        go_on.set()
        writing.result(10)
        ending.result(10)
    with pytest.raises(OutputError, match="is closed"):
        sink.write(region, np.ones((2, 3, 4), np.uint8))
