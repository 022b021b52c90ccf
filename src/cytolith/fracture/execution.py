"""A prepared run under way: its passes over the volume, and what becomes of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from cytolith.engine.events import Listener
from cytolith.engine.run import KEEP_GOING, STOP_AT_ONCE, BlocksFailedError
from cytolith.errors import OutputError
from cytolith.fracture.clusters import by_size, kept_of
from cytolith.fracture.labelling import Clusters
from cytolith.fracture.outputs import Outputs
from cytolith.fracture.passes import Painting, Passes
from cytolith.fracture.preparation import Prepared, begin_run
from cytolith.fracture.projections import Maps
from cytolith.fracture.tasks import ChangedVolumeError


@contextmanager
def under_way(prepared: Prepared, listener: Listener) -> Iterator[tuple[Passes, Maps | None]]:
    """Passes and maps of a run, as a context.

    When it is left well, all files are put in place. Otherwise none is, and what is finished is kept for a run that
    goes on, unless the volume has changed meanwhile.

    Raises
    ------
    OutputError
        Names the file that could not be written.
    """
    config, outputs, shape = prepared.config, prepared.outputs, prepared.source.volume.shape
    try:
        with outputs:
            kept = begin_run(prepared)
            policy = STOP_AT_ONCE if kept is None else KEEP_GOING
            passes = Passes(prepared.source, prepared.slabs, prepared.pool, listener=listener, policy=policy, kept=kept)
            try:
                if config.needs_maps:
                    with Maps(config.axis, shape, outputs.scratch) as maps:
                        yield passes, maps
                else:
                    yield passes, None
            except ChangedVolumeError:
                outputs.resumable = False
                raise
            except BlocksFailedError as error:
                outputs.resumable = not any(isinstance(each.failure.error, ChangedVolumeError) for each in error.failed)
                raise
            outputs.commit()
    except OutputError as error:
        raise outputs.named(error) from error


def go_over(
    passes: Passes,
    maps: Maps | None,
    outputs: Outputs | None,
    *,
    kept: Callable[[int], int] | None,
    colours: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
) -> tuple[Clusters, NDArray[np.int64], int]:
    """Find the clusters; project and write those that are kept.

    Parameters
    ----------
    passes
        Over the volume.
    maps
        What voxels are projected into, if anything.
    outputs
        Where stacks are written, if anywhere.
    kept
        How many of so many clusters are kept, the largest first; None: all voxels count, which takes one pass less.
    colours
        Value of each cluster in the image of clusters, from the clusters in the order of their size.

    Returns
    -------
    clusters
        Of the volume.
    order
        int64: clusters by size, the largest first.
    count
        How many are kept.
    """
    volume = passes.source.volume
    stacks = {} if outputs is None else outputs.stacks
    sinks = {key: outputs.sink(key, volume.shape, np.uint8, volume.voxel_size) for key in stacks if outputs is not None}
    clusters = passes.find(maps if kept is None else None)
    order = by_size(clusters)
    count = len(order) if kept is None else kept(len(order))
    keep = kept_of(order, count)
    values = {"stack": keep * np.uint8(255), "cluster_image": colours(order)}
    paintings = [Painting(values[key], sink) for key, sink in sinks.items()]
    if paintings or (maps is not None and kept is not None):
        passes.apply(clusters, keep, None if kept is None else maps, paintings)
    return clusters, order, count
