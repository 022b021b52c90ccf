"""The command line as scripts call it: names, files, exit codes, and one line for a mistake."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import command_line
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import tifffile


def cytolith(*arguments, report=False, **options):
    if arguments[0] == "cells" and not report:  # a page each time would take most of the time
        arguments = (*arguments, "--no-report")
    return command_line.cytolith(*arguments, **options)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    cytolith("sample", "cells", folder, "--shape", "24,120,130", "--seed", "5")
    return folder


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    done = cytolith("cells", sample / "planes", "-o", out, "--voxel-size", "6,1.62,1.62", "--workers", 2, report=True)
    return out, done


def test_sample_writes_planes_and_truth(sample, tmp_path):
    planes = sorted((sample / "planes").glob("*.tif"))
    assert len(planes) == 24
    assert tifffile.imread(planes[0]).shape == (120, 130)
    truth = pyarrow.csv.read_csv(sample / "truth.csv")
    assert truth.column_names == ["z", "y", "x", "voxels"]
    cytolith("sample", "cells", tmp_path, "--shape", "24,120,130", "--seed", "5")
    assert (tmp_path / "truth.csv").read_bytes() == (sample / "truth.csv").read_bytes()
    assert "overwrite" in cytolith("sample", "cells", tmp_path, code=1).stderr
    assert "--shape" in cytolith("sample", "cells", tmp_path / "x", "--shape", "3,4", code=2).stderr


def test_cells_writes_the_tables_and_the_record(run):
    out, done = run
    assert sorted(p.name for p in out.iterdir()) == [
        "cells.csv", "cells.parquet", "config.toml", "report.html", "run.json", "run.log",
    ]  # fmt: skip
    table = pyarrow.parquet.read_table(out / "cells.parquet")
    assert table.column_names == [
        "z", "y", "x", "z_um", "y_um", "x_um", "size", "source", "background_correction", "truncated",
    ]  # fmt: skip
    text = pyarrow.csv.read_csv(out / "cells.csv")
    assert text.column_names == table.column_names
    assert text.num_rows == table.num_rows > 50
    for name in table.column_names:
        np.testing.assert_array_equal(text[name].to_numpy(), table[name].to_numpy())
    record = json.loads((out / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["cells"] == table.num_rows
    assert str(out / "cells.parquet") in done.stdout
    assert f"{table.num_rows:,} cells" in done.stdout


def test_the_config_runs_again_as_it_is(run, tmp_path):
    out, _ = run
    cytolith("cells", "--config", out / "config.toml", "-o", tmp_path / "again", "--workers", 1)
    assert (tmp_path / "again" / "cells.parquet").read_bytes() == (out / "cells.parquet").read_bytes()
    assert (tmp_path / "again" / "cells.csv").read_bytes() == (out / "cells.csv").read_bytes()
    assert (tmp_path / "again" / "config.toml").read_bytes() == (out / "config.toml").read_bytes()


def test_print_config_shows_what_would_run(sample, tmp_path):
    done = cytolith(
        "cells", sample / "planes", "--print-config", "--voxel-size", "6,1.62,1.62",
        "--shape-detection.threshold", "700", "--background-correction.shape", "11,9",
        "--smoothing", "none", "--equalization", "on", "--equalization.max-value", "2",
    )  # fmt: skip
    document = tomllib.loads(done.stdout)
    assert document["shape_detection"]["threshold"] == 700
    assert document["background_correction"]["shape"] == [11, 9]
    assert document["smoothing"] == "none"
    assert document["equalization"]["percentile"] == [0.5, 0.95]
    assert document["equalization"]["max_value"] == 2
    path = tmp_path / "c.toml"
    path.write_text(done.stdout)
    again = cytolith("cells", "--print-config", "--config", path)
    assert again.stdout == done.stdout
    over = cytolith("cells", "--print-config", "--config", path, "--shape-detection.threshold", "9 mad")
    assert tomllib.loads(over.stdout)["shape_detection"]["threshold"] == "9 mad"


def test_filter_and_score(run, sample, tmp_path):
    out, _ = run
    kept = tmp_path / "kept.parquet"
    cytolith("filter", out / "cells.parquet", "-o", kept, "--size", "20,900", "--source", "300,")
    all_, rows = pyarrow.parquet.read_table(out / "cells.parquet"), pyarrow.parquet.read_table(kept)
    size, source = all_["size"].to_numpy(), all_["source"].to_numpy()
    assert rows.num_rows == ((size >= 20) & (size < 900) & (source >= 300)).sum()
    assert rows.schema.names == all_.schema.names
    assert "size" in cytolith("filter", kept, "-o", tmp_path / "x.csv", "--siz", "3,", code=2).stderr
    assert "--size" in cytolith("filter", kept, "-o", tmp_path / "x.csv", "--size", "a,b", code=2).stderr
    assert "overwrite" in cytolith("filter", kept, "-o", kept, "--size", "1,", code=1).stderr
    done = cytolith("score", out / "cells.parquet", sample / "truth.csv")
    assert float(done.stdout.split("F1 ")[1].split()[0]) > 0.85


def test_info(sample):
    done = cytolith("info", sample / "planes")
    assert "uint16" in done.stdout
    assert "24, 120, 130" in done.stdout


def test_help_names_every_flag():
    done = cytolith("cells", "--help", env=os.environ | {"COLUMNS": "200"})
    for flag in (
        "--background-correction.shape",
        "--shape-detection.threshold",
        "--maxima-detection.h-max",
        "--workers",
    ):
        assert flag in done.stdout
    assert "STEPS" not in done.stdout


def test_help_does_not_wait_for_heavy_imports():
    code = (
        "import sys\nfrom cytolith.cli import app\napp(['--help'])\n"
        "print(sorted({'numba', 'scipy', 'zarr', 'pyarrow', 'tifffile', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--shape-detection.treshold", "3"], 2, "--shape-detection.threshold"),
        (["--shape-detection.threshold", "3 kg"], 2, "shape_detection.threshold"),
        (["--intensity-detection.measure", "sorce"], 2, "source"),
        (["--voxel-size", "3,4"], 2, "--voxel-size"),
        (["--smoothing", "none", "--smoothing.sigma", "1"], 2, "--smoothing"),
        (["--memory", "lots"], 2, "memory"),
        (["--memory", "1MB"], 1, "--memory"),
        (["--block", "0,1,1"], 2, "--block"),
        (["--workers", "0"], 2, "--workers"),
        (["--workers", "many"], 2, "--workers"),
        (["--channel", "3"], 1, "channel"),
        (["--config", "nothing.toml"], 2, "nothing.toml"),
        (["--background-correction.shape", "9 um"], 2, "voxel size"),
        (["--illumination-correction.flatfield", "none.npy"], 2, "none.npy"),
        (["--equalization.mask", "none.tif"], 2, "equalization.mask: none.tif"),
        (["--smoothing.save", "volume.jpg"], 1, "volume.jpg"),
    ],
)
def test_a_mistake_gets_one_line(sample, tmp_path, arguments, code, message):
    done = cytolith("cells", sample / "planes", "-o", tmp_path / "out", *arguments, code=code, cwd=tmp_path)
    assert message in done.stderr
    assert not list(tmp_path.glob("out/cells*"))
    assert not list(tmp_path.rglob("*.partial"))


def test_missing_input_and_output_are_named(sample, tmp_path):
    assert "INPUT" in cytolith("cells", "-o", tmp_path, code=2).stderr
    assert "--output" in cytolith("cells", sample / "planes", code=2).stderr
    assert "nowhere" in cytolith("cells", "nowhere", "-o", tmp_path / "o", code=1).stderr


def test_an_earlier_result_is_not_replaced_unasked(run, sample):
    out, _ = run
    before = (out / "cells.csv").read_bytes()
    assert "--overwrite" in cytolith("cells", sample / "planes", "-o", out, code=1).stderr
    assert (out / "cells.csv").read_bytes() == before


def test_saving_never_replaces_what_a_run_reads(sample, tmp_path):
    volume = np.stack([tifffile.imread(p) for p in sorted((sample / "planes").glob("*.tif"))])
    np.save(tmp_path / "v.npy", volume)
    before = (tmp_path / "v.npy").read_bytes()
    arguments = ["cells", "v.npy", "-o", "o", "--overwrite"]
    for more in (
        ["--smoothing.save", "./v.npy"],
        ["--smoothing.save", "a.zarr", "--background-correction.save", "../" + tmp_path.name + "/a.zarr"],
        ["--smoothing.save", "a.zarr", "--background-correction.save", "a.zarr/b.zarr"],
    ):
        assert "give another path" in cytolith(*arguments, *more, code=2, cwd=tmp_path).stderr
    assert (tmp_path / "v.npy").read_bytes() == before
    assert "is the input" in cytolith("cells", sample / "planes", "-o", sample / "planes", code=1).stderr


def test_a_failed_overwrite_keeps_the_earlier_tables(sample, tmp_path):
    cytolith("cells", sample / "planes", "-o", tmp_path / "o")
    before = (tmp_path / "o" / "cells.csv").read_bytes()
    volume = np.zeros((4, 30, 30), np.float32)
    volume[2, 3, 4] = np.nan
    np.save(tmp_path / "nan.npy", volume)
    assert "plane 2" in cytolith("cells", tmp_path / "nan.npy", "-o", tmp_path / "o", "--overwrite", code=1).stderr
    assert (tmp_path / "o" / "cells.csv").read_bytes() == before
    assert json.loads((tmp_path / "o" / "run.json").read_text())["tables"] == "of an earlier run"


def test_bad_planes_are_named_before_the_run(sample, tmp_path):
    planes = tmp_path / "planes"
    planes.mkdir()
    for path in sorted((sample / "planes").glob("*.tif")):
        (planes / path.name).write_bytes(path.read_bytes())
    bad = sorted(planes.glob("*.tif"))[7]
    whole = bad.read_bytes()
    for content, word in ((b"", bad.name), (whole[:2000], bad.name), (b"no tiff at all" * 9, bad.name)):
        bad.write_bytes(content)
        assert word in cytolith("cells", planes, "-o", tmp_path / "out", code=1).stderr
    tifffile.imwrite(bad, np.zeros((5, 6), np.uint16))
    assert bad.name in cytolith("cells", planes, "-o", tmp_path / "out", "--overwrite", code=1).stderr
    bad.unlink()
    assert "7" in cytolith("cells", planes, "-o", tmp_path / "out", "--overwrite", code=1).stderr
    assert not list(tmp_path.glob("out/cells*"))


def test_nothing_found_is_a_table_without_rows_and_a_hint(sample, tmp_path):
    done = cytolith("cells", sample / "planes", "-o", tmp_path / "o", "--maxima-detection.threshold", "65000")
    assert "no cells" in done.stderr
    assert pyarrow.parquet.read_table(tmp_path / "o" / "cells.parquet").num_rows == 0
    assert (tmp_path / "o" / "cells.csv").read_text().startswith("z,y,x,")


def test_an_interrupt_stops_at_once_and_leaves_nothing_half_written(tmp_path):
    volume = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype=np.uint16, shape=(400, 600, 600))
    volume[::3] = 100
    volume.flush()
    process = subprocess.Popen(
        [sys.executable, "-m", "cytolith", "cells", tmp_path / "v.npy", "-o", tmp_path / "out", "--block", "50,600,600",
         "--smoothing.save", tmp_path / "s.zarr", "--background-correction.shape", "70"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, text = process.communicate(timeout=30)
    assert process.returncode == 130, text
    assert "interrupted" in text
    assert time.monotonic() - begin < 5
    assert "Traceback" not in text
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "interrupted"
    left = {p.name for folder in (tmp_path, tmp_path / "out") for p in folder.iterdir()}
    assert {"v.npy", "out", "run.json", "run.log"} <= left
    # what the same command goes on with, when blocks were done already
    assert left - {"v.npy", "out", "run.json", "run.log"} in (set(), {"blocks", "s.zarr.partial"})


def test_a_full_disk_is_one_line(sample, tmp_path):
    full = tmp_path / "small"
    full.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    try:
        done = cytolith("cells", sample / "planes", "-o", full / "out", "--smoothing.save", full / "s.zarr", code=1)
        assert "full" in done.stderr or "space" in done.stderr
        assert not list(full.rglob("cells.*"))
        # a block that was done before the disk was full is gone on with, and with it what was saved
        assert any(full.rglob("*.block")) or not list(full.rglob("*.partial"))
    finally:
        subprocess.run(["umount", full], check=False)


def test_planes_of_a_real_brain(shared, tmp_path):
    done = cytolith("cells", shared / "data" / "cells" / "cortex", "-o", tmp_path / "o", "--voxel-size", "5,2,2")
    table = pyarrow.parquet.read_table(tmp_path / "o" / "cells.parquet")
    assert table.num_rows > 30, done.stdout


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not tell the memory of a process")
@pytest.mark.parametrize("steps", [[], ["--dog-filter.shape", "6", "--maxima-detection.h-max", "200"]])
def test_memory_stays_below_the_number_given(tmp_path, steps):
    rng = np.random.default_rng(6)
    volume = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype=np.uint16, shape=(100, 900, 900))
    plane = rng.normal(1000, 30, (900, 900))
    plane[20::30, 20::30] += 9000
    volume[:] = np.rint(plane).astype(np.uint16)
    volume.flush()
    budget = 600 * 2**20
    command = [sys.executable, "-m", "cytolith", "cells", tmp_path / "v.npy", "-o", tmp_path / "o", *steps]
    command += ["--memory", "600MiB", "--workers", "2", "-q"]
    # a process takes over the peak of the one that starts it: a small one must stand between it and the test runner
    starter = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run(
        [sys.executable, "-c", starter, *map(str, command)], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < budget
    assert len(json.loads((tmp_path / "o" / "run.json").read_text())["hints"]) >= 1
