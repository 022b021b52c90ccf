"""Parameters: defaults, units, layers, TOML, and messages for what is wrong."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytolith.cells.build import build_config, read_toml, to_toml
from cytolith.cells.config import STEPS, CellsConfig, step_model
from cytolith.cells.resolve import in_voxels, noise_scaled, real, whole, with_defaults, with_noise
from cytolith.errors import ConfigError

VOXEL = (6.0, 1.62, 1.62)


def test_defaults_mean_the_same_in_micrometres_and_in_voxels():
    known, unknown = in_voxels(CellsConfig(), VOXEL), in_voxels(CellsConfig(), None)
    for config in (known, unknown):
        assert whole(config.background_correction.shape) == (10, 10)
        assert whole(config.maxima_detection.shape) == (3, 5, 5)
        assert real(config.smoothing.sigma) == pytest.approx((0.7, 1.5, 1.5), abs=0.02)
        assert config.illumination_correction is None
        assert config.equalization is None
        assert config.dog_filter is None


def test_lengths_follow_the_voxel_size_of_their_own_axis():
    config = in_voxels(build_config(("", {"maxima_detection": {"shape": "21, 12, 3 um"}})), (3.0, 4.0, 1.0))
    assert whole(config.maxima_detection.shape) == (7, 3, 3)
    config = in_voxels(build_config(("", {"background_correction": {"shape": "20, 30 um"}})), (9.0, 2.0, 1.5))
    assert whole(config.background_correction.shape) == (10, 20)


@pytest.mark.parametrize("step", [6.0, 9.0, 12.0, 50.0])
def test_a_window_in_micrometres_is_never_a_single_plane(step):
    config = in_voxels(CellsConfig(), (step, 1.62, 1.62))
    assert whole(config.maxima_detection.shape) == (3, 5, 5)


def test_a_height_switches_the_window_off_unless_one_is_given():
    assert in_voxels(build_config(("", {"maxima_detection": {"h_max": 5}})), None).maxima_detection.shape is None
    both = in_voxels(build_config(("", {"maxima_detection": {"h_max": 5, "shape": 3}})), None)
    assert whole(both.maxima_detection.shape) == (3, 3, 3)


def test_noise_scales_thresholds():
    config = build_config(("", {"maxima_detection": {"h_max": "2 mad", "threshold": "9 mad"}}))
    assert noise_scaled(config)
    scaled = with_noise(config, 10.0)
    assert scaled.maxima_detection.h_max.value == 20
    assert scaled.maxima_detection.threshold.value == 90
    assert scaled.shape_detection.threshold.value == 40
    assert not noise_scaled(scaled)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"background_corection": {}}, "unknown step 'background_corection'; did you mean 'background_correction'"),
        ({"background_correction": {"shap": 3}}, "background_correction.shap; did you mean 'shape'"),
        ({"background_correction": {"shape": "3,3,3"}}, "background_correction.shape: .* give one for all axes or 2"),
        ({"background_correction": {"shape": 2.5}}, "whole voxels"),
        ({"background_correction": {"shape": 0}}, "at least 1"),
        ({"background_correction": {"form": "disc"}}, "background_correction.form: .*'disk' or 'cube'"),
        ({"shape_detection": {"threshold": "5 kg"}}, "shape_detection.threshold: .*unknown unit 'kg'"),
        ({"dog_filter": {"sigma": 2}}, "dog_filter: without a shape"),
        ({"illumination_correction": {"background": 100}}, "without a flatfield"),
        ({"dog_filter": {"shape": 5, "sigma": 0}}, "dog_filter.sigma: .*positive"),
        ({"equalization": {"selem": "none"}}, "equalization.selem: .*give a length"),
        ({"equalization": {"interpolate": [1]}}, "interpolate: .*1 \\(linear\\)"),
        ({"intensity_detection": {"measure": 5}}, "measure: 5: give names"),
        ({"smoothing": "maybe"}, "smoothing: give none"),
        ({"intensity_detection": {"measure": "sorce"}}, "'sorce' .*did you mean 'source'"),
        ({"intensity_detection": {"measure": "source,source"}}, "given twice"),
        ({"intensity_detection": {"method": "median"}}, "'max', 'min', 'mean' or 'sum'"),
        ({"equalization": {"percentile": "0.9,0.1"}}, "0 <= lower <= upper <= 1"),
        ({"equalization": {"interpolate": 3}}, "1 \\(linear\\) or 0"),
        ({"maxima_detection": {"h_max": 0}}, "h_max: .*positive"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        in_voxels(build_config(("params.toml", given)), None)
    assert "\n" not in str(caught.value)


def test_later_layers_win_field_by_field():
    config = build_config(
        ("file", {"shape_detection": {"threshold": 300}, "background_correction": {"shape": 7, "form": "cube"}}),
        ("flags", {"background_correction": {"shape": "9"}, "smoothing": "none"}),
    )
    assert config.shape_detection.threshold.value == 300
    assert config.background_correction.form == "cube"
    assert config.background_correction.shape[0].value == 9
    assert config.smoothing is None


def test_a_step_switched_off_below_comes_back_with_a_parameter():
    config = build_config(("file", {"smoothing": "none"}), ("flags", {"smoothing": {"sigma": "1"}}))
    assert config.smoothing is not None
    assert build_config(("", {"equalization": True})).equalization is not None
    assert build_config(("", {"equalization": {}})).equalization is not None


steps = st.fixed_dictionaries(
    {},
    optional={
        "background_correction": st.one_of(
            st.none(), st.builds(lambda n, u: {"shape": f"{n}{u}"}, st.integers(1, 40), st.sampled_from(["", " um"]))
        ),
        "equalization": st.one_of(st.none(), st.just({"percentile": "0.25,0.75", "spacing": [4, 30, 20]})),
        "smoothing": st.one_of(st.none(), st.builds(lambda s: {"sigma": s}, st.floats(0, 9))),
        "maxima_detection": st.builds(
            lambda h, t: {"h_max": h, "threshold": t},
            st.one_of(st.none(), st.integers(1, 900)),
            st.one_of(st.none(), st.floats(-100, 100), st.just("7.5 mad")),
        ),
        "intensity_detection": st.one_of(st.none(), st.just({"method": "mean", "measure": "source,smoothing"})),
    },
)


@given(steps, st.sampled_from([None, VOXEL]))
def test_toml_reads_back_to_the_same_configuration(tmp_path_factory, given, size):
    config = with_defaults(build_config(("", given)), size)
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    path.write_text(to_toml(config, {"input": 'a "quoted\\ path', "voxel_size": size}))
    document, run = read_toml(path)
    assert build_config(("", document)) == config
    assert run["input"] == 'a "quoted\\ path'
    assert run.get("voxel_size") == (None if size is None else list(size))


def test_no_digit_is_lost():
    config = build_config(
        (
            "",
            {
                "background_correction": {"shape": "16.123456789 um"},
                "maxima_detection": {"threshold": "6.123456789 mad"},
            },
        )
    )
    assert build_config(("", config.model_dump())) == config
    assert build_config(("", tomllib.loads(to_toml(config)))) == config


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "none.toml")
    path = tmp_path / "bad.toml"
    path.write_text("smoothing = ")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        read_toml(path)
    path.write_text("[smothing]\nsigma = 3\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: unknown name 'smothing'; did you mean 'smoothing'"):
        read_toml(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_files_as_editors_and_shells_of_windows_write_them(tmp_path, encoding):
    text = 'input = "Fötus 脳.npy"\n[smoothing]\nsigma = 3\n'.replace("\n", "\r\n")
    mark = "\ufeff" if encoding.endswith("be") else ""
    (tmp_path / "config.toml").write_bytes((mark + text).encode(encoding))
    assert read_toml(tmp_path / "config.toml") == ({"smoothing": {"sigma": 3}}, {"input": "Fötus 脳.npy"})


@pytest.mark.parametrize("data", [b"a = '\xff'", b"\xff\xfea"])
def test_files_that_are_no_text(tmp_path, data):
    (tmp_path / "config.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read as text"):
        read_toml(tmp_path / "config.toml")


def test_every_field_explains_itself():
    for name in STEPS:
        for field, info in step_model(name).model_fields.items():
            assert info.description, f"{name}.{field} has no text"
    assert tomllib.loads(to_toml(CellsConfig()))
