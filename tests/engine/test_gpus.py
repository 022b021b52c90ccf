"""GPUs and their lanes, with the stand-in of CuPy: who gets one, what happens when one has no room or fails."""

import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cytolith.engine import gpus
from cytolith.engine.executors import ThreadPool, open_pool
from cytolith.engine.gpus import Gpu, GpuError, GpuPlan, Lanes, PinnedWorkspace, find_gpus, plan_lanes

MIB = 2**20


def lanes(count=2, size=MIB, **more):
    return Lanes(GpuPlan(count, size, ("GPU",), **more))


def test_gpus_are_found_with_their_free_memory(stand_in):
    stand_in.reset(memory=3 * MIB, count=2)
    first, second = find_gpus()
    assert (first.index, first.name, first.free) == (0, "GPU 0 on the CPU", 3 * MIB)
    assert (second.index, second.host) == (1, first.host)
    assert first.bus != second.bus


def test_without_cupy_the_reason_and_the_fix_are_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(GpuError, match=r"CuPy is not installed: pip install 'cytolith\[gpu\]'"):
        find_gpus()


def test_without_a_gpu_the_reason_is_told(stand_in):
    stand_in.memory.clear()
    with pytest.raises(GpuError, match=r"CuPy finds no GPU \(cudaErrorNoDevice.*driver installed"):
        find_gpus()


def test_a_real_cupy_without_a_gpu_says_so():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        with pytest.raises(GpuError, match=r"CuPy finds no GPU \(cudaError"):
            find_gpus()
    else:
        pytest.skip("this machine has a GPU")


def test_without_a_compiler_the_fix_is_told(stand_in, monkeypatch):
    monkeypatch.setattr(sys.modules["cupy"].cuda.compiler, "compile_using_nvrtc", lambda *_: 1 / 0)
    with pytest.raises(GpuError, match=r"cannot compile for the GPU \(division by zero\): pip install"):
        find_gpus()


def seen(*free, host="a"):
    return [Gpu(n, f"GPU {n}", each, host, str(n)) for n, each in enumerate(free)]


def test_lanes_share_what_is_free():
    plan = plan_lanes([seen(1000)], threads=8, least=10)
    assert (plan.lanes, plan.bytes_lane, plan.alone) == (3, 850 // 3, True)
    assert plan_lanes([seen(1000)], threads=2, least=10).lanes == 2
    # as many as find room
    assert plan_lanes([seen(1000)], threads=8, least=400).lanes == 2
    # the scarcest of several decides, as blocks are alike
    assert plan_lanes([seen(1000, 400)], threads=1, least=1).bytes_lane == 340
    assert plan_lanes([seen(1000, 400)], threads=1, least=1).names == ("GPU 0", "GPU 1")


def test_processes_of_a_machine_share_its_gpus(monkeypatch):
    monkeypatch.setattr(gpus, "_CONTEXT", 0)
    four = plan_lanes([seen(1000, 1000)] * 4, threads=1, least=1)
    assert (four.bytes_lane, four.alone) == (425, False)
    assert plan_lanes([seen(1000)] * 3, threads=1, least=1).bytes_lane == 850 // 3
    # one process on each of two machines, or each with a GPU that the other does not see: nothing is shared
    apart = plan_lanes([seen(1000), seen(1000, host="b")], threads=1, least=1)
    assert (apart.bytes_lane, apart.alone) == (850, True)
    own = plan_lanes([[Gpu(0, "A", 1000, "a", "0")], [Gpu(0, "B", 1000, "a", "1")]], threads=1, least=1)
    assert own.bytes_lane == 850


def test_each_further_process_takes_memory_for_itself(monkeypatch):
    assert plan_lanes([seen(10_000 * MIB)] * 3, threads=1, least=1).bytes_lane == (8500 - 3 * 512) * MIB // 3


def test_a_gpu_that_cannot_be_used_is_left_out(stand_in, monkeypatch):
    stand_in.reset(count=3)
    stand_in.dead.add(0)
    assert in_a_thread(lambda: [gpu.index for gpu in find_gpus()]) == [1, 2]
    assert in_a_thread(lambda: [gpu.index for gpu in find_gpus(0)]) == [1]
    stand_in.dead.update((1, 2))
    with pytest.raises(GpuError, match=r"no GPU can be used \(GPU 0: cudaErrorDevicesUnavailable: .*; GPU 1"):
        find_gpus()


def in_a_thread(call):
    """What a call gives in a thread that has used no GPU yet."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()


def test_a_gpu_that_dies_takes_no_other_with_it(stand_in):
    stand_in.reset(count=2)

    def work():
        every = lanes(1)
        with every.borrow(), every.borrow() as lane:  # that of GPU 1
            stand_in.dead.add(0)
            assert lane.gpu.index == 1
        with every.borrow() as lane:
            return lane.gpu.index

    assert in_a_thread(work) in (0, 1)
    assert in_a_thread(lambda: find_gpus()[0].index) == 1


def test_cupy_that_cannot_be_loaded_says_why(monkeypatch):
    class Unwritable:
        def find_spec(self, name, *_):
            if name == "cupy":
                raise PermissionError(13, "Permission denied", "/home/.cupy")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Unwritable(), *sys.meta_path])
    with pytest.raises(GpuError, match=r"CuPy cannot be loaded .*: set CUPY_CACHE_DIR"):
        find_gpus()


def test_a_process_looks_at_one_gpu_alone(stand_in, monkeypatch):
    stand_in.reset(count=2)
    for name, index in (("SpawnProcess-7", 1), ("SpawnProcess-8", 0)):
        monkeypatch.setattr(gpus.multiprocessing, "current_process", lambda name=name: types.SimpleNamespace(name=name))
        with lanes(1, alone=False).borrow() as lane:
            assert lane.gpu.index == index
    stand_in.contexts.clear()
    assert in_a_thread(lambda: [gpu.index for gpu in find_gpus(5)]) == [1]
    assert in_a_thread(lambda: PinnedWorkspace(1).array("a", (3,), np.uint8).size) == 3
    assert stand_in.contexts == {1}


def test_too_little_memory_is_told_in_numbers(monkeypatch):
    monkeypatch.setattr(gpus, "_CONTEXT", 10 * MIB)
    with pytest.raises(GpuError, match=r"GPU 0 has 100 MiB of memory left; the smallest block takes 118 MiB"):
        plan_lanes([seen(100 * MIB)], threads=4, least=100 * MIB)
    with pytest.raises(GpuError, match=r"left, shared by 2 processes; the smallest block takes 259 MiB"):
        plan_lanes([seen(100 * MIB)] * 2, threads=4, least=100 * MIB)


def test_pools_tell_what_their_processes_see(stand_in):
    stand_in.reset(count=2)
    assert [len(gpus) for gpus in ThreadPool(4).gpus()] == [2]
    assert ThreadPool(4).threads == 4
    processes = open_pool("processes", 3)
    assert [len(gpus) for gpus in processes.gpus()] == [2, 2, 2]
    assert processes.threads == 1


def test_buffers_are_kept_grow_and_go(stand_in):
    free = stand_in.free[0]
    with lanes(1).borrow() as lane:
        first = lane.array("a", (10, 10), np.uint16)
        assert (first.shape, first.dtype) == ((10, 10), np.uint16)
        assert lane.array("a", (5, 4), np.uint16).data.ptr == first.data.ptr
        assert lane.array("b", (5, 4), np.uint16).data.ptr != first.data.ptr
        assert lane.array("a", (0, 4), np.float32).size == 0
        del first
        lane.array("a", (100, 100), np.float32)
        assert free - stand_in.free[0] == 40_000 + 40
        lane.forget()
    assert stand_in.free[0] == free


def take(every, *sizes):
    with every.borrow() as lane:
        for number, size in enumerate(sizes):
            lane.array(str(number), (size,), np.uint8)


def test_a_lane_keeps_to_its_memory(stand_in):
    every = lanes(1, 1000)
    with pytest.raises(GpuError, match="more than the 0 MiB of a lane"):
        take(every, 600, 600)
    with every.borrow() as lane:  # which has forgotten them
        assert lane.array("b", (1000,), np.uint8).size == 1000


def test_upload_and_times(stand_in, monkeypatch):
    monkeypatch.setattr(gpus, "_PIECE", 10)  # five voxels, and less in the end
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    seconds = {"upload": 1.0}
    with lanes(1).borrow() as lane:
        lane.mark("begin")
        array = lane.upload("source", image)
        lane.mark("upload")
        lane.mark("nothing")
        lane.wait(seconds)
        np.testing.assert_array_equal(array.get(), image)
    assert list(seconds) == ["upload", "nothing"]
    assert 1.0 < seconds["upload"] < 2.0


def test_workers_wait_for_a_lane(stand_in):
    every, order = lanes(2), []
    begun = threading.Event()

    def third():
        begun.set()
        with every.borrow():
            order.append("third")

    with every.borrow():
        thread = threading.Thread(target=third)
        with every.borrow():
            thread.start()
            begun.wait()
            time.sleep(0.05)
            order.append("others")
        thread.join(5)
    assert order == ["others", "third"]


def test_streams_differ(stand_in):
    every = lanes(2)
    with every.borrow() as one, every.borrow() as other:
        assert one._stream.ptr != other._stream.ptr


def test_all_gpus_are_used(stand_in):
    stand_in.reset(count=3)
    every = lanes(2)
    with every.borrow() as a, every.borrow() as b, every.borrow() as c, every.borrow() as d:
        assert [lane.gpu.index for lane in (a, b, c, d)] == [0, 1, 2, 0]


def test_a_process_among_others_takes_one(stand_in, monkeypatch):
    stand_in.reset(count=3)
    monkeypatch.setattr("os.getpid", lambda: 301)
    every = lanes(2, alone=False)
    with every.borrow() as a, every.borrow() as b:
        assert [a.gpu.index, b.gpu.index] == [1, 1]


def test_no_memory_left_is_no_failure_of_the_gpu(stand_in):
    every = lanes(1)
    stand_in.free[0] = 10
    with pytest.raises(GpuError, match="GPU 0 on the CPU has no memory left"):
        take(every, 600)
    stand_in.free[0] = MIB
    take(every, 600)


def fail(every):
    with pytest.raises(GpuError, match=r"GPU \d on the CPU has failed \(cudaErrorIllegal"), every.borrow():
        raise sys.modules["cupy"].cuda.runtime.CUDARuntimeError("cudaErrorIllegalAddress: where it must not")


def test_a_gpu_that_fails_is_given_up_and_others_go_on(stand_in):
    stand_in.reset(count=2)
    every = lanes(2)
    fail(every)
    for _ in range(4):
        with every.borrow() as lane:
            assert lane.gpu.index == 1
    fail(every)
    for _ in range(3):
        with pytest.raises(GpuError, match="no GPU is left"), every.borrow():
            pass


def test_whoever_waits_for_the_last_gpu_is_told_when_it_fails(stand_in):
    every, told = lanes(1), []

    def wait():
        try:
            with every.borrow():
                pass
        except GpuError as error:
            told.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]

    def fail_before_all():
        with every.borrow():
            for thread in threads:
                thread.start()
            raise RuntimeError("cudaErrorLaunchFailure")

    with pytest.raises(GpuError, match="has failed"):
        fail_before_all()
    for thread in threads:
        thread.join(5)
    assert told == ["no GPU is left that works"] * 3


def test_a_source_that_does_not_compile_for_a_gpu(stand_in):
    every = lanes(1)
    with pytest.raises(GpuError, match=r"has failed \(no such instruction\)"), every.borrow():
        raise sys.modules["cupy"].cuda.compiler.CompileException("no such instruction")
    with pytest.raises(GpuError, match="no GPU is left"), every.borrow():
        pass


def test_times_of_a_block_that_was_given_up_are_forgotten(stand_in):
    every, seconds = lanes(1), {}
    with pytest.raises(ValueError, match="too large"), every.borrow() as lane:
        give_up_after_a_mark(lane)
    with every.borrow() as lane:
        lane.mark("begin")
        lane.mark("upload")
        lane.wait(seconds)
    assert list(seconds) == ["upload"]


def give_up_after_a_mark(lane):
    lane.mark("begin")
    raise ValueError("too large")


def test_other_errors_pass_through_and_the_lane_comes_back(stand_in):
    every = lanes(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="mine"), every.borrow():
            raise ValueError("mine")


def test_pinned_buffers(stand_in, monkeypatch):
    workspace = PinnedWorkspace()
    array = workspace.array("a", (3, 4, 5), np.uint16)
    array[:] = 7
    assert workspace.array("a", (3, 4, 5), np.uint16).ctypes.data == array.ctypes.data

    def refuse(size):
        raise sys.modules["cupy"].cuda.runtime.CUDARuntimeError("cudaErrorMemoryAllocation")

    monkeypatch.setattr(sys.modules["cupy"].cuda, "PinnedMemory", refuse)
    assert workspace.array("b", (3, 4, 5), np.uint16).shape == (3, 4, 5)
