"""Draw the pictures of the README from the samples: cells found in a slab of planes, and the maps of a fracture.

python docs/make_picture.py
"""

import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap

from cytolith.cells.build import build_config
from cytolith.cells.pipeline import execute, prepare
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.pipeline import run_fracture
from cytolith.io.volume import open_volume
from cytolith.testing.fracture_phantom import write_fracture_sample
from cytolith.testing.phantoms import cells_phantom

VOXEL = (6.0, 1.62, 1.62)
SLAB = slice(12, 20)


IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Write docs/images/cells.png and docs/images/fracture.png."""
    IMAGES.mkdir(exist_ok=True)
    cells()
    fracture()


def fracture() -> None:
    """Draw the aperture map of a sample fracture as a run does."""
    with tempfile.TemporaryDirectory() as folder:
        write_fracture_sample(Path(folder), (160, 80, 360), 4)
        result = run_fracture(f"{folder}/fracture.tif", folder, FractureConfig(n=1), voxel_size=(25, 25, 25))
        (IMAGES / "fracture.png").write_bytes(result.paths["aperture_picture"].read_bytes())


def cells() -> None:
    """Draw a slab of planes and the cells found in it."""
    volume, _ = cells_phantom((32, 200, 360), seed=4, voxel_size=VOXEL)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/labels.npy"
        config = build_config(("", {"shape_detection": {"save": path}}))
        result = execute(prepare(open_volume(volume, voxel_size=VOXEL), config))
        labels = np.load(path)
    table, flat = result.table, volume[SLAB].max(0)
    inside = labels[SLAB].max(0)
    edges = np.zeros_like(inside)
    change = (inside[1:-1, 1:-1] != inside[:-2, 1:-1]) | (inside[1:-1, 1:-1] != inside[1:-1, :-2])
    edges[1:-1, 1:-1] = np.where(change, np.maximum(inside[1:-1, 1:-1], 1), 0)
    rng = np.random.default_rng(1)
    colours = ListedColormap(
        np.vstack([[0, 0, 0, 0], np.c_[rng.uniform(0.35, 1, (labels.max(), 3)), np.ones(labels.max())]])
    )
    figure, axes = plt.subplots(1, 2, figsize=(10, 3), dpi=150, layout="constrained")
    extent = (0, flat.shape[1] * VOXEL[2], flat.shape[0] * VOXEL[1], 0)
    limits = {"vmin": np.percentile(flat, 1), "vmax": np.percentile(flat, 99.7)}
    for axis in axes:
        axis.imshow(flat, cmap="gray", extent=extent, **limits)
        axis.set_xlabel("x (um)", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[1].imshow(edges, cmap=colours, extent=extent, interpolation="nearest", vmin=0, vmax=labels.max())
    shown = (table["z"] >= SLAB.start) & (table["z"] < SLAB.stop)
    axes[1].plot(table["x_um"][shown] + VOXEL[2] / 2, table["y_um"][shown] + VOXEL[1] / 2, ".", color="white", ms=2.5)
    axes[0].set_title(f"{SLAB.stop - SLAB.start} planes of the sample, largest value", fontsize=9)
    axes[1].set_title(f"{shown.sum()} cells found: centres and outlines", fontsize=9)
    figure.savefig(IMAGES / "cells.png", metadata={"Software": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
