"""The sources of all kernels compile with NVIDIA's compiler, for the oldest and the newest GPUs; no GPU is needed."""

import importlib
import pkgutil
import types

import pytest

import cytolith.kernels.gpu
from cytolith.kernels.gpu import cuda
from cytolith.kernels.gpu.cuda import OPTIONS, source_text

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
    options = (*OPTIONS, *(f"-D{macro}={value}" for macro, value in macros.items()))
    for architecture in ARCHITECTURES:
        program = compiler._NVRTCProgram(source_text(source), f"{source}.cu")
        binary, _ = program.compile(options=(f"--gpu-architecture={architecture}", *options))
        assert name.encode() in binary


def test_small_numbers_are_no_zeros():
    """What we let CuPy compile for float images: by its own way, -ftz=true would stand behind all options."""
    compiler = pytest.importorskip("cupy.cuda.compiler", reason="CuPy is not installed")
    texts = []

    def compile_using_nvrtc(text, options):
        program = compiler._NVRTCProgram(text, "a.cu", method="ptx")
        texts.append(program.compile(options=("--gpu-architecture=compute_90", *options))[0].decode())
        return texts[-1].encode(), None

    class Module:
        def load(self, code):
            self.code = code.decode()

    cupy = types.SimpleNamespace(
        __version__="14",
        cuda=types.SimpleNamespace(
            Device=lambda _: types.SimpleNamespace(compute_capability="90"),
            compiler=types.SimpleNamespace(compile_using_nvrtc=compile_using_nvrtc),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)),
            Module=Module,
        ),
    )
    found = [(source, macros) for source, _, macros in compiled() if macros.get("VOXEL") == "float"]
    assert len(found) > 5
    for source, macros in found:
        text = cuda._module.__wrapped__(cupy, 0, source, tuple(sorted(macros.items()))).code
        assert text == texts[-1]
        assert ".ftz" not in text
    assert any("setp.lt.f32" in text for text in texts)
