"""The whole fracture run: files, maps, stacks, and what becomes of odd input."""

import gc
import itertools
import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytolith.engine.events import BlockDone, Planned
from cytolith.engine.run import BlocksFailedError
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError, VolumeError
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.maps import OffsetSettings
from cytolith.fracture.outputs import stem_of
from cytolith.fracture.pipeline import fracture_maps, run_fracture
from cytolith.fracture.source import Source
from cytolith.fracture.summary import aperture_statistics
from cytolith.io.volume import open_volume

AXES = {"z": 0, "y": 1, "x": 2}


def rough_fracture(shape=(23, 31, 27), seed=0, speckle=0.01):
    """A gap between two wavy walls that close here and there, with voxels strewn around it."""
    rng = np.random.default_rng(seed)
    Z, Y, X = shape
    low = Y / 2 + ndimage.gaussian_filter(rng.normal(size=(Z, X)), 3) * 20
    gap = 3 + ndimage.gaussian_filter(rng.normal(size=(Z, X)), 2) * 15
    y = np.arange(Y)[None, :, None]
    mask = (y >= low[:, None]) & (y < (low + gap)[:, None])
    return mask | (rng.random(shape) < speckle)


def largest(mask, n):
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    size = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-size, kind="stable")
    return np.isin(labels, order[:n] + 1), labels, order


def brute_maps(mask, axis):
    k = AXES[axis]
    first = np.where(mask.any(k), mask.argmax(k), -1)
    return mask.sum(k), first


def read_map(path):
    return np.loadtxt(path, ndmin=2)


@pytest.mark.parametrize("axis", "zyx")
@pytest.mark.parametrize("n", [None, 1, 3])
def test_maps_and_stack_against_brute_force(tmp_path, axis, n):
    mask = rough_fracture()
    tifffile.imwrite(tmp_path / "rock.tif", mask.astype(np.uint8) * 255, photometric="minisblack")
    config = FractureConfig(n=n, axis=axis, cluster_image=True, map_images=True, offsets=OffsetSettings(filter="none"))
    result = run_fracture(tmp_path / "rock.tif", tmp_path / "out", config, planes=4, workers=2)
    kept, labels, order = largest(mask, n)
    aperture, first = brute_maps(mask if n is None else kept, axis)
    out = tmp_path / "out"
    np.testing.assert_array_equal(read_map(out / "rock-aperture-map.txt"), aperture)
    offset = read_map(out / "rock-offset-map.txt")
    np.testing.assert_array_equal(offset[first >= 0], first[first >= 0])
    assert np.isfinite(offset).all()
    np.testing.assert_array_equal(tifffile.imread(out / "rock-aperture-map.tif"), aperture)
    np.testing.assert_allclose(tifffile.imread(out / "rock-offset-map.tif"), offset, atol=1e-5)
    if n is None:
        assert not (out / "rock-processed.tif").exists()
    else:
        np.testing.assert_array_equal(tifffile.imread(out / "rock-processed.tif"), kept * np.uint8(255))
    colours = np.full(len(order) + 1, 255)
    colours[0] = 0
    colours[order[:16] + 1] = range(67, 188, 8)
    np.testing.assert_array_equal(tifffile.imread(out / "rock-processed-clusters.tif"), colours[labels])
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in result.paths.values())


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 24), st.integers(1, 3), st.sampled_from("zyx"), st.integers(1, 3))
def test_any_plan_gives_the_same_bytes(tmp_path_factory, seed, planes, workers, axis, n):
    mask = rough_fracture(seed=seed, speckle=0.03)
    config = FractureConfig(n=n, axis=axis, cluster_image=True)
    contents = []
    for plan in ({"workers": 1, "planes": 23}, {"workers": workers, "planes": planes}):
        folder = tmp_path_factory.mktemp("run")
        result = run_fracture(mask, folder, config, **plan)
        result.summary.pop("seconds")
        contents.append({key: path.read_bytes() for key, path in result.paths.items() if key != "summary"})
        assert json.loads((folder / "summary.json").read_text())["voxels"] == mask.sum()
    assert contents[0] == contents[1]


RUNS = {
    "default": ("binary-fracture-small", None, False),
    "n1": ("binary-fracture-small", 1, False),
    "n5": ("binary-fracture-small", 5, False),
    "n1000": ("binary-fracture-small", 1000, False),
    "invert": ("binary-fracture-small", None, True),
    "invert_n1": ("binary-fracture-small", 1, True),
    "synth200_default": ("synth200", None, False),
    "synth200_n1": ("synth200", 1, False),
    "synth200_n5": ("synth200", 5, False),
    "edge_random_default": ("edge-random", None, False),
    "edge_random_n1": ("edge-random", 1, False),
    "edge_fault_default": ("edge-fault", None, False),
    "edge_fault_n1": ("edge-fault", 1, False),
    "edge_fault_i": ("edge-fault", None, True),
    "edge_holes_default": ("edge-holes", None, False),
    "edge_holes_n1": ("edge-holes", 1, False),
    "edge_conn_n3": ("edge-conn", 3, False),
}


@pytest.mark.parametrize("run", RUNS)
def test_recorded_runs_of_the_original(shared, tmp_path, run):
    name, n, invert = RUNS[run]
    golden = shared / "golden" / "apmapflow"
    stack = tmp_path / f"{name}.tif"
    packed = golden / "inputs" / f"{name}.tif.xz"
    source = golden / "inputs" / f"{name}.tif"
    if packed.exists():
        stack.write_bytes(lzma.decompress(packed.read_bytes()))
    elif source.exists():
        stack = source
    else:
        stack = shared / "data" / "fracture" / f"{name}.tif"
    run_fracture(stack, tmp_path / "out", FractureConfig(n=n, invert=invert, pictures=False))
    recorded = golden / run / f"{name}-aperture-map.txt.xz"
    assert (tmp_path / "out" / f"{name}-aperture-map.txt").read_bytes() == lzma.decompress(recorded.read_bytes())
    processed = golden / run / f"{name}-processed.tif.xz"
    assert processed.exists() == (n is not None)
    if n is not None:
        expected = tmp_path / "expected.tif"
        expected.write_bytes(lzma.decompress(processed.read_bytes()))
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "out" / f"{name}-processed.tif"), tifffile.imread(expected)
        )


def test_numbers_of_the_summary(tmp_path):
    mask = rough_fracture()
    run_fracture(open_volume(mask, (10, 2, 5)), tmp_path, FractureConfig(n=1, axis="y"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    kept, _, order = largest(mask, 1)
    aperture = kept.sum(1)
    assert summary["voxels"] == mask.sum()
    assert summary["voxels_kept"] == kept.sum() == mask.sum() - summary["voxels_removed"]
    assert summary["kept_percent"] == pytest.approx(100 * kept.sum() / mask.sum())
    assert summary["clusters"] == len(order)
    found = summary["aperture"]
    assert found["mean"] == pytest.approx(aperture.mean())
    assert found["median"] == np.median(aperture)
    assert found["zero_share"] == pytest.approx((aperture == 0).mean())
    assert found["mean_open"] == pytest.approx(aperture[aperture > 0].mean())
    assert list(found["percentiles"].values()) == pytest.approx(np.percentile(aperture, [1, 5, 25, 75, 95, 99]))
    assert summary["aperture_um"]["mean"] == pytest.approx(2 * aperture.mean())
    assert summary["aperture_um"]["percentiles"]["95"] == pytest.approx(2 * np.percentile(aperture, 95))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_statistics_from_counts(values):
    found = aperture_statistics(np.bincount(values))
    assert found["median"] == pytest.approx(np.median(values))
    assert list(found["percentiles"].values()) == pytest.approx(np.percentile(values, [1, 5, 25, 75, 95, 99]))
    assert found["max"] == max(values)


def test_fields_of_the_config_by_name(tmp_path):
    mask = rough_fracture((8, 9, 7))
    assert run_fracture(mask, tmp_path, FractureConfig(pictures=False), n=2, axis="x").summary["clusters_kept"] == 2
    with pytest.raises(ConfigError, match="number: is no option"):
        run_fracture(mask, tmp_path, number=2)


def test_nothing_is_fracture(tmp_path):
    result = run_fracture(np.zeros((4, 5, 6), np.uint8), tmp_path, FractureConfig(n=1))
    assert any("no voxel is fracture" in hint for hint in result.hints)
    assert result.table["id"].size == 0
    assert not read_map(tmp_path / "stack-aperture-map.txt").any()
    assert np.isnan(read_map(tmp_path / "stack-offset-map.txt")).all()
    assert not tifffile.imread(tmp_path / "stack-processed.tif").any()
    assert (tmp_path / "clusters.csv").read_text().count("\n") == 1


def test_everything_is_fracture(tmp_path):
    result = run_fracture(np.ones((4, 5, 6), np.uint8), tmp_path, FractureConfig(n=1))
    assert any("100 % of the volume is fracture" in hint for hint in result.hints)
    assert (read_map(tmp_path / "stack-aperture-map.txt") == 5).all()
    assert (read_map(tmp_path / "stack-offset-map.txt") == 0).all()


@pytest.mark.parametrize(
    "shape", [(1, 5, 6), (4, 1, 6), (4, 5, 1), (1, 1, 6), (1, 5, 1), (4, 1, 1), (1, 1, 1), (2, 2, 2)]
)
@pytest.mark.parametrize("interpolation", ["linear", "axes", "nearest", "harmonic"])
def test_thin_volumes(tmp_path, shape, interpolation):
    mask = np.random.default_rng(1).random(shape) < 0.6
    mask.flat[0] = True
    config = FractureConfig(n=1, offsets=OffsetSettings(interpolation))
    for axis in "zyx":
        aperture, offset = fracture_maps(mask, axis=axis, interpolation=interpolation, filter="none")
        expected, first = brute_maps(mask, axis)
        np.testing.assert_array_equal(aperture, expected)
        np.testing.assert_array_equal(offset[first >= 0], first[first >= 0])
        assert np.isfinite(offset).all()
    result = run_fracture(mask, tmp_path, config)
    assert all(path.exists() for path in result.paths.values())


def test_a_grey_stack_without_threshold_is_noticed(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.normal(120, 20, (6, 40, 50)).astype(np.uint8)
    labels = np.repeat(np.repeat(rng.integers(0, 50, (6, 4, 5)), 10, 1), 10, 2).astype(np.uint8)
    quiet = FractureConfig(pictures=False, offset_map=False)
    assert any("looks like a grey stack" in hint for hint in run_fracture(grey, tmp_path / "a", quiet).hints)
    for k, binary in enumerate((labels, rough_fracture(), rough_fracture() * np.uint8(255))):
        hints = run_fracture(binary, tmp_path / f"b{k}", quiet).hints
        assert not any("grey" in hint for hint in hints)
    threshold = FractureConfig(threshold=140, pictures=False, offset_map=False)
    result = run_fracture(grey, tmp_path / "c", threshold)
    assert result.summary["voxels"] == (grey > 140).sum()
    assert not any("grey" in hint for hint in result.hints)


def test_existing_files_are_refused_before_any_work(tmp_path, monkeypatch):
    mask = rough_fracture((5, 9, 7))
    run_fracture(mask, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Source, "read", lambda *_: pytest.fail("the volume was read"))
        with pytest.raises(OutputError, match=r"exists already .* -f \(--force\)"):
            run_fracture(mask, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    run_fracture(~mask, tmp_path, force=True)
    assert all(path.stat().st_mtime_ns > before[path] for path in tmp_path.iterdir())


@pytest.mark.parametrize("when", [1, 9, 12])
@pytest.mark.parametrize("error", [VolumeError("bad plane"), KeyboardInterrupt(), OSError(28, "No space left", "x")])
def test_a_run_that_fails_leaves_what_was_there(tmp_path, monkeypatch, when, error):
    mask = rough_fracture((16, 9, 7))
    (tmp_path / "stack-aperture-map.txt").write_text("of an earlier run")
    count = 0
    read = Source.read

    def failing(self, region, workspace):
        nonlocal count
        count += 1
        if count == when:
            raise error
        return read(self, region, workspace)

    monkeypatch.setattr(Source, "read", failing)
    with pytest.raises(type(error)):
        run_fracture(mask, tmp_path, FractureConfig(n=1, cluster_image=True), planes=2, workers=1, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["stack-aperture-map.txt"]
    assert (tmp_path / "stack-aperture-map.txt").read_text() == "of an earlier run"


def test_results_do_not_replace_the_input_or_each_other(tmp_path):
    stack = tmp_path / "rock.tif"
    tifffile.imwrite(stack, np.ones((3, 4, 5), np.uint8), photometric="minisblack")
    for config, message in (
        (FractureConfig(n=1, stack_name="rock.tif"), "is the input"),
        (FractureConfig(aperture_name="x" * 300), "x"),
        (FractureConfig(aperture_name="a.txt", offset_name="a.txt"), "would be both"),
        (FractureConfig(n=1, stack_name="a.png"), r"a\.png"),
    ):
        with pytest.raises(OutputError, match=message):
            run_fracture(stack, tmp_path, config, force=True)
    folder = tmp_path / "planes"
    folder.mkdir()
    tifffile.imwrite(folder / "a0.tif", np.ones((4, 5), np.uint8))
    with pytest.raises(OutputError, match="lies in the input folder"):
        run_fracture(folder, folder)
    with pytest.raises(OutputError, match="lies in the input folder"):
        run_fracture(folder / "*.tif", folder)
    store = tmp_path / "store.zarr"
    zarr.open_group(store, mode="w").create_array("inside", data=np.ones((3, 4, 5), np.uint8))
    with pytest.raises(OutputError, match="is the input, or holds it"):
        run_fracture(store / "inside", tmp_path, FractureConfig(n=1, stack_name="store.zarr"), force=True)
    assert (store / "inside").is_dir()
    shutil.rmtree(store)
    file = tmp_path / "file"
    file.write_text("")
    for wrong in (file, file / "deeper"):
        with pytest.raises(OutputError, match=r"file.*for the results"):
            run_fracture(stack, wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "planes", "rock.tif"]


def test_a_plane_that_cannot_be_read_leaves_no_results(tmp_path):
    path = tmp_path / "rock.tif"
    tifffile.imwrite(path, rough_fracture((8, 90, 70)).astype(np.uint8), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        places = [(page.dataoffsets[0], page.databytecounts[0]) for page in tif.pages]
    for z in (1, 7):  # one of them is looked at before the run
        begin, count = places[z]
        data = bytearray(path.read_bytes())
        data[begin : begin + count] = bytes(count)
        (tmp_path / "bad.tif").write_bytes(data)
        out = tmp_path / str(z) / "out"
        with pytest.raises(BlocksFailedError, match=rf"1 of \d+ blocks failed; plane.*bad\.tif, plane {z} is damaged"):
            run_fracture(tmp_path / "bad.tif", out, n=1)
        assert [left.name for left in out.iterdir()] == [".cytolith-fracture"]
        with pytest.raises(VolumeError, match=rf"bad\.tif, plane {z}"):  # nothing can go on with an opened volume
            run_fracture(open_volume(tmp_path / "bad.tif"), tmp_path / "no", n=1)
        assert not (tmp_path / "no").exists()


def test_two_runs_do_not_mix(tmp_path):
    mask = rough_fracture((8, 9, 7))
    refused = []

    def other_run(_):
        if not refused:
            with pytest.raises(OutputError, match=r"another run \(process \d+ on .*\) writes here") as caught:
                run_fracture(~mask, tmp_path, force=True)
            refused.append(caught)

    run_fracture(mask, tmp_path, FractureConfig(n=1), listener=other_run)
    assert refused
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "stack-processed.tif") > 0, largest(mask, 1)[0])
    run_fracture(~mask, tmp_path, force=True)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", range(1, 12))
def test_a_commit_that_fails_brings_back_what_was_there(tmp_path, monkeypatch, when, error):
    mask = rough_fracture((8, 9, 7))
    config = FractureConfig(n=1, zarr=True, clusters=False)
    run_fracture(mask, tmp_path, config)
    (tmp_path / "stack-offset-map.txt").unlink()

    def contents():
        return {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = contents()
    count = 0
    rename = Path.rename

    def failing(self, target):
        nonlocal count
        count += 1
        if count == when:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError
    with pytest.raises(expected):
        run_fracture(~mask, tmp_path, config, force=True)
    assert contents() == before
    assert not list(tmp_path.glob(".cyto*"))


def test_a_volume_that_changes_during_the_run_is_noticed(tmp_path, monkeypatch):
    mask = rough_fracture((8, 9, 7))
    calls = []
    read = Source.read

    def changing(self, region, workspace):
        calls.append(region)
        image, level = read(self, region, workspace)
        if len(calls) > 8:
            image[0] = 0
        return image, level

    monkeypatch.setattr(Source, "read", changing)
    with pytest.raises(VolumeError, match="has changed while it was read"):
        run_fracture(mask, tmp_path, FractureConfig(n=1), planes=1, workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("zarr_stack", [False, True])
def test_an_interrupt_in_the_middle_of_writing(tmp_path, zarr_stack, monkeypatch, own_objects):
    monkeypatch.setattr("cytolith.fracture.plan._CHUNK_PLANES", 1)
    mask = rough_fracture((40, 60, 50))

    def stop(event):
        if isinstance(event, BlockDone) and event.block.index == 7 and passes.count("results"):
            raise KeyboardInterrupt
        if isinstance(event, Planned):
            passes.append(event.name)

    counts = []
    for _ in range(5):
        passes = []
        with pytest.raises(KeyboardInterrupt):
            run_fracture(mask, tmp_path, FractureConfig(n=1, zarr=zarr_stack), planes=1, workers=3, listener=stop)
        assert not list(tmp_path.iterdir())
        if Path("/proc/self/fd").exists():
            gc.collect()
            counts.append(len(list(Path("/proc/self/fd").iterdir())))
    # the first run may start what a library keeps; and what tests before this one held may go meanwhile
    assert all(after <= before for before, after in itertools.pairwise(counts[1:]))


def test_a_hole_too_large_for_the_memory_is_refused(tmp_path):
    mask = np.zeros((300, 2, 400), np.uint8)
    mask[[0, -1]] = mask[:, :, [0, -1]] = 1
    harmonic = OffsetSettings("harmonic")
    with pytest.raises(MemoryBudgetError, match=r"a hole of the offset map .* --interpolation linear"):
        run_fracture(mask, tmp_path, FractureConfig(offsets=harmonic), memory=300 * 2**20)
    run_fracture(mask, tmp_path, memory=300 * 2**20)


def test_names_and_switches(tmp_path):
    mask = rough_fracture((5, 9, 7))
    elsewhere = tmp_path / "else where"
    config = FractureConfig(
        n=1, cluster_image=True, pictures=False, clusters=False, summary=False, zarr=True,
        aperture_name="a.txt", offset_name=str(elsewhere / "o.map"), stack_name=None,
    )  # fmt: skip
    run_fracture(mask, tmp_path / "deep" / "out", config)
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == [
        "a.txt", "stack-processed-clusters.zarr", "stack-processed.zarr",
    ]  # fmt: skip
    assert [path.name for path in elsewhere.iterdir()] == ["o.map"]
    whole = (slice(0, 5), slice(0, 9), slice(0, 7))
    kept = open_volume(tmp_path / "deep" / "out" / "stack-processed.zarr").read(whole)
    np.testing.assert_array_equal(kept, largest(mask, 1)[0] * np.uint8(255))
    nothing = FractureConfig(aperture_map=False, offset_map=False, clusters=False, summary=False)
    assert run_fracture(mask, tmp_path / "none", nothing).paths == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "-n 0: give a whole number"),
        ({"n": -2}, "-n -2: give a whole number"),
        ({"axis": "w"}, "--axis w"),
        ({"threshold": float("nan")}, "--threshold nan"),
        ({"aperture_map": False, "aperture_name": "a"}, "--aper-map-name a and --no-aper-map"),
        ({"stack_name": "a.tif"}, "add -n"),
        ({"aperture_map": False, "offset_map": False, "map_images": True}, "--map-images"),
        ({"offset_name": " "}, "--offset-map-name"),
    ],
)
def test_wrong_parameters(values, message):
    with pytest.raises(ConfigError, match=message):
        FractureConfig(**values)


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("a/rock.tif", "rock"), ("rock.ome.tif", "rock"), ("a/rock.v2.tif", "rock.v2"), ("rock.zarr", "rock"),
        ("a.zarr/0/1", "a"), ("planes/z*.tif", "planes"), ("a/.tif", ".tif"), ("rock.npy", "rock"),
        ("planes", "planes"),
    ],
)  # fmt: skip
def test_stems(source, stem):
    assert stem_of(source) == stem
