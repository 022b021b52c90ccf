"""HDF5 datasets, and Imaris and BigDataViewer files written here to their published layouts."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.axes import full_region
from cytolith.cells.pipeline import detect_cells
from cytolith.errors import VolumeError
from cytolith.io.volume import open_volume
from cytolith.testing.phantoms import cells_phantom

SHAPE = (6, 20, 30)
VOLUME = np.random.default_rng(6).integers(1, 60000, SHAPE, "uint16")  # no voxel is 0


def everything(volume):
    return volume.read(full_region(volume.shape))


def write(path, dataset="volume", array=VOLUME, attrs=None, **options):
    with h5py.File(path, "a") as file:
        made = file.create_dataset(dataset, data=array, **options)
        made.attrs.update(attrs or {})
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int16", "float32", ">f4", "float64", "uint32", "bool"])
@pytest.mark.parametrize("chunks", [None, (4, 8, 16)])
def test_dtypes(tmp_path, dtype, chunks):
    array = (VOLUME % 250).astype(dtype)
    volume = open_volume(write(tmp_path / "ä brain.h5", array=array, chunks=chunks))
    volume.check()
    np.testing.assert_array_equal(everything(volume), array.astype(volume.dtype))
    assert volume.dtype == {"float64": "float32", "uint32": "float32", "bool": "uint8"}.get(
        dtype, np.dtype(dtype).newbyteorder("=")
    )
    assert (volume.chunks, volume.voxel_size) == (chunks or (1, 1, 30), None)
    assert volume.describe()["format"] == "HDF5"


def test_beyond_float32_is_infinite(tmp_path):
    array = np.full((2, 3, 4), 1e300)
    assert np.isinf(everything(open_volume(write(tmp_path / "a.h5", array=array)))).all()


@given(data=st.data())
@settings(max_examples=40)
def test_any_region(tmp_path_factory, data):
    kind = data.draw(st.sampled_from(["uint16", "float64"]))
    path = tmp_path_factory.getbasetemp() / f"regions {kind}.h5"
    if not path.exists():
        write(path, "a/b", VOLUME[None, None].astype(kind), chunks=(1, 1, 4, 8, 16), compression="gzip")
    ends = [sorted(data.draw(st.tuples(st.integers(0, extent), st.integers(0, extent)))) for extent in SHAPE]
    region = tuple(slice(*pair) for pair in ends)
    expected = VOLUME[region].astype(kind).astype("float32" if kind == "float64" else kind)
    out = np.full(expected.shape, 7, expected.dtype)
    assert open_volume(path).read(region, out) is out
    np.testing.assert_array_equal(out, expected)


def test_reads_only_what_is_needed(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", chunks=(2, 20, 30))
    with h5py.File(path) as file:
        dataset = file["volume"]
        place = {dataset.id.get_chunk_info(n).chunk_offset: dataset.id.get_chunk_info(n).byte_offset for n in range(3)}
    volume = open_volume(path)
    before = volume.read((slice(2, 4), slice(0, 20), slice(0, 30)))
    volume.close()
    content = bytearray(path.read_bytes())
    content[place[(0, 0, 0)] : place[(0, 0, 0)] + 100] = b"\xff" * 100  # the chunk before: not looked at
    path.write_bytes(content)
    np.testing.assert_array_equal(volume.read((slice(2, 4), slice(0, 20), slice(0, 30))), before)


@pytest.mark.parametrize(
    ("options", "text"),
    [({}, "none"), ({"compression": "gzip", "shuffle": True}, "shuffle, gzip"), ({"compression": "lzf"}, "lzf")],
)
def test_compression(tmp_path, options, text):
    volume = open_volume(write(tmp_path / "a.h5", chunks=(4, 8, 16) if options else None, **options))
    assert volume.describe()["compression"] == text
    np.testing.assert_array_equal(everything(volume), VOLUME)


def test_one_of_several_datasets(tmp_path):
    path = write(tmp_path / "a.h5", "raw/stack")
    write(path, "table", np.zeros((5, 2)))
    write(path, "names", np.array([b"a", b"b"]))
    assert open_volume(path).describe()["dataset"] == "raw/stack"
    write(path, "probabilities", np.zeros((3, 4, 5), "f4"))
    with pytest.raises(
        VolumeError,
        match=r"a.h5 holds probabilities \(3 x 4 x 5 float32\), raw/stack \(6 x 20 x 30 uint16\): choose one with",
    ):
        open_volume(path)
    np.testing.assert_array_equal(everything(open_volume(path, dataset="raw/stack")), VOLUME)
    np.testing.assert_array_equal(everything(open_volume(path, dataset="/raw/stack")), VOLUME)
    for dataset, message in (
        ("raw", r"'raw' in .* is a group, with raw/stack"),
        ("nothing", r"'nothing' is not in .*, which holds names"),
        ("table", "2-d, 5 x 2: three axes"),
        ("names", "1-d"),
    ):
        with pytest.raises(VolumeError, match=message):
            open_volume(path, dataset=dataset)
    with pytest.raises(VolumeError, match="level=1 is not in"):
        open_volume(path, dataset="raw/stack", level=1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5)), "no dataset with the axes z, y and x: volume"),
        (np.zeros((2, 3, 4, 5)), "no dataset with the axes"),
        (np.zeros((0, 4, 5)), "no dataset with the axes"),
    ],
)
def test_nothing_to_read(tmp_path, array, message):
    with pytest.raises(VolumeError, match=message):
        open_volume(write(tmp_path / "a.h5", array=array))


def test_leading_axes_of_one_entry(tmp_path):
    volume = open_volume(write(tmp_path / "a.h5", array=VOLUME[None, None]))
    np.testing.assert_array_equal(everything(volume), VOLUME)


def axistags(order):
    return '{"axes": [' + ", ".join(f'{{"key": "{axis}", "typeFlags": 2}}' for axis in order) + "]}"


def test_ilastik(tmp_path):
    array = np.stack([VOLUME, VOLUME[::-1]], -1)  # (z, y, x, c), as ilastik exports
    path = write(
        tmp_path / "a.h5", "exported_data", array, {"axistags": axistags("zyxc"), "element_size_um": [5.0, 2.0, 2.5]}
    )
    with pytest.raises(VolumeError, match="holds 2 channels: choose one with channel=0 to 1"):
        open_volume(path)
    volume = open_volume(path, channel=1)
    np.testing.assert_array_equal(everything(volume), VOLUME[::-1])
    assert volume.voxel_size == (5.0, 2.0, 2.5)
    assert volume.describe()["channels"] == [0, 1]
    with pytest.raises(VolumeError, match="z, y and x are needed, in that order"):
        open_volume(write(tmp_path / "b.h5", attrs={"axistags": axistags("xyz")}), dataset="volume")


@pytest.mark.parametrize(
    ("value", "expected"),
    [([5, 2, 2.5], (5, 2, 2.5)), ([5, 0, 2], None), ([np.nan, 2, 2], None), ("big", None), ([2, 2], None)],
)
def test_element_size(tmp_path, value, expected):
    volume = open_volume(write(tmp_path / "a.h5", attrs={"element_size_um": value}))
    assert volume.voxel_size == expected
    assert open_volume(tmp_path / "a.h5", (1, 2, 3)).voxel_size == (1, 2, 3)


def characters(value):
    return np.array(list(str(value)), "S1")


def write_imaris(path, channels=2, timepoints=2, unit="um"):
    """Two levels, stored in whole chunks of 8 x 16 x 16; what is beyond the image is 65535."""
    images = {}
    with h5py.File(path, "w") as file:
        file.attrs["ImarisDataSet"] = characters("ImarisDataSet")
        info = file.create_group("DataSetInfo/Image")
        ends = {"ExtMin0": -10, "ExtMax0": 65, "ExtMin1": 3, "ExtMax1": 43, "ExtMin2": 0, "ExtMax2": 30}
        for name, value in {"X": 30, "Y": 20, "Z": 6, "Unit": unit, **ends}.items():
            info.attrs[name] = characters(value)
        for level in range(2):
            for timepoint in range(timepoints):
                for channel in range(channels):
                    image = np.roll(VOLUME, 7 * channel + 3 * timepoint)[:, :: level + 1, :: level + 1]
                    images[level, timepoint, channel] = image
                    padded = np.full(
                        [-(-s // c) * c for s, c in zip(image.shape, (8, 16, 16), strict=True)], 65535, "u2"
                    )
                    padded[tuple(slice(s) for s in image.shape)] = image
                    group = file.create_group(
                        f"DataSet/ResolutionLevel {level}/TimePoint {timepoint}/Channel {channel}"
                    )
                    for axis, extent in zip("ZYX", image.shape, strict=True):
                        group.attrs[f"ImageSize{axis}"] = characters(extent)
                    group.create_dataset("Data", data=padded, chunks=(8, 16, 16), compression="gzip")
                    group.create_dataset("Histogram", data=np.zeros(256, "u8"))
    return images


def test_imaris(tmp_path):
    images = write_imaris(tmp_path / "a.ims")
    for (level, timepoint, channel), image in images.items():
        volume = open_volume(tmp_path / "a.ims", level=level, timepoint=timepoint, channel=channel)
        assert volume.shape == image.shape
        np.testing.assert_array_equal(everything(volume), image)
        assert volume.voxel_size == (5.0, 2.0 * (level + 1), 2.5 * (level + 1))
        assert volume.chunks == tuple(min(c, s) for c, s in zip((8, 16, 16), image.shape, strict=True))
    listing = volume.describe()
    assert (listing["format"], listing["channels"], listing["timepoints"]) == ("Imaris", [0, 1], [0, 1])
    assert listing["levels"] == [(6, 20, 30), (6, 10, 15)]
    with pytest.raises(VolumeError, match="holds 2 channels: choose one with channel=0 to 1"):
        open_volume(tmp_path / "a.ims", timepoint=0)
    with pytest.raises(VolumeError, match="holds 2 timepoints: choose one"):
        open_volume(tmp_path / "a.ims", channel=0)
    with pytest.raises(VolumeError, match=r"level=2 is not in .*holds 2 levels \(6 x 20 x 30, 6 x 10 x 15\)"):
        open_volume(tmp_path / "a.ims", channel=0, timepoint=0, level=2)
    with pytest.raises(VolumeError, match=r"32 voxels|is not inside 0:20"):
        open_volume(tmp_path / "a.ims", channel=0, timepoint=0).read((slice(0, 6), slice(0, 32), slice(0, 30)))


def test_imaris_that_is_odd(tmp_path):
    path = tmp_path / "a.ims"
    write_imaris(path, 1, 1, unit="mm")
    assert open_volume(path).voxel_size == (5000.0, 2000.0, 2500.0)
    place = "DataSet/ResolutionLevel 0/TimePoint 0/Channel 0"
    with h5py.File(path, "r+") as file:
        for axis in "XYZ":
            del file[place].attrs[f"ImageSize{axis}"]
        file["DataSetInfo/Image"].attrs["Unit"] = "parsec"
    assert (open_volume(path).shape, open_volume(path).voxel_size) == (SHAPE, None)
    with h5py.File(path, "r+") as file:
        file["DataSetInfo/Image"].attrs["X"] = characters(3000)
    with pytest.raises(VolumeError, match="said to hold 6 x 20 x 3000 voxels, but only 8 x 32 x 32 are stored"):
        open_volume(path)
    with h5py.File(path, "r+") as file:
        del file["DataSetInfo/Image"].attrs["X"]
    with pytest.raises(VolumeError, match="does not say how large the image"):
        open_volume(path)
    with h5py.File(path, "r+") as file:
        del file[place]["Data"]
    with pytest.raises(VolumeError, match=r"lacks .*Channel 0/Data"):
        open_volume(path)


XML = """<?xml version="1.0" encoding="UTF-8"?>
<SpimData version="0.2"><BasePath type="relative">.</BasePath><SequenceDescription>
<ImageLoader format="bdv.hdf5"><hdf5 type="relative">a.h5</hdf5></ImageLoader><ViewSetups>
<ViewSetup><id>0</id><size>30 20 6</size>
<voxelSize><unit>micrometer</unit><size>2.5 2.0 5.0</size></voxelSize></ViewSetup>
<ViewSetup><id>1</id><size>30 20 5</size><voxelSize><unit>nm</unit><size>2500 2000 5000</size></voxelSize></ViewSetup>
</ViewSetups></SequenceDescription></SpimData>"""


def write_bigdataviewer(path, xml=XML, dtype="int16"):
    with h5py.File(path, "w") as file:
        for setup in range(2):
            file[f"s{setup:02d}/resolutions"] = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 1.0]])
            file[f"s{setup:02d}/subdivisions"] = np.array([[16, 16, 4], [16, 16, 4]], "int32")
            for timepoint in range(2):
                image = np.roll(VOLUME, setup + 5 * timepoint)
                for level in range(2):
                    file.create_dataset(
                        f"t{timepoint:05d}/s{setup:02d}/{level}/cells",
                        data=image[:, :: level + 1, :: level + 1].astype(dtype),
                        chunks=(4, 8, 15),
                    )
    if xml:
        path.with_suffix(".xml").write_text(xml)
    return path


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_bigdataviewer(tmp_path, dtype):
    path = write_bigdataviewer(tmp_path / "a.h5", dtype=dtype)
    volume = open_volume(path, channel=0, timepoint=1)
    assert (volume.dtype, volume.shape, volume.voxel_size) == ("uint16", SHAPE, (5.0, 2.0, 2.5))
    np.testing.assert_array_equal(everything(volume), np.roll(VOLUME, 5))  # above 32767 too
    half = open_volume(path, channel=1, timepoint=0, level=1)
    np.testing.assert_array_equal(everything(half), np.roll(VOLUME, 1)[:, ::2, ::2])
    assert half.voxel_size == pytest.approx((5.0, 4.0, 5.0))
    assert open_volume(path, channel=1, timepoint=0).shape == (5, 20, 30)  # as the .xml says
    assert volume.describe()["format"] == "BigDataViewer HDF5"
    with pytest.raises(VolumeError, match="holds 2 channels: choose one"):
        open_volume(path, timepoint=0)


def test_bigdataviewer_without_xml(tmp_path):
    path = write_bigdataviewer(tmp_path / "a.h5", xml=None)
    volume = open_volume(path, channel=0, timepoint=0)
    assert (volume.voxel_size, volume.shape) == (None, SHAPE)
    assert open_volume(path, channel=0, timepoint=0, level=1).voxel_size is None


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<SpimData>", "a.xml is no XML that can be read"),
        ("", None),
        (XML.replace("30 20 6", "31 20 6"), "a.xml says 6 x 20 x 31: it is of another file"),
        (
            '<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY c "&a;&a;&a;">]><SpimData>&c;</SpimData>',
            "a document type is not allowed",
        ),
    ],
)
def test_xml_that_is_wrong(tmp_path, xml, message):
    path = write_bigdataviewer(tmp_path / "a.h5", xml=xml)
    if message is None:
        assert open_volume(path, channel=0, timepoint=0).voxel_size is None
        return
    with pytest.raises(VolumeError, match=message):
        open_volume(path, channel=0, timepoint=0)


def test_cut_off_and_damaged(tmp_path):
    path = write(tmp_path / "a.h5", chunks=(2, 20, 30), compression="gzip")
    volume = open_volume(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], whole[:8]):
        path.write_bytes(content)
        for access in (lambda: open_volume(path), volume.check):
            volume.close()  # HDF5 looks at the size of a file that nobody in the process has open
            with pytest.raises(VolumeError, match=r"a\.h5 is cut off or damaged \(.*\); copy or export it") as caught:
                access()
            assert "\n" not in str(caught.value)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("volume", data=VOLUME, chunks=(2, 20, 30), compression="gzip")
        place = file["volume"].id.get_chunk_info(1).byte_offset
    content = bytearray((tmp_path / "b.h5").read_bytes())
    content[place + 20 : place + 60] = bytes(40)
    (tmp_path / "b.h5").write_bytes(content)
    damaged = open_volume(tmp_path / "b.h5")
    damaged.read((slice(0, 2), slice(0, 20), slice(0, 30)))
    with pytest.raises(VolumeError, match=r"b.h5: reading \[2:4, 0:20, 0:30\] of volume failed"):
        damaged.read((slice(2, 4), slice(0, 20), slice(0, 30)))


def test_a_filter_that_is_not_installed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((2, 20, 30))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(SHAPE)
        h5py.h5d.create(file.id, b"volume", h5py.h5t.NATIVE_UINT16, space, dcpl=plist)
    with pytest.raises(VolumeError, match=r"filter 32001 \(blosc\), which is not installed: pip install hdf5plugin"):
        open_volume(tmp_path / "a.h5")


def test_a_virtual_dataset_needs_its_sources(tmp_path):
    layout = h5py.VirtualLayout(SHAPE, "uint16")
    for z in range(SHAPE[0]):
        write(tmp_path / f"plane{z}.h5", array=VOLUME[z])
        layout[z] = h5py.VirtualSource(f"plane{z}.h5", "volume", SHAPE[1:])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("volume", layout, fillvalue=0)
    volume = open_volume(tmp_path / "a.h5")
    np.testing.assert_array_equal(everything(volume), VOLUME)
    assert len(volume.stamps().names) == 7
    (tmp_path / "plane3.h5").unlink()
    for access in (volume.check, lambda: everything(volume), volume.stamps):
        with pytest.raises(VolumeError, match=r"plane3\.h5"):  # and never zeros
            access()


@pytest.mark.parametrize("kind", ["a.h5", "a.ims", "bdv.h5"])
def test_away_and_back_and_in_another_process(tmp_path, monkeypatch, kind):
    share = tmp_path / "share"
    share.mkdir()
    if kind == "a.ims":
        write_imaris(share / kind)
    elif kind == "bdv.h5":
        write_bigdataviewer(share / kind)
    else:
        write(share / kind, chunks=(4, 8, 16))
    monkeypatch.chdir(share)
    options = {} if kind == "a.h5" else {"channel": 1, "timepoint": 1}
    volume = open_volume(kind, **options)
    region = (slice(1, 4), slice(3, 17), slice(2, 29))
    expected = volume.read(region)
    stored = pickle.dumps(volume)
    code = (
        "import pickle, sys; volume = pickle.load(sys.stdin.buffer); volume.check()\n"
        "box = volume.read((slice(1, 4), slice(3, 17), slice(2, 29)))\n"
        "sys.stdout.buffer.write(pickle.dumps((volume.voxel_size, box)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=stored, cwd=tmp_path, capture_output=True, check=True
    )  # fmt: skip
    voxel_size, box = pickle.loads(done.stdout)
    assert voxel_size == volume.voxel_size
    np.testing.assert_array_equal(box, expected)
    monkeypatch.chdir(tmp_path)
    volume = pickle.loads(stored)
    volume.read(region)
    share.rename(tmp_path / "gone")
    for access in (lambda: volume.read(region), volume.check, volume.stamps):
        with pytest.raises(VolumeError, match=f"{kind} is no longer there") as caught:
            access()
        assert isinstance(caught.value.__cause__, OSError)
    (tmp_path / "gone").rename(share)
    np.testing.assert_array_equal(volume.read(region), expected)
    volume.check()


def test_another_file_in_its_place(tmp_path):
    path = write(tmp_path / "a.h5")
    volume = open_volume(path)
    everything(volume)
    before = volume.stamps()
    write(tmp_path / "b.h5", array=VOLUME[::-1])
    (tmp_path / "b.h5").replace(path)
    np.testing.assert_array_equal(everything(volume), VOLUME[::-1])  # what the path names, not what was open
    assert before.to_arrays()["times"] != volume.stamps().to_arrays()["times"]
    write(tmp_path / "c.h5", array=VOLUME[:3])
    (tmp_path / "c.h5").replace(path)
    for access in (volume.check, lambda: everything(volume)):
        with pytest.raises(VolumeError, match="has changed since it was opened"):
            access()


def test_many_threads(tmp_path):
    volume = open_volume(write(tmp_path / "a.h5", chunks=(2, 8, 8), compression="gzip"))
    regions = [(slice(z, z + 2), slice(y, y + 9), slice(0, 30)) for z in range(5) for y in range(11)] * 3
    with ThreadPoolExecutor(8) as pool:
        for region, box in zip(regions, pool.map(volume.read, regions), strict=True):
            np.testing.assert_array_equal(box, VOLUME[region])


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_cells_are_those_of_the_array(tmp_path, executor):
    image, _ = cells_phantom((20, 60, 70), seed=1)
    path = write(tmp_path / "a.h5", array=image, chunks=(8, 16, 16), compression="gzip")
    options = {"voxel_size": (6, 1.62, 1.62), "block": (10, 60, 70), "workers": 2}
    expected = detect_cells(image, **options)
    assert len(expected["z"]) > 3
    table = detect_cells(path, executor=executor, **options)
    assert table.keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(table[name], column)
