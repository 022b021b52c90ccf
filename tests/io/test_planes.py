import numpy as np
import pytest
import tifffile

from cytolith.errors import OutputError
from cytolith.io.planes import write_plane


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_round_trip(tmp_path, dtype):
    image = (np.arange(7 * 11).reshape(7, 11) * 3).astype(dtype)
    write_plane(tmp_path / "a.tif", image[:, ::-1])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        assert len(file.pages) == 1
        assert page.compression == tifffile.COMPRESSION.NONE
        assert page.description == ""
        assert page.dtype == dtype
        np.testing.assert_array_equal(page.asarray(), image[:, ::-1])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_voxel_size_goes_to_the_resolution_tags(tmp_path):
    write_plane(tmp_path / "a.tif", np.zeros((3, 4), np.uint16), voxel_size=(6.0, 2.5, 1.25))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        assert tags["XResolution"].value == (8000, 1)
        assert tags["YResolution"].value == (4000, 1)


def test_same_plane_same_bytes(tmp_path):
    for name in ("a.tif", "b.tif"):
        write_plane(tmp_path / name, np.ones((30, 40), np.uint16))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_volume_is_no_plane(tmp_path):
    with pytest.raises(ValueError, match="two axes"):
        write_plane(tmp_path / "a.tif", np.zeros((2, 3, 4)))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"no[/\\]a\.tif"):
        write_plane(tmp_path / "no" / "a.tif", np.zeros((3, 4)))
