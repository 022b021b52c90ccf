"""Files and signals of other systems: chunks and shards, names without letters in the locale, paths that are one."""

import ast
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import other_systems
import pytest
import tifffile
import zarr
from windows_on_linux import KILLED, commands, contents, ended, python

import cytolith.engine.run as engine
from cytolith import convert_volume, run_fracture
from cytolith.cells.build import build_config
from cytolith.cells.run import run_cells
from cytolith.cells.run_folder import refuse_folder
from cytolith.engine.executors import open_pool
from cytolith.engine.grid import Plan, tile
from cytolith.errors import ConfigError, OutputError
from cytolith.io.files import one_spelling, same_place
from cytolith.io.points.export import export_table
from cytolith.testing.phantoms import cells_phantom

SOURCES = sorted((Path(__file__).parents[1] / "src" / "cytolith").rglob("*.py"))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="plays Windows with what Linux says of open files in /proc")
POSIX = pytest.mark.skipif(os.name == "nt", reason="names of files are letters of all kinds on Windows, never bytes")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    path = tmp_path_factory.mktemp("volume") / "v.npy"
    np.save(path, cells_phantom((30, 90, 100), seed=8)[0])
    return path


# --- chunks and shards on Windows ----------------------------------------------------------------------------------


@LINUX
def test_saved_zarr_is_the_same_on_windows(volume, tmp_path):
    line = ["cells", volume, "-o", "out", "--block", "12,45,50", "--voxel-size", "6,1.62,1.62", "--workers", "2"]
    line += ["--smoothing.save", "smoothing.zarr", "--labels", "--no-report"]
    for name in ("linux", "windows"):
        (tmp_path / name).mkdir()
    commands(line, folder=tmp_path / "linux", windows=False)
    commands(line, [*line, "--overwrite"], folder=tmp_path / "windows")
    expected = contents(tmp_path / "linux")
    assert len([name for name in expected if "/c/" in name]) > 10
    assert contents(tmp_path / "windows") == expected


@LINUX
def test_a_conversion_to_shards_that_was_killed_and_one_that_replaces(volume, tmp_path):
    ended(python("-c", KILLED, "convert", volume, "a.zarr", folder=tmp_path, DIE="2"), code=9)
    assert (tmp_path / "a.zarr.partial").exists()
    ended(python("-c", KILLED, "convert", volume, "a.zarr", "again", folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")[:], np.load(volume))


# --- names that the locale has no letters for ----------------------------------------------------------------------

NAMES = """
import os, pickle, sys
from cytolith.io.stamps import Stamps, stamp_files
from cytolith.io.volume import open_volume

folder = sys.argv[1]
paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))
stamps = stamp_files((path, z, z + 1) for z, path in enumerate(paths))
assert Stamps.from_arrays(stamps.to_arrays()).names == paths
volume = pickle.loads(pickle.dumps(open_volume(folder)))
print(volume.read((slice(0, 3), slice(0, 4), slice(0, 5))).ravel().tolist())
"""


@POSIX
@pytest.mark.parametrize("variables", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONUTF8": "1"}])
def test_names_travel_as_the_bytes_that_they_are(tmp_path, variables):
    folder = tmp_path / "Fötus 脳"
    folder.mkdir()
    image = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    for z, plane in enumerate(image):
        tifffile.imwrite(folder / f"Größe {z}.tif", plane)
    said = ended(python("-c", NAMES, folder, folder=tmp_path, windows=False, **variables))
    assert said.split("\n")[0] == str(image.ravel().tolist())


# --- paths that are one --------------------------------------------------------------------------------------------


def also_called(path, name):
    """Give a file another name, as macOS and Windows do without being asked where it differs in case only."""
    if not path.with_name(name).exists():
        os.link(path, path.with_name(name))


def test_two_names_of_one_file_are_one_place(tmp_path):
    (tmp_path / "Brain.npy").write_bytes(b"1")
    (tmp_path / "other.npy").write_bytes(b"1")
    also_called(tmp_path / "Brain.npy", "brain.NPY")
    assert same_place(tmp_path / "Brain.npy", tmp_path / "brain.NPY")
    assert not same_place(tmp_path / "Brain.npy", tmp_path / "other.npy")
    assert same_place(tmp_path / "none", tmp_path / "x" / ".." / "none")
    assert not same_place(tmp_path / "none", tmp_path / "Brain.npy")


def test_an_input_is_not_replaced_under_another_name(tmp_path):
    image = np.zeros((5, 6, 7), np.uint8)
    np.save(tmp_path / "Brain.npy", image)
    also_called(tmp_path / "Brain.npy", "brain.NPY.npy")
    with pytest.raises(OutputError, match="is, or holds, the input"):
        convert_volume(tmp_path / "Brain.npy", tmp_path / "brain.NPY.npy", region="0:2,:,:", overwrite=True)
    with pytest.raises(OutputError, match="is the input"):
        run_fracture(tmp_path / "Brain.npy", tmp_path, n=1, stack_name="brain.NPY.npy", force=True)
    (tmp_path / "cells.csv").write_text("z,y,x\n1,2,3\n", encoding="utf-8", newline="\n")
    also_called(tmp_path / "cells.csv", "Cells.csv")
    with pytest.raises(OutputError, match="is the table itself"):
        export_table(tmp_path / "cells.csv", tmp_path / "Cells.csv", overwrite=True)
    save = build_config(("", {"smoothing": {"save": str(tmp_path / "brain.NPY.npy")}}))
    with pytest.raises(ConfigError, match=r"smoothing\.save: .* is the input"):
        run_cells(tmp_path / "Brain.npy", tmp_path / "out", save, voxel_size=(1, 1, 1), overwrite=True)
    with pytest.raises(OutputError, match="is the input; give another folder"):
        refuse_folder(tmp_path / "brain.NPY.npy", tmp_path / "Brain.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "Brain.npy"), image)


# --- interrupts ----------------------------------------------------------------------------------------------------


def test_a_run_looks_up_while_blocks_are_at_work(monkeypatch):
    """Windows answers Ctrl-C only then."""
    looked, wait = [], engine.wait
    monkeypatch.setattr(engine, "_ANSWERED", 0.02)
    monkeypatch.setattr(engine, "wait", lambda *given, **options: looked.append(0) or wait(*given, **options))

    def slow(block, ahead, given):
        time.sleep(0.3)
        return block.index

    blocks = tile((4, 5, 6), (2, 5, 6), (0, 0, 0))
    with open_pool("threads", 1) as pool:
        done = list(engine.run_blocks(slow, Plan(blocks, (2, 5, 6), 1, 0, 0), pool, in_order=True))
    assert [result for _, result in done] == [0, 1]
    assert 10 < len(looked) < 60


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="plays the signal of Windows with one of POSIX")
def test_the_window_of_windows_is_closed(tmp_path):
    code = """
import os, signal, time
signal.SIGBREAK = signal.SIGUSR1
import cytolith.cli as cli
cli.app = lambda tokens: os.kill(os.getpid(), signal.SIGUSR1) or time.sleep(5)
cli.main([])
"""
    said = ended(python("-c", code, folder=tmp_path, windows=False), code=128 + signal.SIGUSR1)
    assert "terminated" in said


# --- texts ---------------------------------------------------------------------------------------------------------


def text_files(path):
    """Lines of a source that open a text, whether they write it, and the keywords that they give."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
        writes = name == "write_text" and isinstance(node.func, ast.Attribute)
        writes |= name == "open" and any(mode in ("w", "a", "x", "w+", "r+") for mode in modes)
        if writes or name == "read_text":
            yield node.lineno, writes, {each.arg for each in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_texts_name_their_encoding_and_their_ends_of_lines(path):
    for line, writes, given in text_files(path):
        assert "encoding" in given, f"{path}:{line}: the encoding is that of the system"
        assert not writes or "newline" in given, f"{path}:{line}: lines end as the system has it"


# --- tests ---------------------------------------------------------------------------------------------------------

TESTS = Path(__file__).parent
ONLY_POSIX = re.compile(
    r"killpg|SIGKILL|SIGINT|SIGTERM|send_signal|os\.fork|geteuid|start_new_session|\bbash\b|mkfifo|import fcntl"
    r"|st_blocks\b(?!\()|KillOnce|KILLER|STARTER|os, \"p(?:write|readv)\"|os\.uname|/proc|/dev/"
    r"|\"HOME\"(?![\s\S]*USERPROFILE)"
)
"""What gives away in the source of a test that it is none for Windows."""


def functions_of(path):
    """Names of the tests of a file with their sources, and whether they say themselves where they run."""
    source = path.read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            skips = "pytestmark" in source or any("skip" in ast.unparse(each) for each in node.decorator_list)
            yield node.name, ast.get_source_segment(source, node), skips or 'Path("/proc/self/fd").exists()' in source


def test_tests_for_some_systems_are_known():
    paths = [path for path in TESTS.rglob("test_*.py") if "portab" not in path.name]
    found = {
        f"{path.relative_to(TESTS).as_posix()}::{name}": test for path in paths for name, *test in functions_of(path)
    }
    assert len(found) > 500
    for names in (*other_systems.NOT_ON_WINDOWS.values(), *other_systems.ON_LINUX.values()):
        for name in names:
            assert any(test.partition("::")[0] == name or test == name for test in found), f"{name} is no test"
    unknown = [
        test
        for test, (source, skips) in found.items()
        if ONLY_POSIX.search(source) and not skips and other_systems.reason_to_skip(test, "win32") is None
    ]
    assert not unknown, f"add to tests/other_systems.py: {unknown}"
    assert not [test for test in found if other_systems.reason_to_skip(test, "linux")]
    assert 10 < sum(other_systems.reason_to_skip(test, "darwin") is not None for test in found) < 60


def test_a_path_has_one_spelling(tmp_path, monkeypatch):
    """However its folders are called: by a link, from where we are, or on Windows in other letters."""
    (tmp_path / "planes").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    expected = str(tmp_path.resolve() / "planes" / "*.tif")
    monkeypatch.chdir(tmp_path)
    for given in (tmp_path / "planes" / "*.tif", tmp_path / "link" / "planes" / "*.tif", "planes/*.tif"):
        assert one_spelling(given) == expected
