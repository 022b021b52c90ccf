"""Runs that died go on: with what is finished, with nothing that is damaged or of something else, and only then."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cytolith.engine.events import BlockDone, Planned
from cytolith.engine.run import BlocksFailedError
from cytolith.errors import MemoryBudgetError, OutputError, VolumeError
from cytolith.fracture import unfinished
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.maps import OffsetSettings
from cytolith.fracture.pipeline import run_fracture
from cytolith.fracture.plan import PROCESS_BYTES
from cytolith.fracture.source import Source
from cytolith.io.flat_sink import FlatSink

SCRATCH = ".cytolith-fracture"
CONFIG = FractureConfig(n=1, cluster_image=True, pictures=False)


def rock(shape=(20, 13, 17), seed=3):
    rng = np.random.default_rng(seed)
    image = (rng.random(shape) < 0.15).astype(np.uint8)
    image[:, 5:8] = 1
    image[rng.random(shape) < 0.05] = 0
    return image


@pytest.fixture(autouse=True)
def one_start_of_the_machine(monkeypatch):
    """Only Linux says which one it is."""
    for module in ("unfinished", "preparation"):
        monkeypatch.setattr(f"cytolith.fracture.{module}.boot", lambda: "this")


@pytest.fixture
def planes(tmp_path):
    """A folder of compressed planes."""
    folder = tmp_path / "planes"
    folder.mkdir()
    for z, plane in enumerate(rock()):
        write_plane(folder, z, plane)
    return folder


def write_plane(folder, z, plane):
    tifffile.imwrite(folder / f"z{z:03d}.tif", plane, photometric="minisblack", compression="zlib")


def damage(folder, z):
    """Overwrite the compressed strip of a plane; its header stays as it is."""
    path = folder / f"z{z:03d}.tif"
    with tifffile.TiffFile(path) as tif:
        begin, count = tif.pages.first.dataoffsets[0], tif.pages.first.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[begin : begin + count] = b"\xa5" * count
    path.write_bytes(data)


class Recorder:
    """A listener that notes what is done in each pass, and interrupts after so many blocks of one of them."""

    def __init__(self, name="", count=0):
        self.stop = name, count
        self.todo, self.done = {}, {}

    def __call__(self, event):
        if isinstance(event, Planned):
            self.name = event.name
            self.todo[self.name] = [b.index for b in (event.plan.blocks if event.todo is None else event.todo)]
            self.done[self.name] = []
        elif isinstance(event, BlockDone):
            self.done[self.name].append(event.block.index)
            if (self.name, len(self.done[self.name])) == self.stop:
                raise KeyboardInterrupt


def run(source, out, config=CONFIG, **options):
    """Run in one thread, in order; what was done in each pass."""
    recorder = options.pop("listener", Recorder())
    run_fracture(source, out, config, planes=4, executor="serial", listener=recorder, **options)
    return recorder


def interrupt(source, out, name="clusters", count=2, config=CONFIG, **options):
    with pytest.raises(KeyboardInterrupt):
        run(source, out, config, listener=Recorder(name, count), **options)
    assert {left.name for left in out.iterdir()} == {SCRATCH}


def results(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "summary.json"
    }


@pytest.mark.parametrize(("name", "count", "clusters", "results_of"), [
    ("clusters", 2, [2, 3, 4], [0, 1, 2, 3, 4]),
    ("results", 3, [], [3, 4]),
])  # fmt: skip
def test_only_what_is_missing_is_done(planes, tmp_path, name, count, clusters, results_of, caplog):
    whole = run(planes, tmp_path / "whole")
    assert whole.todo == {"clusters": [0, 1, 2, 3, 4], "results": [0, 1, 2, 3, 4]}
    interrupt(planes, tmp_path / "out", name, count)
    with caplog.at_level(logging.INFO):
        again = run(planes, tmp_path / "out")
    assert "going on with an unfinished run" in caplog.text
    assert again.done == again.todo == {"clusters": clusters, "results": results_of}
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize(("config", "message"), [
    (replace(CONFIG, threshold=20.0), "threshold is 20, the unfinished run there has none"),
    (replace(CONFIG, n=2), "n is 2, the unfinished run there has 1"),
    (replace(CONFIG, axis="x"), "axis is x, the unfinished run there has y"),
    (replace(CONFIG, offsets=OffsetSettings(percentile=90)), "percentile is 90, the unfinished run there has 99"),
])  # fmt: skip
def test_other_parameters_are_refused_and_named(planes, tmp_path, config, message):
    out = tmp_path / "out"
    interrupt(planes, out)
    before = results(out)
    with pytest.raises(OutputError, match=rf"out: {message}: give the same, or -f \(--force\) to begin anew"):
        run(planes, out, config)
    assert results(out) == before
    assert run(planes, out, config, force=True).todo["clusters"] == [0, 1, 2, 3, 4]
    run(planes, tmp_path / "whole", config)
    assert results(out) == results(tmp_path / "whole")


def test_another_input_or_code_is_refused_and_named(planes, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt(planes, out)
    np.save(tmp_path / "planes.npy", rock(seed=8))
    with pytest.raises(OutputError, match=r"input is .*planes\.npy, the unfinished run there has .*planes: give"):
        run(tmp_path / "planes.npy", out)
    with pytest.raises(OutputError, match=r"input is an array, the unfinished run there has .*planes: give"):
        run(rock(), out)
    with pytest.raises(OutputError, match=r"voxel_size is 3 x 2 x 1, the unfinished run there has none"):
        run(planes, out, voxel_size=(3, 2, 1))
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "code_version", lambda: "9.9 (feed)")
        with pytest.raises(OutputError, match=r"cytolith is 9\.9 \(feed\), the unfinished run there has 0\.1"):
            run(planes, out)
    run(rock(seed=8), out, force=True)
    run(rock(seed=8), tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


def test_a_plane_that_no_finished_block_has_read_may_be_replaced(planes, tmp_path):
    good = (planes / "z009.tif").read_bytes()
    damage(planes, 9)
    out = tmp_path / "out"
    with pytest.raises(BlocksFailedError, match=r"1 of 5 blocks failed; planes 8 to 11: .*z009\.tif"):
        run(planes, out)
    assert {left.name for left in out.iterdir()} == {SCRATCH}
    times = {path: path.stat().st_mtime_ns for path in (out / SCRATCH / "pass1").iterdir()}
    assert [int(path.stem) for path in sorted(times)] == [0, 1, 3, 4]
    with pytest.raises(BlocksFailedError, match=r"the block failed; planes 8 to 11: .*z009\.tif"):
        run(planes, out)  # it is tried again, and nothing else
    (planes / "z009.tif").write_bytes(good)
    seen = []

    def listener(event):
        if isinstance(event, Planned) and event.name == "results":
            seen.append({path: path.stat().st_mtime_ns for path in (out / SCRATCH / "pass1").iterdir()})

    run(planes, out, listener=listener)
    assert len(seen[0]) == 5
    assert {path: seen[0][path] for path in times} == times
    run(planes, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


def test_a_file_that_finished_blocks_have_read_must_stay(planes, tmp_path):
    out = tmp_path / "out"
    interrupt(planes, out)  # planes 0 to 7 are read
    other = rock()
    write_plane(planes, 8, other[3])
    other[8] = other[3]
    interrupt(planes, out, "clusters", 1)  # planes 8 to 11 too, the new one among them
    write_plane(planes, 8, rock()[8])
    for _ in range(2):
        with pytest.raises(
            OutputError, match=r"z008\.tif has changed since the unfinished run has read it: put it back"
        ):
            run(planes, out)
    assert run(planes, out, force=True).todo["clusters"] == [0, 1, 2, 3, 4]
    run(rock(), tmp_path / "whole", replace(CONFIG, stack_name="planes-processed.tif"))
    found, expected = results(out), results(tmp_path / "whole")
    assert sorted(found.values()) == sorted(expected.values())


@pytest.mark.parametrize("harm", ["cut", "edited", "empty", "of another run"])
@pytest.mark.parametrize("folder", ["pass1", "pass2"])
def test_a_damaged_checkpoint_is_said_and_done_again(planes, tmp_path, caplog, harm, folder):
    out = tmp_path / "out"
    interrupt(planes, out, "results", 3)
    path = out / SCRATCH / folder / "0000001.block"
    data = bytearray(path.read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    elif harm == "edited":
        data[-40] ^= 1
    elif harm == "empty":
        data = b""
    else:
        interrupt(planes, tmp_path / "other", "results", 3, replace(CONFIG, n=2))
        data = (tmp_path / "other" / SCRATCH / folder / "0000001.block").read_bytes()
    path.write_bytes(data)
    again = run(planes, out)
    assert str(Path(folder, "0000001.block")) in caplog.text
    assert "its block is done again" in caplog.text
    redone = [1] if folder == "pass1" else []
    assert again.todo == {"clusters": redone, "results": [1, 3, 4] if folder == "pass2" else [3, 4]}
    run(planes, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": {}}'])
def test_a_record_that_says_nothing_is_no_run(planes, tmp_path, text):
    interrupt(planes, tmp_path / "out")
    (tmp_path / "out" / SCRATCH / "run.json").write_text(text)
    assert run(planes, tmp_path / "out").todo["clusters"] == [0, 1, 2, 3, 4]


def test_stamps_that_are_lost_are_no_licence(planes, tmp_path):
    interrupt(planes, tmp_path / "out")
    (tmp_path / "out" / SCRATCH / "input.stamps").unlink()
    with pytest.raises(OutputError, match=r"whether the input has changed cannot be told; -f \(--force\) begins anew"):
        run(planes, tmp_path / "out")


def test_what_was_painted_is_not_trusted_after_the_machine_died(planes, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt(planes, out, "results", 3)
    monkeypatch.setattr(unfinished, "boot", lambda: "another")
    monkeypatch.setattr("cytolith.fracture.preparation.boot", lambda: "another")
    assert run(planes, out).todo == {"clusters": [], "results": [0, 1, 2, 3, 4]}
    maps_only = replace(CONFIG, image_stack=False, cluster_image=False)  # what is in checksummed files is
    interrupt(planes, tmp_path / "maps", "results", 3, maps_only)
    monkeypatch.undo()
    assert run(planes, tmp_path / "maps", maps_only).todo == {"clusters": [], "results": [3, 4]}


def test_a_stack_that_is_gone_is_painted_again(planes, tmp_path):
    out = tmp_path / "out"
    interrupt(planes, out, "results", 3)
    (out / SCRATCH / "cluster_image.tif.partial").unlink()
    assert run(planes, out).todo == {"clusters": [], "results": [0, 1, 2, 3, 4]}
    run(planes, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


def test_less_memory_and_other_workers_keep_the_cut(planes, tmp_path):
    out = tmp_path / "out"
    interrupt(planes, out)
    with pytest.raises(MemoryBudgetError, match="does not hold the blocks of 4 planes that the unfinished run has"):
        run_fracture(planes, out, CONFIG, memory=PROCESS_BYTES + 1000)
    recorder = Recorder()
    run_fracture(planes, out, CONFIG, memory=PROCESS_BYTES + 2**20, workers=7, planes=9, listener=recorder)
    assert recorder.todo["clusters"] == [2, 3, 4]
    run(planes, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


def test_results_in_two_folders(planes, tmp_path):
    config = replace(CONFIG, stack_name=str(tmp_path / "stacks" / "s.tif"))
    out, stacks = tmp_path / "out", tmp_path / "stacks"
    interrupt(planes, out, "results", 3, config)
    (left,) = stacks.iterdir()
    assert left.name.startswith(SCRATCH)
    # a run of another folder that keeps its stacks there too does not touch those of this one
    run(rock(seed=9), tmp_path / "other", replace(CONFIG, stack_name=str(stacks / "t.tif")))
    assert run(planes, out, config).todo["results"] == [3, 4]
    run(planes, tmp_path / "whole")
    assert (stacks / "s.tif").read_bytes() == (tmp_path / "whole" / "planes-processed.tif").read_bytes()
    assert sorted(path.name for path in stacks.iterdir()) == ["s-clusters.tif", "s.tif", "t-clusters.tif", "t.tif"]
    assert not (out / SCRATCH).exists()


def test_a_run_without_a_finished_block_leaves_nothing(planes, tmp_path, monkeypatch):
    monkeypatch.setattr(Source, "read", lambda *_: (_ for _ in ()).throw(VolumeError("no plane")))
    with pytest.raises(BlocksFailedError, match="no plane"):
        run(planes, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def test_a_disk_that_is_full_keeps_what_is_finished(planes, tmp_path, monkeypatch):
    write, count = FlatSink._write, []

    def full(*arguments):
        count.append(1)
        if len(count) == 5:
            raise OSError(28, "No space left on device")
        write(*arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(FlatSink, "_write", full)
        with pytest.raises(OutputError, match=r"out[/\\]planes-processed\.tif: cannot be written: the disk is full"):
            run(planes, out)
    assert run(planes, out).todo == {"clusters": [], "results": [2, 3, 4]}
    run(planes, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


def test_a_volume_that_changed_without_a_trace_is_no_run_to_go_on_with(planes, tmp_path, monkeypatch):
    read = Source.read

    def changing(self, region, workspace):
        image, level = read(self, region, workspace)
        if recorder.name == "results":
            image[0] = 0
        return image, level

    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(Source, "read", changing)
        with pytest.raises(BlocksFailedError, match="has changed while it was read"):
            run(planes, tmp_path / "out", listener=recorder)
    assert not (tmp_path / "out").exists()


COMMIT = """
import os, shutil, sys
from pathlib import Path
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.pipeline import run_fracture

path, out = Path("planes"), Path("out")
config = FractureConfig(n=1, cluster_image=True, zarr=True, pictures=False)

def contents():
    return {each: each.read_bytes() for each in out.rglob("*") if each.is_file() and each.name != "summary.json"}

def run(when, force):
    child = os.fork()
    if child == 0:
        count, rename = 0, Path.rename
        def killing(self, target):
            nonlocal count
            if self.parent.name.startswith(".cytolith-fracture") != Path(target).parent.name.startswith(".cytolith"):
                count += 1
                if count == when:
                    os._exit(9)
            return rename(self, target)
        Path.rename = killing
        run_fracture(path, out, config, planes=4, executor="serial", force=force)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

run_fracture(path, out, config)
expected = contents()
killed = 0
for force in (False, True):
    for when in range(1, 99):
        if not force:
            shutil.rmtree(out)
        elif not out.exists():
            run(0, False)
        code = run(when, force)
        if code == 0:
            break
        assert code == 9
        killed += 1
        assert run(0, force) == 0
        assert contents() == expected, (force, when)
print(killed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks what it kills")
def test_killed_while_results_are_put_in_place(planes, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMMIT], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 6 + 12  # results; and results with those that they replace


def test_a_run_at_work_is_no_unfinished_one(planes, tmp_path):
    refused = []

    def others(event):
        if isinstance(event, BlockDone) and event.block.index == 3 and not refused:
            for options in ({}, {"n": 2}, {"n": 2, "force": True}):
                with pytest.raises(OutputError, match=r"another run \(process \d+ on .*\) writes here"):
                    run(planes, tmp_path / "out", **options)
                refused.append(options)

    run(planes, tmp_path / "out", listener=others)
    assert len(refused) == 3
    run(planes, tmp_path / "whole")
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_the_record_says_what_the_run_is(planes, tmp_path):
    interrupt(planes, tmp_path / "out")
    record = json.loads((tmp_path / "out" / SCRATCH / "run.json").read_text())
    assert record["cut"]["block_planes"] == 4
    assert record["identity"]["input"] == str(planes)
    assert record["identity"]["shape"] == [20, 13, 17]
    assert run(planes, tmp_path / "out", replace(CONFIG, n=np.int64(1))).todo["clusters"] == [2, 3, 4]
