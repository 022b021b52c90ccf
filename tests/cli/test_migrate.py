"""``cytolith migrate`` by its flags."""

import numpy as np
import pytest
from cyclopts import App

from cytolith.cells.build import build_config, read_toml
from cytolith.errors import ConfigError, OutputError
from cytolith.io.tables import read_table


@pytest.fixture
def cytolith():
    app = App(name="cytolith", result_action="return_value")
    app.command("cytolith.cli.migrate:migrate", name="migrate")
    return lambda *arguments: app(["migrate", *map(str, arguments)], exit_on_error=False, print_error=False)


def test_a_configuration(tmp_path, cytolith, capsys):
    (tmp_path / "a.cfg").write_text("[detection]\npreview = True\n[[background_correction]]\ndiameter = [10, 12]\n")
    assert cytolith(tmp_path / "a.cfg", "-o", tmp_path / "out", "--voxel-size", "5,2,2") == 0
    said = capsys.readouterr()
    assert said.out == f"Configuration of ClearMap:\n  {tmp_path / 'out' / 'config.toml'}\n"
    assert said.err == "Note: detection.preview = True: of ClearMap's windows\n"
    steps, run = read_toml(tmp_path / "out" / "config.toml")
    assert run == {"voxel_size": [5, 2, 2]}
    assert [length.value for length in build_config(("", steps)).background_correction.shape] == [12, 10]


def test_cells_into_the_current_folder(tmp_path, cytolith, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("points.npy", np.array([[1, 2, 3], [4, 5, 6]]))
    np.save("intensities.npy", np.array([70.0, 80.0]))
    arguments = ["points.npy", "--intensities", "intensities.npy", "--voxel-size", "6,1.5,1"]
    assert cytolith(*arguments) == 0
    assert capsys.readouterr().out == "2 cells of ClearMap 1:\n  cells.parquet\n  cells.csv\n"
    table, _ = read_table("cells.parquet")
    found = {name: column.tolist() for name, column in table.items()}
    assert found == {"z": [3, 6], "y": [2, 5], "x": [1, 4], "z_um": [18, 36], "y_um": [3, 7.5], "x_um": [1, 4],
                     "intensity": [70, 80]}  # fmt: skip
    with pytest.raises(OutputError, match="--overwrite to replace it"):
        cytolith(*arguments)
    assert cytolith(*arguments, "--overwrite") == 0


def test_a_map(tmp_path, cytolith, capsys):
    (tmp_path / "o.txt").write_text("1.000000\t2.500000\n")
    assert cytolith(tmp_path / "o.txt", "-o", tmp_path / "o.npy") == 0
    assert "--keep-values leaves it" in capsys.readouterr().err
    assert np.load(tmp_path / "o.npy").tolist() == [[0, 1.5]]
    assert cytolith(tmp_path / "o.txt", "-o", tmp_path / "k.npy", "--keep-values") == 0
    assert capsys.readouterr().err == ""
    assert np.load(tmp_path / "k.npy").tolist() == [[1, 2.5]]


def test_wrong_usage(tmp_path, cytolith):
    (tmp_path / "o.txt").write_text("1\t2\n")
    with pytest.raises(ConfigError, match=r"--voxel-size '5,2': give three positive numbers"):
        cytolith(tmp_path / "o.txt", "-o", tmp_path, "--voxel-size", "5,2")
    with pytest.raises(ConfigError, match="--type: means nothing for"):
        cytolith(tmp_path / "o.txt", "-o", tmp_path, "--type", "1")
    with pytest.raises(ConfigError, match="--channel: means nothing for"):
        cytolith(tmp_path / "o.txt", "-o", tmp_path, "--channel", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["o.txt"]


def test_a_note_where_cellfinder_names_no_cells(tmp_path, cytolith, capsys):
    (tmp_path / "a.xml").write_text(
        "<CellCounter_Marker_File><Image_Properties><Image_Filename>placeholder.tif</Image_Filename>"
        "</Image_Properties><Marker_Data><Marker_Type><Type>1</Type><Marker><MarkerX>9</MarkerX><MarkerY>8</MarkerY>"
        "<MarkerZ>7</MarkerZ></Marker></Marker_Type></Marker_Data></CellCounter_Marker_File>"
    )
    assert cytolith(tmp_path / "a.xml", "-o", tmp_path / "out") == 0
    assert capsys.readouterr().err.startswith("Note: no type 2; took type 1 (")
