"""The settings of the documentation site: `make docs` builds it into build/docs with Sphinx."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Statecast"
author = "the Statecast authors"
html_title = "Statecast"
html_theme = "furo"
html_show_copyright = False
exclude_patterns = ["deploy"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docs.code_cells",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
suppress_warnings = ["misc.highlighting_failure", "ref.python"]  # two classes have a `partition`

_DOCS = Path(__file__).parent
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)\)")
_LOGGER = logging.getLogger(__name__)


def show_repository_paths(_app: Sphinx, name: str, source: list[str]) -> None:
    """Replace each link to a file outside docs/ by its text and path, because the site holds only docs/."""

    def text(match: re.Match[str]) -> str:
        label, path = match[1], match[2]
        if not (_DOCS.parent / path).exists():
            _LOGGER.warning("%s links to %s, which does not exist", name, path)
        return label if label.strip("`") == path else f"{label} (`{path}`)"

    source[0] = _OUTSIDE.sub(text, source[0])


def require_docstring(
    _app: Sphinx, what: str, name: str, _found: Any, _options: Any, lines: list[str]
) -> None:
    """Warn about an exported object without a docstring; `make docs` turns warnings into errors."""
    if what in ("class", "function", "method", "exception") and not any(lines) and "__" not in name:
        _LOGGER.warning("%s %s has no docstring", what, name)


def check_reference(_app: Sphinx) -> None:
    """Warn about an exported name that the reference page lacks."""
    page = (_DOCS / "reference.md").read_text()
    for package in ("schemas", "forecaster", "pipelines"):
        for name in importlib.import_module(package).__all__:
            if not re.search(rf":: {package}\.{name}$", page, re.MULTILINE):
                _LOGGER.warning("reference.md lacks %s.%s", package, name)


def setup(app: Sphinx) -> None:
    """Connect the checks to Sphinx."""
    app.connect("source-read", show_repository_paths)
    app.connect("autodoc-process-docstring", require_docstring)
    app.connect("builder-inited", check_reference)
