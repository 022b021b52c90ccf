"""The site builds from the repository without a warning and without a network, and nothing public is missing in it."""

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import cytolith
from cytolith.cells.config import STEPS, step_model
from cytolith.cli import app

for needed in ("sphinx", "pydata_sphinx_theme", "myst_parser", "numpydoc"):
    pytest.importorskip(needed)

DOCS = Path(__file__).parents[1] / "docs"
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", str(DOCS), str(folder)],
        env=os.environ | OFFLINE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page):
    return re.sub(r"<[^>]+>", "", page.read_text("utf-8"))


def test_a_reader_needs_no_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text("utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"'](\w+:?//[^\"']+)", text)
        assert not fetched, page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?https?:", style.read_text("utf-8")), style
    assert (site / "searchindex.js").stat().st_size > 10_000


def test_every_public_name_has_its_place(site):
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = {line.split()[0] for line in zlib.decompress(packed).decode().splitlines() if " py:" in line}
    missing = {f"cytolith.{name}" for name in cytolith.__all__ if name != "__version__"} - documented
    assert not missing


def test_every_field_of_every_step_stands_with_its_flag_and_default(site):
    text = text_of(site / "reference" / "cells-parameters.html")
    for step in STEPS:
        for name, field in step_model(step).model_fields.items():
            flag = f"--{step}.{name}".replace("_", "-")
            row = text[text.index(flag) :]
            row = row[: row.index(" ".join((field.description or "").split())[:30])]
            default = field.default
            if default is not None and "Default" not in (field.description or "") and hasattr(default, "unit"):
                assert str(default) in row, flag


def test_every_command_and_option_stands_there(site):
    text = text_of(site / "reference" / "commands.html")
    for name in app:
        if name.startswith("-"):
            continue
        assert f"cytolith {name}" in text
        if app[name].default_command is None:
            continue
        for argument in app[name].assemble_argument_collection():
            flag = argument.names[0] if argument.index is None else ""
            assert flag in text or "." in flag or flag.strip("-").replace("-", "_") in STEPS, (name, flag)
