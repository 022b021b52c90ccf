"""``cytolith info``: statistics against NumPy's, planes that cannot be read, and the estimate of a run."""

import json
import math
import os
from functools import partial

import command_line
import h5py
import numpy as np
import pytest
import tifffile
import zarr

from cytolith.axes import full_region
from cytolith.cells.config import CellsConfig
from cytolith.cells.pipeline import prepare
from cytolith.cli.info import info
from cytolith.errors import VolumeError
from cytolith.io import statistics
from cytolith.io.statistics import PERCENTILES, statistics_of, unreadable_planes
from cytolith.io.volume import Storage, Volume, open_volume

SHAPE = (6, 40, 50)
VOLUME = np.random.default_rng(3).integers(1, 4000, SHAPE, "uint16")


cytolith = partial(command_line.cytolith, env=os.environ | {"COLUMNS": "200"})


def write_planes(folder, array=VOLUME, **options):
    folder.mkdir()
    for z, plane in enumerate(array):
        tifffile.imwrite(folder / f"p{z:03}.tif", plane, photometric="minisblack", **options)
    return folder


def same(found, array):
    finite = array[np.isfinite(array)].astype("f8")
    assert (found.lowest, found.highest) == (finite.min(), finite.max())
    assert found.mean == pytest.approx(finite.mean())
    expected = np.percentile(finite, PERCENTILES)
    np.testing.assert_allclose([found.percentiles[share] for share in PERCENTILES], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_all_voxels_as_numpy_counts_them(monkeypatch, dtype):
    monkeypatch.setattr(statistics, "_BOX_VOXELS", 1500)  # boxes smaller than a plane
    monkeypatch.setattr(statistics, "_PIECE", 700)
    array = (VOLUME.astype("i4") - 2000).astype(dtype)
    found = statistics_of(open_volume(array), complete=True)
    same(found, array)
    assert (found.voxels, found.complete, found.not_finite) == (array.size, True, 0)
    assert (found.whole_planes, found.constant_planes, found.unreadable) == (6, [], {})


def test_not_finite():
    array = VOLUME.astype("f4")
    array[2, 3, 4], array[1, 1, 1] = np.nan, -np.inf
    found = statistics_of(open_volume(array))
    same(found, array)
    assert found.not_finite == 2
    nothing = statistics_of(open_volume(np.full((2, 3, 4), np.nan, "f4")))
    assert (nothing.not_finite, nothing.constant_planes) == (24, [])
    assert math.isnan(nothing.mean)


@pytest.mark.parametrize(
    ("dtype", "top", "full_scale", "saturated"),
    [("uint16", 65535, 65535, 5), ("uint16", 4095, 4095, 5), ("uint16", 4200, 65535, 0), ("uint8", 255, 255, 5),
     ("int16", 32767, 32767, 5), ("float32", 16383, 16383, 5), ("float32", 4200, None, 0)],
)  # fmt: skip
def test_saturation(dtype, top, full_scale, saturated):
    array = (VOLUME % 200).astype(dtype)
    array.ravel()[[0, 17, 4000, 9999, 11999]] = top
    found = statistics_of(open_volume(array))
    assert (found.full_scale, found.saturated) == (full_scale, saturated)


def test_planes_without_signal():
    array = VOLUME.copy()
    array[2], array[4] = 0, 700
    assert statistics_of(open_volume(array)).constant_planes == [2, 4]


class Counting(Volume):
    """A volume of known values that counts what is decoded of it."""

    def __init__(self, shape, chunks):
        super().__init__("counting", shape, "uint16", Storage("test", chunks=chunks))
        self.layers, self.voxels = set(), 0

    def _read_into(self, region, out):
        self.voxels += out.size
        self.layers.add(region[0].start)
        out[...] = np.arange(region[0].start, region[0].stop)[:, None, None]


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((500, 300, 400), (1, 1, 400)), ((500, 300, 400), (64, 64, 64)), ((500, 3000, 4000), (64, 64, 64)),
     ((3, 30000, 40000), (1, 1, 40000)), ((90, 1000, 900), (90, 1000, 900)), ((500, 300, 400), None)],
)  # fmt: skip
def test_a_sample_is_small_and_spread(monkeypatch, shape, chunks):
    monkeypatch.setattr(statistics, "SAMPLE_VOXELS", 2_000_000)
    monkeypatch.setattr(statistics, "_BOX_VOXELS", 1_000_000)
    volume = Counting(shape, chunks)
    found = statistics_of(volume)
    assert found.voxels == volume.voxels
    assert not found.complete
    assert volume.voxels <= 1.3 * max(2_000_000, 64 * 300 * 400)
    assert volume.voxels > 200_000
    if chunks != shape:
        assert max(volume.layers) - min(volume.layers) >= shape[0] // 2


def test_every_plane_that_cannot_be_read(tmp_path):
    folder = write_planes(tmp_path / "planes", compression="zlib", rowsperstrip=8)
    assert unreadable_planes(open_volume(folder)) == {}
    content = (folder / "p001.tif").read_bytes()
    (folder / "p001.tif").write_bytes(content[: len(content) // 2])
    (folder / "p002.tif").write_bytes(b"")
    tifffile.imwrite(folder / "p004.tif", VOLUME[4, :30])
    found = unreadable_planes(open_volume(folder))
    assert list(found) == [1, 2, 4]
    for z, text in found.items():
        assert f"p00{z}.tif" in text
    done = cytolith("info", folder, code=1)
    for text in found.values():
        assert text in done.stdout
    assert "not 3 of 6 planes" in done.stdout
    assert "3 of 6 planes cannot be read (1-2, 4); copy or export them again" in done.stderr
    planes = json.loads(cytolith("info", folder, "--json", code=1).stdout)["planes"]
    assert [each["plane"] for each in planes["unreadable"]] == [1, 2, 4]


def test_damage_that_only_decoding_finds(tmp_path, capsys):
    folder = write_planes(tmp_path / "planes", compression="zlib", rowsperstrip=40)
    content = bytearray((folder / "p003.tif").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    (folder / "p003.tif").write_bytes(content)
    assert unreadable_planes(open_volume(folder)) == {}
    with pytest.raises(VolumeError, match=r"1 of 6 planes cannot be read \(3\)"):
        info(str(folder), all_=True)
    assert "plane 3: " in capsys.readouterr().out
    found = statistics_of(open_volume(folder), complete=True)
    same(found, np.delete(VOLUME, 3, 0))
    assert not found.complete


def test_a_damaged_chunk_names_its_planes(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, dtype="uint16", chunks=(2, 40, 50))
    array[...] = VOLUME
    (tmp_path / "a.zarr/c/1/0/0").write_bytes(b"nothing")
    found = statistics_of(open_volume(tmp_path / "a.zarr"))
    assert list(found.unreadable) == [2, 3]
    same(found, np.delete(VOLUME, [2, 3], 0))


def test_the_listing(tmp_path):
    done = cytolith("info", write_planes(tmp_path / "plänes"), "--voxel-size", "6,1.62,1.62")
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines() if not line.startswith(("no signal", " ")))
    assert lines["values"].startswith(f"{VOLUME.min()} to {VOLUME.max()}, mean")
    assert "(all voxels)" in lines["values"]
    assert "no signal    none (of 6 planes looked at)" in done.stdout
    assert "6 x 1.62 x 1.62 um" in done.stdout
    assert "all 6 planes (decoded)" in lines["readable"]
    assert "memory at least" in done.stdout
    assert "1 block of 6, 40, 50 on 1 worker" in done.stdout


def test_json_and_the_estimate(tmp_path, capsys):
    np.save(tmp_path / "a.npy", VOLUME)
    assert info(str(tmp_path / "a.npy"), voxel_size="6,1.62,1.62", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    plan = prepare(open_volume(tmp_path / "a.npy", (6, 1.62, 1.62)), CellsConfig()).plan
    run = found["cells_run"]
    assert (run["memory_planned"], run["blocks"], run["workers"]) == (plan.bytes_total, len(plan.blocks), plan.workers)
    assert 0 < run["memory_least"] <= plan.bytes_total
    assert run["seconds"] is None or 0 < run["seconds"] < 60
    assert (found["shape"], found["voxel_size"]) == ([6, 40, 50], [6, 1.62, 1.62])
    assert found["values"]["highest"] == VOLUME.max()
    prepare(open_volume(tmp_path / "a.npy", (6, 1.62, 1.62)), CellsConfig(), memory=run["memory_least"] + 2**20)


def test_nan_is_counted_and_json_stays_json(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.full(SHAPE, np.nan, "f4"))
    info(str(tmp_path / "a.npy"), as_json=True)
    found = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(text))
    assert found["values"]["highest"] is None
    info(str(tmp_path / "a.npy"))
    assert "100 % of the voxels are NaN or infinite" in capsys.readouterr().out


def test_the_first_of_several_stands_for_all(tmp_path, capsys):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        tags = '{"axes": [{"key": "c"}, {"key": "z"}, {"key": "y"}, {"key": "x"}]}'
        file.create_dataset("d", data=np.stack([VOLUME, VOLUME // 2])).attrs["axistags"] = tags
    info(str(tmp_path / "a.h5"))
    assert "shown        channel 0" in (first := capsys.readouterr().out)
    assert f"to {VOLUME.max()}," in first
    info(str(tmp_path / "a.h5"), channel=1)
    assert f"to {VOLUME.max() // 2}," in (second := capsys.readouterr().out)
    assert "shown" not in second


def test_one_plane(tmp_path):
    np.save(tmp_path / "a.npy", VOLUME[:1])
    assert "all 1 planes" in cytolith("info", tmp_path / "a.npy", "--all").stdout


def test_what_is_not_there(tmp_path):
    done = cytolith("info", tmp_path / "nothing.tif", code=1)
    assert done.stderr.count("\n") == 1
    assert "does not exist" in done.stderr
    done = cytolith("info", "https://", code=1)
    assert "names no host or bucket" in done.stderr


def test_all_of_a_volume_larger_than_a_box(monkeypatch, tmp_path):
    """Bounded memory: no read is larger than a box."""
    monkeypatch.setattr(statistics, "_BOX_VOXELS", 5000)
    array = zarr.create_array(tmp_path / "a.zarr", shape=(9, 90, 80), dtype="uint16", chunks=(4, 16, 16))
    array[...] = np.random.default_rng(1).integers(0, 900, (9, 90, 80), "uint16")
    volume = open_volume(tmp_path / "a.zarr")
    read, sizes = volume.read, []
    monkeypatch.setattr(volume, "read", lambda region: sizes.append((box := read(region)).size) or box)
    found = statistics_of(volume, complete=True)
    assert max(sizes) <= 5000
    assert sum(sizes) == 9 * 90 * 80
    same(found, read(full_region(volume.shape)))
