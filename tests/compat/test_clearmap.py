"""ClearMap's functions against filters of SciPy and OpenCV and a flood written down here, whatever the blocks are."""

import copy
import heapq
import inspect
import itertools
import threading
import time
import warnings
from concurrent.futures import CancelledError

import cv2
import numpy as np
import pytest
import tifffile
from scipy import ndimage

import cytolith.compat.clearmap as cells
from cytolith.cells import block, costs, images, pipeline, widen
from cytolith.cells.saves import Saves
from cytolith.compat import clearmap_run
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError, VolumeError

SHAPE = (23, 31, 17)
CROSS = ((0, 0, 0), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
ONE_BLOCK = {"size_max": None, "size_min": None, "overlap": 0}
MANY_BLOCKS = {"axes": "all", "size_max": (14, 13, 11), "size_min": None, "overlap": (3, 2, 4), "processes": 3}
small_overlaps = pytest.mark.filterwarnings("ignore:processing_parameter")


@pytest.fixture(autouse=True)
def _little_room(monkeypatch):
    """Blocks of small volumes would read all of them, and so would a second look."""
    monkeypatch.setattr(costs, "ROOM_VOXELS", 0)
    monkeypatch.setattr(widen, "ROOM_VOXELS", 1)


def blobs(rng, shape):
    """Blobs, plateaus and flat parts, uint16 (x, y, z)."""
    smooth = ndimage.gaussian_filter(rng.random(shape), (1.4, 1.2, 0.8))
    image = (smooth - smooth.min()) / np.ptp(smooth) * 60
    image[:7, :9, :6] = 3
    return image.round().astype(np.uint16)


@pytest.fixture
def volume(rng):
    return blobs(rng, SHAPE)


def given(**steps):
    """Parameters that differ along the axes."""
    return {
        "background_correction": {"shape": (8, 6), "form": "Disk"},
        "maxima_detection": {"h_max": None, "shape": (5, 3, 4), "threshold": 12, "valid": True},
        "shape_detection": {"threshold": 9},
        "intensity_detection": {"method": "sum", "shape": 3, "measure": ["background_correction", "source"]},
    } | steps


def opened(image, shape):
    """What ClearMap takes off: OpenCV's opening of each plane with its ellipse."""
    u, v = np.meshgrid(*((np.arange(n) - n // 2 + 0.5 * (n % 2 == 0)) / (n - n // 2) for n in shape), indexing="ij")
    footprint = (u**2 + v**2 < 1).astype(np.uint8)
    planes = [
        cv2.morphologyEx(np.ascontiguousarray(plane), cv2.MORPH_OPEN, footprint) for plane in np.moveaxis(image, 2, 0)
    ]
    return image - np.minimum(image, np.stack(planes, 2))


def oracle(image, seeds, threshold):
    """Labels of a seeded watershed from crosses, of which the first keeps a voxel; levels never fall below a pass."""
    labels = np.zeros(image.shape, int)
    heap = []
    for label, seed in enumerate(seeds, 1):
        for step in CROSS:
            at = tuple(int(a + s) for a, s in zip(seed, step, strict=True))
            if min(at) < 0 or any(a >= n for a, n in zip(at, image.shape, strict=True)):
                continue
            if image[at] > threshold and not labels[at]:
                labels[at] = label
                heap.append((-float(image[at]), 0, label, at))
    heapq.heapify(heap)
    age = itertools.count(1)
    while heap:
        level, _, _, at = heapq.heappop(heap)
        for step in CROSS[1:]:
            to = tuple(a + s for a, s in zip(at, step, strict=True))
            if min(to) < 0 or any(t >= n for t, n in zip(to, image.shape, strict=True)):
                continue
            if image[to] > threshold and not labels[to]:
                labels[to] = labels[at]
                heapq.heappush(heap, (max(-float(image[to]), level), next(age), 0, to))
    return labels


def expected(image, source, shape, lowest, threshold):
    """Rows x, y, z, size and the sums of both images, in the order of (z, y, x), and the labels."""
    marks = (ndimage.maximum_filter(image, shape, mode="reflect") == image) & (image >= lowest)
    seeds = np.argwhere(marks.T)[:, ::-1]
    labels = oracle(image, seeds, threshold)
    size = np.bincount(labels.ravel(), minlength=len(seeds) + 1)[1:]
    sums = [np.bincount(labels.ravel(), each.ravel(), len(seeds) + 1)[1:] for each in (image, source)]
    rows = np.column_stack([seeds, size, *sums])[size > 0]
    return rows, np.concatenate([[0], np.cumsum(size > 0)])[labels]


def rows_of(table):
    return np.column_stack([table[name] for name in table.dtype.names])


def test_signatures_and_defaults():
    def names(function):
        return [
            f"{p.name}={p.default!r}" if p.default is not p.empty else p.name
            for p in inspect.signature(function).parameters.values()
        ]

    parameter, processing = cells.default_cell_detection_parameter, cells.default_cell_detection_processing_parameter
    assert parameter == {
        "background_correction": {"form": "Disk", "save": False, "shape": (10, 10)},
        "dog_filter": {"shape": None, "sigma": None, "sigma2": None},
        "equalization": None,
        "illumination_correction": {"flatfield": None, "scaling": "mean"},
        "intensity_detection": {"measure": ["source", "background_correction"], "method": "max", "shape": 3},
        "maxima_detection": {"h_max": None, "save": False, "shape": 5, "threshold": 0, "valid": True},
        "shape_detection": {"save": False, "threshold": 700},
    }
    assert processing == {
        "axes": [2], "optimization": True, "optimization_fix": "all", "overlap": 32, "processes": None, "size_max": 100,
        "size_min": 50, "verbose": None,
    }  # fmt: skip
    assert names(cells.detect_cells) == [
        "source", "sink=None", f"cell_detection_parameter={parameter!r}", f"processing_parameter={processing!r}",
        "workspace=None",
    ]  # fmt: skip
    assert names(cells.detect_cells_block) == ["source", f"parameter={parameter!r}", "n_threads=None"]
    assert names(cells.detect_maxima) == ["source", "h_max=None", "shape=5", "threshold=None", "verbose=False"]
    assert names(cells.dog_filter) == ["source", "shape", "sigma=None", "sigma2=None"]
    assert names(cells.equalize) == [
        "source", "percentile=(0.5, 0.95)", "max_value=1.5", "selem=(200, 200, 5)", "spacing=(50, 50, 5)",
        "interpolate=1", "mask=None",
    ]  # fmt: skip
    assert names(cells.filter_cells) == ["source", "sink", "thresholds"]
    assert names(cells.remove_background) == ["source", "shape", "form='Disk'"]


@small_overlaps
@pytest.mark.parametrize("blocks", [ONE_BLOCK, MANY_BLOCKS])
def test_rows_and_labels(volume, tmp_path, blocks):
    image = opened(volume, (8, 6))
    assert np.array_equal(cells.remove_background(volume, (8, 6)), image)
    rows, labels = expected(image, volume, (5, 3, 4), 12, 9)
    assert len(rows) > 60
    assert np.bincount(np.abs(np.diff(rows[:, :3], axis=0)).sum(1).astype(int))[1] > 0, "plateaus are wanted"
    parameters = given()
    parameters["shape_detection"]["save"] = str(tmp_path / "labels.npy")
    table = cells.detect_cells(volume, None, parameters, blocks)
    assert [table.dtype[n].str for n in range(6)] == ["<i8"] * 4 + ["<f8"] * 2
    assert table.dtype.names == ("x", "y", "z", "size", "background_correction", "source")
    assert np.array_equal(rows_of(table), rows)
    saved = np.load(tmp_path / "labels.npy")
    assert saved.dtype == np.float64
    assert np.array_equal(saved, labels)


@small_overlaps
@pytest.mark.parametrize("window", [(1, 2, 3), (2, 2, 2)])
@pytest.mark.parametrize("shape_threshold", [None, 20, 30.5])
def test_windows_that_do_not_hold_the_cross(volume, window, shape_threshold):
    """A maximum outside the mask may paint arms inside it."""
    maxima = {"shape": window, "threshold": 25}
    parameters = given(
        background_correction=None, maxima_detection=maxima, shape_detection={"threshold": shape_threshold}
    )
    parameters["intensity_detection"]["measure"] = ["source", "dog_filter"]
    least = -1 if shape_threshold is None else shape_threshold
    rows, _ = expected(volume, volume, window, 25, least)
    for blocks in (ONE_BLOCK, MANY_BLOCKS):
        table = cells.detect_cells(volume, None, parameters, blocks)
        assert np.array_equal(rows_of(table), rows)


@small_overlaps
def test_rows_do_not_depend_on_blocks_processes_or_order_in_memory(rng):
    volume = blobs(rng, (61, 53, 37))
    parameters = given(
        background_correction={"shape": (4, 3)},
        equalization={"selem": (7, 4, 5), "spacing": (3, 4, 2)},
        dog_filter={"shape": (5, 4, 3)},
        maxima_detection={"shape": 3, "threshold": 0.05},
        shape_detection={"threshold": 0.02},
    )
    one = cells.detect_cells(volume, None, parameters, ONE_BLOCK)
    assert len(one) > 500
    cuts = {"axes": "all", "size_max": (24, 21, 16), "size_min": None, "overlap": (3, 2, 4)}
    for processes in (None, "serial", 100):
        found = cells.detect_cells(volume, None, parameters, cuts | {"processes": processes})
        assert found.tobytes() == one.tobytes(), processes
    sources = np.asfortranarray(volume), volume.astype(np.float64), volume[::-1].copy()[::-1]
    for axes, source in zip((None, [0], [1, 2]), sources, strict=True):
        sizes = {"axes": axes, "size_max": 24, "size_min": None, "overlap": 4}
        assert cells.detect_cells(source, None, parameters, sizes).tobytes() == one.tobytes()
    for threads in (None, 3):
        assert cells.detect_cells_block(volume, parameters, threads).tobytes() == one.tobytes()


@small_overlaps
@pytest.mark.parametrize("seed", range(8))
def test_any_blocks_and_parameters(seed, monkeypatch):
    """Rows of random volumes, parameters and blocks are those of one block."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(widen, "READ_ALL", [0.5, 1e9][seed % 2])
    for _ in range(4):
        volume = blobs(rng, tuple(rng.integers(12, 45, 3))).astype([np.uint16, np.float32][seed % 2])
        window = tuple(rng.integers(1, 5, 3).tolist())
        low, high = np.quantile(volume, rng.choice([0.3, 0.5, 0.7, 0.9], 2))
        parameters = given(
            background_correction=[None, {"shape": rng.integers(2, 6, 2)}][rng.integers(2)],
            dog_filter=[None, {"shape": (4, 3, 5)}][rng.integers(3) // 2],
            maxima_detection={"shape": window, "threshold": float(high)},
            shape_detection={"threshold": float(low) * rng.choice([0.2, 1])},
        )
        one = cells.detect_cells(volume, None, parameters, ONE_BLOCK)
        sizes = rng.integers(6, 20, 3)
        blocks = {"axes": "all", "size_max": sizes.tolist(), "size_min": None, "overlap": (sizes // 3).tolist()}
        assert cells.detect_cells(volume, None, parameters, blocks).tobytes() == one.tobytes()


@small_overlaps
@pytest.mark.parametrize("read_all", [0.5, 1e9])
@pytest.mark.parametrize("threshold", [2, 14, 22])
def test_cells_that_run_on_are_read_again(volume, monkeypatch, read_all, threshold):
    """Shapes through many blocks, with hardly any room around them at first."""
    monkeypatch.setattr(widen, "READ_ALL", read_all)
    looks = []
    look = widen.cells_of_block
    monkeypatch.setattr(widen, "cells_of_block", lambda *args, **more: looks.append(args) or look(*args, **more))
    parameters = given(
        background_correction=None,
        shape_detection={"threshold": threshold},
        maxima_detection={"shape": (3, 5, 4), "threshold": 30},
    )
    rows, _ = expected(volume, volume, (3, 5, 4), 30, threshold)
    parameters["intensity_detection"]["measure"] = ["source", "dog_filter"]
    table = cells.detect_cells(volume, None, parameters, MANY_BLOCKS)
    assert looks
    assert np.array_equal(rows_of(table), rows)


@small_overlaps
def test_a_cell_of_which_a_block_sees_no_voxel(monkeypatch):
    """What looks like a maximum at the rim of a block takes the only voxel of a cell; beyond the rim it is none."""
    monkeypatch.setattr(widen, "READ_ALL", 1e9)
    image = np.zeros((9, 8, 100), np.uint16)
    image[5, 3, 47:51] = 39, 38, 35, 40
    image[4, 3, 50] = 40
    parameters = given(
        background_correction=None,
        maxima_detection={"shape": (3, 3, 2), "threshold": 38},
        shape_detection={"threshold": 30},
        intensity_detection=None,
    )
    halves = {"size_max": 50, "size_min": None, "overlap": 0, "processes": 1}
    table = cells.detect_cells(image, None, parameters, halves)
    assert table.tolist() == [(5, 3, 47, 2), (4, 3, 50, 2), (5, 3, 50, 1)]


@small_overlaps
def test_little_memory(rng, monkeypatch):
    """Blocks that memory does not hold are cut; a cell longer than memory says so."""
    volume = rng.integers(0, 40, (48, 40, 200)).astype(np.uint16)
    volume[ndimage.gaussian_filter(rng.random(volume.shape), 1) > 0.6] += 200
    parameters = given(background_correction=None, maxima_detection={"shape": 5, "threshold": 100})
    parameters["shape_detection"]["threshold"] = 100
    everything = cells.detect_cells(volume, None, parameters)
    monkeypatch.setattr(pipeline, "PROCESS_BYTES", 0)
    monkeypatch.setattr(clearmap_run, "default_memory", lambda: 2**22)
    largest = []
    steps = images.run_image_steps
    monkeypatch.setattr(
        images,
        "run_image_steps",
        lambda image, *args, **more: largest.append(image.size) or steps(image, *args, **more),
    )
    found = cells.detect_cells(volume, None, parameters)
    assert found.tobytes() == everything.tobytes()
    assert len(largest) > 2
    assert max(largest) * 16 <= 2**22  # two bytes of the source and as many of the next block's, twelve of the rest
    parameters["maxima_detection"]["threshold"] = 1500
    fibre = np.zeros((9, 9, 100_000), np.uint16)
    fibre[4, 4] = 1000
    fibre[4, 4, 50_000] = 2000
    with pytest.warns(UserWarning, match=r"1 cells, the first at \(4, 4, 50000\), run on"):
        table = cells.detect_cells(fibre, None, parameters)
    assert table[["x", "y", "z"]].tolist() == [(4, 4, 50_000)]
    assert 0 < table["size"][0] < 100_000
    monkeypatch.setattr(clearmap_run, "default_memory", lambda: 2**12)
    with pytest.raises(MemoryBudgetError, match="do not hold the smallest block"):
        cells.detect_cells(volume, None, parameters)


@small_overlaps
def test_extended_maxima(volume, tmp_path, monkeypatch):
    from skimage.morphology import reconstruction

    image = volume.astype(np.float64)
    raised = reconstruction(image - 6, image, footprint=np.ones((3, 3, 3)))
    marks = (ndimage.maximum_filter(raised, (5, 3, 4), mode="reflect") == raised) & (image >= 20)
    labels, count = ndimage.label(marks)
    centres = np.array(ndimage.center_of_mass(image, labels, range(1, count + 1)))
    centres = centres[np.lexsort(centres.T)]
    found = cells.detect_maxima(volume, h_max=6, shape=(5, 3, 4), threshold=20)
    assert count > 20
    assert np.allclose(found, centres, rtol=0, atol=1e-9)
    maxima = {"h_max": 6.0, "shape": (5, 3, 4), "threshold": 20, "save": tmp_path / "maxima.npy"}
    parameters = given(background_correction=None, maxima_detection=maxima, shape_detection=None)
    table = cells.detect_cells(volume, None, parameters, MANY_BLOCKS)
    assert np.array_equal(np.load(tmp_path / "maxima.npy"), marks)
    assert sorted(rows_of(table)[:, :3].tolist()) == sorted(found.astype(int).tolist())
    assert np.array_equal(np.lexsort((table["x"], table["y"], table["z"])), np.arange(len(table)))
    # shapes grow from the truncated centres
    parameters = given(background_correction=None, maxima_detection=maxima, shape_detection={"threshold": 20})
    parameters["intensity_detection"] = None
    table = cells.detect_cells(volume, None, parameters, MANY_BLOCKS)
    first = [np.flatnonzero((n == labels.T).ravel())[0] for n in range(1, count + 1)]
    by_label = np.array(ndimage.center_of_mass(image, labels, range(1, count + 1))).astype(int)
    size = np.bincount(oracle(image, by_label[np.argsort(first)], 20).ravel(), minlength=count + 1)[1:]
    assert sorted(rows_of(table).tolist()) == sorted(
        [*centre, n] for centre, n in zip(by_label[np.argsort(first)].tolist(), size.tolist(), strict=True) if n
    )
    everything = cells.detect_maxima(volume, h_max=6, shape=(5, 3, 4))
    assert len(everything) >= len(found)
    monkeypatch.setattr(clearmap_run, "default_memory", lambda: 2**20)
    with pytest.raises(MemoryBudgetError, match=r"h_max.*cytolith\.detect_cells"):
        cells.detect_cells(volume, None, parameters)


def test_maxima_of_a_plateau(capsys):
    image = np.zeros((7, 6, 5), np.float32)
    image[2:4, 1, 3] = 5
    image[6, 5, 0] = 4
    assert cells.detect_maxima(image, threshold=4).tolist() == [[6, 5, 0], [2, 1, 3], [3, 1, 3]]
    assert cells.detect_maxima(image, threshold=4.5, verbose=True).tolist() == [[2, 1, 3], [3, 1, 3]]
    assert capsys.readouterr().out == "2 maxima\n"
    assert cells.detect_maxima(image, h_max=1, threshold=4).tolist() == [[6, 5, 0], [2.5, 1, 3]]


def test_filters_along_the_right_axes(volume):
    image = volume.astype(np.float32)
    shape, sigma, sigma2 = (7, 5, 4), (1.0, 0.8, 0.6), (2.0, 1.5, 1.0)

    def gaussian(sigmas):
        axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / s) ** 2) for n, s in zip(shape, sigmas, strict=True)]
        kernel = axes[0][:, None, None] * axes[1][:, None] * axes[2]
        return kernel / kernel.sum()

    expected = ndimage.correlate(image.astype(float), gaussian(sigma) - gaussian(sigma2), mode="reflect").clip(0)
    found = cells.dog_filter(volume, shape, sigma, sigma2)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5 * image.max()
    wide = np.array(shape) / (2 * np.sqrt(2 * np.log(2)))
    expected = ndimage.correlate(image.astype(float), gaussian(wide / 1.5) - gaussian(wide), mode="reflect").clip(0)
    assert np.abs(cells.dog_filter(volume, shape) - expected).max() < 1e-5 * image.max()
    assert np.array_equal(cells.dog_filter(volume, 5, (1.2,), 2), cells.dog_filter(volume, (5, 5, 5), 1.2, [2, 2, 2]))
    assert np.array_equal(cells.dog_filter(volume, None), volume)
    assert np.array_equal(cells.remove_background(volume, (8, 6, 3)), opened(volume, (8, 6)))
    assert np.array_equal(cells.remove_background(volume, 7), opened(volume, (7, 7)))
    assert cells.remove_background(volume.astype(float), (3, 9), "cube").dtype == np.float32


def test_equalize(volume):
    selem, spacing = (9, 12, 5), (5, 6, 4)
    mask = volume > 20
    found = cells.equalize(volume, (0.25, 0.75), 1.25, selem, spacing, 0, mask)
    # at the voxel of a window
    x, y, z = ((n - (n // s - 1) * s) // 2 for n, s in zip(SHAPE, spacing, strict=True))
    at = (x + 2 * spacing[0], y + spacing[1], z + spacing[2])
    window = tuple(slice(max(c - w // 2, 0), c - w // 2 + w) for c, w in zip(at, selem, strict=True))
    low, high = np.percentile(volume[window][mask[window]], (25, 75))
    factor = 1 / max(low, 1)
    factor = 1.25 / high if high * factor > 1.25 else factor
    assert found[at] == pytest.approx(volume[at] * factor, rel=1e-6)
    assert found.shape == SHAPE
    with pytest.raises(ConfigError, match=r"mask has the shape \(22, 31, 17\) \(x, y, z\), the source \(23, 31, 17\)"):
        cells.equalize(volume, mask=mask[1:])


@small_overlaps
def test_equalization_with_a_mask_in_the_pipeline(volume, tmp_path):
    step = {"selem": (9, 12, 5), "spacing": (5, 6, 4), "mask": volume > 20, "save": tmp_path / "e.npy"}
    cells.detect_cells(volume, None, {"equalization": step}, MANY_BLOCKS)
    expected = cells.equalize(volume, selem=(9, 12, 5), spacing=(5, 6, 4), mask=volume > 20)
    assert np.array_equal(np.load(tmp_path / "e.npy"), expected)
    with pytest.raises(ConfigError, match=r"mask has the shape \(22, 31, 17\) \(x, y, z\), the source \(23, 31, 17\)"):
        cells.detect_cells(volume, None, {"equalization": step | {"mask": volume[:-1] > 20}})


@small_overlaps
def test_saved_steps(volume, tmp_path):
    paths = {name: tmp_path / "deep" / f"{name}.npy" for name in ("i", "b", "d", "m")}
    parameters = given(
        illumination_correction={"flatfield": None, "save": paths["i"]},
        dog_filter={"shape": (5, 4, 3), "save": str(paths["d"])},
        maxima_detection={"shape": (5, 3, 4), "threshold": 1, "save": paths["m"]},
    )
    parameters["background_correction"]["save"] = str(paths["b"])
    cells.detect_cells(volume, None, parameters, MANY_BLOCKS)
    saved = {name: np.load(path) for name, path in paths.items()}
    for array in saved.values():
        assert array.dtype == np.float64
        assert array.shape == SHAPE
    assert np.array_equal(saved["i"], volume)
    assert np.array_equal(saved["b"], opened(volume, (8, 6)))
    filtered = cells.dog_filter(opened(volume, (8, 6)), (5, 4, 3))
    assert np.array_equal(saved["d"], filtered)
    marks = (ndimage.maximum_filter(filtered, (5, 3, 4), mode="reflect") == filtered) & (filtered >= 1)
    assert np.array_equal(saved["m"], marks)
    assert marks.sum() > len(cells.detect_cells(volume, None, parameters, ONE_BLOCK))  # those below the shape threshold


def test_saves_of_steps_that_pass_on_an_image_without_cells(tmp_path):
    """There is nothing in it, which is known before any step, and it is saved all the same."""
    parameters = given(illumination_correction={"flatfield": None, "save": tmp_path / "i.npy"})
    image = np.full(SHAPE, 7, np.uint16)
    assert len(cells.detect_cells(image, None, parameters, ONE_BLOCK)) == 0
    assert np.array_equal(np.load(tmp_path / "i.npy"), image)


def test_what_is_in_the_place_of_a_save(volume, tmp_path):
    path = tmp_path / "b.npy"
    parameters = {"background_correction": {"shape": 5, "save": path}}
    np.save(path, np.zeros((3, 4, 5)))
    with pytest.raises(OutputError, match=r"an array of shape \(3, 4, 5\), not one of \(23, 31, 17\)"):
        cells.detect_cells(volume, None, parameters)
    path.write_text("notes")
    with pytest.raises(OutputError, match="something else"):
        cells.detect_cells(volume, None, parameters)
    np.save(path, np.zeros(SHAPE, np.uint8))
    cells.detect_cells(volume, None, parameters)
    assert np.array_equal(np.load(path), cells.remove_background(volume, 5))
    np.save(tmp_path / "source.npy", volume)
    for other in ("source.npy", "sink.npy"):
        parameters["background_correction"]["save"] = tmp_path / other
        with pytest.raises(ConfigError, match="is what is read" if other == "source.npy" else "is the sink"):
            cells.detect_cells(tmp_path / "source.npy", tmp_path / "sink.npy", parameters)
    parameters["background_correction"]["save"] = path
    parameters["dog_filter"] = {"shape": 3, "save": path}
    with pytest.raises(ConfigError, match="is what background_correction saves"):
        cells.detect_cells(volume, None, parameters)


@small_overlaps
def test_sources(volume, tmp_path, monkeypatch, capsys):
    class Lazy:
        """Something that is sliced."""

        shape, dtype = volume.shape, volume.dtype

        def __getitem__(self, region):
            return volume[region]

    monkeypatch.setattr("cytolith.compat.clearmap_files._MAPPED_BYTES", 1000)
    np.save(tmp_path / "c.npy", volume)
    np.save(tmp_path / "f.npy", np.asfortranarray(volume))
    np.save(tmp_path / "swapped.npy", volume.astype(">u2"))
    tifffile.imwrite(tmp_path / "stack.tif", volume.T, photometric="minisblack")
    wanted = cells.detect_cells(volume, None, given(), ONE_BLOCK)
    halves = {"size_max": 10, "size_min": None, "overlap": 6, "processes": 1}
    files = [tmp_path / name for name in ("c.npy", "f.npy", "swapped.npy", "stack.tif")]
    for source in (*files, *map(str, files), Lazy(), volume.astype(np.int16), volume.astype(np.uint8)):
        assert cells.detect_cells(source, None, given(), halves).tobytes() == wanted.tobytes(), source
    assert np.array_equal(cells.dog_filter(files[1], 3), cells.dog_filter(volume, 3))
    # the slowest axis is split where none is named
    sizes = {"axes": None, "size_max": 9, "size_min": None, "overlap": 8, "verbose": True, "processes": 1}
    for source, blocks in ((files[0], 15), (files[1], 9), (files[3], 9), (volume, 15), (volume.T.copy().T, 9)):
        cells.detect_cells(source, None, {"background_correction": {"shape": 3}}, sizes)
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"block {blocks} of {blocks}"), source
    flags = cells.detect_cells(
        volume > 30,
        None,
        given(
            background_correction=None,
            maxima_detection={"threshold": 1},
            shape_detection={"threshold": 0},
            intensity_detection=None,
        ),
    )
    assert flags.dtype.names == ("x", "y", "z", "size")
    assert flags["size"].sum() == ndimage.sum_labels(*(2 * [(volume > 30).astype(int)]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(SHAPE, np.int32), "int32 voxels: convert to one of bool, uint8"),
        (np.zeros(SHAPE, np.complex64), "complex64"),
        (np.zeros((4, 5), np.uint8), r"shape \(4, 5\) has 2 axes.*array\[\.\.\., None\] for a single plane"),
        ("nowhere.npy", "nowhere.npy does not exist"),
        (None, "NoneType"),
        (np.full(SHAPE, np.nan, np.float32), "no finite number"),
    ],
)
def test_wrong_sources(source, message):
    with pytest.raises(VolumeError, match=message):
        cells.detect_cells(source, None, given())


def test_sinks(volume, tmp_path):
    wanted = cells.detect_cells(volume, None, given())
    path = tmp_path / "deep" / "cells.npy"
    assert cells.detect_cells(volume, str(path), given()) == str(path)
    assert np.load(path).tobytes() == wanted.tobytes()
    path.write_bytes(b"an earlier result")
    cells.detect_cells(volume, path, given())
    assert np.load(path).tobytes() == wanted.tobytes()
    assert [each.name for each in path.parent.iterdir()] == ["cells.npy"]
    sink = np.zeros_like(wanted)
    assert cells.detect_cells(volume, sink, given()) is sink
    assert sink.tobytes() == wanted.tobytes()
    with pytest.raises(OutputError, match=f"the result has \\({len(wanted)},\\)"):
        cells.detect_cells(volume, np.zeros(3, wanted.dtype), given())
    for wrong in (tmp_path / "cells.tif", 7):
        with pytest.raises(OutputError, match=r"\.npy"):
            cells.detect_cells(volume, wrong, given())


@pytest.mark.parametrize("skipped", [None, {}, False])
@pytest.mark.parametrize("step", list(given()))
def test_skipped_steps(volume, step, skipped):
    table = cells.detect_cells(volume, None, given(**{step: skipped}), ONE_BLOCK)
    missing = {name: value for name, value in given().items() if name != step}
    assert table.tobytes() == cells.detect_cells(volume, None, missing, ONE_BLOCK).tobytes()
    names = {"shape_detection": ["size"], "intensity_detection": ["background_correction", "source"]}.get(step, [])
    all_names = ("x", "y", "z", "size", "background_correction", "source")
    assert table.dtype.names == tuple(name for name in all_names if name not in names)
    if step == "maxima_detection":
        assert len(table) == 0
    elif step == "shape_detection":
        image = opened(volume, (8, 6))
        marks = (ndimage.maximum_filter(image, (5, 3, 4), mode="reflect") == image) & (image >= 12)
        assert np.array_equal(rows_of(table)[:, :3], np.argwhere(marks.T)[:, ::-1])
        near = np.argwhere(np.ones((3, 3, 3))) - 1
        near = near[(near**2).sum(1) <= 1.5**2]
        padded = np.pad(volume.astype(float), 1)
        sums = [
            sum(padded[x + 1 + a, y + 1 + b, z + 1 + c] for a, b, c in near)
            for x, y, z in rows_of(table)[:, :3].astype(int)
        ]
        assert np.array_equal(table["source"], sums)
    else:
        assert len(table) > 30


def test_balls_differ_along_the_axes():
    image = np.zeros((9, 9, 9), np.uint16)
    image[4, 4, 4] = 9
    image[6, 4, 4], image[4, 6, 4], image[4, 4, 6] = 1, 2, 3
    for shape, total in (((4, 1, 1), 10), ((1, 4, 1), 11), ((1, 1, 4), 12)):
        parameters = given(background_correction=None, shape_detection=None)
        parameters["maxima_detection"]["threshold"] = 9
        parameters["maxima_detection"]["shape"] = 3
        parameters["intensity_detection"] = {"method": "sum", "shape": shape, "measure": "source"}
        assert cells.detect_cells(image, None, parameters, ONE_BLOCK)["source"].tolist() == [total]


def test_illumination(volume, tmp_path):
    """Arrays and .npy files are (x, y), TIFF planes (y, x); a line varies along the axis of its length, first y."""
    field = np.linspace(1, 2, 23 * 31).reshape(23, 31) ** 2
    np.save(tmp_path / "field.npy", field)
    tifffile.imwrite(tmp_path / "field.tif", field.T)
    saved = tmp_path / "i.npy"

    def corrected(image=volume, **fields):
        cells.detect_cells(image, None, {"illumination_correction": {"save": saved, **fields}})
        return np.load(saved)

    expected = volume / field[:, :, None] * field.mean()
    for flatfield in (field, tmp_path / "field.npy", str(tmp_path / "field.tif")):
        assert np.allclose(corrected(flatfield=flatfield), expected, rtol=1e-6)
    assert np.allclose(corrected(flatfield=field, scaling=True), expected, rtol=1e-6)
    dark = (volume - 0.5) / (field - 0.5)[:, :, None]
    assert np.allclose(corrected(flatfield=field, background=0.5, scaling=None), dark, rtol=1e-5)
    assert np.allclose(corrected(flatfield=field, background=np.full(field.shape, 0.5), scaling=3), 3 * dark, rtol=1e-5)
    along_y, along_x = field[0], field[:, 0]
    assert np.allclose(corrected(flatfield=along_y, scaling=None), volume / along_y[None, :, None], rtol=1e-6)
    assert np.allclose(corrected(flatfield=along_x, scaling=None), volume / along_x[:, None, None], rtol=1e-6)
    square, saved = volume[:, :23], tmp_path / "square.npy"
    assert np.allclose(corrected(square, flatfield=along_x, scaling=None), square / along_x[None, :, None], rtol=1e-6)
    for flatfield, message in ((field.T, r"\(23, 31\)|\(31, 23\)"), (np.zeros((23, 31)), "zero"), (True, "ships")):
        with pytest.raises(ConfigError, match=message):
            corrected(flatfield=flatfield)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"illumination": {"a": 1}}, "unknown step 'illumination'; did you mean 'illumination_correction'"),
        ({"shape_detection": {"threshold": 10**400}}, "shape_detection: threshold is 10000"),
        ({"dog_filter": {"shape": 6, "sigma": "a"}}, "dog_filter: sigma is 'a'"),
        ({"dog_filter": {"shape": 6, "sigma": np.inf}}, "dog_filter: sigma is inf"),
        ({"intensity_detection": {"measure": 5}}, "measure is 5; a list of names"),
        ({"equalization": {"percentile": ((1, 2), 3)}}, "percentile is"),
        ({"equalization": {"selem": np.ones((9, 9), bool)}}, r"selem is an array of bool with the shape \(9, 9\)"),
        ({"equalization": {"interpolate": np.array([1, 1])}}, "interpolate is"),
        ({"background_correction": {"shape": ((1, 2), 3)}}, "background_correction: shape is"),
        (
            {"shape_detection": {"treshold": 3}},
            "shape_detection: unknown parameter 'treshold'; did you mean 'threshold'",
        ),
        ({"maxima_detection": 5}, "maxima_detection: 5 given; a dict"),
        ({"background_correction": {"form": "Disk"}}, "background_correction: shape is missing"),
        ({"background_correction": {"shape": (0, 3)}}, "background_correction: shape"),
        ({"background_correction": {"shape": 3, "form": "Sphere"}}, "'Sphere'; 'Disk' or 'Cube'"),
        ({"maxima_detection": {"shape": (3, 3)}}, "maxima_detection: shape"),
        ({"maxima_detection": {"threshold": "high"}}, "maxima_detection: threshold is 'high'"),
        ({"maxima_detection": {"h_max": -1}}, "maxima_detection: h_max"),
        ({"shape_detection": {"threshold": np.nan}}, "shape_detection: threshold"),
        ({"dog_filter": {"shape": (3.5, 3, 3)}}, "dog_filter: shape"),
        ({"dog_filter": {"shape": 3, "sigma": (1, 2)}}, "dog_filter: sigma"),
        ({"equalization": {"interpolate": 2}}, "equalization: interpolate is 2; 1"),
        ({"equalization": {"percentile": (0.9, 0.5)}}, "equalization: percentile"),
        ({"illumination_correction": {"flatfield": np.ones((2, 2)), "scaling": "median"}}, "scaling"),
        ({"intensity_detection": {"measure": ["sauce"]}}, "'sauce' is no image.*did you mean 'source'"),
        ({"intensity_detection": {"measure": ["source", "source"]}}, "twice"),
        ({"intensity_detection": {"method": "median"}}, "method"),
        ({"intensity_detection": {"save": "x.npy"}}, "intensity_detection: there is no image to save"),
        ({"dog_filter": {"save": "x.tif"}}, r"dog_filter: save is 'x.tif'; a path that ends in \.npy"),
    ],
)
def test_wrong_parameters(volume, step, message):
    with pytest.raises(ConfigError, match=message):
        cells.detect_cells(volume, None, step)


def test_steps_that_clearmap_does_not_know_either(volume):
    """Scripts made from its tutorial switch off steps of other names; there and here that makes no difference."""
    with pytest.warns(UserWarning, match="'illumination' is no step and is ignored, as by ClearMap"):
        table = cells.detect_cells(volume, None, given(illumination=None), ONE_BLOCK)
    assert table.tobytes() == cells.detect_cells(volume, None, given(), ONE_BLOCK).tobytes()


def test_what_is_read_is_not_written(volume, tmp_path, monkeypatch):
    np.save(tmp_path / "v.npy", volume)
    np.save(tmp_path / "field.npy", np.ones(SHAPE[:2]))
    monkeypatch.chdir(tmp_path)
    flat = given(illumination_correction={"flatfield": "field.npy"})
    for source, sink, parameters in (("v.npy", tmp_path / "v.npy", given()), (volume, "field.npy", flat)):
        with pytest.raises(ConfigError, match="is what is read; give another path"):
            cells.detect_cells(source, sink, parameters)
    saved = given(dog_filter={"shape": None, "save": "v.npy"})
    with pytest.raises(ConfigError, match=r"dog_filter: save v\.npy is what is read"):
        cells.detect_cells(np.load("v.npy", mmap_mode="r"), None, saved)
    np.save("table.npy", cells.detect_cells(volume, None, given()))
    with pytest.raises(ConfigError, match="is the source"):
        cells.filter_cells("table.npy", tmp_path / "table.npy", {})
    assert np.array_equal(np.load("v.npy"), volume)


def test_sinks_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "file").write_text("")
    table = np.zeros(2, [("x", int)])
    for sink, message in (
        (tmp_path / "folder.npy", "is a folder"),
        (tmp_path / "file" / "x.npy", "is no folder"),
        ("a\0.npy", "no path of a file"),
        (tmp_path / f"{'a' * 300}.npy", "no path of a file|cannot be written"),
    ):
        with pytest.raises(OutputError, match=message):
            cells.filter_cells(table, sink, {})
    (tmp_path / "link.npy").symlink_to(tmp_path / "target.npy")
    cells.filter_cells(table, tmp_path / "link.npy", {})
    assert len(np.load(tmp_path / "target.npy")) == 2
    table.flags.writeable = False
    with pytest.raises(OutputError, match="read-only"):
        cells.filter_cells(table, table, {})


def test_two_runs_save_to_one_path(volume, tmp_path):
    """The file is of one of them: what is in progress has a name of its own."""
    path, both = tmp_path / "b.npy", threading.Barrier(2)

    class Slow:
        dtype = volume.dtype
        shape = volume.shape

        def __init__(self):
            self.reads = 0

        def __getitem__(self, region):
            self.reads += 1
            if self.reads == 1:  # both have their files then
                both.wait(10)
            return volume[region]

    def run(shape):
        cells.detect_cells(Slow(), None, {"background_correction": {"shape": shape, "save": path}}, ONE_BLOCK)

    threads = [threading.Thread(target=run, args=(shape,)) for shape in (4, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.name for each in tmp_path.iterdir()] == ["b.npy"]
    saved = np.load(path)
    assert any(np.array_equal(saved, cells.remove_background(volume, shape)) for shape in (4, 9))


def test_a_bright_flat_part_is_more_than_memory_holds(monkeypatch):
    monkeypatch.setattr(pipeline, "PROCESS_BYTES", 0)
    monkeypatch.setattr(clearmap_run, "default_memory", lambda: 2**25)
    flat = np.full((60, 50, 40), 1000, np.uint16)
    for shapes in ({"threshold": 700}, None):
        parameters = given(background_correction=None, shape_detection=shapes)
        with pytest.raises(MemoryBudgetError, match=r"maxima_detection\.threshold 12\.0: .* are maxima.*: raise it$"):
            cells.detect_cells(flat, None, parameters)


def test_an_empty_volume_in_little_memory(tmp_path, monkeypatch):
    """Every voxel is a maximum then where maxima are wanted from 0 on, and the blocks are planned for it."""
    monkeypatch.setattr(pipeline, "PROCESS_BYTES", 0)
    monkeypatch.setattr(clearmap_run, "default_memory", lambda: 2**25)
    image = np.zeros((60, 50, 40), np.uint16)
    image[30, 20, 10] = 2000
    maxima = {"h_max": None, "shape": 5, "threshold": 0}
    found = cells.detect_cells_block(image, given(maxima_detection=maxima, shape_detection=None))
    assert len(found) == image.size - 124
    saved = given(maxima_detection=maxima | {"save": tmp_path / "m.npy"}, shape_detection={"threshold": 700})
    assert len(cells.detect_cells_block(image, saved)) == 1
    assert np.load(tmp_path / "m.npy").sum() == image.size - 124


def test_shapes_everywhere_in_little_memory(rng, monkeypatch):
    volume = rng.integers(0, 100, (60, 50, 40)).astype(np.uint16)
    parameters = given(background_correction=None, shape_detection={"threshold": None})
    parameters["maxima_detection"] = {"shape": 5, "threshold": 90}
    everything = cells.detect_cells_block(volume, parameters)
    assert everything["size"].sum() == volume.size
    monkeypatch.setattr(pipeline, "PROCESS_BYTES", 0)
    monkeypatch.setattr(clearmap_run, "default_memory", lambda: 20 * 2**20)
    assert cells.detect_cells_block(volume, parameters).tobytes() == everything.tobytes()


def test_cancelled_when_all_but_the_labels_is_done(volume, tmp_path, monkeypatch):
    workspace = Workspace()
    finish = Saves.finish

    def cancel(self, *args):
        workspace.executor.immediate_shutdown()
        finish(self, *args)

    monkeypatch.setattr(Saves, "finish", cancel)
    parameters = given(shape_detection={"threshold": 9, "save": tmp_path / "labels.npy"})
    with pytest.raises(CancelledError):
        cells.detect_cells(volume, None, parameters, ONE_BLOCK, workspace)
    assert list(tmp_path.iterdir()) == []


def test_numbers_as_scripts_have_them(volume):
    table = cells.detect_cells(volume, None, given(), ONE_BLOCK)
    cut = ONE_BLOCK | {"axes": np.array([2]), "overlap": np.array([4]), "size_max": np.int64(12)}
    thresholds = given(shape_detection={"threshold": np.array(9)}, dog_filter={"shape": None, "sigma": None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cells.detect_cells(volume, None, thresholds, cut).tobytes() == table.tobytes()
    assert cells.detect_cells_block(volume, given(), np.int64(2)).tobytes() == table.tobytes()
    kept = cells.filter_cells(table, None, {"size": np.array([5, 9]), "x": (-np.inf, np.inf)})
    assert ((kept["size"] >= 5) & (kept["size"] < 9)).all()
    assert len(kept)
    for axes in ([[2]], [2.0], [3], "z"):
        with pytest.raises(ConfigError, match=r"\['axes'\]"):
            cells.detect_cells(volume, None, given(), {"axes": axes})
    for limits in (None, []):
        with pytest.raises(ConfigError, match="a dict of limits"):
            cells.filter_cells(table, None, limits)
    with pytest.raises(ConfigError, match="but planes have only"):
        cells.remove_background(volume, 10**6)
    with pytest.raises(ConfigError, match="takes no attribute 'executor'"):
        cells.detect_cells(volume, None, given(), ONE_BLOCK, "workspace")


def test_arrays_by_other_names(volume, tmp_path):
    np.save(tmp_path / "v.npy", volume)
    (tmp_path / "v.npy").rename(tmp_path / "v.NPY")
    assert np.array_equal(cells.dog_filter(tmp_path / "v.NPY", None), volume)
    (tmp_path / "v.NPY").rename(tmp_path / "v")
    with pytest.raises(VolumeError, match=r"by another name; give it the ending \.npy"):
        cells.dog_filter(tmp_path / "v", None)
    with pytest.raises(VolumeError, match="an expression of ClearMap"):
        cells.dog_filter(tmp_path / "Z<Z,4>.tif", None)
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(VolumeError, match=r"it is no \.npy file"):
        cells.filter_cells(tmp_path / "empty.npy", None, {})


@small_overlaps
def test_dicts_stay_as_they_are(volume, tmp_path):
    parameters = given(maxima_detection={"h_max": None, "shape": [5, 3, 4], "threshold": 12, "valid": False})
    parameters["shape_detection"]["save"] = tmp_path / "labels.npy"
    processing = MANY_BLOCKS | {"verbose": False}
    before = copy.deepcopy((parameters, processing))
    defaults = copy.deepcopy(
        (cells.default_cell_detection_parameter, cells.default_cell_detection_processing_parameter)
    )
    cells.detect_cells(volume, None, parameters, processing)
    cells.detect_cells(volume)
    assert (parameters, processing) == before
    assert (cells.default_cell_detection_parameter, cells.default_cell_detection_processing_parameter) == defaults


def test_lines_while_it_runs(volume, capsys):
    sizes = {"size_max": 9, "size_min": None, "overlap": 8, "processes": 2}
    for verbose in ({"verbose": True}, {}):
        parameters = given(background_correction=None) | ({} if verbose else {"verbose": True})
        parameters["intensity_detection"] = None
        cells.detect_cells(volume, None, parameters, sizes | verbose)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines] == [f"block {n} of 10" for n in range(1, 11)]
    cells.detect_cells(volume, None, given(), sizes | {"overlap": 8})
    assert capsys.readouterr().out == ""


def test_warning_of_an_overlap_below_the_reach(volume):
    sizes = {"axes": [0, 2], "size_max": 12, "size_min": None, "overlap": (11, 8), "processes": 1}
    # 8 voxels of the opening, 2 of the window, 1 of the arms along x; none, 2 and 1 along z
    with pytest.warns(
        UserWarning, match="11 voxels along x, 5 on each side of a border, but the filters see 11"
    ) as found:
        cells.detect_cells(volume, None, given(), sizes)
    assert [each.filename for each in found] == [__file__]


class Workspace:
    executor = "nothing"


@small_overlaps
@pytest.mark.parametrize("sizes", [MANY_BLOCKS | {"processes": 1}, MANY_BLOCKS, ONE_BLOCK])
@pytest.mark.parametrize("wait", [True, False])
def test_cancelled_in_the_middle(volume, tmp_path, monkeypatch, sizes, wait):
    workspace, begun, others = Workspace(), [], []
    run = images.run_image_steps

    def cancel(*args, **more):
        begun.append(1)
        if len(begun) == (1 if sizes is ONE_BLOCK else 3):
            other = threading.Thread(target=workspace.executor.shutdown, kwargs={"wait": wait})
            other.start()
            others.append(other)
            deadline = time.monotonic() + 10
            while not workspace.executor.is_cancelled and time.monotonic() < deadline:
                time.sleep(0.001)
        return run(*args, **more)

    monkeypatch.setattr(images, "run_image_steps", cancel)
    parameters = given()
    parameters["shape_detection"]["save"] = tmp_path / "labels.npy"
    with pytest.raises(CancelledError, match="cancelled"):
        cells.detect_cells(volume, tmp_path / "cells.npy", parameters, sizes, workspace)
    assert workspace.executor is None
    assert list(tmp_path.iterdir()) == []
    others[0].join()
    cut_short = len(begun)
    cells.detect_cells(volume, tmp_path / "cells.npy", parameters, sizes)
    assert (tmp_path / "cells.npy").exists()
    assert sizes is ONE_BLOCK or len(begun) > 3 * cut_short


def test_workspace(volume):
    workspace = Workspace()
    assert cells.detect_cells(volume, None, given(), ONE_BLOCK, workspace).tobytes() == (
        cells.detect_cells(volume, None, given(), ONE_BLOCK).tobytes()
    )
    assert workspace.executor is None


def test_a_block_that_fails(volume, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError("no more")

    monkeypatch.setattr(block, "cells_in_images", fail)
    workspace = Workspace()
    parameters = given()
    parameters["shape_detection"]["save"] = tmp_path / "labels.npy"
    with pytest.raises(MemoryError, match="no more"):
        cells.detect_cells(volume, tmp_path / "cells.npy", parameters, ONE_BLOCK, workspace)
    assert workspace.executor is None
    assert list(tmp_path.iterdir()) == []


def test_filter_cells(tmp_path):
    table = np.zeros(5, [("x", int), ("size", int), ("source", float)])
    table["x"], table["size"], table["source"] = range(5), [10, 20, 30, 40, 50], [5, 4, 3, 2, 1]

    def kept(**limits):
        return cells.filter_cells(table, None, limits)["x"].tolist()

    assert kept(size=20) == kept(size=(20, None)) == kept(size=np.float64(20)) == [1, 2, 3, 4]
    assert kept(size=(20, 40)) == [1, 2]
    assert kept(size=(None, 40), source=[4, None]) == [0, 1]
    assert kept(size=None, source=(), x=0) == kept() == [0, 1, 2, 3, 4]
    assert kept(size=(40, 20)) == []
    np.save(tmp_path / "cells.npy", table)
    sink = str(tmp_path / "filtered.npy")
    assert cells.filter_cells(str(tmp_path / "cells.npy"), sink, {"size": 45}) == sink
    assert np.load(sink)["x"].tolist() == [4]
    for wrong, message in (
        ({"sizes": 3}, "no column 'sizes'.*did you mean 'size'"),
        ({"size": "big"}, "a number or None"),
    ):
        with pytest.raises(ConfigError, match=message):
            cells.filter_cells(table, None, wrong)
    for source in (np.zeros((3, 4)), tmp_path / "none.npy"):
        with pytest.raises(VolumeError, match="table of cells"):
            cells.filter_cells(source, None, {})


@pytest.mark.parametrize("threads", [0, "two", True])
def test_wrong_threads(volume, threads):
    with pytest.raises(ConfigError, match="n_threads"):
        cells.detect_cells_block(volume, given(), threads)
