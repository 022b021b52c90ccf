"""Voxel sizes from OME-XML and ImageJ calibration, with units; partial and absurd ones."""

import numpy as np
import pytest
import tifffile

from cytolith.io.volume import open_volume
from cytolith.io.voxel_sizes import ome_voxel_size, to_micrometres

VOLUME = np.zeros((3, 8, 9), "uint16")


def ome(path, **attributes):
    tifffile.imwrite(path, VOLUME, ome=True, metadata={"axes": "ZYX", **attributes})
    return open_volume(path)


@pytest.mark.parametrize(
    ("unit", "factor"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("m", 1e6), ("Å", 1e-4), ("pm", 1e-6)]
)
def test_units_of_ome(tmp_path, unit, factor):
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    volume = ome(tmp_path / "a.ome.tif", PhysicalSizeX=1.5, PhysicalSizeY=2.5, PhysicalSizeZ=6.0, **units)
    assert volume.voxel_size == pytest.approx((6 * factor, 2.5 * factor, 1.5 * factor))


def test_ome_without_units_is_in_micrometres_and_units_may_differ(tmp_path):
    volume = ome(
        tmp_path / "a.ome.tif", PhysicalSizeX=1.5, PhysicalSizeY=2.5, PhysicalSizeZ=0.006, PhysicalSizeZUnit="mm"
    )
    assert volume.voxel_size == pytest.approx((6.0, 2.5, 1.5))


def test_partial_ome_is_unknown_and_says_what_there_is(tmp_path):
    volume = ome(tmp_path / "a.ome.tif", PhysicalSizeX=1.5, PhysicalSizeY=2.5)
    assert volume.voxel_size is None
    assert volume.describe()["voxel_size"] == "unknown (metadata: z missing, y 2.5 um, x 1.5 um)"
    assert open_volume(tmp_path / "a.ome.tif", voxel_size=(1, 2, 3)).voxel_size == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("bad", ["0", "-1", "NaN", "INF", "much", ""])
def test_absurd_sizes_count_as_not_given(bad):
    xml = f'<OME><Image><Pixels PhysicalSizeX="1" PhysicalSizeY="2" PhysicalSizeZ="{bad}"/></Image></OME>'
    assert ome_voxel_size(xml) == (None, 2.0, 1.0)


@pytest.mark.parametrize("xml", ["<OME><broken></OME>", "<OME/>", "<OME><Image><Pixels/></Image></OME>", ""])
def test_broken_xml_says_nothing(xml):
    assert ome_voxel_size(xml) == (None, None, None)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("um", 1),
        ("micron", 1),
        ("\\u00B5m", 1),
        ("microns", 1),
        ("nm", 1e-3),
        ("mm", 1e3),
        ("cm", 1e4),
        ("inch", 25400),
    ],
)
def test_imagej_calibration(tmp_path, unit, factor):
    tifffile.imwrite(
        tmp_path / "a.tif",
        VOLUME,
        imagej=True,
        resolution=(1 / 1.6, 1 / 1.7),
        metadata={"axes": "ZYX", "spacing": 4.0, "unit": unit},
    )
    volume = open_volume(tmp_path / "a.tif")
    assert volume.voxel_size == pytest.approx((4 * factor, 1.7 * factor, 1.6 * factor), rel=1e-5)


@pytest.mark.parametrize(
    ("metadata", "known"),
    [
        ({"unit": "um"}, "unknown (metadata: z missing, y 2 um, x 2 um)"),
        ({"spacing": 3.0}, "unknown"),
        ({"spacing": 3.0, "unit": "pixel"}, "unknown"),
        ({"spacing": 0.0, "unit": "um"}, "unknown (metadata: z missing, y 2 um, x 2 um)"),
    ],
)
def test_incomplete_imagej_calibration(tmp_path, metadata, known):
    tifffile.imwrite(
        tmp_path / "a.tif", VOLUME, imagej=True, resolution=(0.5, 0.5), metadata={"axes": "ZYX", **metadata}
    )
    volume = open_volume(tmp_path / "a.tif")
    assert volume.voxel_size is None
    assert volume.describe()["voxel_size"] == known


def test_resolution_of_plain_tiff_is_for_printers(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, photometric="minisblack", resolution=(72, 72), resolutionunit="INCH")
    assert open_volume(tmp_path / "a.tif").describe()["voxel_size"] == "unknown"


@pytest.mark.parametrize("unit", [None, "", "pixel", "reference frame", "s"])
def test_units_that_are_no_length(unit):
    assert to_micrometres(1.0, unit) is None


@pytest.mark.parametrize("unit", ["Âµm", "μm", "micrometre", " um ", "Micron"])
def test_spellings_of_micrometre(unit):
    assert to_micrometres("2.5", unit) == 2.5
