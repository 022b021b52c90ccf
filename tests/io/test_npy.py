"""Memory-mapped .npy files."""

import pickle

import numpy as np
import pytest

from cytolith.axes import full_region
from cytolith.errors import VolumeError
from cytolith.io.volume import open_volume

SHAPE = (4, 5, 7)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "bool", ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_regions_equal_slicing(tmp_path, dtype, order):
    array = np.asarray((np.arange(140) % 250).reshape(SHAPE).astype(dtype), order=order)
    np.save(tmp_path / "a.npy", array)
    volume = open_volume(tmp_path / "a.npy", voxel_size=(5, 2, 2))
    region = (slice(1, 3), slice(0, 4), slice(2, 7))
    box = volume.read(region)
    np.testing.assert_array_equal(box, array[region])
    assert (box.dtype, box.flags.c_contiguous, box.flags.writeable) == (volume.dtype, True, True)
    assert volume.dtype.isnative
    assert (volume.describe()["format"], volume.chunks) == ("npy", (1, 1, 7))


def test_pickle_carries_the_path_only(tmp_path):
    array = np.arange(16 * 32 * 33, dtype="uint16").reshape(16, 32, 33)
    np.save(tmp_path / "a.npy", array)
    text = pickle.dumps(open_volume(tmp_path / "a.npy"))
    assert len(text) < 2000
    np.testing.assert_array_equal(pickle.loads(text).read(full_region(array.shape)), array)


def test_check_finds_what_changed(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(SHAPE, "uint8"))
    volume = open_volume(path)
    volume.check()
    path.unlink()
    np.save(path, np.zeros((4, 5, 8), "uint8"))
    with pytest.raises(VolumeError, match=r"a\.npy has changed"):
        volume.check()
    path.unlink()
    with pytest.raises(VolumeError, match="cannot be opened: No such file"):
        volume.check()


def test_truncated(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(SHAPE, "uint16"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VolumeError, match=r"a\.npy is cut off"):
        open_volume(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(VolumeError, match=r"a\.npy is cut off"):
        open_volume(path)


def test_truncated_as_windows_says_it(tmp_path, monkeypatch):
    def refuse(*given, **options):
        error = OSError(22, "Not enough memory resources are available to process this command")
        error.winerror = 8
        raise error

    np.save(tmp_path / "a.npy", np.zeros(SHAPE, "uint16"))
    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    with pytest.raises(VolumeError, match=r"a\.npy is cut off; copy or export it again$"):
        open_volume(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((5, 7), "uint8"), "2-d"),
        (np.zeros((1, 4, 5, 7), "uint8"), "4-d"),
        (np.zeros((4, 0, 7), "uint8"), "empty"),
        (np.zeros(SHAPE, "complex64"), "complex64 voxels, which are not supported"),
        (np.zeros(SHAPE, [("a", "u1")]), "not supported"),
        (np.zeros(SHAPE, object), "not a plain array"),
    ],
)
def test_arrays_that_are_no_volume(tmp_path, array, text):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(VolumeError, match=text):
        open_volume(tmp_path / "a.npy")


def test_options(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(SHAPE, "uint8"))
    with pytest.raises(VolumeError, match=r"channel=1 is not in .*a\.npy"):
        open_volume(tmp_path / "a.npy", channel=1)
