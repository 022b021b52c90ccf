"""Files of other programs become ours: values, the order of axes, and what is said of the rest."""

import json
import tomllib

import numpy as np
import pytest
import tifffile

from cytolith.cells.build import build_config, read_toml
from cytolith.cells.presets import preset
from cytolith.compat.migrate import kind_of, migrate
from cytolith.errors import ConfigError, OutputError, VolumeError
from cytolith.io.map_files import write_map_text
from cytolith.io.tables import read_table, write_table

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
        ("[detection]\n[[background_correction]]\ndiameter = 1,2,3\n", ConfigError, "has 3 lengths"),
    ],
)
def test_configurations_that_cannot_be_taken_over(tmp_path, text, error, message):
    (tmp_path / "a.cfg").write_text(text)
    with pytest.raises(error, match=message):
        migrate(tmp_path / "a.cfg", tmp_path / "out")
    assert not (tmp_path / "out" / "config.toml").exists()


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


@pytest.fixture
def points():
    return np.random.default_rng(3).integers(0, [11, 22, 33], (70_000, 3))  # x, y, z; more than a part


def both(folder):
    table, metadata = read_table(folder / "cells.parquet")
    csv = read_table(folder / "cells.csv")[0]
    assert list(csv) == list(table)
    for name in table:
        np.testing.assert_array_equal(csv[name], table[name])
    return table, metadata


def test_cells_of_clearmap_2(tmp_path, points):
    cells = np.zeros(len(points), [(n, int) for n in "xyz"] + [("source", float), ("size", int), ("name", "U9")])
    cells["x"], cells["y"], cells["z"] = points.T
    cells["source"], cells["size"], cells["name"] = points.sum(1) / 3, points.sum(1), "cortex"
    np.save(tmp_path / "cells.npy", cells)
    done = migrate(tmp_path / "cells.npy", tmp_path / "out", voxel_size=(5, 2, 1.5))
    assert done.what == "70,000 cells of ClearMap 2"
    table, metadata = both(tmp_path / "out")
    assert list(table) == ["z", "y", "x", "z_um", "y_um", "x_um", "size", "source", "name"]
    assert json.loads(metadata["voxel_size_um"]) == [5, 2, 1.5]
    for k, (axis, edge) in enumerate(zip("xyz", (1.5, 2, 5), strict=True)):
        assert table[axis].dtype == float
        np.testing.assert_array_equal(table[axis], points[:, k])
        np.testing.assert_array_equal(table[f"{axis}_um"], points[:, k] * edge)
    np.testing.assert_array_equal(table["size"], cells["size"])
    np.testing.assert_array_equal(table["source"], cells["source"])
    assert set(table["name"]) == {"cortex"}


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (None, []),
        (0, ["intensity"]),
        (1, ["intensity"]),
        (2, ["size", "source"]),
        (3, ["intensity_0", "intensity_1", "intensity_2"]),
        (4, ["size", "source", "dog_filter", "background_correction"]),
    ],
)
def test_coordinates_and_intensities_of_clearmap_1(tmp_path, points, columns, names):
    np.save(tmp_path / "cells.npy", points.astype(float) + 0.25)
    values = np.arange(len(points) * max(columns or 1, 1), dtype=float).reshape(len(points), -1)
    np.save(tmp_path / "intensities.npy", values if columns else values[:, 0])
    intensities = None if columns is None else tmp_path / "intensities.npy"
    done = migrate(tmp_path / "cells.npy", tmp_path / "out", intensities=intensities)
    assert done.what == "70,000 cells of ClearMap 1"
    table, metadata = both(tmp_path / "out")
    assert metadata == {}
    assert list(table) == ["z", "y", "x", *names]
    for k, axis in enumerate("xyz"):
        np.testing.assert_array_equal(table[axis], points[:, k] + 0.25)
    stored = {2: ["source", "size"], 4: ["source", "dog_filter", "background_correction", "size"]}.get(columns, names)
    for k, name in enumerate(stored):
        np.testing.assert_array_equal(table[name], values[:, k])
    assert "size" not in names or table["size"].dtype == np.int64


def test_markers_of_cellfinder(tmp_path):
    markers = "".join(
        f"<Marker><MarkerX>{x}</MarkerX><MarkerY>{y}</MarkerY><MarkerZ>{z}</MarkerZ></Marker>"
        for x, y, z in [(1, 2, 3), (4, 5, 6)]
    )
    (tmp_path / "cells.xml").write_text(
        '<?xml version="1.0"?><CellCounter_Marker_File><Image_Properties><Image_Filename>placeholder.tif'
        "</Image_Filename></Image_Properties><Marker_Data><Current_Type>1</Current_Type><Marker_Type><Type>1</Type>"
        "<Marker><MarkerX>9</MarkerX><MarkerY>9</MarkerY><MarkerZ>9</MarkerZ></Marker></Marker_Type><Marker_Type>"
        f"<Type>2</Type>{markers}</Marker_Type></Marker_Data></CellCounter_Marker_File>"
    )
    assert migrate(tmp_path / "cells.xml", tmp_path).what == "2 cells of cellfinder or Cell Counter"
    table, _ = both(tmp_path)
    assert {axis: table[axis].tolist() for axis in table} == {"z": [3, 6], "y": [2, 5], "x": [1, 4]}
    migrate(tmp_path / "cells.xml", tmp_path / "rejected.csv", marker_type=1)
    assert (tmp_path / "rejected.csv").read_text() == "z,y,x\n9.0,9.0,9.0\n"


def test_no_rows_at_all(tmp_path):
    np.save(tmp_path / "a.npy", np.empty((0, 3)))
    assert migrate(tmp_path / "a.npy", tmp_path / "one").what.startswith("0 cells")
    np.save(tmp_path / "b.npy", np.empty(0, [("x", int), ("y", int), ("z", int), ("size", int)]))
    migrate(tmp_path / "b.npy", tmp_path / "two", voxel_size=(1, 1, 1))
    assert (tmp_path / "two" / "cells.csv").read_text() == "z,y,x,z_um,y_um,x_um,size\n"


@pytest.mark.parametrize(
    ("array", "error", "text"),
    [
        (np.zeros((4, 5)), VolumeError, "neither rows with named columns nor"),
        (np.array([[1.0, 2, np.nan]]), VolumeError, "row 1 has no position"),
        (np.zeros(3, [("x", int), ("y", int)]), VolumeError, "no column 'z'"),
        (np.zeros(2, [("x", float), ("y", float), ("z", "U3")]), VolumeError, "column 'z' holds"),
    ],
)
def test_arrays_that_are_no_cells(tmp_path, array, error, text):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(error, match=text):
        migrate(tmp_path / "a.npy", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_intensities_of_other_rows(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    np.save(tmp_path / "i.npy", np.zeros(5))
    with pytest.raises(VolumeError, match=r"i\.npy: has 5 rows, but .*a\.npy has 4"):
        migrate(tmp_path / "a.npy", tmp_path, intensities=tmp_path / "i.npy")
    np.save(tmp_path / "s.npy", np.zeros(4, [(axis, int) for axis in "xyz"]))
    with pytest.raises(ConfigError, match="has columns of its own"):
        migrate(tmp_path / "s.npy", tmp_path, intensities=tmp_path / "i.npy")


def test_maps_of_apmapflow(tmp_path):
    aperture = np.arange(12, dtype=np.int32).reshape(3, 4)
    offset = aperture / 8 + 1
    write_map_text(tmp_path / "a.txt", [aperture], "%d")
    write_map_text(tmp_path / "o.txt", [offset], "%f")
    done = migrate(tmp_path / "a.txt", tmp_path, voxel_size=(10, 7, 20))
    assert done.what == "map of whole numbers of apmapflow, 3 x 4"
    assert done.paths == [tmp_path / "a.tif"]
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages[0].dtype == np.int32
        np.testing.assert_array_equal(tif.asarray(), aperture)
        per_centimetre = [tif.pages[0].tags[name].value for name in ("YResolution", "XResolution")]
        assert [pixels / units for pixels, units in per_centimetre] == pytest.approx([1000, 500])
    done = migrate(tmp_path / "o.txt", tmp_path)
    assert "1 was taken off" in done.left_out[0]
    assert tifffile.imread(tmp_path / "o.tif").dtype == np.float32
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif"), offset - 1)
    migrate(tmp_path / "o.txt", tmp_path / "o.npy", keep_values=True)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), offset)
    migrate(tmp_path / "a.txt", tmp_path / "b.npy")
    assert np.load(tmp_path / "b.npy").dtype == np.int32


@pytest.mark.parametrize("text", ["0.500000\t3.000000\n", "1.5\t3.0\n", "1.000000e+00\t2.000000e+00\n"])
def test_other_maps_keep_their_values(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    done = migrate(tmp_path / "a.txt", tmp_path / "a.npy")
    assert done.left_out == []
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.array([text.split()], float))


def test_recorded_maps(shared, tmp_path):
    import lzma

    golden = shared / "golden" / "apmapflow" / "n1"
    if not golden.is_dir():
        pytest.skip("no recorded runs of apmapflow in the folder 'shared'")
    for name in ("aperture", "offset"):
        packed = golden / f"binary-fracture-small-{name}-map.txt.xz"
        (tmp_path / f"{name}.txt").write_bytes(lzma.decompress(packed.read_bytes()))
        migrate(tmp_path / f"{name}.txt", tmp_path / f"{name}.npy")
        stored = np.loadtxt(tmp_path / f"{name}.txt")
        assert stored.shape == (100, 200)
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), stored - (name == "offset"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"# of today\n\n[detection]\n", "configuration"),
        (b"pipeline_name = 'CellMap'\n", "configuration"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "markers"),
        (b"1\t2\n", "map"),
        (b"nan 2\n", "map"),
    ],
)
def test_content_tells(tmp_path, content, kind):
    (tmp_path / "file").write_bytes(content)
    assert kind_of(tmp_path / "file") == kind


@pytest.mark.parametrize("content", [b"", b"x,y,z\n1,2,3\n", b"II*\0\xff\xfe", b"1,2,3\n"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(VolumeError, match="file: is none of what can be migrated: a configuration of ClearMap"):
        migrate(tmp_path / "file", tmp_path / "out")
    with pytest.raises(VolumeError, match="no such file"):
        migrate(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(VolumeError, match="cannot be read: Is a directory"):
        migrate(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_of_other_files_and_wrong_endings(tmp_path):
    (tmp_path / "a.txt").write_text("1\t2\n")
    for option in ({"intensities": "i.npy"}, {"channel": "c"}, {"marker_type": 1}):
        with pytest.raises(ConfigError, match=r"means nothing for .*a\.txt, which is a map; leave it out"):
            migrate(tmp_path / "a.txt", tmp_path, **option)
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="--keep-values: means nothing"):
        migrate(tmp_path / "a.npy", tmp_path, keep_values=True)
    with pytest.raises(ConfigError, match=r"becomes \.parquet, \.csv; give that ending, or a folder"):
        migrate(tmp_path / "a.npy", tmp_path / "out.tif")
    (tmp_path / "b.cfg").write_text("[detection]\n")
    with pytest.raises(ConfigError, match="has no channels"):
        migrate(tmp_path / "b.cfg", tmp_path, channel="a")


def test_existing_files_are_kept_unless_asked(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    write_table({"z": np.zeros(1)}, tmp_path / "cells.csv")
    before = (tmp_path / "cells.csv").read_bytes()
    with pytest.raises(OutputError, match=r"cells\.csv: exists; give another place with -o, or --overwrite"):
        migrate(tmp_path / "a.npy", tmp_path)
    assert (tmp_path / "cells.csv").read_bytes() == before
    assert not (tmp_path / "cells.parquet").exists()
    migrate(tmp_path / "a.npy", tmp_path, overwrite=True)
    assert len(both(tmp_path)[0]["z"]) == 4
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OutputError, match="folder: cannot be written"):
        migrate(tmp_path / "a.npy", tmp_path / "folder")
