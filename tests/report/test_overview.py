"""The pass over a volume: projections of every voxel, whatever the blocks, and what is read of too large ones."""

import numpy as np
import pytest

import cytolith.report.overview as overview
from cytolith.engine.grid import plan_blocks
from cytolith.io.volume import open_volume
from cytolith.report.overview import look_over, pool_max


def brute_pool(image, edges):
    rows, columns = (-(-n // e) for n, e in zip(image.shape, edges, strict=True))
    return np.array(
        [
            [image[r * edges[0] : (r + 1) * edges[0], c * edges[1] : (c + 1) * edges[1]].max() for c in range(columns)]
            for r in range(rows)
        ]
    )


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 60_000, (23, 31, 47)).astype(np.uint16)


@pytest.mark.parametrize("core", [(23, 31, 47), (5, 7, 11), (1, 31, 6)])
@pytest.mark.parametrize("longest", [1000, 10])
def test_projections_are_those_of_the_whole_volume(image, core, longest, monkeypatch):
    monkeypatch.setattr(overview, "plan_blocks", lambda *a, **k: plan_blocks(*a, **{**k, "core": core}))
    image[4, 5, 6] = image[22, 30, 46] = 65_535
    seen = look_over(open_volume(image), longest=longest)
    edges = [-(-n // longest) for n in image.shape]
    for axis, name in enumerate("zyx"):
        pooled = brute_pool(image.max(axis), [e for k, e in enumerate(edges) if k != axis])
        np.testing.assert_array_equal(seen.projections[name], pooled)
        assert seen.projections[name].dtype == image.dtype
    np.testing.assert_array_equal(seen.lowest, image.min((1, 2)))
    np.testing.assert_array_equal(seen.highest, image.max((1, 2)))
    np.testing.assert_allclose(seen.mean, image.mean((1, 2)))
    assert (seen.top, seen.top_count, seen.voxels) == (65_535, 2, image.size)
    assert seen.note == "from every voxel"


def test_pooling_keeps_to_the_grid_of_the_volume():
    image = np.arange(35).reshape(5, 7)
    whole = brute_pool(image, (2, 3))
    np.testing.assert_array_equal(pool_max(image[3:, 4:], (3, 4), (2, 3)), brute_pool_at(image, 3, 4, (2, 3)))
    np.testing.assert_array_equal(pool_max(image, (0, 0), (2, 3)), whole)


def brute_pool_at(image, row, column, edges):
    marked = np.full(image.shape, -1)
    marked[row:, column:] = image[row:, column:]
    return brute_pool(marked, edges)[row // edges[0] :, column // edges[1] :]


def test_of_too_large_a_volume_planes_at_regular_distances_are_read(image):
    seen = look_over(open_volume(image), full_voxels=image.size // 4)
    assert list(seen.planes) == list(range(0, 23, 5))
    np.testing.assert_array_equal(seen.projections["z"], image[::5].max(0))
    np.testing.assert_array_equal(seen.projections["y"][7], image[5].max(0))  # the nearest plane that was read
    np.testing.assert_array_equal(seen.mean, image[::5].mean((1, 2)))
    assert "5 of 23 planes" in seen.note


def test_of_too_large_a_pyramid_a_coarse_level_is_read(tmp_path, image):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "pyramid.ome.zarr", mode="w", zarr_format=2)
    levels = [image, image[::2, ::2, ::2]]
    datasets = []
    for number, level in enumerate(levels):
        group.create_array(str(number), data=level, chunks=(8, 8, 8))
        scale = [6.0 * 2**number, 1.5 * 2**number, 1.5 * 2**number]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    path = tmp_path / "pyramid.ome.zarr"
    seen = overview.look_over_source(open_volume(path), path, {}, full_voxels=image.size - 1)
    assert seen.level == 1
    np.testing.assert_array_equal(seen.projections["z"], levels[1].max(0))
    assert "level 1 of the pyramid" in seen.note
    assert overview.look_over_source(open_volume(path), path, {}).level == 0


def test_nan_does_not_swallow_its_neighbours():
    image = np.ones((3, 4, 5), np.float32)
    image[1, 2, 3] = np.nan
    seen = look_over(open_volume(image))
    assert all((projection == 1).all() for projection in seen.projections.values())
    assert np.isfinite(seen.mean).all()


def test_one_plane_and_one_voxel():
    for shape in ((1, 6, 7), (1, 1, 1)):
        seen = look_over(open_volume(np.full(shape, 3, np.uint8)))
        assert {name: p.shape for name, p in seen.projections.items()} == {
            "z": shape[1:], "y": shape[::2], "x": shape[:2]}  # fmt: skip
