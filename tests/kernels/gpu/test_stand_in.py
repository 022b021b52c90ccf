"""The stand-in of CuPy: nothing in it that CuPy has not, and faults of kernels do not pass it unnoticed."""

import sys

import cuda_on_cpu
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="no g++: kernels cannot be run on the CPU")

HEAD = "typedef int int32;\n"


def names(thing, prefix=""):
    """All public names in a module, in the groups and classes of it."""
    for name, value in vars(thing).items():
        if name.startswith("_"):
            continue
        yield f"{prefix}{name}"
        inside = isinstance(value, type) or type(value).__name__ == "SimpleNamespace"
        if inside and not (isinstance(value, type) and issubclass(value, Exception)):
            yield from names(value, f"{prefix}{name}.")


def test_cupy_has_all_that_the_stand_in_has():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    checked = 0
    for path in names(cuda_on_cpu.make_module()):
        real = cupy
        for part in path.split("."):
            assert hasattr(real, part), f"CuPy has no cupy.{path}"
            real = getattr(real, part)
        checked += 1
    assert checked > 40


def run(body, *, block=64, grid=1, arguments=(), shared=0):
    code = f'{HEAD}extern "C" __global__ void k(int* out) {{ {body} }}'
    cupy = sys.modules["cupy"]
    out = cupy.zeros(block * grid, np.int32)
    kernel = cupy.RawModule(code=code).get_function("k")
    kernel((grid,), (block,), (out, *arguments), shared_mem=shared)
    return out.get()


def test_threads_meet_at_barriers(stand_in):
    body = "DYNAMIC_SHARED(bytes); int* s = (int*)bytes; int t = threadIdx.x; s[t] = t; {} out[t] = s[63 - t];"
    np.testing.assert_array_equal(run(body.format("__syncthreads();"), shared=256), np.arange(63, -1, -1))
    without = run(body.format(""), shared=256)
    assert (without != np.arange(63, -1, -1)).any()  # a barrier that is missing shows


def test_votes_and_shuffles_of_a_warp(stand_in):
    votes = run("out[threadIdx.x] = __popc(__ballot_sync(~0u, threadIdx.x % 3 == 0));")
    assert votes.tolist() == [11] * 32 + [11] * 32
    sums = run(
        "int v = threadIdx.x; for (int s = 16; s; s /= 2) v += __shfl_down_sync(~0u, v, s); out[threadIdx.x] = v;"
    )
    assert (sums[0], sums[32]) == (sum(range(32)), sum(range(32, 64)))


def test_threads_that_do_not_meet_are_noticed(stand_in):
    with pytest.raises(AssertionError, match="wait for each other in different places"):
        run("if (threadIdx.x % 2) __syncthreads(); else __syncwarp();")


def test_writing_where_one_must_not_is_noticed(stand_in):
    with pytest.raises(AssertionError, match="wrote outside an array"):
        run("out[blockDim.x + threadIdx.x] = 1;")
    with pytest.raises(AssertionError, match="behind the end of its shared memory"):
        run("DYNAMIC_SHARED(bytes); bytes[threadIdx.x] = 1; out[0] = 0;", shared=63)


def test_arguments_of_another_size_are_refused(stand_in):
    cupy = sys.modules["cupy"]
    kernel = cupy.RawModule(code='extern "C" __global__ void k(int n) {}').get_function("k")
    kernel((1,), (1,), (np.int32(3),))
    with pytest.raises(AssertionError, match="argument 0 has another size"):
        kernel((1,), (1,), (3,))  # which is a long long for CuPy


def test_arrays_are_not_taken_for_arrays_of_the_host(stand_in):
    array = sys.modules["cupy"].zeros(3, np.float32)
    with pytest.raises(TypeError, match=r"\.get\(\)"):
        np.asarray(array)
    with pytest.raises(TypeError):
        np.float32(1) + array
