"""Features are the same in any block, and what their names say."""

import numpy as np
import pytest
from scipy import ndimage

from cytolith.cells.config import FEATURES
from cytolith.cells.pipeline import detect_cells
from cytolith.cells.presets import PRESETS, preset
from cytolith.errors import ConfigError
from cytolith.kernels.background import remove_background
from cytolith.testing.phantoms import cells_phantom

SIZE = (6, 1.62, 1.62)
VOLUME = cells_phantom((30, 120, 130), seed=4)[0]


@pytest.fixture(scope="module")
def table():
    return detect_cells(VOLUME, voxel_size=SIZE, features=True, block=VOLUME.shape)


def test_columns_come_before_truncated(table):
    assert len(table["z"]) > 20
    assert tuple(table)[-len(FEATURES) - 1 : -1] == FEATURES
    one = detect_cells(VOLUME, voxel_size=SIZE, features={"measure": "relief, background"})
    assert tuple(one)[-3:] == ("background", "relief", "truncated")
    np.testing.assert_array_equal(one["relief"], table["relief"])
    nothing = detect_cells(VOLUME, voxel_size=SIZE, features=True, maxima_detection={"threshold": 1e9})
    assert [len(nothing[name]) for name in FEATURES] == [0] * len(FEATURES)
    with pytest.raises(ConfigError, match=r"'relif' is no feature; did you mean 'relief'"):
        detect_cells(VOLUME, features={"measure": "relif"})


@pytest.mark.parametrize("block", [(9, 50, 130), (30, 41, 37)])
def test_any_cut_gives_the_same_bytes(table, block):
    cut = detect_cells(VOLUME, voxel_size=SIZE, features=True, block=block, workers=2)
    for name, column in table.items():
        assert column.tobytes() == cut[name].tobytes(), name


def test_values_are_what_their_names_say():
    # grey thresholds and no smoothing: the maxima are those of the image itself
    steps = {
        "smoothing": None,
        "background_correction": {"shape": 11},
        "maxima_detection": {"threshold": 300, "shape": (3, 7, 7)},
        "shape_detection": {"threshold": 150},
        "features": {"cell": (2, 7.4, 7.4)},
    }
    found = detect_cells(VOLUME, voxel_size=SIZE, **steps)
    image = remove_background(VOLUME, (11, 11)).astype(np.float64)
    background = VOLUME - image
    raw = ndimage.gaussian_filter(VOLUME.astype(np.float64), (0.7, 1.48, 1.48), truncate=3)
    single = [i for i in range(len(found["z"])) if all(float(found[a][i]).is_integer() for a in "zyx")]
    assert len(single) > 5
    for i in single:
        z, y, x = (int(found[a][i]) for a in "zyx")
        peak = image[z, y, x]
        assert found["background"][i] == background[z, y, x]
        assert found["peak_to_background"][i] == peak / max(background[z, y, x], 1)
        box = image[max(z - 5, 0) : z + 6, max(y - 18, 0) : y + 19, max(x - 18, 0) : x + 19]
        dy, dx = np.mgrid[max(y - 18, 0) : y + 19, max(x - 18, 0) : x + 19][:, : box.shape[1], : box.shape[2]]
        disk = np.hypot(dy - y, dx - x) <= 18.5
        assert found["relative_height"][i] == peak / box[:, disk].max()
        assert 0 <= found["relief"][i] <= 1 or np.isnan(found["relief"][i])
        assert found["background_jump_wide"][i] >= 0.999 * found["background_low"][i]
        assert found["raw_height"][i] < 1
        assert raw[z, y, x] > 0


def test_noise_is_measured_for_them_with_grey_thresholds_too():
    grey = {"maxima_detection": {"threshold": 150}, "shape_detection": {"threshold": 100}}
    found = detect_cells(VOLUME, voxel_size=SIZE, features=True, **grey)
    scaled = detect_cells(VOLUME, voxel_size=SIZE, features=True, background_jump=None)
    values = [
        dict(zip(zip(*(t[axis] for axis in "zyx"), strict=True), t["peak_to_noise"], strict=True))
        for t in (found, scaled)
    ]
    both = values[0].keys() & values[1].keys()
    assert len(both) > 20
    assert all(values[0][at] == values[1][at] for at in both)
    assert min(values[1].values()) >= 6


def test_presets():
    assert set(PRESETS) == {"c-fos", "c-fos-striped", "clearmap"}
    usual = detect_cells(VOLUME, voxel_size=SIZE)
    for name, column in detect_cells(VOLUME, voxel_size=SIZE, preset="c-fos").items():
        np.testing.assert_array_equal(column, usual[name])
    old = detect_cells(VOLUME, voxel_size=SIZE, preset="ClearMap", shape_detection={"threshold": 300})
    same = detect_cells(
        VOLUME,
        voxel_size=SIZE,
        background_correction={"shape": 10},
        smoothing=None,
        maxima_detection={"shape": 5, "threshold": 0},
        shape_detection={"threshold": 300},
    )
    for name, column in old.items():
        np.testing.assert_array_equal(column, same[name])
    with pytest.raises(ConfigError, match=r"preset 'clearmp' is unknown; did you mean 'clearmap'"):
        preset("clearmp")
