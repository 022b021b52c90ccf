"""Folders, patterns and lists of single-plane TIFF files: order of names, channels, gaps, bad planes."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.axes import full_region
from cytolith.errors import VolumeError
from cytolith.io.plane_names import missing_numbers, order_names
from cytolith.io.volume import Selection, open_volume


def write(folder, *names, dtype="uint16", shape=(5, 7), start=0, **options):
    """Planes of which each holds its place in `names`."""
    folder.mkdir(exist_ok=True)
    for value, name in enumerate(names, start):
        (folder / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(folder / name, np.full(shape, value, dtype), **options)
    return folder


def planes(volume):
    return volume.read(full_region(volume.shape))[:, 0, 0].tolist()


def test_plane_10_comes_after_9(tmp_path):
    names = [f"img_{z}.tif" for z in range(12)]
    assert sorted(names) != names
    volume = open_volume(write(tmp_path, *names))
    assert volume.shape == (12, 5, 7)
    assert planes(volume) == list(range(12))


@pytest.mark.parametrize("pattern", ["a/*.tif", "a/img_*_x.tif", "*/*_x.tif*", "a/img_[0-9]_x.tif", "**/img_?_x.tif"])
def test_patterns(tmp_path, pattern):
    write(tmp_path / "a", *(f"img_{z}_x.tif" for z in range(3)))
    write(tmp_path, "other_0.png")
    assert planes(open_volume(tmp_path / pattern)) == [0, 1, 2]
    assert planes(open_volume(str(tmp_path / pattern))) == [0, 1, 2]


def test_pattern_relative_to_the_working_folder(tmp_path, monkeypatch):
    write(tmp_path, "z0.tif", "z1.tif")
    monkeypatch.chdir(tmp_path)
    assert planes(open_volume("*.tif")) == [0, 1]
    assert planes(open_volume(".")) == [0, 1]


def test_brackets_of_microscope_names_are_text(tmp_path):
    folder = write(tmp_path / "run [1]", *(f"brain_UltraII[00 x 01]_C00_Z{z:04d}.ome.tif" for z in range(3)))
    assert planes(open_volume(folder)) == [0, 1, 2]
    assert planes(open_volume(folder / "brain_UltraII[00 x 01]_C00_Z*.ome.tif")) == [0, 1, 2]


def test_planes_in_numbered_folders(tmp_path):
    write(tmp_path, *(f"z{z}/image.tif" for z in range(11)))
    assert planes(open_volume(tmp_path / "z*" / "image.tif")) == list(range(11))


def test_other_and_hidden_files_and_folders_are_left_out(tmp_path):
    write(tmp_path, "z0.tif", "z1.TIFF")
    (tmp_path / "z1.TIFF").rename(tmp_path / "z1.tif")
    for name in ("Thumbs.db", ".DS_Store", "._z0.tif", ".z2.tif", "notes.txt", "z.tif.bak"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "z3.tif").mkdir()
    assert planes(open_volume(tmp_path)) == [0, 1]
    assert planes(open_volume(tmp_path / "*")) == [0, 1]


def test_a_folder_with_one_plane_is_a_volume_of_one(tmp_path):
    assert open_volume(write(tmp_path, "only.tif")).shape == (1, 5, 7)
    assert open_volume(tmp_path / "*.tif").shape == (1, 5, 7)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "no TIFF file there, found nothing"),
        (("a.png", "b.png", "n.txt"), r"no TIFF file there, found 2 \.png files, 1 \.txt file; give the folder"),
        (("sub/",), "found 1 folder"),
    ],
)
def test_folders_without_planes_say_what_is_there(tmp_path, names, text):
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("x")
    with pytest.raises(VolumeError, match=text):
        open_volume(tmp_path)


def test_pattern_without_match(tmp_path):
    with pytest.raises(VolumeError, match=r"z\*\.tif: no TIFF file there, found nothing"):
        open_volume(tmp_path / "z*.tif")


def test_planes_on_two_drives_travel(tmp_path, monkeypatch):
    first, second = (write(tmp_path / name, "z.tif", start=number) for number, name in enumerate(("c", "d")))
    volume = open_volume([first / "z.tif", second / "z.tif"])
    with monkeypatch.context() as windows:  # where drives have no folder in common
        windows.setattr(os.path, "splitdrive", lambda path: (str(Path(path).parent), Path(path).name))
        text = pickle.dumps(volume)
    assert planes(pickle.loads(text)) == planes(volume) == [0, 1]


def test_lists_of_paths_keep_their_order_and_are_not_judged_by_name(tmp_path):
    write(tmp_path, "b.tif", "a_9.tif", "a_2.tif")
    paths = [tmp_path / name for name in ("b.tif", "a_9.tif", "a_2.tif")]
    volume = open_volume(paths)
    assert planes(volume) == [0, 1, 2]
    assert volume.name == "list of 3 files"
    assert planes(open_volume([str(path) for path in paths[::-1]])) == [2, 1, 0]
    with pytest.raises(VolumeError, match=r"gone\.tif does not exist"):
        open_volume([tmp_path / "gone.tif"])


@pytest.mark.parametrize(
    "names", ["_C{c:02d}_xyz-Table Z{z:04d}.ome.tif", "ch{c}_z{z}.tif", "Z{z:03d}C{c}.tif", "a_{z}_channel {c}.tif"]
)
def test_channels_in_names_must_be_chosen(tmp_path, names):
    for c in (1, 2):
        write(tmp_path, *(names.format(c=c, z=z) for z in range(11)), start=100 * c)
    with pytest.raises(
        VolumeError, match=r"file names hold channels 1, 2: choose one with channel=1, or give a pattern"
    ):
        open_volume(tmp_path)
    volume = open_volume(tmp_path, channel=2)
    assert planes(volume) == list(range(200, 211))
    assert volume.describe()["channels"] == [1, 2]
    with pytest.raises(VolumeError, match=r"channel=0 is not in .*: file names hold channels 1, 2"):
        open_volume(tmp_path, channel=0)


def test_the_pattern_that_is_named_works(tmp_path):
    write(tmp_path, *(f"a_C{c:02d}_Z{z:03d}.tif" for c in (0, 1) for z in range(3)))
    with pytest.raises(VolumeError) as caught:
        open_volume(tmp_path)
    pattern = str(caught.value).split("such as '")[1].rstrip("'")
    assert planes(open_volume(tmp_path / pattern)) == [0, 1, 2]


def test_channel_and_timepoint_in_names(tmp_path):
    write(tmp_path, *(f"a_T{t}_C{c}_Z{z}.tif" for t in range(2) for c in range(2) for z in range(3)))
    with pytest.raises(VolumeError, match="file names hold timepoints 0, 1"):
        open_volume(tmp_path, channel=1)
    volume = open_volume(tmp_path, channel=1, timepoint=1)
    assert planes(volume) == [9, 10, 11]
    assert (volume.describe()["channels"], volume.describe()["timepoints"]) == ([0, 1], [0, 1])


def test_one_channel_needs_no_choice(tmp_path):
    write(tmp_path, *(f"a_C01_Z{z}.tif" for z in range(3)))
    assert planes(open_volume(tmp_path)) == planes(open_volume(tmp_path, channel=1)) == [0, 1, 2]
    with pytest.raises(VolumeError, match=r"channel=2 is not in .*: file names hold channel 1 only"):
        open_volume(tmp_path, channel=2)


def test_a_single_number_is_the_plane_whatever_it_is_called(tmp_path):
    write(tmp_path, *(f"ch{z:05d}.tif" for z in range(8, 24)))
    assert open_volume(tmp_path).shape[0] == 16
    assert open_volume(tmp_path, channel=0).shape[0] == 16


def test_several_numbers_that_could_be_the_plane(tmp_path):
    write(tmp_path, *(f"tile_{tile}_z{z}.tif" for tile in range(2) for z in range(3)))
    with pytest.raises(
        VolumeError, match=r"2 numbers vary in the file names .*give a pattern .* such as 'tile_0_z\*.tif'"
    ):
        open_volume(tmp_path)
    assert planes(open_volume(tmp_path / "tile_1_z*.tif")) == [3, 4, 5]


def test_numbers_that_rise_together_give_one_order(tmp_path):
    names = [f"scan_{9 + z}_pos{z * 25:05d}_{1000 + z * z}.tif" for z in range(4)]
    assert planes(open_volume(write(tmp_path, *names))) == [0, 1, 2, 3]


def test_numbers_that_run_against_each_other_do_not(tmp_path):
    with pytest.raises(VolumeError, match="2 numbers vary"):
        open_volume(write(tmp_path, *(f"scan_{z}_depth{100 - z}.tif" for z in range(4))))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ("cfos_Z0.tif", "cfos_Z1.tif", "auto_Z0.tif", "auto_Z1.tif", "auto_Z2.tif"),
            r"2 kinds, 'auto_Z#.tif' \(3\), 'cfos_Z#.tif' \(2\); give a pattern for one kind, such as 'auto_Z\*.tif'",
        ),
        (("z0.tif", "z1.tif", "overview.tif"), r"2 kinds, 'z#.tif' \(2\), 'overview.tif' \(1\)"),
        (("one.tif", "two.tif"), "2 kinds, .*; number the planes"),
        (("z1.tif", "z01.tif"), r"'z01.tif' and 'z1.tif' have the same plane number|'z1.tif' and 'z01.tif'"),
    ],
)
def test_names_of_several_kinds(tmp_path, names, text):
    with pytest.raises(VolumeError, match=text):
        open_volume(write(tmp_path, *names))


def test_a_missing_plane_is_named(tmp_path):
    write(tmp_path, *(f"z{z:04d}.tif" for z in range(41) if z != 17))
    with pytest.raises(VolumeError, match=r"plane 17 missing between 'z0000.tif' and 'z0040.tif'; put the file back"):
        open_volume(tmp_path)
    (tmp_path / "z0018.tif").unlink()
    with pytest.raises(VolumeError, match="planes 17, 18 missing"):
        open_volume(tmp_path)


@pytest.mark.parametrize("step", [1, 5, 10])
@pytest.mark.parametrize("first", [0, 3])
def test_even_steps_are_no_gaps(tmp_path, step, first):
    assert planes(open_volume(write(tmp_path, *(f"z{first + z * step:04d}.tif" for z in range(5))))) == list(range(5))


@given(
    first=st.integers(0, 50),
    step=st.integers(1, 40),
    count=st.integers(4, 60),
    data=st.data(),
)
@settings(max_examples=100)
def test_numbers_taken_out_of_an_even_sequence_are_found(first, step, count, data):
    numbers = list(range(first, first + step * count, step))
    inner = data.draw(st.lists(st.sampled_from(numbers[2:-1]), max_size=count // 3, unique=True))
    assert missing_numbers([number for number in numbers if number not in inner]) == sorted(inner)


@pytest.mark.parametrize("numbers", [[0, 3, 7, 12], [1, 2, 4, 8, 16, 32], [5, 9], [100, 1003, 2009]])
def test_uneven_numbers_have_no_gaps(numbers):
    assert missing_numbers(numbers) == []


@given(st.permutations(list(range(23))), st.sampled_from(["{}", "{:03d}", "a{}b", "7_{}"]))
@settings(max_examples=50)
def test_order_does_not_depend_on_the_listing(numbers, form):
    names = [form.format(number) + ".tif" for number in numbers]
    assert [numbers[place] for place in order_names(names, "here", Selection()).order] == list(range(23))


@pytest.mark.parametrize("bad", [0, 3])
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda path: path.write_bytes(b"garbage of a kind"), "cut off or not a TIFF file"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            r"is cut off: needs \d+ bytes, the file has \d+; copy or",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "cut off|holds no|names no"),
        (
            lambda path: tifffile.imwrite(path, np.zeros((5, 7, 3), "uint16"), photometric="rgb"),
            "3 samples a pixel .RGB",
        ),
        (
            lambda path: tifffile.imwrite(
                path, np.zeros((3, 5, 7), "uint16"), photometric="rgb", planarconfig="separate"
            ),
            "RGB",
        ),
        (lambda path: tifffile.imwrite(path, np.zeros((4, 5, 7), "uint16"), photometric="minisblack"), "holds 4 pages"),
        (lambda path: tifffile.imwrite(path, np.zeros((5, 7), "complex64")), "complex64|not supported"),
    ],
)
def test_bad_planes_are_named_at_the_check_or_before(tmp_path, bad, spoil, text):
    write(tmp_path, *(f"z{z}.tif" for z in range(5)))
    spoil(tmp_path / f"z{bad}.tif")
    with pytest.raises(VolumeError, match=text) as caught:
        open_volume(tmp_path).check()
    assert "\n" not in str(caught.value)
    assert bad == 0 or f"z{bad}.tif" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"), [({"shape": (5, 8)}, "5 x 8 uint16"), ({"dtype": "uint8"}, "5 x 7 uint8")]
)
def test_a_plane_of_another_kind_is_named_with_the_first(tmp_path, options, text):
    write(tmp_path, "z0.tif", "z1.tif", "z3.tif", "z4.tif")
    write(tmp_path, "z2.tif", **options)
    volume = open_volume(tmp_path)
    for failing in (volume.check, lambda: volume.read(full_region(volume.shape))):
        with pytest.raises(
            VolumeError, match=rf"z2\.tif is {text}, but .*z0\.tif is 5 x 7 uint16: all planes must be equal"
        ):
            failing()
    assert volume.read((slice(0, 2), slice(0, 5), slice(0, 7))).tolist() == [[[0] * 7] * 5, [[1] * 7] * 5]


def test_the_first_bad_plane_is_the_one_named(tmp_path):
    write(tmp_path, *(f"z{z:03d}.tif" for z in range(100)))
    for z in (31, 57, 90):
        (tmp_path / f"z{z:03d}.tif").write_bytes(b"")
    for _ in range(5):
        with pytest.raises(VolumeError, match=r"z031\.tif is empty"):
            open_volume(tmp_path).check()


def test_planes_may_be_stored_differently(tmp_path):
    write(tmp_path, "z0.tif", "z1.tif")
    write(tmp_path, "z2.tif", start=2, compression="zlib")
    write(tmp_path, "z3.tif", start=3, byteorder=">", bigtiff=True)
    volume = open_volume(tmp_path)
    volume.check()
    assert planes(volume) == [0, 1, 2, 3]


def test_thumbnails_beside_a_plane_are_left_out(tmp_path):
    for z in range(3):
        with tifffile.TiffWriter(tmp_path / f"z{z}.tif") as tif:
            tif.write(np.full((5, 7), z, "uint16"))
            tif.write(np.zeros((2, 3), "uint8"), subfiletype=1)
    volume = open_volume(tmp_path)
    volume.check()
    assert planes(volume) == [0, 1, 2]


def test_strips_that_were_never_written(tmp_path):
    write(tmp_path, *(f"z{z}.tif" for z in range(3)), compression="zlib")
    with tifffile.TiffFile(tmp_path / "z1.tif", mode="r+") as tif:
        tif.pages[0].tags["StripByteCounts"].overwrite(0)
    with pytest.raises(VolumeError, match=r"z1\.tif was not written to its end"):
        open_volume(tmp_path).check()


def test_voxel_size_of_ome_planes_and_of_the_option(tmp_path):
    for z in range(3):
        tifffile.imwrite(
            tmp_path / f"z{z}.ome.tif",
            np.zeros((5, 7), "uint16"),
            metadata={"axes": "YX", "PhysicalSizeX": 1.6, "PhysicalSizeY": 1.7, "PhysicalSizeZ": 4.0},
        )
    assert open_volume(tmp_path).voxel_size == (4.0, 1.7, 1.6)
    assert open_volume(tmp_path, voxel_size=(1, 1, 1)).voxel_size == (1.0, 1.0, 1.0)
    assert open_volume(tmp_path).describe()["format"] == "TIFF planes"


@pytest.mark.parametrize("option", ["level", "dataset"])
def test_options_that_planes_do_not_have(tmp_path, option):
    write(tmp_path, "z0.tif")
    with pytest.raises(VolumeError, match=f"{option}="):
        open_volume(tmp_path, **{option: 1 if option == "level" else "1"})


def test_a_cortex_of_real_planes(shared, tmp_path):
    volume = open_volume(shared / "data" / "cells" / "cortex")
    volume.check()
    assert (volume.shape, volume.dtype) == ((16, 510, 667), np.dtype("uint16"))
    expected = tifffile.imread(shared / "data" / "cells" / "cortex" / "ch00013.tif")
    np.testing.assert_array_equal(volume.read((slice(5, 6), slice(190, 400), slice(0, 667)))[0], expected[190:400])
    shutil.copytree(shared / "data" / "cells" / "cortex", tmp_path / "copy")
    (tmp_path / "copy" / "ch00013.tif").unlink()
    with pytest.raises(VolumeError, match="plane 13 missing"):
        open_volume(tmp_path / "copy")
