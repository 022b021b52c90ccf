"""Fit a filter to annotated cells, and say honestly how good it is where it was not fitted."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Shape, VoxelSize
from cytolith.cells.block import Table
from cytolith.cells.build import build_config
from cytolith.cells.classifier import KEEP, Classifier, require_train
from cytolith.cells.config import CellsConfig
from cytolith.cells.pipeline import detect_cells
from cytolith.cells.resolve import with_defaults
from cytolith.errors import ConfigError
from cytolith.io.volume import Volume
from cytolith.score.match import Matching, match
from cytolith.score.regions import Box

CANDIDATES: dict[str, Any] = {
    "maxima_detection": {"threshold": "4.5 mad", "shape": "18, 5, 5 um"},
    "background_jump": None,
    "shape_detection": {"threshold": "3 mad"},
    "features": True,
}
"""Loose candidates: on annotated volumes 90 to 97 % of the cells are among them."""
TREES = 5
"""Models whose mean is taken: trees on random columns differ, their mean is steadier."""
FOLDS = 4
BOXES = 4
"""Boxes along each axis that folds are made of."""
LEAST_CELLS = 50
"""Annotated cells below which nothing can be fitted and tested."""
LEAST_OF_A_KIND = 10
"""Candidates that are cells, and such that are none, below which there is nothing to tell apart."""


@dataclass(frozen=True)
class Training:
    """A trained filter and its scores."""

    classifier: Classifier
    held_out: Matching
    """Rows kept against annotated cells in boxes that each model has not seen."""
    default: Matching
    """What the default chain gives there."""
    candidates: int
    cells: int
    """Annotated cells in the regions."""
    found: int
    """How many of them are among the candidates."""


def train_classifier(
    volume: Volume,
    truth: NDArray[np.float64],
    *,
    regions: Sequence[Box] = (),
    without: Sequence[Box] = (),
    tolerance: float = 8.0,
    config: CellsConfig | None = None,
    seed: int = 0,
    workers: int | None = None,
    memory: int | None = None,
) -> Training:
    """Train a filter on annotated cells of one volume.

    Parameters
    ----------
    volume
        The annotated volume; its voxel size must be known.
    truth
        (n, 3): centres z, y, x in voxels.
    regions, without
        Where the annotation is complete (default: everywhere), and boxes to leave out.
    tolerance
        Largest distance of a candidate from the cell that it stands for, in micrometres.
    config
        Parameters that find the candidates; their threshold should be loose. Default: the default chain with
        `CANDIDATES`.
    seed
        Of the random choices; the same gives the same filter.
    workers, memory
        As in :func:`cytolith.detect_cells`.

    Returns
    -------
    Training
        The filter, fitted to all, with the scores of filters that were fitted to three quarters of the boxes of the
        volume and tested on the fourth.

    Raises
    ------
    ConfigError
        Too few annotated cells, an unknown voxel size, regions that hold nothing, or libraries that are missing.

    Notes
    -----
    Gradient boosting on the features of :mod:`cytolith.cells.features`. Where the best F1 is F, keeping what is a cell
    with a probability above F / 2 is optimal (Lipton, Elkan and Naryanaswamy, ECML 2014). F is near 0.8, and the cut at
    `cytolith.cells.classifier.KEEP`.
    """
    require_train()
    from threadpoolctl import threadpool_limits

    if volume.voxel_size is None:
        raise ConfigError(f"{volume.name}: the voxel size is unknown; add --voxel-size Z,Y,X")
    size, points = volume.voxel_size, np.asarray(truth, np.float64).reshape(-1, 3)

    def chosen(places: NDArray[np.float64]) -> NDArray[np.bool_]:
        inside = np.full(len(places), not regions)
        for box in regions:
            inside |= box.holds(places)
        for box in without:
            inside &= ~box.holds(places)
        return inside

    points = points[chosen(points)]
    if len(points) < LEAST_CELLS:
        raise ConfigError(
            f"{len(points)} annotated cells in the regions: a filter needs {LEAST_CELLS} at least, and hundreds to be "
            "good; annotate more, or tune the threshold with cytolith tune"
        )
    config = build_config(("", CANDIDATES)) if config is None else config
    if config.features is None or config.shape_detection is None:
        raise ConfigError("the parameters have no features or no shapes, which is what a filter is trained on")
    table = detect_cells(volume, workers=workers, memory=memory, config=config)
    table = _rows(table, chosen(_points(table)))
    places = _points(table)
    pairs = match(places, points, tolerance, size).pairs
    is_cell = np.zeros(len(places), bool)
    is_cell[pairs[:, 0]] = True
    if min(is_cell.sum(), (~is_cell).sum()) < LEAST_OF_A_KIND:
        raise ConfigError(
            f"{is_cell.sum()} of {len(places)} candidates are annotated cells: there is nothing to tell apart; check "
            "that the annotation is in voxels of this volume, or lower maxima_detection.threshold"
        )
    columns = (*config.features.measure, "size")
    values = np.stack([np.asarray(table[name], np.float64) for name in columns], 1)
    values[~np.isfinite(values)] = np.nan
    fold = _folds(places, volume.shape)
    kept = np.zeros(len(places), bool)
    for held in range(FOLDS):
        test = fold == held
        if not is_cell[~test].any() or is_cell[~test].all():
            continue
        models = _fit(values[~test], is_cell[~test], seed)
        if test.any():
            with threadpool_limits(1):
                kept[test] = np.mean([m.predict_proba(values[test])[:, 1] for m in models], axis=0) >= KEEP
    plain = detect_cells(volume, workers=workers, memory=memory)
    plain = _rows(plain, chosen(_points(plain)))
    held_out = match(places[kept], points, tolerance, size)
    default = match(_points(plain), points, tolerance, size)
    about = _about(volume, size, len(places), len(points), held_out, default)
    classifier = Classifier(tuple(_fit(values, is_cell, seed)), columns, with_defaults(config, size), about)
    return Training(classifier, held_out, default, len(places), len(points), len(pairs))


def _folds(points: NDArray[np.float64], shape: Shape) -> NDArray[np.int64]:
    """Fold of each point: the volume is cut into boxes, dealt out in turn.

    Neighbours share surroundings, so boxes are held out, never single cells.
    """
    cell = np.clip((points * BOXES / np.array(shape)).astype(np.int64), 0, BOXES - 1)
    return np.asarray((cell @ np.array([1, 2, 3])) % FOLDS, np.int64)


def _fit(values: NDArray[np.float64], is_cell: NDArray[np.bool_], seed: int) -> list[Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    models = []
    for number in range(TREES):
        model = HistGradientBoostingClassifier(
            max_iter=120,
            learning_rate=0.06,
            max_leaf_nodes=8,
            min_samples_leaf=10,
            l2_regularization=1.0,
            max_features=0.3,
            early_stopping=False,
            random_state=seed + number,
        )
        with threadpool_limits(1):  # some thousand rows: threads would wait for each other
            models.append(model.fit(values, is_cell.astype(np.int64)))
    return models


def _about(
    volume: Volume, size: VoxelSize, candidates: int, cells: int, held_out: Matching, default: Matching
) -> dict[str, Any]:
    import sklearn

    def scores(matching: Matching) -> Mapping[str, float]:
        return {"precision": matching.precision, "recall": matching.recall, "f1": matching.f1}

    return {
        "input": volume.name,
        "voxel_size_um": list(size),
        "candidates": candidates,
        "cells": cells,
        "held_out": scores(held_out),
        "default": scores(default),
        "scikit-learn": sklearn.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _points(table: Table) -> NDArray[np.float64]:
    return np.stack([np.asarray(table[axis], np.float64) for axis in "zyx"], 1)


def _rows(table: Table, kept: NDArray[np.bool_]) -> Table:
    return {name: column[kept] for name, column in table.items()}
