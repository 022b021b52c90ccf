"""Kernels where numba has no folder to keep them in, as on nodes of clusters without a home."""

import subprocess
import sys

CODE = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
import sys
import numpy as np
from cytolith.kernels.jit import compiled_before, keeps_compiled
from cytolith.kernels.components import mask_runs
from cytolith.cli.console import Console
assert not keeps_compiled() and not compiled_before()
assert mask_runs(np.array([[[0, 3, 3, 0, 1]]], np.uint8), 2).n_voxels == 2
Console()
"""


def test_kernels_are_compiled_in_the_process_and_that_is_said():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120)
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_worker_that_compiles_first_is_told_of(monkeypatch, caplog):
    import numpy as np

    from cytolith import detect_cells
    from cytolith.cells import task

    task._compiling.cache_clear()
    monkeypatch.setattr(task, "compiled_before", lambda: False)
    with caplog.at_level("WARNING", logger="cytolith"):
        detect_cells(np.zeros((6, 30, 30), np.uint16), block=(2, 30, 30))
    lines = [record.message for record in caplog.records if "compiled the kernels first" in record.message]
    assert len(lines) == 1
    task._compiling.cache_clear()
