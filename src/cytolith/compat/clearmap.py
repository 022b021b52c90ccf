"""ClearMap's cell functions on top of this package, with their names, arguments, defaults and dicts.

They are those of ``ClearMap.ImageProcessing.Experts.Cells``, arrays are (x, y, z), and a script changes one import::

    import cytolith.compat.clearmap as cells

The conventions are ClearMap's: the opening of an even-sized element is shifted by a voxel, each voxel of a plateau is a
cell, shapes grow from crosses of seven voxels, a shape threshold is exclusive and a maxima threshold inclusive. Its
errors are not: nothing wraps or is truncated to integers (images after illumination correction, equalization and filter
are float32), no cell is lost to the number of processes, and no row depends on blocks. Rows are sorted by (z, y, x).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import full_region
from cytolith.cells.block import Table
from cytolith.cells.fields import nearest
from cytolith.cells.images import Setting, run_step, triple
from cytolith.cells.owners import inside_region, places
from cytolith.cells.pipeline import refuse_large_footprint
from cytolith.cells.reader import Reader
from cytolith.compat.clearmap_blocks import Processing
from cytolith.compat.clearmap_files import check_table_sink, open_source, read_table, write_table
from cytolith.compat.clearmap_maxima import extended_maxima
from cytolith.compat.clearmap_parameters import (
    Parameters,
    number,
    pipeline,
    read_background,
    read_dog,
    read_equalization,
    read_maxima,
    read_parameters,
)
from cytolith.compat.clearmap_run import check_mask, run
from cytolith.engine.workspace import Workspace
from cytolith.errors import ConfigError
from cytolith.io.files import same_place
from cytolith.kernels.maxima import detect_maxima as local_maxima

__all__ = [
    "default_cell_detection_parameter",
    "default_cell_detection_processing_parameter",
    "detect_cells",
    "detect_cells_block",
    "detect_maxima",
    "dog_filter",
    "equalize",
    "filter_cells",
    "remove_background",
]

default_cell_detection_parameter: dict[str, Any] = {
    "illumination_correction": {"flatfield": None, "scaling": "mean"},
    "background_correction": {"shape": (10, 10), "form": "Disk", "save": False},
    "equalization": None,
    "dog_filter": {"shape": None, "sigma": None, "sigma2": None},
    "maxima_detection": {"h_max": None, "shape": 5, "threshold": 0, "valid": True, "save": False},
    "shape_detection": {"threshold": 700, "save": False},
    "intensity_detection": {"method": "max", "shape": 3, "measure": ["source", "background_correction"]},
}
"""Parameters of the steps, by the name of the step."""

default_cell_detection_processing_parameter: dict[str, Any] = {
    "size_max": 100,
    "size_min": 50,
    "overlap": 32,
    "axes": [2],
    "optimization": True,
    "optimization_fix": "all",
    "verbose": None,
    "processes": None,
}
"""Parameters of the blocks."""


def detect_cells(
    source: Any,
    sink: Any = None,
    cell_detection_parameter: Mapping[str, Any] = default_cell_detection_parameter,
    processing_parameter: Mapping[str, Any] = default_cell_detection_processing_parameter,
    workspace: Any = None,
) -> Any:
    """Cells of a volume.

    Illumination correction, background removal, equalization, difference of Gaussians, maxima, shapes, sizes and
    intensities, each with its sub-dict of parameters. A step whose sub-dict is missing, None or empty is skipped.
    `save` of a step is a ``.npy`` path: its result is written there, float64, of the extent of the source; labels are
    rows of the table of all cells, counted from 1 in the order (z, y, x).

    Parameters
    ----------
    source
        Array (x, y, z), or anything with shape, dtype and slicing; path of a ``.npy`` file of one; path of a TIFF
        stack, (z, y, x) on disk, or of anything else that :func:`cytolith.open_volume` reads. bool, uint8, uint16,
        int16, float32, or float64, which is computed on as float32.
    sink
        None, a ``.npy`` path (a file that is there is replaced), or a structured array of the right length.
    cell_detection_parameter
        Parameters by step, lengths in voxels (x, y, z). It stays as it is.
    processing_parameter
        Blocks as ClearMap lays them out: `axes` to split, `size_max`, `size_min`, `overlap` in voxels, `optimization`,
        `optimization_fix`, and `processes` (any number, ``"serial"``, or None: all cores) for the blocks at work at
        once; what is missing is as in the default. Rows do not depend on any of them. Blocks that memory (half of the
        machine's) does not hold are cut further. `verbose` prints a line a block.
    workspace
        Anything that takes an attribute `executor`: while the run is at work it is there, and
        ``workspace.executor.shutdown()`` cancels the run.

    Returns
    -------
    structured ndarray, or the sink
        Columns x, y, z (int64, voxels of the centre), size (int64, voxels; with shapes), and one float64 column for
        each name in ``intensity_detection["measure"]``. With ``maxima_detection["valid"]`` False, once for each block
        that a cell lies in, overlaps included, block by block.

    Raises
    ------
    VolumeError, ConfigError, OutputError
        An input that cannot be read, a parameter that is unknown or cannot be used, a result that cannot be written.
    MemoryBudgetError
        Memory does not hold a block. With `h_max` the volume is held at once, as a peak far away can decide what is a
        maximum.
    concurrent.futures.CancelledError
        The run was cancelled. Nothing is written then.

    Warns
    -----
    UserWarning
        The overlap is below what the filters see, which here makes no difference; or a cell runs on through more of the
        volume than memory holds at once, so that its size and intensities are those of a part.
    """
    parameters = read_parameters(cell_detection_parameter)
    processing = Processing.of(processing_parameter, default_cell_detection_processing_parameter)
    if processing.verbose and not parameters.verbose:
        parameters = replace(parameters, verbose=True)
    path = check_table_sink(sink)
    opened = open_source(source)
    layout = processing.layout(opened.shape, opened.slowest)
    found = run(opened, parameters, layout, processing.processes, handle=workspace, sink=path)
    table = _table(found, parameters)
    if not parameters.valid:
        centres = np.stack([table[axis] for axis in "zyx"], 1)
        table = np.concatenate([table[inside_region(centres, each.covered)] for each in layout])
    return write_table(sink, table)


def detect_cells_block(
    source: Any, parameter: Mapping[str, Any] = default_cell_detection_parameter, n_threads: int | None = None
) -> NDArray[Any]:
    """Cells of an array, all of it valid; see :func:`detect_cells`.

    Parameters
    ----------
    source
        As for :func:`detect_cells`.
    parameter
        Parameters by step.
    n_threads
        Threads that share the work; None: one for each core. Rows do not depend on it.

    Returns
    -------
    structured ndarray
        As :func:`detect_cells` gives it.
    """
    parameters = read_parameters(parameter)
    is_number = isinstance(n_threads, (int, np.integer)) and not isinstance(n_threads, bool)
    if n_threads is not None and not (is_number and n_threads >= 1):
        raise ConfigError(f"n_threads is {n_threads!r}; a number from 1, or None for all cores, is needed")
    threads = None if n_threads is None else int(n_threads)
    return _table(run(open_source(source), parameters, None, threads), parameters)


def detect_maxima(
    source: Any,
    h_max: float | None = None,
    shape: int | tuple[int, int, int] = 5,
    threshold: float | None = None,
    verbose: bool = False,
) -> NDArray[Any]:
    """Centres of the maxima of an image.

    Parameters
    ----------
    source
        Image in memory's size: as for :func:`detect_cells`.
    h_max
        Height of extended maxima: the maxima of the window in the h-max transform; None: those of the image.
    shape
        Window in voxels, one number or (x, y, z).
    threshold
        Least value of a maximum, inclusive; None: any.
    verbose
        Print how many there are.

    Returns
    -------
    ndarray
        (n, 3), x, y, z in voxels, sorted by (z, y, x): int64, one row for each voxel of a plateau; with `h_max`
        float64, the centre of mass of each 6-connected group.
    """
    image, step = open_source(source).read(), read_maxima(h_max, shape, threshold)
    centres: NDArray[Any]
    if step.h_max is not None:
        centres = extended_maxima(image, step).centres(image)
        centres = centres[np.lexsort(centres.T[::-1])]
    else:
        assert step.shape is not None
        lowest = None if step.threshold is None else step.threshold.value
        found = local_maxima(image, shape=triple(step.shape), threshold=lowest, merge_plateaus=False)
        centres = places(found.voxels, found.shape)
    if verbose:
        sys.stdout.write(f"{len(centres)} maxima\n")
    return np.ascontiguousarray(centres[:, ::-1])


def dog_filter(source: Any, shape: Any, sigma: Any = None, sigma2: Any = None) -> NDArray[Any]:
    """Difference of Gaussians of an image, not below 0.

    Parameters
    ----------
    source
        Image in memory's size: as for :func:`detect_cells`.
    shape
        Extent of the filter in voxels, one number or (x, y, z); None: the image as it is.
    sigma, sigma2
        Standard deviation of the inner and the outer Gaussian, one number or (x, y, z); None: from the shape.

    Returns
    -------
    ndarray
        (x, y, z), float32 whatever the image is, so that nothing wraps.
    """
    return _after(source, dog_filter=read_dog(shape, sigma, sigma2))


def equalize(
    source: Any,
    percentile: tuple[float, float] = (0.5, 0.95),
    max_value: float = 1.5,
    selem: Any = (200, 200, 5),
    spacing: Any = (50, 50, 5),
    interpolate: Literal[0, 1] = 1,
    mask: Any = None,
) -> NDArray[np.float32]:
    """Even out the brightness of an image by two local percentiles.

    Parameters
    ----------
    source
        Image in memory's size: as for :func:`detect_cells`.
    percentile
        Lower and upper percentile as fractions.
    max_value
        What the upper percentile may reach.
    selem, spacing
        Extent of the windows and distance between them in voxels, one number or (x, y, z).
    interpolate
        Between windows: 1 linear, 0 nearest.
    mask
        Only voxels that are not 0 here count for the percentiles; a source of the same extent.

    Returns
    -------
    ndarray
        (x, y, z), float32. Percentiles stay where their windows are and are held beyond the outermost; ClearMap
        stretches them over the image.
    """
    return _after(source, equalization=read_equalization(percentile, max_value, selem, spacing, interpolate, mask))


def remove_background(source: Any, shape: Any, form: str = "Disk") -> NDArray[Any]:
    """The image less the grey opening of each z plane.

    Parameters
    ----------
    source
        Image in memory's size: as for :func:`detect_cells`.
    shape
        Extent of the structure element in voxels, one number or (x, y). For an even one the opening is shifted by a
        voxel, as in the original.
    form
        ``"Disk"`` or ``"Cube"``.

    Returns
    -------
    ndarray
        (x, y, z), dtype of the image; bool as uint8, float64 as float32.
    """
    return _after(source, background_correction=read_background(shape, form))


def filter_cells(source: Any, sink: Any, thresholds: Mapping[str, Any]) -> Any:
    """Rows of a table of cells whose columns lie within limits.

    Parameters
    ----------
    source
        Structured array, or path of a ``.npy`` file of one.
    sink
        As for :func:`detect_cells`.
    thresholds
        By column: a minimum, or (minimum, maximum), either of which may be None; rows with ``minimum <= x < maximum``
        are kept. None, 0 and () are no limit.

    Returns
    -------
    structured ndarray, or the sink

    Raises
    ------
    ConfigError
        A column that is not there, or limits that are no numbers.
    """
    path = check_table_sink(sink)
    if not isinstance(thresholds, Mapping):
        raise ConfigError(f"thresholds: a {type(thresholds).__name__} given; a dict of limits by column is needed")
    table = read_table(source)
    if path is not None and isinstance(source, (str, PathLike)) and same_place(Path(source).expanduser(), path):
        raise ConfigError(f"sink {sink} is the source; give another path")
    kept = np.ones(len(table), bool)
    for name, limits in thresholds.items():
        limits = limits.tolist() if isinstance(limits, np.ndarray) else limits
        if not limits:
            continue
        if name not in (table.dtype.names or ()):
            raise ConfigError(f"no column {name!r} to filter by; {nearest(str(name), table.dtype.names or ())}")
        low, high = limits if isinstance(limits, (tuple, list)) and len(limits) == 2 else (limits, None)
        low, high = (None if each in _NO_LIMITS else number(f"thresholds[{name!r}]", each) for each in (low, high))
        if low is not None:
            kept &= table[name] >= low
        if high is not None:
            kept &= table[name] < high
    return write_table(sink, table[kept])


_NO_LIMITS = (-math.inf, math.inf)


def _after(source: Any, **steps: Any) -> NDArray[Any]:
    """The image (x, y, z) after one step."""
    volume = open_source(source).volume
    (name,), config, region = steps, pipeline(**steps), full_region(volume.shape)
    check_mask(config, volume)
    refuse_large_footprint(config, volume)
    mask = Reader(volume, config).read_mask(region, Workspace())
    setting = Setting(config, volume.shape)
    after: NDArray[Any] = run_step(name, volume.read(region), region, setting, Workspace(), mask=mask)
    return after.T


def _table(found: Table, parameters: Parameters) -> NDArray[Any]:
    """Structured array of what the pipeline found; parts of a voxel are cut off."""
    table = np.empty(len(found["z"]), parameters.columns)
    for name, _ in parameters.columns:
        table[name] = found[name]
    return table
