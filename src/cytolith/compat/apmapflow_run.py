"""A stack on disk as ``apm_process_image_stack`` treats it, by the passes of the fracture pipeline at any size."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import region_shape
from cytolith.compat.apmapflow_maps import PATCHING_BYTES, settle_map
from cytolith.engine.events import BlockDone, Event, Listener, Planned
from cytolith.engine.executors import lend_pool
from cytolith.errors import ConfigError, OutputError
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.execution import go_over, under_way
from cytolith.fracture.labelling import Clusters
from cytolith.fracture.maps import OffsetSettings, settle_offsets
from cytolith.fracture.outputs import Outputs, stem_of
from cytolith.fracture.preparation import Prepared, prepare
from cytolith.fracture.projections import Maps
from cytolith.fracture.results import map_strips
from cytolith.fracture.source import looks_grey
from cytolith.fracture.unfinished import has_blocks
from cytolith.io.map_files import write_map_text
from cytolith.io.volume import Volume, open_volume
from cytolith.quantities import format_bytes

log = logging.getLogger(__name__)

MOST_COLOURS = 16


@dataclass(frozen=True)
class StackOptions:
    """What the flags of ``apm_process_image_stack`` ask for.

    Attributes
    ----------
    num_clusters
        Clusters to keep, the largest first; 0: all voxels count; below 0: all but so many of the smallest.
    invert
        Exchange fracture and rock.
    force
        Replace existing files.
    gen_cluster_img
        Write the image of clusters too.
    no_aper_map, no_offset_map, no_img_stack
        What is not written.
    aper_map_name, offset_map_name, img_stack_name
        File names, joined to the output folder, instead of those made from the name of the input.
    """

    num_clusters: int = 0
    invert: bool = False
    force: bool = False
    gen_cluster_img: bool = False
    no_aper_map: bool = False
    no_offset_map: bool = False
    no_img_stack: bool = False
    aper_map_name: str | None = None
    offset_map_name: str | None = None
    img_stack_name: str | None = None

    def __post_init__(self) -> None:
        if self.no_aper_map and self.no_offset_map and not self.writes_stacks:
            more = "--gen-cluster-img" if self.num_clusters else "-n"
            raise ConfigError(f"nothing is left to write: leave out one of the --no- flags, or add {more}")
        name = self.img_stack_name if self.writes_stacks else None
        if name is not None and Path(name).suffix.lower() not in (".tif", ".tiff"):
            raise ConfigError(f"--img-stack-name {name}: the stack is a TIFF file; give it the ending .tif")

    @property
    def writes_stacks(self) -> bool:
        """Whether a stack is written, of what is kept or of all clusters."""
        return self.num_clusters != 0 and (self.gen_cluster_img or not self.no_img_stack)

    @property
    def unused(self) -> list[str]:
        """Flags that were given and, with the others, make no difference."""
        unused = []
        if self.gen_cluster_img and not self.num_clusters:
            unused.append("--gen-cluster-img: clusters are looked for only to keep some of them; without -n none is")
        stack = "--no-img-stack is given" if self.num_clusters else "there is no -n"
        for name, given, is_used, reason in (
            ("--aper-map-name", self.aper_map_name, not self.no_aper_map, "--no-aper-map is given"),
            ("--offset-map-name", self.offset_map_name, not self.no_offset_map, "--no-offset-map is given"),
            ("--img-stack-name", self.img_stack_name, self.writes_stacks, stack),
        ):
            if given is not None and not is_used:
                unused.append(f"{name} {given}: not written, as {reason}")
        return unused


@dataclass
class StackResult:
    """Files that a run has written, and what its user should know."""

    paths: list[Path]
    notes: list[str] = field(default_factory=list)


def process_stack(
    image_file: str | Path,
    output_dir: str | Path,
    options: StackOptions,
    listener: Listener = lambda _: None,
) -> StackResult:
    """Maps and stacks of an image file, in the files and formats of ``apm_process_image_stack``.

    Parameters
    ----------
    image_file
        TIFF stack, or anything else that :func:`cytolith.open_volume` reads from a path.
    output_dir
        Folder for the results; made when it is not there.
    options
        What to do.
    listener
        Gets the events of the engine.

    Raises
    ------
    VolumeError, ConfigError, OutputError, MemoryBudgetError, BlocksFailedError
        As :func:`cytolith.run_fracture`. What is finished by then is kept in the folder; the same call goes on.
    """
    volume = open_volume(str(image_file))
    config = _config(volume, Path(image_file), options)
    # an unfinished run with another number of clusters is not gone on with
    command = {"command": f"apm_process_image_stack -n {options.num_clusters}"}
    notes = list(options.unused)
    if config.threshold is None and looks_grey(volume):
        notes.append(
            f"{volume.name} looks like a grey stack, and every voxel that is not 0 is taken for fracture, as apmapflow "
            "does: make it binary first, or give cytolith fracture a --threshold"
        )
    with lend_pool("threads", None) as pool:
        prepared = prepare(
            volume, image_file, Path(output_dir), config, pool, chosen=command, force=options.force, apart=True
        )
        if prepared.unfinished is not None:
            notes.append(f"went on with the unfinished run in {output_dir}")
        result = _execute(prepared, options.num_clusters, listener)
    result.notes[:0] = notes
    return result


def _config(volume: Volume, image_file: Path, options: StackOptions) -> FractureConfig:
    base = image_file.stem if image_file.is_file() else stem_of(image_file)
    threshold, invert = None, options.invert
    # Volumes are read as displayed. So did apmapflow for 1 and 8 bits; of 16 bits it took the voxels as stored, where
    # what is 0 has the highest value as displayed.
    if "miniswhite" in (volume.storage.display or "") and volume.stored_dtype == np.uint16:
        threshold, invert = float(np.iinfo(np.uint16).max - 1), not options.invert
        log.info("%s: of 16 bits, so fracture is where the stored value is not 0, as for apmapflow", volume.name)
    return FractureConfig(
        n=abs(options.num_clusters) or None,  # of those below 0 the rest is known once clusters are counted
        threshold=threshold,
        invert=invert,
        aperture_map=not options.no_aper_map,
        offset_map=not options.no_offset_map,
        image_stack=not options.no_img_stack,
        cluster_image=options.gen_cluster_img and options.num_clusters != 0,
        clusters=False,
        pictures=False,
        summary=False,
        aperture_name=None if options.no_aper_map else options.aper_map_name or f"{base}-aperture-map.txt",
        offset_name=None if options.no_offset_map else options.offset_map_name or f"{base}-offset-map.txt",
        stack_name=(options.img_stack_name or f"{base}-processed.tif") if options.writes_stacks else None,
    )


def _execute(prepared: Prepared, num_clusters: int, listener: Listener) -> StackResult:
    """Result of a prepared run, with its files in place."""
    outputs = prepared.outputs
    result = StackResult(list(outputs.paths.values()))
    kept = None if num_clusters == 0 else partial(kept_count, num_clusters=num_clusters)
    try:
        with under_way(prepared, listener) as (passes, maps):
            clusters, order, count = go_over(passes, maps, outputs, kept=kept, colours=colours_of)
            result.notes += _notes(clusters, order, count, num_clusters)
            del clusters, order
            if maps is not None:
                result.notes += _write_maps(maps, outputs, prepared.slabs.room)
    except OutputError:
        raise
    except BaseException as error:
        if outputs.committed:
            error.add_note(f"the results are in place in {outputs.folder}")
        elif outputs.resumable and has_blocks(outputs.scratch):
            error.add_note(f"what is finished is kept in {outputs.folder}; the same command goes on from there")
        raise
    return result


def kept_count(clusters: int, num_clusters: int) -> int:
    """How many of so many clusters are kept: all for 0, all but the smallest for a number below 0."""
    return min(num_clusters, clusters) if num_clusters > 0 else max(clusters + num_clusters, 0)


def colours_of(order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Value of each cluster in the image of clusters, from the clusters in the order of their size.

    67, 75, ... for the largest 15, or one fewer than there are; 255 for the others.
    """
    colours = np.full(len(order), 255, np.uint8)
    coloured = order[: max(min(MOST_COLOURS, len(order)) - 1, 0)]
    colours[coloured] = 67 + 8 * np.arange(len(coloured))
    return colours


def _notes(clusters: Clusters, order: NDArray[np.int64], count: int, num_clusters: int) -> list[str]:
    total, voxels, left = len(order), int(clusters.size.sum()), int(clusters.size[order[:count]].sum())
    log.info(
        "%s fracture voxels in %s clusters; %s voxels in %s are kept", *map("{:,}".format, (voxels, total, left, count))
    )
    if not total:
        return ["no voxel is fracture: apertures are 0 and there is no offset; give -i if it is the other way round"]
    if not count:
        return [f"-n {num_clusters}: the stack holds only {total} clusters, and none is left"]
    if num_clusters > total:
        return [f"-n {num_clusters}, but the stack holds only {total}: all were kept"]
    return []


def _write_maps(maps: Maps, outputs: Outputs, room: int) -> list[str]:
    """Write the maps that are wanted as text; what should be known of them."""
    if "aperture_map" in outputs.paths:
        write_map_text(outputs.partial("aperture_map"), map_strips(maps.aperture), "%d")
    if "offset_map" not in outputs.paths:
        return []
    rows, columns = maps.first.shape
    needed = rows * columns * PATCHING_BYTES
    if needed <= room:
        first = maps.first.read(0, rows)
        settled = settle_map(np.where(first < 0, np.nan, first))
        write_map_text(outputs.partial("offset_map"), [settled], "%f")
        return []
    patched, _ = settle_offsets(maps.first, outputs.scratch, OffsetSettings(), memory=room)
    with patched:
        write_map_text(outputs.partial("offset_map"), (strip + 1 for strip in map_strips(patched)), "%f")
    note = (
        f"patching {rows:,} x {columns:,} offsets as apmapflow does takes {format_bytes(needed)} of memory, more than "
        "there is: they were patched as cytolith fracture does, and some patched values differ"
    )
    return [note]


class Progress:
    """Says in the log how far a pass is, about ten times."""

    def __init__(self) -> None:
        self._total = self._done = self._tenth = 0
        self._name = ""

    def __call__(self, event: Event) -> None:
        """Take an event of the engine."""
        if isinstance(event, Planned):
            todo = event.plan.blocks if event.todo is None else event.todo
            self._total = sum(math.prod(region_shape(block.core)) for block in todo)
            self._done = self._tenth = 0
            self._name = event.name
        elif isinstance(event, BlockDone):
            self._done += math.prod(region_shape(event.block.core))
            tenth = 10 * self._done // max(self._total, 1)
            if tenth > self._tenth:
                self._tenth = tenth
                log.info("%s: %d %%", self._name, 10 * tenth)
