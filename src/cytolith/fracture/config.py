"""What a fracture run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cytolith.axes import AXES
from cytolith.errors import ConfigError
from cytolith.fracture.clusters import check_count, check_threshold
from cytolith.fracture.maps import OffsetSettings


@dataclass(frozen=True)
class FractureConfig:
    """Parameters of a fracture run.

    Parameters
    ----------
    n
        Clusters to keep, the largest first; None: all voxels count.
    threshold
        A voxel is fracture where it is greater than this; None: where it is not 0.
    invert
        Exchange fracture and rock.
    axis
        Opening axis of the fracture: aperture and offset are measured along it. ``"y"``: along the columns of a plane.
    offsets
        How the offset map is patched and filtered.
    aperture_map, offset_map, image_stack, clusters, pictures, summary
        Which results are written. The image stack is written only when there is an `n`.
    cluster_image
        Write an image of the clusters too, the largest in values of their own.
    map_images
        Write the maps as 32-bit TIFF images too.
    zarr
        Write stacks as OME-Zarr instead of TIFF.
    aperture_name, offset_name, stack_name
        File names, joined to the output folder, instead of those made from the name of the input.

    Raises
    ------
    ConfigError
        A value cannot be used, or two of them contradict each other.
    """

    n: int | None = None
    threshold: float | None = None
    invert: bool = False
    axis: str = "y"
    offsets: OffsetSettings = field(default_factory=OffsetSettings)
    aperture_map: bool = True
    offset_map: bool = True
    image_stack: bool = True
    cluster_image: bool = False
    clusters: bool = True
    pictures: bool = True
    summary: bool = True
    map_images: bool = False
    zarr: bool = False
    aperture_name: str | None = None
    offset_name: str | None = None
    stack_name: str | None = None

    def __post_init__(self) -> None:
        if self.n is not None:  # numbers of NumPy too are written as what they are
            object.__setattr__(self, "n", check_count(self.n, "-n"))
        check_threshold(self.threshold)
        if self.threshold is not None:
            object.__setattr__(self, "threshold", float(self.threshold))
        if self.axis not in AXES:
            raise ConfigError(f"--axis {self.axis}: choose one of {', '.join(AXES)}")
        for name, wanted, switch, given in (
            (self.aperture_name, self.aperture_map, "--no-aper-map", "--aper-map-name"),
            (self.offset_name, self.offset_map, "--no-offset-map", "--offset-map-name"),
            (self.stack_name, self.image_stack or self.cluster_image, "--no-img-stack", "--img-stack-name"),
        ):
            if name is not None and not wanted:
                raise ConfigError(f"{given} {name} and {switch}: give one of the two")
            if name is not None and Path(name.strip()).name in ("", ".."):
                raise ConfigError(f"{given} {name!r}: names no file; give a file name")
        if self.stack_name is not None and self.n is None and not self.cluster_image:
            raise ConfigError(
                f"--img-stack-name {self.stack_name}: a stack is written only when clusters are kept; add -n"
            )
        if self.map_images and not (self.aperture_map or self.offset_map):
            raise ConfigError(
                "--map-images: both maps are switched off; leave it out, or one of --no-aper-map, --no-offset-map"
            )

    @property
    def writes_stack(self) -> bool:
        """Whether the stack of what is kept is written."""
        return self.image_stack and self.n is not None

    @property
    def needs_maps(self) -> bool:
        """Whether the volume is projected."""
        return self.aperture_map or self.offset_map or self.summary
