import json

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.atlas import placement
from cytolith.atlas.positions import cells_of
from cytolith.atlas.regions import count_regions, mismatch
from cytolith.errors import ConfigError, VolumeError
from cytolith.io.label_volume import label_volume
from cytolith.io.structures import Structure
from cytolith.io.tables import write_table

TREE = [
    Structure(997, "root, all of it", "root"),
    Structure(8, "grey matter", "grey", (997,)),
    Structure(614454277, "cortex", "CTX", (997, 8)),
    Structure(16777217, "left of it", "L", (8,)),
    Structure(5, "nowhere", "N", (997,)),
]
PARENTS = {8: 997, 614454277: 8, 16777217: 8, 5: 997}
IDS = np.array([0, 8, 614454277, 16777217, 16777216, 997])


def line(region):
    return [region] if region not in PARENTS else [region, *line(PARENTS[region])]


def brute_force(points, sizes, annotation, edges, offset, sides=None):
    """One cell at a time, in plain Python."""
    result = {}
    for point, size in zip(points, sizes, strict=True):
        voxel = tuple(int(np.floor(v)) for v in (point - np.array(offset)) / edges)
        inside = all(0 <= v < n for v, n in zip(voxel, annotation.shape, strict=True))
        region = int(annotation[voxel]) if inside else 0
        side = int(sides[voxel]) if sides is not None and region else 0
        result.setdefault((region, side), []).append(size)
    return result


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7)),
    edges=st.sampled_from([(25.0, 25.0, 25.0), (10.0, 20.0, 40.0)]),
    offset=st.sampled_from([(0.0, 0.0, 0.0), (-12.0, 30.0, 5.0)]),
    seed=st.integers(0, 999),
    count=st.integers(0, 60),
    halves=st.booleans(),
    voxels=st.sampled_from([1, 30, 10**6]),
)
def test_equals_brute_force(shape, edges, offset, seed, count, halves, voxels):
    rng = np.random.default_rng(seed)
    annotation = rng.choice(IDS, shape).astype(np.uint32)
    sides = rng.integers(1, 3, shape).astype(np.uint8) if halves else None
    points = rng.uniform(-0.2, 1.2, (count, 3)) * np.array(shape) * edges
    sizes = rng.integers(1, 90, count)
    columns = dict(zip(("z_um", "y_um", "x_um"), points.T, strict=True)) | {"size": sizes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "BOX_VOXELS", voxels)
        table = count_regions(columns, annotation, names=TREE, voxel_size=edges, offset=offset, hemispheres=sides)
    expected = brute_force(points, sizes, annotation, edges, offset, sides)
    keys = list(
        zip(table["id"].tolist(), table.get("hemisphere", np.zeros(len(table["id"]), int)).tolist(), strict=True)
    )
    assert len(set(keys)) == len(keys)
    assert table["cells"].sum() == count
    assert set(expected) <= set(keys)
    assert keys[0] == (0, 0)
    voxel = np.prod(edges) * 1e-9
    for row, (region, side) in enumerate(keys):
        found = expected.get((region, side), [])
        assert table["cells"][row] == len(found)
        mean = table["mean_size"][row]
        assert mean == pytest.approx(np.mean(found)) if found else np.isnan(mean)
        where = annotation == region
        if sides is not None and region:
            where &= sides == side
        assert table["volume_mm3"][row] == pytest.approx(where.sum() * voxel)
        if region and where.any():
            assert table["cells_per_mm3"][row] == pytest.approx(len(found) / (where.sum() * voxel))
        else:
            assert np.isnan(table["cells_per_mm3"][row])
        below = [k for k in expected if k[1] == side and (region in line(k[0]) if region else k == (0, 0))]
        assert table["cells_with_children"][row] == sum(len(expected[k]) for k in below)
        if below:
            assert table["mean_size_with_children"][row] == pytest.approx(
                np.mean([size for k in below for size in expected[k]])
            )
        part = np.isin(annotation, [i for i in IDS if region in line(int(i))]) if region else annotation == 0
        if sides is not None and region:
            part &= sides == side
        assert table["volume_mm3_with_children"][row] == pytest.approx(part.sum() * voxel)


def test_names_and_order():
    annotation = np.array([[[0, 614454277, 16777216, 16777217, 3]]], np.uint32)
    table = count_regions([[5, 5, 25], [5, 5, 26]], annotation, names=TREE, voxel_size=(10, 10, 10))
    assert table["id"].tolist() == [0, 997, 8, 614454277, 16777217, 3, 16777216]
    assert table["name"].tolist() == [
        "outside", "root, all of it", "grey matter", "cortex", "left of it", "unknown", "unknown",
    ]  # fmt: skip
    assert table["acronym"].tolist() == ["outside", "root", "grey", "CTX", "L", "", ""]
    assert table["cells"].tolist() == [0, 0, 0, 0, 0, 0, 2]
    plain = count_regions([[5, 5, 15]], annotation, voxel_size=(10, 10, 10))
    assert list(plain) == ["id", "name", "cells", "volume_mm3", "cells_per_mm3"]


def test_missing_measures_are_left_out_of_means():
    columns = {"z_um": np.zeros(3), "y_um": np.zeros(3), "x_um": np.zeros(3), "source": np.array([1.0, np.nan, 4.0]),
               "truncated": np.array([True, False, False])}  # fmt: skip
    table = count_regions(columns, np.ones((1, 1, 1), np.uint8), voxel_size=(1, 1, 1))
    assert table["mean_source"][1] == 2.5
    assert "mean_truncated" not in table


def test_voxel_size_of_the_annotation(tmp_path):
    (tmp_path / "run").mkdir()
    write_table({"z": np.array([1.0]), "y": np.array([2.0]), "x": np.array([3.0])}, tmp_path / "run" / "cells.parquet")
    record = {"state": "finished", "input": {"shape": [4, 5, 6], "voxel_size_um": [6, 2, 2]}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    annotation = np.zeros((4, 5, 6), np.uint16)
    annotation[1, 2, 3] = 7
    # the same extents in voxels: the same voxels
    assert count_regions(tmp_path / "run", annotation)["cells"].tolist() == [0, 1]
    with pytest.raises(ConfigError, match="--voxel-size"):
        count_regions(tmp_path / "run", annotation[:3])
    with pytest.raises(ConfigError, match="hemispheres"):
        count_regions(tmp_path / "run", annotation, hemispheres=annotation[:3])
    cells = cells_of(tmp_path / "run")
    assert mismatch(cells, label_volume(annotation), (6, 2, 2)) == ""
    assert "24 x 50 x 12 um" in mismatch(cells, label_volume(annotation), (6, 10, 2))


@pytest.mark.parametrize("kind", ["tif", "compressed tif", "zarr", "npy", "h5"])
def test_large_ids_survive_every_format(kind, tmp_path):
    h5py = pytest.importorskip("h5py")
    ids = np.array([0, 614454277, 16777217, 2**32 - 1, 312782566, 3], np.uint32)
    labels = np.random.default_rng(1).choice(ids, (5, 40, 30))
    path = tmp_path / f"a.{kind.split()[-1]}"
    if kind == "zarr":
        zarr.create_array(path, data=labels, chunks=(2, 16, 16))
    elif kind == "npy":
        np.save(path, labels)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["labels"] = labels
    else:
        tifffile.imwrite(path, labels, compression="zlib" if "compressed" in kind else None)
    volume = label_volume(path)
    np.testing.assert_array_equal(volume.read((slice(1, 4), slice(3, 40), slice(0, 30))), labels[1:4, 3:])
    points = np.argwhere(labels) + 0.5
    table = count_regions(points, path, voxel_size=(1, 1, 1))
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    assert table["id"].tolist() == [0, *values.tolist()]
    assert table["cells"].tolist() == [0, *counts.tolist()]


def test_labels_that_are_no_labels_are_refused():
    whole = (slice(0, 1),) * 3
    for value, dtype, message in [
        (614454277, np.float32, "save it as uint32"),
        (0.5, np.float64, "no whole numbers"),
        (np.nan, np.float32, "no whole numbers"),
        (np.inf, np.float32, "no whole numbers"),
        (2**63, np.uint64, "save it as uint32"),
    ]:
        with pytest.raises(VolumeError, match=message):
            label_volume(np.full((1, 1, 1), value, dtype)).read(whole)
    for value, dtype in [(-7, np.int16), (2**53 + 1, np.int64), (-(2**33), np.float64), (5, np.float32)]:
        assert label_volume(np.full((1, 1, 1), value, dtype)).read(whole).item() == value


def test_boxes_are_whole_chunks_of_bounded_size():
    for shape, chunks in [((528, 320, 456), (1, 1, 456)), ((3000, 9000, 8000), (128, 128, 128)), ((5, 6, 7), None),
                          ((100, 9000, 9000), (1, 9000, 9000)), ((400, 5000, 5000), (64, 64, 64))]:  # fmt: skip
        box = placement.box_shape(shape, chunks)
        chunk = [min(c, s) for c, s in zip(chunks or (1, 1, 1), shape, strict=True)]
        assert np.prod(box) <= max(placement.BOX_VOXELS, np.prod(chunk))
        assert all(b % c == 0 or b == s for b, c, s in zip(box, chunk, shape, strict=True))
