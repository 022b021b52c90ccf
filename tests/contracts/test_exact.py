"""Promise 1: the table is a function of the volume and the parameters alone. Any cut and any workers, byte for byte."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cytolith.cells import costs, task, widen
from cytolith.cells.pipeline import detect_cells
from cytolith.testing.phantoms import cells_phantom
from cytolith.testing.strategies import cell_volumes, chains, cores

EXAMPLES = int(os.environ.get("CYTOLITH_EXAMPLES", "50"))
"""Examples to draw; raise it for a long search."""
MEMORY = 2**40
"""More than any region needs: nothing may stay truncated."""


def check(volume, chain, core, **where):
    """The table of a run cut into blocks is that of the whole volume as one block."""
    whole = detect_cells(volume, workers=1, block=volume.shape, memory=MEMORY, **chain)
    assert not whole["truncated"].any()
    table = detect_cells(volume, block=core, memory=MEMORY, **chain, **where)
    assert list(table) == list(whole)
    for name in whole:
        assert table[name].dtype == whole[name].dtype, name
        np.testing.assert_array_equal(table[name], whole[name], err_msg=name)
        assert table[name].tobytes() == whole[name].tobytes(), name
    return whole


@st.composite
def runs(draw):
    volume = draw(cell_volumes())
    return volume, draw(chains(volume.dtype)), draw(cores(volume.shape))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs(), st.integers(1, 4), st.sampled_from(["threads", "serial"]), st.sampled_from([1, 2, 4, 16]), st.booleans())
def test_blocks_workers_and_executors_never_change_a_byte(run, workers, executor, room, may_read_all):
    with pytest.MonkeyPatch.context() as patch:
        # With the usual room blocks of such volumes would see nearly all of them, and of what is read again the whole
        # volume, kept by the worker, would soon be the cheapest.
        patch.setattr(costs, "ROOM_VOXELS", room)
        if not may_read_all:
            patch.setattr(widen, "READ_ALL", 1e9)
            patch.setattr(task, "settle", lambda *given, whole, **more: widen.settle(*given, **more))
        check(*run, workers=workers, executor=executor)


def test_processes_never_change_a_byte(tmp_path):
    """A process takes a second to start: a few volumes, all of them with a pool of their own."""
    volume, _ = cells_phantom((30, 90, 100), seed=12)
    volume[8:22, 40, 5:95] = 60_000  # a saturated tube through all blocks
    np.save(tmp_path / "v.npy", volume)
    chains = [
        {},
        {
            "maxima_detection": {"h_max": "3 mad"},
            "intensity_detection": {"method": "mean", "measure": "source,smoothing"},
        },
    ]
    for number, chain in enumerate(chains):
        whole = detect_cells(volume, block=volume.shape, **chain)
        table = detect_cells(tmp_path / "v.npy", block=(11, 31, 33), executor="processes", workers=2 + number, **chain)
        assert len(whole["z"]) > 20
        assert {name: column.tobytes() for name, column in table.items()} == {
            name: column.tobytes() for name, column in whole.items()
        }
