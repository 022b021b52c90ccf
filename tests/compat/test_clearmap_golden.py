"""Recorded outputs of ClearMap against ours, step by step, and a table of how far they agree.

Where rows differ, a flood written down here says why: with ClearMap's markers (whose labels add up where crosses meet)
and its order it gives ClearMap's labels, with ours it gives ours.
"""

import copy
import heapq
import itertools
import json
import sys

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

import cytolith.compat.clearmap as cells

CROSS = ((0, 0, 0), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))


@pytest.fixture(scope="module")
def crop(shared):
    path = shared / "golden" / "clearmap" / "signal_crop.npz"
    if not path.exists():
        pytest.skip("no recorded outputs of ClearMap")
    return dict(np.load(path))


@pytest.fixture(scope="module")
def table():
    """Lines of the table: step, theirs, ours, in both, equal sizes and intensities in per cent, what it must be."""
    return []


def parameters(**steps):
    """ClearMap's defaults with both thresholds at 200, and fields of some steps replaced."""
    given = copy.deepcopy(cells.default_cell_detection_parameter)
    given["maxima_detection"]["threshold"] = given["shape_detection"]["threshold"] = 200
    for step, fields in steps.items():
        given[step] = {**(given[step] or {}), **fields} if fields else fields
    return given


def positions(table):
    return [tuple(int(table[axis][n]) for axis in "xyz") for n in range(len(table))]


def compare(lines, name, theirs, ours, rule, scale=0.0):
    """Add a line to the table; the positions in both, and those at which values differ."""
    assert theirs.dtype == ours.dtype
    left, right = (dict(zip(positions(t), t, strict=True)) for t in (theirs, ours))
    both = sorted(left.keys() & right.keys())
    equal = {
        column: [bool(np.isclose(left[at][column], right[at][column], rtol=1e-12, atol=1e-6 * scale)) for at in both]
        for column in theirs.dtype.names[3:]
    }
    shares = {column: f"{100 * sum(same) / len(same):.2f}" if same else "" for column, same in equal.items()}
    least = min((share for column, share in shares.items() if column != "size"), key=lambda share: float(share or 0))
    lines.append((name, len(theirs), len(ours), len(both), shares["size"], least, rule))
    return both, {at for n, at in enumerate(both) if not all(column[n] for column in equal.values())}


def image_line(lines, name, theirs, ours, bound, rule):
    difference = np.abs(theirs.astype(float) - ours.astype(float)).max()
    lines.append((name, theirs.size, ours.size, "", f"max |d| {difference:.2g}", "", rule))
    assert difference <= bound


def flood(image, markers, *, threshold, clamped):
    """Seeded watershed by a heap of (value, age); markers have age 0 and are taken in the order of their labels."""
    labels, mask = np.where(image > threshold, markers, 0), image > threshold
    levels = -image.astype(np.float64)
    first = sorted(map(tuple, np.argwhere(labels)), key=lambda at: labels[at])
    heap = [(levels[at], 0, n, at) for n, at in enumerate(first)]
    heapq.heapify(heap)
    age = itertools.count(1)
    while heap:
        level, _, _, at = heapq.heappop(heap)
        for step in CROSS[1:]:
            to = tuple(a + s for a, s in zip(at, step, strict=True))
            if min(to) < 0 or any(t >= n for t, n in zip(to, image.shape, strict=True)) or not mask[to] or labels[to]:
                continue
            labels[to] = labels[at]
            heapq.heappush(heap, (max(levels[to], level) if clamped else levels[to], next(age), 0, to))
    return labels


def painted(seeds, shape, *, add):
    """Crosses of seeds in their order, with their numbers from 1; and the voxels that several have, with these."""
    markers, lists = np.zeros(shape, int), {}
    for label, seed in enumerate(seeds, 1):
        for step in CROSS:
            at = tuple(int(a + s) for a, s in zip(seed, step, strict=True))
            if min(at) < 0 or any(a >= n for a, n in zip(at, shape, strict=True)):
                continue
            lists.setdefault(at, []).append(label)
            if add:
                markers[at] += label
            elif not markers[at]:
                markers[at] = label
    return markers, {at: labels for at, labels in lists.items() if len(labels) > 1}


def sizes_of(labels, n):
    return np.bincount(labels.ravel(), minlength=n + 1)[1 : n + 1]


class Explained:
    """Shapes of seeds in ClearMap, and which seeds have others here, and why."""

    def __init__(self, image, seeds, threshold):
        added, contested = painted(seeds, image.shape, add=True)
        self.theirs = flood(image, added, threshold=threshold, clamped=False)
        contested = [labels for at, labels in contested.items() if image[at] > threshold]
        # the sum of two labels is another seed's, or nobody's
        touched = {label for labels in contested for label in (*labels, sum(labels)) if label <= len(seeds)}
        self.contested = {tuple(seeds[label - 1].tolist()) for label in touched}
        # the order of equal voxels, and of those beyond a pass, is another one
        labels = moved(flood(image, added, threshold=threshold, clamped=True), self.theirs)
        self.tied = {tuple(seeds[label - 1].tolist()) for label in labels if label <= len(seeds)}


def moved(one, other):
    """Labels of the voxels in which two images of labels differ."""
    at = one != other
    return (set(one[at].tolist()) | set(other[at].tolist())) - {0}


def test_images(crop, table, tmp_path):
    source = crop["input"]
    for name, shape in (("bg_disk10", (10, 10)), ("bg_disk7", (7, 7))):
        found = cells.remove_background(source, shape)
        assert found.dtype == np.uint16
        image_line(table, name, crop[name], found, 0, "equal")
    background = crop["bg_disk10"]
    part = np.ascontiguousarray(background[:48, :48])
    top = 1e-6 * float(background.max())
    image_line(table, "dog775_f32", crop["dog775_f32"], cells.dog_filter(background, (7, 7, 5)), top, "1e-6 of max")
    even = cells.dog_filter(part.astype(np.float32), (6, 6, 4))
    image_line(table, "dog664_f32", crop["dog664_f32_crop48"], even, top, "1e-6 of max")
    double = cells.dog_filter(part.astype(np.float64), (7, 7, 5))
    image_line(table, "dog775_f64", crop["dog775_f64_crop48"], double, top, "1e-6 of max")
    # theirs wraps on uint16, ours is that of real numbers
    assert np.array_equal(cells.dog_filter(part, (7, 7, 5)), cells.dog_filter(part.astype(np.float32), (7, 7, 5)))
    assert (crop["dog775_u16_crop48"] > 60000).any()


@pytest.mark.parametrize(("name", "extra"), [("illum_f32_mean", {}), ("illum_f32_bg", {"scaling": "max"})])
def test_illumination(crop, table, tmp_path, name, extra):
    field = crop["flatfield"]
    source = np.ascontiguousarray(crop["input"][:, :, :3].astype(np.float32))
    if name.endswith("bg"):
        extra = {**extra, "background": np.full(field.shape, 20.0)}
    given = {"illumination_correction": {"flatfield": field, "save": str(tmp_path / "x.npy"), **extra}}
    assert len(cells.detect_cells(source, None, given)) == 0
    image_line(table, name, crop[name], np.load(tmp_path / "x.npy"), 1e-6 * crop[name].max(), "1e-6 of max")
    # theirs truncates integers, ours gives the same as for real numbers
    cells.detect_cells(source.astype(np.uint16), None, given)
    assert np.abs(np.load(tmp_path / "x.npy") - crop[name]).max() < 1e-6 * crop[name].max()


def test_equalization(crop, table):
    """The percentiles are theirs on the grid; between and beyond its points they are held, not stretched."""
    background = crop["bg_disk10"]
    given = {"selem": (60, 60, 5), "spacing": (30, 30, 5)}
    found = cells.equalize(background, **given)
    centres = crop["percentile_centers"]
    axes = [np.unique(centres[..., axis]) for axis in range(3)]
    places = np.stack(
        np.meshgrid(
            *(np.clip(np.arange(n), a[0], a[-1]) for n, a in zip(found.shape, axes, strict=True)), indexing="ij"
        ),
        -1,
    )
    low, high = (RegularGridInterpolator(axes, crop["percentile_grid"][..., p])(places) for p in (0, 1))
    factor = 1 / np.maximum(low, 1)
    factor = np.where(high * factor > 1.5, 1.5 / np.where(high > 0, high, 1), factor)
    image_line(table, "equalize, on their grid", background * factor, found, 1e-5, "1e-5")


@pytest.mark.parametrize(
    ("name", "image", "shape", "threshold"),
    [
        ("maxima_bg", "bg_disk10", 5, 200),
        ("maxima_bg0", "bg_disk10", 5, 0),
        ("maxima_dog", "dog775_f32", 5, 10),
        ("maxima_bg_shape3", "bg_disk10", 3, 200),
        ("maxima_bg_shape4", "bg_disk10", 4, 200),
    ],
)
def test_maxima(crop, table, name, image, shape, threshold):
    found = cells.detect_maxima(crop[image], shape=shape, threshold=threshold)
    if name == "maxima_bg0":  # recorded without the flat parts at 0
        found = found[crop[image][tuple(found.T)] > 0]
    theirs, ours = (set(map(tuple, each.tolist())) for each in (crop[name], found))
    table.append((name, len(theirs), len(ours), len(theirs & ours), "", "", "equal sets"))
    assert theirs == ours
    assert len(found) == len(ours)


@pytest.mark.parametrize("name", ["extmax_dog", "extmax_bg"])
def test_extended_maxima(crop, table, tmp_path, name):
    """Their mask to the voxel; their centres, and the last one, which they lose."""
    source = crop["input"]
    steps = {"dog_filter": {"shape": (7, 7, 5)}} if name == "extmax_dog" else {}
    h, threshold = (5, 10) if name == "extmax_dog" else (200, 200)
    maxima = {"h_max": h, "threshold": threshold, "save": tmp_path / "mask.npy"}
    given = parameters(maxima_detection=maxima, shape_detection=None, **steps)
    # theirs filters the image after the background in float32
    found = cells.detect_cells(source, None, given)
    mask = np.load(tmp_path / "mask.npy")
    theirs = np.unpackbits(crop[name])[: mask.size].reshape(mask.shape)
    table.append((name, int(theirs.sum()), int(mask.sum()), int((mask * theirs).sum()), "", "", "equal masks"))
    assert np.array_equal(mask, theirs)
    if name == "extmax_bg":
        return
    truncated = sorted(map(tuple, crop["extmax_centers_by_source"].astype(int).tolist()))
    assert len(found) == len(truncated) + 1
    rest = positions(found)
    for centre in truncated:
        rest.remove(centre)
    by_dog = cells.detect_maxima(crop["dog775_f32"], h_max=5, threshold=10)
    theirs = crop["extmax_centers_by_dog"]
    distance = np.abs(theirs[:, None] - by_dog[None]).max(2).min(1)
    table.append(("centres of extmax_dog", len(theirs), len(by_dog), int((distance < 1e-5).sum()), "", "", "and one"))
    assert distance.max() < 1e-5
    assert len(by_dog) == len(theirs) + 1


@pytest.fixture(scope="module")
def explained(crop):
    """For the shapes of the maxima in the order of one thread, and in that of the twenty chunks of two threads."""
    image, seeds = crop["bg_disk10"], crop["maxima_bg"].astype(int)
    borders = np.linspace(0, image.shape[2], 21).astype(int)
    chunk = np.searchsorted(borders, seeds[:, 2], side="right")
    chunked = seeds[np.lexsort((seeds[:, 2], seeds[:, 1], seeds[:, 0], chunk))]
    return {"one": Explained(image, seeds, 200), "chunks": Explained(image, chunked, 200)}, chunked


def test_floods_are_theirs_and_ours(crop, explained, tmp_path):
    found, chunked = explained
    assert np.array_equal(found["one"].theirs, crop["labels_bg"])
    recorded = {
        at: int(row["size"]) for at, row in zip(positions(crop["cells_tuned"]), crop["cells_tuned"], strict=True)
    }
    sizes = sizes_of(found["chunks"].theirs, len(chunked))
    assert recorded == {tuple(at): int(n) for at, n in zip(chunked.tolist(), sizes, strict=True) if n}
    given = parameters(shape_detection={"save": str(tmp_path / "labels.npy")})
    table = cells.detect_cells(crop["input"], None, given)
    labels = np.load(tmp_path / "labels.npy").astype(int)
    # the label is the row of the table, in which the cells stand that have any voxel
    image, seeds = crop["bg_disk10"], crop["maxima_bg"].astype(int)
    seeds = seeds[np.lexsort(seeds.T)]
    ours = flood(image, painted(seeds, image.shape, add=False)[0], threshold=200, clamped=True)
    some = sizes_of(ours, len(seeds)) > 0
    assert positions(table) == list(map(tuple, seeds[some].tolist()))
    assert np.array_equal(labels, np.concatenate([[0], np.cumsum(some)])[ours])
    assert np.array_equal(np.bincount(labels.ravel())[1:], table["size"])


def test_shapes_of_the_filtered_image(crop, table, tmp_path):
    """No crosses meet there: the same labels, sizes and intensities throughout."""
    seeds = crop["maxima_dog"].astype(int)
    for method in ("max", "min", "mean", "sum"):
        given = parameters(
            dog_filter={"shape": (7, 7, 5)},
            maxima_detection={"threshold": 10},
            shape_detection={"threshold": 5, "save": tmp_path / "labels.npy"},
            intensity_detection={"method": method.upper(), "measure": ["source"]},
        )
        found = cells.detect_cells(crop["input"], None, given)
        row = {at: n for n, at in enumerate(positions(found))}
        order = [row[tuple(seed)] for seed in seeds.tolist()]
        theirs = crop[f"intensity_dog_{method}_source"]
        equal = int((found["source"][order] == theirs).sum())
        table.append(
            (f"intensity_dog_{method}", len(theirs), len(found), "", "", f"{100 * equal / len(theirs):.2f}", "100")
        )
        assert np.allclose(found["source"][order], theirs, rtol=1e-14, atol=0)
        assert np.array_equal(found["size"][order], crop["sizes_dog"])
    labels = np.load(tmp_path / "labels.npy").astype(int)
    renamed = np.zeros(len(order) + 1, int)
    renamed[np.array(order) + 1] = np.arange(1, len(order) + 1)
    differ = int((renamed[labels] != crop["labels_dog"]).sum())
    table.append(
        ("labels_dog", int((crop["labels_dog"] > 0).sum()), int((labels > 0).sum()), "", f"{differ} differ", "", "0")
    )
    assert differ == 0


@pytest.mark.parametrize("method", ["max", "min"])
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_balls(crop, table, method, radius):
    intensity = {"method": method, "shape": 2 * radius, "measure": ["source"]}
    found = cells.detect_cells(crop["input"], None, parameters(shape_detection=None, intensity_detection=intensity))
    assert found.dtype.names == ("x", "y", "z", "source")
    theirs = dict(zip(map(tuple, crop["maxima_bg"].tolist()), crop[f"expression_{method}_r{radius}"], strict=True))
    assert theirs == dict(zip(positions(found), found["source"], strict=True))
    table.append((f"expression_{method}_r{radius}", len(theirs), len(found), len(theirs), "", "100.00", "100"))


@pytest.mark.parametrize("method", ["max", "mean", "sum", "min"])
def test_cells(crop, table, explained, method):
    name = "cells_tuned" if method == "max" else f"cells_tuned_{method}"
    ours = cells.detect_cells(crop["input"], None, parameters(intensity_detection={"method": method}))
    both, differ = compare(table, name, crop[name], ours, "see the next line")
    assert set(both) == set(positions(crop[name]))
    why = explained[0]["chunks"]
    apart = set(positions(ours)) - set(both)
    assert apart | differ <= why.contested | why.tied
    free = set(both) - why.contested
    share = 100 * (1 - len(differ & free) / len(free))
    table.append(("  without contested voxels", "", "", len(free), f"{share:.2f}", "of both", ">= 99.5"))
    assert share >= 99.5


def test_default_cells(crop, table):
    both, differ = compare(table, "cells_default", crop["cells_default"], cells.detect_cells(crop["input"]), "100")
    assert len(both) == len(crop["cells_default"])
    assert not differ


def test_cells_after_dog(crop, table):
    given = parameters(
        dog_filter={"shape": (7, 7, 5)},
        maxima_detection={"threshold": 10},
        shape_detection={"threshold": 5},
        intensity_detection={"measure": ["source", "background_correction", "dog_filter"]},
    )
    source, theirs = crop["input"].astype(np.float32), crop["cells_dog_f32"]
    ours = cells.detect_cells(source, None, given)
    both, differ = compare(table, "cells_dog_f32", theirs, ours, "100", scale=float(source.max()))
    assert len(both) == len(theirs) == len(ours)
    assert not differ
    # where theirs wraps, ours gives what it gives for real numbers
    part = np.ascontiguousarray(crop["input"][:48, :48])
    whole, real = (cells.detect_cells(each, None, given) for each in (part, part.astype(np.float32)))
    assert whole.tobytes() == real.tobytes()
    theirs = crop["cells_dog_u16_crop48"]
    compare(table, "cells_dog_u16 (theirs wraps)", theirs, whole, "differs", scale=float(source.max()))
    assert len(whole) < len(theirs) / 50


@pytest.mark.filterwarnings("ignore:processing_parameter")
@pytest.mark.parametrize("name", ["zblocks", "allblocks"])
def test_blocks(crop, table, name):
    """Their blocks; the rows of one block, where theirs depend on the cut."""
    processing = json.loads(str(crop["params_json"]))["blocks_" + name[: -len("blocks")]]
    ours = cells.detect_cells(
        crop["input"], None, parameters(), processing | {"processes": 1 if name == "zblocks" else 2}
    )
    assert ours.tobytes() == cells.detect_cells(crop["input"], None, parameters()).tobytes()
    theirs = crop[f"cells_tuned_{name}"]
    both, _ = compare(table, f"cells_tuned_{name} (theirs has seams)", theirs, ours, "differs")
    assert len(both) >= 0.99 * len(theirs)


def test_cells_of_overlaps(crop, table):
    processing = json.loads(str(crop["params_json"]))["blocks_z"]
    ours = cells.detect_cells(crop["input"], None, parameters(maxima_detection={"valid": False}), processing)
    one = cells.detect_cells(crop["input"], None, parameters())
    expected = [
        row
        for lower, upper, _, _ in crop["blocks_z"].tolist()
        for row in one.tolist()
        if all(low <= at < high for low, at, high in zip(lower, row[:3], upper, strict=True))
    ]
    assert ours.tolist() == expected
    name = "cells_tuned_zblocks_notvalid"
    table.append((name, len(crop[name]), len(ours), "", "", "", "differs (seams)"))


@pytest.mark.parametrize(("name", "dog", "maxima", "shapes"), [("", None, 0.75, 0.75), ("_dog", (7, 7, 5), 0.05, 0.03)])
def test_cells_after_equalization(crop, table, name, dog, maxima, shapes):
    """Theirs stretches the percentiles over the image, ours holds them where their windows are."""
    theirs = crop["cells_equalized" + name]
    given = parameters(
        equalization={"selem": (60, 60, 5), "spacing": (30, 30, 5)},
        dog_filter={"shape": dog},
        maxima_detection={"threshold": maxima},
        shape_detection={"threshold": shapes},
        intensity_detection={"measure": list(theirs.dtype.names[4:])},
    )
    ours = cells.detect_cells(crop["input"], None, given)
    both, _ = compare(table, "cells_equalized" + name, theirs, ours, "differs", scale=float(crop["input"].max()))
    assert len(both) >= 0.9 * len(theirs)


def test_filtered_cells(crop, table):
    """The same rows of the same table."""
    limits = {"size": (20, 400), "source": 400, "z": None, "x": 0, "y": ()}
    found = cells.filter_cells(crop["cells_tuned"], None, limits)
    assert found.tobytes() == crop["cells_tuned_filtered"].tobytes()
    table.append(("cells_tuned_filtered", len(found), len(found), len(found), "100.00", "100.00", "100"))


def test_table_of_agreement(table, capsys):
    if len(table) < 40:
        pytest.skip("not all of the tests above ran in this process")
    head = ("recorded", "theirs", "ours", "in both", "equal size %", "equal intensity %", "required")
    lines = [tuple(map(str, line)) for line in (head, *table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    with capsys.disabled():
        sys.stdout.write("\n\nAgreement with recorded outputs of ClearMap\n")
        for line in lines:
            text = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
            sys.stdout.write(f"{text.rstrip()}\n")
