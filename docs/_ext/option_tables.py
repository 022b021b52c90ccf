"""Pieces of a page about options: sections, tables, and words in which names are code."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

Row: TypeAlias = Sequence[nodes.Node | Sequence[nodes.Node]]
"""Cells of a table, each of one paragraph or several."""


def titled(directive: SphinxDirective, title: str, *content: nodes.Node) -> nodes.section:
    """A section that pages can link to and that stands in their table of contents."""
    section = nodes.section("", nodes.title("", title), *content, names=[nodes.fully_normalize_name(title)])
    directive.state.document.note_implicit_target(section, section)
    return section


def paragraphs(text: str) -> list[nodes.paragraph]:
    """Paragraphs of a text that has empty lines between them."""
    return [words(part) for part in text.split("\n\n")]


def shown(default: Any, none: str = "") -> str:
    """A default as a user would give it."""
    if default is None or default is inspect.Parameter.empty:
        return none
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple) and not hasattr(default, "unit"):  # lengths and thresholds are tuples too
        return ",".join(map(str, default))
    return str(default)


def words(text: str | None) -> nodes.paragraph:
    """A paragraph in which what stands between single or double backticks is code."""
    parts = (text or "").replace("``", "`").split("`")
    children = [nodes.literal("", part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts) if part]
    return nodes.paragraph("", "", *children)


def code(text: str) -> nodes.paragraph:
    """A paragraph of one name, or of nothing."""
    return codes([text] if text else [])


def codes(names: Iterable[str]) -> nodes.paragraph:
    """A paragraph of names."""
    paragraph = nodes.paragraph()
    for each in names:
        paragraph += [nodes.Text(" " if paragraph.children else ""), nodes.literal("", each)]
    return paragraph


def table(titles: Sequence[str], rows: Sequence[Row]) -> nodes.table:
    """A table of three columns whose names may break."""
    lines = [
        nodes.row("", *(nodes.entry("", *(cell if isinstance(cell, Sequence) else [cell])) for cell in row))
        for row in ([words(title) for title in titles], *rows)
    ]
    columns = (nodes.colspec(colwidth=width) for width in (30, 14, 56))
    body = (nodes.thead("", lines[0]), nodes.tbody("", *lines[1:]))
    return nodes.table("", nodes.tgroup("", *columns, *body, cols=len(titles)), classes=["options"])
