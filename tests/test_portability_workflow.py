"""The workflow for other systems asks for what is there: targets, groups, files, versions, no rights but to read."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SYSTEMS = ["ubuntu", "windows", "macos"]
ACTION = re.compile(r"actions/[a-z-]+@v\d+")  # of GitHub itself, in a version that only mends itself


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workflow():
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    read["on"] = read.pop(True, read.get("on"))  # YAML takes the word for a truth
    return read


@pytest.fixture(scope="module")
def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(scope="module")
def commands(steps):
    return [step["run"] for step in steps if "run" in step]


def test_three_systems_and_every_version_that_is_promised(workflow, project):
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    promised = [
        text.rpartition(" ")[2] for text in project["project"]["classifiers"] if re.search(r"Python :: 3\.\d+$", text)
    ]
    assert matrix == {"system": SYSTEMS, "python": promised}
    assert project["project"]["requires-python"] == f">={promised[0]}"
    assert workflow["jobs"]["test"]["strategy"]["fail-fast"] is False
    assert workflow["jobs"]["test"]["runs-on"] == "${{ matrix.system }}-latest"


def test_it_may_read_and_nothing_else(workflow, steps):
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert "secrets" not in str(workflow)
    assert set(workflow["on"]) == {"push", "pull_request", "workflow_dispatch"}, "pull_request_target has secrets"
    used = [step["uses"] for step in steps if "uses" in step]
    assert len(used) > 6
    assert not [action for action in used if not ACTION.fullmatch(action)]
    # what strangers write (titles, branches) never becomes a command
    assert not [step["run"] for step in steps if "${{" in step.get("run", "")]


def test_nothing_runs_for_ever_or_twice(workflow):
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert "github.ref" in workflow["concurrency"]["group"]
    assert all(5 <= job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())


def test_commands_are_there(commands, project):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = [command.split()[1] for command in commands if command.startswith("make ")]
    assert made == ["lint", "docs"]
    assert set(made) <= targets
    installed = next(command for command in commands if "--group" in command)
    groups = re.findall(r"--group (\S+)", installed)
    assert groups
    assert set(groups) <= set(project["dependency-groups"])
    extras = re.findall(r"\.\[(.*?)\]", installed)
    assert set(",".join(extras).split(",")) <= set(project["project"]["optional-dependencies"])
    assert (ROOT / re.search(r"--constraint (\S+)", installed)[1]).is_file()
    for system in ("win32", "darwin"):
        assert f".venv/bin/mypy --platform {system}" in commands


def test_caches_are_those_of_this_state(workflow):
    for name, job in workflow["jobs"].items():
        python = next(step["with"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
        assert python["cache"] == "pip", name
        assert all((ROOT / path).is_file() for path in python["cache-dependency-path"].split()), name
    steps = workflow["jobs"]["test"]["steps"]
    cache = next(step["with"] for step in steps if "actions/cache@" in step.get("uses", ""))
    assert workflow["jobs"]["test"]["env"]["NUMBA_CACHE_DIR"].endswith(f"/{cache['path']}")
    patterns = re.findall(r"'([^']+)'", cache["key"])
    assert "src/cytolith/kernels/**/*.py" in patterns
    assert all(list(ROOT.glob(pattern)) for pattern in patterns)
    assert "restore-keys" not in cache, "kernels of another version would be inlined into those of this one"
    order = [step.get("run") or step["uses"] for step in steps]
    assert order.index("git config --global core.autocrlf false") < order.index("actions/checkout@v5")


def test_pins_hold_on_every_system(project):
    """A pin of what one system alone needs is asked for on that system alone."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0].lower() for line in lines if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines if line and not line.startswith("#"))
    wanted = [each for each in project["dependency-groups"]["test"] if isinstance(each, str)]
    for line in wanted:
        name = re.match(r"[\w.-]+", line)[0].lower()
        if name.startswith(("cupy", "nvidia")):
            assert "sys_platform == 'linux'" in line, line
        elif name != "cytolith":
            assert name in pins, line
