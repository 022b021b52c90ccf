"""A volume read in the dtype that its voxels are stored as, where the usual one is float32 and would lose digits."""

from __future__ import annotations

import copy

from cytolith.io.volume import READ_AS_FLOAT, Volume


def as_stored(volume: Volume) -> Volume:
    """The same volume, whose `read` gives voxels of the dtype that they are stored as.

    Volumes of 32 and 64 bits are read as float32, which holds whole numbers up to 2^24 only. What copies voxels, such
    as labels, must not lose any.

    Parameters
    ----------
    volume : Volume
        From `open_volume`.

    Returns
    -------
    Volume
        Its dtype is float64, int8, int32, uint32, int64 or uint64 where that is what is stored, else that of `volume`.

    Examples
    --------
    >>> import numpy as np
    >>> from cytolith.io.volume import open_volume
    >>> volume = open_volume(np.full((1, 1, 1), 2**24 + 1))
    >>> int(volume.read((slice(0, 1),) * 3)[0, 0, 0]), int(as_stored(volume).read((slice(0, 1),) * 3)[0, 0, 0])
    (16777216, 16777217)
    """
    if volume.stored_dtype.name not in READ_AS_FLOAT:
        return volume
    exact = copy.copy(volume)
    exact.dtype = volume.stored_dtype  # volumes read into what they are given, in whatever dtype that is
    return exact
