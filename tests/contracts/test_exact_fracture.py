"""Exact at any size, on any executor, after any crash: all files of a fracture run, byte for byte."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytolith.engine.events import BlockDone
from cytolith.engine.executors import ProcessPool
from cytolith.fracture import plan
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.maps import OffsetSettings
from cytolith.fracture.pipeline import fracture_maps, run_fracture


@pytest.fixture(autouse=True, scope="module")
def thin_chunks():
    """Chunks of zarr so thin that small volumes have several blocks of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_CHUNK_PLANES", 2)
        yield


def files_of(folder):
    """Contents of all files; of the summary what does not tell how and where the run was done."""
    contents = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    summary = json.loads(contents[Path("summary.json")])
    assert summary.pop("plan")["workers"] >= 1
    assert all(str(folder) in path for path in summary.pop("outputs").values())
    summary.pop("seconds")
    return contents | {Path("summary.json"): summary}


def thread_through(shape, rng):
    """A tube of one voxel that goes through all planes, wherever it is then."""
    Z, Y, X = shape
    image = np.zeros(shape, np.uint8)
    y, x = rng.integers(Y), rng.integers(X)
    for z in range(Z):
        image[z, y, x] = 1
        y, x = (int(np.clip(at + rng.integers(-1, 2), 0, extent - 1)) for at, extent in ((y, Y), (x, X)))
    return image


@st.composite
def rocks(draw, smallest=1):
    """Grey stacks of what makes trouble: nothing, everything, noise, a tube through all blocks, walls, combs."""
    shape = draw(st.tuples(st.integers(smallest, 17), st.integers(1, 9), st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["empty", "full", "noise", "tube", "tubes", "walls", "comb"]))
    image = np.zeros(shape, np.uint8)
    if kind == "full":
        image[:] = 1
    elif kind == "noise":
        image[:] = rng.random(shape) < draw(st.sampled_from([0.03, 0.1, 0.3, 0.7]))
    elif kind == "tube":
        image = thread_through(shape, rng)
    elif kind == "tubes":  # two that touch in the last plane only, and speckle
        image = thread_through(shape, rng) | thread_through(shape, rng) | (rng.random(shape) < 0.02)
        image[-1] = 1
    elif kind == "walls":
        image[:, rng.random(shape[1]) < 0.4] = 1
        image[rng.random(shape[0]) < 0.2] = 0
    elif kind == "comb":  # every second plane, joined along one edge
        image[::2] = 1
        image[:, 0, 0] = 1
    return image * rng.integers(1, 250, shape).astype(np.uint8)


def configs(**fixed):
    return st.builds(
        FractureConfig,
        n=st.sampled_from([None, 1, 3]),
        threshold=st.sampled_from([None, None, 0, 120]),
        invert=st.booleans(),
        axis=st.sampled_from("zyx"),
        offsets=st.builds(OffsetSettings, filter=st.sampled_from(["largest", "none"])),
        cluster_image=st.booleans(),
        zarr=st.sampled_from([False, False, True]),
        pictures=st.just(False),
        map_images=st.booleans(),
        **fixed,
    )


def whole(image, folder, config):
    """The oracle: the whole volume as one block of one slab, in this thread."""
    np.save(folder / "rock.npy", image)
    result = run_fracture(folder / "rock.npy", folder / "whole", config, planes=len(image), executor="serial")
    return result, files_of(folder / "whole")


def assert_clusters(result, image, config):
    mask = (image != 0) if config.threshold is None else image > config.threshold
    labels, count = ndimage.label(mask != config.invert, np.ones((3, 3, 3)))
    size = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-size, kind="stable")
    assert result.table["size"].tolist() == size[order].tolist()
    boxes = ndimage.find_objects(labels)
    expected = [[*(part.start for part in boxes[k]), *(part.stop for part in boxes[k])] for k in order]
    assert result.table["box"].tolist() == expected
    if "stack" in result.paths:
        path = result.paths["stack"]
        kept = (
            zarr.open_array(path / "0")[:] if path.suffix == ".zarr" else np.reshape(tifffile.imread(path), image.shape)
        )
        np.testing.assert_array_equal(kept, np.isin(labels, order[: config.n] + 1) * np.uint8(255))


@settings(max_examples=60)
@given(
    rocks(),
    configs(),
    st.integers(1, 17),
    st.integers(1, 4),
    st.sampled_from(["threads", "threads", "serial"]),
    st.sampled_from([1, 40, 200, 2**22]),
)
def test_any_cut_workers_and_executor_give_the_files_of_the_whole(
    tmp_path_factory, image, config, planes, workers, executor, slab_voxels
):
    folder = tmp_path_factory.mktemp("run")
    result, expected = whole(image, folder, config)
    assert_clusters(result, image, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SLAB_VOXELS", slab_voxels)
        run_fracture(folder / "rock.npy", folder / "out", config, planes=planes, workers=workers, executor=executor)
    assert files_of(folder / "out") == expected
    shutil.rmtree(folder)


class Crash(KeyboardInterrupt):
    pass


@settings(max_examples=50)
@given(
    rocks(smallest=6),
    configs(),
    st.integers(2, 5),
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 4), st.sampled_from(["threads", "serial"])), min_size=1, max_size=4
    ),
)
def test_any_interrupts_give_the_files_of_the_whole(tmp_path_factory, image, config, planes, crashes):
    folder = tmp_path_factory.mktemp("run")
    _, expected = whole(image, folder, config)
    done = []

    def stop_after(count):
        def listener(event):
            if isinstance(event, BlockDone):
                done.append(event.block)
                if len(done) > count:
                    raise Crash

        return listener

    for count, workers, executor in crashes:
        done.clear()
        try:
            run_fracture(
                folder / "rock.npy", folder / "out", config, planes=planes, workers=workers, executor=executor,
                listener=stop_after(count),
            )  # fmt: skip
        except Crash:
            assert [left.name for left in (folder / "out").iterdir()] == [".cytolith-fracture"]
        else:
            break
    else:
        run_fracture(folder / "rock.npy", folder / "out", config, planes=planes + 1)
    assert files_of(folder / "out") == expected
    shutil.rmtree(folder)


def rough_rock(shape=(40, 21, 33), seed=4):
    rng = np.random.default_rng(seed)
    Z, Y, X = shape
    low = Y / 3 + ndimage.gaussian_filter(rng.normal(size=(Z, X)), 3) * 15
    gap = 3 + ndimage.gaussian_filter(rng.normal(size=(Z, X)), 2) * 12
    y = np.arange(Y)[None, :, None]
    return ((y >= low[:, None]) & (y < (low + gap)[:, None]) | (rng.random(shape) < 0.01)).astype(np.uint8)


@pytest.mark.parametrize(
    ("n", "axis", "zarr"), [(1, "y", True), (None, "z", False), (3, "z", False), (None, "x", True)]
)
def test_processes_give_the_files_of_the_whole(tmp_path, n, axis, zarr, processes):
    image = rough_rock()
    config = FractureConfig(n=n, axis=axis, zarr=zarr, cluster_image=True, pictures=False)
    _, expected = whole(image, tmp_path, config)
    run_fracture(tmp_path / "rock.npy", tmp_path / "out", config, planes=6, executor=processes)
    assert files_of(tmp_path / "out") == expected
    if n is None:
        for ours, theirs in zip(
            fracture_maps(tmp_path / "rock.npy", axis=axis, executor=processes),
            fracture_maps(image, axis=axis, workers=1),
            strict=True,
        ):
            assert ours.tobytes() == theirs.tobytes()


@pytest.fixture(scope="module")
def processes():
    with ProcessPool(2) as pool:
        yield pool


KILLER = """
import os, random, shutil, signal, sys, time, traceback
from pathlib import Path
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.pipeline import run_fracture
from tests_contracts_exact import files_of

path, folder, config, kills = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3]), int(sys.argv[4])
rng = random.Random(sys.argv[3])
reference = run_fracture(path, folder / "whole", config, planes=10**6, executor="serial")
expected = files_of(folder / "whole")

def run():
    run_fracture(path, folder / "out", config, planes=3, workers=rng.choice([1, 2, 3]))

def start():
    workers = rng.random()  # the child draws what the parent does not
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child

def check(status):
    if os.waitstatus_to_exitcode(status) == 1:  # killed when all was in place and scratch was being removed
        assert not (folder / "out" / ".cytolith-fracture" / "run.json").exists()
        shutil.rmtree(folder / "out" / ".cytolith-fracture", ignore_errors=True)
    else:
        assert os.waitstatus_to_exitcode(status) == 0
    found = files_of(folder / "out")
    found.pop(Path(".cytolith.lock"), None)
    assert found == expected
    shutil.rmtree(folder / "out")

begin = time.monotonic()
check(os.waitpid(start(), 0)[1])
whole_time = time.monotonic() - begin
done = finished = 0
while done < kills:
    child = start()
    time.sleep(rng.uniform(0, 0.8) * whole_time)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        done += 1
    else:
        check(status)
        finished += 1
check(os.waitpid(start(), 0)[1])
print(done, finished + 1)
"""


@pytest.mark.skipif(not hasattr(sys, "getrefcount") or sys.platform == "win32", reason="kills what it has forked")
@pytest.mark.parametrize(
    "config",
    [
        "FractureConfig(n=2, cluster_image=True, pictures=False)",
        "FractureConfig(axis='z', pictures=False)",
        "FractureConfig(n=1, axis='z', pictures=False)",
    ],
)
def test_killed_runs_go_on(tmp_path, config):
    np.save(tmp_path / "rock.npy", rough_rock((120, 60, 70)))
    (tmp_path / "tests_contracts_exact.py").write_text(
        "import json\nfrom pathlib import Path\n" + _source(files_of), encoding="utf-8"
    )
    (tmp_path / "killer.py").write_text(KILLER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "killer.py", "rock.npy", str(tmp_path), config, "12"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills, runs = map(int, done.stdout.split())
    assert kills == 12
    assert runs >= 1


def _source(function):
    import inspect

    return inspect.getsource(function)
