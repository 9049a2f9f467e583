"""A Sphinx extension that runs the cells of a page, and shows what they print and draw below them.

A cell is a block ``{code-cell} python``, as in MyST notebooks. The cells of a page share their names. If the
last line is an expression whose value is a figure of Matplotlib, the figure is shown. A cell that raises an
error is a warning, which fails `make docs`.
"""

from __future__ import annotations

import ast
import builtins
import io
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

from docutils import nodes
from matplotlib.figure import Figure
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_NAMES = "names of code cells"


class CodeCell(SphinxDirective):
    """A cell: it is run when the page is read."""

    has_content = True
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the code, the printed text and the figure of the cell."""
        code, printed = "\n".join(self.content), io.StringIO()
        names: dict[str, Any] = self.env.temp_data.setdefault(_NAMES, {})
        names["print"] = partial(builtins.print, file=printed)
        shown: list[nodes.Node] = [nodes.literal_block(code, code, language="python")]
        try:
            value = run_cell(code, names)
        except Exception:
            raise self.error(f"the cell raises an error:\n{traceback.format_exc()}") from None
        if text := printed.getvalue():
            shown.append(nodes.literal_block(text, text, language="text"))
        if isinstance(value, Figure):
            picture = io.StringIO()
            value.savefig(picture, format="svg", metadata={"Date": None})
            svg = picture.getvalue()
            shown.append(nodes.raw("", svg[svg.index("<svg") :], format="html"))
        return shown


def run_cell(code: str, names: dict[str, Any]) -> object:
    """Run code, and return the value of its last line if that is an expression, else None."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("code-cell", CodeCell)
