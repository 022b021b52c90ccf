"""The largest value of a region, on a GPU."""

from __future__ import annotations

import math

import numpy as np

from cytolith.axes import Region, region_shape
from cytolith.kernels.gpu.cuda import C_TYPES, Array, array_module, c_type, kernel, to_host

_THREADS = 256
_MOST_BLOCKS = 4096

COMPILED = [("extremes", "largest", {"VOXEL": name, "REAL": int(name == "float")}) for name in C_TYPES.values()]


def largest(image: Array, region: Region) -> float:
    """Largest value of an image in a region, on the host; waits for it.

    Parameters
    ----------
    image
        CuPy array (Z, Y, X), C-contiguous: uint8, uint16, int16 or float32 without NaN.
    region
        Slices (z, y, x), not empty.

    Raises
    ------
    ValueError
        For another dtype.
    """
    real = image.dtype == np.float32
    z, y, x = region
    nz, ny, nx = region_shape(region)
    key = array_module().zeros(1, np.uint32)
    blocks = min(-(-nz * ny * 32 // _THREADS), _MOST_BLOCKS)
    kernel("extremes", "largest", VOXEL=c_type(image.dtype), REAL=int(real))(
        (blocks,),
        (_THREADS,),
        (
            image,
            key,
            np.int64(math.prod(image.shape[1:])),
            np.int32(image.shape[2]),
            *(np.int32(each) for each in (z.start, y.start, x.start, ny, nx)),
            np.int64(nz * ny),
        ),
    )
    found = to_host(key)[0]
    if not real:
        return float(np.int64(found) - 2**31)
    sign = np.uint32(2**31)
    return float((found ^ sign if found & sign else ~found).view(np.float32))
