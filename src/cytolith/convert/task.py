"""What a worker does with a block: copy it, make its part of coarser levels. Tasks carry paths, never voxels."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.axes import Region, Shape, region_shape
from cytolith.convert.levels import Stage
from cytolith.engine.checkpoint import Checkpoints
from cytolith.engine.grid import Block
from cytolith.engine.workspace import Workspace
from cytolith.io.pyramid import PyramidSink
from cytolith.io.sink import Sink
from cytolith.io.volume import Volume
from cytolith.kernels.downsample import downsample_labels, downsample_mean, halved_shape

FILE = Stage(None, (0,), (1, 1, 1))
"""The only stage of a file, which has no levels."""


class ConvertTask:
    """A stage of a conversion.

    Parameters
    ----------
    stage
        What is read and which levels are made of it.
    volume
        What is converted.
    origin
        First voxel of the part that is.
    sink
        Where it goes; with levels unless the stage is `FILE`.
    labels
        Whether voxels are labels, which have no mean.
    checkpoints
        Where finished blocks are noted; None: nowhere.
    """

    def __init__(
        self, stage: Stage, volume: Volume, origin: Shape, sink: Sink, *, labels: bool, checkpoints: Checkpoints | None
    ) -> None:
        self.stage, self.volume, self.origin, self.sink = stage, volume, origin, sink
        self.labels = labels
        self.checkpoints = checkpoints
        self._local = threading.local()

    def __call__(self, block: Block, ahead: Block | None, given: Any) -> None:  # noqa: ARG002
        """Convert a block, and note that it is done once that is on the disk."""
        image, factors = self._read(block.core), self._factors(self.stage.source)
        finer, written = factors, []
        for number in self.stage.levels:
            step = _ratio(self._factors(number), factors)
            if step != (1, 1, 1):
                image = self._halve(image, number, step)
            factors = self._factors(number)
            region = _coarser(block.core, _ratio(factors, finer))
            self._write(number, region, image)
            written.append((number, region))
        if self.checkpoints is not None:
            for number, region in written:
                self._flush(number, region)
            self.checkpoints.save(block.index, {}, {})

    def _factors(self, level: int | None) -> Shape:
        return (
            self.sink.levels[level].factors if level is not None and isinstance(self.sink, PyramidSink) else (1, 1, 1)
        )

    def _read(self, core: Region) -> NDArray[Any]:
        if self.stage.source is not None:
            assert isinstance(self.sink, PyramidSink)
            return self.sink.read_level(self.stage.source, core)
        z, y, x = (slice(o + part.start, o + part.stop) for o, part in zip(self.origin, core, strict=True))
        return self.volume.read((z, y, x), self._workspace.array("read", region_shape(core), self.volume.dtype))

    def _halve(self, image: NDArray[Any], level: int, step: Shape) -> NDArray[Any]:
        shape = halved_shape((image.shape[0], image.shape[1], image.shape[2]), step)
        out = self._workspace.array(f"level {level}", shape, np.dtype(image.dtype))
        return (downsample_labels if self.labels else downsample_mean)(image, step, out)

    def _write(self, level: int, region: Region, image: NDArray[Any]) -> None:
        if isinstance(self.sink, PyramidSink):
            self.sink.write_level(level, region, image)
        else:
            self.sink.write(region, image)

    def _flush(self, level: int, region: Region) -> None:
        if isinstance(self.sink, PyramidSink):
            self.sink.flush_level(level, region)
        else:
            self.sink.flush(region)

    @property
    def _workspace(self) -> Workspace:
        workspace: Workspace | None = getattr(self._local, "workspace", None)
        if workspace is None:
            workspace = self._local.workspace = Workspace()
        return workspace

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()


def _ratio(coarse: Shape, fine: Shape) -> Shape:
    z, y, x = (each // other for each, other in zip(coarse, fine, strict=True))
    return z, y, x


def _coarser(region: Region, factors: Shape) -> Region:
    """The voxels of a coarser level that stand for a region, which begins at multiples of the factors."""
    z, y, x = (slice(p.start // f, -(-p.stop // f)) for p, f in zip(region, factors, strict=True))
    return z, y, x
