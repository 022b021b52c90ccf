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
    cell, width = np.array([2, 7.4, 7.4]), (0.7, 1.48, 1.48)
    raw = ndimage.gaussian_filter(VOLUME.astype(np.float32), width, truncate=3)
    wide = ndimage.gaussian_filter(image.astype(np.float32), tuple(1.6 * w for w in width), truncate=3)
    indices = np.indices(VOLUME.shape)
    rank95 = {"q": 95, "method": "inverted_cdf"}
    single = [i for i in range(len(found["z"])) if all(float(found[a][i]).is_integer() for a in "zyx")]
    assert len(single) > 5
    for i in single:
        at = np.array([int(found[a][i]) for a in "zyx"])
        peak, own, bright = image[tuple(at)], max(background[tuple(at)], 1), raw[tuple(at)]
        # no feature looks further than 5 cells away
        window = tuple(slice(max(0, a - r), a + r + 1) for a, r in zip(at, np.ceil(5 * cell).astype(int), strict=True))
        here, below, raw_here = image[window], background[window], raw[window]
        away = np.stack(indices[:, *window], -1) - at
        far = np.linalg.norm(away / cell, axis=-1)

        def cylinder(radius, steps, away=away):
            inside = (np.abs(away[..., 0]) <= radius * cell[0]) & (
                np.hypot(*np.moveaxis(away[..., 1:], -1, 0)) <= radius * 7.4
            )
            return inside & (away % steps == 0).all(-1)

        ring, inner = (far > 10 / 12) & (far <= 16 / 12), (far > 8 / 12) & (far <= 1)
        near, further = cylinder(2, (1, 2, 2)), cylinder(40 / 12, (1, 2, 2))
        around = cylinder(5, (1, 3, 3))
        wanted = {
            "peak_to_background": peak / own,
            "background": background[tuple(at)],
            "ring_to_peak": np.percentile(here[ring], **rank95) / peak,
            "raw_contrast": (bright - np.percentile(raw_here[inner], **rank95)) / peak,
            "raw_height": 1 - np.percentile(raw_here[ring], 50, method="inverted_cdf") / bright,
            "dog_to_peak": 1 - wide[tuple(at)] / peak,
            "background_sd": below[near].std() / peak,
            "background_jump": below[near].max() / own,
            "background_jump_wide": below[further].max() / own,
            "background_low": below[further].min() / own,
            "relative_height": peak / here[cylinder(2.5, (1, 1, 1))].max(),
            "mean_around": here[around].mean() / peak,
            "sd_around": here[around].std() / peak,
        }
        assert set(wanted) | {"peak_to_noise", "relief"} == set(FEATURES)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name][i], value, rtol=2e-4, atol=2e-4, err_msg=name)
        ways = []
        for up in np.linspace(-1, 1, 7):
            for turn in np.arange(12) * np.pi / 6:
                across = np.sqrt(1 - up**2)
                ray = np.array([up, across * np.sin(turn), across * np.cos(turn)])
                places = at + np.floor(ray * np.arange(2, 15)[:, None] / 12 * cell + 0.5 + 1e-9).astype(int)
                if ((places >= 0) & (places < VOLUME.shape)).all():
                    ways.append(image[tuple(places.T)].min())
        if ways:
            np.testing.assert_allclose(found["relief"][i], 1 - max(ways) / peak, atol=1e-6)
        else:
            assert np.isnan(found["relief"][i])


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
