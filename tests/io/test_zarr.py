"""zarr arrays of both formats, bare and in OME-Zarr 0.4 and 0.5."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, ZstdCodec

from cytolith.axes import full_region
from cytolith.errors import VolumeError
from cytolith.io.volume import open_volume

SHAPE = (6, 20, 30)
VOLUME = np.random.default_rng(6).integers(0, 60000, SHAPE, "uint16")
HYPER = np.random.default_rng(7).integers(0, 60000, (2, 3, *SHAPE), "uint16")


def everything(volume):
    return volume.read(full_region(volume.shape))


def write_array(path, array=VOLUME, **options):
    options = {"chunks": (1,) * (array.ndim - 3) + (4, 8, 16), **options}
    made = zarr.create_array(path, shape=array.shape, dtype=array.dtype, **options)
    made[...] = array
    return path


def write_image(path, levels, axes="zyx", version="0.5", unit="micrometer", scale=(5.0, 2.0, 2.5), whole=None, **extra):
    """An OME-Zarr image; each level halves y and x."""
    group = zarr.open_group(path, mode="a", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for number, array in enumerate(levels):
        made = group.create_array(
            f"s{number}", shape=array.shape, dtype=array.dtype, chunks=(1,) * (array.ndim - 3) + (4, 8, 16)
        )
        made[...] = array
        factors = [1.0] * (array.ndim - 3) + [scale[0], scale[1] * 2**number, scale[2] * 2**number]
        datasets.append({"path": f"s{number}", "coordinateTransformations": [{"type": "scale", "scale": factors}]})
    kinds = {"t": "time", "c": "channel"}
    image = {
        "axes": [
            {"name": axis, "type": kinds.get(axis, "space"), **({"unit": unit} if unit and axis in "zyx" else {})}
            for axis in axes
        ],
        "datasets": datasets,
        **extra,
    }
    if whole:
        image["coordinateTransformations"] = [{"type": "scale", "scale": whole}]
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{"version": version, **image}]
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "bool"])
def test_bare_arrays(tmp_path, zarr_format, dtype):
    array = (VOLUME % 250).astype(dtype)
    volume = open_volume(write_array(tmp_path / "a.zarr", array, zarr_format=zarr_format))
    volume.check()
    np.testing.assert_array_equal(everything(volume), array.astype(volume.dtype))
    assert volume.dtype == {"float64": "float32", "bool": "uint8"}.get(dtype, dtype)
    assert (volume.chunks, volume.voxel_size) == ((4, 8, 16), None)
    assert volume.describe()["format"] == f"zarr {zarr_format}"


def test_big_endian(tmp_path):
    volume = open_volume(write_array(tmp_path / "a.zarr", VOLUME.astype(">u2"), zarr_format=2))
    assert volume.dtype.isnative
    np.testing.assert_array_equal(everything(volume), VOLUME)


@given(data=st.data())
@settings(max_examples=40)
def test_any_region(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "regions.zarr"
    if not path.exists():
        write_image(path, [HYPER], "tczyx")
    ends = [sorted(data.draw(st.tuples(st.integers(0, extent), st.integers(0, extent)))) for extent in SHAPE]
    region = tuple(slice(*pair) for pair in ends)
    expected = HYPER[1, 2][region]
    out = np.full(expected.shape, 7, "uint16")
    box = open_volume(path, channel=2, timepoint=1).read(region, out)
    assert box is out
    np.testing.assert_array_equal(box, expected)


@pytest.mark.parametrize(
    ("options", "compression", "chunks"),
    [
        ({"compressors": None}, "none", (4, 8, 16)),
        ({"compressors": [ZstdCodec(level=1)]}, "zstd", (4, 8, 16)),
        ({"compressors": [BloscCodec(cname="lz4")]}, "blosc lz4", (4, 8, 16)),
        ({"compressors": [ZstdCodec()], "shards": (4, 16, 32)}, "zstd", (4, 8, 16)),
    ],
)
def test_compression_and_chunks(tmp_path, options, compression, chunks):
    volume = open_volume(write_array(tmp_path / "a.zarr", **options))
    assert (volume.describe()["compression"], volume.chunks) == (compression, chunks)
    np.testing.assert_array_equal(everything(volume), VOLUME)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_with_levels(tmp_path, version):
    path = write_image(tmp_path / "a.zarr", [VOLUME, VOLUME[:, ::2, ::2]], version=version)
    full, half = open_volume(path), open_volume(path, level=1)
    np.testing.assert_array_equal(everything(full), VOLUME)
    np.testing.assert_array_equal(everything(half), VOLUME[:, ::2, ::2])
    assert (full.voxel_size, half.voxel_size) == ((5.0, 2.0, 2.5), (5.0, 4.0, 5.0))
    assert full.describe()["levels"] == [(6, 20, 30), (6, 10, 15)]
    assert full.describe()["format"] == f"OME-Zarr {version}"
    with pytest.raises(
        VolumeError, match=r"level=2 is not in .*a.zarr, which holds 2 levels \(6 x 20 x 30, 6 x 10 x 15\)"
    ):
        open_volume(path, level=2)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "ctzyx"])
def test_channel_and_timepoint(tmp_path, version, axes):
    stored = HYPER if axes[0] == "t" else HYPER.transpose(1, 0, 2, 3, 4)
    path = write_image(tmp_path / "a.zarr", [stored], axes, version)
    with pytest.raises(VolumeError, match="holds 3 channels: choose one with channel=0 to 2"):
        open_volume(path, timepoint=0)
    with pytest.raises(VolumeError, match="holds 2 timepoints: choose one with timepoint=0 to 1"):
        open_volume(path, channel=0)
    with pytest.raises(VolumeError, match="channel=3 is not in"):
        open_volume(path, channel=3, timepoint=0)
    volume = open_volume(path, channel=2, timepoint=1)
    np.testing.assert_array_equal(everything(volume), HYPER[1, 2])
    assert volume.shape == SHAPE
    assert volume.chunks == (4, 8, 16)
    assert volume.voxel_size == (5.0, 2.0, 2.5)
    assert volume.describe()["channels"] == [0, 1, 2]


def test_axes_of_one_entry_need_no_choice(tmp_path):
    path = write_image(tmp_path / "a.zarr", [VOLUME[None, None]], "tczyx")
    np.testing.assert_array_equal(everything(open_volume(path)), VOLUME)
    with pytest.raises(
        VolumeError, match=r"channel=1 is not in .*, which holds 1 channel: leave channel out or give 0"
    ):
        open_volume(path, channel=1)


def test_scale_of_the_whole_image_multiplies(tmp_path):
    path = write_image(tmp_path / "a.zarr", [VOLUME], whole=[2.0, 1.0, 10.0])
    assert open_volume(path).voxel_size == (10.0, 2.0, 25.0)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("nanometer", (0.005, 0.002, 0.0025)), ("millimeter", (5e3, 2e3, 2.5e3)), (None, None), ("parsec", None)],
)
def test_units(tmp_path, unit, expected):
    volume = open_volume(write_image(tmp_path / "a.zarr", [VOLUME], unit=unit))
    assert volume.voxel_size == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("scale", [(0.0, 1.0, 1.0), (float("nan"), 1.0, 1.0), (-1.0, 1.0, 1.0)])
def test_absurd_scales_count_as_not_given(tmp_path, scale):
    volume = open_volume(write_image(tmp_path / "a.zarr", [VOLUME], scale=scale))
    assert volume.voxel_size is None
    assert volume.describe()["voxel_size"] == "unknown (metadata: z missing, y 1 um, x 1 um)"
    assert open_volume(tmp_path / "a.zarr", voxel_size=(1, 2, 3)).voxel_size == (1.0, 2.0, 3.0)


def test_an_array_inside_an_image_keeps_its_axes_and_scale(tmp_path):
    path = write_image(tmp_path / "a.zarr", [HYPER, HYPER[..., ::2, ::2]], "tczyx")
    with pytest.raises(VolumeError, match="3 channels"):
        open_volume(path / "s1", timepoint=0)
    volume = open_volume(path / "s1", channel=1, timepoint=0)
    np.testing.assert_array_equal(everything(volume), HYPER[0, 1, :, ::2, ::2])
    assert volume.voxel_size == (5.0, 4.0, 5.0)


def test_groups_of_several_arrays(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, dtype in (("raw", "uint16"), ("mask", "uint8")):
        group.create_array(name, shape=SHAPE, dtype=dtype, chunks=(4, 8, 16))[...] = VOLUME.astype(dtype)
    group.create_group("inner")
    write_image(tmp_path / "a.zarr" / "inner" / "image", [VOLUME])
    (tmp_path / "a.zarr" / ".DS_Store").write_bytes(b"x")
    with pytest.raises(
        VolumeError,
        match=r"no OME-Zarr image but holds mask \(6 x 20 x 30 uint8\), raw .*: choose one with dataset='mask'",
    ):
        open_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "a.zarr", dataset="raw")), VOLUME)
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "a.zarr" / "raw")), VOLUME)
    assert open_volume(tmp_path / "a.zarr", dataset="inner/image").voxel_size == (5.0, 2.0, 2.5)
    with pytest.raises(VolumeError, match=r"dataset='row' is not in .*, which holds inner \(group\), mask"):
        open_volume(tmp_path / "a.zarr", dataset="row")
    with pytest.raises(VolumeError, match=r"a\.zarr[/\\]row: nothing of that name in .*a\.zarr, which holds inner"):
        open_volume(tmp_path / "a.zarr" / "row")


def test_a_group_of_one_image_is_that_image(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    write_image(tmp_path / "a.zarr" / "0", [VOLUME])
    zarr.open_group(tmp_path / "a.zarr" / "OME", mode="w")
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "a.zarr")), VOLUME)
    assert open_volume(tmp_path / "a.zarr").voxel_size == (5.0, 2.0, 2.5)


def test_several_images_in_a_group(tmp_path):
    path = write_image(tmp_path / "a.zarr", [VOLUME, VOLUME[:, ::2, ::2]])
    image = zarr.open_group(path).attrs["ome"]["multiscales"][0]
    parts = [{**image, "name": f"part {n}", "datasets": [image["datasets"][n]]} for n in (0, 1)]
    zarr.open_group(path, mode="a").attrs["ome"] = {"version": "0.5", "multiscales": parts}
    with pytest.raises(VolumeError, match=r"holds 2 images: choose one with dataset=..., of 'part 0', 'part 1'"):
        open_volume(path)
    assert open_volume(path, dataset="part 1").shape == (6, 10, 15)


def test_names_of_axes_of_bare_arrays(tmp_path):
    write_array(tmp_path / "named.zarr", HYPER, dimension_names=("T", "C", "Z", "Y", "X"))
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "named.zarr", channel=1, timepoint=1)), HYPER[1, 1])
    write_array(tmp_path / "xarray.zarr", HYPER[0], zarr_format=2)
    zarr.open_array(tmp_path / "xarray.zarr", mode="a").attrs["_ARRAY_DIMENSIONS"] = ["c", "z", "y", "x"]
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "xarray.zarr", channel=2)), HYPER[0, 2])
    write_array(tmp_path / "single.zarr", VOLUME[None, None])
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "single.zarr")), VOLUME)
    write_array(tmp_path / "generic.zarr", VOLUME, dimension_names=("dim_0", "dim_1", "dim_2"))
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "generic.zarr")), VOLUME)


@pytest.mark.parametrize(
    ("array", "options", "text"),
    [
        (HYPER, {}, r"5-d, .* without names for its axes"),
        (VOLUME[0], {"chunks": (8, 16)}, "2-d"),
        (
            VOLUME,
            {"dimension_names": ("x", "y", "z")},
            r"has the axes \(x, y, z\) .*: z, y and x are needed, in that order",
        ),
        (HYPER[0], {"dimension_names": ("angle", "z", "y", "x")}, "3 images along axis 'angle'"),
        (VOLUME.astype("complex64"), {}, "complex64 voxels, which are not supported"),
        (VOLUME[:0], {}, "empty"),
    ],
)
def test_arrays_that_are_no_volume(tmp_path, array, options, text):
    write_array(tmp_path / "a.zarr", array, **options)
    with pytest.raises(VolumeError, match=text):
        open_volume(tmp_path / "a.zarr")


def test_groups_without_an_image_and_broken_metadata(tmp_path):
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(VolumeError, match="is a zarr group without an image"):
        open_volume(tmp_path / "empty.zarr")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    with pytest.raises(VolumeError, match="is not a zarr store that can be read"):
        open_volume(tmp_path / "broken.zarr")
    path = write_image(tmp_path / "lost.zarr", [VOLUME, VOLUME])
    (path / "s1" / "zarr.json").unlink()
    with pytest.raises(VolumeError, match=r"lost\.zarr is not a zarr store that can be read"):
        open_volume(path)


@pytest.mark.parametrize("option", ["level", "dataset"])
def test_options_of_a_bare_array(tmp_path, option):
    write_array(tmp_path / "a.zarr")
    with pytest.raises(VolumeError, match=f"{option}="):
        open_volume(tmp_path / "a.zarr", **{option: 1 if option == "level" else "1"})


def test_a_damaged_chunk_is_named(tmp_path):
    path = write_array(tmp_path / "a.zarr", compressors=[ZstdCodec(level=1)])
    volume = open_volume(path)
    (path / "c" / "0" / "1" / "1").write_bytes(b"garbage")
    volume.read((slice(0, 6), slice(0, 8), slice(0, 30)))
    with pytest.raises(VolumeError, match=r"a\.zarr: reading \[0:6, 0:20, 0:30\] failed, a chunk is damaged"):
        everything(volume)


def test_pickle_carries_the_path_only(tmp_path):
    path = write_image(tmp_path / "a.zarr", [HYPER], "tczyx")
    volume = open_volume(path, channel=1, timepoint=0)
    text = pickle.dumps(volume)
    assert len(text) < 2000
    again = pickle.loads(text)
    np.testing.assert_array_equal(everything(again), HYPER[0, 1])
    assert again.voxel_size == (5.0, 2.0, 2.5)


def test_check_finds_what_changed(tmp_path):
    import shutil

    path = write_array(tmp_path / "a.zarr")
    volume = open_volume(path)
    write_array(path, VOLUME[:, :10], overwrite=True)
    with pytest.raises(VolumeError, match=r"a\.zarr has changed since it was opened"):
        volume.check()
    shutil.rmtree(path)
    with pytest.raises(VolumeError, match=r"a\.zarr can no longer be opened"):
        volume.check()


def test_threads_read_at_once(tmp_path):
    volume = open_volume(write_array(tmp_path / "a.zarr"))
    with ThreadPoolExecutor(8) as pool:
        for box in pool.map(lambda _: everything(volume), range(32)):
            np.testing.assert_array_equal(box, VOLUME)


def test_zarr_arrays_and_what_numcodecs_wrote_are_read(tmp_path):
    write_array(tmp_path / "a.zarr", zarr_format=2, compressors=None)
    np.testing.assert_array_equal(everything(open_volume(zarr.open_array(tmp_path / "a.zarr", mode="r"))), VOLUME)


def test_zarr_is_not_loaded_for_other_sources(tmp_path):
    np.save(tmp_path / "a.npy", VOLUME)
    code = (
        "import sys; from cytolith.io.volume import open_volume; "
        f"open_volume({str(tmp_path / 'a.npy')!r}); sys.exit('zarr' in sys.modules or 'tifffile' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
