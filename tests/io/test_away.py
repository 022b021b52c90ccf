"""Volumes whose path goes away and comes back, and volumes in another process in another folder."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import zarr

from cytolith.axes import full_region
from cytolith.errors import VolumeError
from cytolith.io.volume import open_volume

SHAPE = (4, 40, 30)
VOLUME = np.random.default_rng(5).integers(1, 60000, SHAPE, "uint16")  # no voxel is 0


def planes(path, **options):
    path.mkdir()
    for z, plane in enumerate(VOLUME):
        tifffile.imwrite(path / f"p{z}.tif", plane, **options)


def image(path):
    group = zarr.open_group(path, mode="w")
    group.create_array("s0", shape=SHAPE, dtype="uint16", chunks=(2, 16, 16))[...] = VOLUME
    datasets = [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [3, 2, 1]}]}]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def chunked(zarr_format):
    def write(path):
        array = zarr.create_array(path, shape=SHAPE, dtype="uint16", chunks=(2, 16, 16), zarr_format=zarr_format)
        array[...] = VOLUME

    return write


STACK = {"photometric": "minisblack"}
KINDS = {
    "planes": planes,
    "deflate planes": lambda path: planes(path, compression="zlib", rowsperstrip=8),
    "a.tif": lambda path: tifffile.imwrite(path, VOLUME, **STACK),
    "lzw.tif": lambda path: tifffile.imwrite(path, VOLUME, compression="lzw", rowsperstrip=8, **STACK),
    "tiles.tif": lambda path: tifffile.imwrite(path, VOLUME, compression="zlib", tile=(16, 16), **STACK),
    "a.npy": lambda path: np.save(path, VOLUME),
    "a.zarr": chunked(3),
    "v2.zarr": chunked(2),
    "ome.zarr": image,
}  # fmt: skip
REGION = (slice(1, 4), slice(3, 37), slice(2, 29))


@pytest.fixture(params=sorted(KINDS))
def path(request, tmp_path):
    (tmp_path / "share").mkdir()
    KINDS[request.param](tmp_path / "share" / request.param)
    return tmp_path / "share" / request.param


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.parametrize("state", ["opened", "checked", "read", "unpickled", "unpickled away"])
def test_away_is_an_error_and_back_is_as_before(path, tmp_path, state):
    volume = open_volume(path)
    if state == "checked":
        volume.check()
    elif state == "read":
        volume.read(REGION)
    elif state == "unpickled":
        volume = pickle.loads(pickle.dumps(volume))
    text = pickle.dumps(volume)
    for _ in range(2):
        (tmp_path / "share").rename(tmp_path / "gone")
        if state == "unpickled away":
            volume = pickle.loads(text)
        for access, region in ((volume.read, [REGION]), (volume.read, [full_region(SHAPE)]), (volume.check, []),
                               (volume.stamps, [])):  # fmt: skip
            with pytest.raises(VolumeError, match=path.name) as caught:
                access(*region)
            assert any(isinstance(error, OSError) for error in causes(caught.value))
            assert "\n" not in str(caught.value)
        (tmp_path / "gone").rename(tmp_path / "share")
        np.testing.assert_array_equal(volume.read(REGION), VOLUME[REGION])
    volume.check()


@pytest.mark.parametrize("relative", [False, True])
def test_another_process_in_another_folder(path, tmp_path, monkeypatch, relative):
    monkeypatch.chdir(path.parent)
    volume = open_volume(path.name if relative else path, voxel_size=(3, 2, 1))
    code = (
        "import pickle, sys; text, found = sys.stdin.buffer.read(), []\n"
        "for check in (False, True):\n"
        "    volume = pickle.loads(text)\n"
        "    volume.check() if check else None\n"
        "    found.append((volume.voxel_size, volume.chunks, volume.read((slice(1, 4), slice(3, 37), slice(2, 29)))))\n"
        "sys.stdout.buffer.write(pickle.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(volume), cwd=tmp_path, capture_output=True, check=True
    )
    for voxel_size, chunks, box in pickle.loads(done.stdout):
        assert (voxel_size, chunks) == ((3, 2, 1), volume.chunks)
        np.testing.assert_array_equal(box, VOLUME[REGION])


def test_a_chunk_that_was_never_written_is_still_the_fill_value(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, dtype="uint16", chunks=(2, 16, 16), fill_value=7)
    assert (open_volume(tmp_path / "a.zarr").read(full_region(SHAPE)) == 7).all()


def test_npy_that_is_another_array_when_it_comes_back(tmp_path):
    np.save(tmp_path / "a.npy", VOLUME)
    volume = open_volume(tmp_path / "a.npy")
    for other in (VOLUME[:, :20], VOLUME.astype("float32")):
        (tmp_path / "a.npy").unlink()
        np.save(tmp_path / "a.npy", other)
        with pytest.raises(VolumeError, match=r"a\.npy has changed since it was opened; open it again"):
            volume.read(REGION)


def test_pickles_of_thousands_of_planes_are_small(tmp_path):
    for z in range(2000):
        (tmp_path / f"brain_Z{z:04}_C00.tif").write_bytes(b"")
    tifffile.imwrite(tmp_path / "brain_Z0000_C00.tif", VOLUME[0], compression="zlib")
    volume = open_volume(tmp_path)
    assert volume.shape == (2000, 40, 30)
    text = pickle.dumps(volume)
    assert len(text) < 12_000
    again = pickle.loads(text)
    assert again._paths == volume._paths
    np.testing.assert_array_equal(again.read((slice(0, 1), slice(0, 40), slice(0, 30)))[0], VOLUME[0])


def test_pickles_of_thousands_of_pages_are_small(tmp_path):
    page = np.zeros((64, 30), "uint16")
    with tifffile.TiffWriter(tmp_path / "raw.tif") as raw, tifffile.TiffWriter(tmp_path / "strips.tif") as strips:
        for z in range(1000):
            page[:] = z
            raw.write(page, photometric="minisblack", contiguous=False, metadata=None)
            strips.write(page, photometric="minisblack", compression="zlib", rowsperstrip=8, metadata=None)
    for name, size in (("raw.tif", 12_000), ("strips.tif", 40_000)):
        volume = open_volume(tmp_path / name)
        volume.check()
        text = pickle.dumps(volume)
        assert len(text) < size
        again = pickle.loads(text)
        for plane, before in zip(again._planes, volume._planes, strict=True):
            np.testing.assert_array_equal(plane.offsets, before.offsets)
            np.testing.assert_array_equal(plane.sizes, before.sizes)
            assert (plane.name, plane.path, plane.contiguous) == (before.name, before.path, before.contiguous)
        assert (again.read((slice(777, 778), slice(0, 64), slice(0, 30))) == 777).all()


def test_a_copy_keeps_what_is_known_of_the_planes(tmp_path):
    planes(tmp_path / "planes")
    volume = open_volume(tmp_path / "planes")
    volume.check()
    copied = open_volume(volume, voxel_size=(3, 2, 1))
    assert (copied.voxel_size, volume.voxel_size) == ((3, 2, 1), None)
    for z in range(4):
        (tmp_path / "planes" / f"p{z}.tif").read_bytes()
    assert copied._planes[3] is volume._planes[3] is not None
