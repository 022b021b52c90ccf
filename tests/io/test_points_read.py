"""Positions from files of other tools."""

import numpy as np
import pytest

from cytolith.errors import VolumeError
from cytolith.io.points.markers import take_markers
from cytolith.io.tables import read_points


def markers(kinds, image="placeholder.tif", head='<?xml version="1.0" encoding="UTF-8"?>\n'):
    """As the tools write it; kinds: positions (x, y, z) by type."""
    types = "".join(
        f"<Marker_Type>\n <Type>{kind}</Type>\n <Name>Type {kind}</Name>\n"
        + "".join(
            f" <Marker>\n  <MarkerX>{x}</MarkerX>\n  <MarkerY>{y}</MarkerY>\n  <MarkerZ> {z} </MarkerZ>\n </Marker>\n"
            for x, y, z in points
        )
        + "</Marker_Type>\n"
        for kind, points in kinds.items()
    )
    return (
        f"{head}<CellCounter_Marker_File>\n<Image_Properties><Image_Filename>{image}</Image_Filename>"
        f"<X_Calibration>1.0</X_Calibration></Image_Properties>\n<Marker_Data><Current_Type>1</Current_Type>\n"
        f"{types}</Marker_Data>\n</CellCounter_Marker_File>\n"
    )


def test_cellfinder_takes_its_cells(tmp_path):
    path = tmp_path / "zellen µ.xml"
    path.write_text(markers({1: [(9, 9, 9)], 2: [(1, 2, 3), (4, 5, 6)]}), encoding="utf-8")
    points = read_points(path)
    assert points.dtype == np.float64
    assert points.tolist() == [[3, 2, 1], [6, 5, 4]]
    assert read_points(path, 1).tolist() == [[9, 9, 9]]
    with pytest.raises(VolumeError, match=r"no markers of type 7; its types: 1 \(1 markers\), 2 \(2 markers\)"):
        read_points(path, 7)


def test_cellfinder_that_rejected_all(tmp_path):
    (tmp_path / "a.xml").write_text(markers({1: [(1, 2, 3)], 2: []}))
    assert read_points(tmp_path / "a.xml").shape == (0, 3)
    assert take_markers(tmp_path / "a.xml")[1] == []
    assert read_points(tmp_path / "a.xml", 1).tolist() == [[3, 2, 1]]


@pytest.mark.parametrize(
    ("kinds", "points", "note"),
    [
        ({1: [(1, 2, 3)]}, [[3, 2, 1]], "no type 2; took type 1 "),
        ({3: [(1, 2, 3)], 1: [(4, 5, 6)]}, [[3, 2, 1], [6, 5, 4]], "no type 2; took types 1 and 3 "),
        ({1: []}, [], None),
        ({}, [], None),
    ],
)
def test_cellfinder_without_its_type_of_cells(tmp_path, kinds, points, note):
    (tmp_path / "a.xml").write_text(markers(kinds))
    taken, notes = take_markers(tmp_path / "a.xml")
    assert taken.tolist() == points
    assert [each.startswith(note) for each in notes] == ([True] if note else [])
    assert read_points(tmp_path / "a.xml").tolist() == points
    (tmp_path / "a.xml").write_text(markers(kinds, image="of mine.tif"))
    assert take_markers(tmp_path / "a.xml")[1] == []


def test_cell_counter_counts_slices_from_1_and_takes_all_types(tmp_path):
    kinds = {1: [(10, 20, 1)], 2: [], 3: [(1.5, 2, 7)], **{kind: [] for kind in range(4, 9)}}
    (tmp_path / "a.xml").write_text(markers(kinds, image="Überblick &amp; more.tif"), encoding="utf-8")
    assert read_points(tmp_path / "a.xml").tolist() == [[0, 20, 10], [6, 2, 1.5]]
    assert read_points(tmp_path / "a.xml", 3).tolist() == [[6, 2, 1.5]]
    assert read_points(tmp_path / "a.xml", 2).shape == (0, 3)


def test_other_encodings(tmp_path):
    head = '<?xml version="1.0" encoding="UTF-16"?>\n'
    (tmp_path / "a.xml").write_text(markers({1: [(1, 2, 3)]}, "ö.tif", head), encoding="utf-16")
    assert read_points(tmp_path / "a.xml").tolist() == [[2, 2, 1]]


LAUGHS = '<!DOCTYPE lolz [\n<!ENTITY lol "lol">\n' + "".join(
    f'<!ENTITY lol{n} "{f"&lol{n - 1};" * 10}">\n' for n in range(1, 10)
).replace("&lol0;", "&lol;")


@pytest.mark.parametrize(
    "doctype",
    [
        LAUGHS + "]>\n",
        '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]>\n',
        '<!DOCTYPE x SYSTEM "http://example.org/evil.dtd">\n',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "evil.dtd"> %p;]>\n',
    ],
)
def test_document_types_are_refused(tmp_path, doctype):
    text = markers({1: [(1, 2, "&lol9;" if "lol" in doctype else 3)]}, head=f'<?xml version="1.0"?>\n{doctype}')
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(VolumeError, match=r"a\.xml: has a document type \(DOCTYPE\)") as caught:
        read_points(tmp_path / "a.xml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no whole XML: no element found"),
        (markers({1: [(1, 2, 3)]})[:-40], "no whole XML"),
        ("\x93NUMPY", "no whole XML"),
        ("<html><body/></html>", "is XML of 'html'"),
        (markers({1: [(1, 2, "&other;")]}), "no whole XML: undefined entity"),
        (markers({1: [(1, 2, "x")]}), "line 11: MarkerZ 'x' is not a number"),
        (markers({1: [(1, 2, "nan")]}), "MarkerZ 'nan' is not a number"),
        (markers({"cell": [(1, 2, 3)]}), "Type 'cell' is not a number"),
        (markers({1: [(1, 2, 3)]}).replace("MarkerY", "MarkerQ"), "line 12: a marker without MarkerY"),
        (markers({1: [(1, 2, 3)]}).replace("Type>", "Kind>"), "a marker without a type"),
    ],
)
def test_xml_that_is_wrong(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text, encoding="latin-1")
    with pytest.raises(VolumeError, match=rf"a\.xml: .*{message}") as caught:
        read_points(tmp_path / "a.xml")
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(VolumeError, match="no such file"):
        read_points(tmp_path / "a.xml")
    (tmp_path / "b.xml").mkdir()
    with pytest.raises(VolumeError, match="cannot be read"):
        read_points(tmp_path / "b.xml")


def test_types_are_for_xml(tmp_path):
    (tmp_path / "a.csv").write_text("z,y,x\n1,2,3\n")
    with pytest.raises(VolumeError, match=r"it is for \.xml"):
        read_points(tmp_path / "a.csv", 2)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, ">u2"])
def test_clearmap_1(tmp_path, dtype):
    np.save(tmp_path / "cells.npy", np.array([[1, 2, 3], [4, 5, 6]], dtype))
    points = read_points(tmp_path / "cells.npy")
    assert points.tolist() == [[3, 2, 1], [6, 5, 4]]
    assert points.flags.c_contiguous


def test_clearmap_2(tmp_path):
    rows = np.array([(1, 2, 3, 40, 9.0)], [(n, "i8") for n in ("x", "y", "z", "size")] + [("source", "f8")])
    np.save(tmp_path / "cells.npy", rows)
    assert read_points(tmp_path / "cells.npy").tolist() == [[3, 2, 1]]


@pytest.mark.parametrize("array", [np.zeros((3, 4)), np.zeros(3), np.zeros((2, 3), complex), np.array([["a"] * 3])])
def test_arrays_that_are_no_positions(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(VolumeError, match=r"a\.npy: an array of .*positions are rows of x, y, z"):
        read_points(tmp_path / "a.npy")


def test_positions_that_are_not_finite(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2, 3], [4, np.nan, 6]]))
    with pytest.raises(VolumeError, match="row 2 has no position"):
        read_points(tmp_path / "a.npy")
