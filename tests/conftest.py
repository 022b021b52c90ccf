"""Shared fixtures: where recorded outputs and real volumes lie when they are at hand."""

import functools
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from cytolith.engine.gpus import find_gpus

sys.path.insert(0, str(Path(__file__).parent))  # for command_line and the stand-in of CuPy

settings.register_profile("cytolith", deadline=None)
settings.load_profile("cytolith")

SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs another system than this."""
    import other_systems

    here = Path(__file__).parent
    for item in items:
        name = item.nodeid.partition("::")[2]
        reason = other_systems.reason_to_skip(f"{item.path.relative_to(here).as_posix()}::{name}")
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))  # the reasons stand in other_systems.py, test by test


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded outputs and real volumes beside the checkout; tests that need it are skipped without
    it."""
    if not SHARED.is_dir():
        pytest.skip("no folder 'shared' with golden outputs and real volumes beside the checkout")
    return SHARED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real-gpu", action="store_true", help="run tests of kernels on the GPU of this machine")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """CuPy's stand-in on the CPU in its place, with one GPU; gives what sets it up and tells what it did."""
    import cuda_on_cpu

    if cuda_on_cpu.COMPILER is None:
        pytest.skip("no g++: the kernels of the GPU cannot be run on the CPU")
    cuda_on_cpu.machine.reset()
    monkeypatch.setitem(sys.modules, "cupy", _stand_in())
    return cuda_on_cpu.machine


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Any:
    """A GPU for what only wants one: the stand-in, or with --real-gpu that of this machine, and then None."""
    if request.config.getoption("--real-gpu"):
        return find_gpus() and None
    return request.getfixturevalue("stand_in")


@functools.cache
def _stand_in() -> Any:
    import cuda_on_cpu

    return cuda_on_cpu.make_module()


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> Iterator[None]:
    """Plans do not depend on whether a test before has compiled a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cytolith.cells.pipeline.compiled_before", lambda: True)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(20261124)


@pytest.fixture
def own_objects() -> Iterator[None]:
    """Lets ``gc.collect`` look at what the test makes alone: with all that is loaded it takes a second each time."""
    gc.freeze()
    yield
    gc.unfreeze()
