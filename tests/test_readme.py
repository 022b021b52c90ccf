"""Every command and every line of Python in the README runs, in the order in which it stands there."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cytolith.testing.fracture_phantom import write_fracture_sample
from cytolith.testing.phantoms import write_sample

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    write_sample(folder, (24, 120, 130), 2)
    write_fracture_sample(folder / "rock", (40, 50, 60), 1)
    (folder / "rock" / "fracture.tif").rename(folder / "fracture.tif")
    return folder


def test_shell_commands(folder):
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL))
    assert commands.count("cytolith") >= 8
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "kept.csv").exists()
    assert (folder / "smoothed.zarr").is_dir()
    assert "F1" in done.stdout
    described = re.findall(r"^\| `(fracture-[\w.-]+|clusters.csv|summary.json)`", README.read_text(), re.MULTILINE)
    assert len(described) == 5
    assert all((folder / "ROCK" / name).exists() for name in described)
    assert (folder / "coloured" / "fracture-processed-clusters.zarr").is_dir()


def test_python(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(code, names)
    assert 0 < len(names["large"]["z"]) <= len(names["table"]["z"])
    assert names["labels"].shape == (10, 100, 100)
    assert names["labels"].max() == len(names["maxima"]) > 0
    assert names["aperture"].sum() * 255 == names["kept"].sum()
    assert (names["kept"] > 0).sum() == names["clusters"]["size"][0]


@pytest.mark.skipif(sys.platform == "win32", reason="a line of a POSIX shell")
def test_samples_of_the_demo_have_the_names_that_the_commands_take(tmp_path):
    demo = re.findall(r"^\t\$\(BIN\)/(cytolith sample .*)$", (README.parent / "Makefile").read_text(), re.MULTILINE)
    assert len(demo) == 2
    (line,) = re.findall(r"^    (cp demo/.*)$", README.read_text(), re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    there = "ls -d planes truth.csv fracture.tif"
    subprocess.run(
        ["bash", "-ec", "\n".join([*demo, line, there])],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        check=True,
    )


def test_extras_exist():
    extras = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in [README, *(README.parent / "docs").rglob("*.md")]:
        for names in re.findall(r"pip install [^\n`]*?(?:\.|cytolith)\[([\w,-]+)\]", page.read_text()):
            assert set(names.split(",")) <= set(extras), page.name


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (README.parent / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^    make (\w+)", README.read_text(), re.MULTILINE)) <= targets


def test_links_and_pictures_exist():
    for page in [README, README.parent / "CONTRIBUTING.md", *(README.parent / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
