"""Extended (h-) maxima of an image, by a flood around every peak instead of a reconstruction of the image.

The component of {image >= v - h} around a peak of value v is an extended maximum when it holds nothing above v. These
are the regional maxima of the h-max transform (P. Soille, Morphological Image Analysis, 2nd ed. 2003, section 6.3.4;
L. Vincent, IEEE Transactions on Image Processing 2(2), 1993), but only the surroundings of peaks are visited.

Peaks are flooded from the highest down, and what a flood has visited stays marked. Whoever meets a mark later is
connected above its own level to something higher, and stops. So no voxel is visited twice, however flat or noisy the
image is.

Every comparison asks "is at least" or "is greater", so no flood enters a NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.kernels.jit import jit

UNSEEN, MARKED, CURRENT = 0, 1, 2


def flood_extended_maxima(image: NDArray[Any], peaks: NDArray[np.int64], h: Any) -> NDArray[np.int64]:
    """Flat indices of all voxels of the extended maxima around the given peaks, ascending.

    No two extended maxima are 26-neighbours (the lower one would hold the voxel of the higher one), so that the
    26-connected components of the result are the maxima.

    Parameters
    ----------
    image
        C-contiguous, (z, y, x).
    peaks
        Flat indices of at least one voxel of every regional maximum that may count.
    h
        Height, positive: int64 for integer images, where v - h cannot wrap, float32 for float32 images, where v - h
        is rounded to float32.
    """
    heights = image.reshape(-1)[peaks]
    highest_first = peaks[np.argsort(heights, kind="stable")[::-1]]
    # Four voxels a byte: touching memory for the first time costs more than packing.
    voxels = flood_peaks(image, highest_first, h, np.zeros(image.size // 4 + 1, np.uint8))
    voxels.sort()
    return voxels


@jit
def flood_peaks(
    image: NDArray[Any], highest_first: NDArray[np.int64], h: Any, states: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Voxels of the extended maxima around peaks that come in descending order of their values, in any order.

    A mark stands where an earlier flood, of a peak of value u, went: there the image is >= u - h. Either that flood
    was stopped, by a way to something above u, or it is a maximum that a peak of value v <= u does not belong to
    (or it would be marked itself), so u > v. In both cases something above v can be reached at v - h or above.
    """
    Z, Y, X = image.shape
    flat = image.reshape(-1)
    offsets = neighbour_offsets(Y, X)
    voxels = np.empty(1024, np.int64)
    kept = 0
    for peak in highest_first:
        if get_state(states, peak) != UNSEEN:
            continue
        v = flat[peak]
        level = v - h
        set_state(states, peak, CURRENT)
        # The list of what this flood has visited is its queue too: nearest first finds what is higher soonest.
        if kept + 27 > voxels.size:
            voxels = grow(voxels)
        voxels[kept] = peak
        head, tail = kept, kept + 1
        stopped = False
        while head < tail and not stopped:
            p = voxels[head]
            head += 1
            if tail + 26 > voxels.size:
                voxels = grow(voxels)
            z = p // (Y * X)
            y = (p - z * Y * X) // X
            x = p - (z * Y + y) * X
            inside = 0 < z < Z - 1 and 0 < y < Y - 1 and 0 < x < X - 1
            for k in range(26):
                if not inside and not has_neighbour(k, z, y, x, Z, Y, X):
                    continue
                q = p + offsets[k]
                w = flat[q]
                if not w >= level:
                    continue
                state = get_state(states, q)
                if w > v or state == MARKED:
                    stopped = True
                    break
                if state == UNSEEN:
                    set_state(states, q, CURRENT)
                    voxels[tail] = q
                    tail += 1
        for i in range(kept, tail):
            set_state(states, voxels[i], MARKED)
        if not stopped:
            kept = tail
    return voxels[:kept].copy()


@jit
def get_state(states: NDArray[np.uint8], p: int) -> int:
    """State of a voxel, two bits."""
    return int(states[p >> 2] >> ((p & 3) << 1)) & 3


@jit
def set_state(states: NDArray[np.uint8], p: int, state: int) -> None:
    """Set the state of a voxel, two bits."""
    shift = (p & 3) << 1
    states[p >> 2] = np.uint8((states[p >> 2] & ~(3 << shift)) | (state << shift))


@jit
def neighbour_offsets(Y: int, X: int) -> NDArray[np.int64]:
    """Flat offsets of the 26 neighbours, ascending."""
    offsets = np.empty(26, np.int64)
    n = 0
    for dz in range(-1, 2):
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                if dz != 0 or dy != 0 or dx != 0:
                    offsets[n] = (dz * Y + dy) * X + dx
                    n += 1
    return offsets


@jit
def has_neighbour(k: int, z: int, y: int, x: int, Z: int, Y: int, X: int) -> bool:
    """Whether the k-th of the 26 neighbours lies inside the image."""
    cell = k + (k >= 13)
    zz, yy, xx = z + cell // 9 - 1, y + cell // 3 % 3 - 1, x + cell % 3 - 1
    return 0 <= zz < Z and 0 <= yy < Y and 0 <= xx < X


@jit
def grow(voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Copy a list into one of twice the length."""
    grown = np.empty(2 * voxels.size, np.int64)
    grown[: voxels.size] = voxels
    return grown
