"""Runs that reports are made of."""

import os

import pytest

from cytolith.cells.config import CellsConfig
from cytolith.cells.run import run_cells
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.pipeline import run_fracture
from cytolith.report.write import write_report
from cytolith.testing.fracture_phantom import write_fracture_sample
from cytolith.testing.phantoms import write_sample

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'cytolith[report]'")
pytest.importorskip("jinja2", reason="the report needs jinja2: pip install 'cytolith[report]'")

SIZE = (6.0, 1.62, 1.62)
NASTY = "script & alert(1) Zellen µ 細胞" if os.name == "nt" else "<script>alert(1)<script> Zellen µ 細胞"


def _make(folder, name="run", shape=(20, 90, 110), config=None, **options):
    """Folder of a run on a sample of that shape."""
    if not (folder / "sample").exists():
        write_sample(folder / "sample", shape=shape, seed=5)
    run_cells(
        folder / "sample" / "planes", folder / name, config or CellsConfig(), voxel_size=SIZE, workers=1, **options
    )
    return folder / name


@pytest.fixture(scope="session")
def cells_run(tmp_path_factory):
    """A finished run of cells in a folder whose name must be escaped."""
    return _make(tmp_path_factory.mktemp("cells"), NASTY)


@pytest.fixture(scope="session")
def fracture_run(tmp_path_factory):
    """A finished fracture run that kept one cluster."""
    folder = tmp_path_factory.mktemp("fracture")
    write_fracture_sample(folder / "sample", shape=(40, 50, 60), seed=3)
    run_fracture(
        folder / "sample" / "fracture.tif", folder / "run", FractureConfig(n=1), voxel_size=(25, 20, 30), workers=1
    )
    return folder / "run"


@pytest.fixture(scope="session")
def cells_report(cells_run):
    """The page of the run of cells."""
    return write_report(cells_run)


@pytest.fixture(scope="session")
def fracture_report(fracture_run):
    """The page of the fracture run."""
    return write_report(fracture_run)


@pytest.fixture(scope="session")
def make_cells_run():
    """Function that makes a run of cells in a folder."""
    return _make
