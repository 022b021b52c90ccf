"""``cytolith sample``: synthetic volumes whose truth is known, to try the pipeline on."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from cytolith.cli.numbers import WHOLE
from cytolith.quantities import parse_triple

sample = App(name="sample", help="Write synthetic volumes with known truth.")


@sample.command
def cells(
    directory: Path,
    /,
    *,
    shape: str = "64,256,256",
    seed: Annotated[int, WHOLE] = 0,
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


@sample.command
def fracture(
    directory: Path,
    /,
    *,
    shape: str = "120,80,160",
    seed: Annotated[int, WHOLE] = 0,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write a synthetic CT stack with one rough fracture of known maps, contact zones and speckle.

    Writes DIRECTORY/fracture.tif (8-bit, 255 is fracture), DIRECTORY/truth-aperture-map.txt and
    DIRECTORY/truth-offset-map.txt (of the largest cluster; nan where the walls touch) and DIRECTORY/truth.json.

    Parameters
    ----------
    directory
        Folder to write into.
    shape
        Extent Z,Y,X in voxels, at least 16 each; the fracture lies across y.
    seed
        Number that the stack is drawn from; the same gives the same stack.
    overwrite
        Replace an earlier sample in the folder.
    """
    from cytolith.testing.fracture_phantom import write_fracture_sample

    z, y, x = parse_triple(shape, "--shape", integer=True)
    truth = write_fracture_sample(directory, (int(z), int(y), int(x)), seed, overwrite=overwrite)
    print(
        f"A fracture of {truth['fracture_voxels']:,} voxels, mean aperture {truth['mean_aperture']:.2f}, and "
        f"{truth['speckles']:,} speckles: {directory / 'fracture.tif'}"
    )
    print(f"Truth: {directory / 'truth-aperture-map.txt'}, truth-offset-map.txt, truth.json")
    return 0
