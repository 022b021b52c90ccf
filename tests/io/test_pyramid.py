"""Chunks and shards that we write ourselves, as zarr reads them, and the metadata of levels."""

import errno
import pickle
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image

from cytolith.axes import full_region
from cytolith.errors import ConfigError, OutputError
from cytolith.io import shards
from cytolith.io.pyramid import Level, create_pyramid
from cytolith.io.shards import Grid
from cytolith.io.volume import open_volume

SHAPE = (21, 50, 37)
VOLUME = np.random.default_rng(5).integers(0, 900, SHAPE).astype("uint16")


def one_level(chunks=(4, 8, 8), shards=(8, 16, 24), shape=SHAPE):
    return [Level((1, 1, 1), Grid(shape, chunks, shards))]


@pytest.mark.parametrize(
    ("compression", "dtype", "sharded"),
    [
        ("zstd", "uint16", False),
        ("none", "int16", False),
        *product(["zstd", "lz4", "none"], ["uint8", "uint16"], [True]),
        *product(["zstd"], ["int16", "float32", "uint32", "int64", "float64"], [True]),
    ],
)
def test_zarr_reads_what_was_written(tmp_path, compression, dtype, sharded):
    array = VOLUME.astype(dtype)
    array[8:16, 16:32] = 0  # shards and chunks of nothing
    with create_pyramid(
        tmp_path / "a.zarr", one_level(shards=(8, 16, 24) if sharded else None), dtype, compression=compression
    ) as sink:
        sink.write(full_region(SHAPE), array)
        np.testing.assert_array_equal(sink.read(full_region(SHAPE)), array)
    stored = zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")
    assert stored.dtype == dtype
    assert (stored.chunks, stored.shards) == ((4, 8, 8), (8, 16, 24) if sharded else None)
    np.testing.assert_array_equal(stored[:], array)
    np.testing.assert_array_equal(stored[3:9, 7:40, 30:], array[3:9, 7:40, 30:])  # parts of shards
    empty = tmp_path / "a.zarr" / "0" / "c" / ("1" if sharded else "2") / ("1" if sharded else "2")
    assert not list(empty.iterdir())


def test_files_are_as_many_and_as_long_as_those_that_zarr_writes(tmp_path):
    with create_pyramid(tmp_path / "a.zarr", one_level(), "uint16") as sink:
        sink.write(full_region(SHAPE), VOLUME)
    ours = zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")
    theirs = zarr.create_array(
        tmp_path / "b.zarr", shape=SHAPE, chunks=ours.chunks, shards=ours.shards, dtype="uint16",
        compressors=ours.compressors,
    )  # fmt: skip
    theirs[:] = VOLUME
    found = {p.relative_to(tmp_path / "b.zarr") for p in (tmp_path / "b.zarr" / "c").rglob("*") if p.is_file()}
    assert len(found) == 3 * 4 * 2
    for name in found:
        # zarr puts the chunks of a shard in another order
        assert (tmp_path / "a.zarr" / "0" / name).stat().st_size == (tmp_path / "b.zarr" / name).stat().st_size


def test_negative_zero_and_nan_are_kept(tmp_path):
    array = np.zeros((4, 8, 8), "float32")
    array[0, 0, 0] = -0.0
    with create_pyramid(tmp_path / "a.zarr", one_level((4, 8, 8), None, array.shape), "float32") as sink:
        sink.write(full_region(array.shape), array)
    assert zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")[:].tobytes() == array.tobytes()


def test_what_shares_a_shard_is_refused(tmp_path):
    with create_pyramid(tmp_path / "a.zarr", one_level(), "uint16") as sink:
        sink.write((slice(8, 21), slice(16, 50), slice(24, 37)), VOLUME[8:21, 16:50, 24:37])
        odd = (slice(4, 8), slice(0, 16), slice(0, 24))
        with pytest.raises(OutputError, match="shares files with its neighbours; write whole ones of 8 x 16 x 24"):
            sink.write(odd, VOLUME[odd])
        with pytest.raises(OutputError, match=r"level 0: \[4:8, 0:16, 0:24\] uint16 does not fit"):
            sink.write_level(0, odd, VOLUME[odd])


def test_a_block_that_is_written_again_replaces_the_first(tmp_path):
    with create_pyramid(tmp_path / "a.zarr", one_level(), "uint16") as sink:
        sink.write(full_region(SHAPE), VOLUME)
        sink.write(full_region(SHAPE), np.zeros_like(VOLUME))
    assert not zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")[:].any()


def test_a_full_disk_leaves_no_part_of_a_shard(tmp_path, monkeypatch):
    sink = create_pyramid(tmp_path / "a.zarr", one_level(), "uint16")
    calls = []

    def encode(chunk):
        calls.append(chunk)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return chunk.tobytes()

    monkeypatch.setattr("cytolith.io.pyramid.encoder", lambda *_: encode)
    with pytest.raises(OutputError, match=r"a\.zarr: cannot be written: the disk is full"):
        sink.write(full_region(SHAPE), VOLUME)
    assert not [p for p in (tmp_path / "a.zarr.partial" / "0").rglob("*") if p.is_file() and p.name != "zarr.json"]
    sink.discard()
    assert not list(tmp_path.iterdir())


def test_levels_have_their_place_in_space(tmp_path):
    levels = [
        Level((1, 1, 1), Grid((10, 41, 41), (8, 8, 8), (16, 16, 16))),
        Level((1, 2, 2), Grid((10, 21, 21), (8, 8, 8), None)),
        Level((2, 4, 4), Grid((5, 11, 11), (5, 8, 8), None)),
    ]
    create_pyramid(tmp_path / "b ä.zarr", levels, "uint8", voxel_size=(6, 1.5, 2), origin=(1, 0, 0)).close()
    image = Image.from_zarr(zarr.open_group(tmp_path / "b ä.zarr", mode="r"))
    (multiscale,) = image.attributes.ome.multiscales
    assert multiscale.name == "b ä"
    assert multiscale.type == "mean"
    assert [axis.unit for axis in multiscale.axes] == ["micrometer"] * 3
    found = [[list(each)[-1][1] for each in data.coordinateTransformations] for data in multiscale.datasets]
    assert [[list(map(float, each)) for each in pair] for pair in found] == [
        [[6, 1.5, 2], [6, 0, 0]],
        [[6, 3, 4], [6, 0.75, 1]],
        [[12, 6, 8], [9, 2.25, 3]],
    ]
    for number, size in enumerate([(6, 1.5, 2), (6, 3, 4), (12, 6, 8)]):
        volume = open_volume(tmp_path / "b ä.zarr", level=number)
        assert volume.voxel_size == size
        assert volume.shape == levels[number].grid.shape


def test_a_sink_goes_on_and_knows_another_layout(tmp_path):
    path = tmp_path / "a.zarr"
    sink = create_pyramid(path, one_level(), "uint16")
    region = (slice(0, 8), slice(0, 16), slice(0, 24))
    sink.write(region, VOLUME[region])
    (tmp_path / "a.zarr.partial" / "0" / "c" / "0" / "0" / "0.partial").write_bytes(b"x")  # of a killed writer
    sink.leave()
    for levels, options in (
        (one_level(shards=(8, 16, 8)), {}),
        (one_level(shards=None), {}),
        (one_level(), {"voxel_size": (1, 2, 3)}),
        ([*one_level(), *one_level()], {}),
    ):
        with pytest.raises(OutputError, match="cannot be resumed"):
            create_pyramid(path, levels, "uint16", resume=True, **options)
    again = create_pyramid(path, one_level(), "uint16", resume=True)
    assert again.resumed
    copy = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(copy.read_level(0, region), VOLUME[region])
    again.close()
    assert not list(path.rglob("*.partial"))
    np.testing.assert_array_equal(open_volume(path).read(region), VOLUME[region])


def test_a_partial_store_that_has_gone_is_no_volume_of_zeros(tmp_path):
    sink = create_pyramid(tmp_path / "a.zarr", one_level(), "uint16")
    Path(tmp_path / "a.zarr.partial").rename(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot be read back"):
        sink.read(full_region(SHAPE))
    with pytest.raises(OutputError, match="cannot be written"):
        sink.write(full_region(SHAPE), VOLUME)


def test_wrong_options(tmp_path):
    with pytest.raises(ConfigError, match="--compression lzma: give zstd, lz4 or none"):
        create_pyramid(tmp_path / "a.zarr", one_level(), "uint16", compression="lzma")
    with pytest.raises(OutputError, match=r"written as \.zarr only"):
        create_pyramid(tmp_path / "a.tif", one_level(), "uint16")
    assert not list(tmp_path.iterdir())
    assert shards.COMPRESSIONS == ("zstd", "lz4", "none")
