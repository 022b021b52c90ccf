"""The GPU beside the CPU: each stage against the upload, and whole runs, as Markdown tables.

    python -m benchmarks.gpu [--shape Z,Y,X] [--repeats N] [--workers N] [--memory GIB] [--folder DIR] [--no-files]

The upload of uint16 voxels from pinned memory is the limit of everything: a stage is shown as Gvoxel/s and as its time
in parts of that of the upload. Runs are of the whole of detect_cells on an array in memory, then on planes in files
beside reading them alone. Before anything is timed, the table of the GPU is compared with that of the CPU.
Without a GPU it says so and ends.
"""

import argparse
import math
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile

import cytolith
from cytolith.cells.build import build_config
from cytolith.cells.on_gpu import OnGpu
from cytolith.cells.pipeline import execute, prepare, with_thresholds
from cytolith.cells.reader import AheadReader
from cytolith.engine.gpus import LANES, GpuError, GpuPlan, Lanes, PinnedWorkspace, find_gpus
from cytolith.engine.machine import default_memory, default_workers
from cytolith.engine.workspace import Workspace
from cytolith.io.volume import open_volume
from cytolith.testing.phantoms import CellsPhantom

VOXEL_SIZE = (6.0, 1.62, 1.62)
RUNS = {
    "defaults": {},
    "defaults + DoG 7x7x7": {
        "dog_filter": {"shape": 7},
        "maxima_detection": {"threshold": 40},
        "shape_detection": {"threshold": 25},
    },
    "defaults, disk of 30": {"background_correction": {"shape": 30}},
    "ClearMap's steps": {
        "background_correction": {"shape": 10},
        "smoothing": None,
        "background_jump": None,
        "maxima_detection": {"shape": 5, "threshold": 0},
        "shape_detection": {"threshold": 700},
    },
}
TILE = (64, 1080, 1280)
"""Extent of the phantom that the volume is made of: drawing cells is slow."""


def make_volume(shape):
    """A volume of phantoms side by side."""
    extent = tuple(min(a, b) for a, b in zip(TILE, shape, strict=True))
    phantom = CellsPhantom(extent, seed=0)
    tile = np.stack([phantom.plane(z) for z in range(extent[0])])
    volume = np.empty(shape, tile.dtype)
    for z in range(0, shape[0], extent[0]):
        for y in range(0, shape[1], extent[1]):
            for x in range(0, shape[2], extent[2]):
                part = volume[z : z + extent[0], y : y + extent[1], x : x + extent[2]]
                part[...] = tile[: part.shape[0], : part.shape[1], : part.shape[2]]
    return volume


def by_the_clock(function, repeats):
    """Median seconds of a call; the first call, which compiles, is not counted."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def check(volume, workers):
    """The table of the GPU must be that of the CPU."""
    part = volume[: min(48, volume.shape[0]), :400, :500]
    for name, chain in RUNS.items():
        tables = [
            cytolith.detect_cells(part, voxel_size=VOXEL_SIZE, device=device, workers=workers, **chain)
            for device in ("cpu", "gpu")
        ]
        for column, values in tables[0].items():
            if values.tobytes() != tables[1][column].tobytes():
                differ = int((values != tables[1][column]).sum()) if len(values) == len(tables[1][column]) else "all"
                raise SystemExit(f"{name}: column {column} differs between CPU and GPU in {differ} rows")
        print(f"- {name}: {len(tables[0]['z']):,} cells, tables equal byte for byte")


def upload_seconds(image, repeats):
    """Seconds to upload an image from pinned memory, and from other memory."""
    pinned = PinnedWorkspace().array("image", image.shape, image.dtype)
    pinned[...] = image
    with Lanes(GpuPlan(1, 2 * image.nbytes, ())).borrow() as lane:

        def upload(host):
            lane.upload("image", host)
            lane.mark("upload")
            lane.wait({})

        return by_the_clock(lambda: upload(pinned), repeats), by_the_clock(lambda: upload(image.copy()), repeats)


def dense_part(image, name, repeats):
    """Seconds of each stage of a block on one lane, by CUDA's clock, and of a block where all lanes are at work."""
    prepared = prepare(
        open_volume(image, voxel_size=VOXEL_SIZE),
        build_config(("", RUNS[name])),
        device="gpu",
        block=image.shape,
        memory=2**62,
    )
    prepared, _ = with_thresholds(prepared)
    block, look = prepared.plan.blocks[0], OnGpu(prepared.gpus)
    rooms = []
    for _ in range(LANES):
        pinned = PinnedWorkspace().array("image", image.shape, image.dtype)
        pinned[...] = image
        rooms.append((pinned, Workspace()))

    def one(number, seconds):
        pinned, workspace = rooms[number]
        _, found = look(pinned, block, prepared.setting, workspace, seconds=seconds)
        return found

    with ThreadPoolExecutor(LANES) as threads:
        found = [*threads.map(one, range(LANES), [None] * LANES)].pop()  # compiles, and takes memory
        seconds = {}
        for _ in range(repeats):
            one(0, seconds)
        begin = time.perf_counter()
        blocks = list(threads.map(lambda n: [one(n, {}) for _ in range(repeats)], range(LANES)))
        together = (time.perf_counter() - begin) / sum(map(len, blocks))
    for note in look.take_notes():
        raise SystemExit(note)
    masked = found.runs.n_voxels / image.size if found is not None and found.runs is not None else math.nan
    return {stage: value / repeats for stage, value in seconds.items()}, together, masked


def run_seconds(source, name, device, workers, memory):
    """Seconds of a run by the clock, its steps, and its cells."""
    volume = open_volume(source, voxel_size=VOXEL_SIZE)
    prepared = prepare(volume, build_config(("", RUNS[name])), workers=workers, memory=memory, device=device)
    result = execute(prepared)
    return result.seconds["run"], result.seconds, len(result.table["z"]), prepared.plan


def read_seconds(source, name, workers, memory):
    """Seconds to read all blocks of a run and do nothing else."""
    volume = open_volume(source, voxel_size=VOXEL_SIZE)
    prepared = prepare(volume, build_config(("", RUNS[name])), workers=workers, memory=memory, device="gpu")
    lanes = [prepared.plan.blocks[n :: prepared.plan.workers] for n in range(prepared.plan.workers)]

    def read(blocks):
        reader = AheadReader(prepared.reader, PinnedWorkspace)
        for block, ahead in zip(blocks, [*blocks[1:], None], strict=True):
            reader.take(block, ahead)

    begin = time.perf_counter()
    with ThreadPoolExecutor(len(lanes)) as threads:
        list(threads.map(read, lanes))
    return time.perf_counter() - begin


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="256,2160,2560", help="extent of the volume")
    parser.add_argument("--block", default="64,2160,2560", help="extent of the block that stages are timed on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--memory", type=float, default=default_memory() / 2**30, help="GiB that runs may take")
    parser.add_argument("--folder", type=Path, help="where files are written; default: the folder for temporary ones")
    parser.add_argument("--no-files", action="store_true", help="leave out runs on files")
    parser.add_argument("--no-cpu", action="store_true", help="leave out runs on the CPU")
    given = parser.parse_args(arguments)
    try:
        gpus = find_gpus()
    except GpuError as reason:
        print(f"Nothing is measured: {reason}")
        return
    shape, extent = (tuple(map(int, text.split(","))) for text in (given.shape, given.block))
    memory = int(given.memory * 2**30)
    print(f"{', '.join(gpu.name for gpu in gpus)}; {given.workers} workers\n", flush=True)
    volume = make_volume(shape)
    check(volume, given.workers)
    image = np.ascontiguousarray(volume[tuple(slice(0, n) for n in extent)])
    pinned, pageable = upload_seconds(image, given.repeats)
    rates = [image.size / seconds / 1e9 for seconds in (pinned, pageable)]
    print("\nUpload: {:.1f} Gvoxel/s from pinned memory, {:.1f} from other".format(*rates))
    show_dense_parts(image, pinned, given.repeats)
    show_runs(volume, ("gpu",) if given.no_cpu else ("gpu", "cpu"), given.workers, memory)
    if not given.no_files:
        show_files(volume, given.folder, given.workers, memory)


def show_dense_parts(image, pinned, repeats):
    extent = " x ".join(map(str, image.shape))
    for name in RUNS:
        steps, together, masked = dense_part(image, name, repeats)
        print(f"\n### {name}: a block of {extent}, {masked:.2%} above the threshold\n")
        print("| stage | ms | Gvoxel/s | of the upload |\n|--|--|--|--|")
        for stage, seconds in {**steps, "dense part, all lanes at work": together}.items():
            rate = image.size / max(seconds, 1e-9) / 1e9
            print(f"| {stage} | {1000 * seconds:.2f} | {rate:.1f} | {seconds / pinned:.2f} |", flush=True)


def show_runs(volume, devices, workers, memory):
    print(f"\n### Whole runs of {' x '.join(map(str, volume.shape))}, an array in memory\n")
    print("| run | device | s | Gvoxel/s | cells | blocks | read | steps, added up over workers |")
    print("|--|--|--|--|--|--|--|--|")
    for name in RUNS:
        for device in devices:
            for _ in range(2 if device == "gpu" else 1):  # the second has its kernels loaded
                seconds, steps, cells, plan = run_seconds(volume, name, device, workers, memory)
            blocks = f"{len(plan.blocks)} of {' x '.join(map(str, plan.core))}"
            shown = ", ".join(f"{step} {value:.2f}" for step, value in steps.items() if step != "run")
            rate, again = volume.size / seconds / 1e9, plan.voxels_read / volume.size
            print(f"| {name} | {device} | {seconds:.2f} | {rate:.2f} | {cells:,} | {blocks} | {again:.2f} | {shown} |")


def show_files(volume, folder, workers, memory):
    with tempfile.TemporaryDirectory(dir=folder) as planes:
        for z, plane in enumerate(volume):
            tifffile.imwrite(Path(planes) / f"z{z:05d}.tif", plane)
        print("\n### From uncompressed planes, in the cache of the system\n")
        print("| run | reading alone s | run s | ratio |\n|--|--|--|--|")
        for name in RUNS:
            read = read_seconds(planes, name, workers, memory)
            seconds, *_ = run_seconds(planes, name, "gpu", workers, memory)
            print(f"| {name} | {read:.2f} | {seconds:.2f} | {seconds / read:.2f} |", flush=True)


if __name__ == "__main__":
    main()
