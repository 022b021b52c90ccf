"""What tells the files behind a volume from others, without reading voxels: names, sizes and times of change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.errors import VolumeError

_THREADS = 4  # they wait for the disk or the network more than for the processor


@dataclass(frozen=True, eq=False)
class Stamps:
    """The files behind a volume, each with the planes that it holds; from `Volume.stamps`."""

    names: list[str]
    """Absolute paths without links among their folders, or URLs."""
    sizes: NDArray[np.int64]
    """(files,), bytes."""
    times: NDArray[np.int64]
    """(files,), when each was last changed, in nanoseconds; compared for being the same, never for being later."""
    first: NDArray[np.int64]
    """(files,), first plane of each."""
    last: NDArray[np.int64]
    """(files,), the plane after its last one."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The same as arrays, for a record: the names as the system has them with 0 between them."""
        text = os.fsencode("\0".join(self.names))
        return {
            "names": np.frombuffer(text, np.uint8).copy(),
            "sizes": self.sizes,
            "times": self.times,
            "first": self.first,
            "last": self.last,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Stamps:
        """Stamps from what `to_arrays` gave."""
        names = os.fsdecode(arrays["names"].tobytes()).split("\0")
        rest = (np.asarray(arrays[name], np.int64) for name in ("sizes", "times", "first", "last"))
        return cls(names if arrays["sizes"].size else [], *rest)


def stamp_files(files: Iterable[tuple[str | Path, int, int]]) -> Stamps:
    """Stamps of files, each given as (path, first plane, plane after the last).

    Raises
    ------
    VolumeError
        Names the first file that is gone or cannot be looked at.
    """
    listed = list(files)
    with ThreadPoolExecutor(_THREADS) as pool:
        states = list(pool.map(_state, (path for path, _, _ in listed)))
    numbers = np.array(
        [(size, time, first, last) for (size, time), (_, first, last) in zip(states, listed, strict=True)], np.int64
    ).reshape(-1, 4)
    # One spelling of each, or a run that goes on would take its input for another: folders have links in them, and on
    # Windows drives and folders may be written in other letters. Not the files themselves: there are thousands.
    split = [os.path.split(os.path.abspath(path)) for path, _, _ in listed]  # noqa: PTH100
    real = {folder: os.path.realpath(folder) for folder in {folder for folder, _ in split}}
    return Stamps([os.path.join(real[folder], name) for folder, name in split], *numbers.T.copy())  # noqa: PTH118


def stamp_content(name: str, content: bytes, planes: int) -> Stamps:
    """Stamp of something without a time of change, such as an object behind a URL: a digest stands for the time."""
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)
    size, time, first, last = np.array([[len(content)], [digest], [0], [planes]], np.int64)
    return Stamps([name], size, time, first, last)


def changed_planes(before: Stamps, now: Stamps) -> list[tuple[str, int, int]]:
    """Files that are not what they were, as (name, first plane, plane after the last), in the order of their planes.

    A file counts when its size or its time of change is another, when it is new or gone, and when it holds other
    planes than before: then it is listed with both.
    """
    then, today = _by_place(before), _by_place(now)
    changed = {place for place in then.keys() | today.keys() if then.get(place) != today.get(place)}
    return sorted(changed, key=lambda place: (*place[1:], place[0]))


def _by_place(stamps: Stamps) -> dict[tuple[str, int, int], tuple[int, int]]:
    places = zip(stamps.names, stamps.first.tolist(), stamps.last.tolist(), strict=True)
    return dict(zip(places, zip(stamps.sizes.tolist(), stamps.times.tolist(), strict=True), strict=True))


def _state(path: str | Path) -> tuple[int, int]:
    try:
        state = os.stat(path)  # noqa: PTH116 (as often as there are planes)
    except FileNotFoundError as error:
        raise VolumeError(f"{path} is no longer there; put it back and run again") from error
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {error.strerror or error}") from error
    return state.st_size, state.st_mtime_ns
