"""The examples in the docstrings run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import cytolith

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(cytolith.__path__, "cytolith.") if not m.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    assert sum(bool(t.examples) for name in MODULES for t in finder.find(importlib.import_module(name))) > 10
