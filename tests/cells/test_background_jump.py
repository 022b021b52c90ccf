"""Maxima beside a much brighter background are dropped, and shapes end at a fraction of their own maximum."""

import numpy as np
import pytest

from cytolith.cells.build import build_config
from cytolith.cells.pipeline import detect_cells
from cytolith.cells.resolve import in_voxels, with_defaults
from cytolith.errors import ConfigError
from cytolith.kernels.measure import find_size
from cytolith.kernels.watershed import grow_shapes, trim_shapes

SIZE = (6, 1.62, 1.62)


def edge_volume():
    """Tissue beside a vessel that is four times as bright, a cell far from it and one beside it."""
    rng = np.random.default_rng(5)
    volume = rng.normal(400, 10, (20, 90, 140))
    volume[:, :, 100:] += 1200
    z, y, x = np.mgrid[:20, :90, :140]
    for at in ((10, 45, 40), (10, 45, 90)):
        distance = ((z - at[0]) / 1.2) ** 2 + ((y - at[1]) / 3) ** 2 + ((x - at[2]) / 3) ** 2
        volume += 500 * np.exp(-distance / 2)
    return volume.round().astype(np.uint16)


def columns(table):
    return sorted(np.round(table["x"]).astype(int).tolist())


def test_the_cell_beside_the_vessel_is_dropped_and_its_neighbour_is_not():
    volume = edge_volume()
    kept = {"maxima_detection": {"threshold": "10 mad"}}
    assert columns(detect_cells(volume, voxel_size=SIZE, **kept)) == [40]
    assert columns(detect_cells(volume, voxel_size=SIZE, background_jump=None, **kept)) == [40, 90]
    assert columns(detect_cells(volume, voxel_size=SIZE, background_jump={"ratio": 5}, **kept)) == [40, 90]
    near = {"radius": (1, 5, 5)}
    assert columns(detect_cells(volume, voxel_size=SIZE, background_jump=near, **kept)) == [40, 90]


def test_grey_thresholds_leave_the_rule_and_the_fraction_out():
    volume = edge_volume()
    grey = {"maxima_detection": {"threshold": 100}, "shape_detection": {"threshold": 50}}
    assert columns(detect_cells(volume, voxel_size=SIZE, **grey)) == [40, 90]
    assert columns(detect_cells(volume, voxel_size=SIZE, background_jump={"ratio": 1.5}, **grey)) == [40]
    config = with_defaults(build_config(("", grey)), SIZE)
    assert config.background_jump is None
    assert config.shape_detection.fraction is None
    config = with_defaults(build_config(), SIZE)
    assert (config.background_jump.ratio, config.shape_detection.fraction) == (1.5, 0.5)
    assert in_voxels(build_config(("", {"background_correction": None})), SIZE).background_jump is None
    with pytest.raises(ConfigError, match=r"background_jump.ratio: 0.5: give a ratio of at least 1"):
        build_config(("", {"background_jump": {"ratio": 0.5}}))


def test_a_dark_background_and_its_noise_are_no_jump():
    rng = np.random.default_rng(1)
    volume = np.maximum(rng.normal(2, 3, (12, 80, 80)), 0)
    volume[6, 40:44, 40:44] += 300
    assert len(detect_cells(volume.round().astype(np.uint16), voxel_size=SIZE)["z"]) == 1


@pytest.mark.parametrize("block", [(7, 31, 29), (20, 24, 140), (5, 90, 47)])
def test_blocks_do_not_change_what_is_dropped(block, tmp_path):
    volume = edge_volume()
    labels = []
    tables = []
    for name, core in (("whole", volume.shape), ("cut", block)):
        save = tmp_path / f"{name}.npy"
        steps = {"shape_detection": {"threshold": "4 mad", "save": str(save)}}
        tables.append(detect_cells(volume, voxel_size=SIZE, block=core, workers=2, **steps))
        labels.append(np.load(save))
    for name, column in tables[0].items():
        np.testing.assert_array_equal(column, tables[1][name])
    np.testing.assert_array_equal(*labels)
    np.testing.assert_array_equal(find_size(labels[0]), tables[0]["size"])


def test_trimmed_shapes_keep_what_is_bright_enough():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 100, (5, 12, 13)).astype(np.uint8)
    seeds = np.array([70, 300, 555])
    shapes = grow_shapes(image, np.arange(4), seeds, 20)
    least = np.array([50.5, 0, 90])
    dense = shapes.to_dense()
    wanted = np.where((dense > 0) & (image >= np.concatenate([[0], least])[dense]), dense, 0)
    trimmed = trim_shapes(shapes, image, least)
    np.testing.assert_array_equal(trimmed.to_dense(), wanted)
    np.testing.assert_array_equal(trimmed.size, [np.count_nonzero(wanted == label) for label in (1, 2, 3)])
    np.testing.assert_array_equal(shapes.to_dense(), dense)
    with pytest.raises(ValueError, match="needed"):
        trim_shapes(shapes, image, least[:2])


def test_stripes_go_with_the_background():
    rng = np.random.default_rng(2)
    volume = rng.normal(500, 5, (6, 80, 160))
    volume[:, 20:24, :] += 200
    volume[3, 60:65, 80:85] += 300
    volume = volume.round().astype(np.uint16)
    plain = detect_cells(volume, voxel_size=SIZE, background_jump=None)
    assert (np.abs(plain["y"] - 21.5) < 4).any()
    for axis, image, at in (("x", volume, "y"), ("y", np.ascontiguousarray(volume.swapaxes(1, 2)), "x")):
        step = {"stripe_length": "73 um", "stripe_axis": axis}
        table = detect_cells(image, voxel_size=SIZE, background_correction=step, background_jump=None)
        assert np.round(table[at]).tolist() == [62]
