"""The fracture job: CPU nanoseconds beside other libraries, and peak memory over depth, as Markdown tables.

    python -m benchmarks.fracture [--shape Z,Y,X] [--repeats N] [--only WORD] [--no-memory] [--large]

Process CPU time, best of several repeats, one worker. A volume is in memory for the library calls, a TIFF stack on
disk for the whole run and for the peaks of memory, which are taken of the command in a process of its own.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import fracture_peers as peers
from benchmarks.__main__ import Table
from cytolith.fracture.clusters import keep_largest, label_clusters
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.graph import (
    generate_adjacency_matrix,
    generate_index_map,
    generate_node_connectivity_array,
    remove_isolated_clusters,
)
from cytolith.fracture.pipeline import run_fracture
from cytolith.kernels.patching import patch_map
from cytolith.testing.fracture_phantom import FracturePhantom, write_fracture_sample

PEER_PLANES = 200
WORST = (200, 300, 400)
DEPTHS = ((300, 400, 400), (3000, 400, 400))
LARGE = (300, 2000, 2000)

# A process takes over the peak of the one that starts it: a small one must stand between it and this script.
STARTER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss, usage.ru_utime, usage.ru_stime)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def statistics(table, name, volume, n):
    """Rows of one volume: ours beside each peer."""
    part = volume[:PEER_PLANES]
    for peer_name, peer in (
        ("cc3d statistics", peers.cc3d_statistics),
        ("SciPy label, bincount, find_objects", peers.scipy_statistics),
        ("scikit-image label, bincount", peers.skimage_statistics),
    ):
        table.row(
            f"cluster statistics, {name}", lambda: label_clusters(volume, workers=1), n,
            peer_name, lambda p=peer: p(part), part.size,
        )  # fmt: skip


def worst_cases():
    """Volumes with many runs, many clusters, one cluster, none."""
    yield "all fracture", np.ones(WORST, np.uint8)
    yield "empty", np.zeros(WORST, np.uint8)
    lonely = np.zeros(WORST, np.uint8)
    lonely[::2, ::2, ::2] = 1
    yield "isolated voxels, 1 in 8", lonely
    yield "random voxels, 1 in 8", (np.random.default_rng(0).random(WORST, np.float32) < 1 / 8).astype(np.uint8)


def graph_largest(volume):
    locs = np.flatnonzero(volume)
    conns = generate_node_connectivity_array(generate_index_map(locs, volume.shape), volume)
    return remove_isolated_clusters(conns, locs, 1)


def steps(table, phantom, volume):
    part = volume[:PEER_PLANES]
    statistics(table, "phantom", volume, volume.size)
    for peer_name, peer in (("cc3d largest_k", peers.cc3d_largest), ("SciPy label", peers.scipy_largest)):
        table.row(
            "keep the largest, phantom", lambda: keep_largest(volume, 1, workers=1), volume.size,
            peer_name, lambda p=peer: p(part), part.size,
        )  # fmt: skip

    crop = volume[:PEER_PLANES]
    table.row(
        "voxel graph and its largest cluster, a fracture voxel", lambda: graph_largest(crop), np.count_nonzero(crop),
        "SciPy cKDTree, csgraph", lambda: peers.graph_largest(crop[:20]), np.count_nonzero(crop[:20]),
    )  # fmt: skip
    locs = np.flatnonzero(crop)
    conns = generate_node_connectivity_array(generate_index_map(locs, crop.shape), crop)
    table.row("adjacency matrix, a fracture voxel", lambda: generate_adjacency_matrix(conns, locs), len(locs))

    offset = phantom.offset
    for peer_name, peer, rows in (
        ("SciPy griddata", peers.patch_griddata, PEER_PLANES),
        ("SciPy Delaunay of the rims", peers.patch_rims, len(offset)),
    ):
        few = offset[:rows]
        table.row(
            f"patching {100 * np.isnan(offset).mean():.1f} % of a map, a cell", lambda: patch_map(offset), offset.size,
            peer_name, lambda p=peer, f=few: p(f), few.size,
        )  # fmt: skip


def whole_run(table, shape, folder):
    write_fracture_sample(folder / "whole", shape)
    write_fracture_sample(folder / "part", (PEER_PLANES, *shape[1:]))
    out = folder / "out"
    table.row(
        "fracture -n 1, reading and writing", whole(folder / "whole", out), np.prod(shape),
        "tifffile, cc3d, SciPy in RAM", lambda: peers.pipeline(folder / "part" / "fracture.tif", folder),
        PEER_PLANES * shape[1] * shape[2],
    )  # fmt: skip
    if not table.only or table.only in "copy":
        source, target = folder / "whole" / "fracture.tif", folder / "copy.tif"
        table.row("copy of the file", lambda: shutil.copyfile(source, target), np.prod(shape))


def whole(sample, out):
    config = FractureConfig(n=1)
    return lambda: run_fracture(sample / "fracture.tif", out, config, workers=1, force=True)


def peak(command):
    """Peak memory in MiB and CPU seconds of a command."""
    done = subprocess.run(
        [sys.executable, "-c", STARTER, sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kib, user, system = map(float, done.stdout.split())
    return kib / (2**20 if sys.platform == "darwin" else 2**10), user + system


def memory(shapes, folder):
    print("\n| planes | plane | workers | peak MiB | CPU s |\n|--|--|--|--|--|", flush=True)
    for shape in shapes:
        write_fracture_sample(folder / "deep", shape, overwrite=True)
        for workers in (1, 2):
            run = ["fracture", folder / "deep" / "fracture.tif", "-o", folder / "out", "-n", 1, "-f", "-q"]
            used, seconds = peak(["-m", "cytolith", *run, "--workers", workers])
            plane = f"{shape[1]} x {shape[2]}"
            row = f"| {shape[0]} | {plane} | {workers} | {used:.0f} | {seconds:.1f} |"
            print(row, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="800,300,800")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--large", action="store_true", help="also the peak for planes of 2000 x 2000")
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    phantom = FracturePhantom(shape)
    volume = phantom.volume()
    table = Table(options.repeats, options.only)
    steps(table, phantom, volume)
    del volume
    for name, worst in worst_cases():
        statistics(table, name, worst, worst.size)
    with tempfile.TemporaryDirectory() as name:
        whole_run(table, shape, Path(name))
        if not options.no_memory:
            memory([*DEPTHS, *([LARGE] if options.large else [])], Path(name))


if __name__ == "__main__":
    main()
