"""Synthetic light-sheet volumes whose cells are known: any plane by itself, the same for the same shape and seed.

Nothing of the size of the volume is ever held. Cells are drawn in slabs of planes, smooth fields on coarse lattices;
each slab, lattice layer and plane has a random stream of its own, so that a plane is made from its neighbourhood alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.ndimage import correlate1d
from scipy.spatial import cKDTree

from cytolith.axes import Shape, VoxelSize
from cytolith.errors import ConfigError, OutputError
from cytolith.kernels.jit import jit

VOXEL_SIZE: VoxelSize = (6.0, 1.62, 1.62)
"""Edges (z, y, x) in micrometres of the light-sheet volumes that the phantom is modelled on."""

_SIGMA_Z_UM = (6.0, 10.8)
_SIGMA_YX_UM = (2.4, 4.1)
_CUT = 4.0  # standard deviations after which a cell has ended: one grey value is left of 3000
_FWHM = 2 * math.sqrt(2 * math.log(2))
_APART = 1.2  # mean diameters between centres; cells above the mean size still touch
_HEIGHT = (1100.0, 2.0, 700.0)  # lowest, then shape and scale of the gamma distribution above it
_LEVEL, _UNEVEN, _FIELD_UM = 1500.0, 0.25, 220.0
_VESSEL, _VESSEL_WIDTH, _VESSEL_UM = 1500.0, 0.25, 260.0
_SHADING = 0.25  # of the light is lost from the first column to the last
_TEXTURE, _TEXTURE_UM = 0.04, 2.5
_SHOT = 0.7  # noise at a signal of one
_SCALE = {"uint8": 1 / 16, "uint16": 1.0, "int16": 1.0, "float32": 1.0}
_FIELD_STD = (
    151 / 315
) ** 1.5  # standard deviation of a cubic B-spline field of unit white noise, mean over a lattice cell
_CELLS, _BACKGROUND, _VESSEL_A, _VESSEL_B, _NOISE = range(5)  # random streams


@dataclass(frozen=True)
class CellsPhantom:
    """A light-sheet volume of fluorescent cells, made plane by plane.

    Cells are three-dimensional Gaussians of varied size and height on an uneven background with a shading along x, a
    fine texture, a few broad bright vessels, and shot noise. Sizes and levels follow cleared mouse brains stained for
    c-Fos. In two installations of NumPy and SciPy with other versions the last digit of single voxels may differ.

    Parameters
    ----------
    shape : tuple of int
        Extent (Z, Y, X) in voxels.
    seed : int
        Number that all is drawn from. The same shape, seed and parameters give the same volume and truth.
    voxel_size : tuple of float
        Edges (z, y, x) in micrometres. Cells keep their size in micrometres.
    density : float
        Cells a cubic millimetre, on average.
    dtype : dtype
        uint8 (a sixteenth of the grey values), uint16, int16 or float32 (not rounded).

    Raises
    ------
    ConfigError
        A parameter that cannot be used; so many cells that they do not fit beside each other.

    Notes
    -----
    Centres keep a distance of 1.2 mean diameters (full width at half height) by the thinning of Matern (type II;
    Spatial Variation, 1960): of two that are too close, the one drawn with the higher mark goes. The rule is local, so
    a slab needs its two neighbours only. Cells above the mean size still touch.

    Examples
    --------
    >>> phantom = CellsPhantom((24, 96, 100), seed=1)
    >>> phantom.plane(3).shape
    (96, 100)
    >>> sorted(phantom.truth)
    ['voxels', 'x', 'y', 'z']
    """

    shape: Shape
    seed: int = 0
    voxel_size: VoxelSize = VOXEL_SIZE
    density: float = 13_000.0
    dtype: DTypeLike = "uint16"

    def __post_init__(self) -> None:
        # normalised, because equal phantoms share their drawn cells
        object.__setattr__(self, "shape", _extent(self.shape))
        object.__setattr__(self, "voxel_size", tuple(float(edge) for edge in self.voxel_size))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if len(self.voxel_size) != 3 or not all(math.isfinite(edge) and edge > 0 for edge in self.voxel_size):
            raise ConfigError(f"voxel_size {self.voxel_size}: give three positive numbers (z, y, x)")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed}: give a whole number from 0")
        if str(self.dtype) not in _SCALE:
            raise ConfigError(f"dtype {self.dtype}: give one of {', '.join(_SCALE)}")
        most = 0.9 / (4 / 3 * math.pi * math.prod(self._apart_um)) * 1e9
        if not 0 <= self.density <= most:
            raise ConfigError(f"density {self.density:g}: give 0 to {most:.0f} cells a cubic millimetre")

    @cached_property
    def truth(self) -> dict[str, NDArray[Any]]:
        """Cells of the whole volume, sorted by (z, y, x).

        ``z, y, x``: centres in voxels, float64, inside [0, extent - 1]. ``voxels``: size, int64: voxels of the volume
        in which the cell's own profile exceeds half of its height.
        """
        slabs = [_cells_of(self, slab) for slab in range(self._slabs)]
        columns = np.concatenate([slab.positions for slab in slabs])
        truth: dict[str, NDArray[Any]] = {name: columns[:, axis].copy() for axis, name in enumerate("zyx")}
        truth["voxels"] = np.concatenate([slab.voxels for slab in slabs])
        return truth

    def plane(self, z: int) -> NDArray[Any]:
        """Grey values (Y, X) of plane `z`, 0 to Z - 1."""
        if not 0 <= z < self.shape[0]:
            raise IndexError(f"plane {z}: the phantom has planes 0 to {self.shape[0] - 1}")
        signal = np.exp(_UNEVEN * self._field(_BACKGROUND, z, _FIELD_UM))
        signal *= _LEVEL
        rng = self._stream(_NOISE, z)
        signal *= 1 + _TEXTURE * self._texture(rng)  # what is out of focus has no texture
        vessel = self._field(_VESSEL_A, z, _VESSEL_UM) ** 2
        vessel += self._field(_VESSEL_B, z, _VESSEL_UM) ** 2
        vessel *= -0.5 / _VESSEL_WIDTH**2
        signal += _VESSEL * np.exp(vessel, out=vessel)

        slab = z // self._slab_planes
        for near in range(max(slab - 1, 0), min(slab + 2, self._slabs)):
            cells = _cells_of(self, near)
            _add_cells(signal, float(z), cells.positions, cells.sigmas, cells.heights)
        x = np.linspace(0, math.pi, self.shape[2])
        signal *= 1 - _SHADING * (1 - np.cos(x)) / 2

        signal += _SHOT * np.sqrt(signal) * rng.standard_normal(signal.shape, dtype=np.float32)
        dtype = np.dtype(self.dtype)
        signal *= _SCALE[str(dtype)]
        if dtype.kind == "f":
            return signal.astype(dtype)
        return np.clip(np.rint(signal, out=signal), 0, np.iinfo(dtype).max).astype(dtype)

    def volume(self) -> NDArray[Any]:
        """All planes (Z, Y, X), C-contiguous."""
        image = np.empty(self.shape, self.dtype)
        for z, plane in enumerate(image):
            plane[:] = self.plane(z)
        return image

    @property
    def _apart_um(self) -> tuple[float, float, float]:
        z, yx = (_APART * _FWHM * (low + high) / 2 for low, high in (_SIGMA_Z_UM, _SIGMA_YX_UM))
        return z, yx, yx

    @property
    def _slab_planes(self) -> int:
        # neighbouring slabs must hold all cells that reach into a slab, and all that thin it
        return math.ceil(max(_CUT * _SIGMA_Z_UM[1], self._apart_um[0]) / self.voxel_size[0])

    @property
    def _slabs(self) -> int:
        return -(-self.shape[0] // self._slab_planes)

    def _stream(self, kind: int, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, kind, index))

    def _texture(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """White noise (Y, X) smoothed to the grain of tissue, unit variance."""
        texture = rng.standard_normal(self.shape[1:], dtype=np.float32)
        for axis, edge in enumerate(self.voxel_size[1:]):
            sigma = _TEXTURE_UM / edge
            offsets = np.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
            kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
            correlate1d(texture, kernel / np.linalg.norm(kernel), axis, output=texture)
        return texture

    def _field(self, kind: int, z: int, spacing: float) -> NDArray[np.float64]:
        """Plane (Y, X) of a smooth random field of unit variance: B-splines on a lattice of `spacing` micrometres."""
        along_y, along_x = (
            _spline_matrix(extent, edge / spacing)
            for extent, edge in zip(self.shape[1:], self.voxel_size[1:], strict=True)
        )
        first, weights = _spline(np.array([z * self.voxel_size[0] / spacing]))
        lattice = np.zeros((along_y.shape[1], along_x.shape[1]))
        for layer, weight in enumerate(weights[0]):
            lattice += weight * self._stream(kind, int(first[0]) + layer).standard_normal(lattice.shape)
        return along_y @ (lattice / _FIELD_STD) @ along_x.T


class _Cells(NamedTuple):
    """Cells of a slab, sorted by position: positions and sigmas (n, 3) in voxels, heights, voxels above half height."""

    positions: NDArray[np.float64]
    sigmas: NDArray[np.float64]
    heights: NDArray[np.float64]
    voxels: NDArray[np.int64]


@lru_cache(maxsize=16)
def _cells_of(phantom: CellsPhantom, slab: int) -> _Cells:
    """Cells whose centre lies in a slab, after thinning against both neighbours."""
    near = [_candidates(phantom, k) for k in range(max(slab - 1, 0), min(slab + 2, phantom._slabs))]
    own = min(slab, 1)  # place of the slab among those
    positions, marks = (np.concatenate([candidates[field] for candidates in near]) for field in (0, 3))
    scaled = positions * np.array(phantom.voxel_size) / phantom._apart_um
    pairs = cKDTree(scaled).query_pairs(1.0, output_type="ndarray")
    kept = np.ones(len(positions), bool)
    kept[np.where(marks[pairs[:, 0]] > marks[pairs[:, 1]], pairs[:, 0], pairs[:, 1])] = False
    start = sum(len(candidates[0]) for candidates in near[:own])
    kept = kept[start : start + len(near[own][0])]

    positions, sigmas, heights = (near[own][field][kept] for field in range(3))
    order = np.lexsort(positions.T[::-1])
    positions, sigmas, heights = positions[order], sigmas[order], heights[order]
    return _Cells(positions, sigmas, heights, _count_voxels(positions, sigmas, np.array(phantom.shape)))


@lru_cache(maxsize=16)
def _candidates(phantom: CellsPhantom, slab: int) -> tuple[NDArray[np.float64], ...]:
    """Positions and sigmas (n, 3) in voxels, heights and marks of the cells drawn in a slab, before thinning."""
    first = slab * phantom._slab_planes
    planes = min(phantom._slab_planes, phantom.shape[0] - first)
    last = first + planes == phantom.shape[0]
    origin = np.array([first, 0, 0])
    extent = np.array([planes - last, phantom.shape[1] - 1, phantom.shape[2] - 1])
    edges = np.array(phantom.voxel_size)
    # thinning leaves (1 - exp(-d v)) / v of the density d, v the volume that a cell keeps to itself
    lonely = 4 / 3 * math.pi * math.prod(phantom._apart_um) / 1e9
    drawn = -math.log1p(-phantom.density * lonely) / lonely
    rng = phantom._stream(_CELLS, slab)
    count = rng.poisson(drawn * planes * math.prod(phantom.shape[1:]) * math.prod(phantom.voxel_size) / 1e9)
    positions = origin + rng.random((count, 3)) * extent
    across = rng.uniform(*_SIGMA_YX_UM, count)
    sigmas = np.stack([rng.uniform(*_SIGMA_Z_UM, count), across, across], axis=1) / edges
    lowest, form, scale = _HEIGHT
    return positions, sigmas, lowest + rng.gamma(form, scale, count), rng.random(count)


def _spline(positions: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First of the four lattice nodes around each position, and their cubic B-spline weights (n, 4)."""
    first = np.floor(positions)
    t = positions - first
    u = 1 - t
    weights = np.stack([u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3], axis=1)
    return first.astype(np.int64), weights / 6


def _spline_matrix(extent: int, step: float) -> NDArray[np.float64]:
    """Weights (extent, nodes) of the lattice nodes at positions 0, step, 2 step, ..."""
    first, weights = _spline(np.arange(extent, dtype=np.float64) * step)
    matrix = np.zeros((extent, int(first[-1]) + 4))
    for node in range(4):
        matrix[np.arange(extent), first + node] = weights[:, node]
    return matrix


@jit
def _add_cells(
    plane: NDArray[Any],
    z: float,
    positions: NDArray[Any],
    sigmas: NDArray[Any],
    heights: NDArray[Any],
) -> None:
    ny, nx = plane.shape
    profile = np.empty(nx)
    for i in range(len(heights)):
        dz = (z - positions[i, 0]) / sigmas[i, 0]
        if abs(dz) > _CUT:
            continue
        _, y, x = positions[i]
        _, sy, sx = sigmas[i]
        height = heights[i] * math.exp(-0.5 * dz * dz)
        x0, x1 = max(math.ceil(x - _CUT * sx), 0), min(math.floor(x + _CUT * sx), nx - 1) + 1
        y0, y1 = max(math.ceil(y - _CUT * sy), 0), min(math.floor(y + _CUT * sy), ny - 1) + 1
        for column in range(x0, x1):
            dx = (column - x) / sx
            profile[column] = height * math.exp(-0.5 * dx * dx)
        for line in range(y0, y1):
            dy = (line - y) / sy
            weight = math.exp(-0.5 * dy * dy)
            row = plane[line]
            for column in range(x0, x1):
                row[column] += weight * profile[column]


@jit
def _count_voxels(positions: NDArray[Any], sigmas: NDArray[Any], shape: NDArray[Any]) -> NDArray[Any]:
    counts = np.zeros(len(positions), np.int64)
    half = 2 * math.log(2.0)  # squared distance in standard deviations at half of the height
    reach = math.sqrt(half)
    for i in range(len(positions)):
        z, y, x = positions[i]
        sz, sy, sx = sigmas[i]
        for k in range(max(math.ceil(z - reach * sz), 0), min(math.floor(z + reach * sz), shape[0] - 1) + 1):
            for j in range(max(math.ceil(y - reach * sy), 0), min(math.floor(y + reach * sy), shape[1] - 1) + 1):
                left = half - ((k - z) / sz) ** 2 - ((j - y) / sy) ** 2
                for m in range(max(math.ceil(x - reach * sx), 0), min(math.floor(x + reach * sx), shape[2] - 1) + 1):
                    if ((m - x) / sx) ** 2 < left:
                        counts[i] += 1
    return counts


def cells_phantom(
    shape: Sequence[int] = (64, 256, 256),
    *,
    seed: int = 0,
    voxel_size: VoxelSize = VOXEL_SIZE,
    density: float = 13_000.0,
    dtype: DTypeLike = "uint16",
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Volume (Z, Y, X) and truth of a :class:`CellsPhantom` at once.

    Parameters
    ----------
    shape, seed, voxel_size, density, dtype
        As for :class:`CellsPhantom`.

    Returns
    -------
    volume : ndarray of shape (Z, Y, X)
        Grey values.
    truth : dict of str to ndarray
        Columns ``z, y, x`` (voxels, float64) and ``voxels`` (size, int64), one row a cell.

    Examples
    --------
    >>> volume, truth = cells_phantom((24, 96, 100), seed=1)
    >>> volume.shape, volume.dtype
    ((24, 96, 100), dtype('uint16'))
    """
    phantom = CellsPhantom(_extent(shape), seed, voxel_size, density, dtype)
    return phantom.volume(), phantom.truth


def write_sample(
    directory: Path | str,
    shape: Sequence[int] = (64, 256, 256),
    seed: int = 0,
    *,
    voxel_size: VoxelSize = VOXEL_SIZE,
    density: float = 13_000.0,
    dtype: DTypeLike = "uint16",
    overwrite: bool = False,
) -> dict[str, NDArray[Any]]:
    """Write a :class:`CellsPhantom` as a folder of planes beside the table of its cells.

    Writes ``planes/z0000.tif`` and so on, one uncompressed TIFF a plane, and ``truth.csv`` with columns z, y, x and
    voxels. One plane is in memory at a time.

    Parameters
    ----------
    directory : path
        Folder to write into; made when it is not there.
    shape, seed, voxel_size, density, dtype
        As for :class:`CellsPhantom`.
    overwrite : bool
        Replace an earlier sample. Other files are never removed.

    Returns
    -------
    dict of str to ndarray
        The truth.

    Raises
    ------
    ConfigError
        A parameter that cannot be used.
    OutputError
        The folder holds planes or a truth already, or cannot be written.
    """
    from cytolith.io.planes import write_plane
    from cytolith.io.tables import write_table

    phantom = CellsPhantom(_extent(shape), seed, voxel_size, density, dtype)
    planes, table = Path(directory) / "planes", Path(directory) / "truth.csv"
    _clear_sample(planes, table, overwrite=overwrite)
    digits = max(4, len(str(phantom.shape[0] - 1)))
    for z in range(phantom.shape[0]):
        write_plane(planes / f"z{z:0{digits}d}.tif", phantom.plane(z), voxel_size=phantom.voxel_size)
    write_table(phantom.truth, table)  # last: a truth beside the planes says that all of them are there
    return phantom.truth


def _clear_sample(planes: Path, table: Path, *, overwrite: bool) -> None:
    """Make the folder of planes, empty; without `overwrite` it must be empty already."""
    try:
        planes.mkdir(parents=True, exist_ok=True)
        present = sorted(planes.iterdir())
        other = [path.name for path in present if not re.fullmatch(r"z\d{4,}\.tif(\.partial)?", path.name)]
        if other:
            raise OutputError(f"{planes}: holds {other[0]!r}, which is no plane of a sample; give another folder")
        if not overwrite and (present or table.exists()):
            holder = planes if present else table
            raise OutputError(
                f"{holder}: exists; give another folder, or --overwrite (overwrite=True) to replace the sample in it"
            )
        for path in [table, *present]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{planes}: cannot be written: {error.strerror or error}") from error


def _extent(shape: Sequence[int]) -> Shape:
    """The shape as three plain whole numbers; ConfigError when it is anything else."""
    values = tuple(shape)
    if len(values) != 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in values):
        raise ConfigError(f"shape {shape}: give three positive whole numbers (z, y, x)")
    z, y, x = (int(n) for n in values)
    return z, y, x
