import json

import pytest

from cytolith.atlas.hierarchy import Hierarchy
from cytolith.errors import VolumeError
from cytolith.io.structures import Structure, read_structures

EXPECTED = [
    Structure(997, "root", "root"),
    Structure(8, "Basic cell groups, regions", "grey", (997,)),
    Structure(614454277, "Supraoculomotor périaqueductal", "SUp", (997, 8)),
]


def test_allen_csv_with_paths_or_parents(tmp_path):
    path = tmp_path / "allen.csv"
    path.write_text(
        "id,atlas_id,name,acronym,parent_structure_id,structure_id_path\n997,,root,root,,/997/\n"
        '8,0,"Basic cell groups, regions",grey,997,/997/8/\n'
        "614454277,,Supraoculomotor périaqueductal,SUp,8,/997/8/614454277/\n",
        encoding="utf-8",
    )
    assert read_structures(path) == EXPECTED
    rows = [line.rsplit(",", 1)[0] for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    found = read_structures(path)
    assert [each.ancestors for each in found] == [(), (997,), (8,)]
    assert Hierarchy(found).line(614454277) == Hierarchy(EXPECTED).line(614454277) == (614454277, 8, 997)


def test_json_of_brainglobe_and_allen(tmp_path):
    flat = [
        {"id": each.id, "name": each.name, "acronym": each.acronym, "rgb_triplet": [1, 2, 3],
         "structure_id_path": [*each.ancestors, each.id]}
        for each in EXPECTED
    ]  # fmt: skip
    path = tmp_path / "structures.json"
    path.write_text(json.dumps(flat), encoding="utf-8")
    assert read_structures(path) == EXPECTED
    node = None
    for each in reversed(EXPECTED):
        node = {"id": each.id, "name": each.name, "acronym": each.acronym, "children": [node] if node else []}
    path.write_text(json.dumps({"success": True, "msg": [node]}), encoding="utf-8")
    assert read_structures(path) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name\nroot\n", "no id"),
        ("a.csv", "id,name\n1.5,a\n", "no id"),
        ("a.csv", "id,name\n1,a\n1,b\n", "twice"),
        ("a.csv", "id,name\n", "lists no regions"),
        ("a.csv", "id,name,structure_id_path\n1,a,/1/2/1/\n", "part of itself"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "[1, 2]", "where a region"),
        ("a.json", "[]", "lists no regions"),
        ("a.txt", "1 a\n", "no kind of table"),
    ],
)
def test_mistakes_are_named(name, text, message, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(VolumeError, match=message):
        read_structures(path)


def test_missing_file_and_circles(tmp_path):
    for name in ("a.json", "a.csv"):
        with pytest.raises(VolumeError, match="no such file"):
            read_structures(tmp_path / name)
    with pytest.raises(VolumeError, match="parts of each other"):
        Hierarchy([Structure(1, ancestors=(2,)), Structure(2, ancestors=(1,))])
