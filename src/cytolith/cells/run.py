"""The run folder: everything that a run leaves behind, each file whole or absent."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import platform
from pathlib import Path
from typing import Any

from cytolith.axes import Shape, VoxelSize
from cytolith.cells.build import to_toml
from cytolith.cells.config import CellsConfig
from cytolith.cells.pipeline import CellsResult, execute, prepare
from cytolith.engine.old_run import Listener
from cytolith.errors import OutputError
from cytolith.io.files import write_text
from cytolith.io.tables import write_table
from cytolith.io.volume import Volume, open_volume

FILES = ("cells.parquet", "cells.csv", "config.toml", "run.json", "run.log")
"""What a run writes into its folder."""

log = logging.getLogger("cytolith")


def run_cells(
    source: str | Path,
    output: Path,
    config: CellsConfig,
    *,
    voxel_size: VoxelSize | None = None,
    options: dict[str, Any] | None = None,
    workers: int | None = None,
    memory: int | None = None,
    block: Shape | None = None,
    overwrite: bool = False,
    listener: Listener = lambda _: None,
) -> CellsResult:
    """Result of the pipeline on a volume, written into a folder.

    Parameters
    ----------
    source
        Path or glob of the volume.
    output
        Folder for ``cells.parquet``, ``cells.csv``, ``config.toml``, ``run.json`` and ``run.log``; made when it is
        not there.
    config
        Parameters as the user means them.
    voxel_size
        Edge lengths (z, y, x) of a voxel in micrometres, over those in the metadata.
    options
        Channel, timepoint, level and dataset as :func:`cytolith.open_volume` takes them.
    workers, memory, block, listener
        As in :func:`cytolith.detect_cells`; the listener gets the events of the engine.
    overwrite
        Replace an earlier result in the folder and volumes that steps save.

    Raises
    ------
    OutputError
        The folder holds an earlier result and `overwrite` is not set, or cannot be written.
    """
    options = {name: value for name, value in (options or {}).items() if value is not None}
    volume = open_volume(source, voxel_size=voxel_size, **options)
    prepared = prepare(volume, config, workers=workers, memory=memory, block=block)
    run_keys = {"input": str(source), "voxel_size": volume.voxel_size, **options}
    text = to_toml(prepared.config, run_keys)
    _claim(output, source, overwrite=overwrite)
    handler = _log_to(output / "run.log")
    started = datetime.datetime.now(datetime.UTC)
    record: dict[str, Any] = {
        "state": "running",
        "started": started.isoformat(timespec="seconds"),
        "versions": _versions(),
        "input": _fingerprint(volume),
        "config": prepared.config.model_dump(mode="json"),
    }
    try:
        log.info("cytolith %s reads %s: %s %s", _versions()["cytolith"], volume.name, volume.shape, volume.dtype)
        _write_record(output, record)
        result = execute(prepared, overwrite=overwrite, listener=listener)
        write_text(output / "config.toml", text)
        metadata = {"voxel_size_um": json.dumps(volume.voxel_size), "cytolith": _versions()["cytolith"]}
        write_table(result.table, output / "cells.parquet", metadata=metadata)
        write_table(result.table, output / "cells.csv")
        record |= {"state": "finished", **_outcome(result)}
        for hint in result.hints:
            log.warning(hint)
        log.info("%d cells in %.1f s", len(result.table["z"]), result.seconds["run"])
    except KeyboardInterrupt:
        record["state"] = "interrupted"
        if (output / "cells.parquet").exists():
            record["tables"] = "of an earlier run"
        log.warning("interrupted")
        raise
    except Exception as error:
        record |= {"state": "failed", "error": str(error)}
        if (output / "cells.parquet").exists():
            record["tables"] = "of an earlier run"
        log.error("failed: %s", error)  # noqa: TRY400 - the log is for users; the command line shows the same line
        raise
    finally:
        record["ended"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            _write_record(output, record)
        except OutputError as error:
            log.warning("%s", error)
        log.removeHandler(handler)
        handler.close()
    return result


def _claim(output: Path, source: str | Path, *, overwrite: bool) -> None:
    """Make the folder; refuse before any work what would replace an earlier result.

    What a run that failed or was interrupted has left (its record and log) is no result and may be replaced. Earlier
    tables
    stay until the new ones are written.
    """
    if output.resolve() == Path(source).resolve():
        raise OutputError(f"{output}: is the input; give another folder for the results")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give a folder for the results")
    found = [name for name in FILES if (output / name).exists()]
    tables = [name for name in found if name.startswith("cells.")]
    if tables and not overwrite:
        raise OutputError(
            f"{output}: holds an earlier result ({', '.join(tables)}); give another folder, or --overwrite"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be used for the results: {error.strerror}") from None


def _log_to(path: Path) -> logging.Handler:
    try:
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    return handler


def _write_record(output: Path, record: dict[str, Any]) -> None:
    write_text(output / "run.json", json.dumps(record, indent=2) + "\n")


def _versions() -> dict[str, str]:
    names = ("cytolith", "numpy", "numba", "scipy", "tifffile", "zarr", "pyarrow")
    return {name: importlib.metadata.version(name) for name in names} | {"python": platform.python_version()}


def _fingerprint(volume: Volume) -> dict[str, Any]:
    return {
        "source": volume.name,
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxel_size_um": None if volume.voxel_size is None else list(volume.voxel_size),
    }


def _outcome(result: CellsResult) -> dict[str, Any]:
    return {
        "cells": len(result.table["z"]),
        "truncated": int(result.table["truncated"].sum()),
        "noise": result.noise,
        "thresholds": result.thresholds,
        "mask_voxels": result.mask_voxels,
        "plan": {
            "blocks": len(result.plan.blocks),
            "core": list(result.plan.core),
            "workers": result.plan.workers,
            "bytes_block": result.plan.bytes_block,
            "bytes_total": result.plan.bytes_total,
            "voxels_read": result.plan.voxels_read,
        },
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "hints": result.hints,
    }
