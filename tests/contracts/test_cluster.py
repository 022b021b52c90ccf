"""Anywhere: a real Dask scheduler and real worker processes on loopback give the table of threads, whoever is lost."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from command_line import cytolith

from cytolith.testing.phantoms import cells_phantom

pytest.importorskip("distributed")


@contextmanager
def started(*arguments, **options):
    """A Python process in a session of its own, killed with all that it started at the end."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


@pytest.fixture
def scheduler(tmp_path):
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    with started("-m", "dask", "scheduler", *options, "--scheduler-file", file):
        until(file.exists)
        yield file


def worker(file, folder):
    """A worker process without a nanny: when it is killed nobody starts it anew."""
    options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
    return started("-m", "dask", "worker", "--scheduler-file", file, *options, "--local-directory", folder)


def arguments(volume, out, *more):
    return [
        "cells", str(volume), "-o", str(out), "--block", "14,70,80", "--voxel-size", "6,1.62,1.62", "--no-report",
        *map(str, more),
    ]  # fmt: skip


def command(*words):
    return [sys.executable, "-m", "cytolith", *arguments(*words)]


def tables(out):
    return [(out / name).read_bytes() for name in ("cells.parquet", "cells.csv")]


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(scheduler, tmp_path):
    volume = tmp_path / "v.npy"
    np.save(volume, cells_phantom((40, 200, 220), seed=9)[0])
    saved = {name: tmp_path / f"{name}.zarr" for name in ("threads", "dask")}
    cytolith(*arguments(volume, tmp_path / "threads", "-q", "--shape-detection.save", saved["threads"]))
    with worker(scheduler, tmp_path), worker(scheduler, tmp_path) as victim:
        more = ["--dask-scheduler-file", scheduler, "--shape-detection.save", saved["dask"]]
        process = subprocess.Popen(
            command(volume, tmp_path / "dask", *more), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        until(lambda: len(list(tmp_path.glob("dask/blocks/*.block"))) >= 6 or process.poll() is not None)
        victim.send_signal(signal.SIGKILL)
        left = len(list(tmp_path.glob("dask/blocks/*.block")))
        _, text = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert left < 27, "all was done before the worker was killed"
    assert tables(tmp_path / "dask") == tables(tmp_path / "threads")
    labels = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in saved.values()
    ]
    assert labels[0].keys() == labels[1].keys()
    voxels = [{k: v for k, v in each.items() if k.name != "zarr.json"} for each in labels]
    assert voxels[0] == voxels[1]


def test_a_worker_that_does_not_reach_the_path_is_named(scheduler, tmp_path):
    """A worker in a world of its own, where another file system lies over the folder of the volume."""
    volume, out = tmp_path / "here" / "v.npy", tmp_path / "out"
    volume.parent.mkdir()
    np.save(volume, cells_phantom((20, 100, 110), seed=9)[0])
    hide = f"mount -t tmpfs none {volume.parent}"
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "sh", "-c", hide], check=False).returncode:
        pytest.skip("hiding a folder from a worker needs root")
    options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--local-directory", tmp_path]
    dask = [sys.executable, "-m", "dask", "worker", "--scheduler-file", scheduler, *options]
    blind = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"{hide} && exec {' '.join(map(str, dask))}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        done = subprocess.run(
            command(volume, out, "--dask-scheduler-file", scheduler),
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
    finally:
        blind.kill()
        blind.wait()
    assert done.returncode == 1
    assert "the path must be reachable from every worker" in done.stderr
    assert str(volume) in done.stderr
    assert f"process {blind.pid}" in done.stderr
    assert "Traceback" not in done.stderr
