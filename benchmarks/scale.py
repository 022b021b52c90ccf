"""Scale on paper: what a block and a task cost here, and what runs of 100 Gvoxel and 10 Tvoxel would need.

    python -m benchmarks.scale [--shape Z,Y,X] [--repeats N] [--memory GIB] [--storage GB/S]

Measured: CPU seconds of detect_cells for each voxel read, overhead of a task for each executor, a checkpoint, the merge
of the final table. The projection takes the blocks that the planner makes for the memory of each worker, and compares
the time of four things that go on at the same time, or after each other: computing, reading from shared storage,
scheduling and the final merge. The longest is the limit. Printed as Markdown tables.
"""

import argparse
import math
import os
import platform
import tempfile
import time
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import tifffile
import zarr

import cytolith
from cytolith.cells.build import build_config
from cytolith.cells.costs import block_halo, bytes_per_voxel
from cytolith.cells.pipeline import PROCESS_BYTES
from cytolith.cells.resolve import in_voxels
from cytolith.cells.results import BlockResult, Results, Tally
from cytolith.engine.checkpoint import Checkpoints
from cytolith.engine.dask_pool import open_dask
from cytolith.engine.executors import open_pool
from cytolith.engine.grid import Costs, plan_blocks, tile
from cytolith.engine.run import run_blocks
from cytolith.engine.worker import call_parcel, pack
from cytolith.testing.phantoms import CellsPhantom

VOXEL_SIZE = (6.0, 1.62, 1.62)
RUNS = (("100 Gvoxel", (2000, 7000, 7143)), ("10 Tvoxel", (10000, 31620, 31626)))
FLEETS = ((1, 1), (16, 1), (16, 16))
"""Workers of a machine, machines."""
VOXEL_BYTES = 2


class Nothing:
    """A task that does nothing."""

    def __call__(self, block, ahead, given):  # noqa: ARG002
        return block.index


def best(function, repeats, clock=time.process_time):
    """Best seconds of one call; the first call, which compiles, is not counted."""
    function()
    least = math.inf
    for _ in range(repeats):
        begin = clock()
        function()
        least = min(least, clock() - begin)
    return least


def block_costs(shape, repeats, folder):
    """CPU seconds a voxel read, by storage, and the table that was found."""
    phantom = CellsPhantom(shape, seed=0)
    volume = np.stack([phantom.plane(z) for z in range(shape[0])])
    planes = folder / "planes"
    planes.mkdir()
    for z, plane in enumerate(volume):
        tifffile.imwrite(planes / f"z{z:04d}.tif", plane)
    stored = zarr.create_array(folder / "volume.zarr", shape=shape, chunks=(32, 256, 256), dtype=volume.dtype)
    stored[:] = volume
    seconds, table = {}, {}
    for name, source in (
        ("TIFF planes, uncompressed", planes),
        ("zarr, zstd, chunks of 4 MiB", folder / "volume.zarr"),
    ):

        def run(source=source):
            table.update(cytolith.detect_cells(source, voxel_size=VOXEL_SIZE, workers=1, memory=2**40, block=shape))

        seconds[name] = best(run, repeats) / volume.size
    return seconds, table


def task_costs(count=2000):
    """Seconds of an empty task, by executor, with two workers; and of one of many that Dask has at once."""
    plan = plan_blocks((count, 1, 1), Costs((0, 0, 0), 1.0), memory=2**30, workers=2, core=(1, 1, 1))
    seconds = {}
    for name, open_it in (
        ("threads", lambda: open_pool("threads", 2)),
        ("processes", lambda: open_pool("processes", 2)),
        ("dask", lambda: open_dask("local:2", None)),
    ):
        with open_it() as pool:
            seconds[name] = best(lambda p=pool: list(run_blocks(Nothing(), plan, p)), 2, time.perf_counter) / count
            if name == "dask":

                def many(pool=pool):
                    parcel = pack(Nothing())
                    wait([pool.submit(call_parcel, parcel, block, None, None) for block in plan.blocks])

                # with four in flight a task waits for messages that Dask gathers for some ms; a fleet has hundreds
                seconds["dask, hundreds in flight"] = best(many, 2, time.perf_counter) / count
    return seconds


def checkpoint_cost(table, rows, folder, count=20):
    """Seconds to bring the result of a block to the disk, and its bytes."""
    copies = math.ceil(rows / len(table["z"]))
    arrays = {name: np.concatenate([column] * copies)[:rows] for name, column in table.items()}
    arrays["keys"] = np.arange(rows)
    checkpoints = Checkpoints(folder, "run")

    def save():
        for index in range(count):
            checkpoints.save(index, arrays, {"mask_voxels": 1})

    return best(save, 2, time.perf_counter) / count, checkpoints.path(0).stat().st_size


def merge_cost(table, rows=1_000_000, blocks=100):
    """Seconds a row of the final table."""
    generator = np.random.default_rng(0)
    share = rows // blocks
    copies = math.ceil(share / len(table["z"]))
    tables = [
        {name: np.concatenate([column] * copies)[:share] for name, column in table.items()} for _ in range(blocks)
    ]
    for each in tables:
        for axis in "zyx":
            each[axis] = each[axis] + generator.random(share)
    results = Results()
    for k, each in enumerate(tables):
        each["z"] += k * 100
        tally = Tally(rows=share, first_z=float(each["z"].min()))
        results.add(k, BlockResult(each, np.arange(k * share, (k + 1) * share), tally=tally))
    plan = tile((100 * blocks, 1, 1), (100, 1, 1), (0, 0, 0))
    return best(lambda: sum(len(keys) for _, keys in results.rows(plan)), 2) / rows


def projection(costs, cpu_voxel, task, checkpoint, merge_row, cells_voxel, options):
    print(
        "\n| volume | workers | blocks | core | read twice | memory | computing | storage must give | "
        f"reading at {options.storage:g} GB/s | scheduling | merge | in all | limit |\n|" + "--|" * 13
    )
    for name, shape in RUNS:
        for workers, machines in FLEETS:
            memory = int(options.memory * 2**30 * workers)
            plan = plan_blocks(shape, costs, memory=memory, workers=workers, machines=machines)
            everywhere, blocks, read = workers * machines, len(plan.blocks), plan.voxels_read
            rounds = math.ceil(blocks / everywhere) * everywhere / blocks  # the last blocks leave workers idle
            times = {
                "cpu": (read * cpu_voxel + blocks * checkpoint) / everywhere * rounds,
                "storage bandwidth": read * VOXEL_BYTES / (options.storage * 1e9),
                "scheduler": blocks * task,
            }
            merge = math.prod(shape) * cells_voxel * merge_row
            limit = max(times, key=times.get)
            if merge > times[limit]:
                limit = "merge"
            rate = read * VOXEL_BYTES / times["cpu"] / 1e9
            print(
                f"| {name} | {everywhere} | {blocks:,} | {' x '.join(map(str, plan.core))} "
                f"| {100 * (read / math.prod(shape) - 1):.0f} % | {machines} x {plan.bytes_total / 2**30:.1f} GiB "
                f"| {duration(times['cpu'])} | {rate:.2g} GB/s | {duration(times['storage bandwidth'])} "
                f"| {duration(times['scheduler'])} ({blocks / max(times['cpu'], 1e-9):.2g}/s) | {duration(merge)} "
                f"| {duration(max(times.values()) + merge)} | {limit} |",
                flush=True,
            )


def duration(seconds):
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def processor():
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="96,1024,1024")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of a worker")
    parser.add_argument("--storage", type=float, default=2.0, help="GB/s that shared storage gives to all")
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    config = in_voxels(build_config(), VOXEL_SIZE)
    costs = Costs(block_halo(config, VOXEL_SIZE), bytes_per_voxel(config, np.dtype(np.uint16)), PROCESS_BYTES)
    with tempfile.TemporaryDirectory() as name:
        seconds, table = block_costs(shape, options.repeats, Path(name))
        cells_voxel = len(table["z"]) / math.prod(shape)
        plan = plan_blocks(RUNS[0][1], costs, memory=int(options.memory * 2**30), workers=1)
        rows = math.ceil(cells_voxel * math.prod(plan.core))
        checkpoint, size = checkpoint_cost(table, rows, Path(name))
    tasks = task_costs()
    merge_row = merge_cost(table)

    print(f"{os.cpu_count()} cores of {processor()}, Python {platform.python_version()}, {platform.system()}\n")
    print("| measured | |\n|--|--|")
    for source, each in seconds.items():
        print(f"| detect_cells, CPU a Mvoxel read, {source} | {1e9 * each:.0f} ms |")
    for executor, each in tasks.items():
        print(f"| an empty task, {executor} | {1e3 * each:.2f} ms |")
    print(f"| a checkpoint of {rows:,} rows, {size / 2**20:.1f} MiB | {1e3 * checkpoint:.1f} ms |")
    print(f"| merge, a row | {1e6 * merge_row:.2f} us |")
    print(f"| cells a Mvoxel of the phantom | {1e6 * cells_voxel:.0f} |")
    worst = max(seconds.values())
    projection(costs, worst, tasks["dask, hundreds in flight"], checkpoint, merge_row, cells_voxel, options)


if __name__ == "__main__":
    main()
