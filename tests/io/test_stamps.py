"""What identifies the files behind a volume, against what the system itself says of them."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from cytolith.errors import VolumeError
from cytolith.io.record import read_record, write_record
from cytolith.io.stamps import Stamps, changed_planes
from cytolith.io.volume import open_volume

SHAPE = (5, 9, 7)
VOLUME = np.random.default_rng(3).integers(0, 60000, SHAPE, "uint16")


def folder_of_planes(path):
    path.mkdir()
    for z, plane in enumerate(VOLUME):
        tifffile.imwrite(path / f"p{z:02}.tif", plane)
    return path


def rows(stamps):
    numbers = (getattr(stamps, name).tolist() for name in ("sizes", "times", "first", "last"))
    return list(zip(stamps.names, *numbers, strict=True))


def expected(path, first, last):
    state = Path(path).stat()
    return (str(path), state.st_size, state.st_mtime_ns, first, last)


def test_folder_of_planes(tmp_path):
    folder = folder_of_planes(tmp_path / "planes")
    os.utime(folder / "p01.tif", ns=(1, 1_700_000_000_123_456_700))  # Windows counts steps of 100
    stamps = open_volume(folder).stamps()
    assert rows(stamps) == [expected(folder / f"p{z:02}.tif", z, z + 1) for z in range(5)]
    assert stamps.times[1] == 1_700_000_000_123_456_700
    assert all(getattr(stamps, name).dtype == np.int64 for name in ("sizes", "times", "first", "last"))


@pytest.mark.parametrize(
    ("name", "write", "file"),
    [
        ("a.tif", lambda path: tifffile.imwrite(path, VOLUME, photometric="minisblack"), "a.tif"),
        ("a.npy", lambda path: np.save(path, VOLUME), "a.npy"),
        ("a.zarr", lambda path: zarr.save_array(path, VOLUME, zarr_format=3), "a.zarr/zarr.json"),
        ("b.zarr", lambda path: zarr.save_array(path, VOLUME, zarr_format=2), "b.zarr/.zarray"),
        (
            "c.zarr",
            lambda path: zarr.open_group(path, mode="w").create_array("s", shape=SHAPE, dtype="u2", chunks=SHAPE),
            "c.zarr/s/zarr.json",
        ),
    ],
)
def test_one_file(tmp_path, monkeypatch, name, write, file):
    write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    volume = open_volume(name)  # relative, and yet the names are absolute
    assert rows(volume.stamps()) == [expected(tmp_path / file, 0, 5)]
    (tmp_path / file).rename(tmp_path / "away")
    with pytest.raises(VolumeError, match=re.escape(f"{Path(file)} is no longer there; put it back")) as caught:
        volume.stamps()
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_arrays_in_memory_have_none():
    assert open_volume(VOLUME).stamps() is None


def test_an_image_in_several_files(tmp_path):
    """An OME-TIFF names the files that its planes lie in."""
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="7" SizeY="9" SizeZ="5" SizeC="1" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        + "".join(
            f'<TiffData FirstZ="{z}" IFD="{ifd}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{uuid}</UUID>'
            "</TiffData>"
            for z, ifd, name, uuid in [(0, 0, "a.ome.tif", 1), (1, 1, "a.ome.tif", 1), (2, 0, "b.ome.tif", 2),
                                       (3, 1, "b.ome.tif", 2), (4, 2, "b.ome.tif", 2)]
        )
        + "</Pixels></Image></OME>"
    )  # fmt: skip
    for name, planes, uuid in (("a", VOLUME[:2], 1), ("b", VOLUME[2:], 2)):
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif",
            planes,
            photometric="minisblack",
            metadata=None,
            description=xml.replace("<OME ", f'<OME UUID="urn:uuid:{uuid}" '),
        )
    volume = open_volume(tmp_path / "a.ome.tif")
    assert volume.shape == SHAPE
    assert rows(volume.stamps()) == [
        expected(tmp_path / "a.ome.tif", 0, 2),
        expected(tmp_path / "b.ome.tif", 2, 5),
    ]


def test_what_has_changed_is_named(tmp_path):
    folder = folder_of_planes(tmp_path / "planes")
    names = [str(folder / f"p{z:02}.tif") for z in range(6)]
    before = open_volume(folder).stamps()
    assert changed_planes(before, open_volume(folder).stamps()) == []
    os.utime(names[3], ns=(1, int(before.times[3]) - 100))  # older: it was put back from a copy
    with Path(names[1]).open("ab") as file:
        file.write(b"\0")
    os.utime(names[1], ns=(1, int(before.times[1])))
    now = open_volume(folder).stamps()
    assert changed_planes(before, now) == changed_planes(now, before) == [(names[1], 1, 2), (names[3], 3, 4)]
    Path(names[0]).unlink()  # all others hold other planes now
    now = open_volume(folder).stamps()
    assert changed_planes(before, now) == [
        (names[0], 0, 1), (names[1], 0, 1), (names[1], 1, 2), (names[2], 1, 2), (names[2], 2, 3), (names[3], 2, 3),
        (names[3], 3, 4), (names[4], 3, 4), (names[4], 4, 5),
    ]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="Windows asks who may make links")
def test_another_way_to_the_same_files_is_no_change(tmp_path):
    folder = folder_of_planes(tmp_path / "planes")
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    before, after = open_volume(folder).stamps(), open_volume(tmp_path / "link").stamps()
    assert rows(before) == rows(after) == [expected(folder / f"p{z:02}.tif", z, z + 1) for z in range(5)]
    assert changed_planes(before, after) == []


def test_new_and_missing_at_the_end(tmp_path):
    folder = folder_of_planes(tmp_path / "planes")
    before = open_volume(folder).stamps()
    tifffile.imwrite(folder / "p05.tif", VOLUME[0])
    after = open_volume(folder).stamps()
    assert changed_planes(before, after) == changed_planes(after, before) == [(str(folder / "p05.tif"), 5, 6)]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))  # half a surrogate pair is in no name


@given(st.lists(st.tuples(NAMES, *[st.integers(-(2**63), 2**63 - 1)] * 4)))
def test_through_a_record(tmp_path_factory, files):
    columns = [np.array([row[k] for row in files], np.int64) for k in range(1, 5)]
    names = [row[0] for row in files]
    path = tmp_path_factory.mktemp("stamps") / "a"
    write_record(path, Stamps(names, *columns).to_arrays(), {})
    assert rows(Stamps.from_arrays(read_record(path).arrays)) == [tuple(row) for row in files]


@pytest.mark.skipif(os.name == "nt", reason="names of files are letters of all kinds on Windows, never bytes")
def test_names_that_are_no_utf8():
    name = os.fsdecode(b"/brain/\xff\xfe.tif")
    stamps = Stamps([name], *(np.zeros(1, np.int64),) * 4)
    assert Stamps.from_arrays(stamps.to_arrays()).names == [name]
