"""Volumes written block by block, aside, and put in place when whole."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image

from cytolith.axes import full_region
from cytolith.errors import OutputError
from cytolith.io.flat_sink import NpySink
from cytolith.io.sink import create_sink
from cytolith.io.tiff_sink import TiffSink
from cytolith.io.volume import open_volume
from cytolith.io.zarr_sink import ZarrSink, chunk_shape

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


@pytest.mark.parametrize(
    ("planned", "chunks"),
    [((64, 64, 64), "64 x 64 x 64"), ((35, 45, 110), "35 x 45 x 110"), ((7, 90, 31), "7 x 90 x 31")],
)
def test_regions_that_share_chunks_are_refused(tmp_path, planned, chunks):
    """Of two writers in one chunk one loses what it wrote, and processes cannot wait for each other."""
    with create_sink(tmp_path / "a.zarr", SHAPE, "uint16", planned) as sink:
        for region in grid(SHAPE, planned):
            sink.write(region, VOLUME[region])
        for odd in (
            (slice(0, 35), slice(0, 45), slice(0, 30)),
            (slice(1, 70), slice(0, 90), slice(0, 110)),
            (slice(0, 70), slice(0, 89), slice(0, 110)),
        ):
            with pytest.raises(OutputError) as caught:
                sink.write(odd, VOLUME[odd])
            assert "shares chunks with its neighbours; write blocks of " in str(caught.value)
            assert str(caught.value).endswith(f"or whole chunks of {chunks}")
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
    Image.from_zarr(group)
    assert group.attrs["ome"]["multiscales"][0]["name"] == "brain"
    assert group["0"].metadata.dimension_names == ("z", "y", "x")


def test_zarr_without_voxel_size_claims_none(tmp_path):
    with create_sink(tmp_path / "a.zarr", SHAPE, "uint16", SHAPE):
        pass
    assert open_volume(tmp_path / "a.zarr").voxel_size is None
    Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))


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
        ((131, 1009, 262), (500, 4000, 4000), (131, 1009, 131)),
        ((1, 1, 1), (5, 5, 5), (1, 1, 1)),
        ((320, 96, 62), (500, 4000, 4000), (160, 96, 62)),  # 96 and 160 are as near to 128
        ((480, 31, 1021), (500, 4000, 4000), (120, 31, 1021)),
        ((1009, 1013, 1019), (5000, 5000, 5000), (1, 1013, 1019)),  # a GiB is as much as Blosc takes
        ((1009, 20011, 20021), (5000, 50000, 50000), (1, 1, 20021)),
    ],
)
def test_chunks_are_near_128_where_blocks_allow_it(block, shape, chunks):
    assert chunk_shape(block, shape) == chunks


EXTENT = st.integers(1, 3000)


@given(st.tuples(EXTENT, EXTENT, EXTENT), st.tuples(EXTENT, EXTENT, EXTENT))
def test_no_chunk_lies_in_two_blocks(block, shape):
    chunks = chunk_shape(block, shape)
    for edge, step, extent in zip(chunks, block, shape, strict=True):
        assert 1 <= edge <= extent
        for begin in range(0, extent, step):
            assert begin % edge == 0 or begin == 0
    assert np.prod(chunks) <= 2**27


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


BLOCK = (32, 40, 110)


def halves():
    regions = grid(SHAPE, BLOCK)
    return regions[: len(regions) // 2], regions[len(regions) // 2 :]


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
@pytest.mark.parametrize("end", ["leave", "killed"])
def test_a_run_goes_on_with_what_was_written(tmp_path, suffix, end):
    path, (first, second) = tmp_path / f"a{suffix}", halves()
    sink = create_sink(path, SHAPE, "uint16", BLOCK, voxel_size=(3, 2, 1.5), resume=True)
    assert not sink.resumed
    for region in first:
        sink.write(region, VOLUME[region])
    if end == "leave":
        sink.leave()
        sink.leave()
        with pytest.raises(OutputError, match="is closed"):
            sink.write(second[0], VOLUME[second[0]])
        sink.close()
        sink.discard()
    assert not path.exists()
    with create_sink(path, SHAPE, "uint16", BLOCK, voxel_size=(3, 2, 1.5), resume=True) as sink:
        assert sink.resumed
        for region in first:
            np.testing.assert_array_equal(sink.read(region), VOLUME[region])
        for region in second:
            assert not sink.read(region).any()
            sink.write(region, VOLUME[region])
    np.testing.assert_array_equal(stored(path), VOLUME)
    assert open_volume(path).voxel_size == (None if suffix == ".npy" else (3, 2, 1.5))
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_resumed_and_discarded(tmp_path, suffix):
    create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", BLOCK).leave()
    assert [left.name for left in tmp_path.iterdir()] == [f"a{suffix}.partial"]
    create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", BLOCK, resume=True).discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_without_resume_a_left_volume_begins_anew(tmp_path, suffix):
    sink = create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", BLOCK)
    sink.write(halves()[0][0], VOLUME[halves()[0][0]])
    sink.leave()
    sink = create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", BLOCK)
    assert not sink.resumed
    assert not sink.read(full_region(SHAPE)).any()
    sink.discard()


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
@pytest.mark.parametrize(
    ("shape", "dtype", "block", "voxel_size"),
    [
        ((70, 110, 90), "uint16", (70, 110, 90), (3, 2, 1)),
        ((71, 90, 110), "uint16", BLOCK, (3, 2, 1)),
        (SHAPE, "int16", BLOCK, (3, 2, 1)),
        (SHAPE, "float32", BLOCK, (3, 2, 1)),
        (SHAPE, "uint16", (35, 45, 110), (3, 2, 1)),
        (SHAPE, "uint16", BLOCK, (3, 2, 1.5)),
        (SHAPE, "uint16", BLOCK, (4, 2, 1)),
        (SHAPE, "uint16", BLOCK, None),
    ],
)
def test_another_volume_is_not_resumed(tmp_path, suffix, shape, dtype, block, voxel_size):
    path = tmp_path / f"a{suffix}"
    sink = create_sink(path, SHAPE, "uint16", BLOCK, voxel_size=(3, 2, 1))
    sink.write(full_region(SHAPE), VOLUME)
    sink.leave()
    same = (shape, dtype) == (SHAPE, "uint16")
    if same and (suffix == ".npy" or (suffix == ".tif" and block != BLOCK)):  # what its file does not know
        assert create_sink(path, shape, dtype, block, voxel_size=voxel_size, resume=True).resumed
        return
    with pytest.raises(
        OutputError, match=rf"a\{suffix} cannot be resumed: .*a\{suffix}\.partial .*; delete it"
    ) as caught:
        create_sink(path, shape, dtype, block, voxel_size=voxel_size, resume=True)
    assert "\n" not in str(caught.value)
    with create_sink(path, SHAPE, "uint16", BLOCK, voxel_size=(3, 2, 1), resume=True):
        pass  # it is still there
    np.testing.assert_array_equal(stored(path), VOLUME)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
@pytest.mark.parametrize("other", ["garbage", "folder", "cut off"])
def test_other_things_are_not_resumed(tmp_path, suffix, other):
    partial = tmp_path / f"a{suffix}.partial"
    if other == "garbage":
        partial.write_bytes(b"garbage" * 100)
    elif other == "folder":
        partial.mkdir()
    else:
        create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", BLOCK).leave()
        if suffix == ".zarr":
            (partial / "0" / "zarr.json").unlink()
        else:
            os.truncate(partial, partial.stat().st_size - 100_000)
    with pytest.raises(OutputError, match=rf"a\{suffix}") as caught:
        create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", BLOCK, resume=True)
    assert "\n" not in str(caught.value)
    assert partial.exists()


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_killed_while_it_was_made(tmp_path, suffix):
    """What is half made is never at the partial path, where it could be resumed."""
    making = tmp_path / f"a{suffix}.partial.making"
    making.mkdir()
    (making / "zarr.json").write_text("{")
    with create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", SHAPE, resume=True) as sink:
        assert not sink.resumed
        sink.write(full_region(SHAPE), VOLUME)
    np.testing.assert_array_equal(stored(tmp_path / f"a{suffix}"), VOLUME)
    assert [left.name for left in tmp_path.iterdir()] == [f"a{suffix}"]


def test_a_volume_that_cannot_be_replaced_comes_back(tmp_path, monkeypatch):
    for number in range(2):
        sink = create_sink(tmp_path / "a.zarr", SHAPE, "uint16", SHAPE, overwrite=True)
        sink.write(full_region(SHAPE), VOLUME + np.uint16(number))
        if number == 0:
            sink.close()
    replace = Path.replace

    def refused(self, target):
        if self.name == "a.zarr.partial":
            raise PermissionError(errno.EACCES, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(OutputError, match=r"a\.zarr: cannot be written: Access is denied"):
        sink.close()
    np.testing.assert_array_equal(stored(tmp_path / "a.zarr"), VOLUME)
    assert sorted(left.name for left in tmp_path.iterdir()) == ["a.zarr", "a.zarr.partial"]


@pytest.mark.parametrize("kind", [NpySink, TiffSink, ZarrSink])
def test_only_a_whole_storage_can_be_resumed(tmp_path, monkeypatch, kind):
    suffix = {NpySink: ".npy", TiffSink: ".tif", ZarrSink: ".zarr"}[kind]
    create = kind._create

    def made(sink, at):
        create(sink, at)
        assert not (tmp_path / f"a{suffix}.partial").exists()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(kind, "_create", made)
    with pytest.raises(OutputError, match=rf"a\{suffix}: cannot be written: Input/output error"):
        create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", SHAPE, resume=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_no_room_for_the_rest_of_a_resumed_volume(tmp_path, monkeypatch, suffix):
    create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", SHAPE).leave()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(OutputError, match=rf"a\{suffix} needs \d+ bytes, but 1000 are free there"):
        create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", SHAPE, resume=True)
    assert (tmp_path / f"a{suffix}.partial").exists()


def test_what_zarr_left_when_it_was_killed_is_no_part_of_the_volume(tmp_path):
    with create_sink(tmp_path / "b.zarr", SHAPE, "uint16", BLOCK) as sink:
        sink.write(full_region(SHAPE), VOLUME)
    sink = create_sink(tmp_path / "a.zarr", SHAPE, "uint16", BLOCK)
    sink.write(full_region(SHAPE), VOLUME)
    (tmp_path / "a.zarr.partial" / "0" / "c" / "0" / "0" / "0.1234abcd.partial").write_bytes(b"x")
    sink.leave()
    create_sink(tmp_path / "a.zarr", SHAPE, "uint16", BLOCK, resume=True).close()
    files = {
        name: sorted(str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*"))
        for name in ("a.zarr", "b.zarr")
    }
    assert files["a.zarr"] == files["b.zarr"]


WRITE = """
import pickle, sys
import numpy as np
sink, volume, regions = pickle.load(sys.stdin.buffer)
volume = np.load(volume)
print("ready", flush=True)
for region in regions:
    sink.write(region, volume[region])
    sink.flush(region)
getattr(sink, sys.argv[1])()
"""


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
@pytest.mark.parametrize("block", [(32, 40, 64), (7, 90, 31), (10, 90, 110)])
def test_processes_write_at_once(tmp_path, monkeypatch, suffix, block):
    """Blocks dealt out in turns, so that those of two processes lie side by side everywhere."""
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "volume.npy", VOLUME)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a{suffix}"
    regions = grid(SHAPE, block)
    with create_sink(path.name, SHAPE, "uint16", block) as sink:  # relative
        processes = []
        for number, end in enumerate(("close", "discard", "leave")):
            process = subprocess.Popen(
                [sys.executable, "-c", WRITE, end], cwd=tmp_path / "elsewhere", stdin=subprocess.PIPE
            )
            text = pickle.dumps((sink, str(tmp_path / "volume.npy"), regions[number::3]))
            assert len(text) < 30_000
            process.stdin.write(text)
            processes.append(process)
        for process in processes:
            process.stdin.close()
        assert [process.wait() for process in processes] == [0, 0, 0]
        np.testing.assert_array_equal(sink.read(full_region(SHAPE)), VOLUME)
        assert not path.exists()
    np.testing.assert_array_equal(stored(path), VOLUME)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
@pytest.mark.parametrize("end", ["close", "discard", "leave"])
def test_a_copy_neither_ends_nor_outlives_the_volume(tmp_path, suffix, end):
    path = tmp_path / f"a{suffix}"
    sink = create_sink(path, SHAPE, "uint16", SHAPE)
    copied, late = pickle.loads(pickle.dumps(sink)), pickle.loads(pickle.dumps(sink))
    copied.write(full_region(SHAPE), VOLUME)
    getattr(copied, end)()
    with pytest.raises(OutputError, match="is closed"):
        copied.write(full_region(SHAPE), VOLUME)
    late.write(full_region(SHAPE), VOLUME)
    sink.close()
    with pytest.raises(OutputError, match=rf"a\{suffix}: cannot be written: (No such file|The system cannot find)"):
        late.write(full_region(SHAPE), VOLUME)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(stored(path), VOLUME)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".zarr"])
def test_flushing_reaches_the_disk_or_says_why_not(tmp_path, monkeypatch, suffix):
    seen = []
    fsync = os.fsync
    with create_sink(tmp_path / f"a{suffix}", SHAPE, "uint16", BLOCK) as sink:
        sink.write(full_region(SHAPE), VOLUME)
        monkeypatch.setattr(
            os, "fsync", lambda file: (seen.append(Path(f"/proc/self/fd/{file}").readlink()), fsync(file))
        )
        sink.flush((slice(32, 64), slice(0, 40), slice(0, 110)))
        partial = tmp_path / f"a{suffix}.partial"
        if suffix == ".zarr":
            assert partial / "0" / "c" / "1" / "0" / "0" in seen
            assert sum(path.is_file() for path in seen) == 1
        else:
            assert seen == [partial]
        monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutputError, match=rf"a\{suffix}: cannot be written: the disk is full"):
            sink.flush(full_region(SHAPE))
        monkeypatch.undo()
        sink.flush((slice(3, 3), slice(0, 40), slice(0, 110)))
