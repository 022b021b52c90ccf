"""Directives that write the reference of the command line and of the parameters from the code they describe."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

from cyclopts import App
from docutils import nodes
from numpydoc.docscrape import NumpyDocString
from option_tables import Row, code, codes, paragraphs, shown, table, titled, words
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import cytolith
from cytolith.cells.config import STEPS, Step, step_model
from cytolith.cli import app
from cytolith.fracture.config import FractureConfig
from cytolith.fracture.maps import OffsetSettings

_FRACTURE_FLAGS = {
    "n": "-n",
    "aperture_map": "--no-aper-map",
    "offset_map": "--no-offset-map",
    "image_stack": "--no-img-stack",
    "cluster_image": "--gen-cluster-img",
    "clusters": "--no-clusters",
    "pictures": "--no-pictures",
    "summary": "--no-summary",
    "aperture_name": "--aper-map-name",
    "offset_name": "--offset-map-name",
    "stack_name": "--img-stack-name",
}
"""Flags of ``cytolith fracture`` that are not called as the field is."""


class Commands(SphinxDirective):
    """All commands of the command line, a section each, with what ``--help`` says."""

    def run(self) -> list[nodes.Node]:
        """Sections of the commands in the order of ``cytolith --help``."""
        return [self._section(command, f"cytolith {name}") for name, command in _commands(app)]

    def _section(self, command: App, name: str) -> nodes.section:
        section = titled(self, name, *paragraphs(command.help))
        section += [self._section(part, f"{name} {word}") for word, part in _commands(command)]
        arguments = command.assemble_argument_collection(parse_docstring=True) if command.default_command else ()
        groups: dict[str, list[Row]] = {}
        for argument in arguments:
            resolved: Any = argument.parameter.group  # of a parsed command always a tuple of groups
            group = resolved[0].name
            if group.startswith("Step "):  # on the page of the parameters
                continue
            named = argument.names if argument.index is None else [argument.name.strip("-").upper()]
            default = "required" if argument.required else shown(argument.field_info.default)
            groups.setdefault(group, []).append((codes(named), code(default), words(argument.parameter.help)))
        for group, rows in groups.items():
            section += nodes.rubric("", group)
            section += table(("Option", "Default", "What"), rows)
        return section


class CellsParameters(SphinxDirective):
    """The steps of the cells pipeline, a section each, with a table of the fields of its model."""

    def run(self) -> list[nodes.Node]:
        """Sections of the steps in the order in which they run."""
        return [self._section(name, step_model(name)) for name in STEPS]

    def _section(self, step: str, model: type[Step]) -> nodes.section:
        flag = f"--{step.replace('_', '-')}"
        rows: list[Row] = []
        for name, field in model.model_fields.items():
            text = " ".join((field.description or "").split())
            default = "" if "Default" in text else shown(field.default, none="none")
            rows.append(([code(name), code(f"{flag}.{name.replace('_', '-')}")], code(default), words(text)))
        about = paragraphs(inspect.cleandoc(model.__doc__ or ""))
        return titled(self, step, *about, table(("Field and flag", "Default", "What"), rows))


class FractureParameters(SphinxDirective):
    """A table of the fields of the fracture pipeline."""

    def run(self) -> list[nodes.Node]:
        """One table, the fields of the offset map last."""
        arguments = app["fracture"].assemble_argument_collection()
        flags = {name for argument in arguments for name in argument.names}
        rows: list[Row] = []
        for model in (FractureConfig, OffsetSettings):
            defaults = {each.name: each.default for each in dataclasses.fields(model)}
            for entry in NumpyDocString(inspect.cleandoc(model.__doc__ or ""))["Parameters"]:
                names = [name.strip() for name in entry.name.split(",")]
                if names == ["offsets"]:  # its own fields follow
                    continue
                own = [_FRACTURE_FLAGS.get(name, f"--{name.replace('_', '-')}") for name in names]
                if missing := set(own) - flags:
                    raise ExtensionError(f"cytolith fracture has no flag {', '.join(sorted(missing))}")
                values = dict.fromkeys(shown(defaults[name], none="none") for name in names)
                rows.append(([codes(names), codes(own)], codes(values), words(" ".join(entry.desc))))
        return [table(("Field and flag", "Default", "What"), rows)]


def _commands(group: App) -> Iterator[tuple[str, App]]:
    return ((name, group[name]) for name in group if not name.startswith("-"))


def _at_home(app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.Element) -> nodes.Node | None:
    """Link a public function that is named by the module it lives in: the page has it as ``cytolith.NAME``."""
    home, _, name = str(node.get("reftarget", "")).rpartition(".")
    if node.get("refdomain") != "py" or cytolith._HOME.get(name) != home:
        return None
    domain = env.domains.python_domain
    page = node["refdoc"]
    return domain.resolve_xref(env, page, app.builder, node["reftype"], f"cytolith.{name}", node, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.add_directive("commands", Commands)
    app.add_directive("cells-parameters", CellsParameters)
    app.add_directive("fracture-parameters", FractureParameters)
    app.connect("missing-reference", _at_home)
    return {"parallel_read_safe": True}
