"""Shared fixtures: where recorded outputs and real volumes lie when they are at hand."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("cytolith", deadline=None)
settings.load_profile("cytolith")

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded outputs and real volumes beside the checkout; tests that need it are skipped without
    it."""
    if not SHARED.is_dir():
        pytest.skip("no folder 'shared' with golden outputs and real volumes beside the checkout")
    return SHARED
