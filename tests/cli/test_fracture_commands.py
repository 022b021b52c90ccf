"""``cytolith fracture`` as users call it: in a process of its own, by flags, with exit codes and one clear line."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import command_line
import numpy as np
import pytest
import tifffile

COMMAND = [str(Path(sys.executable).with_name("cytolith"))]


def call(*arguments, cwd=None, report=False):
    if arguments[0] == "fracture" and not report:  # a page each time would take most of the time
        arguments = (*arguments, "--no-report")
    return command_line.call(*arguments, cwd=cwd)


@pytest.fixture(scope="module")
def rock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rock")
    done = call("sample", "fracture", folder / "sample", "--shape", "30,50,40", "--seed", "3")
    assert done.returncode == 0, done.stderr
    return folder / "sample"


def test_the_sample_gives_its_truth(rock, tmp_path):
    done = call(
        "fracture",
        rock / "fracture.tif",
        "-o",
        tmp_path / "out",
        "-n",
        "1",
        "--gen-cluster-img",
        "--voxel-size",
        "10,5,20",
    )
    assert done.returncode == 0, done.stderr
    truth = json.loads((rock / "truth.json").read_text())
    out = tmp_path / "out"
    names = {
        "fracture-processed.tif", "fracture-processed-clusters.tif", "fracture-aperture-map.txt",
        "fracture-aperture-map.png", "fracture-offset-map.txt", "fracture-offset-map.png", "clusters.csv",
        "summary.json",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    assert (out / "fracture-aperture-map.txt").read_bytes() == (rock / "truth-aperture-map.txt").read_bytes()
    kept = tifffile.imread(out / "fracture-processed.tif")
    assert kept.dtype == np.uint8
    assert (kept == 255).sum() == truth["fracture_voxels"] == (kept > 0).sum()
    offset, known = np.loadtxt(out / "fracture-offset-map.txt"), np.loadtxt(rock / "truth-offset-map.txt")
    assert np.isfinite(offset).all()
    assert (offset == known).sum() > 0.9 * known.size
    summary = json.loads((out / "summary.json").read_text())
    assert summary["aperture"]["mean"] == pytest.approx(truth["mean_aperture"])
    assert summary["aperture_um"]["mean"] == pytest.approx(5 * truth["mean_aperture"])
    with (out / "clusters.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[0]["voxels"]) == truth["fracture_voxels"]
    assert (
        sum(int(row["voxels"]) for row in rows)
        == summary["voxels"]
        == truth["fracture_voxels"] + truth["speckle_voxels"]
    )
    assert f"{truth['fracture_voxels']:,} voxels" in done.stdout
    assert "Aperture (um)" in done.stdout


def test_every_switch_and_name(rock, tmp_path):
    done = call(
        "fracture", rock / "fracture.tif", "-o", tmp_path, "-n", 2, "-i", "--no-clusters", "--no-pictures", "-v",
        "--no-summary", "--offset-map-name", "o.txt", "--aper-map-name", "a.txt", "--img-stack-name", "s.tif",
        "--axis", "x", "--workers", "1", "--memory", "1GiB", "--interpolation", "harmonic", "--filter", "steep",
        "--percentile", "95", "--map-images", "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "a.tif", "o.txt", "o.tif", "s.tif"}
    assert "fracture where not 0, inverted; opening axis x" in done.stderr
    assert "5 files put in place" in done.stderr
    assert np.loadtxt(tmp_path / "a.txt").shape == (30, 50)
    none = call(
        "fracture",
        rock / "fracture.tif",
        "-o",
        tmp_path / "b",
        "--no-aper-map",
        "--no-offset-map",
        "--no-img-stack",
        "-n1",
    )
    assert none.returncode == 0, none.stderr
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"clusters.csv", "summary.json"}


def test_results_go_to_the_current_folder_and_are_not_replaced(rock, tmp_path):
    done = call("fracture", rock / "fracture.tif", "--no-pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {"fracture-aperture-map.txt", "fracture-offset-map.txt", "clusters.csv", "summary.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    again = call("fracture", rock / "fracture.tif", "--no-pictures", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "exists already" in again.stderr
    assert call("fracture", rock / "fracture.tif", "--no-pictures", "-f", cwd=tmp_path).returncode == 0


def write_bad_inputs(folder):
    plane = np.zeros((6, 7), np.uint8)
    tifffile.imwrite(folder / "rgb.tif", np.zeros((6, 7, 3), np.uint8), photometric="rgb")
    with tifffile.TiffWriter(folder / "sizes.tif") as tif:
        tif.write(plane, photometric="minisblack")
        tif.write(plane[:5], photometric="minisblack")
    tifffile.imwrite(folder / "whole.tif", np.zeros((9, 60, 70), np.uint8), photometric="minisblack")
    whole = (folder / "whole.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 2])
    nan = np.zeros((3, 6, 7), np.float32)
    nan[1, 2, 3] = np.nan
    tifffile.imwrite(folder / "nan.tif", nan, photometric="minisblack")
    (folder / "empty.tif").write_bytes(b"")
    (folder / "text.tif").write_text("no image")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["rgb.tif"], 1, "rgb.tif"),
        (["sizes.tif"], 1, "sizes.tif"),
        (["cut.tif"], 1, "cut.tif"),
        (["nan.tif"], 1, "nan.tif: plane 1"),
        (["empty.tif"], 1, "empty.tif"),
        (["text.tif"], 1, "text.tif"),
        (["absent.tif"], 1, "absent.tif does not exist"),
        (["whole.tif", "-n", "0"], 2, "-n 0"),
        (["whole.tif", "-n", "-1"], 2, "-n -1"),
        (["whole.tif", "--aper-map-name", ".."], 2, "--aper-map-name"),
        (["whole.tif", "--offset-map-name", "/"], 2, "--offset-map-name"),
        ([""], 1, "empty name"),
        (["whole.tif", "--axis", "t"], 2, "--axis t"),
        (["whole.tif", "--percentile", "101"], 2, "--percentile 101"),
        (["whole.tif", "--memory", "1MB"], 1, "give at least"),
        (["whole.tif", "--workers", "0"], 2, "--workers 0"),
        (["whole.tif", "--img-stack-name", "s.tif"], 2, "add -n"),
        (["whole.tif", "-n", "1", "--img-stack-name", "whole.tif"], 1, "is the input"),
        (["whole.tif", "-n", "1", "--img-stack-name", "s.jpg"], 1, "s.jpg"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, code, message):
    write_bad_inputs(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = call("fracture", *arguments, "-f", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    lines = [
        line
        for line in done.stderr.splitlines()
        if not line.startswith(("First run", "Note:", "Block ", "clusters ")) and "Mvoxel in" not in line
    ]
    assert len(lines) == 1, done.stderr
    left = [path for path in sorted(tmp_path.iterdir()) if path not in before]
    assert [path.name for path in left] == [".cytolith-fracture"] * (arguments == ["nan.tif"])  # it has finished blocks


KEEP_ONE = ["fracture", "v.npy", "-n", "1", "--no-pictures", "--workers", "2"]


@pytest.fixture(scope="module")
def long_rock(tmp_path_factory):
    """A volume that takes a while, and what an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("long")
    mask = np.zeros((1200, 300, 300), np.uint8)
    mask[:, 140:150] = 1
    mask[::3, 100, ::7] = 1
    mask[5:20, :, 30:60] = 0
    np.save(folder / "v.npy", mask)
    done = call(*KEEP_ONE, "-o", "whole", "--resume", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Note: there is no unfinished run in whole to go on with." in done.stderr
    return folder


def start_and_wait(arguments, cwd, found):
    """A run, as soon as it has left such a file."""
    process = subprocess.Popen([*COMMAND, *arguments], cwd=cwd, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(cwd.glob(found)) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.002)
    return process


def assert_equal_results(ours, theirs):
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    for path in ours.iterdir():
        if path.name != "summary.json":
            assert path.read_bytes() == (theirs / path.name).read_bytes(), path


@pytest.mark.parametrize(
    ("number", "code", "last", "executor"),
    [(signal.SIGINT, 130, "interrupted", "threads"), (signal.SIGTERM, 143, "terminated", "processes")],
)
def test_a_signal_leaves_what_is_finished_and_the_same_command_goes_on(long_rock, number, code, last, executor):
    command = [*KEEP_ONE, "--executor", executor, "-o", executor]
    # not while kernels are loaded: an interrupt that meets a finaliser of a library is ignored by Python
    process = start_and_wait(command, long_rock, f"{executor}/.cytolith-fracture/pass2/*.block")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"cytolith: {last}; nothing half-written is left" in errors
    assert f"what is finished is kept in {executor}; the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert [path.name for path in (long_rock / executor).iterdir()] == [".cytolith-fracture"]
    other = call(*command, "--threshold", "20", cwd=long_rock)
    assert other.returncode == 1
    assert "threshold is 20, the unfinished run there has none" in other.stderr
    again = call(*command, "--resume", cwd=long_rock)
    assert again.returncode == 0, again.stderr
    assert f"Note: going on with the unfinished run in {executor}." in again.stderr
    assert_equal_results(long_rock / executor, long_rock / "whole")


def test_a_run_that_is_killed_goes_on(long_rock):
    for folder in ("pass1", "pass2"):
        process = start_and_wait(
            [*KEEP_ONE, "-o", "killed", "--executor", "processes"],
            long_rock,
            f"killed/.cytolith-fracture/{folder}/*.block",
        )
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    again = call(*KEEP_ONE, "-o", "killed", "-v", cwd=long_rock)
    assert again.returncode == 0, again.stderr
    assert "ended without letting go of the folder; its lock was taken over" in again.stderr
    assert re.search(r"going on with an unfinished run: (\d+) of \1 blocks have been read", again.stderr), again.stderr
    assert_equal_results(long_rock / "killed", long_rock / "whole")


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path):
    mask = (np.random.default_rng(0).random((300, 100, 200)) < 0.001).astype(np.uint8)
    mask[:, 40:50] = 1
    tifffile.imwrite(tmp_path / "v.tif", mask, photometric="minisblack")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        (disk / "filler").write_bytes(bytes(5 << 20))
        command = ["fracture", "v.tif", "-n", "1", "--no-pictures"]
        done = call(*command, "-o", disk / "out", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"cytolith: {disk}/out/")
        assert done.stderr.splitlines()[-1].endswith("cannot be written: the disk is full")
        assert [path.name for path in (disk / "out").iterdir()] == [".cytolith-fracture"]
        (disk / "filler").unlink()
        again = call(*command, "-o", disk / "out", "-v", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert "going on with an unfinished run" in again.stderr
        call(*command, "-o", "whole", cwd=tmp_path)
        assert_equal_results(disk / "out", tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=False)


def test_a_bad_plane_is_named_the_others_are_done_and_the_rest_when_it_is_replaced(tmp_path):
    (tmp_path / "planes").mkdir()
    image = (np.random.default_rng(0).random((40, 60, 70)) < 0.05).astype(np.uint8)
    paths = [tmp_path / "planes" / f"z{z:02d}.tif" for z in range(40)]
    for path, plane in zip(paths, image, strict=True):
        tifffile.imwrite(path, plane, photometric="minisblack", compression="zlib")
    good = paths[20].read_bytes()
    with tifffile.TiffFile(paths[20]) as tif:
        begin = tif.pages.first.dataoffsets[0]
    paths[20].write_bytes(good[:begin] + b"\x5a" * (len(good) - begin))
    command = ["fracture", "planes", "-n", "1", "--no-pictures", "--workers", "2"]
    for _ in range(2):
        done = call(*command, "-o", "out", cwd=tmp_path)
        assert done.returncode == 1
        line = done.stderr.splitlines()[-1]
        said = r"cytolith: (1 of 8 blocks|the block) failed; planes 20 to 24: planes[/\\]z20\.tif"
        assert re.search(said, line), line
        assert "Traceback" not in done.stderr
    paths[20].write_bytes(good)
    again = call(*command, "-o", "out", "-v", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "going on with an unfinished run: 7 of 8 blocks have been read, and results made of 0" in again.stderr
    call(*command, "-o", "whole", cwd=tmp_path)
    assert_equal_results(tmp_path / "out", tmp_path / "whole")


def test_dask_and_its_options(rock, tmp_path):
    for arguments, message in (
        (["--dask", "local:2", "--executor", "threads", "--workers", "2"], "--workers and --dask"),
        (["--executor", "gpu"], "--executor gpu"),
    ):
        done = call("fracture", rock / "fracture.tif", "-o", tmp_path / "out", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
    pytest.importorskip("distributed")
    for folder, where in (("dask", ["--dask", "local:2"]), ("threads", [])):
        done = call("fracture", rock / "fracture.tif", "-o", tmp_path / folder, "-n", "2", "--zarr", "-q", *where)
        assert done.returncode == 0, done.stderr
    for path in (tmp_path / "threads").rglob("*"):
        if path.is_file() and path.name != "summary.json":
            assert (tmp_path / "dask" / path.relative_to(tmp_path / "threads")).read_bytes() == path.read_bytes()


def test_text_that_nobody_reads_is_no_failure(rock, tmp_path):
    line = f"'{COMMAND[0]}' fracture '{rock / 'fracture.tif'}' --no-pictures --no-report -f"
    for redirection in (">&-", "2>&-", "| true"):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line} {redirection}"], cwd=tmp_path, capture_output=True, check=False
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), redirection


def test_fractions_are_no_counts(rock, tmp_path):
    done = call("fracture", rock / "fracture.tif", "-n", "2.5", cwd=tmp_path)
    assert done.returncode == 2
    assert "'2.5' is not a whole number" in done.stderr


STARTER = """
import os, sys
pid = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(status, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def test_memory_does_not_grow_with_the_number_of_planes(tmp_path):
    peaks = []
    for planes in (150, 1500):
        mask = np.zeros((planes, 300, 400), np.uint8)
        mask[:, 140:150] = 1
        mask[::3, 100, ::7] = 1
        mask[5:20, :, 30:60] = 0
        tifffile.imwrite(tmp_path / "v.tif", mask, photometric="minisblack")
        arguments = [*COMMAND, "fracture", str(tmp_path / "v.tif"), "-o", str(tmp_path / "out"), "-n", "1", "-f", "-q"]
        arguments.append("--no-report")  # a page has a bound of its own: cli/afterwards.py
        done = subprocess.run(
            [sys.executable, "-c", STARTER, *arguments], capture_output=True, text=True, check=True
        )  # a tiny process starts it: a child's peak begins with its parent's
        status, peak = map(int, done.stdout.split())
        assert status == 0, done.stderr
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0] + 2**20
    assert peaks[1] < 400 * 2**20
    assert math.prod(mask.shape) > 100e6
