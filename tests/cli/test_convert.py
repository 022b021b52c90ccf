"""``cytolith convert`` as scripts call it."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
import zarr
from command_line import cytolith
from ome_zarr_models.v05 import Image

COMMAND = [sys.executable, "-m", "cytolith", "convert"]
SHAPE = (12, 300, 280)
VOLUME = np.random.default_rng(7).integers(0, 4000, SHAPE).astype("uint16")


def convert_volume(*arguments, code=0):
    return cytolith("convert", *arguments, code=code)


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume") / "pläne"
    folder.mkdir()
    for z, plane in enumerate(VOLUME):
        tifffile.imwrite(folder / f"p{z:02d}.tif", plane)
    return folder


def test_planes_to_ome_zarr_and_on_to_tiff(planes, tmp_path):
    path = tmp_path / "out.zarr"
    done = convert_volume(
        planes, path, "--voxel-size", "6,1.62,1.62", "--chunks", "4,64,64", "--shards", "8,128,128", "--workers", 2,
        "--memory", "1GiB", "--region", ":,10:,:",
    )  # fmt: skip
    group = zarr.open_group(path, mode="r")
    Image.from_zarr(group)
    np.testing.assert_array_equal(group["0"][:], VOLUME[:, 10:])
    assert (group["0"].chunks, group["0"].shards) == ((4, 64, 64), (8, 128, 128))
    assert group["1"].shape == (12, 145, 140)
    assert done.stdout.startswith("12 x 290 x 280 uint16, 2 levels down to 12 x 145 x 140, ")
    assert done.stdout.rstrip().endswith(str(path))
    assert "Mvoxel in" in done.stderr
    quiet = convert_volume(path, tmp_path / "out.tif", "--quiet")
    assert (quiet.stdout, quiet.stderr) == ("", "")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), VOLUME[:, 10:])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.tif", "out.zarr"]


def test_labels_without_shards(tmp_path):
    labels = np.zeros((4, 10, 10), "uint32")
    labels[1:3, 2:6, 3:7] = 2**24 + 1
    np.save(tmp_path / "labels.npy", labels)
    convert_volume(
        tmp_path / "labels.npy", tmp_path / "l.zarr", "--labels", "--levels", 2, "--shards", "none", "--compression",
        "none",
    )  # fmt: skip
    group = zarr.open_group(tmp_path / "l.zarr", mode="r")
    assert group["0"].dtype == "uint32"
    assert set(np.unique(group["1"][:])) == {0, 2**24 + 1}
    assert group["0"].shards is None


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["out.zarr", "--chunks", "4,5"], 2, "--chunks '4,5': give three positive whole numbers"),
        (["out.zarr", "--chunks", "4,5,6", "--shards", "8,10,13"], 2, "13 along x is no multiple of 6"),
        (["out.zarr", "--levels", "2.5"], 2, "2.5"),
        (["out.zarr", "--region", "0:99,:,:"], 2, "--region '0:99,:,:': 0:99 along z, but the volume has 0:12"),
        (["out.zarr", "--compression", "rar"], 2, "--compression rar: give zstd, lz4 or none"),
        (["out.tif", "--labels"], 2, "--labels is for .zarr only"),
        (["out.zarr", "--memory", "1MiB"], 1, "--memory 1.0 MiB does not hold a block"),
        (["out.jpg"], 1, "a volume is written as .npy, .tif, .tiff or .zarr"),
        (["out.zarr", "--channel", "1"], 1, "--channel 1"),
    ],
)
def test_mistakes_are_one_line(planes, tmp_path, options, code, text):
    name, *rest = options
    done = convert_volume(planes, tmp_path / name, *rest, code=code)
    assert text in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(planes, tmp_path):
    np.save(tmp_path / "out.npy", np.zeros(3))
    assert "exists already" in convert_volume(planes, tmp_path / "out.npy", code=1).stderr
    convert_volume(planes, tmp_path / "out.npy", "--overwrite")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), VOLUME)
    assert "nothing was done" in convert_volume(planes, tmp_path / "out.npy", "--resume").stderr


def test_an_interrupt_can_be_gone_on_from(tmp_path):
    volume = np.random.default_rng(1).integers(0, 99, (256, 256, 256)).astype("uint8")
    np.save(tmp_path / "in.npy", volume)
    command = [
        *COMMAND, tmp_path / "in.npy", tmp_path / "out.zarr", "--workers", "1", "--chunks", "8,64,64", "--shards",
        "16,128,128",
    ]  # fmt: skip
    run = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out.zarr.unfinished/stage0/*.block")):
        assert run.poll() is None
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "the same command goes on from there" in said.splitlines()[-1]
    assert not (tmp_path / "out.zarr").exists()
    done = convert_volume(*command[len(COMMAND) :], "--resume")
    assert "this went on with an unfinished conversion" in done.stderr
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr" / "0", mode="r")[:], volume)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.npy", "out.zarr"]
