"""Rectangles of planes in every way TIFF stores them, against tifffile's own reading of the whole plane."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cytolith.axes import full_region
from cytolith.errors import VolumeError
from cytolith.io.volume import open_volume

SHAPE = (3, 75, 53)
STORAGES = {
    "raw": {},
    "raw strips": {"rowsperstrip": 7},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "raw tiles": {"tile": (16, 32)},
    "deflate": {"compression": "zlib", "rowsperstrip": 10},
    "deflate predictor": {"compression": "zlib", "predictor": True, "rowsperstrip": 10},
    "lzw": {"compression": "lzw", "rowsperstrip": 1},
    "lzw big-endian": {"compression": "lzw", "predictor": True, "byteorder": ">", "rowsperstrip": 75},
    "packbits": {"compression": "packbits", "rowsperstrip": 4},
    "zstd tiles": {"compression": "zstd", "tile": (32, 16)},
    "deflate tiles": {"compression": "zlib", "tile": (16, 16), "predictor": True, "byteorder": ">"},
    "lzma": {"compression": "lzma", "rowsperstrip": 100},
}
DTYPES = ("uint8", "uint16", "int16", "float32", "float64")


def noise(dtype, shape=SHAPE):
    return (np.random.default_rng(1).random(shape) * 200 - (50 if np.dtype(dtype).kind in "if" else 0)).astype(dtype)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Every storage and dtype, as a folder of planes and as one file."""
    made = {}
    for name, options in STORAGES.items():
        for dtype in DTYPES:
            folder = tmp_path_factory.mktemp("planes")
            volume = noise(dtype)
            for z, plane in enumerate(volume):
                tifffile.imwrite(folder / f"p{z}.tif", plane, **options)
            tifffile.imwrite(folder / "all.bin", volume, photometric="minisblack", **options)
            made[name, dtype] = folder
    return made


@given(
    storage=st.sampled_from(sorted(STORAGES)),
    dtype=st.sampled_from(DTYPES),
    rows=st.tuples(st.integers(0, 74), st.integers(1, 75)),
    columns=st.tuples(st.integers(0, 52), st.integers(1, 53)) | st.just((0, 53)),
    one_file=st.booleans(),
)
@settings(max_examples=250)
def test_any_rectangle_of_any_storage(stores, storage, dtype, rows, columns, one_file):
    folder = stores[storage, dtype]
    rows, columns = (slice(min(ends[0], ends[1] - 1), max(ends[0] + 1, ends[1])) for ends in (rows, columns))
    volume = open_volume(folder / "all.bin" if one_file else folder)
    region = (slice(1, 3), rows, columns)
    expected = noise(dtype)[region].astype(volume.dtype)
    out = np.full(expected.shape, 77, volume.dtype)
    np.testing.assert_array_equal(volume.read(region, out), expected)


@pytest.mark.parametrize("storage", sorted(STORAGES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_volume_of_every_storage(stores, storage, dtype):
    folder = stores[storage, dtype]
    for source in (folder, folder / "all.bin"):
        volume = open_volume(source)
        volume.check()
        assert volume.shape == SHAPE
        assert volume.dtype == ("float32" if dtype == "float64" else dtype)
        np.testing.assert_array_equal(volume.read(full_region(SHAPE)), noise(dtype).astype(volume.dtype))


@pytest.mark.parametrize(
    ("storage", "chunks", "compression"),
    [
        ("raw", (1, 1, 53), "none"),
        ("raw strips", (1, 1, 53), "none"),
        ("big-endian", (1, 1, 53), "none"),
        ("raw tiles", (1, 16, 32), "none"),
        ("deflate", (1, 10, 53), "adobe_deflate"),
        ("lzw", (1, 1, 53), "lzw"),
        ("lzma", (1, 75, 53), "lzma"),
        ("zstd tiles", (1, 32, 16), "zstd"),
    ],
)
def test_chunks_are_what_one_decode_costs(stores, storage, chunks, compression):
    for source in (stores[storage, "uint16"], stores[storage, "uint16"] / "all.bin"):
        volume = open_volume(source)
        assert volume.chunks == chunks
        assert volume.describe()["compression"] == compression


@pytest.mark.parametrize(("storage", "decoded"), [("deflate", [2, 3]), ("deflate tiles", [5, 6, 9, 10])])
def test_only_overlapping_strips_and_tiles_are_decoded(stores, monkeypatch, storage, decoded):
    from cytolith.io.tiff_planes import PageLayout

    seen = []
    decode = PageLayout.decode

    def note(layout, data, segment, jpegtables):
        seen.append(segment)
        return decode(layout, data, segment, jpegtables)

    monkeypatch.setattr(PageLayout, "decode", note)
    open_volume(stores[storage, "uint16"]).read((slice(0, 1), slice(25, 35), slice(20, 40)))
    assert seen == decoded


@pytest.mark.parametrize("storage", ["raw", "deflate tiles", "lzw"])
@pytest.mark.parametrize("one_file", [True, False])
def test_threads_read_at_once_even_before_the_check(stores, storage, one_file):
    folder = stores[storage, "uint16"]
    volume = open_volume(folder / "all.bin" if one_file else folder)
    expected = noise("uint16")
    start = threading.Barrier(8)

    def read(number):
        start.wait()
        region = (slice(0, 3), slice(number, 60 + number), slice(0, 53 - number))
        return all(np.array_equal(volume.read(region), expected[region]) for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


@pytest.mark.parametrize("storage", ["raw", "deflate tiles"])
@pytest.mark.parametrize("one_file", [True, False])
@pytest.mark.parametrize("checked", [True, False])
def test_pickles_carry_no_voxels_and_read_on(stores, storage, one_file, checked):
    folder = stores[storage, "uint16"]
    volume = open_volume(folder / "all.bin" if one_file else folder, voxel_size=(5, 2, 2))
    if checked:
        volume.check()
    text = pickle.dumps(volume)
    assert len(text) < noise("uint16").nbytes / 2
    again = pickle.loads(text)
    np.testing.assert_array_equal(again.read(full_region(SHAPE)), noise("uint16"))
    assert (again.voxel_size, again.chunks) == (volume.voxel_size, volume.chunks)
    again.check()


def test_bilevel_planes_are_read_as_0_and_1(tmp_path):
    mask = noise("uint8") > 100
    for z, plane in enumerate(mask):
        tifffile.imwrite(tmp_path / f"p{z}.tif", plane, photometric="minisblack")
    volume = open_volume(tmp_path)
    assert volume.dtype == "uint8"
    np.testing.assert_array_equal(volume.read(full_region(SHAPE)), mask.astype("uint8"))


def test_planes_of_12_bits(tmp_path):
    planes = np.random.default_rng(2).integers(0, 4096, (2, 20, 31), "uint16")
    for z, plane in enumerate(planes):
        bits = (plane[..., None] >> np.arange(11, -1, -1)) & 1
        packed = np.packbits(bits.reshape(20, -1).astype("uint8"), axis=1)  # rows begin on whole bytes
        path = tmp_path / f"p{z}.tif"
        tifffile.imwrite(path, packed, metadata=None)
        with tifffile.TiffFile(path, mode="r+") as tif:
            tif.pages[0].tags["ImageWidth"].overwrite(31)
            tif.pages[0].tags["BitsPerSample"].overwrite(12)
    volume = open_volume(tmp_path)
    assert (volume.dtype, volume.shape) == ("uint16", (2, 20, 31))
    np.testing.assert_array_equal(volume.read((slice(0, 2), slice(3, 20), slice(5, 31))), planes[:, 3:, 5:])


def displayed(stored):
    """What miniswhite means, without bit tricks: the order of values turned around within the range of the dtype."""
    if stored.dtype == bool:
        return (1 - stored.astype(int)).astype("uint8")
    limits = np.iinfo(stored.dtype)
    return (int(limits.max) + int(limits.min) - stored.astype(int)).astype(stored.dtype)


@pytest.mark.parametrize("storage", sorted(STORAGES))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "bool"])
@pytest.mark.parametrize("one_file", [True, False])
def test_min_is_white_is_read_as_displayed(tmp_path, storage, dtype, one_file):
    stored = noise("uint8") > 100 if dtype == "bool" else noise(dtype)
    options = dict(STORAGES[storage])
    if dtype == "bool":
        options.pop("predictor", None)
    for z, plane in enumerate(stored):
        tifffile.imwrite(tmp_path / f"p{z}.tif", plane, photometric="miniswhite", **options)
    tifffile.imwrite(tmp_path / "all.bin", stored, photometric="miniswhite", **options)
    volume = open_volume(tmp_path / "all.bin" if one_file else tmp_path)
    volume.check()
    expected = displayed(stored)
    assert volume.dtype == expected.dtype
    for region in (
        full_region(SHAPE),
        (slice(1, 3), slice(20, 60), slice(5, 49)),
        (slice(0, 1), slice(3, 9), slice(0, 53)),
    ):
        np.testing.assert_array_equal(volume.read(region), expected[region])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume)).read(region), expected[region])
    assert volume.describe()["display"] == "miniswhite, read as displayed"


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_adobe_deflate", "tiff_ccitt", "group3", "group4"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("one_file", [True, False])
def test_bilevel_tiff_of_another_library(tmp_path, compression, photometric, one_file):
    stored = noise("uint8") > 100
    images = [Image.fromarray(plane) for plane in stored]
    for z, image in enumerate(images):
        image.save(tmp_path / f"p{z}.tif", compression=compression)
    images[0].save(tmp_path / "all.bin", "TIFF", save_all=True, append_images=images[1:], compression=compression)
    for path in tmp_path.iterdir():
        with tifffile.TiffFile(path, mode="r+") as tif:
            for page in tif.pages:
                page.aspage().tags["PhotometricInterpretation"].overwrite(photometric)
    volume = open_volume(tmp_path / "all.bin" if one_file else tmp_path)
    volume.check()
    with Image.open(tmp_path / "all.bin") as read_again:
        expected = []
        for z in range(3):
            read_again.seek(z)
            expected.append(np.array(read_again))
    assert volume.dtype == "uint8"
    np.testing.assert_array_equal(volume.read(full_region(SHAPE)), expected)
    np.testing.assert_array_equal(expected, stored if photometric else ~stored)


def test_min_is_white_of_fewer_bits_than_the_dtype(tmp_path):
    packed = np.random.default_rng(2).integers(0, 256, (2, 20, 9), "uint8")
    for z, plane in enumerate(packed):
        path = tmp_path / f"p{z}.tif"
        tifffile.imwrite(path, plane, metadata=None, photometric="miniswhite")
        with tifffile.TiffFile(path, mode="r+") as tif:
            tif.pages[0].tags["ImageWidth"].overwrite(17)
            tif.pages[0].tags["BitsPerSample"].overwrite(4)
    stored = np.stack([packed >> 4, packed & 15], axis=-1).reshape(2, 20, 18)[..., :17]
    np.testing.assert_array_equal(open_volume(tmp_path).read((slice(0, 2), slice(0, 20), slice(0, 17))), 15 - stored)


def test_min_is_white_is_said_once_a_volume(tmp_path, caplog):
    caplog.set_level("INFO", "cytolith")
    tifffile.imwrite(tmp_path / "a.tif", noise("uint8"), photometric="miniswhite")
    tifffile.imwrite(tmp_path / "b.tif", noise("uint8"), photometric="minisblack")
    volume, other = open_volume(tmp_path / "a.tif"), open_volume(tmp_path / "b.tif")
    for each in (volume, other):
        each.check()
        each.read(full_region(SHAPE))
    said = f"{tmp_path / 'a.tif'}: white is stored as 0 (miniswhite); voxels are read as displayed, inverted"
    assert [record.message for record in caplog.records] == [said]
    assert "display" not in other.describe()


@pytest.mark.parametrize("one_file", [True, False])
def test_min_is_white_of_floating_point_is_refused(tmp_path, one_file):
    tifffile.imwrite(tmp_path / "a.tif", noise("float32"), photometric="miniswhite")
    tifffile.imwrite(tmp_path / "p0.tif", noise("float32")[0], photometric="miniswhite")
    with pytest.raises(
        VolumeError, match=r"\.tif, page 0 holds float32 voxels with white as 0 .*, save it as minisblack"
    ):
        open_volume(tmp_path / "a.tif" if one_file else [tmp_path / "p0.tif"])


@pytest.mark.parametrize("compression", [None, "group4"])
def test_without_a_photometric_tag_only_fax_is_white_at_0(tmp_path, compression):
    """As libtiff and the viewers built on it take such files; black on white is what a fax is."""
    stored = noise("uint8")[0] > 100
    for z in range(2):
        Image.fromarray(stored).save(tmp_path / f"p{z}.tif", compression=compression)
        data = bytearray((tmp_path / f"p{z}.tif").read_bytes())
        with tifffile.TiffFile(tmp_path / f"p{z}.tif") as tif:
            tag = tif.pages[0].tags["PhotometricInterpretation"]
        data[tag.offset : tag.offset + 2] = (263).to_bytes(2, "little")  # a tag of no consequence in its place
        (tmp_path / f"p{z}.tif").write_bytes(data)
    region = (slice(0, 2), slice(0, 75), slice(0, 53))
    np.testing.assert_array_equal(open_volume(tmp_path).read(region), [stored if compression is None else ~stored] * 2)


def test_planes_of_different_photometric_are_not_mixed(tmp_path):
    for z, photometric in enumerate(("miniswhite", "miniswhite", "minisblack")):
        tifffile.imwrite(tmp_path / f"p{z}.tif", noise("uint8")[0], photometric=photometric)
    with pytest.raises(VolumeError, match=r"p2\.tif is 75 x 53 uint8, but .*p0\.tif is 75 x 53 uint8 miniswhite: all"):
        open_volume(tmp_path).check()
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for photometric in ("minisblack", "miniswhite"):
            tif.write(noise("uint8")[0], metadata=None, contiguous=False, photometric=photometric)
    with pytest.raises(
        VolumeError, match="page 1 is 75 x 53 uint8 miniswhite, but page 0 is 75 x 53 uint8: all planes"
    ):
        open_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("one_file", [True, False])
def test_palette_images_are_read_as_their_indices(tmp_path, one_file):
    colours = np.random.default_rng(1).integers(0, 65536, (3, 256), "uint16")
    labels = noise("uint8")
    for z, plane in enumerate(labels):
        tifffile.imwrite(tmp_path / f"p{z}.tif", plane, photometric="palette", colormap=colours)
    tifffile.imwrite(tmp_path / "all.bin", labels, photometric="palette", colormap=colours)
    volume = open_volume(tmp_path / "all.bin" if one_file else tmp_path)
    volume.check()
    np.testing.assert_array_equal(volume.read(full_region(SHAPE)), labels)
    assert volume.describe()["display"] == "palette, read as indices"


def test_jpeg_strips(tmp_path):
    plane = (np.add.outer(np.arange(64), np.arange(96)) % 256).astype("uint8")
    for z in range(2):
        tifffile.imwrite(
            tmp_path / f"p{z}.tif", plane, compression="jpeg", compressionargs={"level": 95}, rowsperstrip=16
        )
    region = (slice(0, 2), slice(10, 40), slice(5, 90))
    expected = tifffile.imread(tmp_path / "p0.tif")[region[1:]]
    np.testing.assert_array_equal(open_volume(tmp_path).read(region), [expected, expected])


def write_planes(folder, count=4, **options):
    for z in range(count):
        tifffile.imwrite(folder / f"p{z:03d}.tif", noise("uint16")[z % 3], **options)
    return folder


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_plane_cut_off_after_the_check(tmp_path, compression):
    volume = open_volume(write_planes(tmp_path, compression=compression, rowsperstrip=10))
    volume.check()
    path = tmp_path / "p002.tif"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(VolumeError, match=r"p002\.tif is cut off"):
        volume.read(full_region(volume.shape))
    volume.read((slice(0, 2), *full_region(volume.shape)[1:]))


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd"])
def test_a_damaged_strip_is_named(tmp_path, compression):
    volume = open_volume(write_planes(tmp_path, compression=compression, rowsperstrip=25))
    page = tifffile.TiffFile(tmp_path / "p001.tif").pages[0]
    data = bytearray((tmp_path / "p001.tif").read_bytes())
    page.parent.close()
    begin, count = page.dataoffsets[1], page.databytecounts[1]
    data[begin : begin + count] = b"\xff" * count
    (tmp_path / "p001.tif").write_bytes(data)
    volume.check()  # needs decoding to be found
    with pytest.raises(VolumeError, match=r"p001\.tif is damaged: strip or tile 1 does not decode"):
        volume.read(full_region(volume.shape))
    volume.read((slice(1, 2), slice(0, 25), slice(0, 53)))


def test_a_plane_that_vanishes(tmp_path):
    volume = open_volume(write_planes(tmp_path))
    volume.check()
    (tmp_path / "p003.tif").unlink()
    with pytest.raises(VolumeError, match=r"p003\.tif is no longer there"):
        volume.read(full_region(volume.shape))
    with pytest.raises(VolumeError, match=r"p003\.tif does not exist"):
        volume.check()


def test_unreadable_file(tmp_path, monkeypatch):
    from cytolith.io import tiff_planes

    volume = open_volume(write_planes(tmp_path))

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tiff_planes, "FileIO", refuse)
    with pytest.raises(VolumeError, match=r"p000\.tif cannot be read: Permission denied"):
        volume.read(full_region(volume.shape))
