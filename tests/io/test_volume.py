"""open_volume on arrays, what every volume keeps to, and the messages of wrong sources and options."""

import pickle
from pathlib import Path

import dask.array
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.axes import full_region, region_shape
from cytolith.errors import VolumeError
from cytolith.io.volume import open_volume

SHAPE = (4, 5, 7)


def ramp(dtype, shape=SHAPE):
    return (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)


def regions(shape):
    def part(extent):
        return st.tuples(st.integers(0, extent), st.integers(0, extent)).map(lambda ends: slice(min(ends), max(ends)))

    return st.tuples(*(part(extent) for extent in shape))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_supported_dtypes_are_kept(dtype):
    volume = open_volume(ramp(dtype))
    assert volume.dtype == dtype
    assert volume.read(full_region(SHAPE)).dtype == dtype


@pytest.mark.parametrize(("stored", "read"), [("float64", "float32"), ("bool", "uint8"), (">u2", "uint16")])
def test_float64_bool_and_swapped_are_converted(stored, read):
    array = ramp(stored)
    volume = open_volume(array)
    assert volume.dtype == np.dtype(read)
    assert volume.dtype.isnative
    np.testing.assert_array_equal(volume.read(full_region(SHAPE)), array.astype(read))
    np.testing.assert_array_equal(volume.read(full_region(SHAPE), np.empty(SHAPE, read)), array.astype(read))


@pytest.mark.parametrize("dtype", ["float16", "complex64", "S3", "datetime64[s]"])
def test_other_dtypes_are_refused_with_the_supported_ones_named(dtype):
    with pytest.raises(VolumeError, match=r"not supported: convert to one of uint8, uint16, int16, float32"):
        open_volume(np.zeros(SHAPE, dtype))


@given(region=regions(SHAPE), order=st.sampled_from("CF"), reuse=st.booleans())
@settings(max_examples=60)
def test_any_region_of_any_layout_equals_slicing(region, order, reuse):
    array = np.asarray(ramp("uint16"), order=order)
    out = np.full(region_shape(region), 9, np.uint16) if reuse else None
    box = open_volume(array).read(region, out)
    np.testing.assert_array_equal(box, array[region])
    assert box.flags.c_contiguous
    assert not reuse or box is out


def test_whole_planes_of_an_array_are_not_copied_but_read_only_ones_are():
    array = ramp("uint16")
    planes = (slice(1, 3), slice(0, 5), slice(0, 7))
    assert np.shares_memory(open_volume(array).read(planes), array)
    array.flags.writeable = False
    assert open_volume(array).read(planes).flags.writeable


@pytest.mark.parametrize("make", ["dask", "h5py", "duck"])
def test_array_likes(make, tmp_path):
    array = ramp("int16")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = array

        class Duck:
            shape, dtype = array.shape, array.dtype

            def __getitem__(self, key):
                return array[key].tolist()

        source = {"dask": dask.array.from_array(array, chunks=(2, 3, 4)), "h5py": file["a"], "duck": Duck()}[make]
        volume = open_volume(source, voxel_size=(3, 2, 1))
        region = (slice(1, 4), slice(2, 5), slice(0, 6))
        box = volume.read(region)
        np.testing.assert_array_equal(box, array[region])
        assert box.dtype == np.int16
        assert volume.voxel_size == (3.0, 2.0, 1.0)
        assert volume.chunks == ((2, 3, 4) if make == "dask" else None)


def test_dask_blocks_are_computed_without_threads_of_their_own():
    import threading

    seen = set()

    def note(block):
        seen.add(threading.current_thread())
        return block

    lazy = dask.array.from_array(ramp("uint8"), chunks=(1, 5, 7)).map_blocks(
        note, dtype="uint8", meta=np.array((), "u1")
    )
    open_volume(lazy).read(full_region(SHAPE))
    assert seen == {threading.current_thread()}


class Liar:
    shape, dtype = SHAPE, np.dtype("uint8")

    def __getitem__(self, key):
        return np.zeros((1, 1, 1), np.uint8)


class Broken(Liar):
    def __getitem__(self, key):
        raise OSError("disk gone")


@pytest.mark.parametrize(("source", "text"), [(Liar(), "its shape is wrong"), (Broken(), "disk gone")])
def test_array_likes_that_fail_are_named(source, text):
    with pytest.raises(VolumeError, match=text):
        open_volume(source).read(full_region(SHAPE))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (np.zeros((5, 7), np.uint8), r"2-d, \(5, 7\): stack planes as \(z, y, x\), or give array\[None\]"),
        (np.zeros((2, 4, 5, 7), np.uint8), "4-d.*choose one channel and timepoint"),
        (np.zeros((0, 5, 7), np.uint8), r"empty, its shape is \(0, 5, 7\)"),
        (np.ma.masked_equal(ramp("uint8"), 3), "masked"),
        (dask.array.from_array(ramp("uint8")).astype(bool)[ramp("bool")], "is 1-d|not known"),
        (17, "cannot read a volume from int: give a path"),
        ([[[1]]], "cannot read a volume from list"),
    ],
)
def test_wrong_sources(source, text):
    with pytest.raises(VolumeError, match=text):
        open_volume(source)


@pytest.mark.parametrize(
    "size", [(1, 2), (1, 2, 0), (1, 2, -3), (1, 2, float("nan")), (1, 2, float("inf")), 5, "abc", "a"]
)
def test_wrong_voxel_sizes(size):
    with pytest.raises(VolumeError, match=r"voxel_size=.* is not three lengths above 0 in micrometres, \(z, y, x\)"):
        open_volume(ramp("uint8"), voxel_size=size)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channel": 1}, "channel=1 is not in numpy array, which holds 1 channel: leave channel out or give 0"),
        ({"timepoint": 2}, "timepoint=2 is not in"),
        ({"level": 1}, "level=1 is not in"),
        ({"dataset": "a"}, "dataset='a': numpy array holds a single image; leave dataset out"),
        ({"channel": -1}, "channel=-1 is not a whole number of 0 or more"),
        ({"channel": True}, "channel=True is not"),
        ({"level": "0"}, "level='0' is not"),
    ],
)
def test_options_that_an_array_does_not_have(options, text):
    with pytest.raises(VolumeError, match=text):
        open_volume(ramp("uint8"), **options)


def test_zero_is_the_only_channel_timepoint_and_level_of_an_array():
    assert open_volume(ramp("uint8"), channel=0, timepoint=0, level=0).shape == SHAPE


@pytest.mark.parametrize(
    "region", [(slice(0, 5), slice(0, 5), slice(0, 7)), (slice(-1, 2), slice(0, 1), slice(0, 1)), (slice(3, 2),) * 3]
)
def test_regions_outside(region):
    volume = open_volume(ramp("uint8"))
    with pytest.raises(VolumeError, match=r"region z .* is not inside 0:4"):
        volume.read(region)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((4, 5, 6), "u1"),
        np.empty(SHAPE, "u2"),
        np.empty(SHAPE, "u1", order="F"),
        np.empty((4, 5, 14), "u1")[..., ::2],
    ],
)
def test_out_must_fit(out):
    with pytest.raises(VolumeError, match=r"the region needs C-contiguous \(4, 5, 7\) uint8"):
        open_volume(ramp("uint8")).read(full_region(SHAPE), out)


def test_a_volume_is_taken_as_it_is_and_may_get_another_voxel_size():
    first = open_volume(ramp("uint8"), voxel_size=(1, 2, 3))
    assert open_volume(first).voxel_size == (1.0, 2.0, 3.0)
    second = open_volume(first, voxel_size=(4, 5, 6))
    assert (second.voxel_size, first.voxel_size) == ((4.0, 5.0, 6.0), (1.0, 2.0, 3.0))
    with pytest.raises(VolumeError, match="channel=1"):
        open_volume(first, channel=1)


def test_description_is_plain():
    with open_volume(ramp("uint16"), voxel_size=(4, 2, 2)) as volume:
        assert volume.describe() == {
            "source": "numpy array",
            "format": "array",
            "shape": SHAPE,
            "dtype": "uint16",
            "voxel_size": (4.0, 2.0, 2.0),
            "chunks": (1, 1, 7),
            "compression": "none",
            "channels": [0],
            "timepoints": [0],
            "levels": [SHAPE],
            "bytes": 280,
        }
        assert volume.check() is None
    assert open_volume(ramp("uint16")).describe()["voxel_size"] == "unknown"


def test_arrays_can_be_pickled():
    volume = pickle.loads(pickle.dumps(open_volume(ramp("uint8"), voxel_size=(1, 2, 3))))
    np.testing.assert_array_equal(volume.read(full_region(SHAPE)), ramp("uint8"))
    assert volume.voxel_size == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.tif", b"", r"a\.tif is empty \(0 bytes\)"),
        ("a.tif", b"not a tiff", "neither TIFF nor .npy nor zarr"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", r"a.h5 is cut off or damaged"),
        ("a.tif", b"II*\0\xff\xff\xff\x7f", "cut off or not a TIFF file"),
    ],
)
def test_files_that_are_no_volume(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=text):
        open_volume(tmp_path / name)


def test_missing_paths(tmp_path):
    with pytest.raises(VolumeError, match=r"does not exist; check the path$"):
        open_volume(tmp_path / "a.tif")
    with pytest.raises(VolumeError, match=r"does not exist; check the path \(.* is there, what follows it is not\)"):
        open_volume(str(tmp_path / "b" / "c" / "a.tif"))


def test_home_is_expanded(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    np.save(tmp_path / "a.npy", ramp("uint8"))
    assert open_volume("~/a.npy").shape == SHAPE
    assert open_volume(Path("~/a.npy")).shape == SHAPE
