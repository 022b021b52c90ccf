"""Configurations of ClearMap become ours: values, the order of axes, and what is said of the rest."""

import tomllib

import pytest

from cytolith.cells.build import build_config, read_toml
from cytolith.cells.presets import preset
from cytolith.compat.migrate import migrate
from cytolith.compat.migrate_config import _STEPS
from cytolith.errors import ConfigError, VolumeError

VERSION_2 = """\
[detection]
    preview = True
    plot_cells = False
    [[background_correction]]
        diameter = [10, 12]
        save = True
    [[maxima_detection]]
        shape = (7, 5, 3)  # x, y, z
        h_max = None
    [[shape_detection]]
        threshold = 500
    [[test_set_slicing]]
        dim_0 = [0, 200]  # FIXME: scale before save
        dim_1 = [10, None]
        dim_2 = [5, 400]
[cell_filtration]
    [[thresholds]]
        size = (50, 900)
        intensity = None
[voxelization]
    radii = (5, 5, 5)
    [[preview]]
        counts = False
[run]
    plot_when_finished = False
"""
VERSION_3 = """\
clearmap_version = '3.0.0'

[channels]
    [[cfos]]
        [[[detection]]]
            colocalization_compatible = False
            [[[[background_correction]]]]
                diameter = 8, 9
            [[[[dog_filter]]]]
                shape = 6, 7, 8
                sigma = None
            [[[[intensity_detection]]]]
                measure = source, background
                method = 'mean'
        [[[cell_filtration]]]
            [[[[thresholds]]]]
                intensity = (300, None)
    [[autofluorescence]]
        [[[registration]]]
            align = 'x'
"""


def config_of(path):
    steps, run = read_toml(path)
    return build_config((str(path), steps)), run


def test_configuration_of_clearmap_2(tmp_path):
    (tmp_path / "cell_map_params.cfg").write_text(VERSION_2)
    done = migrate(tmp_path / "cell_map_params.cfg", tmp_path / "out", voxel_size=(3, 1.5, 2))
    assert done.paths == [tmp_path / "out" / "config.toml"]
    config, run = config_of(done.paths[0])
    assert run == {"voxel_size": [3, 1.5, 2]}
    expected = build_config(
        ("", preset("clearmap")),
        (
            "",
            {
                "background_correction": {"shape": (12, 10)},
                "maxima_detection": {"shape": (3, 5, 7), "h_max": None},
                "shape_detection": {"threshold": 500},
            },
        ),
    )
    assert config == expected
    assert config.smoothing is None
    said = "\n".join(done.left_out)
    for line in (
        "detection.preview = True: of ClearMap's windows",
        "detection.background_correction.save = True: to save what the step makes, add save = PATH",
        "detection.test_set_slicing: to look at that part, cytolith preview --region 5:400,10:,0:200",
        "cell_filtration.thresholds.size = (50, 900): afterwards, cytolith filter OUT/cells.parquet -o kept",
        "--size 50,900",
        "cell_filtration.thresholds.intensity = None: no rows are left out, as here",
        'cytolith density OUT -o density.tif --voxel-size "25 um" --radius 5',
        "run.plot_when_finished = False: of ClearMap's windows",
    ):
        assert line in said
    text = done.paths[0].read_text()
    assert all(f"#   {line}\n" in text for line in done.left_out)


def test_configuration_of_clearmap_3(tmp_path):
    (tmp_path / "a.cfg").write_text(VERSION_3)
    done = migrate(tmp_path / "a.cfg", tmp_path / "mine.toml")
    config, run = config_of(tmp_path / "mine.toml")
    assert run == {}
    assert [length.value for length in config.background_correction.shape] == [9, 8]
    assert [length.value for length in config.dog_filter.shape] == [8, 7, 6]
    assert config.dog_filter.sigma is None
    assert config.intensity_detection.measure == ("source", "background_correction")
    assert config.intensity_detection.method == "mean"
    assert config.shape_detection.threshold.value == 700  # ClearMap's default
    assert done.left_out == [
        "channels.cfos.detection.colocalization_compatible = False: has no equivalent",
        (
            "channels.cfos.cell_filtration.thresholds.intensity = (300, None): afterwards, cytolith filter "
            "OUT/cells.parquet -o kept.parquet --source 300,"
        ),
    ]


def test_a_channel_must_be_chosen_where_several_have_cells(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text(VERSION_3.replace("[[[registration]]]\n            align = 'x'", "[[[detection]]]"))
    with pytest.raises(ConfigError, match="choose one with --channel, cfos or autofluorescence"):
        migrate(path, tmp_path)
    with pytest.raises(ConfigError, match=r"--channel cfoss: has no cells .* did you mean 'cfos'"):
        migrate(path, tmp_path, channel="cfoss")
    migrate(path, tmp_path, channel="autofluorescence")
    assert config_of(tmp_path / "config.toml")[0] == build_config(("", preset("clearmap")))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[stitching]\n  [[rigid]]\n", VolumeError, r"has no section of a cell map \(\[detection\]\)"),
        ("[detection]\n[[[background_correction]]]\n", VolumeError, "line 2: .* its brackets do not fit"),
        ("[detection]\n[[background_correction]\n", VolumeError, "line 2: .* its brackets do not fit"),
        ("[detection]\nhello\n", VolumeError, "line 2: 'hello' is neither a .section. nor NAME = VALUE"),
        ("[detection]\nshape_detection = 5\n", ConfigError, "detection.shape_detection = 5: give a section"),
        ("[detection]\n[[shape_detection]]\nthreshold = much\n", ConfigError, r"a\.cfg: shape_detection.threshold"),
        (
            "[detection]\n[[background_correction]]\ndiameter = 1,2,3,4\n",
            ConfigError,
            r"a\.cfg: detection.background_correction.diameter = \(1, 2, 3, 4\): has 4 lengths: .* or 2 \(x, y\)",
        ),
        ("[detection]\n[[background_correction]]\nshape = ()\n", ConfigError, r"shape = \(\): has 0 lengths"),
        (
            "[detection]\n[[background_correction]]\nshape = 7, -9\n",
            ConfigError,
            r"a\.cfg: detection.background_correction.shape = \(7, -9\): -9 is not a length: it must be finite",
        ),
        (
            "[detection]\n[[dog_filter]]\nshape = 7\nsigma = 1, 2, 0\n",
            ConfigError,
            r"dog_filter.sigma = \(1, 2, 0\): must be positive",
        ),
        (
            "[detection]\n[[maxima_detection]]\nshape = 3, 5\n",
            ConfigError,
            r"shape = \(3, 5\): has 2 lengths: give one for all axes or 3 \(x, y, z\)",
        ),
        *(
            (
                f"[detection]\n[[intensity_detection]]\nmeasure = {value}\n",
                ConfigError,
                r"a\.cfg: detection.intensity_detection.measure = .*: give names of images, for example source",
            )
            for value in ("5", "[[1], 2]", "source, 5", "()")
        ),
        (
            "[detection]\n[[shape_detection]]\nthreshold = 5\n[[dog_filter]]\n[[shape_detection]]\n",
            VolumeError,
            r"line 5: \[\[shape_detection\]\] is there already in line 2; put the two together",
        ),
        ("[detection]\n[run]\n[detection]\n", VolumeError, r"line 3: \[detection\] is there already in line 1"),
        ("[detection]\na = 1\na = 2\n", VolumeError, "line 3: 'a' is there already in line 2"),
        ("[detection]\na = 1\n[[a]]\n", VolumeError, r"line 3: \[\[a\]\] is there already in line 2"),
        (
            "[detection]\na = [7,\n  7]\n",
            VolumeError,
            "line 2: 'a' does not end in its line; write the list on one line",
        ),
        ("[detection]\na = (7, ')',\n  7)\n", VolumeError, "line 2: 'a' does not end in its line"),
        ("[detection]\na = '''7,\n  7'''\n", VolumeError, "line 2: 'a' does not end in its line"),
        (
            "[detection]\nmeasure = source,\n  background\n",
            VolumeError,
            "line 3: 'background' is neither .* belongs to the list of line 2, write the list on one line",
        ),
    ],
)
def test_configurations_that_cannot_be_taken_over(tmp_path, text, error, message):
    (tmp_path / "a.cfg").write_text(text)
    with pytest.raises(error, match=message):
        migrate(tmp_path / "a.cfg", tmp_path / "out")
    assert not (tmp_path / "out" / "config.toml").exists()


def test_three_extents_of_the_background_are_its_first_two(tmp_path):
    (tmp_path / "a.cfg").write_text("[detection]\n[[background_correction]]\nshape = 7, 8, 9\n")
    done = migrate(tmp_path / "a.cfg", tmp_path)
    assert [length.value for length in config_of(tmp_path / "config.toml")[0].background_correction.shape] == [8, 7]
    (line,) = done.left_out
    assert line == (
        "detection.background_correction.shape = (7, 8, 9): the first two, x and y, are used, as ClearMap does"
    )


def test_lists_in_quotation_marks(tmp_path):
    (tmp_path / "a.cfg").write_text(
        "[detection]\n[[maxima_detection]]\nshape = '7, 5, 3'\n[[background_correction]]\nshape = '[9 um, 8 um]'\n"
        "[[intensity_detection]]\nmeasure = 'source, background'\nshape = 4,\n"
        "[[empty]]\n[other]\n[[empty]]\nempty = '['\n"
    )
    migrate(tmp_path / "a.cfg", tmp_path)
    config, _ = config_of(tmp_path / "config.toml")
    assert [length.value for length in config.maxima_detection.shape] == [3, 5, 7]
    assert [str(length) for length in config.background_correction.shape] == ["8 um", "9 um"]
    assert [length.value for length in config.intensity_detection.shape] == [4, 4, 4]
    assert config.intensity_detection.measure == ("source", "background_correction")


ODD = ("5", "-1", "nan", "x", "", "''", "(1, None)", "[[1], [2]]", "{1: 2}", "{[]: 1}", "1, 2, 3, 4, 5", "True",
       "5 + 3j", "b'ab'", "{1, 2}", "()", "." * 40, "(" * 300 + ")" * 300)  # fmt: skip


@pytest.mark.parametrize("step", list(_STEPS))
def test_odd_values_are_taken_or_refused_in_words(tmp_path, step):
    path = tmp_path / "a.cfg"
    for value in ODD:
        texts = [f"[[{step}]]\n{name} = {value}\n" for name in (*_STEPS[step], "save")]
        texts += [f"{step} = {value}\n", f"[voxelization]\nradii = {value}\n"]
        texts += [f"[cell_filtration]\n[[thresholds]]\nsize = {value}\n"]
        for text in texts:
            path.write_text(f"[detection]\n{text}")
            said = str(path)
            try:
                migrate(path, tmp_path, overwrite=True)
            except (ConfigError, VolumeError) as error:
                said = str(error)
            assert said.startswith(str(path))
            assert "\n" not in said


def test_steps_may_be_off_and_words_unknown(tmp_path):
    (tmp_path / "a.cfg").write_text(
        "[detection]\nbackground_correction = None\n[[maxima_detection]]\ntresholds = 4\nshape = None\n"
        "[[illumination_correction]]\nflatfield = True\n[[equalization]]\nselem = (9, 8, 7)\npercentile = (0.2, 0.9)\n"
    )
    done = migrate(tmp_path / "a.cfg", tmp_path)
    config, _ = config_of(tmp_path / "config.toml")
    assert config.background_correction is None
    assert [length.value for length in config.equalization.selem] == [7, 8, 9]
    assert config.equalization.percentile == (0.2, 0.9)
    assert config.illumination_correction.flatfield is None
    assert done.left_out[0].startswith("detection.maxima_detection.tresholds = 4: not known; did you mean 'threshold'?")
    assert done.left_out[1].startswith("detection.maxima_detection.shape = None: ClearMap's default is used")
    assert "ClearMap's own flat field is not here" in done.left_out[2]
    assert tomllib.loads((tmp_path / "config.toml").read_text())["background_correction"] == "none"
