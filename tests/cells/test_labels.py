"""The label volume of the cells: row of the table + 1, the same for any blocks, opened by other tools."""

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image

from cytolith.cells import costs, widen
from cytolith.cells.pipeline import Prepared, detect_cells
from cytolith.cells.task import Limits
from cytolith.io.volume import open_volume
from cytolith.testing.phantoms import cells_phantom

VOXEL = (6.0, 1.62, 1.62)
PLAIN = {"background_correction": None, "smoothing": None}


@pytest.fixture(scope="module")
def volume():
    return cells_phantom((22, 90, 100), seed=11, density=60_000)[0]


def labelled(volume, path, block, **steps):
    """Table and labels, read with nothing but zarr."""
    shape = steps.pop("shape_detection", {})
    table = detect_cells(
        volume, voxel_size=VOXEL, workers=2, block=block, shape_detection={**shape, "save": str(path)}, **steps
    )
    return table, zarr.open_group(path, mode="r")["0"][:]


@pytest.fixture(scope="module")
def whole(volume, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.zarr"
    return *labelled(volume, path, volume.shape), path


def test_labels_are_those_of_the_rows(volume, whole):
    table, labels, _ = whole
    rows = len(table["z"])
    assert rows > 80
    assert labels.dtype == np.uint32
    assert labels.shape == volume.shape
    np.testing.assert_array_equal(np.unique(labels), np.arange(rows + 1))
    inside = np.nonzero(labels)
    of_row = labels[inside] - 1
    np.testing.assert_array_equal(np.bincount(of_row, minlength=rows), table["size"])
    highest = np.zeros(rows)
    np.maximum.at(highest, of_row, volume[inside])
    np.testing.assert_array_equal(highest, table["source"])
    for axis, places in zip("zyx", inside, strict=True):
        low, high = np.full(rows, 10**6), np.full(rows, -1)
        np.minimum.at(low, of_row, places)
        np.maximum.at(high, of_row, places)
        assert ((low <= table[axis]) & (table[axis] <= high)).all()


@pytest.mark.parametrize("block", [(22, 33, 100), (9, 90, 41), (7, 31, 29)])
def test_labels_are_the_same_for_any_blocks(volume, whole, block, tmp_path):
    table, labels = labelled(volume, tmp_path / "l.zarr", block)
    for name, column in whole[0].items():
        assert table[name].tobytes() == column.tobytes()
    np.testing.assert_array_equal(labels, whole[1])
    assert [path.name for path in tmp_path.iterdir()] == ["l.zarr"]


def test_metadata_is_valid_and_lays_labels_over_the_volume(volume, whole):
    image = Image.from_zarr(zarr.open_group(whole[2], mode="r"))
    (multiscale,) = image.attributes.ome.multiscales
    assert [axis.name for axis in multiscale.axes] == ["z", "y", "x"]
    assert {axis.unit for axis in multiscale.axes} == {"micrometer"}
    assert multiscale.datasets[0].coordinateTransformations[0].scale == list(VOXEL)
    opened = open_volume(whole[2])
    assert (opened.shape, opened.voxel_size) == (volume.shape, VOXEL)


def test_no_cells_no_labels(tmp_path):
    table, labels = labelled(np.full((6, 30, 30), 7, np.uint16), tmp_path / "l.zarr", (6, 10, 30),
                             maxima_detection={"threshold": 50}, shape_detection={"threshold": 20})  # fmt: skip
    assert len(table["z"]) == 0
    assert labels.shape == (6, 30, 30)
    assert not labels.any()


def test_order_of_rows_is_that_of_centres_not_of_first_voxels(tmp_path):
    volume = np.zeros((3, 12, 40), np.uint16)
    volume[1, 2:7, 5:10] = 500  # flat: begins in row 2, its centre is in row 4
    volume[1, 3, 30] = 500
    for number, block in enumerate((volume.shape, (3, 12, 8), (3, 4, 40))):
        table, labels = labelled(volume, tmp_path / f"{number}.zarr", block,
                                 **PLAIN, maxima_detection={"shape": 3, "threshold": 20},
                                 shape_detection={"threshold": 30})  # fmt: skip
        assert table["y"].tolist() == [3, 4]
        assert labels[1, 3, 30] == 1
        np.testing.assert_array_equal(labels == 2, (volume > 0) & (labels != 1))


def test_where_memory_cuts_cells_the_others_keep_all_their_voxels(tmp_path, monkeypatch):
    volume = np.zeros((6, 13, 100), np.uint16)
    volume[2:4, 5:8] = 100 + np.hypot(*np.mgrid[-50:50, 0:1]).T.astype(np.uint16)  # a rod, brightest at its ends
    volume[5, 11, 10:90:20] = 700  # cells that are easy
    monkeypatch.setattr(costs, "ROOM_VOXELS", 2)
    monkeypatch.setattr(widen, "READ_ALL", 1e9)
    steps = PLAIN | {"maxima_detection": {"shape": 3, "threshold": 20}, "shape_detection": {"threshold": 30}}
    table, labels = labelled(volume, tmp_path / "whole.zarr", volume.shape, **steps)
    assert not table["truncated"].any()
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], table["size"])
    monkeypatch.setattr(Prepared, "limits", property(lambda self: Limits(self.costs.halo, 6 * 13 * 30, 2**30)))
    cut, cut_labels = labelled(volume, tmp_path / "cut.zarr", (6, 13, 10), **steps)
    assert cut["truncated"].any()
    assert not cut["truncated"].all()
    counts = np.bincount(cut_labels.ravel(), minlength=len(cut["z"]) + 1)[1:]
    sure = ~cut["truncated"]
    np.testing.assert_array_equal(counts[sure], cut["size"][sure])
    # parts of cells may overlap: a voxel has one label
    assert (counts[~sure] <= cut["size"][~sure]).all()
    assert cut_labels.max() <= len(cut["z"])
    np.testing.assert_array_equal(cut_labels > 0, labels > 0)
