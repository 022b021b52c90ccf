"""The default chain on annotated volumes: as good as the documentation says, with nothing given but the voxel size."""

import numpy as np
import pytest
import tifffile

from cytolith.cells.pipeline import detect_cells
from cytolith.score.match import match

SIZE = (6, 1.62, 1.62)
VOLUMES = ("695", "969", "1147")


def pooled(folder, **options):
    pairs = found = annotated = 0
    for name in VOLUMES:
        table = detect_cells(tifffile.imread(folder / f"cfos_{name}_raw.tif"), voxel_size=SIZE, **options)
        truth = np.loadtxt(folder / f"cfos_{name}_cells.csv", delimiter=",", skiprows=1)[:, :3]
        result = match(np.stack([table[axis] for axis in "zyx"], 1), truth, 8.0, SIZE)
        pairs, found, annotated = (
            pairs + result.true_positives, found + result.detections, annotated + result.annotations,
        )  # fmt: skip
    return 2 * pairs / (found + annotated)


def test_default_and_striped_chain(shared):
    folder = shared / "data" / "cells" / "delivr"
    if not folder.exists():
        pytest.skip("the annotated volumes are not there")
    default = pooled(folder)
    assert default >= 0.73
    assert pooled(folder, preset="c-fos-striped") > default
    assert pooled(folder, background_jump=None) < default
