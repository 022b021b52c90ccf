"""The dense part of a block on a GPU: image steps, maxima and mask, so that the CPU is left with a few per cent of it.

What comes down from the GPU is sparse wherever the rest of the pipeline allows it: images that hold the values of the
voxels of the mask, and anything elsewhere. The rows are those of the CPU, to the last bit (docs/design.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.cells.background_jump import Backgrounds, inside
from cytolith.cells.config import IMAGE_STEPS, CellsConfig
from cytolith.cells.gpus import GpuUse
from cytolith.cells.images import (
    Found,
    Image,
    Kernels,
    Setting,
    dense_halo,
    look_on_cpu,
    run_step,
    triple,
)
from cytolith.cells.seeds import seed_threshold
from cytolith.engine.gpus import GpuError, Lane, Lanes, PinnedWorkspace
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.kernels.components import MaskTooLargeError, scatter
from cytolith.kernels.gpu.background import remove_background
from cytolith.kernels.gpu.components import DeviceRuns, mask_runs, masked_values
from cytolith.kernels.gpu.cuda import to_host
from cytolith.kernels.gpu.equalization import equalize
from cytolith.kernels.gpu.extremes import largest
from cytolith.kernels.gpu.gaussian import dog_filter, smooth
from cytolith.kernels.gpu.illumination import apply_flat_field
from cytolith.kernels.gpu.maxima import scan_maxima
from cytolith.kernels.gpu.surroundings import background_near
from cytolith.kernels.maxima import search

LAST = IMAGE_STEPS[-1]
"""The image that maxima are looked for in."""


class OnGpu:
    """Looks at blocks on the GPUs of a process; what they cannot do, the CPU does."""

    def __init__(self, use: GpuUse) -> None:
        """Find the GPUs of this process; GpuError says why there are none."""
        self._lanes, self._most_voxels = Lanes(use.plan), use.most_voxels
        self._notes: list[str] = []
        self._told: set[str] = set()

    def workspace(self) -> PinnedWorkspace:
        """Buffers for what will be uploaded."""
        return PinnedWorkspace(self._lanes.device)

    def take_notes(self) -> list[str]:
        """What went wrong with GPUs since this was last asked, in words."""
        notes, self._notes = self._notes, []
        return notes

    def __call__(
        self,
        image: Image,
        block: Block,
        setting: Setting,
        workspace: Workspace,
        *,
        mask: Image | None = None,
        mask_limit: int | None = None,
        seconds: dict[str, float] | None = None,
    ) -> tuple[dict[str, Image], Found | None]:
        """Images that the rest needs, and what was found in the last one; see `cytolith.cells.images.Look`.

        Raises
        ------
        MaskTooLargeError
            More voxels than `mask_limit` lie above the shape threshold.
        """
        spent = {} if seconds is None else seconds
        if image.size <= self._most_voxels:
            try:
                with self._lanes.borrow() as lane:
                    return _OnLane(image, block, setting, workspace, lane).run(mask, mask_limit, spent)
            except GpuError as error:
                note = f"{error}; what it was to do is done on the CPU, with the same result"
                if note not in self._told:
                    self._told.add(note)
                    self._notes.append(note)
        return look_on_cpu(image, block, setting, workspace, mask=mask, seconds=seconds)


@dataclass(frozen=True)
class _Needs:
    """What of a block must come down from the GPU."""

    finds: bool
    """Whether maxima and mask are found there."""
    dense: frozenset[str]
    """Images that are needed whole."""
    sparse: frozenset[str]
    """Images of which the values at voxels of the mask are enough."""
    otherwise: frozenset[str]
    """Images that are needed whole when nothing was found."""


def _needs(config: CellsConfig) -> _Needs:
    maxima, shapes, measure = config.maxima_detection, config.shape_detection, config.intensity_detection
    saved = {name for name in IMAGE_STEPS if getattr(getattr(config, name), "save", None) is not None}
    if maxima is None:
        return _Needs(finds=False, dense=frozenset(saved), sparse=frozenset(), otherwise=frozenset(saved))
    dense = saved if config.features is None else set(IMAGE_STEPS)
    measured = set() if measure is None else set(measure.measure) - {"source"}
    jumps = config.background_jump is not None and config.background_jump.ratio is not None
    everything = dense | measured | {LAST} | ({"illumination_correction", "background_correction"} if jumps else set())
    # a flood around maxima goes below thresholds
    finds = maxima.h_max is None and seed_threshold(config) is not None
    finds = finds and (shapes is None or shapes.threshold is not None)
    if shapes is None:
        dense = dense | measured  # over balls, which reach beyond what is above thresholds
    return _Needs(finds, frozenset(dense), frozenset({LAST, *measured} - dense), frozenset(everything))


class _OnLane:
    """One block on a lane."""

    def __init__(self, image: Image, block: Block, setting: Setting, workspace: Workspace, lane: Lane) -> None:
        self._image, self._block, self._setting = image, block, setting
        self._workspace, self._lane = workspace, lane
        self._needs = _needs(setting.config)

    def run(
        self, mask: Image | None, mask_limit: int | None, seconds: dict[str, float]
    ) -> tuple[dict[str, Image], Found | None]:
        lane = self._lane
        lane.mark("begin")
        on_gpu = {"source": lane.upload("source", self._image)}
        counted = None if mask is None else lane.upload("mask", mask.view(np.uint8))
        lane.mark("upload")
        current = on_gpu["source"]
        kernels = Kernels(
            apply_flat_field,
            partial(remove_background, allocate=lane.array),
            partial(equalize, allocate=lane.array),
            smooth,
            dog_filter,
        )
        for name in IMAGE_STEPS:
            before, region = current, self._block.read
            try:
                current = run_step(name, before, region, self._setting, lane, mask=counted, kernels=kernels)
            except ValueError as error:  # checked for the CPU, but a kernel may be too large for a GPU
                raise GpuError(f"{name}: {error}") from error
            if current is not before:
                lane.mark(name)
            on_gpu[name] = current
        found, runs = self._find(on_gpu, mask_limit) if self._needs.finds else (None, None)
        lane.mark("finding")
        images = self._fetch(on_gpu, runs)
        lane.mark("download")
        lane.wait(seconds)
        return images, found

    def _find(self, on_gpu: dict[str, Any], mask_limit: int | None) -> tuple[Found | None, DeviceRuns | None]:
        """What the CPU goes on with, and the voxels whose values it needs; None where there are too many of them."""
        config, final, allocate = self._setting.config, on_gpu[LAST], self._lane.array
        assert config.maxima_detection is not None
        window, shapes = config.maxima_detection.shape, config.shape_detection
        reach, lowest = search(
            final.dtype, None if window is None else triple(window), seed_threshold(config), final.shape
        )
        maxima: NDArray[np.int64] | None = np.empty(0, np.int64)
        if lowest is not None:
            maxima = scan_maxima(final, lowest, reach, allocate=allocate)
        if maxima is None:
            return None, None
        if shapes is not None:
            assert shapes.threshold is not None
            mask = mask_runs(final, shapes.threshold.value, limit=mask_limit, allocate=allocate)
        else:
            try:
                mask = mask_runs(final, _just_below(lowest), limit=mask_limit, allocate=allocate)
            except MaskTooLargeError:
                return None, None
        found = Found(
            maxima,
            None if shapes is None else mask.runs,
            self._backgrounds(on_gpu, maxima),
            largest(final, self._block.inner),
        )
        return found, mask

    def _backgrounds(self, on_gpu: dict[str, Any], maxima: NDArray[np.int64]) -> Backgrounds | None:
        """Background at all maxima and near them: asking for those of rows alone would mean to come back later."""
        jump = self._setting.config.background_jump
        if jump is None or jump.ratio is None:
            return None
        assert jump.radius is not None
        known = self._block.trimmed(self._setting.shape, dense_halo(self._setting.config)).read
        before, after = on_gpu["illumination_correction"], on_gpu["background_correction"]
        at = np.stack(np.unravel_index(maxima, self._image.shape), axis=1)
        return background_near(before, after, at, triple(jump.radius), inside(known, self._block.read))

    def _fetch(self, on_gpu: dict[str, Any], mask: DeviceRuns | None) -> dict[str, Image]:
        """The images that are needed, in memory of the CPU: those of skipped steps are the ones before."""
        needs = self._needs
        whole_ones = needs.dense if mask is not None else needs.otherwise
        images, names = {"source": self._image}, {id(on_gpu["source"]): "source"}
        for name in IMAGE_STEPS:
            made_by = names.setdefault(id(on_gpu[name]), name)
            same = [each for each in IMAGE_STEPS if on_gpu[each] is on_gpu[name]]
            if made_by in images:
                images[name] = images[made_by]
            elif not whole_ones.isdisjoint(same):
                host = self._workspace.array(f"{name} from a GPU", self._image.shape, on_gpu[name].dtype)
                images[name] = to_host(on_gpu[name], host)
            elif mask is not None and not needs.sparse.isdisjoint(same):
                host = self._workspace.array(f"mask of {name}", self._image.shape, on_gpu[name].dtype)
                scatter(mask.runs, masked_values(on_gpu[name], mask, allocate=self._lane.array), host)
                images[name] = host
        return images


def _just_below(lowest: Any) -> float:
    """What exactly the values from `lowest` on exceed; None: no value is as large as that."""
    if lowest is None:
        return math.inf
    if lowest.dtype.kind == "f":
        return float(np.nextafter(lowest, np.float32(-math.inf)))
    return float(lowest) - 1
