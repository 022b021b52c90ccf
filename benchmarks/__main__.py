"""CPU nanoseconds a voxel and core, ours beside other libraries, as a Markdown table.

    python -m benchmarks [--shape Z,Y,X] [--repeats N] [--only WORD] [--pairs N]

Process CPU time, best of several interleaved repeats: the figure least disturbed by what else the machine does. The
peers run on
fewer planes where they are slow. A copy of uint16 is measured beside, since no kernel is faster than memory.
"""

import argparse
import gc
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from benchmarks import peers
from cytolith.cells.build import build_config
from cytolith.cells.pipeline import execute, prepare
from cytolith.io.volume import open_volume
from cytolith.kernels.background import remove_background
from cytolith.kernels.components import connect_runs, mask_runs
from cytolith.kernels.equalization import equalize
from cytolith.kernels.gaussian import dog_filter, smooth
from cytolith.kernels.maxima import detect_maxima
from cytolith.kernels.measure import measure_shapes
from cytolith.kernels.percentile import local_percentile
from cytolith.kernels.watershed import grow_shapes
from cytolith.testing.phantoms import CellsPhantom

PEER_PLANES = 16
ORIGINAL = {
    "background_correction": {"shape": 10},
    "smoothing": None,
    "maxima_detection": {"shape": 5, "threshold": 0},
    "shape_detection": {"threshold": 700},
}
FULL = {
    "background_correction": {"shape": 10},
    "equalization": True,
    "smoothing": None,
    "dog_filter": {"shape": 6},
    "maxima_detection": {"h_max": 0.05, "threshold": 0.1},
    "shape_detection": {"threshold": 0.1},
}


def cpu(function, repeats):
    """Best CPU seconds of one call; the first call, which compiles, is not counted."""
    function()
    gc.collect()
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        function()
        best = min(best, time.process_time() - begin)
    return best


class Table:
    """Rows of the report, printed as they are measured."""

    def __init__(self, repeats, only):
        self.repeats, self.only = repeats, only
        print("| step | CPU ns/voxel | peer | its CPU ns/voxel | ratio |\n|--|--|--|--|--|", flush=True)

    def row(self, name, ours, voxels, peer_name="", peer=None, peer_voxels=1):
        if self.only and self.only not in name:
            return
        own = cpu(ours, self.repeats) / voxels * 1e9
        if peer is None:
            print(f"| {name} | {own:.2f} | | | |", flush=True)
            return
        other = cpu(peer, 1) / peer_voxels * 1e9
        print(f"| {name} | {own:.2f} | {peer_name} | {other:.1f} | {other / own:.0f}x |", flush=True)


def kernels(table, volume):
    part = volume[:PEER_PLANES]
    n, m = volume.size, part.size
    u16, f32 = np.empty_like(volume), np.empty(volume.shape, np.float32)
    copy = np.empty_like(volume)
    table.row("copy uint16", lambda: np.copyto(copy, volume), n)
    for size in (10, 30):
        table.row(
            f"background, disk {size}", lambda s=size: remove_background(volume, (s, s), out=u16), n,
            "OpenCV", lambda s=size: peers.open_and_subtract(part, s), m,
        )  # fmt: skip
    background = remove_background(volume, (10, 10))
    crop = background[:PEER_PLANES]
    for shape in ((6, 6, 6), (9, 15, 15)):
        few = crop[:12, :256, :256]
        table.row(
            f"DoG {shape}", lambda s=shape: dog_filter(background, s, out=f32), n,
            "SciPy correlate", lambda s=shape, v=few: peers.dog(v, s), few.size,
        )  # fmt: skip
    sigma = (0.7, 1.48, 1.48)
    table.row(
        "smoothing 5x9x9 taps", lambda: smooth(background, sigma, out=f32), n,
        "SciPy gaussian_filter", lambda: peers.ndimage.gaussian_filter(crop.astype(np.float32), sigma, truncate=3), m,
    )  # fmt: skip
    table.row(
        "local maxima 5x5x5 above 300", lambda: detect_maxima(background, shape=5, threshold=300), n,
        "SciPy maximum_filter", lambda: peers.maxima(crop, 5, 300), m,
    )  # fmt: skip
    few = crop[:, :512, :512]
    table.row(
        "extended maxima h 100 above 300", lambda: detect_maxima(background, h_max=100, threshold=300), n,
        "scikit-image reconstruction", lambda: peers.extended_maxima(few, 100, 300), few.size,
    )  # fmt: skip
    for threshold in (300, 700):
        found = detect_maxima(background, shape=5, threshold=threshold)
        seeds = peers.maxima(crop, 5, threshold)
        share = (background > threshold).mean()

        def shapes(found=found, threshold=threshold):
            grown = grow_shapes(background, found.starts, found.voxels, threshold)
            return [measure_shapes(grown, image, "max") for image in (volume, background)]

        table.row(
            f"watershed and measures, {100 * share:.1f} % masked", shapes, n, "scikit-image, SciPy",
            lambda s=seeds, t=threshold: peers.shapes_and_measures(crop, [part, crop], s, t), m,
        )  # fmt: skip
    selem, spacing = (5, 200, 200), (5, 50, 50)
    few = crop[:5]
    table.row(
        "local percentiles", lambda: local_percentile(background, (0.5, 0.95), selem, spacing), n,
        "NumPy percentile", lambda: peers.percentiles(few, selem, spacing, (0.5, 0.95)), few.size,
    )  # fmt: skip
    table.row("equalize", lambda: equalize(background, selem=selem, spacing=spacing, out=f32), n)
    table.row(
        "components, 26", lambda: connect_runs(mask_runs(background, 300), 26), n,
        "SciPy label", lambda: peers.ndimage.label(crop > 300, np.ones((3, 3, 3))), m,
    )  # fmt: skip


def pipelines(table, volume, folder, pairs):
    part, n = volume[:PEER_PLANES], volume.size
    source = open_volume(folder)

    def ours(steps, workers=1):
        return execute(prepare(source, build_config(("", steps)), workers=workers))

    few = np.ascontiguousarray(part[:, :512, :512])
    for name, steps, peer, voxels in (
        ("original's default steps", ORIGINAL, lambda: peers.pipeline(part), part.size),
        ("defaults", {}, lambda: peers.pipeline_smoothed(part), part.size),
        ("equalization + DoG + h_max", FULL, lambda: peers.pipeline_full(few), few.size),
    ):
        table.row(
            f"detect_cells, {name}", lambda s=steps: ours(s), n, "OpenCV, SciPy, scikit-image in RAM", peer, voxels
        )
    if table.only and table.only not in "workers":
        return
    for name, steps in (("original's default steps", ORIGINAL), ("defaults", {})):
        ratios = []
        for _ in range(pairs):
            times = []
            for workers in (1, 2):
                begin = time.perf_counter()
                ours(steps, workers)
                times.append(time.perf_counter() - begin)
            ratios.append(times[0] / times[1])
        print(
            f"\nTwo workers against one, {name}, by the clock: median {np.median(ratios):.2f}, best {max(ratios):.2f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="64,1024,1024")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    phantom = CellsPhantom(shape, seed=0)
    volume = np.stack([phantom.plane(z) for z in range(shape[0])])
    table = Table(options.repeats, options.only)
    kernels(table, volume)
    with tempfile.TemporaryDirectory() as folder:
        for z, plane in enumerate(volume):
            tifffile.imwrite(Path(folder) / f"z{z:04d}.tif", plane)
        pipelines(table, volume, folder, options.pairs)


if __name__ == "__main__":
    main()
