"""How long a million detections take against a million annotations, and exports of as many rows.

Run as ``python -m benchmarks.score [count]``. Matching runs on one core. Cells lie at 100,000 in a mm3, as in a dense
cortex, evenly or in clusters; four of five annotations are found, 2 um off, and as many false alarms are added. In the
crowded case there are some ten annotations within 8 um of a detection.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cytolith.io.points.export import export_table
from cytolith.io.points.rows import look_through
from cytolith.io.tables import read_points, write_table
from cytolith.score.match import match
from cytolith.score.outcome import score
from cytolith.score.positions import Positions

PER_UM3 = 1e5 / 1e9
TOLERANCE = 8.0


def scene(count: int, cluster: int, spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Positions (n, 3) in um: even when `cluster` is 1, else in clusters of that many cells."""
    edge = (count / PER_UM3) ** (1 / 3)
    centres = rng.uniform(0, edge, (max(count // cluster, 1), 3))
    if cluster == 1:
        return centres
    chosen = centres[rng.integers(0, len(centres), count)]
    return np.asarray(chosen + rng.normal(0, spread, (count, 3)))


def compare(count: int) -> None:
    """Time of matching, by how cells lie."""
    match(np.zeros((2, 3)), np.zeros((2, 3)), 1.0)  # compile
    print(f"{count:,} detections against {count:,} annotations, within {TOLERANCE:g} um, one core")
    for name, cluster, spread in (("even", 1, 0.0), ("clusters of 200", 200, 30.0), ("crowded", 400, 12.0)):
        rng = np.random.default_rng(0)
        real = scene(count, cluster, spread, rng)
        kept = rng.random(count) < 0.8
        found = np.concatenate(
            [real[kept] + rng.normal(0, 2, (int(kept.sum()), 3)), scene(count, cluster, spread, rng)[~kept]]
        )
        begin = time.perf_counter()
        result = match(found, real, TOLERANCE)
        seconds = time.perf_counter() - begin
        near = cKDTree(found).count_neighbors(cKDTree(real), TOLERANCE) / count
        print(
            f"  {name:16} {seconds:6.1f} s   F1 {result.f1:.3f}   {near:.1f} annotations near a detection", flush=True
        )
    outcome = score(Positions("found", found), Positions("real", real), TOLERANCE)
    begin = time.perf_counter()
    rows = len(outcome.match_table()["outcome"])
    print(f"  {'table of matches':16} {time.perf_counter() - begin:6.1f} s   {rows:,} rows")


def export(count: int) -> None:
    """Time and size of each export, and time of reading markers back."""
    rng = np.random.default_rng(1)
    points = scene(count, 200, 30.0, rng)
    points -= points.min(axis=0)
    table = {axis: points[:, number] for number, axis in enumerate("zyx")}
    table |= {"size": rng.integers(1, 900, count), "source": rng.uniform(0, 65535, count)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cells.parquet")
        write_table(table, path, {"voxel_size_um": "[1.0, 1.0, 1.0]"})
        begin = time.perf_counter()
        look_through(path)
        print(f"{count:,} rows\n  looked through   {time.perf_counter() - begin:6.1f} s")
        for kind, name in (
            ("clearmap", "a.npy"), ("cellfinder", "a.xml"), ("napari", "a.csv"), ("neuroglancer", "a.precomputed"),
        ):  # fmt: skip
            out = Path(folder, name)
            begin = time.perf_counter()
            export_table(path, out, kind)
            files = [each for each in ([out] if out.is_file() else out.rglob("*")) if each.is_file()]
            size = sum(each.stat().st_size for each in files) / 1e6
            seconds = time.perf_counter() - begin
            print(f"  {kind:16} {seconds:6.1f} s   {size:,.0f} MB in {len(files):,} files", flush=True)
        begin = time.perf_counter()
        read_points(Path(folder, "a.xml"))
        print(f"  {'xml read':16} {time.perf_counter() - begin:6.1f} s")


if __name__ == "__main__":
    number = int(sys.argv[1].replace(",", "")) if len(sys.argv) > 1 else 1_000_000
    compare(number)
    export(number)
