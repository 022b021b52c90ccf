"""Shapes of a block that are said to be settled, against whole volumes with every kind of outside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytolith.kernels.watershed import grow_shapes


def lists(groups):
    """Seeds of none or more voxels each as starts and voxels."""
    starts = np.concatenate([[0], np.cumsum([len(g) for g in groups])]).astype(np.int64)
    return starts, np.concatenate([np.zeros(0, np.int64), *groups]).astype(np.int64)


def grow(image, groups, threshold, **options):
    """Shapes from seeds that are lists of (z, y, x)."""
    flat = [np.ravel_multi_index(np.reshape(g, (-1, 3)).T.astype(int), image.shape) for g in groups]
    return grow_shapes(image, *lists(flat), threshold, **options)


class Case:
    """The inside of a block, which is the same in every volume, and volumes around it."""

    def __init__(self, seed, longest=(5, 6, 9)):
        rng = self.rng = np.random.default_rng(seed)
        self.continuous = rng.random() < 0.2
        self.levels = int(rng.integers(1, 7))
        self.dtype = np.float32 if self.continuous else rng.choice([np.uint8, np.uint16, np.int16, np.float32])
        self.threshold = rng.choice([0, 1, self.levels // 3])
        self.box = []
        self.shape = []
        self.margins = []
        for extent in longest:
            before, after = rng.integers(0, 4, 2) * (rng.random(2) < 0.6)
            size = int(rng.integers(1, extent + 1))
            self.box.append(slice(int(before), int(before) + size))
            self.shape.append(int(before) + size + int(after))
            self.margins += [int(rng.integers(1, 4)) if beyond else 0 for beyond in (before, after)]
        self.box, self.shape, self.margins = tuple(self.box), tuple(self.shape), tuple(self.margins)
        lost = np.maximum(np.array(self.margins) - 1, 0)
        self.low = np.array([s.start for s in self.box]) + lost[::2]
        self.high = np.array([s.stop for s in self.box]) - lost[1::2]
        self.inside = self.values()
        density = rng.choice([0.03, 0.1, 0.3])
        points = self.points(density, inside=True)
        self.sure = []
        while len(points):
            n = int(rng.integers(1, 4)) if rng.random() < 0.3 else 1
            self.sure.append(points[:n])
            points = points[n:]
        contested = [g[:1] for g in self.sure if rng.random() < 0.1]
        self.unsure = [g for g in self.sure if rng.random() < 0.15] if rng.random() < 0.5 else []
        self.sure = [g for g in self.sure if not any(g is u for u in self.unsure)]
        for group in contested:
            which = self.sure if rng.random() < 0.6 else self.unsure
            which.insert(int(rng.integers(0, len(which) + 1)), group)

    def values(self):
        if self.continuous:
            return (self.rng.random(self.shape) * 3).astype(self.dtype)
        style = self.rng.integers(0, 4)
        if style == 0:  # nothing there
            return np.zeros(self.shape, self.dtype)
        if style == 1:  # as high as can be
            return np.full(self.shape, self.levels + 2, self.dtype)
        values = self.rng.integers(0, self.levels + 2, self.shape)
        return (values if style == 2 else ndimage.maximum_filter(values, 2)).astype(self.dtype)

    def points(self, density, inside):
        points = np.argwhere(self.rng.random(self.shape) < density)
        self.rng.shuffle(points)
        is_in = ((points >= self.low) & (points < self.high)).all(1)
        return points[is_in if inside else ~is_in]

    def merge(self, others):
        """All seeds, the sure ones in their order and the others at any place; which are which."""
        groups, number = list(self.sure), list(range(len(self.sure)))
        for other in others:
            at = int(self.rng.integers(0, len(groups) + 1))
            groups.insert(at, other)
            number.insert(at, -1)
        return groups, np.array(number, int)

    def outside(self, image):
        """The image with everything outside the trusted box drawn again."""
        trusted = tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))
        result = self.values()
        if (self.low < self.high).all():
            result[trusted] = image[trusted]
        return result

    def volume(self):
        """A volume with this inside, its seeds, and the number of each sure one."""
        rng = self.rng
        others = [p[None] for p in self.points(rng.choice([0, 0.05, 0.3]), inside=False)]
        for group in self.unsure:
            kept = group[rng.random(len(group)) < rng.choice([0, 0.5, 1])]
            if others and rng.random() < 0.3:  # joined to another, or to the outside
                i = rng.integers(0, len(others))
                others[i] = np.concatenate([others[i], kept][:: rng.choice([1, -1])])
            elif len(kept):
                others.append(kept)
        return self.outside(self.inside), *self.merge(others)

    def block(self):
        """Image, seeds, the number of each sure one, and which are open."""
        start = np.array([s.start for s in self.box])
        shape = np.array([s.stop - s.start for s in self.box])
        others = [(g, True) for g in self.unsure]
        points = self.points(self.rng.choice([0, 0.1, 0.3]), inside=False) - start
        others += [(p[None] + start, False) for p in points[((points >= 0) & (points < shape)).all(1)]]
        groups, number = self.merge([g for g, _ in others])
        is_open = [any(g is o for o, named in others if named) for g in groups]
        return self.outside(self.inside)[self.box], [g - start for g in groups], number, np.array(is_open, bool)


def check_case(seed, worlds=3, **options):
    """Compare a block with some volumes; returns the numbers of settled and of sure seeds."""
    case = Case(seed, **options)
    image, groups, number, is_open = case.block()
    part = grow(image, groups, case.threshold, open_margins=case.margins, open_seeds=is_open)
    plain = grow(image, groups, case.threshold)
    np.testing.assert_array_equal(part.labels, plain.labels)
    np.testing.assert_array_equal(part.size, plain.size)
    assert part.open[is_open].all()
    labels = part.to_dense()
    settled = [i for i in np.flatnonzero(~part.open) if number[i] >= 0]
    assert (number[~part.open] >= 0).all()
    for _ in range(worlds):
        volume, all_groups, all_number = case.volume()
        whole = grow(volume, all_groups, case.threshold)
        assert not whole.open.any()
        whole_labels = whole.to_dense()
        for i in settled:
            expected = whole_labels == np.flatnonzero(all_number == number[i])[0] + 1
            found = np.zeros(case.shape, bool)
            found[case.box] = labels == i + 1
            np.testing.assert_array_equal(found, expected, err_msg=f"case {seed}, label {i + 1}")
            assert part.size[i] == expected.sum()
    return len(settled), len(case.sure)


@given(st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=400)
def test_what_is_settled_is_the_same_in_every_volume(seed):
    check_case(seed)


def test_many_shapes_of_the_random_blocks_are_settled():
    """So the test above says something."""
    settled, sure = np.sum([check_case(seed, worlds=1) for seed in range(100)], axis=0)
    assert settled > sure / 4


@given(st.integers(0, 2**32 - 1), st.data())
@settings(deadline=None, max_examples=40)
def test_cells_cut_out_of_a_volume(seed, data):
    """Smooth cells with noise, as the blocks of a run see them, with values at the rim that filters got wrong."""
    shape, margin = (9, 20, 26), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    image[tuple(rng.integers(0, shape, (25, 3)).T)] = rng.uniform(500, 3000, 25)
    image = (ndimage.gaussian_filter(image, (1.0, 1.6, 1.6)) * 30 + rng.uniform(0, 30, shape)).astype(np.uint16)
    points = np.argwhere((ndimage.maximum_filter(image, (3, 5, 5)) == image) & (image > 60))
    threshold = data.draw(st.sampled_from([30, 100, 300]))
    box = []
    for extent in shape:
        low = data.draw(st.integers(0, extent - 1))
        box.append(slice(low, data.draw(st.integers(low + 1, extent))))
    origin, margins = np.array([s.start for s in box]), ()
    block = image[tuple(box)].copy()
    for axis, (s, n) in enumerate(zip(box, shape, strict=True)):
        for end, beyond in enumerate((s.start > 0, s.stop < n)):
            margins += (margin if beyond else 0,)
            if beyond and margin > 1:
                rim = (slice(None),) * axis + ((slice(1 - margin, None) if end else slice(0, margin - 1)),)
                block[rim] = block[rim] // 2 + 40
    inside = np.flatnonzero(((points >= origin) & (points < origin + block.shape)).all(1))
    part = grow(block, [p[None] for p in points[inside] - origin], threshold, open_margins=margins)
    whole = grow(image, [p[None] for p in points], threshold).to_dense()
    for i in np.flatnonzero(~part.open):
        found = np.zeros(shape, bool)
        found[tuple(box)] = part.to_dense() == i + 1
        np.testing.assert_array_equal(found, whole == inside[i] + 1)


def chain(dtype, n=20, step=8):
    """Touching cells along x in one component, and their peaks."""
    z, y, x = np.indices((7, 9, n * step)).astype(float)
    across = ((z - 3) / 3) ** 2 + ((y - 4) / 4) ** 2
    along = ((x % step - step // 2) / (step // 2)) ** 2
    image = (np.maximum(0, 1.7 - across - 0.6 * along) * 100).astype(dtype)
    return image, [np.array([[3, 4, step * i + step // 2]]) for i in range(n)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(("margin", "cut"), [(1, 1), (2, 1), (9, 2)])
def test_of_a_chain_of_touching_cells_only_the_ends_are_open(dtype, margin, cut):
    image, peaks = chain(dtype)
    assert ndimage.label(image > 50)[1] == 1
    n = len(peaks)
    shapes = grow(image, peaks, 50, open_margins=(0, 0, 0, 0, margin, margin))
    assert (shapes.size > 0).all()
    assert np.flatnonzero(~shapes.open).tolist() == list(range(cut, n - cut))
    shapes = grow(image, peaks, 50, open_margins=(0, 0, 0, 0, 0, margin))
    assert np.flatnonzero(~shapes.open).tolist() == list(range(n - cut))
    assert grow(image, peaks, 50, open_margins=(0, 0, 1, 0, 0, 0)).open.all()  # all of them touch y = 0


@pytest.mark.parametrize("axis", range(3))
def test_the_order_of_axes_and_faces_is_kept(axis):
    image, peaks = chain("uint16", 6)
    axes = [(2, 1, 0), (0, 2, 1), (0, 1, 2)][axis]
    turned, peaks = image.transpose(axes), [p[:, axes] for p in peaks]
    for end in (0, 1):
        margins = tuple(int(f == 2 * axis + end) for f in range(6))
        shapes = grow(turned, peaks, 50, open_margins=margins)
        assert np.flatnonzero(shapes.open).tolist() == [0, 5][end : end + 1]


def test_an_unsure_seed_opens_itself_and_the_neighbours_that_depend_on_it():
    image, peaks = chain("uint16", 9)
    unsure = np.arange(9) == 4
    shapes = grow(image, peaks, 50, open_seeds=unsure)
    assert np.flatnonzero(shapes.open).tolist() == [3, 4, 5]  # without it both neighbours grow over its ground
    apart = image.copy()
    apart[:, :, 39] = 0
    assert np.flatnonzero(grow(apart, peaks, 50, open_seeds=unsure).open).tolist() == [3, 4]
    assert not grow(image, peaks, 50, open_seeds=np.zeros(9, bool)).open.any()


def test_a_single_cell_that_a_bridge_joins_to_the_face_is_open():
    """What lies beyond may come over the bridge, and take at least its end."""
    image = np.zeros((5, 6, 20), np.uint16)
    image[1:4, 1:5, 10:16] = 9
    peak = [np.array([[2, 3, 12]])]
    assert not grow(image, peak, 0, open_margins=(1,) * 6).open.any()
    image[2, 3, :10] = 3
    for margin in (1, 2, 9):
        assert grow(image, peak, 0, open_margins=(0, 0, 0, 0, margin, 0)).open.all()
    assert not grow(image, peak, 0, open_margins=(1, 1, 1, 1, 0, 1)).open.any()
    # a seed on the bridge keeps its open end away from the cell
    guarded = [*peak, np.array([[2, 3, 4]])]
    assert grow(image, guarded, 0, open_margins=(0, 0, 0, 0, 1, 0)).open.tolist() == [False, True]


def test_a_cell_loses_ground_where_a_higher_one_was_outside():
    """The slope at the face may belong to a cell beyond it, and so may what lies below it."""
    image = np.array([[[6, 5, 4, 3, 8, 2, 7]]], np.uint8)
    seeds = [np.array([[0, 0, 4]]), np.array([[0, 0, 6]])]
    assert grow(image, seeds, 0, open_margins=(0, 0, 0, 0, 1, 0)).open.tolist() == [True, False]
    assert grow(image, seeds, 0, open_margins=(0, 0, 0, 0, 0, 1)).open.tolist() == [False, True]
    assert not grow(image, seeds, 0).open.any()


def test_seeds_without_a_shape():
    image = np.array([[[0, 5, 5, 0, 7]]], np.uint16)
    margins = (0, 0, 0, 0, 0, 2)
    groups = [[(0, 0, 0)], [], [(0, 0, 1)], [(0, 0, 1)], [(0, 0, 4)], [(0, 0, 2), (0, 0, 4)]]
    shapes = grow(image, groups, 0, open_margins=margins)
    # outside the mask; no voxel; a shape; behind a sure one; in the margin; partly in the margin, which opens what
    # depends on it
    assert shapes.size.tolist() == [0, 0, 1, 0, 1, 1]
    assert shapes.open.tolist() == [False, False, True, False, True, True]
    # a seed behind an unsure one would have a shape without it
    shapes = grow(image, [[(0, 0, 1)], [(0, 0, 1)]], 0, open_seeds=[True, False])
    assert shapes.size.tolist() == [2, 0]
    assert shapes.open.tolist() == [True, True]


def test_nothing_is_settled_where_nothing_is_trusted():
    image, peaks = chain("uint8", 3)
    peaks.append(np.zeros((0, 3)))
    for margins in ((5, 4, 0, 0, 0, 0), (100,) * 6, (0, 0, 0, 0, 0, 25)):
        shapes = grow(image, peaks, 50, open_margins=margins)
        assert shapes.open.tolist() == [True] * 3 + [False]
    for shape in ((0, 4, 5), (3, 0, 5), (3, 4, 0)):
        assert not grow_shapes(np.zeros(shape, np.uint8), [0, 0], [], 0, (1,) * 6).open.any()
    assert not grow_shapes(np.zeros((3, 4, 5), np.uint8), [0, 1], [30], 0, (1,) * 6).open.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"open_margins": (0,) * 5}, "open_margins: .* six"),
        ({"open_margins": (0, 0, 0, -1, 0, 0)}, "open_margins: .* six numbers from 0"),
        ({"open_seeds": [True]}, r"open_seeds: bool \(1,\) given, bool \(2,\)"),
        ({"open_seeds": [0, 1]}, r"open_seeds: int64 \(2,\) given, bool \(2,\)"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        grow_shapes(np.ones((3, 4, 5), np.uint8), [0, 1, 2], [3, 4], 0, **options)
