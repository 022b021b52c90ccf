"""``cytolith info``: what a volume is, before a run."""

from typing import Annotated

from cyclopts import Parameter


def info(
    input: Annotated[str, Parameter()],  # noqa: A002 - the name users see
    /,
    *,
    channel: int | None = None,
    timepoint: int | None = None,
    level: int | None = None,
    dataset: str | None = None,
) -> int:
    """Show what a volume is: shape, type, voxel size, storage; and check that every plane can be read.

    Parameters
    ----------
    input
        Folder or glob of planes, TIFF file, .npy, or zarr.
    channel
        Channel, counted from 0; needed when there are several.
    timepoint
        Timepoint, counted from 0; needed when there are several.
    level
        Resolution level of an OME-Zarr; 0 is the finest.
    dataset
        Path of the array inside a zarr group that is no OME-Zarr.
    """
    from cytolith.errors import VolumeError
    from cytolith.io.volume import open_volume
    from cytolith.quantities import format_bytes

    try:
        volume = open_volume(input, channel=channel, timepoint=timepoint, level=level, dataset=dataset)
    except VolumeError:
        # what there is to choose from is what this command tells: the first of several stands for all
        volume = open_volume(input, channel=channel or 0, timepoint=timepoint or 0, level=level, dataset=dataset)
    for name, value in volume.describe().items():
        if name == "bytes" and isinstance(value, int):
            value = f"{format_bytes(value)} ({value:,} bytes)"
        elif name == "voxel_size" and isinstance(value, tuple):
            value = f"{' x '.join(f'{edge:g}' for edge in value)} um (z, y, x)"
        elif isinstance(value, (tuple, list)):
            value = ", ".join(map(str, value))
        print(f"{name.replace('_', ' '):<12} {value}")
    volume.check()
    return 0
