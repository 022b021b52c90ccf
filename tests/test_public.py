"""The public names: all there, all documented, and free until they are used."""

import inspect
import subprocess
import sys

import pytest

import cytolith


@pytest.mark.parametrize("name", [n for n in cytolith.__all__ if n != "__version__"])
def test_every_public_name_is_there_and_documented(name):
    value = getattr(cytolith, name)
    text = inspect.getdoc(value)
    assert text
    if inspect.isfunction(value):
        assert "Parameters" in text
        assert "Returns" in text


def test_names_and_homes_agree():
    assert set(cytolith.__all__) - {"__version__"} == set(cytolith._HOME)
    assert set(cytolith.__all__) <= set(dir(cytolith))
    with pytest.raises(AttributeError):
        _ = cytolith.nothing


def test_importing_costs_nothing():
    code = "import sys, cytolith; print(sorted({'numpy', 'numba', 'scipy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
