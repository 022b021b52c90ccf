"""Hypothesis strategies for cells: small volumes that are hard to cut into blocks, chains of steps, block plans.

Needs hypothesis, which only tests depend on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from scipy.ndimage import gaussian_filter

from cytolith.axes import Shape

DTYPES = ("uint8", "uint16", "int16", "float32")
"""Types of voxels that the pipeline takes as they are."""
_SCALES = {"uint8": 1.0, "uint16": 8.0, "int16": 8.0, "float32": 3.7}
_MEASURED = ("source", "background_correction", "equalization", "smoothing", "dog_filter")


@st.composite
def cell_volumes(
    draw: st.DrawFn,
    largest: Shape = (24, 40, 44),
    dtypes: tuple[str, ...] = DTYPES,
) -> NDArray[Any]:
    """Volumes (Z, Y, X) of touching cells, with what makes cutting hard.

    Among it are plateaus, saturated cells, rods and tubes from one end to the other (of one value or of several),
    regions that are 0, few grey values and so many ties, and volumes that are constant or noise alone.

    Parameters
    ----------
    draw
        Given by hypothesis.
    largest
        Greatest extent, (z, y, x); at least 6 along each axis.
    dtypes
        Types to draw from: uint8, uint16, int16, float32.

    Returns
    -------
    ndarray
        C-contiguous; grey values of about 0 to 250 in uint8, 0 to 2000 (shifted below 0 now and then) in the others.
    """
    z, y, x = (draw(st.integers(6, n)) for n in largest)
    dtype = draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (z, y, x)
    image = np.full(shape, 12.0)
    cells = draw(st.integers(0, 40))
    for _ in range(cells):
        _add_blob(image, rng)
    for kind in draw(st.lists(st.sampled_from(["tube", "plateau", "rod", "comb"]), max_size=3)):
        _add_long(image, kind, rng)
    image += rng.normal(0, draw(st.sampled_from([0.0, 1.0, 4.0])), shape)
    if draw(st.booleans()):
        image = gaussian_filter(image, (0.5, 0.8, 0.8))
    if draw(st.booleans()):
        image = np.minimum(image, draw(st.sampled_from([60.0, 120.0])))  # saturated
    if draw(st.booleans()):
        low, high = sorted(rng.integers(0, x + 1, 2))
        image[:, : rng.integers(1, y + 1), low:high] = 0  # never imaged
    image *= _SCALES[dtype]
    if draw(st.integers(0, 3)) == 0:
        step = draw(st.sampled_from([10, 40])) * _SCALES[dtype]
        image = np.floor(image / step) * step  # few values
    if dtype in {"int16", "float32"} and draw(st.booleans()):
        image -= 300
    return _as_type(image, dtype)


def _as_type(image: NDArray[np.float64], dtype: DTypeLike) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.ascontiguousarray(image, kind)
    limits = np.iinfo(kind)
    return np.clip(np.rint(image), limits.min, limits.max).astype(kind)


def _add_blob(image: NDArray[np.float64], rng: np.random.Generator) -> None:
    grids = np.ogrid[tuple(slice(n) for n in image.shape)]
    distance = sum(
        ((grid - rng.uniform(0, n)) / rng.uniform(0.7, 3.0)) ** 2 for grid, n in zip(grids, image.shape, strict=True)
    )
    image += rng.uniform(30, 200) * np.exp(-0.5 * distance)


def _add_long(image: NDArray[np.float64], kind: str, rng: np.random.Generator) -> None:
    """Something that runs through all blocks along an axis, or diagonally."""
    axis = int(rng.integers(3))
    length = image.shape[axis]
    along = np.arange(length)
    start, slope = rng.uniform(0.2, 0.8, 3), rng.uniform(-0.3, 0.3, 3) * rng.integers(0, 2)
    places = [
        along if i == axis else np.clip(start[i] * n + slope[i] * along, 0, n - 1).astype(np.int64)
        for i, n in enumerate(image.shape)
    ]
    if kind == "plateau":
        value: Any = 150.0
    elif kind == "tube":  # one maximum, and all else runs down from it
        value = 220.0 - 160.0 * np.abs(along - rng.integers(length)) / length
    else:
        value = rng.uniform(80, 200, length)
    width = int(rng.integers(1, 3))
    for shift in np.ndindex(width, width):
        moved = list(places)
        for i, by in zip([i for i in range(3) if i != axis], shift, strict=True):
            moved[i] = np.minimum(moved[i] + by, image.shape[i] - 1)
        image[tuple(moved)] = value
    if kind == "comb":
        across = (axis + 1) % 3
        teeth = [np.repeat(p[::4], image.shape[across]) for p in places]
        teeth[across] = np.tile(np.arange(image.shape[across]), len(places[0][::4]))
        image[tuple(teeth)] = 150.0


@st.composite
def chains(draw: st.DrawFn, dtype: DTypeLike = "uint16") -> dict[str, Any]:
    """Parameters of all steps of the cells pipeline, as `cytolith.detect_cells` takes them, for volumes of this dtype.

    Lengths are small, so that volumes of some ten voxels along an axis can be cut.
    """
    scale = _SCALES[np.dtype(dtype).name]
    chain: dict[str, Any] = {
        "background_correction": draw(st.one_of(st.none(), _backgrounds)),
        "equalization": draw(st.one_of(st.none(), st.none(), _equalizations)),
        "smoothing": draw(st.one_of(st.none(), st.builds(lambda sigma: {"sigma": sigma}, _sigmas))),
        "dog_filter": draw(st.one_of(st.none(), st.none(), st.builds(lambda shape: {"shape": shape}, _dogs))),
    }
    if chain["equalization"] is not None:
        scale = 1 / 60
    grey = st.sampled_from([0, 3, 10, 30, 80]).map(lambda v: v * scale)
    thresholds = st.one_of(st.none(), grey, grey, st.sampled_from(["2 mad", "6 mad"]))
    maxima: dict[str, Any] = {"threshold": draw(thresholds)}
    if draw(st.booleans()):
        maxima["h_max"] = draw(st.one_of(grey.filter(bool), st.just("3 mad")))
        maxima["shape"] = draw(st.one_of(st.none(), st.none(), _windows))
    else:
        maxima["shape"] = draw(_windows)
    chain["maxima_detection"] = maxima
    chain["shape_detection"] = draw(
        st.one_of(
            st.none(), st.builds(lambda t: {"threshold": t}, thresholds), st.builds(lambda t: {"threshold": t}, grey)
        )
    )
    chain["background_jump"] = draw(
        st.one_of(st.none(), st.builds(lambda ratio, radius: {"ratio": ratio, "radius": radius}, _ratios, _windows))
    )
    if chain["shape_detection"] is not None:
        chain["shape_detection"]["fraction"] = draw(st.sampled_from(["auto", None, 0.5, 0.9]))
    if draw(st.integers(0, 3)) == 0:
        chain["features"] = {"cell": draw(st.tuples(*[st.sampled_from([0.7, 1.0, 1.6])] * 3))}
    chain["intensity_detection"] = draw(
        st.one_of(
            st.none(),
            st.builds(
                lambda method, shape, measure: {"method": method, "shape": shape, "measure": measure},
                st.sampled_from(["max", "min", "mean", "sum"]),
                st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5)),
                st.lists(st.sampled_from(_MEASURED), min_size=1, max_size=3, unique=True).map(tuple),
            ),
        )
    )
    return chain


_backgrounds = st.builds(
    lambda shape, form, stripe, axis: {"shape": shape, "form": form, "stripe_length": stripe, "stripe_axis": axis},
    st.tuples(st.integers(1, 8), st.integers(1, 9)),
    st.sampled_from(["disk", "cube"]),
    st.sampled_from([None, None, 7]),
    st.sampled_from(["y", "x"]),
)
_ratios = st.sampled_from([1.0, 1.05, 1.5])
_equalizations = st.builds(
    lambda selem, spacing, interpolate: {
        "selem": selem,
        "spacing": spacing,
        "percentile": (0.3, 0.9),
        "interpolate": interpolate,
    },
    st.tuples(st.integers(1, 5), st.integers(3, 12), st.integers(3, 12)),
    st.tuples(st.integers(1, 4), st.integers(2, 8), st.integers(2, 8)),
    st.sampled_from([0, 1]),
)
_sigmas = st.tuples(*[st.sampled_from([0.4, 0.7, 1.1])] * 3)
_dogs = st.tuples(st.integers(2, 4), st.integers(3, 6), st.integers(3, 6))
_windows = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 5))


@st.composite
def cores(draw: st.DrawFn, shape: Shape, smallest: int = 5) -> Shape:
    """Extents (z, y, x) of a block's core in a volume of this shape, from `smallest` voxels along each axis up."""
    z, y, x = (draw(st.integers(min(smallest, n), n)) for n in shape)
    return z, y, x
