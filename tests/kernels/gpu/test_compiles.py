"""The sources of all kernels compile with NVIDIA's compiler, for the oldest and the newest GPUs; no GPU is needed."""

import importlib
import pkgutil

import pytest

import cytolith.kernels.gpu
from cytolith.kernels.gpu.cuda import source_text

ARCHITECTURES = ("sm_75", "sm_90", "sm_120")


def compiled():
    for module in pkgutil.iter_modules(cytolith.kernels.gpu.__path__):
        found = importlib.import_module(f"cytolith.kernels.gpu.{module.name}")
        yield from getattr(found, "COMPILED", [])


@pytest.mark.parametrize(
    ("source", "name", "macros"),
    [pytest.param(*each, id=" ".join([each[0], each[1], *map(str, each[2].values())])) for each in compiled()],
)
def test_compiles(source, name, macros):
    compiler = pytest.importorskip("cupy.cuda.compiler", reason="CuPy is not installed")
    options = ["--std=c++17", "--fmad=false", *(f"-D{macro}={value}" for macro, value in macros.items())]
    for architecture in ARCHITECTURES:
        program = compiler._NVRTCProgram(source_text(source), f"{source}.cu")
        binary, _ = program.compile(options=(f"--gpu-architecture={architecture}", *options))
        assert name.encode() in binary
