"""Conversions: the same voxels in another format, levels as NumPy makes them, and nothing lost when one ends early."""

import itertools
import os
import subprocess
import sys
from collections import Counter

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05 import Image, ImageLabel

from cytolith.axes import full_region
from cytolith.convert.pipeline import convert_volume
from cytolith.convert.task import ConvertTask
from cytolith.engine.checkpoint import Checkpoints
from cytolith.engine.events import BlockDone, Planned
from cytolith.engine.run import BlocksFailedError
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError, VolumeError
from cytolith.io import pyramid
from cytolith.io.volume import open_volume

SHAPE = (21, 70, 90)
VOLUME = np.random.default_rng(6).integers(0, 4000, SHAPE).astype("uint16")
SMALL = {"chunks": (4, 16, 16), "shards": (8, 32, 32), "levels": 5}
"""Many blocks, and several stages."""


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume") / "bräin planes"
    folder.mkdir()
    for z, plane in enumerate(VOLUME):
        tifffile.imwrite(folder / f"p_{z:03d}.tif", plane, compression="zlib" if z % 2 else None)
    return folder


def stored(path):
    volume = open_volume(path)
    return volume.read(full_region(volume.shape))


def arrays(path):
    group = zarr.open_group(path, mode="r")
    return [group[str(number)][:] for number in range(len(list(group.array_keys())))]


def halved(image, factors, labels=False):
    """Slow, and obviously right."""
    counts = [-(-extent // factor) for extent, factor in zip(image.shape, factors, strict=True)]
    out = np.empty(counts, image.dtype)
    for place in itertools.product(*map(range, counts)):
        box = image[tuple(slice(n * f, n * f + f) for n, f in zip(place, factors, strict=True))]
        if labels:
            out[place] = Counter(box.ravel().tolist()).most_common(1)[0][0]
        else:
            out[place] = np.rint(box.astype("float64").mean()) if image.dtype.kind in "iu" else box.mean(dtype=float)
    return out


def nothing_left(folder, *names):
    assert sorted(each.name for each in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("workers", [1, 3])
def test_levels_are_those_of_numpy_and_valid(planes, tmp_path, workers):
    path = tmp_path / "ä out.zarr"
    done = convert_volume(planes, path, voxel_size=(6, 1.62, 1.62), workers=workers, **SMALL)
    group = zarr.open_group(path, mode="r")
    image = Image.from_zarr(group)
    found = arrays(path)
    np.testing.assert_array_equal(found[0], VOLUME)
    steps = [(1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
    for step, coarse, fine in zip(steps, found[1:], found, strict=False):
        np.testing.assert_array_equal(coarse, halved(fine, step))
    assert done.levels == tuple(each.shape for each in found)
    assert len(found) == 5
    (multiscale,) = image.attributes.ome.multiscales
    assert multiscale.datasets[2].coordinateTransformations[0].scale == [12, 6.48, 6.48]
    assert multiscale.datasets[2].coordinateTransformations[1].translation == pytest.approx([3, 2.43, 2.43])
    assert done.dtype == "uint16"
    assert done.bytes == sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    assert not done.notes
    nothing_left(tmp_path, path.name)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (4, 8, 8), "sharded": False},
        {"chunks": (8, 16, 16), "shards": (8, 16, 16)},
        {"chunks": (3, 7, 5), "shards": (9, 21, 15)},
        {"chunks": (64, 128, 128)},
        {"chunks": (4, 8, 8), "compression": "none"},
    ],
)
def test_no_layout_changes_a_voxel(planes, tmp_path, options):
    convert_volume(planes, tmp_path / "a.zarr", levels=5, **options)
    convert_volume(planes, tmp_path / "b.zarr", levels=5, chunks=(21, 70, 90), sharded=False)
    for left, right in zip(arrays(tmp_path / "a.zarr"), arrays(tmp_path / "b.zarr"), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr"])
def test_there_and_back(planes, tmp_path, suffix):
    options = SMALL if suffix == ".zarr" else {}
    there = tmp_path / f"a{suffix}"
    convert_volume(planes, there, voxel_size=(6, 1.62, 1.5), **options)
    np.testing.assert_array_equal(stored(there), VOLUME)
    size = open_volume(there).voxel_size
    assert size == (None if suffix == ".npy" else (6, 1.62, 1.5))
    convert_volume(there, tmp_path / "back.tif", voxel_size=None if size else (6, 1.62, 1.5))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "back.tif"), VOLUME)
    nothing_left(tmp_path, f"a{suffix}", "back.tif")


@pytest.mark.parametrize("dtype", ["uint32", "int32", "int64", "uint64", "float64", "int8"])
@pytest.mark.parametrize("source", ["npy", "zarr", "tif", "h5", "planes", "array"])
def test_no_digit_is_lost(tmp_path, dtype, source):
    array = np.arange(6 * 7 * 8).reshape(6, 7, 8)
    array = (array % 100).astype(dtype) if dtype == "int8" else array.astype(dtype) + np.array(2**24 + 1, dtype)
    given = tmp_path / f"a.{source}"
    if source == "npy":
        np.save(given, array)
    elif source == "zarr":
        zarr.create_array(given, data=array)
    elif source == "h5":
        with h5py.File(given, "w") as file:
            file["a"] = array
    elif source == "tif":
        tifffile.imwrite(given, array, photometric="minisblack")
    elif source == "planes":
        given.mkdir()
        for z, plane in enumerate(array):
            tifffile.imwrite(given / f"{z}.tif", plane, photometric="minisblack")
    else:
        given = array
    convert_volume(given, tmp_path / "out.npy")
    found = np.load(tmp_path / "out.npy")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_labels_keep_their_values(tmp_path):
    labels = np.random.default_rng(2).choice(np.array([0, 7, 2**24 + 1, 2**32 - 1], "uint32"), (9, 20, 21))
    convert_volume(labels, tmp_path / "a.zarr", labels=True, chunks=(2, 4, 4), levels=3)
    found = arrays(tmp_path / "a.zarr")
    assert found[0].dtype == "uint32"
    np.testing.assert_array_equal(found[0], labels)
    np.testing.assert_array_equal(found[1], halved(labels, (2, 2, 2), labels=True))
    np.testing.assert_array_equal(found[2], halved(found[1], (2, 2, 2), labels=True))
    image = ImageLabel.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    assert image.attributes.ome.multiscales[0].type == "mode"


def test_floating_point_keeps_nan(tmp_path):
    image = np.random.default_rng(2).normal(size=(5, 9, 10)).astype("float32")
    image[2, 3, 4] = np.nan
    convert_volume(image, tmp_path / "a.zarr", levels=2)
    found = arrays(tmp_path / "a.zarr")
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_allclose(found[1], halved(image, (2, 2, 2)), rtol=1e-6)
    assert np.isnan(found[1]).sum() == 1


def test_a_mask_becomes_uint8(tmp_path):
    mask = VOLUME > 2000
    convert_volume(mask, tmp_path / "a.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), mask.astype("uint8"))


def test_a_region_keeps_its_place(planes, tmp_path):
    convert_volume(planes, tmp_path / "a.zarr", voxel_size=(6, 2, 1), region="3:9,:40,11:", **SMALL)
    np.testing.assert_array_equal(arrays(tmp_path / "a.zarr")[0], VOLUME[3:9, :40, 11:])
    (image,) = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs["ome"]["multiscales"]
    first, second = (data["coordinateTransformations"][1]["translation"] for data in image["datasets"][:2])
    assert first == [18, 0, 11]
    assert second == [18, 0, 11.5]  # of voxels of 6 x 2 x 1 only x is halved
    convert_volume(planes, tmp_path / "a.tif", region="3:9,:40,11:")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), VOLUME[3:9, :40, 11:])


def test_a_single_plane_and_a_single_voxel(tmp_path):
    convert_volume(VOLUME[:1], tmp_path / "a.zarr")
    np.testing.assert_array_equal(arrays(tmp_path / "a.zarr")[0], VOLUME[:1])
    convert_volume(VOLUME[:1, :1, :1], tmp_path / "b.zarr", levels=4)
    assert [each.shape for each in arrays(tmp_path / "b.zarr")] == [(1, 1, 1)]
    convert_volume(VOLUME[:1, :1, :1], tmp_path / "b.tif")
    assert tifffile.imread(tmp_path / "b.tif").ravel().tolist() == [VOLUME[0, 0, 0]]


def test_channel_and_level_are_chosen(tmp_path):
    tifffile.imwrite(tmp_path / "c.tif", np.stack([VOLUME, VOLUME[::-1]], 1), imagej=True)
    with pytest.raises(VolumeError, match="choose one with channel=0 to 1"):
        convert_volume(tmp_path / "c.tif", tmp_path / "a.zarr")
    convert_volume(tmp_path / "c.tif", tmp_path / "a.zarr", channel=1, **SMALL)
    convert_volume(tmp_path / "a.zarr", tmp_path / "coarse.npy", level=1)
    np.testing.assert_array_equal(np.load(tmp_path / "coarse.npy"), halved(VOLUME[::-1], (2, 2, 2)))


@pytest.mark.parametrize(
    ("name", "options", "kind", "text"),
    [
        ("a.tif", {"levels": 2}, ConfigError, r"--levels is for \.zarr only"),
        ("a.npy", {"labels": True}, ConfigError, r"--labels is for \.zarr only"),
        ("a.npy", {"chunks": (1, 1, 1)}, ConfigError, r"--chunks is for \.zarr only"),
        ("a.tif", {"sharded": False}, ConfigError, r"--shards none is for \.zarr only"),
        ("a.tif", {"compression": "none"}, ConfigError, r"--compression is for \.zarr only"),
        ("a.zarr", {"compression": "lzma"}, ConfigError, "--compression lzma: give zstd, lz4 or none"),
        ("a.zarr", {"region": "0:5"}, ConfigError, "--region '0:5': give z0:z1"),
        ("a.zarr", {"memory": 2**20}, MemoryBudgetError, "or smaller --shards"),
        ("a.zarr", {"memory": 2**20, "sharded": False}, MemoryBudgetError, "or smaller --chunks"),
        ("a.tif", {"memory": 2**20}, MemoryBudgetError, "does not hold a block: give at least --memory"),
        ("a.png", {}, OutputError, "a volume is written as"),
    ],
)
def test_mistakes_leave_nothing(planes, tmp_path, name, options, kind, text):
    with pytest.raises(kind, match=text):
        convert_volume(planes, tmp_path / name, **options)
    nothing_left(tmp_path)


def test_the_input_is_never_replaced(tmp_path):
    convert_volume(VOLUME, tmp_path / "a.zarr", **SMALL)
    (tmp_path / "planes").mkdir()
    tifffile.imwrite(tmp_path / "planes" / "0.tif", VOLUME[0])
    for source, path in (
        ("a.zarr", "a.zarr"), ("a.zarr/0", "a.zarr"), ("a.zarr", "a.zarr/c.zarr"), ("planes", "planes/new.tif"),
        ("planes/*.tif", "planes/0.tif"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match="the input"):
            convert_volume(tmp_path / source, tmp_path / path, overwrite=True)
    np.testing.assert_array_equal(arrays(tmp_path / "a.zarr")[0], VOLUME)
    convert_volume(tmp_path / "planes", tmp_path / "planes" / "new.zarr")  # that is no plane


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr"])
def test_what_is_there_is_kept_unless_told(planes, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    convert_volume(VOLUME[:5], path)
    with pytest.raises(OutputError, match="exists already"):
        convert_volume(planes, path)
    with pytest.raises(OutputError, match="exists already and is 5 x 70 x 90 uint16, not 21 x 70 x 90 uint16"):
        convert_volume(planes, path, resume=True)
    np.testing.assert_array_equal(stored(path), VOLUME[:5])
    convert_volume(planes, path, overwrite=True)
    np.testing.assert_array_equal(stored(path), VOLUME)
    before = path.stat().st_mtime_ns
    assert convert_volume(planes, path, resume=True).notes == [f"{path} is there already, whole; nothing was done"]
    assert path.stat().st_mtime_ns == before
    nothing_left(tmp_path, path.name)


class Events:
    """Keeps what a run says, and stops it after some blocks."""

    def __init__(self, stop=None, error=KeyboardInterrupt):
        self.stop, self.error = stop, error
        self.done = 0
        self.planned = []

    def __call__(self, event):
        if isinstance(event, Planned):
            self.planned.append(len(event.plan.blocks if event.todo is None else event.todo))
        if isinstance(event, BlockDone):
            self.done += 1
            if self.done == self.stop:
                raise self.error


@pytest.mark.parametrize("suffix", [".zarr", ".tif"])
def test_an_interrupted_conversion_goes_on(planes, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("cytolith.convert.plan._FILE_BLOCK_BYTES", 4 * 70 * 90 * 3)
    path = tmp_path / f"a{suffix}"
    options = {"voxel_size": (2, 1, 1), **(SMALL if suffix == ".zarr" else {})}
    convert_volume(planes, tmp_path / f"b{suffix}", **options)
    early = Events(2)
    with pytest.raises(KeyboardInterrupt) as caught:
        convert_volume(planes, path, listener=early, workers=1, **options)
    assert caught.value.__notes__ == [f"what is finished is kept beside {path}; the same command goes on from there"]
    assert not path.exists()
    nothing_left(tmp_path, f"b{suffix}", f"a{suffix}.partial", f"a{suffix}.unfinished")
    events = Events()
    done = convert_volume(planes, path, listener=events, workers=3, memory=2**31, **options)
    assert "this went on with an unfinished conversion" in done.notes
    assert 0 < events.planned[0] <= early.planned[0] - 2
    if suffix == ".zarr":
        for left, right in zip(arrays(path), arrays(tmp_path / "b.zarr"), strict=True):
            np.testing.assert_array_equal(left, right)
    else:
        assert path.read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    nothing_left(tmp_path, *(f"{name}{suffix}" for name in "ab"))


def test_another_conversion_is_refused_and_says_why(planes, tmp_path):
    path = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        convert_volume(planes, path, listener=Events(2), workers=1, **SMALL)
    for options, text in (
        ({"voxel_size": (6, 2, 2)}, "voxel_size is 6 x 2 x 2, the unfinished conversion to it has none"),
        ({"region": "0:9,:,:"}, "region is 0:9,0:70,0:90, the unfinished conversion to it has 0:21,0:70,0:90"),
        ({"levels": 2}, "levels is 2, the unfinished conversion to it has 5"),
        ({"labels": True}, "labels is True"),
        ({"compression": "lz4"}, "compression is lz4, the unfinished conversion to it has zstd"),
        ({"shards": (8, 16, 64)}, "shards is 8 x 16 x 64, the unfinished conversion to it has 8 x 32 x 32"),
    ):
        with pytest.raises(OutputError, match=text):
            convert_volume(planes, path, **SMALL | options)
    with pytest.raises(OutputError, match="input is an array"):
        convert_volume(VOLUME, path, **SMALL)
    convert_volume(VOLUME[:4], path, overwrite=True)
    np.testing.assert_array_equal(stored(path), VOLUME[:4])
    nothing_left(tmp_path, "a.zarr")


def test_a_changed_plane_is_noticed_unless_it_was_not_read(tmp_path):
    folder, path = tmp_path / "planes", tmp_path / "a.zarr"
    folder.mkdir()
    for z, plane in enumerate(VOLUME):
        tifffile.imwrite(folder / f"{z}.tif", plane)
    with pytest.raises(KeyboardInterrupt):
        convert_volume(folder, path, listener=Events(2), workers=1, **SMALL)
    tifffile.imwrite(folder / "20.tif", VOLUME[0])  # not read yet
    os.utime(folder / "0.tif", ns=(1, 1))
    with pytest.raises(OutputError, match=r"0\.tif has changed since the unfinished conversion has read it"):
        convert_volume(folder, path, **SMALL)
    convert_volume(folder, path, overwrite=True, **SMALL)
    np.testing.assert_array_equal(stored(path), np.concatenate([VOLUME[:20], VOLUME[:1]]))
    nothing_left(tmp_path, "planes", "a.zarr")


def test_a_damaged_plane_costs_its_blocks_only(tmp_path):
    folder, path = tmp_path / "planes", tmp_path / "a.zarr"
    folder.mkdir()
    for z, plane in enumerate(VOLUME):
        tifffile.imwrite(folder / f"{z:02d}.tif", plane, compression="zlib")
    whole = (folder / "20.tif").read_bytes()
    (folder / "20.tif").write_bytes(whole[:-800] + bytes(800))
    with pytest.raises(BlocksFailedError, match=r"20\.tif is damaged"):
        convert_volume(folder, path, **SMALL)
    assert not path.exists()
    (folder / "20.tif").write_bytes(whole)
    events = Events()
    convert_volume(folder, path, listener=events, **SMALL)
    np.testing.assert_array_equal(stored(path), VOLUME)
    nothing_left(tmp_path, "planes", "a.zarr")


def test_a_full_disk_is_said_in_a_line_and_gone_on_from(planes, tmp_path, monkeypatch):
    path, calls = tmp_path / "a.zarr", itertools.count()
    write = ConvertTask._write

    def full(self, *arguments):
        if next(calls) == 7:
            raise OutputError(f"{path}: cannot be written: the disk is full")
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ConvertTask, "_write", full)
        with pytest.raises(OutputError, match="the disk is full"):
            convert_volume(planes, path, workers=1, **SMALL)
    convert_volume(planes, path, **SMALL)
    np.testing.assert_array_equal(stored(path), VOLUME)


def test_a_block_is_on_the_disk_before_it_counts_as_done(planes, tmp_path, monkeypatch):
    happened = []
    flush, save = pyramid.flush_chunks, Checkpoints.save
    monkeypatch.setattr(pyramid, "flush_chunks", lambda at, *rest: happened.append(at.name) or flush(at, *rest))
    monkeypatch.setattr(Checkpoints, "save", lambda self, *rest: happened.append("done") or save(self, *rest))
    convert_volume(planes, tmp_path / "a.zarr", workers=1, chunks=(8, 16, 16), shards=(32, 64, 64), levels=3)
    assert happened == ["0", "1", "2", "done"] * (len(happened) // 4)
    assert len(happened) >= 8


def test_an_array_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        convert_volume(VOLUME, tmp_path / "a.zarr", listener=Events(2), workers=1, **SMALL)
    nothing_left(tmp_path)


def test_two_conversions_to_one_path_do_not_meet(planes, tmp_path):
    path = tmp_path / "a.zarr"

    def second(event):
        if isinstance(event, BlockDone):
            with pytest.raises(OutputError, match=r"another run .* writes here"):
                convert_volume(planes, path, **SMALL)

    convert_volume(planes, path, listener=second, **SMALL)
    np.testing.assert_array_equal(stored(path), VOLUME)


def test_processes_give_the_same(planes, tmp_path):
    convert_volume(planes, tmp_path / "a.zarr", executor="processes", workers=1, **SMALL)
    convert_volume(planes, tmp_path / "b.zarr", **SMALL)
    for left, right in zip(arrays(tmp_path / "a.zarr"), arrays(tmp_path / "b.zarr"), strict=True):
        np.testing.assert_array_equal(left, right)


KILLER = """
# Children are forked from a process that has loaded everything, so that each run begins at once.
import itertools, os, signal, sys
import cytolith.io.flat_sink as flat
import cytolith.io.shards as shards
import cytolith.convert.plan as plan
from cytolith.convert.pipeline import convert_volume
from cytolith.engine.version import code_version

source, out, every = sys.argv[1], sys.argv[2], int(sys.argv[3])
plan._FILE_BLOCK_BYTES = 4 * 70 * 90 * 3
code_version()
options = {"chunks": (4, 16, 16), "shards": (8, 32, 32), "levels": 5} if out.endswith(".zarr") else {}

def run():
    calls = itertools.count(1)
    def killed(original):
        def write(*arguments):
            if next(calls) % every == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)
        return write
    shards._chunk = killed(shards._chunk)  # in the middle of a shard
    flat.FlatSink._put = killed(flat.FlatSink._put)
    convert_volume(source, out, workers=2, **options)

kills = 0
while True:
    child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    state = os.waitpid(child, 0)[1]
    if state == 0:
        break
    assert os.WIFSIGNALED(state), state
    assert not os.path.exists(out)
    kills += 1
    assert kills < 100
print(kills)
"""


@pytest.mark.parametrize(("suffix", "every"), [(".zarr", 130), (".npy", 4)])
def test_kills_lose_nothing(planes, tmp_path, suffix, every):
    killed, whole = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(planes), str(killed), str(every)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2
    convert_volume(planes, whole, **(SMALL if suffix == ".zarr" else {}))
    if suffix == ".npy":
        assert killed.read_bytes() == whole.read_bytes()
    else:
        for left, right in zip(arrays(killed), arrays(whole), strict=True):
            assert left.tobytes() == right.tobytes()
        names = [{p.relative_to(path) for p in path.rglob("*")} for path in (killed, whole)]
        assert names[0] == names[1]
    nothing_left(tmp_path, killed.name, whole.name)


def test_memory_stays_below_what_was_given(tmp_path):
    script = """
import sys
from pathlib import Path
import numpy as np
from cytolith.convert.pipeline import convert_volume

class Noise:
    dtype, shape = np.dtype("uint16"), (320, 512, 512)
    tile = np.random.default_rng(0).integers(0, 99, (64, 512, 512)).astype("uint16")
    def __getitem__(self, region):
        return self.tile[np.arange(region[0].start, region[0].stop) % 64, region[1], region[2]]

convert_volume(Noise(), sys.argv[1], workers=2, memory=330 * 2**20, shards=(64, 256, 256))
# not ru_maxrss, which begins with that of the process that forked this one
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "a.zarr"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # the array's 32 MiB, and what it copies for each of two blocks, are its own
    assert int(done.stdout) < (330 + 32 + 2 * 16) * 1024
