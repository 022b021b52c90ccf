"""A filter trained on annotated cells: the probability that a row is a cell, from its features.

The file is that of skops, which holds no code: only the types that this module names are loaded. It also holds the
parameters that the candidates were found with, since the features mean nothing for others.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.cells.block import Table
from cytolith.cells.build import build_config
from cytolith.cells.config import CellsConfig
from cytolith.errors import ConfigError
from cytolith.io.files import written_aside

KEEP = 0.4
"""Rows of at least this probability are kept: half of the F1 that a good filter has, which is the best cut for F1."""
MANY_ROWS = 50_000
"""Rows from which threads pay: below it they wait for each other."""
_FORMAT = 1
_TRUSTED = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",)
"""What is loaded beside what skops knows to be harmless."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained filter."""

    models: tuple[Any, ...]
    """Boosted trees; their mean is the probability."""
    columns: tuple[str, ...]
    """Columns of the table that they take, in this order."""
    config: CellsConfig
    """Parameters that candidates are found with, as a user writes them."""
    about: dict[str, Any]
    """Where it comes from: inputs, cells, held-out scores, versions."""
    digest: str = ""
    """What identifies the file."""
    path: str | None = None
    """The file."""

    def kept(self, table: Table) -> tuple[Table, NDArray[np.bool_]]:
        """Rows that are cells, with the column ``probability`` before ``truncated``, and which of the rows they are."""
        probability = self.probability(table)
        kept = probability >= KEEP
        rows = {name: column[kept] for name, column in table.items() if name != "truncated"}
        return rows | {"probability": probability[kept], "truncated": table["truncated"][kept]}, kept

    def probability(self, table: Table) -> NDArray[np.float64]:
        """Probability of each row to be a cell: float64, (n,).

        Raises
        ------
        ConfigError
            The table lacks a column.
        """
        missing = [name for name in self.columns if name not in table]
        if missing:
            raise ConfigError(f"the classifier needs the columns {', '.join(missing)}: run with --features")
        if not len(table["z"]):
            return np.empty(0)
        from threadpoolctl import threadpool_limits

        values = np.stack([np.asarray(table[name], np.float64) for name in self.columns], 1)
        values[~np.isfinite(values)] = np.nan
        with threadpool_limits(1 if len(values) < MANY_ROWS else None):
            result: NDArray[np.float64] = np.mean([model.predict_proba(values)[:, 1] for model in self.models], axis=0)
        return result


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write a classifier, whole or not at all; OutputError when it cannot be written."""
    import skops.io

    data = skops.io.dumps(
        {
            "format": _FORMAT,
            "models": list(classifier.models),
            "columns": list(classifier.columns),
            "config": json.dumps(classifier.config.model_dump(mode="json")),
            "about": json.dumps(classifier.about),
        }
    )
    with written_aside(path) as aside:
        aside.write_bytes(data)


def load_classifier(path: str | Path) -> Classifier:
    """Read a classifier.

    Raises
    ------
    ConfigError
        There is no such file, it is no classifier, it holds types that one has no use for, or scikit-learn or skops is
        not installed.
    """
    require_train()
    import skops.io

    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--classifier {path}: {error.strerror or error}; write one with cytolith train") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)):
            pass
        foreign = [name for name in skops.io.get_untrusted_types(data=data) if name not in _TRUSTED]
    except Exception as error:
        raise ConfigError(f"--classifier {path}: is no file of cytolith train ({type(error).__name__})") from None
    if foreign:
        raise ConfigError(f"--classifier {path}: holds {foreign[0]}, which a classifier has no use for; not loaded")
    try:
        content = skops.io.loads(data, trusted=list(_TRUSTED))
        if content["format"] != _FORMAT:
            raise ConfigError(f"--classifier {path}: is of another version of cytolith; train it again")
        return Classifier(
            tuple(content["models"]),
            tuple(content["columns"]),
            build_config((str(path), json.loads(content["config"]))),
            json.loads(content["about"]),
            hashlib.sha256(data).hexdigest(),
            str(path),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"--classifier {path}: is no file of cytolith train ({error})") from None


def require_train() -> None:
    """Refuse in one line when the libraries for classifiers are missing."""
    try:
        import sklearn  # noqa: F401
        import skops  # noqa: F401
    except ImportError:
        raise ConfigError("classifiers need scikit-learn and skops: pip install 'cytolith[train]'") from None
