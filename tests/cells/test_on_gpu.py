"""A run on a GPU, with the stand-in of CuPy: the table of the CPU byte for byte, whatever goes wrong with the GPU."""

import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cytolith.cells import costs, gpus, on_gpu
from cytolith.cells.background_jump import backgrounds
from cytolith.cells.build import build_config
from cytolith.cells.config import CellsConfig
from cytolith.cells.gpus import gpu_bytes_per_voxel
from cytolith.cells.images import dense_halo, look_on_cpu
from cytolith.cells.pipeline import detect_cells, execute, prepare, with_thresholds
from cytolith.engine.workspace import Workspace
from cytolith.errors import ConfigError, MemoryBudgetError
from cytolith.io.volume import open_volume
from cytolith.testing.phantoms import cells_phantom
from cytolith.testing.strategies import cell_volumes, chains, cores

SIZE = (6, 1.62, 1.62)


def same(found, expected):
    assert list(found) == list(expected)
    for name, column in expected.items():
        assert found[name].dtype == column.dtype, name
        np.testing.assert_array_equal(found[name], column, err_msg=name)
        assert found[name].tobytes() == column.tobytes(), name


@pytest.fixture(scope="module")
def phantom():
    volume, _ = cells_phantom((20, 70, 84), seed=3)
    return volume


CHAINS = {
    "defaults": {},
    "dog": {
        "dog_filter": {"shape": (3, 7, 7)},
        "maxima_detection": {"threshold": 30},
        "shape_detection": {"threshold": 20},
        "intensity_detection": {"measure": "source,smoothing,dog_filter", "method": "sum"},
    },
    "stripes": {"background_correction": {"stripe_length": 41, "stripe_axis": "x", "form": "cube"}},
    "equalized": {
        "equalization": {"selem": (5, 40, 40), "spacing": (5, 10, 10)},
        "maxima_detection": {"threshold": 0.2},
        "shape_detection": {"threshold": 0.1},
        "intensity_detection": {"measure": "equalization,background_correction"},
    },
    "no image steps": {
        "background_correction": None,
        "smoothing": None,
        "background_jump": None,
        "maxima_detection": {"threshold": 900},
        "shape_detection": {"threshold": 700},
        "intensity_detection": {"measure": "source,dog_filter"},
    },
    "h_max": {"maxima_detection": {"h_max": "3 mad"}},
    "features": {"features": True},
    "balls": {"shape_detection": None, "intensity_detection": {"shape": 5, "method": "mean"}},
    "balls of the source": {"shape_detection": None, "intensity_detection": {"shape": 5, "measure": "source"}},
    "maxima alone": {"shape_detection": None, "intensity_detection": None},
    "no threshold of maxima": {"maxima_detection": {"threshold": None}},
    "no maxima": {"maxima_detection": {"threshold": 60_000}, "shape_detection": {"threshold": 50_000}},
}


@pytest.mark.parametrize("name", CHAINS)
def test_equals_cpu(gpu, phantom, name):
    chain = {"voxel_size": SIZE, **CHAINS[name]}
    found = detect_cells(phantom, device="gpu", block=(9, 40, 50), workers=2, **chain)
    assert gpu is None or gpu.launches
    same(found, detect_cells(phantom, workers=1, **chain))
    assert len(found["z"]) > 5 or name == "no maxima"


@pytest.mark.parametrize("name", ["defaults", "equalized", "features"])
def test_two_gpus_share_the_blocks(stand_in, phantom, name):
    stand_in.reset(count=2)
    chain = {"voxel_size": SIZE, **CHAINS[name]}
    found = detect_cells(phantom, device="gpu", block=(5, 40, 50), workers=4, **chain)
    assert stand_in.used == {0, 1}
    same(found, detect_cells(phantom, workers=1, **chain))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), room=st.sampled_from([1, 4, 16]), workers=st.integers(1, 3))
def test_no_volume_chain_or_cut_gives_another_byte(gpu, data, room, workers):
    volume = data.draw(cell_volumes(largest=(14, 26, 30)))
    chain = data.draw(chains(volume.dtype))
    core = data.draw(cores(volume.shape))
    whole = detect_cells(volume, workers=1, block=volume.shape, memory=2**40, **chain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "ROOM_VOXELS", room)
        same(detect_cells(volume, block=core, memory=2**40, workers=workers, device="gpu", **chain), whole)


@pytest.mark.parametrize("threshold", [0, -1e-39, None])
def test_numbers_that_a_gpu_might_take_for_zero(gpu, rng, threshold):
    """Of 10^-39 and thereabouts, and thresholds between them and 0."""
    volume = (rng.random((14, 40, 50)) - 0.4).astype(np.float32) * np.float32(1e-38)
    volume[:, ::2] = 0
    for shapes in ({"threshold": 0}, None):
        chain = {"smoothing": None, "background_jump": None, "maxima_detection": {"threshold": threshold}}
        chain |= {"shape_detection": shapes, "background_correction": {"shape": 7}, "dog_filter": {"shape": 3}}
        chain |= {"intensity_detection": {"measure": "background_correction,dog_filter"}}
        same(detect_cells(volume, device="gpu", block=(9, 30, 50), **chain), detect_cells(volume, **chain))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_maxima_that_just_reach_the_threshold(gpu, phantom, dtype):
    """Their values come down too where no mask is grown, and plateaus of them are joined."""
    volume = (phantom // 100).astype(dtype)
    volume[3, 5, 7:10] = 21
    chain = dict.fromkeys(["background_correction", "smoothing", "background_jump", "shape_detection"])
    chain |= {"maxima_detection": {"threshold": 21}, "intensity_detection": None}
    found = detect_cells(volume, device="gpu", block=(9, 40, 50), **chain)
    same(found, detect_cells(volume, **chain))
    assert (3, 5, 8) in zip(found["z"], found["y"], found["x"], strict=True)

    chain["background_correction"] = {"shape": 9}
    chain["maxima_detection"] = {"threshold": 5}
    prepared = prepare(open_volume(volume), build_config(("", chain)), device="gpu")
    block, workspace = prepared.plan.blocks[0], Workspace()
    workspace.array("mask of background_correction", volume.shape, dtype)[:] = 77  # what a block before has left
    images, looked = on_gpu.OnGpu(prepared.gpus)(volume, block, prepared.setting, workspace)
    expected = look_on_cpu(volume, block, prepared.setting, Workspace())[0]["dog_filter"]
    at = np.flatnonzero(expected >= 5)
    np.testing.assert_array_equal(images["dog_filter"].ravel()[at], expected.ravel()[at])
    assert np.isin(looked.maxima, at).all()
    assert (expected.ravel()[looked.maxima] == 5).any()


def test_backgrounds_are_looked_at_where_they_are_known(gpu):
    """In the rim of what a block reads the opening lacks its neighbours: a background there is no jump."""
    rng = np.random.default_rng(1)
    volume = rng.normal(np.linspace(100, 4000, 90), 20, (12, 80, 90)).astype(np.uint16)
    volume[6, 20:60:4, 30:60:3] += 3000
    prepared = prepare(open_volume(volume, voxel_size=SIZE), build_config(("", {})), device="gpu", block=(12, 20, 30))
    prepared, _ = with_thresholds(prepared)
    setting, block = prepared.setting, prepared.plan.blocks[4]
    image = np.ascontiguousarray(volume[block.read])
    images, _ = look_on_cpu(image, block, setting, Workspace())
    _, found = on_gpu.OnGpu(prepared.gpus)(image, block, setting, Workspace())
    at = np.stack(np.unravel_index(found.maxima, image.shape), 1) + [side.start for side in block.read]
    known = block.trimmed(setting.shape, dense_halo(setting.config)).read
    expected = backgrounds(images, block, known, at, setting.config)
    everywhere = backgrounds(images, block, block.read, at, setting.config)
    np.testing.assert_array_equal(found.near, expected)
    assert (expected[1] != everywhere[1]).any()


def test_flat_field_and_mask(gpu, phantom, tmp_path, rng):
    field = rng.uniform(100, 200, phantom.shape[1:]).astype(np.float32)
    mask = rng.random(phantom.shape) < 0.7
    np.save(tmp_path / "mask.npy", mask)
    chain = {
        "illumination_correction": {"flatfield": field, "background": 20.0},
        "equalization": {"selem": (5, 30, 30), "spacing": (5, 10, 10), "mask": str(tmp_path / "mask.npy")},
        "maxima_detection": {"threshold": 0.3},
        "shape_detection": {"threshold": 0.2},
    }
    found = detect_cells(phantom, device="gpu", block=(9, 40, 50), **chain)
    assert len(found["z"]) > 20
    same(found, detect_cells(phantom, **chain))


def test_saved_volumes_are_those_of_the_cpu(gpu, phantom, tmp_path):
    for device in ("cpu", "gpu"):
        chain = {
            "background_correction": {"save": str(tmp_path / device / "background.zarr")},
            "smoothing": {"save": str(tmp_path / device / "smooth.npy")},
            "maxima_detection": {"save": str(tmp_path / device / "maxima.npy")},
            "shape_detection": {"save": str(tmp_path / device / "labels.npy")},
        }
        (tmp_path / device).mkdir()
        detect_cells(phantom, device=device, block=(9, 40, 50), voxel_size=SIZE, **chain)
    for name in ("background.zarr", "smooth.npy", "maxima.npy", "labels.npy"):
        cpu, other = (open_volume(tmp_path / device / name) for device in ("cpu", "gpu"))
        everything = tuple(slice(0, extent) for extent in cpu.shape)
        np.testing.assert_array_equal(cpu.read(everything), other.read(everything))
    assert open_volume(tmp_path / "gpu" / "labels.npy").read(everything).max() > 10


def test_the_reason_for_no_cells_is_that_of_the_cpu(gpu, phantom):
    config = build_config(("", CHAINS["no maxima"]))
    hints = [
        execute(prepare(open_volume(phantom), config, block=(9, 40, 50), device=device)).hints
        for device in ("cpu", "gpu")
    ]
    assert hints[0] == hints[1]
    assert "the largest value of the image they apply to is" in "".join(hints[0])


def test_little_comes_down_from_the_gpu(stand_in, phantom):
    detect_cells(phantom, device="gpu", voxel_size=SIZE, workers=1)
    assert stand_in.uploaded < 1.1 * phantom.nbytes
    assert stand_in.downloaded < phantom.nbytes  # of two images, one of which has twice the bytes


def test_each_block_has_a_lane(stand_in, phantom):
    detect_cells(phantom, device="gpu", voxel_size=SIZE, workers=3, block=(7, 30, 30))
    assert len(stand_in.streams - {0}) == 3


def test_a_gpu_that_fails_in_the_middle_is_given_up(stand_in, phantom, caplog):
    expected = detect_cells(phantom, voxel_size=SIZE)
    stand_in.fail_at = 25
    with caplog.at_level(logging.WARNING):
        same(detect_cells(phantom, device="gpu", voxel_size=SIZE, block=(7, 30, 30), workers=2), expected)
    assert "GPU 0 on the CPU has failed (cudaErrorIllegalAddress" in caplog.text
    assert "done on the CPU, with the same result" in caplog.text


def test_memory_that_others_take_is_done_without(stand_in, phantom, caplog, monkeypatch):
    expected = detect_cells(phantom, voxel_size=SIZE)
    take = on_gpu.Lanes.__init__

    def then_full(*given):
        take(*given)
        stand_in.free[0] = 10_000

    monkeypatch.setattr(on_gpu.Lanes, "__init__", then_full)
    with caplog.at_level(logging.WARNING):
        same(detect_cells(phantom, device="gpu", voxel_size=SIZE, block=(7, 30, 30), workers=2), expected)
    assert caplog.text.count("has no memory left") == 1
    assert "done on the CPU" in caplog.text


def test_a_kernel_too_large_for_a_gpu_is_one_for_the_cpu(stand_in, phantom, caplog):
    chain = {"smoothing": {"sigma": (0, 700, 700)}, "maxima_detection": {"threshold": 0.1}}
    chain["shape_detection"] = {"threshold": 0.1}
    with caplog.at_level(logging.WARNING):
        same(detect_cells(phantom, device="gpu", **chain), detect_cells(phantom, **chain))
    assert "smoothing: a Gaussian of (1, 4201, 4201) voxels (z, y, x) is too large for this GPU" in caplog.text
    assert "done on the CPU" in caplog.text


def test_too_many_maxima_for_a_list(stand_in, phantom, monkeypatch):
    monkeypatch.setattr(on_gpu, "scan_maxima", lambda *_, **__: None)
    same(detect_cells(phantom, device="gpu", voxel_size=SIZE), detect_cells(phantom, voxel_size=SIZE))


def test_too_large_a_mask_is_refused_as_on_the_cpu(gpu, phantom):
    chain = {"maxima_detection": {"threshold": 1}, "shape_detection": {"threshold": 0}, "smoothing": None}
    chain["background_correction"] = None
    messages = []
    planned = prepare(open_volume(phantom), build_config(("", chain)), workers=1).plan.bytes_total
    for device in ("cpu", "gpu"):
        with pytest.raises(MemoryBudgetError, match="voxels of a block lie above it") as caught:
            detect_cells(phantom, device=device, memory=planned, workers=1, **chain)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_blocks_fit_the_gpu(stand_in, phantom):
    volume = open_volume(np.zeros((64, 400, 400), np.uint16))
    whole = prepare(volume, CellsConfig(), workers=2, device="gpu")
    each = gpu_bytes_per_voxel(whole.setting.config, volume.dtype)
    stand_in.reset(memory=int(each * 64 * 400 * 400))
    cut = prepare(volume, CellsConfig(), workers=2, device="gpu")
    assert len(cut.plan.blocks) > len(whole.plan.blocks)
    assert cut.gpus is not None
    largest = max(np.prod([s.stop - s.start for s in block.read]) for block in cut.plan.blocks)
    assert largest * each <= 0.85 * stand_in.memory[0] / cut.gpus.plan.lanes


def test_a_gpu_too_small_for_any_block(stand_in, phantom, caplog):
    stand_in.reset(memory=100_000)
    with pytest.raises(ConfigError, match=r"--device gpu: GPU 0 on the CPU has 0 MiB.*--device auto uses the CPU"):
        detect_cells(phantom, device="gpu", voxel_size=SIZE)
    with caplog.at_level(logging.WARNING):
        same(detect_cells(phantom, device="auto", voxel_size=SIZE), detect_cells(phantom, voxel_size=SIZE))
    assert "no GPU is used: GPU 0 on the CPU has 0 MiB of memory left" in caplog.text


def test_blocks_that_were_asked_for_and_do_not_fit(stand_in, phantom):
    stand_in.reset(memory=3 * phantom.size)
    with pytest.raises(ConfigError, match=r"--device gpu: .* the smallest block takes"):
        detect_cells(phantom, device="gpu", voxel_size=SIZE, block=phantom.shape)


def test_devices_are_named(phantom):
    with pytest.raises(ConfigError, match="--device cuda: give cpu, gpu, auto"):
        detect_cells(phantom, device="cuda")


def test_processes_have_gpus_of_their_own(stand_in, phantom, tmp_path, caplog):
    """Those of this test have no stand-in: they find no GPU, say so, and the CPU does it."""
    stand_in.reset(memory=1 << 32)
    np.save(tmp_path / "v.npy", phantom)
    with caplog.at_level(logging.WARNING):
        found = detect_cells(
            tmp_path / "v.npy", device="gpu", executor="processes", workers=2, block=(9, 40, 84), voxel_size=SIZE
        )
    same(found, detect_cells(phantom, voxel_size=SIZE))
    assert "uses no GPU: CuPy " in caplog.text


def test_memory_of_a_voxel_covers_what_lanes_hold(stand_in, phantom, monkeypatch):
    """The plan's bytes a voxel are not less than the buffers of a lane at the end."""
    held = []
    forget = on_gpu._OnLane.run

    def run(self, *given):
        result = forget(self, *given)
        held.append(sum(buffer.size for buffer in self._lane._buffers.values()) / self._image.size)
        return result

    monkeypatch.setattr(on_gpu._OnLane, "run", run)
    for name in ("defaults", "dog", "stripes", "equalized"):
        chain = CHAINS[name]
        detect_cells(phantom, device="gpu", voxel_size=SIZE, workers=1, **chain)
        config = prepare(open_volume(phantom), build_config(("", chain))).setting.config
        assert held.pop() <= gpu_bytes_per_voxel(config, phantom.dtype), name
        held.clear()


def test_memory_of_a_voxel_is_that_of_the_steps(phantom):
    plain = build_config(("", {"background_correction": None, "smoothing": None}))
    config = prepare(open_volume(phantom), plain).setting.config
    assert gpu_bytes_per_voxel(config, np.dtype(np.uint16)) == 2 + gpus.SPARSE_BYTES
