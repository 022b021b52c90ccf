"""How the pages in this folder become a site. Nothing is fetched while it is built or read."""

import re
import sys
from pathlib import Path

import cytolith

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "cytolith"
author = "The cytolith developers"
copyright = "The cytolith developers"  # noqa: A001 - the name that Sphinx reads
release = version = cytolith.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "cytolith_reference",
]
exclude_patterns = ["_build", "_ext"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

smartquotes = False  # `--flag` and "8 um" are typed as they stand
default_role = "literal"  # in docstrings, a name between single backticks is code
toc_object_entries_show_parents = "hide"
autosummary_generate = False  # no generated pages: each object is documented on the page that lists it
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "DTypeLike": "DTypeLike"}  # the names, not all that they stand for
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
numpydoc_show_class_members = False

nitpicky = True
nitpick_ignore_regex = [
    # types in signatures: of Python, NumPy and SciPy, whose indexes would have to be fetched; aliases; and types of our
    # own that nobody needs to make
    ("py:(class|data|obj|exc)", r"(?!cytolith).*"),
    ("py:class", r"cytolith\..*\.(AnyTable|Box|SeedLists|Stamps|Storage|Structure)"),
]

highlight_language = "none"  # a block without a language is a drawing

html_theme = "pydata_sphinx_theme"
html_title = f"cytolith {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "cytolith"},
    "navbar_align": "left",
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "start": []}


_ANY_SHAPE = r"tuple\[(?:~?typing\.)?Any, \.\.\.\]"
_DTYPE = r"(?:~?numpy\.)?dtype\[((?:[^\[\]]|\[[^\[\]]*\])*)\]"
_SHORTER = (
    (re.compile(r"(?:~?sphinx\.util\.inspect\.)?TypeAliasForwardRef\('(\w+)'\)"), r"\1"),
    (re.compile(rf"(?:~?numpy\.)?ndarray\[{_ANY_SHAPE}, {_DTYPE}\]"), r"NDArray[\1]"),
)
"""Types as autodoc writes them, and as the code has them."""


def shorten(_app, _what, _name, _object, _options, signature, returns):  # noqa: ANN001, ANN201, D103
    texts = []
    for text in (signature, returns):
        for long, short in _SHORTER if text else ():
            text = long.sub(short, text)
        texts.append(text)
    return tuple(texts)


def setup(app):  # noqa: ANN001, ANN201, D103
    app.connect("autodoc-process-signature", shorten)
