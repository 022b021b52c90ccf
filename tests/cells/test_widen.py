"""Cells that run through many blocks have the row of the whole volume; where memory forbids it they say so."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from cytolith.axes import full_region, region_shape
from cytolith.cells import costs, widen
from cytolith.cells.block import cells_of_block
from cytolith.cells.build import build_config
from cytolith.cells.images import Setting
from cytolith.cells.pipeline import detect_cells
from cytolith.cells.resolve import in_voxels
from cytolith.cells.widen import Whole, settle
from cytolith.engine.grid import Block, tile
from cytolith.engine.workspace import Workspace

PLAIN = {"background_correction": None, "smoothing": None, "maxima_detection": {"shape": 3, "threshold": 20}}
AMPLE = 2**40


@pytest.fixture(autouse=True)
def _little_room(monkeypatch):
    monkeypatch.setattr(costs, "ROOM_VOXELS", 2)
    monkeypatch.setattr(widen, "READ_ALL", 1e9)  # small volumes would be read as a whole at once


class Run:
    """Blocks of a volume in memory, one after another, with what was read for them."""

    def __init__(self, volume, core, chain, *, most_voxels=AMPLE, mask_limit=None, whole=None):
        config = in_voxels(build_config(("", PLAIN | chain)), None)
        setting, halo = Setting(config, volume.shape), costs.block_halo(config, None)
        workspace, self.read, self.parts = Workspace(), [], []

        def read(block):
            self.read.append(region_shape(block.read))
            return volume[block.read].copy(), None

        blocks = [Block(0, full_region(volume.shape), full_region(volume.shape))] if core is None else None
        for block in blocks or tile(volume.shape, core, halo):
            first = cells_of_block(volume[block.read].copy(), block, setting, workspace)
            limits = {"most_voxels": most_voxels, "mask_limit": mask_limit, "halo": halo, "whole": whole}
            self.parts.append(settle(first, block, setting, workspace, read, **limits))
        self.keys = np.concatenate([part.keys for part in self.parts])
        self.widened = sum(part.widened for part in self.parts)
        self.unsettled = sum(part.unsettled for part in self.parts)
        columns = {n: np.concatenate([p.table[n] for p in self.parts]) for n in self.parts[0].table}
        order = np.lexsort((self.keys, columns["x"], columns["y"], columns["z"]))
        self.keys = self.keys[order]
        self.table = {name: column[order] for name, column in columns.items()}


def same(one, other):
    assert one.keys.tolist() == other.keys.tolist()
    assert list(one.table) == list(other.table)
    for name in one.table:
        assert one.table[name].dtype == other.table[name].dtype
        assert one.table[name].tobytes() == other.table[name].tobytes(), name


LENGTH = 100


def line(axis):
    """Places along an axis or along a diagonal, and the extent of a volume around them."""
    along = np.arange(LENGTH)
    if axis == "diagonal":
        return [along // 4 + 3, along // 3 + 4, along], (32, 42, LENGTH)
    shape = [11, 13, 15]
    shape["zyx".index(axis)] = LENGTH
    places = [np.full(LENGTH, n // 2) for n in shape]
    places["zyx".index(axis)] = along
    return places, tuple(shape)


def long_volume(kind, axis):
    places, shape = line(axis)
    volume = np.zeros(shape, np.uint16)
    across = {"z": 2, "y": 0, "x": 1, "diagonal": 1}[axis]
    along = np.arange(LENGTH)

    def put(shift, values, chosen=slice(None)):
        moved = [p[chosen] for p in places]
        moved[across] = moved[across] + shift
        volume[tuple(moved)] = values if np.isscalar(values) else values[chosen]

    if kind == "tube":  # runs down from one maximum
        put(0, 900 - 3 * np.abs(along - 61))
        put(1, 800 - 3 * np.abs(along - 61))
    elif kind == "saturated":
        put(0, 900)
        put(1, 900)
    elif kind == "horseshoe":  # two arms, joined at the end: their first voxels lie far from each other
        put(-2, 900)
        put(2, 900)
        for shift in (-1, 0, 1):
            put(shift, 900, slice(-1, None))
    elif kind == "comb":
        put(-2, 900)
        for shift in (-1, 0, 1, 2):
            put(shift, 900, slice(None, None, 6))
    else:  # two long cells side by side, that meet where both are dim
        put(-1, 900 - 3 * np.abs(along - 30))
        put(0, 300)
        put(1, 880 - 3 * np.abs(along - 71))
    if kind == "touching" or axis == "diagonal":  # shapes grow over faces only
        volume = ndimage.grey_dilation(volume, size=(2, 2, 2))
    return volume


KINDS = ["tube", "saturated", "horseshoe", "comb", "touching"]
MAXIMA = [{"shape": 3, "threshold": 20}, {"h_max": 40, "threshold": 20}, {"h_max": 40, "shape": 3, "threshold": None}]
SHAPES = [
    {"shape_detection": {"threshold": 30}, "intensity_detection": {"method": "sum", "measure": ("source",)}},
    {"shape_detection": None, "intensity_detection": {"method": "mean", "shape": (3, 5, 4), "measure": ("source",)}},
]


@pytest.mark.parametrize("axis", ["z", "y", "x", "diagonal"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_through_1_2_and_20_blocks_has_the_row_of_the_whole_volume(kind, axis):
    volume = long_volume(kind, axis)
    for maxima, shapes in itertools.product(MAXIMA, SHAPES):
        chain = {"maxima_detection": maxima} | shapes
        whole = Run(volume, None, chain)
        assert len(whole.keys) >= 1
        assert not whole.table["truncated"].any()
        assert whole.widened == 0
        for blocks in (1, 2, 20):
            core = tuple(-(-n // blocks) if n >= LENGTH else n for n in volume.shape)
            if axis == "diagonal" and blocks == 20:
                core = (16, 21, 5)
            cut = Run(volume, core, chain)
            same(whole, cut)
            assert cut.unsettled == 0
            assert cut.widened == len(cut.read)
            # a small maximum without a shape is settled wherever it lies
            long = shapes["shape_detection"] is not None or kind not in {"tube", "touching"}
            if blocks == 1 or long:
                assert (cut.widened > 0) == (blocks > 1)


def test_filters_before_the_maxima_and_offsets_of_regions_do_no_harm():
    rng = np.random.default_rng(3)
    volume = long_volume("touching", "y") + rng.poisson(20, (11, LENGTH, 15)).astype(np.uint16)
    chain = {
        "background_correction": {"shape": (6, 5)},
        "equalization": {"selem": (3, 9, 7), "spacing": (2, 4, 3)},
        "smoothing": {"sigma": (0.4, 0.8, 0.7)},
        "maxima_detection": {"h_max": 0.1, "threshold": 0.2},
        "shape_detection": {"threshold": 0.1},
        "intensity_detection": {"method": "mean", "measure": ("source", "equalization", "smoothing")},
    }
    whole = Run(volume, None, chain)
    assert len(whole.keys) > 1
    cut = Run(volume, (5, 5, 8), chain)
    same(whole, cut)
    assert cut.widened > 0


def test_a_highest_voxel_that_another_block_owns():
    """The first voxels of an extended maximum lie in a block that takes them for a flank of something higher."""
    volume = np.zeros((1, 1, 60), np.uint16)
    volume[0, 0, 5] = 100
    volume[0, 0, 6:9] = 30
    volume[0, 0, 9:40] = 50
    volume[0, 0, 40] = 80
    volume[0, 0, 41:] = 10
    chain = {"maxima_detection": {"h_max": 40, "threshold": 1}, "shape_detection": None, "intensity_detection": None}
    whole = Run(volume, None, chain)
    assert len(whole.keys) == 2
    for core in (5, 10, 20, 30):
        same(whole, Run(volume, (1, 1, core), chain))


def test_a_window_that_only_a_voxel_beyond_the_block_passes():
    """Two equal peaks of one extended maximum: the first is not the greatest of its window, the second is."""
    volume = np.zeros((1, 7, 60), np.uint16)
    volume[0, 3, 10:50] = 60
    volume[0, 3, [12, 47]] = 80
    volume[0, 6, 12] = 100  # not connected, but in the window of the first
    chain = {"maxima_detection": {"h_max": 30, "shape": (1, 7, 3), "threshold": 50}}
    chain |= {"shape_detection": None, "intensity_detection": None}
    whole = Run(volume, None, chain)
    assert len(whole.keys) == 2
    for core in (5, 20, 30):
        same(whole, Run(volume, (1, 7, core), chain))


def test_a_ball_that_leaves_the_block_is_read_again():
    volume = np.repeat(np.arange(60, dtype=np.uint16) // 4, 40).reshape(1, 60, 40)
    volume[0, 29:38, 20] = 900  # begins in the first block, which sees all of it,
    volume[0, 38, 5:35] = 900  # but not all that lies around its centre
    chain = {"shape_detection": None}
    chain |= {"intensity_detection": {"method": "sum", "shape": (1, 9, 15), "measure": ("source",)}}
    whole = Run(volume, None, chain)
    assert len(whole.keys) == 1
    cut = Run(volume, (1, 30, 40), chain)
    same(whole, cut)
    assert cut.widened == 1


@pytest.mark.parametrize("peak", [0, 200, 399])
def test_a_fibre_is_read_as_a_long_thin_box(peak):
    volume = np.zeros((400, 60, 60), np.uint16)
    volume[:, 30, 31] = 900 - np.abs(np.arange(400) - peak)
    cut = Run(volume, (20, 60, 60), {"intensity_detection": None})
    assert cut.table["size"].tolist() == [400]
    assert cut.widened <= 4
    assert max(z for z, _, _ in cut.read) == 400
    assert max(max(y, x) for _, y, x in cut.read) < 30


def test_only_the_block_with_the_first_voxel_of_a_plateau_looks_for_its_end():
    volume = np.zeros((400, 60, 60), np.uint16)
    volume[:, 30, 31] = 900
    cut = Run(volume, (20, 60, 60), {"intensity_detection": None})
    assert cut.table["size"].tolist() == [400]
    assert [part.widened > 0 for part in cut.parts] == [True] + 19 * [False]


def test_cells_that_are_settled_cost_nothing():
    volume = np.zeros((20, 60, 70), np.uint16)
    volume[4::9, 5::11, 6::13] = 500
    cut = Run(volume, (10, 20, 20), {"shape_detection": {"threshold": 30}})
    assert cut.read == []
    assert not cut.table["truncated"].any()
    same(Run(volume, None, {"shape_detection": {"threshold": 30}}), cut)


@pytest.mark.parametrize("kind", KINDS)
def test_what_memory_forbids_is_marked_and_not_lost(kind):
    volume = long_volume(kind, "x")
    volume[2, 2, 10:90:20] = 700  # cells that are easy
    chain = {"shape_detection": {"threshold": 30}}
    whole = Run(volume, None, chain)
    cut = Run(volume, (11, 13, 10), chain, most_voxels=11 * 13 * 30)
    assert max(map(math.prod, cut.read), default=0) <= 11 * 13 * 30
    rows = {key: {n: c[i] for n, c in whole.table.items()} for i, key in enumerate(whole.keys)}
    for i, key in enumerate(cut.keys):
        if not cut.table["truncated"][i]:
            assert {n: c[i] for n, c in cut.table.items()} == rows[key]
    assert cut.unsettled == cut.table["truncated"].sum() > 0
    # none is lost: the block that holds the key has a row for it
    assert set(whole.keys) <= set(cut.keys)
    small = whole.table["size"] == 1
    assert small.sum() == 4
    assert not cut.table["truncated"][np.isin(cut.keys, whole.keys[small])].any()


def test_a_mask_that_memory_does_not_hold_is_not_read_again_for_ever():
    volume = long_volume("tube", "x")
    chain = {"shape_detection": {"threshold": 30}}
    cut = Run(volume, (11, 13, 10), chain, mask_limit=60)
    assert cut.table["truncated"].any()
    assert cut.widened < 100
    assert Run(volume, None, chain).table["size"].max() > 2 * 60


def test_the_whole_volume_is_read_once_when_much_of_it_would_be(monkeypatch):
    monkeypatch.setattr(widen, "READ_ALL", 0.5)
    rng = np.random.default_rng(1)
    volume = ndimage.gaussian_filter(rng.normal(1000, 300, (30, 40, 50)), 1.2).astype(np.uint16)
    chain = {"maxima_detection": {"shape": 5, "threshold": 1000}, "shape_detection": {"threshold": 800}}
    whole = Run(volume, None, chain)
    assert len(whole.keys) > 50
    kept = Whole()
    cut = Run(volume, (15, 10, 13), chain, whole=kept)
    same(whole, cut)
    assert kept.cells is not None
    assert cut.read.count(volume.shape) == 1
    assert Run(volume, (15, 10, 13), chain).read.count(volume.shape) > 1


def test_inspection_gives_the_rows_of_the_overlaps_too():
    volume = long_volume("tube", "x")
    chain = {"maxima_detection": {"shape": 3, "threshold": 20, "valid": False}}
    cut = Run(volume, (11, 13, 20), chain)
    assert cut.widened == 0
    assert len(cut.keys) > 1


@pytest.mark.parametrize("h_max", [None, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_labels_and_maxima_are_those_of_the_whole_volume(kind, h_max, tmp_path):
    volume = long_volume(kind, "x")
    volume[2, 2, 10:90:20] = 700
    saved = []
    for name, core in (("whole", volume.shape), ("long", (11, 13, 10)), ("small", (5, 6, 7))):
        paths = [tmp_path / f"{name}-{what}.npy" for what in ("labels", "maxima")]
        maxima = {"threshold": 20, "save": str(paths[1])} | ({"shape": 3} if h_max is None else {"h_max": h_max})
        chain = PLAIN | {"maxima_detection": maxima, "shape_detection": {"threshold": 30, "save": str(paths[0])}}
        table = detect_cells(volume, block=core, workers=2, memory=AMPLE, **chain)
        saved.append((table, *(np.load(path) for path in paths)))
    for table, labels, maxima in saved[1:]:
        for name in table:
            assert table[name].tobytes() == saved[0][0][name].tobytes()
        np.testing.assert_array_equal(labels, saved[0][1])
        np.testing.assert_array_equal(maxima, saved[0][2])
    table, labels, maxima = saved[0]
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], table["size"])
    assert maxima.sum() >= len(table["z"])
    assert (labels[maxima > 0] > 0).all()
