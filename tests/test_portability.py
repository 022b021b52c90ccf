"""Windows and macOS, as far as Linux can tell: runs that meet what a program meets on Windows, names and locales of all
kinds, and what each call that only POSIX has does where there is none."""

import errno
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr
from windows_on_linux import KILLED, commands, contents, ended, python, wait_for_blocks

from cytolith.axes import full_region
from cytolith.cells.build import read_toml, to_toml
from cytolith.cells.config import CellsConfig
from cytolith.engine import machine
from cytolith.errors import OutputError
from cytolith.io import files
from cytolith.io.files import output_error, patiently, write_at, write_text
from cytolith.io.flat_sink import FlatSink
from cytolith.io.record import read_record, write_record
from cytolith.io.row_file import RowFile
from cytolith.io.sink import create_sink
from cytolith.testing.fracture_phantom import write_fracture_sample
from cytolith.testing.phantoms import cells_phantom

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="plays Windows with what Linux says of open files in /proc")
ODD = "Hirn – Fötus 脳 #1 100% 'a' & b"  # noqa: RUF001
"""What shells, patterns, URLs and printf care about, and letters of many kinds."""


# --- volumes and runs ----------------------------------------------------------------------------------------------


def cells_command(source, *more, workers=2):
    return [
        "cells", source, "-o", "out", "--block", "12,75,80", "--voxel-size", "6,1.62,1.62", "--workers", workers,
        "--smoothing.save", "dog/smoothing.tif", "--shape-detection.save", "labels.npy", "--no-report", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def phantom():
    return cells_phantom((45, 150, 160), seed=8)[0]


@pytest.fixture(scope="module")
def volume(phantom, tmp_path_factory):
    path = tmp_path_factory.mktemp("volume") / "v.npy"
    np.save(path, phantom)
    return path


@pytest.fixture(scope="module")
def rock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rock")
    write_fracture_sample(folder, (40, 50, 60), 1)
    return folder / "fracture.tif"


@pytest.fixture(scope="module")
def on_linux(volume, tmp_path_factory):
    """What the run of `cells_command` leaves on Linux."""
    folder = tmp_path_factory.mktemp("linux")
    commands(cells_command(volume), folder=folder, windows=False)
    return contents(folder)


# --- the stand-in itself -------------------------------------------------------------------------------------------

BITES = """
import mmap, os, sys
from pathlib import Path
from cytolith.io import files, lock, windows

def refused(kind, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} is not refused")

a, b = Path("a"), Path("b")
a.write_bytes(b"abc"); b.write_bytes(b"b")
with a.open("rb"):
    for call, arguments in ((a.replace, ["c"]), (b.replace, [a]), (a.unlink, []), (a.rename, ["c"])):
        refused(PermissionError, call, *arguments)
with a.open("rb") as file:
    kept = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
refused(PermissionError, a.unlink)
kept.close()
os.mkdir("folder"); Path("folder", "a").write_text("x\\n", encoding="utf-8")
assert Path("folder", "a").read_bytes() == b"x\\r\\n"
with Path("folder", "a").open("rb"):
    refused(PermissionError, Path("folder").rename, "other")
refused(PermissionError, os.open, "folder", os.O_RDONLY)
refused(FileExistsError, a.rename, b)
refused(OSError, Path("12:30.log").write_bytes, b"")
refused(UnicodeEncodeError, Path("t").write_text, "脳")
assert not hasattr(files.os, "pwrite") and not hasattr(files.os, "preadv") and files.sys.platform == "win32"
assert sys.platform == "linux"
child = os.posix_spawn("/bin/true", ["true"], {})
os.waitpid(child, 0)
own, parent = os.getpid(), os.getppid()
assert windows.process_runs(own) and windows.process_runs(parent) and not windows.process_runs(child)
assert windows.process_start(own) == windows.process_start(own) != windows.process_start(parent)
assert windows.process_start(own) >> 32 == 7
assert windows.process_start(child) is None
assert windows.memory_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
assert 2**20 < windows.peak_bytes() < 2**40
from cytolith.engine import machine
assert machine.default_workers() == os.cpu_count()
assert 2**28 < machine.default_memory() <= windows.memory_bytes() // 2
assert machine.peak_bytes() >= 2**20
with a.open("rb+") as file:
    assert windows.make_sparse(file.fileno())
null = os.open(os.devnull, os.O_WRONLY)
assert not windows.make_sparse(null)
print("all refused", flush=True)
lock.os.kill(own, 0)
"""


@LINUX
def test_the_stand_in_refuses_what_windows_does(tmp_path):
    assert "all refused" in ended(python("-c", BITES, folder=tmp_path), code=99)


# --- whole runs on Windows -----------------------------------------------------------------------------------------


@LINUX
def test_cells_with_saved_volumes_overwritten_exported_and_read(volume, on_linux, tmp_path):
    exports = ["napari", "neuroglancer", "cellfinder", "clearmap"]
    commands(
        cells_command(volume),
        cells_command(volume, "--overwrite"),
        *(["export", "out", "-o", f"of-{kind}", "--format", kind] for kind in exports),
        *(["export", "out", "-o", f"of-{kind}", "--format", kind, "--overwrite"] for kind in exports),
        ["export", "out", "-o", "out.csv"],
        ["density", "out", "-o", "density.tif", "--voxel-size", "25 um", "--radius", "50 um"],
        ["filter", "out/cells.parquet", "-o", "kept.csv", "--size", "20,900"],
        ["score", "out", "out/cells.csv", "-o", "score", "--tolerance", "8 um"],
        ["report", "out"],
        ["info", volume],
        folder=tmp_path,
    )
    made = contents(tmp_path)
    assert {name: made.get(name) for name in on_linux} == on_linux
    assert made["out.csv"] == made["out/cells.csv"]
    texts = {name for name in made if name.endswith((".csv", ".toml", ".json", ".xml"))} | {"out/run.json"}
    assert not [name for name in texts if b"\r" in (tmp_path / name).read_bytes()]
    assert not [name for name in made if "partial" in name or "lock" in name or "replaced" in name]
    assert {name.split("/")[0] for name in made if name.startswith("of-")} == {f"of-{kind}" for kind in exports}
    assert b"cytolith" in (tmp_path / "out" / "report.html").read_bytes()
    assert len({name.casefold() for name in made}) == len(made), "names that Windows takes for one"


SLOW = """
import sys, time
from cytolith.cells.task import CellsTask
from cytolith.cli import main
call = CellsTask.__call__
def slow(self, block, *others):
    if block.index > 5:
        time.sleep(60)
    return call(self, block, *others)
CellsTask.__call__ = slow
main(sys.argv[1:])
"""


@LINUX
def test_one_run_at_a_time_and_one_that_was_killed_goes_on(volume, on_linux, tmp_path):
    """The lock of Windows between processes, and what a killed run leaves, with files that it held open."""
    line = cells_command(volume, workers=1)
    first = python("-c", SLOW, *line, folder=tmp_path)
    wait_for_blocks("out/blocks/*.block", tmp_path, first, 6)
    refused = ended(python("-m", "cytolith", *line, folder=tmp_path), code=1)
    assert f"another run (process {first.pid} on " in refused
    assert json.loads((tmp_path / "out" / ".cytolith.lock").read_text())["pid"] == first.pid
    assert (tmp_path / "labels.npy.partial").exists()
    first.kill()
    first.communicate()
    ended(python("-m", "cytolith", *line, "-q", folder=tmp_path))
    log = (tmp_path / "out" / "run.log").read_text()
    assert f"a run (process {first.pid} on " in log
    assert "6 of 16 blocks are done already" in log
    assert contents(tmp_path) == on_linux


OF_POSIX = ("says_who_holds", "removed_between", "releasing_leaves", "permission_denied")
"""Tests of the lock that read /proc as Linux counts, remove a file that is open, or replace a call of POSIX."""


@LINUX
def test_the_lock_of_windows(tmp_path):
    arguments = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}"]
    chosen = " and ".join(f"not {name}" for name in OF_POSIX)
    tests = Path(__file__).parent / "io" / "test_lock.py"
    assert " passed" in ended(python("-m", "pytest", *arguments, "-k", chosen, tests, folder=tmp_path))


@LINUX
def test_processes_of_windows(odd, on_linux):
    """Started from a folder with an odd name, for planes that a pattern names."""
    commands(cells_command("planes [00 x 00]/*ß*.tif", "--executor", "processes"), folder=odd)
    made = contents(odd)
    assert {name: made.get(name) for name in on_linux if "config" not in name} == {
        name: data for name, data in on_linux.items() if "config" not in name
    }


@LINUX
def test_a_fracture_that_was_killed_and_one_that_replaces_results(rock, tmp_path):
    linux, windows = tmp_path / "linux", tmp_path / "windows"
    for folder in (linux, windows):
        folder.mkdir()
    ended(python("-c", KILLED, "fracture", rock, "out", folder=linux, windows=False))
    ended(python("-c", KILLED, "fracture", rock, "out", folder=windows, DIE="3"), code=9)
    assert len(list(windows.glob("out/.cytolith-fracture/pass1/*.block"))) == 3
    ended(python("-c", KILLED, "fracture", rock, "out", "again", folder=windows))
    expected = contents(linux)
    assert len(expected) == 9
    assert contents(windows) == expected
    assert not list(windows.glob("out/.*"))


@LINUX
@pytest.mark.parametrize("name", ["a.tif", "a.npy"])
def test_a_conversion_that_was_killed_and_one_that_replaces(volume, phantom, tmp_path, name):
    ended(python("-c", KILLED, "convert", volume, name, folder=tmp_path, DIE="2"), code=9)
    assert (tmp_path / f"{name}.partial").exists()
    ended(python("-c", KILLED, "convert", volume, name, "again", folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    read = np.load if name.endswith(".npy") else tifffile.imread
    np.testing.assert_array_equal(read(tmp_path / name), phantom)


# --- names and locales ---------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path, phantom):
    """A folder with an odd name, with a volume and planes in it."""
    folder = tmp_path / ODD
    planes = folder / "planes [00 x 00]"
    planes.mkdir(parents=True)
    np.save(folder / "v ü.npy", phantom)
    for z, plane in enumerate(phantom):
        tifffile.imwrite(planes / f"Zelle ß z{z:03d}.tif", plane)
    return folder


def table(path):
    return (path / "cells.csv").read_bytes(), (path / "cells.parquet").read_bytes()


def test_names_with_blanks_and_letters_of_all_kinds(odd, on_linux, rock, tmp_path):
    shutil.copy(rock, odd / "Klüfte #2 50%.tif")
    flags = ["--voxel-size", "6,1.62,1.62"]
    commands(
        ["cells", odd / "v ü.npy", "-o", odd / "out é", *flags, "--smoothing.save", odd / "out é" / "g ö.zarr",
         "--export", "napari,neuroglancer", "--no-report"],
        ["cells", odd / "planes [00 x 00]", "-o", odd / "folder", *flags, "--no-report"],
        ["cells", "--config", odd / "out é" / "config.toml", "-o", odd / "again", "--no-report"],
        ["export", odd / "out é", "-o", odd / "Zellen 脳.xml"],
        ["filter", odd / "out é" / "cells.csv", "-o", odd / "größer #.csv", "--size", "0,1e9"],
        ["score", odd / "Zellen 脳.xml", odd / "größer #.csv", "-o", odd / "Güte", *flags],
        ["convert", odd / "planes [00 x 00]", odd / "c ä.zarr", *flags],
        ["convert", odd / "c ä.zarr", odd / "teil 1%.tif", "--region", "0:5,:,:"],
        ["density", odd / "out é", "-o", odd / "d ß.tif", "--voxel-size", "25 um", "--radius", "50 um"],
        ["fracture", odd / "Klüfte #2 50%.tif", "-o", odd / "Karten ß", "-n", "1", "--img-stack-name", "rein ü.npy",
         "--no-report"],
        ["fracture", rock, "-o", tmp_path / "plain", "-n", "1", "--no-report", "--no-pictures"],
        folder=tmp_path,
        windows=False,
    )  # fmt: skip
    expected = on_linux["out/cells.csv"], on_linux["out/cells.parquet"]
    for name in ("out é", "folder", "again"):
        assert table(odd / name) == expected, name
    assert (odd / "größer #.csv").read_bytes() == expected[0]
    scores = json.loads((odd / "Güte" / "score.json").read_text(encoding="utf-8"))
    assert '"f1": 1.0' in json.dumps(scores).lower()
    np.testing.assert_array_equal(tifffile.imread(odd / "teil 1%.tif"), np.load(odd / "v ü.npy")[:5])
    maps, plain = contents(odd / "Karten ß"), contents(tmp_path / "plain")
    assert maps["Klüfte #2 50%-aperture-map.txt"] == plain["fracture-aperture-map.txt"]
    stack = tifffile.imread(tmp_path / "plain" / "fracture-processed.tif")
    np.testing.assert_array_equal(np.load(odd / "Karten ß" / "rein ü.npy"), stack)


@pytest.mark.skipif(os.name == "nt", reason="names of files are never ASCII alone on Windows")
def test_a_locale_without_letters(odd, on_linux, tmp_path):
    """ASCII for everything, as on old clusters: names are what the system says, to the byte."""
    line = ["cells", odd / "v ü.npy", "-o", odd / "out é", "--no-report", "--voxel-size", "6,1.62,1.62"]
    process = python("-m", "cytolith", *line, folder=tmp_path, windows=False, LC_ALL="C", PYTHONUTF8="0")
    assert "216 cells" in ended(process)
    assert table(odd / "out é") == (on_linux["out/cells.csv"], on_linux["out/cells.parquet"])
    text = (odd / "out é" / "config.toml").read_bytes().decode("utf-8")
    assert f'input = "{odd / "v ü.npy"}"' in text


def test_folders_of_windows_come_back_from_config(tmp_path):
    path = "C:\\new data\\tab\\Fötus 脳.npy"
    write_text(tmp_path / "config.toml", to_toml(CellsConfig(), {"input": path}))
    assert read_toml(tmp_path / "config.toml")[1]["input"] == path


# --- the twins of calls that only POSIX has ------------------------------------------------------------------------


@pytest.fixture
def no_places(monkeypatch):
    """An `os` that knows one position in an open file, and moves a few bytes in a call."""
    for name in ("pread", "preadv", "pwrite", "pwritev"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(files, "_AT_ONCE", 13)


def test_rows_without_positioned_calls_in_many_threads(tmp_path, no_places):
    expected = np.arange(400 * 301, dtype=np.float64).reshape(400, 301)
    with RowFile(tmp_path / "map.rows", expected.shape, np.float64) as file, ThreadPoolExecutor(8) as pool:

        def turn(row):
            file.write(row, expected[row : row + 1])
            return file.read(row, row + 1)

        np.testing.assert_array_equal(np.concatenate(list(pool.map(turn, range(400)))), expected)
        assert file.path.read_bytes() == expected.tobytes()
        os.truncate(file.path, 100)
        with pytest.raises(OutputError, match="cut off while in use"):
            file.read(0, 400)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_volumes_without_positioned_calls_in_many_threads(tmp_path, no_places, phantom, suffix):
    path = tmp_path / f"v{suffix}"
    image = phantom[:, :60, :50].copy()
    with create_sink(path, image.shape, image.dtype, (1, 60, 50)) as sink, ThreadPoolExecutor(8) as pool:
        regions = [(slice(z, z + 1), slice(y, y + 30), slice(0, 50)) for z in range(len(image)) for y in (0, 30)]
        list(pool.map(lambda region: sink.write(region, image[region]), regions))
    np.testing.assert_array_equal(np.load(path) if suffix == ".npy" else tifffile.imread(path), image)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_volumes_have_holes_on_windows(tmp_path, monkeypatch, phantom, suffix):
    """Nothing but the last byte is written before the voxels, and the file was told to have holes before."""
    told = []
    monkeypatch.setattr(files, "make_sparse", lambda descriptor: told.append(os.fstat(descriptor).st_size))
    with monkeypatch.context() as windows:
        windows.setattr(files, "sys", SimpleNamespace(platform="win32"))
        sink = create_sink(tmp_path / f"v{suffix}", phantom.shape, phantom.dtype, phantom.shape)
    assert told == [0]
    assert not sink.read(full_region(phantom.shape)).any()
    sink.write(full_region(phantom.shape), phantom)
    sink.close()
    with create_sink(tmp_path / f"w{suffix}", phantom.shape, phantom.dtype, phantom.shape) as sink:
        sink.write(full_region(phantom.shape), phantom)
    assert len(told) == 1
    assert (tmp_path / f"v{suffix}").read_bytes() == (tmp_path / f"w{suffix}").read_bytes()


def test_no_call_moves_as_much_as_macos_refuses(tmp_path, monkeypatch):
    """macOS refuses calls of 2 GiB; Linux moves a part of them."""
    sizes = []
    calls = {
        "pwrite": lambda descriptor, data, place: sizes.append(len(data)) or len(data),
        "preadv": lambda descriptor, into, place: sizes.append(len(into[0])) or len(into[0]),
    }
    for name, call in calls.items():
        monkeypatch.setattr(os, name, call, raising=False)

    class Huge:
        """Bytes that are not there: only how many is looked at."""

        def __init__(self, size):
            self.size = size

        def __len__(self):
            return self.size

        def __getitem__(self, part):
            return Huge(len(range(*part.indices(self.size))))

    write_at(7, Huge(5 << 30), 0)
    assert files.read_at(7, Huge(5 << 30), 0) == 5 << 30
    assert sum(sizes) == 10 << 30
    assert max(sizes) < 1 << 31


def test_room_of_a_resumed_file_where_the_system_names_no_blocks(tmp_path):
    """Such systems give a file all of its room when it is made."""
    asked = []
    sink = SimpleNamespace(
        _partial=SimpleNamespace(stat=lambda: SimpleNamespace(st_size=1_000_128)), _begin=128, _bytes=1_000_000
    )
    sink._check_room = asked.append
    FlatSink._check_rest(sink)
    assert asked[0] < 512


@pytest.mark.parametrize("refusals", [2, 99])
def test_what_a_scanner_has_open_is_waited_for(tmp_path, monkeypatch, refusals):
    monkeypatch.setattr(files, "_PAUSES", (0.001,) * 4)
    (tmp_path / "a").write_text("old")
    calls, replace = [], Path.replace

    def busy(self, target):
        calls.append(target)
        if len(calls) <= refusals:
            error = PermissionError(errno.EACCES, "Access is denied.")
            error.winerror = 5
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    if refusals == 2:
        write_text(tmp_path / "a", "new")
        assert len(calls) == 3
    else:
        said = r"a: cannot be written: Access is denied; is it open in another program\?$"
        with pytest.raises(OutputError, match=said):
            write_text(tmp_path / "a", "new")
        assert len(calls) == 5
    assert (tmp_path / "a").read_text() == ("new" if refusals == 2 else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_chunks_and_records_that_a_scanner_has_open_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PAUSES", (0.001,) * 4)
    refused, replace, read_bytes = [], Path.replace, Path.read_bytes

    def busy(call, path, *given):
        if path not in refused:
            refused.append(path)
            raise PermissionError(errno.EACCES, "Access is denied.")
        return call(*given)

    image = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    with create_sink(tmp_path / "v.zarr", image.shape, image.dtype, (2, 5, 6)) as sink:
        monkeypatch.setattr(Path, "replace", lambda self, target: busy(replace, target, self, target))
        for z in (0, 2):
            region = slice(z, z + 2), slice(0, 5), slice(0, 6)
            sink.write(region, image[region])
    assert len(refused) == 3, "two chunks, and the volume"
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "v.zarr" / "0", mode="r")[:], image)
    write_record(tmp_path / "a", {}, {"block": 7})
    refused.clear()
    monkeypatch.setattr(Path, "read_bytes", lambda self: busy(read_bytes, self, self))
    assert read_record(tmp_path / "a").info == {"block": 7}
    assert refused == [tmp_path / "a"]


def test_macos_is_asked_to_empty_the_memory_of_the_disk(tmp_path, monkeypatch):
    asked = []
    fcntl = SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda descriptor, what: asked.append(what))
    monkeypatch.setitem(sys.modules, "fcntl", fcntl)
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform="darwin"))
    write_text(tmp_path / "a", "a")
    assert asked == [51]
    fcntl.fcntl = lambda descriptor, what: os.close(-1)  # a share that does not know it
    write_text(tmp_path / "a", "b")
    assert (tmp_path / "a").read_text() == "b"


def test_other_errors_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(files, "_PAUSES", (60.0,))
    with pytest.raises(FileNotFoundError):
        patiently(lambda: Path("/none/at/all").stat())


def test_a_file_that_another_program_has_open_is_said():
    error = PermissionError(errno.EACCES, "The process cannot access the file because it is being used")
    error.winerror = 32
    said = str(output_error(Path("cells.csv"), error))
    assert said == "cells.csv: cannot be written: another program has it open; close it there, and run again"


def test_a_path_that_windows_may_find_too_long(monkeypatch):
    gone = FileNotFoundError(errno.ENOENT, "No such file or directory")
    deep = Path("/", *["a folder with a name"] * 9, "a.npy")
    assert str(output_error(deep, gone)).endswith("a.npy: cannot be written: No such file or directory")
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform="win32"))
    said = "a.npy: cannot be written: the path may be too long for Windows; choose a shorter one"
    assert str(output_error(deep, gone)).endswith(said)
    assert str(output_error(Path("/a.npy"), gone)) == "/a.npy: cannot be written: No such file or directory"


def test_texts_have_the_same_bytes_everywhere(tmp_path):
    """Python would write CRLF on Windows, and refuse names of files that are no UTF-8."""
    write_text(tmp_path / "a", "a\nµ\udcff\n")
    assert (tmp_path / "a").read_bytes() == b"a\n\xc2\xb5\xff\n"


@pytest.mark.skipif(os.name == "nt", reason="replaces a call that only POSIX has")
def test_a_machine_that_says_nothing_of_its_memory(monkeypatch, tmp_path):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    monkeypatch.setattr(machine, "_job_limits", lambda *_: iter(()))
    assert machine.default_memory() == 4 * 2**30


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them, and names that are any bytes")
def test_groups_of_any_name_limit_memory(tmp_path):
    (tmp_path / "cgroup").write_bytes(b"0::/J\xc3\xb6b\xff\n")
    limit = tmp_path / "root" / os.fsdecode(b"J\xc3\xb6b\xff") / "memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("1000\n")
    assert list(machine._job_limits(tmp_path / "cgroup", tmp_path / "root")) == [1000]
