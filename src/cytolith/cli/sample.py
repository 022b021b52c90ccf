"""``cytolith sample``: synthetic volumes whose truth is known, to try the pipeline on."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from cytolith.quantities import parse_triple

sample = App(name="sample", help="Write synthetic volumes with known truth.")


@sample.command
def cells(
    directory: Path,
    /,
    *,
    shape: str = "64,256,256",
    seed: int = 0,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write a synthetic light-sheet volume of 6 x 1.62 x 1.62 um voxels with known cells.

    Writes DIRECTORY/planes/*.tif and DIRECTORY/truth.csv (columns z, y, x: centres in voxels; voxels: size).

    Parameters
    ----------
    directory
        Folder to write into.
    shape
        Extent Z,Y,X in voxels.
    seed
        Number that the volume is drawn from; the same gives the same volume.
    overwrite
        Replace an earlier sample in the folder.
    """
    from cytolith.testing.phantoms import write_sample

    z, y, x = parse_triple(shape, "--shape", integer=True)
    truth = write_sample(directory, (int(z), int(y), int(x)), seed, overwrite=overwrite)
    print(f"{len(truth['z']):,} cells in {int(z)} planes: {directory / 'planes'}")
    print(f"Truth: {directory / 'truth.csv'}")
    return 0
