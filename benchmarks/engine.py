"""What the engine costs: a run with checkpoints, widening and retries against the bare loop over its blocks; workers.

    python -m benchmarks.engine [--shape Z,Y,X] [--pairs N]

The bare loop reads each block and finds its cells in one thread, with nothing around it, and writes the same tables.
CPU time of the process and time by the clock, as ratios of runs that follow one another; medians and extremes of pairs.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from cytolith.cells.block import cells_of_block
from cytolith.cells.build import build_config
from cytolith.cells.pipeline import prepare, with_thresholds
from cytolith.cells.run import run_cells
from cytolith.engine.executors import open_pool
from cytolith.engine.workspace import Workspace
from cytolith.io.tables import write_table
from cytolith.io.volume import open_volume
from cytolith.testing.phantoms import CellsPhantom

VOXEL = (6.0, 1.62, 1.62)


def bare(source, block, memory, folder):
    """The loop over blocks with nothing around it, and its rows in files; rows found."""
    volume = open_volume(source, voxel_size=VOXEL)
    prepared, _ = with_thresholds(prepare(volume, build_config(), workers=1, memory=memory, block=block))
    workspace, tables = Workspace(), []
    for part in prepared.plan.blocks:
        image, mask = prepared.reader.read(part, workspace)
        tables.append(cells_of_block(image, part, prepared.setting, workspace, mask=mask).table)
    table = {name: np.concatenate([each[name] for each in tables]) for name in tables[0]}
    out = Path(tempfile.mkdtemp(dir=folder))
    for suffix in ("parquet", "csv"):
        write_table(table, out / f"cells.{suffix}")
    return len(table["z"])


def whole(source, block, memory, folder, executor="threads", workers=1):
    """A run as the command line does it; rows found."""
    pool = open_pool(executor, workers)
    out = Path(tempfile.mkdtemp(dir=folder))
    return run_cells(source, out, build_config(), voxel_size=VOXEL, pool=pool, memory=memory, block=block).rows


def timed(function, *arguments):
    cpu, clock = time.process_time(), time.perf_counter()
    function(*arguments)
    return time.process_time() - cpu, time.perf_counter() - clock


def ratios(pairs, first, second):
    """Ratios of second to first, CPU and clock, of runs in turns."""
    found = []
    for _ in range(pairs):
        a, b = timed(*first), timed(*second)
        found.append((b[0] / a[0], b[1] / a[1], *a, *b))
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="256,1024,1024")
    parser.add_argument("--block", default="64,512,1024")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    shape, block = (tuple(int(n) for n in text.split(",")) for text in (options.shape, options.block))
    memory = 8 * 2**30
    tile = CellsPhantom((64, *shape[1:]), seed=0)
    planes = [tile.plane(z) for z in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "planes"
        source.mkdir()
        for z in range(shape[0]):
            tifffile.imwrite(source / f"z{z:04d}.tif", planes[z % 64])
        bare(source, block, memory, folder), whole(source, block, memory, folder)  # compile, fill caches
        found = ratios(options.pairs, (bare, source, block, memory, folder), (whole, source, block, memory, folder))
        print("| | median | least | most |\n|--|--|--|--|")
        for name, column in (("run over bare loop, CPU", 0), ("run over bare loop, clock", 1)):
            values = found[:, column]
            print(f"| {name} | {np.median(values):.3f} | {values.min():.3f} | {values.max():.3f} |")
        for executor in ("threads", "processes"):
            arguments = (whole, source, block, memory, folder, executor)
            found = ratios(options.pairs, (*arguments, 2), (*arguments, 1))
            values = found[:, 1]
            print(
                f"| two workers against one, {executor}, clock | {np.median(values):.2f} | {values.min():.2f} | "
                f"{values.max():.2f} |",
                flush=True,
            )
        print(f"\nOne worker: {np.median(found[:, 5]):.1f} s by the clock for {np.prod(shape) / 1e6:.0f} Mvoxel.")


if __name__ == "__main__":
    main()
