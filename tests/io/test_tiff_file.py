"""Multi-page, BigTIFF, OME-TIFF and ImageJ files: choice of channel and timepoint, voxel size, damaged files."""

import pickle

import numpy as np
import pytest
import tifffile

from cytolith.axes import full_region
from cytolith.errors import VolumeError
from cytolith.io.volume import open_volume

SHAPE = (6, 20, 30)
VOLUME = np.random.default_rng(3).integers(0, 60000, SHAPE, "uint16")
HYPER = np.random.default_rng(4).integers(0, 60000, (2, 3, *SHAPE), "uint16")  # t, c, z, y, x


def everything(volume):
    return volume.read(full_region(volume.shape))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"photometric": "minisblack"}, "multi-page TIFF"),
        ({"photometric": "minisblack", "bigtiff": True}, "multi-page TIFF (BigTIFF)"),
        ({"photometric": "minisblack", "metadata": None}, "multi-page TIFF"),
        ({"photometric": "minisblack", "metadata": None, "compression": "zlib"}, "multi-page TIFF"),
        ({"photometric": "minisblack", "compression": "lzw", "metadata": {"axes": "ZYX"}}, "multi-page TIFF"),
        ({"ome": True, "metadata": {"axes": "ZYX"}}, "OME-TIFF"),
        ({"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib", "tile": (16, 16)}, "OME-TIFF"),
        ({"ome": True, "bigtiff": True, "metadata": {"axes": "ZYX"}}, "OME-TIFF (BigTIFF)"),
        ({"imagej": True, "metadata": {"axes": "ZYX"}}, "ImageJ TIFF"),
        ({"imagej": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"}, "ImageJ TIFF"),
        ({"imagej": True, "metadata": {"axes": "ZYX"}, "truncate": True}, "ImageJ TIFF"),
        ({"photometric": "minisblack", "truncate": True}, "multi-page TIFF"),
        ({"photometric": "minisblack", "byteorder": ">"}, "multi-page TIFF"),
    ],
)
def test_stacks_of_every_kind(tmp_path, options, kind):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, VOLUME, **options)
    volume = open_volume(path)
    volume.check()
    assert volume.describe()["format"] == kind
    assert volume.voxel_size is None
    np.testing.assert_array_equal(everything(volume), VOLUME)
    region = (slice(2, 5), slice(3, 17), slice(4, 29))
    np.testing.assert_array_equal(volume.read(region), VOLUME[region])


def test_pages_appended_one_by_one(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for plane in VOLUME:
            tif.write(plane, metadata=None, contiguous=False)
    volume = open_volume(tmp_path / "a.tif")
    volume.check()
    np.testing.assert_array_equal(everything(volume), VOLUME)


@pytest.mark.parametrize(
    ("kind", "axes"),
    [
        ("imagej", "TZCYX"),
        *((kind, axes) for kind in ("ome", "shaped") for axes in ("TCZYX", "TZCYX", "CTZYX", "ZTCYX")),
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_channel_and_timepoint_are_chosen_never_assumed(tmp_path, axes, kind, compression):
    path = tmp_path / "a.tif"
    stored = np.transpose(HYPER, ["TCZYX".index(axis) for axis in axes])
    options = {"metadata": {"axes": axes}, "compression": compression}
    if kind == "shaped":
        tifffile.imwrite(path, stored, photometric="minisblack", **options)
    else:
        tifffile.imwrite(path, stored, **{kind: True}, **options)
    for given, text in (
        ({}, "3 channels: choose one with channel=0 to 2"),
        ({"channel": 1}, "2 timepoints: choose one"),
    ):
        with pytest.raises(VolumeError, match=rf"a\.tif holds {text}"):
            open_volume(path, **given)
    with pytest.raises(VolumeError, match=r"channel=3 is not in .*a\.tif, which holds 3 channels: give channel=0 to 2"):
        open_volume(path, channel=3, timepoint=0)
    with pytest.raises(VolumeError, match="timepoint=2 is not in"):
        open_volume(path, channel=0, timepoint=2)
    for t in range(2):
        for c in range(3):
            volume = open_volume(path, channel=c, timepoint=t)
            volume.check()
            np.testing.assert_array_equal(everything(volume), HYPER[t, c])
    assert (volume.describe()["channels"], volume.describe()["timepoints"]) == ([0, 1, 2], [0, 1])


def test_channels_alone(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", HYPER[0], ome=True, metadata={"axes": "CZYX"})
    with pytest.raises(VolumeError, match="3 channels"):
        open_volume(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "a.ome.tif", channel=2)), HYPER[0, 2])


def test_imagej_stack_without_axes_is_planes(tmp_path):
    stack = np.random.default_rng(5).integers(0, 200, (12, 20, 30), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.series[0].axes == "CYX"
    volume = open_volume(tmp_path / "a.tif")
    volume.check()
    np.testing.assert_array_equal(everything(volume), stack)
    assert volume.describe()["format"] == "ImageJ TIFF, channels read as planes"
    assert volume.describe()["channels"] == [0]


@pytest.mark.parametrize(
    ("axes", "array", "text"),
    [
        ("CYX", HYPER[0, :, 0], "3 channels of a single plane, no z"),
        ("TYX", HYPER[:, 0, 0], "2 timepoints of a single plane, no z"),
        ("YX", VOLUME[0], r"is a single plane, not a volume: give the folder that holds the planes, or a pattern"),
    ],
)
@pytest.mark.parametrize("kind", ["ome", "imagej", "shaped"])
def test_single_planes_are_no_volume(tmp_path, axes, array, text, kind):
    options = {"photometric": "minisblack"} if kind == "shaped" else {kind: True}
    tifffile.imwrite(tmp_path / "a.tif", array, metadata={"axes": axes}, **options)
    with pytest.raises(VolumeError, match=text):
        open_volume(tmp_path / "a.tif")


def test_other_axes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", HYPER[0], photometric="minisblack")
    with pytest.raises(VolumeError, match=r"which is meant is not known; save one"):
        open_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_rgb_is_refused(tmp_path, planarconfig):
    array = np.zeros((4, 20, 30, 3) if planarconfig == "contig" else (4, 3, 20, 30), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig=planarconfig)
    with pytest.raises(
        VolumeError, match=r"3 samples a pixel .RGB or interleaved channels.: split it into gray planes"
    ):
        open_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}])
def test_labels_of_other_integers_are_read_as_floats(tmp_path, dtype, options):
    labels = VOLUME.astype(dtype)
    labels[0, 0, 0] = np.iinfo(dtype).max
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="minisblack", **options)
    volume = open_volume(tmp_path / "a.tif")
    assert volume.dtype == np.float32
    np.testing.assert_array_equal(everything(volume), labels.astype(np.float32))


@pytest.mark.parametrize("dtype", ["complex64", "float16"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME.astype(dtype), photometric="minisblack")
    with pytest.raises(VolumeError, match=f"{dtype} voxels, which are not supported: convert to one of uint8"):
        open_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"metadata": None}])
def test_pages_written_one_by_one_are_planes(tmp_path, options):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for plane in VOLUME:
            tif.write(plane, photometric="minisblack", **options)
    volume = open_volume(tmp_path / "a.tif")
    volume.check()
    np.testing.assert_array_equal(everything(pickle.loads(pickle.dumps(volume))), VOLUME)
    with tifffile.TiffWriter(tmp_path / "odd.tif") as tif:
        for z, plane in enumerate(VOLUME):
            tif.write(plane[:-1] if z == 2 else plane, photometric="minisblack", **options)
    with pytest.raises(VolumeError, match=r"page 2 is .* all planes must be equal"):
        open_volume(tmp_path / "odd.tif")


@pytest.mark.parametrize("odd", [1, 3, 5])
@pytest.mark.parametrize("change", [{"shape": (20, 31)}, {"dtype": "uint8"}, {"dtype": "bool"}])
def test_a_page_of_another_kind(tmp_path, odd, change):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for z in range(6):
            kind = {"shape": (20, 30), "dtype": "uint16", **(change if z == odd else {})}
            tif.write(np.zeros(**kind), metadata=None, contiguous=False)
    with pytest.raises(
        VolumeError, match=rf"a\.tif: page {odd} is .*, but page 0 is 20 x 30 uint16: all planes must be"
    ):
        open_volume(tmp_path / "a.tif").check()


def test_several_images_in_a_file(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(VOLUME, metadata={"axes": "ZYX", "Name": "left", "PhysicalSizeX": 1.0})
        tif.write(VOLUME[:4, :10], metadata={"axes": "ZYX", "Name": "right", "PhysicalSizeX": 7.0})
    with pytest.raises(
        VolumeError, match=r"holds 2 images: choose one with dataset=\.\.\., of 0 \(left\): 6 x 20 x 30"
    ):
        open_volume(tmp_path / "a.ome.tif")
    for given in ("1", 1, "right"):
        volume = open_volume(tmp_path / "a.ome.tif", dataset=given)
        np.testing.assert_array_equal(everything(volume), VOLUME[:4, :10])
        assert "x 7 um" in str(volume.describe()["voxel_size"])
    with pytest.raises(VolumeError, match="dataset='middle' is not an image of"):
        open_volume(tmp_path / "a.ome.tif", dataset="middle")


def test_resolution_levels(tmp_path):
    size = {"PhysicalSizeX": 2.0, "PhysicalSizeY": 2.5, "PhysicalSizeZ": 5.0}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(VOLUME, subifds=1, metadata={"axes": "ZYX", **size}, tile=(16, 16))
        tif.write(VOLUME[:, ::2, ::2], subfiletype=1, tile=(16, 16), compression="zlib")
    full, half = open_volume(tmp_path / "a.ome.tif"), open_volume(tmp_path / "a.ome.tif", level=1)
    half.check()
    np.testing.assert_array_equal(everything(full), VOLUME)
    np.testing.assert_array_equal(everything(half), VOLUME[:, ::2, ::2])
    np.testing.assert_array_equal(everything(pickle.loads(pickle.dumps(half))), VOLUME[:, ::2, ::2])
    assert (full.voxel_size, half.voxel_size) == ((5.0, 2.5, 2.0), (5.0, 5.0, 4.0))
    assert full.describe()["levels"] == half.describe()["levels"] == [(6, 20, 30), (6, 10, 15)]
    with pytest.raises(
        VolumeError, match=r"level=2 is not in .* holds 2 levels \(20 x 30, 10 x 15\): give level=0 to 1"
    ):
        open_volume(tmp_path / "a.ome.tif", level=2)


def write_ome_of_two_files(folder):
    """One OME-TIFF image whose planes lie in two files, each of which describes the whole."""
    texts = []
    for name, part in (("a.ome.tif", VOLUME[:3]), ("b.ome.tif", VOLUME[3:])):
        tifffile.imwrite(folder / name, part, photometric="minisblack", metadata=None, description="x" * 1500)
        first = 0 if name[0] == "a" else 3
        uuid = f'<UUID FileName="{name}">urn:uuid:{name[0] * 8}</UUID>'
        texts.append(f'<TiffData FirstZ="{first}" IFD="0" PlaneCount="3">{uuid}</TiffData>')
    for name in ("a.ome.tif", "b.ome.tif"):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{name[0] * 8}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="20" '
            'SizeZ="6" SizeC="1" SizeT="1"><Channel ID="Channel:0" SamplesPerPixel="1"/>'
            f"{''.join(texts)}</Pixels></Image></OME>"
        )
        with tifffile.TiffFile(folder / name, mode="r+") as tif:
            tif.pages[0].tags["ImageDescription"].overwrite(xml)


def test_an_ome_image_in_several_files(tmp_path):
    write_ome_of_two_files(tmp_path)
    for name in ("a.ome.tif", "b.ome.tif"):
        volume = open_volume(tmp_path / name)
        volume.check()
        np.testing.assert_array_equal(everything(volume), VOLUME)


def test_an_ome_image_with_a_file_gone(tmp_path):
    write_ome_of_two_files(tmp_path)
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(VolumeError, match=r"a\.ome\.tif: plane 3 is missing .cut off, or in another file that is gone"):
        open_volume(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack"},
        {"photometric": "minisblack", "metadata": None},
        {"photometric": "minisblack", "metadata": None, "bigtiff": True},
        {"photometric": "minisblack", "compression": "zlib"},
        {"photometric": "minisblack", "compression": "zlib", "metadata": None},
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}, "truncate": True},
        {"photometric": "minisblack", "truncate": True},
        {"photometric": "miniswhite"},
        {"photometric": "miniswhite", "metadata": None, "compression": "zlib"},
        {"photometric": "minisblack", "bilevel": True},
        {"photometric": "miniswhite", "bilevel": True, "metadata": None, "compression": "zlib"},
        {"photometric": "miniswhite", "imagej": True, "metadata": {"axes": "ZYX"}, "truncate": True},
    ],
)
@pytest.mark.parametrize("part", [0.02, 0.4, 0.8, 0.99])
def test_cut_off_files_are_never_taken_for_whole_ones(tmp_path, options, part):
    path = tmp_path / "a.tif"
    stored = VOLUME > 30000 if options.get("bilevel") else VOLUME
    tifffile.imwrite(path, stored, **{name: value for name, value in options.items() if name != "bilevel"})
    whole = open_volume(path)
    before = everything(whole)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    for failing in (lambda: open_volume(path), whole.check):
        with pytest.raises(VolumeError, match=r"a\.tif") as caught:
            failing()
        assert "\n" not in str(caught.value)
    try:
        voxels = everything(whole)
    except VolumeError:
        pass
    else:
        np.testing.assert_array_equal(voxels, before)  # only headers behind the data were lost


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_in_front_of_a_cut_are_not_taken_for_the_volume(tmp_path, compression):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for plane in VOLUME:
            tif.write(plane, metadata=None, contiguous=False, compression=compression)
    with tifffile.TiffFile(path) as tif:
        fourth = tif.pages[3].offset
    path.write_bytes(path.read_bytes()[:fourth])
    with pytest.raises(VolumeError, match=r"a\.tif is cut off after page 2"):
        open_volume(path)


def test_an_imagej_file_without_its_planes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, VOLUME, imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(VolumeError, match="ImageJ's header names 6 planes"):
        open_volume(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_the_check_looks_at_every_page_where_the_metadata_vouches_for_them(tmp_path, compression):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, VOLUME, ome=True, metadata={"axes": "ZYX"}, compression=compression, tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[3].tags["ImageLength"].overwrite(19)
    volume = open_volume(path)
    with pytest.raises(VolumeError, match=r"a\.ome\.tif: plane 3 is 19 x 30 uint16, but the first is 20 x 30 uint16"):
        volume.check()


def test_a_file_that_changes_is_found_at_the_check(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, VOLUME, photometric="minisblack")
    volume = open_volume(path)
    tifffile.imwrite(path, VOLUME[:4], photometric="minisblack")
    with pytest.raises(VolumeError, match=r"a\.tif has changed since it was opened"):
        volume.check()
    path.unlink()
    with pytest.raises(VolumeError, match=r"a\.tif does not exist"):
        volume.check()


def test_real_annotated_volume(shared):
    path = shared / "data" / "cells" / "delivr" / "cfos_695_raw.tif"
    volume = open_volume(path)
    volume.check()
    assert (volume.shape, volume.dtype, volume.chunks) == ((200, 200, 200), np.dtype("uint16"), (1, 200, 200))
    region = (slice(50, 53), slice(10, 90), slice(100, 200))
    np.testing.assert_array_equal(volume.read(region), tifffile.imread(path, key=[50, 51, 52])[:, 10:90, 100:200])


def test_real_core_is_read_as_displayed(shared):
    path = shared / "data" / "fracture" / "binary-fracture-small.tif"
    volume = open_volume(path)
    volume.check()
    assert (volume.shape, volume.dtype) == ((100, 42, 200), np.dtype("uint8"))
    np.testing.assert_array_equal(everything(volume), 255 - tifffile.imread(path))
    assert np.count_nonzero(everything(volume)) == 84595
