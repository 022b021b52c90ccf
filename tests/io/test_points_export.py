"""Tables in the formats of other tools, read back by readers that are not ours wherever there is one."""

import csv
import errno
import json
import os
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from numpy.lib import recfunctions

from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.points import neuroglancer as precomputed
from cytolith.io.points import rows as rows_module
from cytolith.io.points.export import FORMATS, RUN_FILES, export_run, export_table
from cytolith.io.tables import read_points, read_table, read_voxel_size, write_table

VOXEL_SIZE = (6.0, 1.62, 2.5)


def cells(n, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, (40, 300, 500), (n, 3)).round(3)
    table = {axis: points[:, i].copy() for i, axis in enumerate("zyx")}
    table |= {f"{axis}_um": points[:, i] * VOXEL_SIZE[i] for i, axis in enumerate("zyx")}
    table["size"] = rng.integers(1, 5000, n)
    table["source"] = rng.uniform(0, 65535, n)
    table["background_correction"] = np.where(rng.random(n) < 0.1, np.nan, rng.uniform(0, 999, n))
    table["truncated"] = rng.random(n) < 0.3
    return table


def write(table, path):
    write_table(table, path, {"voxel_size_um": json.dumps(VOXEL_SIZE)})
    return path


@pytest.fixture
def small_parts(monkeypatch):
    """Rows pass in many parts."""
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 7)


@pytest.fixture(params=[".parquet", ".csv", ".npy"])
def source(request, tmp_path, small_parts):
    return write(cells(50), tmp_path / f"zellen µ{request.param}")


def test_clearmap(source, tmp_path):
    table = cells(50)
    table["z"][:3] = 0.5, 1.5, 2.5
    write(table, source)
    assert export_table(source, tmp_path / "out.npy") == 50
    array = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert array.dtype.names == ("x", "y", "z", "size", "source", "background_correction", "truncated")
    assert [array.dtype[name] for name in array.dtype.names] == [np.int64] * 4 + [np.float64] * 2 + [np.bool_]
    for axis in "zyx":
        np.testing.assert_array_equal(array[axis], np.rint(table[axis]))
    assert array["z"][:3].tolist() == [0, 2, 2]
    for name in array.dtype.names[3:]:
        np.testing.assert_array_equal(array[name], table[name])
    # what ClearMap does with it
    assert recfunctions.structured_to_unstructured(array[["x", "y", "z"]]).shape == (50, 3)


def test_cellfinder(source, tmp_path):
    table = cells(50)
    export_table(source, tmp_path / "out.xml")
    root = ElementTree.parse(tmp_path / "out.xml").getroot()  # as brainglobe reads it
    assert root.tag == "CellCounter_Marker_File"
    assert root.findtext("Image_Properties/Image_Filename") == "placeholder.tif"
    found = [
        (int(kind.findtext("Type")), *(int(marker.findtext(f"Marker{axis}")) for axis in "ZYX"))
        for kind in root.find("Marker_Data").findall("Marker_Type")
        for marker in kind.findall("Marker")
    ]
    assert found == [(2, *map(round, row)) for row in zip(table["z"], table["y"], table["x"], strict=True)]
    np.testing.assert_array_equal(read_points(tmp_path / "out.xml"), np.array(found)[:, 1:])


def test_napari(source, tmp_path):
    table = cells(50)
    export_table(source, tmp_path / "out.csv", "napari")
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == [
        "index", "axis-0", "axis-1", "axis-2", "z_um", "y_um", "x_um", "size", "source", "background_correction",
        "truncated",
    ]  # fmt: skip
    texts = np.array(lines)
    assert texts[:, 0].tolist() == [str(row) for row in range(50)]
    for column, name in enumerate(["z", "y", "x", *header[4:]], start=1):
        np.testing.assert_array_equal(texts[:, column].astype(float), table[name])  # as napari takes it
    np.testing.assert_array_equal(read_points(tmp_path / "out.csv"), np.stack([table[a] for a in "zyx"], axis=1))


def test_napari_with_texts_and_narrow_floats(tmp_path):
    table = cells(3) | {"region": np.array(["a,b", "", 'x"y']), "p": np.array([0.1, np.nan, 1], np.float32)}
    write(table, tmp_path / "t.parquet")
    export_table(tmp_path / "t.parquet", tmp_path / "out.csv", "napari")
    with (tmp_path / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["region"] for line in lines] == ["a,b", "", 'x"y']
    assert [line["p"] for line in lines] == ["0.1", "nan", "1.0"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_plain_tables(source, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    export_table(source, out)
    read, expected = read_table(out)[0], read_table(source)[0]
    assert list(read) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(read[name], expected[name])
    if source.suffix == ".parquet" == suffix:
        assert read_voxel_size(out) == VOXEL_SIZE


def test_missing_integers_in_one_part_only(tmp_path, small_parts):
    pa = pytest.importorskip("pyarrow")
    size = [None if row == 20 else row for row in range(30)]
    points = {axis: np.arange(30.0) for axis in "zyx"}
    pa.parquet.write_table(pa.table(points | {"size": pa.array(size)}), tmp_path / "a.parquet")
    expected = np.array([np.nan if s is None else s for s in size])
    for name in ("out.parquet", "out.npy"):
        export_table(tmp_path / "a.parquet", tmp_path / name)
        np.testing.assert_array_equal(read_table(tmp_path / name)[0]["size"], expected)


# ---------------------------------------------------------------------------------------------- neuroglancer


def read_folder(path):
    """All points of all levels by their id, read by neuroglancer itself."""
    pytest.importorskip("tensorstore")
    from neuroglancer.read_precomputed_annotations import AnnotationReader

    reader = AnnotationReader(f"file://{path}/")
    return reader, {int(a.id): a for a in reader.get_within_spatial_bounds()}


def test_neuroglancer_reads_every_point(tmp_path, monkeypatch, small_parts):
    monkeypatch.setattr(precomputed, "_LIMIT", 20)
    n = 3000  # three minishards
    table = cells(n)
    write(table, tmp_path / "cells.parquet")
    out = tmp_path / "out.precomputed"
    export_table(tmp_path / "cells.parquet", out)
    reader, found = read_folder(out)
    assert sorted(found) == list(range(n))
    expected = np.stack([table[axis] for axis in "xyz"], axis=1) + 0.5
    np.testing.assert_array_equal([found[i].point for i in range(n)], expected.astype(np.float32))
    assert reader.coordinate_space.names == ("x", "y", "z")
    np.testing.assert_allclose(reader.coordinate_space.scales, np.array(VOXEL_SIZE[::-1]) * 1e-6)
    assert set(reader.coordinate_space.units) == {"m"}
    ids = [p.id for p in reader.properties]
    assert ids == ["z_um", "y_um", "x_um", "size", "source", "background_correction", "truncated"]
    for column, name in enumerate(ids):
        kind = table[name].dtype
        stored = [found[i].props[column] for i in range(n)]
        np.testing.assert_array_equal(stored, table[name].astype(np.float32 if kind == np.float64 else kind))
    for i in (0, 1, 1023, 1024, n - 1):  # and one by one, from the shard
        np.testing.assert_array_equal(reader.by_id[i].point, expected[i].astype(np.float32))
        assert reader.by_id[i].props[3] == table["size"][i]
    # a box holds what lies in it
    box = list(reader.get_within_spatial_bounds(lower_bound=(100, 50, 10), upper_bound=(300, 200, 30)))
    inside = ((expected >= (100, 50, 10)) & (expected <= (300, 200, 30))).all(axis=1)
    assert {int(a.id) for a in box} == set(np.flatnonzero(inside))


def test_neuroglancer_index_keeps_its_rules(tmp_path, monkeypatch):
    monkeypatch.setattr(precomputed, "_LIMIT", 20)
    write(cells(2000), tmp_path / "cells.parquet")
    export_table(tmp_path / "cells.parquet", tmp_path / "out")
    info = json.loads((tmp_path / "out" / "info").read_text())
    assert info["@type"] == "neuroglancer_annotations_v1"
    extent = np.subtract(info["upper_bound"], info["lower_bound"])
    assert len(info["spatial"]) > 2
    assert info["spatial"][0]["grid_shape"] == [1, 1, 1]
    before = None
    for level in info["spatial"]:
        np.testing.assert_allclose(np.multiply(level["grid_shape"], level["chunk_size"]), extent)
        if before is not None:
            assert set(np.divide(before, level["chunk_size"])) <= {1.0, 2.0}
        before = level["chunk_size"]
        for path in (tmp_path / "out" / level["key"]).iterdir():
            cell = np.array(path.name.split("_"), int)
            count = int.from_bytes(path.read_bytes()[:8], "little")
            assert 0 < count <= level["limit"] <= 20
            assert (cell < level["grid_shape"]).all()
    # a long thin chunk is halved along its long axis first
    assert info["spatial"][1]["grid_shape"] != [2, 2, 2]


def test_neuroglancer_bytes_are_those_of_its_writer(tmp_path):
    writer_module = pytest.importorskip("neuroglancer.write_annotations")
    from neuroglancer import AnnotationPropertySpec, CoordinateSpace

    table = cells(30)
    write(table, tmp_path / "cells.parquet")
    export_table(tmp_path / "cells.parquet", tmp_path / "ours")
    info = json.loads((tmp_path / "ours" / "info").read_text())
    writer = writer_module.AnnotationWriter(
        CoordinateSpace(names=["x", "y", "z"], units="m", scales=[2.5e-6, 1.62e-6, 6e-6]),
        "point",
        properties=[AnnotationPropertySpec(id=p["id"], type=p["type"]) for p in info["properties"]],
    )
    for row in range(30):
        point = [table[axis][row] + 0.5 for axis in "xyz"]
        writer.add_point(point, row, **{p["id"]: table[p["description"]][row] for p in info["properties"]})
    writer.write(tmp_path / "theirs")
    theirs = (tmp_path / "theirs" / "spatial0" / "0_0_0").read_bytes()
    ours = (tmp_path / "ours" / "spatial0" / "0_0_0").read_bytes()
    assert len(ours) == len(theirs)

    def by_id(data):  # order within a cell is free
        size = (len(data) - 8) // 30 - 8
        return {data[8 + 30 * size + 8 * i :][:8]: data[8 + size * i :][:size] for i in range(30)}

    assert by_id(ours) == by_id(theirs)
    their_info = json.loads((tmp_path / "theirs" / "info").read_text())
    for name in ("@type", "dimensions", "relationships"):
        assert info[name] == their_info[name]
    assert info["annotation_type"] == their_info["annotation_type"].upper()


def test_neuroglancer_of_many_points_in_one_place(tmp_path, monkeypatch):
    monkeypatch.setattr(precomputed, "_LIMIT", 5)
    write({axis: np.full(40, 3.0) for axis in "zyx"}, tmp_path / "cells.parquet")
    export_table(tmp_path / "cells.parquet", tmp_path / "out")
    _, found = read_folder(tmp_path / "out")
    assert sorted(found) == list(range(40))


def test_neuroglancer_names_and_types(tmp_path):
    table = {axis: np.arange(3.0) for axis in "zyx"} | {
        "Größe (vx)": np.array([1, 2, 3]),
        "size": np.array([-1, 0, 2**40]),
        "signed": np.array([-1, 0, 5], np.int16),
        "size (a)": np.zeros(3),
        "size [a]": np.zeros(3),
        "1st": np.zeros(3),
        "text": np.array(["a", "b", "c"]),
        "point": np.array([True, False, True]),
    }
    write_table(table, tmp_path / "cells.parquet")
    export_table(tmp_path / "cells.parquet", tmp_path / "out")
    info = json.loads((tmp_path / "out" / "info").read_text())
    assert [p["type"] for p in info["properties"]] == ["int32", "float32", "int32", *["float32"] * 3, "uint8"]
    ids = [p["id"] for p in info["properties"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[a-z][a-zA-Z0-9_]*", name) for name in ids)
    assert info["dimensions"] == {"x": [1, ""], "y": [1, ""], "z": [1, ""]}
    _, found = read_folder(tmp_path / "out")
    assert found[2].props[1] == 2**40


# ---------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("name", ["out.npy", "out.xml", "out.csv", "out.parquet", "out.precomputed"])
def test_empty_tables(tmp_path, name):
    write({n: c[:0] for n, c in cells(1).items()}, tmp_path / "cells.parquet")
    assert export_table(tmp_path / "cells.parquet", tmp_path / name) == 0
    if name != "out.precomputed":
        assert read_points(tmp_path / name).shape == (0, 3)
    else:
        assert read_folder(tmp_path / name)[1] == {}


@pytest.mark.parametrize("name", ["out.npy", "out.xml", "out.csv", "out.parquet", "out.precomputed"])
def test_existing_output(tmp_path, name):
    write(cells(5), tmp_path / "cells.parquet")
    out = tmp_path / name
    export_table(tmp_path / "cells.parquet", out)
    with pytest.raises(OutputError, match=f"{name}: exists.*--overwrite"):
        export_table(tmp_path / "cells.parquet", out)
    write(cells(9), tmp_path / "cells.parquet")
    assert export_table(tmp_path / "cells.parquet", out, overwrite=True) == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["cells.parquet", name])


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    write(cells(5), tmp_path / "cells.parquet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputError, match="data: is no folder of annotations"):
        export_table(tmp_path / "cells.parquet", tmp_path / "data", "neuroglancer", overwrite=True)
    assert (tmp_path / "data" / "thesis.txt").exists()
    with pytest.raises(OutputError, match="is a folder"):
        export_table(tmp_path / "cells.parquet", tmp_path / "data", "clearmap", overwrite=True)
    with pytest.raises(OutputError, match="is the table itself"):
        export_table(tmp_path / "cells.parquet", tmp_path / "cells.parquet", overwrite=True)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, format_):
    write(cells(5), tmp_path / "cells.parquet")
    out = tmp_path / {"csv": "out.csv", "parquet": "out.parquet"}.get(format_, "out")
    export_table(tmp_path / "cells.parquet", out, format_)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        export_table(tmp_path / "cells.parquet", out, format_, overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_runs_are_exported_beside_their_table(tmp_path):
    write(cells(5), tmp_path / "cells.parquet")
    paths = export_run(tmp_path, ["clearmap", "cellfinder", "napari", "neuroglancer"])
    assert [p.name for p in paths] == list(RUN_FILES.values())
    assert all(p.exists() for p in paths)
    with pytest.raises(ConfigError, match="'imaris' is not known: give one of clearmap"):
        export_run(tmp_path, ["imaris"])
    with pytest.raises(ConfigError, match="written by every run"):
        export_run(tmp_path, ["csv"])


def test_mistakes(tmp_path):
    write(cells(5), tmp_path / "cells.parquet")
    with pytest.raises(ConfigError, match=r"out\.txt: \.txt does not tell the format; add --format"):
        export_table(tmp_path / "cells.parquet", tmp_path / "out.txt")
    with pytest.raises(ConfigError, match="give the file that ending"):
        export_table(tmp_path / "cells.parquet", tmp_path / "out.txt", "csv")
    with pytest.raises(VolumeError, match="no such file"):
        export_table(tmp_path / "none.parquet", tmp_path / "out.xml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VolumeError, match=r"holds no cells\.parquet"):
        export_table(tmp_path / "empty", tmp_path / "out.xml")
    write_table({"y": np.zeros(2)}, tmp_path / "y.csv")
    with pytest.raises(VolumeError, match=r"y\.csv: no column 'z'"):
        export_table(tmp_path / "y.csv", tmp_path / "out.xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.parquet", "empty", "y.csv"]


def test_a_row_without_position_is_named_by_its_row_in_the_whole_table(tmp_path, small_parts):
    table = cells(30)
    table["y"][22] = np.nan
    write(table, tmp_path / "cells.parquet")
    with pytest.raises(VolumeError, match="row 23 has no position"):
        export_table(tmp_path / "cells.parquet", tmp_path / "out.xml")


@pytest.mark.parametrize("kind", FORMATS)
def test_names_in_bytes_as_clearmap_writes_them(tmp_path, small_parts, kind):
    rows = np.zeros(20, [("x", float), ("y", float), ("z", float), ("source", "f4"), ("name", "S256")])
    rows["x"], rows["name"][17] = np.arange(20), b"Caudoputamen"
    np.save(tmp_path / "in.npy", rows)
    ending = {"clearmap": ".npy", "cellfinder": ".xml", "parquet": ".parquet", "neuroglancer": ""}.get(kind, ".csv")
    out = tmp_path / f"out{ending}"
    assert export_table(tmp_path / "in.npy", out, kind) == 20
    if kind in ("csv", "parquet"):
        assert read_table(out)[0]["name"].tolist() == [""] * 17 + ["Caudoputamen", "", ""]
    if kind == "napari":
        assert ",Caudoputamen\n" in out.read_text()


def test_what_is_no_table(tmp_path):
    with pytest.raises(VolumeError, match="nofolder: no such file"):
        export_table(tmp_path / "nofolder", tmp_path / "a.csv")
    (tmp_path / "file").touch()
    with pytest.raises(VolumeError, match="no suffix is no kind of table"):
        export_table(tmp_path / "file", tmp_path / "a.csv")
    np.save(tmp_path / "a.npy", np.float64(1))
    with pytest.raises(VolumeError, match="not rows with named columns"):
        export_table(tmp_path / "a.npy", tmp_path / "a.csv")
    np.save(tmp_path / "b.npy", np.zeros(2, [(axis, float) for axis in "xyz"] + [("odd", "c16")]))
    with pytest.raises(VolumeError, match="column 'odd' holds complex128"):
        export_table(tmp_path / "b.npy", tmp_path / "a.csv")
