"""Nothing is lost: a run that is killed, interrupted or stopped by a full disk goes on, and its files are those of an
undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
import zarr
from command_line import call, cytolith

from cytolith.testing.phantoms import cells_phantom

KILLS = 30


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    path = tmp_path_factory.mktemp("volume") / "v.npy"
    np.save(path, np.tile(cells_phantom((45, 150, 160), seed=8)[0], (1, 2, 1)))
    return path


def arguments(volume, folder, block="12,75,80"):
    return [
        "cells", str(volume), "-o", str(folder / "out"), "--block", block, "--voxel-size", "6,1.62,1.62",
        "--smoothing.save", str(folder / "smoothing.zarr"), "--shape-detection.save", str(folder / "labels.npy"),
        "--workers", "2", "--no-report", "-q",
    ]  # fmt: skip


def results(folder):
    """All that a run leaves, voxels of saved volumes included."""
    return [
        (folder / "out" / "cells.parquet").read_bytes(),
        (folder / "out" / "cells.csv").read_bytes(),
        (folder / "labels.npy").read_bytes(),
        zarr.open_array(folder / "smoothing.zarr" / "0", mode="r")[:].tobytes(),
    ]


@pytest.fixture(scope="module")
def undisturbed(volume, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    cytolith(*arguments(volume, folder))
    return results(folder)


KILLER = """
# Children are forked from a process that has loaded everything, so that each run begins at once.
import os, random, signal, sys, threading, time
from pathlib import Path
import numpy as np
from cytolith import detect_cells
from cytolith.cells.build import build_config
from cytolith.cells.run import run_cells
import cytolith.io.flat_sink, cytolith.io.zarr_sink

volume, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
detect_cells(np.load(volume)[:12, :40, :44], voxel_size=(6, 1.62, 1.62), workers=1)
assert threading.active_count() == 1

def start(folder):
    child = os.fork()
    if child:
        return child
    try:
        saves = {"smoothing": {"save": f"{folder}/smoothing.zarr"}, "shape_detection": {"save": f"{folder}/labels.npy"}}
        run_cells(volume, folder / "out", build_config(("", saves)), voxel_size=(6, 1.62, 1.62), block=(12, 40, 44),
                  workers=2)
        os._exit(0)
    except BaseException as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)

chance = random.Random(4)
(folder / "0").mkdir()
begin = time.monotonic()
assert os.waitpid(start(folder / "0"), 0)[1] == 0
seconds = time.monotonic() - begin
done, finished, gone_on = 0, 1, set()
while done < kills:
    place = folder / str(finished)
    place.mkdir(exist_ok=True)
    before = len(list(place.glob("out/blocks/*.block")))
    child = start(place)
    time.sleep(chance.uniform(0, 1.0) * seconds)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        done += 1
        gone_on.add(before)
        # all was done and tidied up, and only the process had not ended yet: the next run is another one
        finished += (place / "out" / "cells.csv").exists() and not (place / "out" / "blocks").exists()
    else:
        assert status == 0
        finished += 1
place = folder / str(finished)
place.mkdir(exist_ok=True)
assert os.waitpid(start(place), 0)[1] == 0
print(done, finished + 1, len(gone_on))
"""


def test_runs_survive_kills_at_random_moments(tmp_path):
    volume, whole = tmp_path / "v.npy", tmp_path / "whole"
    np.save(volume, cells_phantom((36, 120, 130), seed=8)[0])
    cytolith(*arguments(volume, whole, "12,40,44"))
    undisturbed = results(whole)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(volume), str(tmp_path), str(KILLS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    kills, runs, moments = map(int, done.stdout.split())
    assert kills == KILLS
    assert moments > 3, "kills fell where nothing was done yet"
    for number in range(runs):
        assert results(tmp_path / str(number)) == undisturbed
        assert not (tmp_path / str(number) / "out" / "blocks").exists()
        assert not list((tmp_path / str(number)).glob("*.partial*"))


def test_ctrl_c_and_the_same_command_again(volume, undisturbed, tmp_path):
    for sent, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        command = [sys.executable, "-m", "cytolith", *arguments(volume, tmp_path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        begun = len(list(tmp_path.glob("out/blocks/*.block")))
        while len(list(tmp_path.glob("out/blocks/*.block"))) < begun + 6 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(sent)
        _, text = process.communicate(timeout=30)
        assert process.returncode == code, text
        assert "the same command goes on" in text
        assert "Traceback" not in text
        assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "interrupted"
    cytolith(*arguments(volume, tmp_path))
    assert results(tmp_path) == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=False)


def test_a_full_disk_and_more_room_later(volume, tmp_path, small_disk):
    def run():
        more = ["--smoothing.save", small_disk / "s.zarr", "--block", "12,75,80", "--workers", "2", "--no-report", "-q"]
        return call("cells", volume, "-o", small_disk / "out", *more)

    cytolith("cells", volume, "-o", tmp_path / "out", "--no-report", "-q")
    done = run()
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((small_disk / "out").glob("cells.*"))
    finished = len(list((small_disk / "out" / "blocks").glob("*.block")))
    assert finished > 1
    assert run().returncode == 1  # still full
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    done = run()
    assert done.returncode == 0, done.stderr
    assert f"{finished} of" in (small_disk / "out" / "run.log").read_text()
    for name in ("cells.parquet", "cells.csv"):
        assert (small_disk / "out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert (zarr.open_array(small_disk / "s.zarr" / "0", mode="r")[:] != 0).any(axis=(1, 2)).all()


def test_a_share_that_goes_away_and_comes_back(tmp_path):
    """A folder of planes that is not there for a while: blocks wait for it."""
    source = tmp_path / "share" / "planes"
    source.mkdir(parents=True)
    image = cells_phantom((30, 90, 100), seed=2)[0]
    for z, plane in enumerate(image):
        tifffile.imwrite(source / f"z{z:02d}.tif", plane)
    code = f"""
import pathlib, threading, time
from cytolith.cells.build import build_config
from cytolith.cells.run import run_cells
from cytolith.engine.events import BlockDone, Retried
share, away = pathlib.Path({str(tmp_path)!r}, "share"), pathlib.Path({str(tmp_path)!r}, "away")
retried = []
def listen(event):
    if isinstance(event, BlockDone) and not retried and not away.exists():
        share.rename(away)
        threading.Timer(1.0, away.rename, [share]).start()
    if isinstance(event, Retried):
        retried.append(event.message)
run_cells({str(source)!r}, pathlib.Path({str(tmp_path)!r}, "out"), build_config(), block=(5, 90, 100), workers=1,
          listener=listen)
assert retried, "nothing went wrong"
assert "z" in retried[0] and ".tif" in retried[0], retried
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    np.save(tmp_path / "v.npy", image)
    cytolith("cells", tmp_path / "v.npy", "-o", tmp_path / "whole", "--no-report", "-q")
    for name in ("cells.parquet", "cells.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
