"""Files of other programs become ours: values, the order of axes, and what is said of the rest."""

import json

import numpy as np
import pytest
import tifffile

from cytolith.compat.migrate import kind_of, migrate
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.map_files import write_map_text
from cytolith.io.tables import read_table, write_table


@pytest.fixture
def points():
    return np.random.default_rng(3).integers(0, [11, 22, 33], (70_000, 3))  # x, y, z; more than a part


def both(folder):
    table, metadata = read_table(folder / "cells.parquet")
    csv = read_table(folder / "cells.csv")[0]
    assert list(csv) == list(table)
    for name in table:
        np.testing.assert_array_equal(csv[name], table[name])
    return table, metadata


def test_cells_of_clearmap_2(tmp_path, points):
    cells = np.zeros(len(points), [(n, int) for n in "xyz"] + [("source", float), ("size", int), ("name", "U9")])
    cells["x"], cells["y"], cells["z"] = points.T
    cells["source"], cells["size"], cells["name"] = points.sum(1) / 3, points.sum(1), "cortex"
    np.save(tmp_path / "cells.npy", cells)
    done = migrate(tmp_path / "cells.npy", tmp_path / "out", voxel_size=(5, 2, 1.5))
    assert done.what == "70,000 cells of ClearMap 2"
    table, metadata = both(tmp_path / "out")
    assert list(table) == ["z", "y", "x", "z_um", "y_um", "x_um", "size", "source", "name"]
    assert json.loads(metadata["voxel_size_um"]) == [5, 2, 1.5]
    for k, (axis, edge) in enumerate(zip("xyz", (1.5, 2, 5), strict=True)):
        assert table[axis].dtype == float
        np.testing.assert_array_equal(table[axis], points[:, k])
        np.testing.assert_array_equal(table[f"{axis}_um"], points[:, k] * edge)
    np.testing.assert_array_equal(table["size"], cells["size"])
    np.testing.assert_array_equal(table["source"], cells["source"])
    assert set(table["name"]) == {"cortex"}


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (None, []),
        (0, ["intensity"]),
        (1, ["intensity"]),
        (2, ["size", "source"]),
        (3, ["intensity_0", "intensity_1", "intensity_2"]),
        (4, ["size", "source", "dog_filter", "background_correction"]),
    ],
)
def test_coordinates_and_intensities_of_clearmap_1(tmp_path, points, columns, names):
    np.save(tmp_path / "cells.npy", points.astype(float) + 0.25)
    values = np.arange(len(points) * max(columns or 1, 1), dtype=float).reshape(len(points), -1)
    np.save(tmp_path / "intensities.npy", values if columns else values[:, 0])
    intensities = None if columns is None else tmp_path / "intensities.npy"
    done = migrate(tmp_path / "cells.npy", tmp_path / "out", intensities=intensities)
    assert done.what == "70,000 cells of ClearMap 1"
    table, metadata = both(tmp_path / "out")
    assert metadata == {}
    assert list(table) == ["z", "y", "x", *names]
    for k, axis in enumerate("xyz"):
        np.testing.assert_array_equal(table[axis], points[:, k] + 0.25)
    stored = {2: ["source", "size"], 4: ["source", "dog_filter", "background_correction", "size"]}.get(columns, names)
    for k, name in enumerate(stored):
        np.testing.assert_array_equal(table[name], values[:, k])
    assert "size" not in names or table["size"].dtype == np.int64


def test_markers_of_cellfinder(tmp_path):
    markers = "".join(
        f"<Marker><MarkerX>{x}</MarkerX><MarkerY>{y}</MarkerY><MarkerZ>{z}</MarkerZ></Marker>"
        for x, y, z in [(1, 2, 3), (4, 5, 6)]
    )
    (tmp_path / "cells.xml").write_text(
        '<?xml version="1.0"?><CellCounter_Marker_File><Image_Properties><Image_Filename>placeholder.tif'
        "</Image_Filename></Image_Properties><Marker_Data><Current_Type>1</Current_Type><Marker_Type><Type>1</Type>"
        "<Marker><MarkerX>9</MarkerX><MarkerY>9</MarkerY><MarkerZ>9</MarkerZ></Marker></Marker_Type><Marker_Type>"
        f"<Type>2</Type>{markers}</Marker_Type></Marker_Data></CellCounter_Marker_File>"
    )
    assert migrate(tmp_path / "cells.xml", tmp_path).what == "2 cells of cellfinder or Cell Counter"
    table, _ = both(tmp_path)
    assert {axis: table[axis].tolist() for axis in table} == {"z": [3, 6], "y": [2, 5], "x": [1, 4]}
    migrate(tmp_path / "cells.xml", tmp_path / "rejected.csv", marker_type=1)
    assert (tmp_path / "rejected.csv").read_text() == "z,y,x\n9.0,9.0,9.0\n"


def test_cellfinder_that_rejected_all_or_classified_none(tmp_path):
    head = (
        "<CellCounter_Marker_File><Image_Properties><Image_Filename>placeholder.tif</Image_Filename>"
        "</Image_Properties><Marker_Data><Marker_Type><Type>1</Type><Marker><MarkerX>9</MarkerX><MarkerY>8</MarkerY>"
        "<MarkerZ>7</MarkerZ></Marker></Marker_Type>"
    )
    tail = "</Marker_Data></CellCounter_Marker_File>"
    (tmp_path / "a.xml").write_text(f"{head}<Marker_Type><Type>2</Type></Marker_Type>{tail}")
    done = migrate(tmp_path / "a.xml", tmp_path / "rejected")
    assert done.what.startswith("0 cells of cellfinder")
    assert done.left_out == []
    assert (tmp_path / "rejected" / "cells.csv").read_text() == "z,y,x\n"
    (tmp_path / "a.xml").write_text(head + tail)
    done = migrate(tmp_path / "a.xml", tmp_path / "candidates")
    assert done.what.startswith("1 cells of cellfinder")
    assert done.left_out[0].startswith("no type 2; took type 1 (")
    assert (tmp_path / "candidates" / "cells.csv").read_text() == "z,y,x\n7.0,8.0,9.0\n"
    assert migrate(tmp_path / "a.xml", tmp_path / "asked.csv", marker_type=1).left_out == []


def test_names_in_bytes_as_clearmap_writes_them(tmp_path):
    cells = np.zeros(3, [("x", float), ("y", float), ("z", float), ("source", "f4"), ("name", "S256")])
    cells["name"][1] = b"Caudoputamen"
    np.save(tmp_path / "s4.npy", cells)
    assert migrate(tmp_path / "s4.npy", tmp_path).what == "3 cells of ClearMap 2"
    assert both(tmp_path)[0]["name"].tolist() == ["", "Caudoputamen", ""]


def test_no_rows_at_all(tmp_path):
    np.save(tmp_path / "a.npy", np.empty((0, 3)))
    assert migrate(tmp_path / "a.npy", tmp_path / "one").what.startswith("0 cells")
    np.save(tmp_path / "b.npy", np.empty(0, [("x", int), ("y", int), ("z", int), ("size", int)]))
    migrate(tmp_path / "b.npy", tmp_path / "two", voxel_size=(1, 1, 1))
    assert (tmp_path / "two" / "cells.csv").read_text() == "z,y,x,z_um,y_um,x_um,size\n"


@pytest.mark.parametrize(
    ("array", "error", "text"),
    [
        (np.zeros((4, 5)), VolumeError, "neither rows with named columns nor"),
        (np.array([[1.0, 2, np.nan]]), VolumeError, "row 1 has no position"),
        (np.zeros(3, [("x", int), ("y", int)]), VolumeError, "no column 'z'"),
        (np.zeros(2, [("x", float), ("y", float), ("z", "U3")]), VolumeError, "column 'z' holds"),
    ],
)
def test_arrays_that_are_no_cells(tmp_path, array, error, text):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(error, match=text):
        migrate(tmp_path / "a.npy", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_intensities_of_other_rows(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    np.save(tmp_path / "i.npy", np.zeros(5))
    with pytest.raises(VolumeError, match=r"i\.npy: has 5 rows, but .*a\.npy has 4"):
        migrate(tmp_path / "a.npy", tmp_path, intensities=tmp_path / "i.npy")
    np.save(tmp_path / "s.npy", np.zeros(4, [(axis, int) for axis in "xyz"]))
    with pytest.raises(ConfigError, match="has columns of its own"):
        migrate(tmp_path / "s.npy", tmp_path, intensities=tmp_path / "i.npy")


def test_maps_of_apmapflow(tmp_path):
    aperture = np.arange(12, dtype=np.int32).reshape(3, 4)
    offset = aperture / 8 + 1
    write_map_text(tmp_path / "a.txt", [aperture], "%d")
    write_map_text(tmp_path / "o.txt", [offset], "%f")
    done = migrate(tmp_path / "a.txt", tmp_path, voxel_size=(10, 7, 20))
    assert done.what == "map of whole numbers of apmapflow, 3 x 4"
    assert done.paths == [tmp_path / "a.tif"]
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages[0].dtype == np.int32
        np.testing.assert_array_equal(tif.asarray(), aperture)
        per_centimetre = [tif.pages[0].tags[name].value for name in ("YResolution", "XResolution")]
        assert [pixels / units for pixels, units in per_centimetre] == pytest.approx([1000, 500])
    done = migrate(tmp_path / "o.txt", tmp_path)
    assert "1 was taken off" in done.left_out[0]
    assert tifffile.imread(tmp_path / "o.tif").dtype == np.float32
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif"), offset - 1)
    migrate(tmp_path / "o.txt", tmp_path / "o.npy", keep_values=True)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), offset)
    migrate(tmp_path / "a.txt", tmp_path / "b.npy")
    assert np.load(tmp_path / "b.npy").dtype == np.int32


@pytest.mark.parametrize("text", ["0.500000\t3.000000\n", "1.5\t3.0\n", "1.000000e+00\t2.000000e+00\n"])
def test_other_maps_keep_their_values(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    done = migrate(tmp_path / "a.txt", tmp_path / "a.npy")
    assert done.left_out == []
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.array([text.split()], float))


def test_a_byte_order_mark_changes_nothing(tmp_path):
    (tmp_path / "o.txt").write_bytes(b"\xef\xbb\xbf1.000000\t2.500000\n")
    assert migrate(tmp_path / "o.txt", tmp_path / "o.npy").what.startswith("map of offsets")
    assert np.load(tmp_path / "o.npy").tolist() == [[0, 1.5]]


def test_recorded_maps(shared, tmp_path):
    import lzma

    golden = shared / "golden" / "apmapflow" / "n1"
    if not golden.is_dir():
        pytest.skip("no recorded runs of apmapflow in the folder 'shared'")
    for name in ("aperture", "offset"):
        packed = golden / f"binary-fracture-small-{name}-map.txt.xz"
        (tmp_path / f"{name}.txt").write_bytes(lzma.decompress(packed.read_bytes()))
        migrate(tmp_path / f"{name}.txt", tmp_path / f"{name}.npy")
        stored = np.loadtxt(tmp_path / f"{name}.txt")
        assert stored.shape == (100, 200)
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), stored - (name == "offset"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"# of today\n\n[detection]\n", "configuration"),
        (b"pipeline_name = 'CellMap'\n", "configuration"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "markers"),
        (b"1\t2\n", "map"),
        (b"nan 2\n", "map"),
    ],
)
def test_content_tells(tmp_path, content, kind):
    (tmp_path / "file").write_bytes(content)
    assert kind_of(tmp_path / "file") == kind


@pytest.mark.parametrize("content", [b"", b"x,y,z\n1,2,3\n", b"II*\0\xff\xfe", b"1,2,3\n"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(VolumeError, match="file: is none of what can be migrated: a configuration of ClearMap"):
        migrate(tmp_path / "file", tmp_path / "out")
    with pytest.raises(VolumeError, match="no such file"):
        migrate(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(VolumeError, match=r"cannot be read: (Is a directory|Permission denied)"):
        migrate(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_of_other_files_and_wrong_endings(tmp_path):
    (tmp_path / "a.txt").write_text("1\t2\n")
    for option in ({"intensities": "i.npy"}, {"channel": "c"}, {"marker_type": 1}):
        with pytest.raises(ConfigError, match=r"means nothing for .*a\.txt, which is a map; leave it out"):
            migrate(tmp_path / "a.txt", tmp_path, **option)
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="--keep-values: means nothing"):
        migrate(tmp_path / "a.npy", tmp_path, keep_values=True)
    with pytest.raises(ConfigError, match=r"becomes \.parquet, \.csv; give that ending, or a folder"):
        migrate(tmp_path / "a.npy", tmp_path / "out.tif")
    for name in ("x.png", "x.TXT", "x.h5", "x.parquet"):
        with pytest.raises(ConfigError, match=rf"--output .*{name}: such a file becomes \.tif, \.tiff, \.npy; give"):
            migrate(tmp_path / "a.txt", tmp_path / name)
        assert not (tmp_path / name).exists()
    (tmp_path / "mouse.left").mkdir()
    for name in ("mouse.left", "run.1", "brain.v2", "2024.05.06"):
        assert migrate(tmp_path / "a.txt", tmp_path / name).paths == [tmp_path / name / "a.tif"]
    (tmp_path / "b.cfg").write_text("[detection]\n")
    with pytest.raises(ConfigError, match="has no channels"):
        migrate(tmp_path / "b.cfg", tmp_path, channel="a")


def test_existing_files_are_kept_unless_asked(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    write_table({"z": np.zeros(1)}, tmp_path / "cells.csv")
    before = (tmp_path / "cells.csv").read_bytes()
    with pytest.raises(OutputError, match=r"cells\.csv: exists; give another place with -o, or --overwrite"):
        migrate(tmp_path / "a.npy", tmp_path)
    assert (tmp_path / "cells.csv").read_bytes() == before
    assert not (tmp_path / "cells.parquet").exists()
    migrate(tmp_path / "a.npy", tmp_path, overwrite=True)
    assert len(both(tmp_path)[0]["z"]) == 4
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OutputError, match="folder: cannot be written"):
        migrate(tmp_path / "a.npy", tmp_path / "folder")


def test_the_input_is_never_the_output(tmp_path):
    for name, target in (("m.txt", "m.txt"), ("a.npy", "a.npy"), ("a.tif", "."), ("m.txt", "./sub/../m.txt")):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\t2\n")
        with pytest.raises(OutputError, match=f"{name}: is the input; give another place with -o"):
            migrate(tmp_path / name, tmp_path / target, overwrite=True)
        assert (tmp_path / name).read_text() == "1\t2\n"
