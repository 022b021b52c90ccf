"""Synthetic CT stacks of one rough fracture whose maps are known: any plane by itself, the same for the same seed.

The walls are maps, and only maps are held. Speckle is drawn in slabs of planes, each with a random stream of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from cytolith.axes import Shape
from cytolith.errors import ConfigError, OutputError
from cytolith.kernels.jit import jit

_SMALLEST = 16  # voxels along an axis
_MOST = 2**28  # columns of the maps, some 10 GiB while they are drawn, and voxels of a plane
_HURST = 0.8  # of most rock fractures
_ROUGH = 0.06  # standard deviation of the wall as a share of the extent across it
_APERTURE, _VARIED = 8.0, 0.55  # mean in voxels, less in a thin stack; standard deviation as a share of the mean
_MATCHED = 5  # walls run in parallel at wavelengths above this part of the map
_CELL, _LINE = 8, 4  # edge of the cells that hold one speckle each; its longest extent: the rest keeps them apart
_SPECKLED = 0.02  # share of cells with a speckle
_MIDDLE, _GAP, _SPECKLE = range(3)  # random streams
_FILES = ("fracture.tif", "truth-aperture-map.txt", "truth-offset-map.txt", "truth.json")


@dataclass(frozen=True)
class FracturePhantom:
    """A binary stack with one rough fracture, made plane by plane.

    The walls are self-affine with a Hurst exponent of 0.8 and run in parallel at long wavelengths, so that the
    aperture is a stationary field: 8 voxels on average, and none where the walls touch. The fracture lies across y and
    is one cluster of voxels that share faces, edges or corners; parts of it that contact cuts off are closed. Speckle
    is lines of 1 to 4 voxels in any of the 26 directions, none of which touches the fracture or another one: keeping
    the largest cluster gives the truth. In two installations of NumPy and SciPy with other versions single voxels may
    differ.

    Parameters
    ----------
    shape : sequence of int
        Extent (Z, Y, X) in voxels, at least 16 along each axis.
    seed : int
        Number that all is drawn from. The same shape and seed give the same stack and truth.

    Raises
    ------
    ConfigError
        A shape or seed that cannot be used.

    Notes
    -----
    Spectral synthesis (Saupe, in The Science of Fractal Images, 1988): white noise is given the spectrum of a
    self-affine surface. Walls that match at long wavelengths are the model of Brown (J. Geophys. Res. 100, 1995).
    Maps may match at opposite edges, since the synthesis is periodic.

    Examples
    --------
    >>> phantom = FracturePhantom((24, 40, 32), seed=1)
    >>> phantom.plane(3).shape, phantom.aperture.shape
    ((40, 32), (24, 32))
    """

    shape: Sequence[int] = (120, 80, 160)
    seed: int = 0

    def __post_init__(self) -> None:
        values = tuple(self.shape)
        if len(values) != 3 or not all(isinstance(n, (int, np.integer)) and n >= _SMALLEST for n in values):
            raise ConfigError(f"shape {self.shape}: give three whole numbers (z, y, x), each at least {_SMALLEST}")
        z, y, x = (int(n) for n in values)
        if max(z, y) * x > _MOST:
            raise ConfigError(
                f"shape {self.shape}: z times x and y times x must be {_MOST:,} at most; give a smaller shape"
            )
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed}: give a whole number from 0")
        object.__setattr__(self, "shape", (z, y, x))  # normalised, because equal phantoms share their speckle

    @property
    def aperture(self) -> NDArray[np.int32]:
        """Fracture voxels in each column, shape (Z, X); 0 where the walls touch."""
        return self._maps[1]

    @property
    def offset(self) -> NDArray[np.float64]:
        """Index y of the first fracture voxel of each column, shape (Z, X); NaN where the walls touch."""
        first, aperture = self._maps
        return np.where(aperture > 0, first, np.nan)

    @cached_property
    def truth(self) -> dict[str, Any]:
        """What is in the stack, in plain numbers.

        ``shape``, ``seed``; ``fracture_voxels``; ``contact_columns``: columns without fracture; ``mean_aperture``: in
        voxels, over all columns; ``speckles``, ``speckle_voxels``: clusters beside the fracture, and their voxels.
        """
        fracture, lines = int(self.aperture.sum(dtype=np.int64)), 0
        speckle = 0
        for slab in range(self._extent[0] // _CELL):
            owner = _speckle_of(self, slab)[0]
            lines += len(np.unique(owner))
            speckle += len(owner)
        return {
            "shape": list(self.shape),
            "seed": int(self.seed),
            "fracture_voxels": fracture,
            "contact_columns": int(np.count_nonzero(self.aperture == 0)),
            "mean_aperture": fracture / self.aperture.size,
            "speckles": lines,
            "speckle_voxels": speckle,
        }

    def plane(self, z: int) -> NDArray[np.uint8]:
        """Plane `z`, 0 to Z - 1, of shape (Y, X): 255 in fracture and speckle, else 0."""
        n_planes, height, _ = self._extent
        if not 0 <= z < n_planes:
            raise IndexError(f"plane {z}: the phantom has planes 0 to {n_planes - 1}")
        first, aperture = (values[z] for values in self._maps)
        y = np.arange(height, dtype=np.int32)[:, None]
        image: NDArray[np.uint8] = ((y >= first) & (y < first + aperture)).astype(np.uint8)
        if z // _CELL < n_planes // _CELL:
            _, voxels = _speckle_of(self, z // _CELL)
            _, rows, columns = voxels[voxels[:, 0] == z].T
            image[rows, columns] = 1
        image *= 255
        return image

    def volume(self) -> NDArray[np.uint8]:
        """All planes (Z, Y, X)."""
        return np.stack([self.plane(z) for z in range(self._extent[0])])

    @property
    def _extent(self) -> Shape:
        z, y, x = self.shape
        return z, y, x

    @cached_property
    def _maps(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """First row and number of rows of the fracture in each column."""
        z, height, x = self._extent
        mean = min(_APERTURE, height / 8)
        gap = self._surface(_GAP, max(8.0, min(z, x) / _MATCHED))
        gap *= _VARIED * mean
        gap += mean
        middle = self._surface(_MIDDLE, float(max(z, x)))
        middle *= _ROUGH * height
        middle += height / 2
        aperture = np.rint(np.clip(gap, 0, height / 2)).astype(np.int32)
        first = np.clip(np.rint(middle - gap / 2), 1, height - 1 - aperture).astype(np.int32)
        aperture[~_largest_part(first, aperture)] = 0
        return first, aperture

    def _surface(self, kind: int, longest: float) -> NDArray[np.float32]:
        """Self-affine surface (Z, X) of mean 0 and variance 1; white at wavelengths above `longest` voxels."""
        z, _, x = self._extent
        tile = fft.next_fast_len(z, real=True), fft.next_fast_len(x, real=True)
        spectrum = fft.rfft2(self._stream(kind).standard_normal(tile, dtype=np.float32))
        frequency = np.hypot(fft.fftfreq(tile[0])[:, None], fft.rfftfreq(tile[1])).astype(np.float32)
        # the power of a self-affine surface falls with the frequency to -2 (1 + H): amplitudes with half of that
        spectrum *= np.maximum(frequency, np.float32(1 / longest)) ** np.float32(-1 - _HURST)
        spectrum[0, 0] = 0
        surface: NDArray[np.float32] = fft.irfft2(spectrum, s=tile)[:z, :x]
        surface -= surface.mean(dtype=np.float64)
        surface /= surface.std(dtype=np.float64)
        return surface

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])


@lru_cache(maxsize=4)
def _speckle_of(phantom: FracturePhantom, slab: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Speckle in a slab of cells: number of the line that each voxel is of, and the voxels (n, 3)."""
    cells = [n // _CELL for n in phantom._extent[1:]]
    rng = phantom._stream(_SPECKLE, slab)
    place = np.argwhere(rng.random(cells) < _SPECKLED)
    n = len(place)
    corner = np.concatenate([np.full((n, 1), slab), place], axis=1) * _CELL
    corner += rng.integers(0, _CELL - _LINE, (n, 3))
    length = rng.integers(1, _LINE + 1, n)
    step = rng.integers(-1, 2, (n, 3))
    length[~step.any(axis=1)] = 1
    corner += np.where(step < 0, _LINE - 1, 0)  # lines that run backwards start at the far side of their box
    owner = np.repeat(np.arange(n), length)
    along = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    voxels = corner[owner] + along[:, None] * step[owner]
    near = np.zeros(n, bool)
    np.logical_or.at(near, owner, _beside(voxels, *phantom._maps))
    return owner[~near[owner]], voxels[~near[owner]]


def _beside(voxels: NDArray[np.int64], first: NDArray[np.int32], aperture: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which voxels lie in the fracture or touch it, also at a corner."""
    z, y, x = voxels.T
    beside = np.zeros(len(voxels), bool)
    for dz in (-1, 0, 1):
        for dx in (-1, 0, 1):
            column = np.clip(z + dz, 0, first.shape[0] - 1), np.clip(x + dx, 0, first.shape[1] - 1)
            low, rows = first[column], aperture[column]
            beside |= (rows > 0) & (y >= low - 1) & (y <= low + rows)
    return beside


@jit
def _largest_part(first: NDArray[np.int32], aperture: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Columns of the largest 26-connected part of the fracture; each column holds one stretch of it."""
    Z, X = first.shape
    part = np.zeros((Z, X), np.int32)  # 0: not reached
    waiting = np.empty(Z * X, np.int64)
    largest, best, parts = 0, 0, 0
    for seed in range(Z * X):
        if part[seed // X, seed % X] != 0 or aperture[seed // X, seed % X] == 0:
            continue
        parts += 1
        part[seed // X, seed % X] = parts
        waiting[0] = seed
        n, voxels = 1, 0
        while n > 0:
            n -= 1
            z, x = waiting[n] // X, waiting[n] % X
            low, high = first[z, x], first[z, x] + aperture[z, x]
            voxels += aperture[z, x]
            for k in range(max(z - 1, 0), min(z + 2, Z)):
                for m in range(max(x - 1, 0), min(x + 2, X)):
                    rows = aperture[k, m]
                    if part[k, m] == 0 and rows > 0 and first[k, m] <= high and low <= first[k, m] + rows:
                        part[k, m] = parts
                        waiting[n] = k * X + m
                        n += 1
        if voxels > best:
            largest, best = parts, voxels
    kept: NDArray[np.bool_] = part == largest
    return kept


def write_fracture_sample(
    directory: Path | str,
    shape: Sequence[int] = (120, 80, 160),
    seed: int = 0,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a :class:`FracturePhantom` as a TIFF stack beside its truth.

    Writes ``fracture.tif`` (8-bit, 0 and 255, a page a plane), ``truth-aperture-map.txt`` and
    ``truth-offset-map.txt`` (a line a plane, a column a column of the stack, tabs between; nan where there is no
    fracture) and ``truth.json``. One plane and the maps are in memory.

    Parameters
    ----------
    directory : path
        Folder to write into; made when it is not there.
    shape, seed
        As for :class:`FracturePhantom`.
    overwrite : bool
        Replace an earlier sample. Other files are never touched.

    Returns
    -------
    dict
        The truth, as in ``truth.json``.

    Raises
    ------
    ConfigError
        A shape or seed that cannot be used.
    OutputError
        The folder holds a sample already, or cannot be written.
    """
    from cytolith.io.files import write_text, written_aside
    from cytolith.io.map_files import write_map_text
    from cytolith.io.sink import create_sink

    phantom = FracturePhantom(shape, seed)
    folder = Path(directory).expanduser()
    stack, aperture_map, offset_map, truth = (folder / name for name in _FILES)
    _clear_sample(folder, overwrite=overwrite)
    z, y, x = phantom._extent
    with create_sink(stack, (z, y, x), np.uint8, (1, y, x)) as sink:
        for k in range(z):
            sink.write((slice(k, k + 1), slice(0, y), slice(0, x)), phantom.plane(k)[None])
    for path, values, form in ((aperture_map, phantom.aperture, "%d"), (offset_map, phantom.offset, "%.0f")):
        with written_aside(path) as aside:
            write_map_text(aside, [values], form)
    write_text(truth, json.dumps(phantom.truth, indent=1) + "\n")  # last: beside a truth all is there
    return phantom.truth


def _clear_sample(folder: Path, *, overwrite: bool) -> None:
    """Make the folder, without files of a sample; without `overwrite` there must be none already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = [path for name in _FILES if (path := folder / name).exists()]
        if present and not overwrite:
            raise OutputError(
                f"{present[0]}: exists; give another folder, or --overwrite (overwrite=True) to replace the sample"
            )
        for path in reversed(present):  # the truth first: without it a sample is not whole
            path.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
