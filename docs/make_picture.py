"""Draw the pictures of the README and the pages: what runs on the samples found, and how the package is built.

python docs/make_picture.py
"""

import ast
import contextlib
import io
import shlex
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.patches import Ellipse, FancyBboxPatch, Rectangle
from PIL import Image

import cytolith
from cytolith.cells.build import build_config
from cytolith.cells.pipeline import execute, prepare
from cytolith.cli import app
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.pipeline import run_fracture
from cytolith.io.volume import open_volume
from cytolith.testing.fracture_phantom import write_fracture_sample
from cytolith.testing.phantoms import cells_phantom

VOXEL = (6.0, 1.62, 1.62)
SLAB = slice(12, 20)
LAYERS = (
    ("cli",),
    ("report", "compat", "preview", "train"),
    ("tune", "atlas", "convert"),
    ("cells", "fracture", "score"),
    ("engine", "testing"),
    ("io", "kernels"),
)
"""Layers of the package from top to bottom; those in one row do not import each other."""

IMAGES = Path(__file__).parent / "images"
MARKS = ("#56B4E9", "#E69F00", "#CC79A7")
"""Colours of hits, misses and false alarms in the picture of a score."""
OUTLINE = "#E69F00"


def main() -> None:
    """Write all pictures into docs/images."""
    IMAGES.mkdir(exist_ok=True)
    cells()
    fracture()
    tutorial_cells()
    tutorial_fracture()
    layers()
    blocks()


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure without the name of the program, so that the same picture has the same bytes."""
    figure.savefig(IMAGES / name, metadata={"Software": None}, bbox_inches="tight")
    plt.close(figure)


def map_picture(path: Path, label: str, name: str) -> None:
    """Draw a map of a fracture, voxels of 25 um, with type that can be read where the picture is narrow."""
    values = np.loadtxt(path)
    millimetres = 0.025 * np.array(values.shape)
    with mpl.rc_context({"font.size": 13}):
        figure, axes = plt.subplots(figsize=(6, 6 * values.shape[0] / values.shape[1] + 0.4), dpi=110)
        extent = (0, millimetres[1], millimetres[0], 0)
        drawn = axes.imshow(values, extent=extent, interpolation="nearest")
        axes.set(xlabel="x (mm)", ylabel="z (mm)")
        axes.locator_params(nbins=5)
        figure.colorbar(drawn, ax=axes, label=label, fraction=0.036 * values.shape[0] / values.shape[1] * 1.3, pad=0.03)
        save(figure, name)


def fracture() -> None:
    """Draw the aperture map of a sample fracture."""
    with tempfile.TemporaryDirectory() as folder:
        write_fracture_sample(Path(folder), (160, 80, 360), 4)
        result = run_fracture(f"{folder}/fracture.tif", folder, FractureConfig(n=1), voxel_size=(25, 25, 25))
        map_picture(result.paths["aperture_map"], "aperture (voxels)", "fracture.png")


def cells() -> None:
    """Draw a slab of planes and the cells found in it."""
    volume, _ = cells_phantom((32, 200, 360), seed=4, voxel_size=VOXEL)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/labels.npy"
        config = build_config(("", {"shape_detection": {"save": path}}))
        result = execute(prepare(open_volume(volume, voxel_size=VOXEL), config))
        labels = np.load(path)
    table, flat = result.table, volume[SLAB].max(0)
    inside = np.pad(labels[SLAB].max(0), 1)
    here = inside[1:-1, 1:-1]
    around = (inside[:-2, 1:-1], inside[2:, 1:-1], inside[1:-1, :-2], inside[1:-1, 2:])
    edges = (here > 0) & np.logical_or.reduce([here != other for other in around])
    extent = (0, flat.shape[1] * VOXEL[2], flat.shape[0] * VOXEL[1], 0)
    limits = {"vmin": np.percentile(flat, 1), "vmax": np.percentile(flat, 99.7)}
    shown = (table["z"] >= SLAB.start) & (table["z"] < SLAB.stop)
    with mpl.rc_context({"font.size": 12, "axes.titlesize": 12}):
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), dpi=150, layout="constrained", sharey=True)
        for axis in axes:
            axis.imshow(flat, cmap="gray", extent=extent, **limits)
            axis.set_xlabel("x (um)")
        axes[0].set_ylabel("y (um)")
        only = ListedColormap([(0, 0, 0, 0), OUTLINE])
        axes[1].imshow(edges, cmap=only, extent=extent, interpolation="nearest", vmin=0, vmax=1)
        at = [table[name][shown] + edge / 2 for name, edge in (("x_um", VOXEL[2]), ("y_um", VOXEL[1]))]
        axes[1].plot(*at, ".", color="white", ms=2.5)
        axes[0].set_title(f"{SLAB.stop - SLAB.start} planes of the sample, largest value")
        axes[1].set_title(f"{shown.sum()} cells found: centres and outlines")
        save(figure, "cells.png")


def run(command: str, folder: Path) -> None:
    """Run a command of a tutorial in a folder."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        app(shlex.split(command))


def tutorial_cells() -> None:
    """Draw the score of the tutorial on cells, as its commands do, with larger type."""
    with tempfile.TemporaryDirectory() as folder, mpl.rc_context({"font.size": 14}):
        for command in (
            "sample cells sample",
            "cells sample/planes -o cells --voxel-size 6,1.62,1.62 --no-report -q",
            'score cells sample/truth.csv --tolerance "8 um" -o score',
        ):
            run(command, Path(folder))
        with Image.open(f"{folder}/score/score.png") as image:  # as small as a page needs it
            width = 880
            small = image.convert("RGB").resize((width, width * image.height // image.width), Image.Resampling.LANCZOS)
            few = with_colours(np.asarray(small), palette())
        few.save(IMAGES / "tutorial-score.png", optimize=True)


def palette() -> np.ndarray:
    """Greys, and the colours of the marks over them: few marks would be lost among colours chosen by their number."""
    greys = np.repeat(np.arange(64)[:, None] * 255 / 63, 3, axis=1)
    mixed = [
        255 * share * np.array(to_rgb(mark)) + grey * (1 - share)
        for mark in MARKS
        for share in (0.45, 0.7, 1.0)
        for grey in (0, 90, 200)
    ]
    return np.unique(np.vstack([greys, mixed]).round().astype(np.int32), axis=0)


def with_colours(image: np.ndarray, colours: np.ndarray) -> Image.Image:
    """Give each pixel the nearest of the colours; Pillow's own choice is near only."""
    given, where = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    nearest = [((colours - one) ** 2).sum(1).argmin() for one in given.astype(np.int32)]
    few = Image.fromarray(np.array(nearest, np.uint8)[where].reshape(image.shape[:2]), "P")
    few.putpalette(colours.astype(np.uint8).tobytes())
    return few


def tutorial_fracture() -> None:
    """Draw the maps of the tutorial on a fracture, of the run that its commands do."""
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            "sample fracture rock",
            "fracture rock/fracture.tif -o maps -n 1 --voxel-size 25,25,25 --no-report -q",
        ):
            run(command, Path(folder))
        for kind, label in (("aperture", "aperture (voxels)"), ("offset", "offset (voxels)")):
            map_picture(Path(folder) / "maps" / f"fracture-{kind}-map.txt", label, f"tutorial-{kind}.png")


def layers() -> None:
    """Draw the layers of the package, and between them as many lines as modules import each other."""
    package = Path(cytolith.__file__).parent
    imports: Counter[tuple[str, str]] = Counter()
    for path in package.rglob("*.py"):
        here = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cytolith."):
                imports[here, node.module.split(".")[1]] += 1
    places = {
        name: (10 * (i + 0.5) / len(row), len(LAYERS) - 1 - y)
        for y, row in enumerate(LAYERS)
        for i, name in enumerate(row)
    }  # below lie axes, errors and quantities, which all import
    figure, axes = plt.subplots(figsize=(7, 5.5), dpi=120)
    for (upper, lower), count in imports.items():
        if upper != lower and upper in places and lower in places:
            (x0, y0), (x1, y1) = places[upper], places[lower]
            if y1 >= y0:
                raise ValueError(f"{upper} imports {lower}, which LAYERS does not have below it")
            axes.plot((x0, x1), (y0 - 0.22, y1 + 0.22), color="0.65", lw=0.4 * count**0.5, zorder=0)
    for name, (x, y) in places.items():
        axes.add_patch(FancyBboxPatch((x - 0.7, y - 0.2), 1.4, 0.4, boxstyle="round,pad=0.04", fc="white", ec="0.2"))
        axes.text(x, y, name, ha="center", va="center", fontsize=9)
    axes.add_patch(FancyBboxPatch((1, -1.2), 8, 0.4, boxstyle="round,pad=0.04", fc="0.93", ec="0.2"))
    axes.text(5, -1, "axes, errors, quantities", ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, 10), ylim=(-1.4, len(LAYERS) - 0.5))
    axes.axis("off")
    save(figure, "layers.png")


def blocks() -> None:
    """Draw cores, a halo, and cells that are settled, and one that is read again."""
    figure, axes = plt.subplots(figsize=(7, 3.2), dpi=120)
    for x in range(3):
        for y in range(2):
            axes.add_patch(Rectangle((4 * x, 2.6 * y), 4, 2.6, fc="none", ec="0.5", lw=1))
    axes.add_patch(Rectangle((3.4, 0), 5.2, 3.2, fc="tab:blue", alpha=0.12, ec="none"))
    axes.add_patch(Rectangle((4, 0), 4, 2.6, fc="tab:blue", alpha=0.15, ec="tab:blue", lw=2))
    axes.add_patch(Rectangle((6.4, 0.7), 4.4, 1.5, fc="none", ec="tab:red", lw=1.5, ls="--"))
    for x, y, width, colour in (
        (5.2, 1.9, 0.5, "tab:green"),
        (4.1, 0.7, 0.6, "tab:green"),
        (8.4, 1.45, 3.2, "tab:red"),
        (2.0, 4.0, 0.5, "0.6"),
        (11.6, 0.5, 0.5, "0.6"),
        (6.0, 4.4, 0.6, "0.6"),
    ):
        axes.add_patch(Ellipse((x, y), width, 0.45, fc=colour, ec="none"))
    axes.plot(7.4, 1.45, "k.", ms=5)
    axes.text(4.15, 2.25, "core", color="tab:blue")
    axes.text(4.15, 2.75, "halo: read too", color="tab:blue")
    axes.text(4.6, 1.1, "settled", color="tab:green")
    axes.text(8.15, 2.28, "read again: it runs on", color="tab:red")
    axes.text(2.0, 3.45, "of other blocks", color="0.35", ha="center")
    axes.text(6.55, 0.84, "key")
    axes.annotate("", (7.35, 1.4), (7.0, 1.1), arrowprops={"arrowstyle": "->", "lw": 0.8})
    axes.set(xlim=(-0.1, 12.6), ylim=(-0.1, 5.3), aspect="equal")
    axes.axis("off")
    save(figure, "blocks.png")


if __name__ == "__main__":
    main()
