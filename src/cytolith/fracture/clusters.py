"""Clusters of a volume of any size: their table, their labels, and the largest of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytolith.axes import AXES, Shape, VoxelSize
from cytolith.engine.executors import Pool, lend_pool
from cytolith.errors import ConfigError, OutputError
from cytolith.fracture.labelling import Clusters
from cytolith.fracture.passes import ArrayWriter, Painting, Passes
from cytolith.fracture.places import plan_passes
from cytolith.fracture.plan import Needs, stack_chunk
from cytolith.fracture.source import Source
from cytolith.io.sink import Sink, create_sink
from cytolith.io.volume import open_volume

Table: TypeAlias = dict[str, NDArray[Any]]


def label_clusters(
    source: Any,
    *,
    connectivity: int = 26,
    threshold: float | None = None,
    invert: bool = False,
    labels: bool | str | PathLike[str] | None = False,
    workers: int | None = None,
    memory: int | None = None,
    executor: str | Executor | Pool = "threads",
) -> Any:
    """Table of the connected clusters of a volume.

    Parameters
    ----------
    source
        Anything that :func:`cytolith.open_volume` reads, or a volume it opened. A voxel belongs to a cluster where it
        is not 0.
    connectivity
        26: voxels that share a face, an edge or a corner are connected; 18: a face or an edge; 6: a face.
    threshold
        A voxel belongs to a cluster where it is greater than this instead; both are compared as the volume is read,
        float64 and large integers as float32.
    invert
        Clusters of the other voxels.
    labels
        True: the labels too, as an array. A path (``.tif``, ``.zarr``, ``.npy``): they are written there.
    workers
        Blocks at work at once; default: all cores.
    memory
        Bytes to stay below, all processes of this machine together; default: half of its memory. An array of labels
        comes on top.
    executor
        Where blocks run: ``"threads"``, ``"processes"`` or ``"serial"``; or an executor or a pool of the caller's, who
        shuts it down. The result is the same everywhere. Other processes need a `source` that is a path.

    Returns
    -------
    table : dict of str to ndarray
        One entry a cluster, the largest first; of clusters of one size the one whose first voxel comes first in
        (z, y, x). ``id`` (int64, 1 ... n), ``size`` (int64, voxels), ``box`` (int32, (n, 6): z0, y0, x0, z1, y1, x1,
        half-open), ``centroid`` (float64, (n, 3): z, y, x in voxels).
    labels : ndarray of int32 or Path
        Only with `labels`: each voxel's ``id``, 0 outside, or where they were written.

    Raises
    ------
    VolumeError, ConfigError, MemoryBudgetError, OutputError
        Input that cannot be read, a parameter that cannot be used, more clusters than the memory holds, labels that
        cannot be written.

    Examples
    --------
    >>> image = np.array([[[1, 0, 0, 1], [0, 1, 0, 1]]], np.uint8)
    >>> table, labels = label_clusters(image, labels=True)
    >>> table["size"]
    array([2, 2])
    >>> labels
    array([[[1, 0, 0, 2],
            [0, 1, 0, 2]]], dtype=int32)
    """
    output = None if labels is None or isinstance(labels, bool) else labels
    with lend_pool(executor, workers) as pool:
        passes = make_passes(
            source, connectivity, threshold, invert, pool, workers, memory,
            painted_bytes=4 if labels else 0, output=output,
        )  # fmt: skip
        with _canvas(passes, np.int32, output) as canvas:
            clusters = passes.find()
            order = by_size(clusters)
            table = cluster_table(clusters, order)
            if labels is None or labels is False:
                return table
            ids = np.empty(len(order), np.int32)
            ids[order] = np.arange(1, len(order) + 1)
            return table, _paint(passes, clusters, ids, canvas)


def keep_largest(
    source: Any,
    n: int = 1,
    *,
    output: str | PathLike[str] | None = None,
    connectivity: int = 26,
    threshold: float | None = None,
    invert: bool = False,
    workers: int | None = None,
    memory: int | None = None,
    executor: str | Executor | Pool = "threads",
) -> NDArray[np.uint8] | Path:
    """Volume in which only the largest connected clusters are left.

    Parameters
    ----------
    source
        Anything that :func:`cytolith.open_volume` reads, or a volume it opened.
    n
        How many clusters to keep, 1 or more. Of clusters of one size the one whose first voxel comes first in
        (z, y, x) is kept; when there are fewer than `n`, all are.
    output
        Path of the result (``.tif``, ``.zarr``, ``.npy``), for volumes larger than memory; an existing one is refused.
    connectivity, threshold, invert, workers, memory, executor
        As in :func:`label_clusters`.

    Returns
    -------
    ndarray of uint8, or Path
        (z, y, x), 255 in the clusters that are kept and 0 elsewhere; the path, when there is an `output`.

    Raises
    ------
    VolumeError, ConfigError, MemoryBudgetError, OutputError
        As :func:`label_clusters`; ConfigError when `n` is not 1 or more.

    Examples
    --------
    >>> keep_largest(np.array([[[1, 1, 0, 1]]], np.uint8))
    array([[[255, 255,   0,   0]]], dtype=uint8)
    """
    check_count(n, "n")
    with lend_pool(executor, workers) as pool:
        passes = make_passes(
            source, connectivity, threshold, invert, pool, workers, memory, painted_bytes=1, output=output
        )
        with _canvas(passes, np.uint8, output) as canvas:
            clusters = passes.find()
            kept = kept_of(by_size(clusters), n)
            result: NDArray[np.uint8] | Path = _paint(passes, clusters, kept * np.uint8(255), canvas)
            return result


def check_count(n: Any, option: str) -> int:
    """The number of clusters to keep; ConfigError when it is not a whole number of 1 or more."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"{option} {n}: give a whole number of clusters to keep, 1 or more")
    return int(n)


def check_threshold(threshold: float | None) -> None:
    """Refuse a threshold that is no finite number."""
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"--threshold {threshold}: give a number")


def make_passes(
    source: Any,
    connectivity: int,
    threshold: float | None,
    invert: bool,
    pool: Pool,
    workers: int | None = None,
    memory: int | None = None,
    *,
    painted_bytes: int = 0,
    output: str | PathLike[str] | None = None,
    planes: int | None = None,
) -> Passes:
    """Passes over anything that can be opened, planned.

    Parameters
    ----------
    painted_bytes
        Of each voxel of the volume that is painted.
    output
        Where to; None: an array, and what other processes paint comes back.
    """
    if connectivity not in (6, 18, 26):
        raise ConfigError(f"connectivity {connectivity}: give 6, 18 or 26")
    check_threshold(threshold)
    checked = Source(open_volume(source), threshold, invert)
    checked.volume.check()
    shape = checked.volume.shape
    returned = painted_bytes * shape[1] * shape[2] if output is None and pool.travels else 0
    slabs = plan_passes(
        checked,
        pool,
        workers,
        memory,
        needs=Needs(painted_bytes, plane_bytes=returned),
        multiple=1 if output is None else stack_chunk(shape, output)[0],
        planes=planes,
    )
    return Passes(checked, slabs, pool, connectivity)


def by_size(clusters: Clusters) -> NDArray[np.int64]:
    """Clusters from the largest to the smallest; of one size, in the order of their first voxels."""
    return np.argsort(-clusters.size, kind="stable")


def kept_of(order: NDArray[np.int64], n: int | None) -> NDArray[np.uint8]:
    """1 for each of the first `n` clusters of an order (None: of all), 0 for the others."""
    kept = np.zeros(len(order), np.uint8)
    kept[order[:n]] = 1
    return kept


def cluster_table(clusters: Clusters, order: NDArray[np.int64]) -> Table:
    """Table of clusters, as :func:`label_clusters` gives it."""
    size = clusters.size[order]
    return {
        "id": np.arange(1, len(order) + 1),
        "size": size,
        "box": clusters.box[order],
        "centroid": clusters.sums[order] / size[:, None],
    }


def table_columns(table: Table, shape: Shape, voxel_size: VoxelSize | None, kept: int) -> Table:
    """Columns of ``clusters.csv``.

    Parameters
    ----------
    table
        From :func:`label_clusters`.
    shape
        Extent of the volume (z, y, x).
    voxel_size
        Edges (z, y, x) of a voxel in micrometres; centroids in micrometres too when it is known.
    kept
        How many clusters, the largest first, were kept.

    Returns
    -------
    dict of str to ndarray
        ``id``, ``voxels``, ``share`` (of all fracture voxels), ``kept``, ``z0, y0, x0, z1, y1, x1`` (box, half-open),
        ``z, y, x`` (centroid in voxels), ``z_um, y_um, x_um``, and ``spans_z, spans_y, spans_x``: the cluster reaches
        from the first to the last voxel of the volume along the axis.
    """
    box, centroid = table["box"], table["centroid"]
    columns: Table = {
        "id": table["id"],
        "voxels": table["size"],
        "share": table["size"] / max(int(table["size"].sum()), 1),
        "kept": table["id"] <= kept,
    }
    columns |= {f"{axis}0": box[:, k] for k, axis in enumerate(AXES)}
    columns |= {f"{axis}1": box[:, k + 3] for k, axis in enumerate(AXES)}
    columns |= {axis: centroid[:, k] for k, axis in enumerate(AXES)}
    if voxel_size is not None:
        columns |= {f"{axis}_um": centroid[:, k] * voxel_size[k] for k, axis in enumerate(AXES)}
    columns |= {f"spans_{axis}": (box[:, k] == 0) & (box[:, k + 3] == shape[k]) for k, axis in enumerate(AXES)}
    return columns


@contextmanager
def _canvas(passes: Passes, dtype: DTypeLike, output: str | PathLike[str] | None) -> Iterator[Sink | None]:
    """Where a painted volume will be written, checked and made before any work; None: in memory, or nowhere."""
    if output is None:
        yield None
        return
    path = Path(os.fspath(output)).expanduser()
    if path.exists():
        raise OutputError(f"{path} exists already; remove it, or give another path")
    volume = passes.source.volume
    with create_sink(path, volume.shape, dtype, stack_chunk(volume.shape, path), voxel_size=volume.voxel_size) as sink:
        yield sink


def _paint(passes: Passes, clusters: Clusters, values: NDArray[Any], canvas: Sink | None) -> Any:
    """Volume in which each cluster has its value, as an array or at a path."""
    keep = np.ones(len(values), np.uint8)
    if canvas is None:
        writer = ArrayWriter(passes.source.volume.shape, values.dtype)
        passes.apply(clusters, keep, paintings=[Painting(values, writer)])
        return writer.array
    passes.apply(clusters, keep, paintings=[Painting(values, canvas)])
    return canvas.path
