"""Footprints against recorded masks, direct geometry and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytolith.kernels.footprints import ball_offsets, box, ellipsoid, footprint, trim, two_point_factors


def drawn(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


def test_ellipsoid_as_drawn():
    assert np.array_equal(ellipsoid((4, 4)), drawn(".##.", "####", "####", ".##."))
    assert np.array_equal(ellipsoid((5, 7)), drawn(".#####.", "#######", "#######", "#######", ".#####."))
    assert ellipsoid((3, 3)).all()
    assert ellipsoid((5, 5)).all()
    counts = {(2, 2): 4, (6, 6): 32, (7, 7): 45, (10, 10): 80, (11, 11): 109, (5, 5, 5): 93, (6, 6, 6): 136, (1,): 1}
    for shape, count in counts.items():
        assert ellipsoid(shape).sum() == count


def test_ellipsoid_is_that_of_the_original(shared):
    recorded = np.load(shared / "golden" / "clearmap" / "kernels.npz")
    names = [name for name in recorded.files if name.startswith("disk_")]
    assert len(names) > 15
    for name in names:
        shape = tuple(int(n) for n in name.removeprefix("disk_").split("x"))
        assert np.array_equal(ellipsoid(shape), recorded[name]), name


@given(st.lists(st.integers(1, 24), min_size=1, max_size=3))
@settings(max_examples=60)
def test_ellipsoid_follows_the_rule_and_is_symmetric(shape):
    mask = ellipsoid(shape)
    u = [(np.arange(n) - n // 2 + (0.5 if n % 2 == 0 else 0)) / (n - n // 2) for n in shape]
    squares = sum(np.meshgrid(*(v**2 for v in u), indexing="ij"))
    clear = np.abs(squares - 1) > 1e-9
    assert mask.shape == tuple(shape)
    assert np.array_equal(mask[clear], (squares < 1)[clear])
    assert not mask[~clear].any()  # exactly on the surface is outside
    for axis in range(len(shape)):
        assert np.array_equal(mask, np.flip(mask, axis))
    assert np.array_equal(mask.T, ellipsoid(shape[::-1]))


def test_large_extents_need_more_than_64_bits():
    thin = ellipsoid((1, 40_001, 3))
    u = (np.arange(40_001) - 20_000) / 20_001
    assert np.array_equal(thin[0, :, 1], u**2 < 1)
    assert np.array_equal(thin[0, :, 0], u**2 + 0.25 < 1)
    assert ellipsoid((1001, 3, 1001, 3)).shape == (1001, 3, 1001, 3)


def test_footprint_by_name():
    assert np.array_equal(footprint("Disk", (5, 7)), ellipsoid((5, 7)))
    assert np.array_equal(footprint("CUBE", (2, 3, 4)), box((2, 3, 4)))
    assert box((2, 3, 4)).all()
    with pytest.raises(ValueError, match="did you mean 'disk'"):
        footprint("disc", (5, 5))
    with pytest.raises(ValueError, match="form must be one of 'disk', 'cube', got 'sphere'"):
        footprint("sphere", (5, 5))


@pytest.mark.parametrize("shape", [(), (0, 3), (-1,), (2.5, 3), 5, "ab", None])
def test_bad_extents(shape):
    for make in (ellipsoid, box):
        with pytest.raises(ValueError, match="shape must be"):
            make(shape)


def test_ball_is_that_of_the_original_for_twice_the_radius(shared):
    recorded = np.load(shared / "golden" / "clearmap" / "kernels.npz")
    crop = np.load(shared / "golden" / "clearmap" / "signal_crop.npz")
    centres = crop["maxima_bg"][:, ::-1].astype(int)
    padded = np.pad(crop["input"].T.astype(np.int64), 5, constant_values=-1)
    for radius in (1, 2, 3, 4):
        offsets = ball_offsets(2 * radius)
        ours = set(map(tuple, offsets.tolist()))
        assert ours == set(map(tuple, recorded[f"search_r{radius}"].tolist())) | {(0, 0, 0)}
        if radius < 4:
            values = padded[tuple((centres[:, None] + offsets + 5).transpose(2, 0, 1))]
            assert np.array_equal(values.max(axis=1), crop[f"expression_max_r{radius}"])
            lowest = np.where(values < 0, 70_000, values).min(axis=1)
            assert np.array_equal(lowest, crop[f"expression_min_r{radius}"])


def test_ball_of_whole_diameters():
    sizes = {1: 1, 1.99: 1, 2: 7, 3: 19, 4: 33, 5: 81, 6: 123}
    for diameter, count in sizes.items():
        assert len(ball_offsets(diameter)) == count
    assert set(map(tuple, ball_offsets((1, 2, 4)).tolist())) == {
        *((0, 0, x) for x in (-2, -1, 0, 1, 2)),
        (0, 1, 0),
        (0, -1, 0),
    }
    # 3, 4, 5: exactly on the surface is inside, whatever the rounding of 0.6 ** 2 + 0.8 ** 2
    assert (0, 3, 4) in set(map(tuple, ball_offsets(10).tolist()))
    assert (0, 21, 28) in set(map(tuple, ball_offsets((1, 70, 70)).tolist()))


@given(st.tuples(*[st.floats(0.1, 9.7)] * 3))
@settings(max_examples=40)
def test_ball_against_geometry(shape):
    offsets = set(map(tuple, ball_offsets(shape).tolist()))
    for d in itertools.product(range(-5, 6), repeat=3):
        squares = sum((2 * a / b) ** 2 for a, b in zip(d, shape, strict=True))
        if abs(squares - 1) > 1e-9:
            assert (d in offsets) == (squares < 1)
    ordered = ball_offsets(np.array(shape)).tolist()
    assert ordered == sorted(ordered)


@pytest.mark.parametrize("shape", [0, -1, np.nan, np.inf, (1, 2), (1, 2, 0), (1, 2, 3, 4)])
def test_bad_diameters(shape):
    with pytest.raises(ValueError, match="diameter"):
        ball_offsets(shape)


def rebuilt(steps, core):
    """The Minkowski sum, from its definition."""
    points = set(map(tuple, np.argwhere(core).tolist()))
    for dy, dx in steps:
        points |= {(y + dy, x + dx) for y, x in points}
    points = np.array(sorted(points))
    points -= points.min(axis=0)
    mask = np.zeros(points.max(axis=0) + 1, bool)
    mask[tuple(points.T)] = True
    return mask


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
@settings(max_examples=150)
def test_two_point_factors_rebuild_any_mask(mask):
    mask.flat[mask.size // 3] = True
    assert np.array_equal(rebuilt(*two_point_factors(mask)), trim(mask))


def test_two_point_factors_take_disks_apart():
    whole = 0
    for height, width in itertools.product(range(1, 25), repeat=2):
        steps, core = two_point_factors(ellipsoid((height, width)))
        assert np.array_equal(rebuilt(steps, core), trim(ellipsoid((height, width))))
        whole += core.size == 1
    assert whole > 0.95 * 24 * 24
    steps, core = two_point_factors(ellipsoid((70, 70)))
    assert core.size == 1
    assert len(steps) == 34
    assert len(two_point_factors(box((64, 128)))[0]) == 6 + 7
