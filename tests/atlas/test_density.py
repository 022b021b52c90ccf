import json

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cytolith.atlas.density import density_map, write_density_map
from cytolith.atlas.positions import cells_of
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.tables import write_table


def brute_force(points, shape, edges, radius_um=None, weights=None):
    """Each voxel looks at each cell."""
    result = np.zeros(shape)
    weights = np.ones(len(points)) if weights is None else weights
    voxels = np.floor(points / np.array(edges))
    inside = ((voxels >= 0) & (voxels < shape)).all(axis=1)
    for index in np.ndindex(*shape):
        if radius_um is None:
            near = (voxels == index).all(axis=1)
        else:
            near = (((voxels - index) * edges / radius_um) ** 2).sum(axis=1) <= 1
        result[index] = weights[inside & near].sum()
    return result


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7)),
    edges=st.sampled_from([(25.0, 25.0, 25.0), (10.0, 20.0, 40.0), (7.5, 5.0, 2.5)]),
    radius=st.sampled_from([None, 20.0, 50.0, 61.3]),
    seed=st.integers(0, 99),
    count=st.integers(0, 30),
)
def test_equals_brute_force(shape, edges, radius, seed, count):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.1, 1.1, (count, 3)) * np.array(shape) * edges
    weights = rng.uniform(-5, 9, count)
    text = None if radius is None else f"{radius} um"
    counts = density_map(points, shape, edges, radius=text)
    assert counts.dtype == np.uint32
    np.testing.assert_array_equal(counts, brute_force(points, shape, edges, radius))
    np.testing.assert_array_equal(density_map(rng.permutation(points), shape, edges, radius=text), counts)
    sums = density_map(points, shape, edges, radius=text, weights=weights)
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, brute_force(points, shape, edges, radius, weights), rtol=1e-6, atol=1e-5)


def test_density_per_mm3_is_that_of_evenly_spread_cells_at_the_faces_too():
    shape, edges = (6, 9, 12), (20.0, 30.0, 15.0)
    centres = (np.argwhere(np.ones(shape)) + 0.5) * edges
    density = density_map(np.repeat(centres, 3, axis=0), shape, edges, radius="50 um", per_mm3=True)
    np.testing.assert_allclose(density, 3 / (20 * 30 * 15 * 1e-9), rtol=1e-6)
    alone = density_map(centres[:1], shape, edges, per_mm3=True)
    assert alone[0, 0, 0] == pytest.approx(1 / (20 * 30 * 15 * 1e-9))
    assert alone.sum() == alone[0, 0, 0]


def test_map_is_the_same_for_any_parts_and_row_groups(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 1, (4000, 3)) * (130, 90, 170)
    points = points[np.argsort(points[:, 0])]
    table = {f"{axis}_um": points[:, number] for number, axis in enumerate("zyx")} | {"source": rng.uniform(0, 9, 4000)}
    monkeypatch.setattr("cytolith.io.table_writer.ROWS_IN_GROUP", 300)
    write_table(table, tmp_path / "cells.parquet")
    cells = cells_of(tmp_path / "cells.parquet")
    assert len(cells.parts.rows) > 5
    options = {"shape": (65, 90, 85), "radius": "7 um"}
    whole = density_map(points, options["shape"], (2, 1, 2), radius="7 um")
    weighted = density_map(points, options["shape"], (2, 1, 2), radius="7 um", weights=table["source"])
    for part_bytes, suffix in ((1, "npy"), (90 * 85 * 8 * 40, "tif"), (1 << 30, "tif"), (1, "zarr")):
        done = write_density_map(
            cells, tmp_path / f"{part_bytes}.{suffix}", (2, 1, 2), **options, part_bytes=part_bytes
        )
        read = {"npy": np.load, "tif": tifffile.imread, "zarr": lambda path: zarr.open(path, mode="r")["0"][:]}[suffix]
        np.testing.assert_array_equal(read(done.path), whole)
        assert (done.cells, done.outside, done.highest) == (4000, 0, whole.max())
        again = write_density_map(
            cells, tmp_path / f"w{part_bytes}.{suffix}", (2, 1, 2), **options, weights="source", part_bytes=part_bytes
        )
        np.testing.assert_array_equal(read(again.path), weighted)


def test_corner_of_the_map_is_the_corner_of_the_volume(tmp_path):
    # voxels 0 to 3 of 2 um make one of 8 um: centres from -1 um to 7 um
    (tmp_path / "run").mkdir()
    z = np.array([0.0, 3.0, 3.4, 3.6, 9.0])
    flat = np.zeros(5)
    write_table({"z": z, "y": flat, "x": flat} | {f"{a}_um": v * 2 for a, v in (("z", z), ("y", flat), ("x", flat))},
                tmp_path / "run" / "cells.csv")  # fmt: skip
    record = {"state": "finished", "input": {"shape": [10, 3, 3], "voxel_size_um": [2, 2, 2]}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    cells = cells_of(tmp_path / "run")
    assert cells.shape == (10, 3, 3)
    done = write_density_map(cells, tmp_path / "map.tif", (8, 8, 8))
    assert done.shape == (3, 1, 1)
    np.testing.assert_array_equal(tifffile.imread(done.path, squeeze=False).reshape(-1)[:3], [3, 1, 1])
    with tifffile.TiffFile(done.path) as tif:
        assert tif.imagej_metadata["spacing"] == 8
    # a csv without its run still tells the voxel size, but not the extent
    write_table({"z": z, "y": z, "x": z, "z_um": z * 1.62, "y_um": z * 2, "x_um": z * 3}, tmp_path / "kept.csv")
    assert cells_of(tmp_path / "kept.csv").voxel_size == (1.62, 2, 3)
    with pytest.raises(ConfigError, match="--shape"):
        write_density_map(cells_of(tmp_path / "kept.csv"), tmp_path / "x.tif", (8, 8, 8))
    record["state"] = "failed"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert cells_of(tmp_path / "run").shape is None


def test_positions_in_voxels_need_their_size(tmp_path):
    points = np.array([[1.0, 2, 3], [4, 5, 6]])
    for name, columns in {"napari": ("axis-0", "axis-1", "axis-2"), "ours": "zyx", "upper": "ZYX"}.items():
        path = tmp_path / f"{name} µ.csv"
        write_table(dict(zip(columns, points.T, strict=True)), path)
        with pytest.raises(ConfigError, match="--volume-voxel-size"):
            cells_of(path)
        cells = cells_of(path, voxel_size=(6, 2, 1))
        np.testing.assert_array_equal(cells.positions(0), (points + 0.5) * (6, 2, 1))
        assert cells.measures == ()
    with pytest.raises(VolumeError, match="its columns: a"):
        cells_of({"a": np.zeros(2)})
    with pytest.raises(VolumeError, match="row 2 has no position"):
        cells_of(np.array([[0, 0, 0], [0, np.nan, 0]])).positions(0)
    with pytest.raises(VolumeError, match="no such file"):
        cells_of(tmp_path / "none.parquet")
    with pytest.raises(VolumeError, match=r"no cells\.parquet"):
        cells_of(tmp_path)


def test_empty_table_gives_an_empty_map(tmp_path):
    write_table({f"{axis}_um": np.empty(0) for axis in "zyx"}, tmp_path / "cells.parquet")
    done = write_density_map(cells_of(tmp_path / "cells.parquet"), tmp_path / "m.tif", (5, 5, 5), shape=(2, 3, 4))
    assert (done.cells, done.outside, done.highest) == (0, 0, 0)
    assert not tifffile.imread(done.path).any()
    assert not density_map([], (2, 3, 4), (5, 5, 5), radius=1).any()


def test_mistakes_leave_nothing(tmp_path):
    points = np.array([[1.0, 2, 3], [4, 5, 6]])
    table = dict(zip(("z_um", "y_um", "x_um"), points.T, strict=True)) | {"source": np.array([1.0, np.nan])}
    cells = cells_of(table)
    out = tmp_path / "m.tif"
    for message, options in {
        "--weights sourc": {"weights": "sourc"},
        "row 2 is not finite": {"weights": "source"},
        "radius": {"radius": "-3 um"},
        "more than 128": {"radius": "3 um", "voxel_size": (0.01, 1, 1)},
        "whole numbers": {"shape": (1.5, 2, 3)},
        "from 1 to": {"shape": (0, 2, 3)},
        "above 0": {"voxel_size": (0, 1, 1)},
        "0 along one axis": {"radius": (0, 1, 1)},
    }.items():
        with pytest.raises(ConfigError, match=message):
            write_density_map(cells, out, **{"voxel_size": (1, 1, 1), "shape": (5, 6, 7)} | options)
        assert list(tmp_path.iterdir()) == []
    write_density_map(cells, out, (1, 1, 1), shape=(5, 6, 7))
    with pytest.raises(OutputError, match="overwrite"):
        write_density_map(cells, out, (1, 1, 1), shape=(5, 6, 7))
    write_density_map(cells, out, (1, 1, 1), shape=(2, 6, 7), overwrite=True)
    assert tifffile.imread(out).shape == (2, 6, 7)
