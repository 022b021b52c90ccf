"""A run that ended in the middle goes on, and its result is that of an undisturbed one."""

import json
import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cytolith.cells.build import build_config
from cytolith.cells.failures import RunFailedError
from cytolith.cells.run import run_cells
from cytolith.engine.events import BlockDone, BlockStarted
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError
from cytolith.testing.phantoms import cells_phantom

VOXEL = (6.0, 1.62, 1.62)
BLOCK = (12, 60, 70)
STEPS = {"maxima_detection": {"threshold": "5 mad"}}


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    """A folder of compressed planes."""
    folder = tmp_path_factory.mktemp("planes")
    for z, plane in enumerate(cells_phantom((40, 110, 120), seed=5)[0]):
        tifffile.imwrite(folder / f"z{z:03d}.tif", plane, compression="zlib", rowsperstrip=16)
    return folder


def run(source, output, steps=STEPS, **options):
    options = {"voxel_size": VOXEL, "workers": 2, "block": BLOCK} | options
    return run_cells(source, output, build_config(("", steps)), **options)


def tables(output):
    return [(output / name).read_bytes() for name in ("cells.parquet", "cells.csv")]


@pytest.fixture(scope="module")
def undisturbed(planes, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    report = run(planes, output)
    assert report.rows > 50
    assert not (output / "blocks").exists()
    return tables(output)


class StopError(Exception):
    """Something from outside the run."""


def after(count, error=KeyboardInterrupt):
    """Listener that ends a run when so many blocks are done."""
    done = 0

    def listen(event):
        nonlocal done
        done += isinstance(event, BlockDone)
        if done >= count:
            raise error

    return listen


def stopped(planes, output, count=7, **options):
    """A run that was interrupted after some blocks."""
    with pytest.raises(KeyboardInterrupt):
        run(planes, output, listener=after(count), **options)
    for thread in threading.enumerate():  # an interrupt does not wait for them, and they may still finish a block
        if thread.name.startswith("block"):
            thread.join(30)
    return sorted((output / "blocks").glob("*.block"))


def started(blocks):
    return lambda event: blocks.append(event.block.index) if isinstance(event, BlockStarted) else None


@pytest.mark.parametrize("resume", [False, True])
def test_an_interrupted_run_goes_on_with_the_blocks_that_are_left(planes, tmp_path, undisturbed, resume):
    out = tmp_path / "out"
    done = stopped(planes, out)
    assert len(done) >= 7
    assert json.loads((out / "run.json").read_text())["state"] == "interrupted"
    assert not list(out.glob("cells*"))
    blocks, notes = [], []
    run(planes, out, resume=resume, listener=started(blocks), notes=notes.extend, block=None)
    assert not {int(path.stem) for path in done} & set(blocks)
    assert len(blocks) == len(set(blocks)) == 16 - len(done)
    assert any(f"{len(done)} of 16 blocks are done" in note for note in notes)
    assert tables(out) == undisturbed
    record = json.loads((out / "run.json").read_text())
    assert record["state"] == "finished"
    assert not (out / "blocks").exists()
    assert f"{len(done)} of 16 blocks are done already" in (out / "run.log").read_text()


def test_a_finished_run_is_content_with_itself_only_when_it_may_resume(planes, tmp_path, undisturbed):
    out = tmp_path / "out"
    rows = run(planes, out, resume=True).rows
    report = run(planes, out, resume=True)
    assert report.already
    assert report.rows == rows
    with pytest.raises(OutputError, match="--overwrite"):
        run(planes, out)
    with pytest.raises(OutputError, match="--overwrite"):
        run(planes, out, steps={}, resume=True)
    assert tables(out) == undisturbed


def test_other_workers_and_memory_go_on_with_the_same_blocks(planes, tmp_path, undisturbed):
    out = tmp_path / "out"
    stopped(planes, out, workers=2)
    run(planes, out, workers=1, memory=600 * 2**20, block=None)
    assert tables(out) == undisturbed
    out = tmp_path / "tight"
    stopped(planes, out)
    with pytest.raises(MemoryBudgetError):
        run(planes, out, memory=2**20, block=None)
    run(planes, out, workers=7, memory=420 * 2**20, block=None)
    assert tables(out) == undisturbed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": STEPS | {"smoothing": None}}, "smoothing"),
        (
            {"steps": STEPS | {"shape_detection": {"threshold": "20 mad"}}},
            "shape_detection.threshold is 20 mad, and there 4 mad",
        ),
        ({"voxel_size": (5, 2, 2)}, "voxel_size_um"),
        ({"block": (20, 60, 70)}, "--block 20,60,70: the unfinished run has blocks of 12,60,70"),
    ],
)  # fmt: skip
def test_another_run_is_refused_and_the_difference_named(planes, tmp_path, undisturbed, change, words):
    out = tmp_path / "out"
    done = stopped(planes, out)
    with pytest.raises((OutputError, ConfigError), match=words.replace(".", r"\.")):
        run(planes, out, **change)
    assert sorted((out / "blocks").glob("*.block")) == done
    if "block" not in change:
        run(planes, out, overwrite=True, **change)
        assert tables(out) != undisturbed
    else:
        run(planes, out)
        assert tables(out) == undisturbed


def test_another_input_is_refused(planes, tmp_path, undisturbed):
    out = tmp_path / "out"
    stopped(planes, out)
    copy = tmp_path / "copy"
    shutil.copytree(planes, copy)
    with pytest.raises(OutputError, match=r"input\.path is .*copy, and there"):
        run(copy, out)


def copied(planes, tmp_path):
    """Planes that may be changed."""
    copy = tmp_path / "planes"
    shutil.copytree(planes, copy)
    return copy


def damage(path):
    """Overwrite a compressed strip in the middle of a plane: the header is fine."""
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        offset, size = tif.pages[0].dataoffsets[3], tif.pages[0].databytecounts[3]
    path.write_bytes(whole[:offset] + b"\xff" * size + whole[offset + size :])
    return whole


def test_a_bad_plane_fails_its_blocks_and_replaced_only_they_are_done(planes, tmp_path):
    source, out = copied(planes, tmp_path), tmp_path / "out"
    steps = {"maxima_detection": {"threshold": 300}, "shape_detection": {"threshold": 200}}
    run(source, tmp_path / "whole", steps=steps)
    bad = source / "z038.tif"
    whole = damage(bad)
    with pytest.raises(RunFailedError) as caught:
        run(source, out, steps=steps)
    text = str(caught.value)
    assert text.count("z038.tif is damaged") == 1
    assert "12, 13, 14, 15, planes " in text
    record = json.loads((out / "run.json").read_text())
    assert record["state"] == "failed"
    failed = {each["block"] for each in record["failed"]}
    assert {12, 13, 14, 15} <= failed  # and more whose halo holds the plane, but not those at the other end
    assert not {0, 1, 2, 3} & failed
    done = {int(path.stem) for path in (out / "blocks").glob("*.block")}
    assert done == set(range(16)) - failed
    blocks = []
    with pytest.raises(RunFailedError):  # as it was: the same blocks again, and no others
        run(source, out, steps=steps, listener=started(blocks))
    assert set(blocks) == failed
    bad.write_bytes(whole)
    blocks = []
    run(source, out, steps=steps, listener=started(blocks))
    assert failed <= set(blocks) <= set(range(4, 16))  # a few more may have read what was whole of the plane
    assert tables(out) == tables(tmp_path / "whole")


def test_a_plane_that_finished_blocks_have_read_must_not_change(planes, tmp_path):
    source, out = copied(planes, tmp_path), tmp_path / "out"
    stopped(source, out, count=14)
    os.utime(source / "z020.tif", (10, 10))  # long ago: the clock may have gone backwards
    with pytest.raises(OutputError, match=r"z020\.tif has changed"):
        run(source, out)
    assert list((out / "blocks").glob("*.block"))


def test_damaged_checkpoints_are_told_and_their_blocks_done_again(planes, tmp_path, undisturbed):
    out = tmp_path / "out"
    done = stopped(planes, out)
    cut, edited, foreign = done[0], done[1], done[2]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    content = bytearray(edited.read_bytes())
    content[len(content) // 2] ^= 1
    edited.write_bytes(content)
    shutil.copy(done[3], foreign)
    blocks, notes = [], []
    run(planes, out, listener=started(blocks), notes=notes.extend)
    assert {int(path.stem) for path in (cut, edited, foreign)} <= set(blocks)
    log = (out / "run.log").read_text()
    for path in (cut, edited, foreign):
        assert sum(path.name in note for note in notes) == 1
        assert path.name in log
    assert tables(out) == undisturbed


def test_a_run_of_another_version_is_refused(planes, tmp_path):
    out = tmp_path / "out"
    stopped(planes, out)
    record = json.loads((out / "run.json").read_text())
    record["identity"]["version"] = "0.0.9 (12345678)"
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match=r"it is of cytolith 0\.0\.9 \(12345678\), and this is"):
        run(planes, out)
    del record["identity"]
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match="older version of cytolith"):
        run(planes, out)
    assert run(planes, out, overwrite=True).rows > 50


def test_the_clock_may_go_backwards(planes, tmp_path, undisturbed):
    out = tmp_path / "out"
    stopped(planes, out)
    record = json.loads((out / "run.json").read_text())
    record["started"] = record["ended"] = "2999-01-01T00:00:00+00:00"
    (out / "run.json").write_text(json.dumps(record))
    for path in out.rglob("*"):
        os.utime(path, (2**33, 2**33))
    run(planes, out)
    assert tables(out) == undisturbed


def test_what_an_interrupt_leaves_before_any_block_is_done_may_be_replaced(planes, tmp_path):
    out = tmp_path / "out"

    def at_once(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(planes, out, listener=at_once)
    assert {path.name for path in out.iterdir()} == {"run.json", "run.log"}
    run(planes, out, steps={})


def hold(planes, output, queue):
    """A run that stays at work."""

    def listen(event):
        if isinstance(event, BlockDone):
            queue.put("at work")
            multiprocessing.Event().wait()

    run(planes, output, listener=listen)


def test_two_runs_in_one_folder_and_a_lock_that_was_left(planes, tmp_path, undisturbed):
    out = tmp_path / "out"
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    other = spawn.Process(target=hold, args=(planes, out, queue), daemon=True)  # or a failed test waits for it
    other.start()
    assert queue.get(timeout=60) == "at work"
    with pytest.raises(OutputError, match=f"process {other.pid}"):
        run(planes, out)
    other.kill()
    other.join()
    notes = []
    run(planes, out, notes=notes.extend)
    assert any("lock" in note for note in notes)
    assert tables(out) == undisturbed


def test_saved_volumes_go_on_too(planes, tmp_path):
    def steps(folder):
        return STEPS | {
            "background_correction": {"save": str(folder / "background.npy")},
            "smoothing": {"save": str(folder / "smoothing.zarr")},
            "maxima_detection": STEPS["maxima_detection"] | {"save": str(folder / "maxima.npy")},
            "shape_detection": {"save": str(folder / "labels.zarr")},
        }

    def saved(folder):
        import zarr

        return [
            np.load(folder / "background.npy"), zarr.open_array(folder / "smoothing.zarr" / "0", mode="r")[:],
            np.load(folder / "maxima.npy"), zarr.open_array(folder / "labels.zarr" / "0", mode="r")[:],
        ]  # fmt: skip

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    run(planes, whole / "out", steps=steps(whole), block=(40, 110, 120))
    for count in (5, 4):
        with pytest.raises(KeyboardInterrupt):
            run(planes, cut / "out", steps=steps(cut), listener=after(count))
    assert len(list(cut.glob("*.partial"))) == 5
    run(planes, cut / "out", steps=steps(cut))
    for a, b in zip(saved(whole), saved(cut), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert not list(cut.glob("*.partial"))
    assert tables(whole / "out") == tables(cut / "out")


def test_saved_volumes_that_were_put_in_place_before_the_end_stay(planes, tmp_path, monkeypatch):
    from cytolith.cells import run as module

    steps = STEPS | {
        "background_correction": {"save": str(tmp_path / "b.npy")},
        "shape_detection": {"save": str(tmp_path / "l.npy")},
    }
    out = tmp_path / "out"
    write = module.write_text

    def interrupted(path, text):
        if path.name == "config.toml":
            raise KeyboardInterrupt
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(planes, out, steps=steps)
    before = np.load(tmp_path / "l.npy")
    run(planes, out, steps=steps)
    np.testing.assert_array_equal(np.load(tmp_path / "l.npy"), before)
    assert before.max() > 50
    assert json.loads((out / "run.json").read_text())["state"] == "finished"


def test_a_lost_saved_volume_is_written_again(planes, tmp_path, undisturbed):
    steps = STEPS | {"smoothing": {"save": str(tmp_path / "s.npy")}}
    out = tmp_path / "out"
    stopped(planes, out, steps=steps)
    Path(tmp_path / "s.npy.partial").unlink()
    blocks = []
    run(planes, out, steps=steps, listener=started(blocks))
    assert len(blocks) == 16
    assert tables(out) == undisturbed
    assert (np.load(tmp_path / "s.npy") != 0).any(axis=(1, 2)).all()


def test_a_corrupt_chunk_is_named_and_mended_the_run_goes_on(planes, tmp_path):
    import zarr

    image = np.stack([tifffile.imread(path) for path in sorted(planes.iterdir())])
    path = tmp_path / "v.zarr"
    array = zarr.create_array(path, shape=image.shape, chunks=(10, 110, 120), dtype=image.dtype)
    array[:] = image
    chunk = path / "c" / "3" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2] + b"\0" * 40)
    steps = {"maxima_detection": {"threshold": 300}, "shape_detection": {"threshold": 200}}
    with pytest.raises(RunFailedError, match=r"v\.zarr: reading .* a chunk is damaged"):
        run(path, tmp_path / "out", steps=steps)
    assert list((tmp_path / "out" / "blocks").glob("*.block"))
    chunk.write_bytes(whole)
    blocks = []
    run(path, tmp_path / "out", steps=steps, listener=started(blocks))
    assert 0 < len(blocks) < 16
    run(planes, tmp_path / "whole", steps=steps)
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")
