"""Scores by region, the tables, and what positions are compared."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cytolith.errors import ConfigError, VolumeError
from cytolith.io.tables import write_table
from cytolith.score.outcome import score
from cytolith.score.positions import Positions, read_positions
from cytolith.score.regions import labels_at, parse_box, parse_boxes, read_region_names


def positions(points, **kwargs):
    return Positions("points", np.array(points, float).reshape(-1, 3), **kwargs)


FOUND = positions(
    [[0, 0, 0], [0, 0, 10], [0, 0, 21], [5, 5, 5], [9, 9, 9]],
    columns={"size": np.arange(5), "region": np.array(["a", "b", "c", "d", "e"]), "truncated": np.arange(5) > 3},
)
REAL = positions([[0, 0, 1], [0, 0, 20], [7, 7, 7], [0, 3, 10]])


def test_by_hand():
    # pairs: 0-0 (1), 1-3 (3), 2-1 (1); alone: found 3 and 4, real 2
    outcome = score(FOUND, REAL, 3)
    assert outcome.matching.pairs.tolist() == [[0, 0], [1, 3], [2, 1]]
    assert outcome.summary() == {
        "detections": "points",
        "annotations": "points",
        "tolerance": "3",
        "voxel_size_um": None,
        "distances_in": "voxel",
        "precision": 0.6,
        "recall": 0.75,
        "f1": pytest.approx(2 / 3),
        "mean_distance": pytest.approx(5 / 3),
        "matched": 3,
        "only_detected": 2,
        "only_annotated": 1,
        "regions": [],
    }


def test_boxes():
    # the annotation decides: found 2 at x = 21 is paired with real 1 at x = 20
    boxes = parse_boxes(["left=:,:,0:21", "right=0:100,:,21:", "none=50:60,:,:"])
    outcome = score(FOUND, REAL, 3, boxes=boxes)
    counts = {
        name: (each.true_positives, each.false_positives, each.false_negatives)
        for name, each in outcome.regions.items()
    }
    assert counts == {"left": (3, 2, 1), "right": (0, 0, 0), "none": (0, 0, 0), "regions together": (3, 2, 1)}
    assert outcome.regions["right"].f1 == 1
    table = outcome.score_table()
    assert table["region"].tolist() == ["all", "left", "right", "none", "regions together"]
    assert table["matched"].tolist() == [3, 3, 0, 0, 3]
    assert math.isnan(table["mean_distance"][2])
    json.dumps(outcome.summary(), allow_nan=False)


def test_boxes_may_overlap_and_count_once_together():
    outcome = score(FOUND, REAL, 3, boxes=parse_boxes(["a=:,:,0:15", "b=:,:,5:"]))
    together = outcome.regions["regions together"]
    assert (together.true_positives, together.false_positives, together.false_negatives) == (3, 2, 1)
    assert outcome.regions["a"].true_positives + outcome.regions["b"].true_positives == 4


def test_a_position_lies_in_the_nearest_voxel():
    box = parse_box("1:3,:,:")
    z = [0.49, 0.5, 2.49, 2.5]
    assert box.holds(np.array([[value, 0, 0] for value in z])).tolist() == [False, True, True, False]
    labels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1)
    assert labels_at(labels, np.array([[value, 0.2, -0.2] for value in [*z, -0.6, 3.5, 3.4]])).tolist() == [
        0, 1, 2, 3, 0, 0, 3,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "a", "1:2,3:4", "a=1:2,3:4", "a=3:3,:,:", "a=1:2,3:4,5", "=1:2,:,:", "a=-1:2,:,:", "a=x:2,:,:"]
)
def test_boxes_that_are_none(text):
    with pytest.raises(ConfigError, match="--region"):
        parse_box(text)


def test_the_same_name_twice():
    with pytest.raises(ConfigError, match="'a' is given 2 times"):
        parse_boxes(["a=:,:,1:2", "a=:,:,2:3"])


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 40), m=st.integers(0, 40))
def test_labels_against_brute_force(seed, n, m):
    rng = np.random.default_rng(seed)
    shape = 6, 7, 8
    labels = rng.choice([0, 4, 9, 2**31], shape).astype(np.uint32)
    found, real = (rng.uniform(-1, 8, (count, 3)) for count in (n, m))
    outcome = score(positions(found), positions(real), 2.0, labels=labels, label_names={4: "µ", 9: "µ"})

    def label(point):
        voxel = tuple(math.floor(c + 0.5) for c in point)
        inside = all(0 <= v < extent for v, extent in zip(voxel, shape, strict=True))
        return int(labels[voxel]) if inside else 0

    distances = np.linalg.norm(found[:, None] - real[None], axis=2).reshape(n, m)
    rows, columns = linear_sum_assignment(np.where(distances <= 2, distances, 1e3))
    near = distances[rows, columns] <= 2
    names = {0: "outside", 4: "µ", 9: "µ (9)", 2**31: str(2**31)}
    paired = outcome.matching.pairs
    assert len(paired) == near.sum()
    alone = set(range(n)) - set(paired[:, 0])
    for value, name in names.items():
        expected = (
            sum(label(real[j]) == value for _, j in paired),
            sum(label(found[i]) == value for i in alone),
            sum(label(real[j]) == value for j in set(range(m)) - set(paired[:, 1])),
        )
        each = outcome.regions.get(name)
        if name == "µ (9)" and each is None:  # alone it keeps its name
            each = outcome.regions.get("µ") if 4 not in map(label, [*found, *real]) else None
        elif name == "µ" and 4 not in map(label, [*found, *real]):
            continue
        if each is None:
            assert expected == (0, 0, 0)
        else:
            assert (each.true_positives, each.false_positives, each.false_negatives) == expected


def test_labels_of_another_shape():
    found = positions([[0, 0, 0]], shape=(4, 5, 6))
    with pytest.raises(ConfigError, match=r"has the shape \(4, 5, 7\), the run's volume \(4, 5, 6\)"):
        score(found, found, 1, labels=np.zeros((4, 5, 7), np.uint8))
    with pytest.raises(ConfigError, match="not both"):
        score(found, found, 1, labels=np.zeros((4, 5, 6), np.uint8), boxes=[parse_box(":,:,:")])


def test_region_names(tmp_path):
    (tmp_path / "names.csv").write_text("acronym,ID,Name\nA,3,Größe\nB,614454277,b\n", encoding="utf-8")
    assert read_region_names(tmp_path / "names.csv") == {3: "Größe", 614454277: "b"}
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(VolumeError, match=r"other\.csv: .*columns id .*it has a, b"):
        read_region_names(tmp_path / "other.csv")


def test_every_match_miss_and_false_alarm_has_a_row():
    table = score(FOUND, REAL, 3, boxes=[parse_box("L=:,:,0:15")]).match_table()
    assert table["outcome"].tolist() == ["hit", "hit", "hit", "false alarm", "miss", "false alarm"]
    assert table["detection"].tolist() == [0, 1, 2, 3, -1, 4]
    assert table["annotation"].tolist() == [0, 3, 1, -1, 2, -1]
    assert table["x"].tolist() == [0, 10, 21, 5, 7, 9]
    np.testing.assert_array_equal(table["annotation_y"], [0, 3, 0, np.nan, 7, np.nan])
    np.testing.assert_array_equal(table["distance"], [1, 3, 1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(table["size"], [0, 1, 2, 3, np.nan, 4])
    assert table["region"].tolist() == ["L", "L", "", "L", "L", "L"]
    assert table["detection_region"].tolist() == ["a", "b", "c", "d", "", "e"]


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 2), (2, 0)])
def test_nothing_to_match(n, m):
    points = np.arange(6.0).reshape(2, 3)
    found = positions(points[:n], columns={"size": np.arange(n), "name": np.array(["x", "y"][:n], str)})
    outcome = score(found, positions(points[:m]), 3, labels=np.ones((9, 9, 9), np.uint8))
    table = outcome.match_table()
    assert len(table["outcome"]) == n + m
    assert len(table["size"]) == len(table["name"]) == n + m
    assert outcome.summary()["mean_distance"] is None
    assert list(outcome.regions) == (["1"] if n + m else [])


# ---------------------------------------------------------------------------------------------- units


def test_voxel_size_is_that_of_the_run():
    found = positions([[1, 0, 0], [0, 4, 0]], voxel_size=(6, 2, 2))
    real = positions([[0, 0, 0], [0, 0, 0]])
    assert score(found, real, "8 um").matching.true_positives == 2
    assert score(found, real, "7 um").matching.true_positives == 1
    assert score(found, real, "7 um", (8, 1, 1)).matching.true_positives == 1
    assert score(found, real, "8 um").unit == "um"
    assert score(found, real, 1).matching.true_positives == 1  # voxels
    with pytest.raises(ConfigError, match=r"--tolerance 8 um: the voxel size is unknown; add --voxel-size"):
        score(real, real, "8 um")


def test_columns_in_micrometres_win_where_both_have_them():
    # annotated at half the resolution: voxels differ, micrometres agree
    found = positions([[10, 20, 30]], um=np.array([[60.0, 40, 60]]), voxel_size=(6, 2, 2))
    real = positions([[5, 10, 15]], um=np.array([[60.0, 40, 61]]), voxel_size=(12, 4, 4))
    outcome = score(found, real, "2 um")
    assert outcome.matching.distances.tolist() == [1]
    np.testing.assert_allclose(outcome.real, [[10, 20, 30.5]])
    assert score(found, real, "2 um", (6, 2, 2)).matching.true_positives == 0  # what is given is believed
    only = Positions("um", None, um=np.array([[60.0, 40, 61]]))
    assert score(found, only, "2 um").matching.true_positives == 1
    assert score(positions([[10, 20, 30]], voxel_size=(6, 2, 2)), only, "2 um").matching.true_positives == 1
    with pytest.raises(VolumeError, match="micrometres only; add --voxel-size"):
        score(only, only, 3)


# ---------------------------------------------------------------------------------------------- files


def run_folder(tmp_path, voxel_size=(6.0, 2.0, 2.0)):
    table = {"z": np.array([1.0]), "y": np.array([2.0]), "x": np.array([3.0]), "size": np.array([9])}
    write_table(table, tmp_path / "cells.parquet", {"voxel_size_um": json.dumps(voxel_size)})
    write_table(table, tmp_path / "cells.csv")
    source = {"source": "brain.tif", "shape": [4, 5, 6], "voxel_size_um": list(voxel_size)}
    (tmp_path / "run.json").write_text(json.dumps({"input": source}))


def test_a_run_says_what_it_read(tmp_path):
    run_folder(tmp_path)
    for path in (tmp_path, tmp_path / "cells.parquet", tmp_path / "cells.csv"):
        read = read_positions(path)
        assert read.voxels.tolist() == [[1, 2, 3]]
        assert (read.voxel_size, read.source, read.shape) == ((6, 2, 2), "brain.tif", (4, 5, 6))
        assert list(read.columns) == ["size"]
    (tmp_path / "run.json").write_text("{")
    assert read_positions(tmp_path / "cells.csv").voxel_size is None


def test_a_run_that_has_not_finished(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(VolumeError, match=r"holds no cells\.parquet"):
        read_positions(tmp_path)


def test_micrometres_only(tmp_path):
    (tmp_path / "a.csv").write_text("z_um,y_um,x_um\n6,4,2\n")
    read = read_positions(tmp_path / "a.csv")
    assert read.voxels is None
    assert read.in_voxels((6, 2, 2)).tolist() == [[1, 2, 1]]
    (tmp_path / "b.csv").write_text("z_um,y_um,x_um\n6,4,2\n6,,2\n")
    with pytest.raises(VolumeError, match="row 2 has no position"):
        read_positions(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("a,b\n6,4\n")
    with pytest.raises(VolumeError, match="no column 'z'"):
        read_positions(tmp_path / "c.csv")
