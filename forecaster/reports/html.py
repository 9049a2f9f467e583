"""Write one HTML file with the facts, the errors and the figures of a comparison.

The file contains no script, font or link, so it can be opened and moved alone. Its figures are inline SVG in
the page's own colours, so they follow light and dark mode.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.figure import Figure

from forecaster import durable
from forecaster.reports.plot_style import GRID, INK, MUTED, PALETTE, PAPER
from forecaster.reports.plots import MASE
from schemas.errors import OutputError
from schemas.numbers_as_text import text_of

Picture = tuple[str, Callable[[], Figure]]
"""A caption, and the function that draws the figure when the report is written."""

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --page: #f4f6f8; --ink: #1f2933; --muted: #5b6670;
  --grid: #e3e7eb; --accent: #0072b2; --best: #e3f1fa; }
@media (prefers-color-scheme: dark) { :root { --paper: #1a2027; --page: #11161b; --ink: #e8ecf0;
  --muted: #9aa7b3; --grid: #323c46; --accent: #6cb8e6; --best: #173a50; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 1.25rem; letter-spacing: -0.015em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0.75rem; }
p { max-width: 44rem; margin: 0.5rem 0; }
dl { display: grid; gap: 0.6rem; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); }
dl div, figure, .wide { background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; }
dl div { padding: 0.7rem 0.9rem; }
dt { color: var(--muted); font-size: 0.8rem; }
dd { margin: 0.1rem 0 0; font-weight: 600; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.9rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--grid); }
thead th { border-top: 0; color: var(--muted); font-weight: 600; font-size: 0.85rem; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
td.best { background: var(--best); color: var(--accent); font-weight: 700; }
figure { margin: 0 0 1.25rem; padding: 0.75rem; }
figure svg { display: block; width: 100%; height: auto; max-height: 34rem; }
figcaption { color: var(--muted); font-size: 0.88rem; padding: 0.5rem 0.25rem 0; }
ul { padding-left: 1.2rem; max-width: 46rem; } li { margin: 0.3rem 0; overflow-wrap: anywhere; }
@media (max-width: 32rem) { th, td { padding: 0.35rem 0.55rem; }
  figure { padding: 0.4rem; overflow-x: auto; } svg.broad { min-width: 30rem; } }
@media print { body { background: none; } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class ReportTable:
    """A table of numbers in a report.

    Attributes:
        title: heading above the table.
        head: names of the columns; the first is the heading of the row names.
        rows: a name, then numbers; None or NaN is shown as a dash.
        best: cells to mark: row and column, counted from 0 without the column of names.
        note: a line below the table.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    best: frozenset[tuple[int, int]] = frozenset()
    note: str = ""


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    tables: Sequence[ReportTable],
    figures: Sequence[Picture],
    notes: Sequence[str] = (),
) -> Path:
    """Write the report to ``path``; an existing file is replaced, and missing folders are created.

    Args:
        path: an ``.html`` file.
        title: heading and title of the page.
        facts: short names and values for the top of the page: data, model versions, latency.
        tables: tables, in order.
        figures: captions and functions that draw the figures, in order. If a figure cannot be drawn, the
            report has a sentence with the reason instead.
        notes: sentences for the end of the page, such as how to repeat the comparison.

    Returns:
        ``path``.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    if facts:
        pairs = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        body.append(f"<dl>{''.join(pairs)}</dl>")
    for table in tables:
        body += [f"<h2>{escape(table.title)}</h2>", _table(table)]
    if figures:
        body.append("<h2>Pictures</h2>")
    body += [
        f"<figure>{_as_html(draw, f'f{number}', caption)}<figcaption>{escape(caption)}</figcaption></figure>"
        for number, (caption, draw) in enumerate(figures)
    ]
    if notes:
        body.append(f"<h2>Notes</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
    try:
        durable.write_bytes(path, page.encode())
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"the report {path} cannot be written: {reason}; choose another place") from error
    return path


def error_table(scores: pl.DataFrame, unit: str = MASE) -> ReportTable:
    """Return a table of errors with a row per horizon and a column per model; mark the smallest of each row.

    Args:
        scores: ``model: String, horizon: Int32, mae: Float64``; more columns are ignored.
        unit: unit of the errors, in words.
    """
    models = scores["model"].unique(maintain_order=True).to_list()
    errors = {(row["horizon"], row["model"]): row["mae"] for row in scores.iter_rows(named=True)}
    horizons = scores["horizon"].unique().sort().to_list()
    rows = [(str(horizon), [errors.get((horizon, model)) for model in models]) for horizon in horizons]
    best = {(i, k) for i, (_, row) in enumerate(rows) for k in least(row)}
    return ReportTable(
        "Mean absolute error by horizon",
        ["horizon", *models],
        rows,
        frozenset(best),
        f"{unit[:1].upper()}{unit[1:]}, averaged over series; horizon in windows ahead. The least error "
        "of each row is marked.",
    )


def least(numbers: Sequence[float | None]) -> list[int]:
    """Return the positions of the smallest number; None and NaN are ignored.

    Numbers that are equal after rounding to three decimals are all returned.
    """
    shown = {k: round(x, 3) for k, x in enumerate(numbers) if x is not None and x == x}
    return [k for k, x in shown.items() if x == min(shown.values())]


def _table(table: ReportTable) -> str:
    """Return a table as HTML."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    rows = []
    for i, (name, numbers) in enumerate(table.rows):
        cells = "".join(_cell(number, (i, k) in table.best) for k, number in enumerate(numbers))
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    note = f"<p><small>{escape(table.note)}</small></p>" if table.note else ""
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _cell(number: float | None, is_best: bool) -> str:
    """Return a cell of a table as HTML."""
    if number is None or number != number:  # the number is null or NaN (NaN is not equal to itself)
        return "<td>–</td>"
    return f'<td class="best">{text_of(number)}</td>' if is_best else f"<td>{text_of(number)}</td>"


def _as_html(draw: Callable[[], Figure], prefix: str, label: str) -> str:
    """Return a figure as HTML, or a sentence with the error if it cannot be drawn."""
    try:
        return _svg(draw(), prefix, label)
    except Exception as error:  # catch every error: a figure that fails must not stop the report
        line = " ".join(str(error).split()) or type(error).__name__
        return f"<p>This picture could not be drawn: {escape(line)}</p>"


class _Canvas(FigureCanvasSVG):
    """Writes a figure as SVG: its text stays selectable text, and its ids depend only on the figure.

    Matplotlib has two settings for this, but they belong to the process: ``rc_context`` would also undo the
    settings that another thread has changed in the meantime.
    """

    def print_svg(
        self, filename: Any, *, bbox_inches_restore: Any = None, metadata: Any = None, **_: Any
    ) -> None:
        """Write the figure as SVG into a text file; Matplotlib's `print_figure` calls this method.

        `print_figure` first calls it with a binary file to measure texts, and writes nothing to that file.
        """
        file = io.StringIO() if isinstance(filename, io.BytesIO) else filename
        width, height = self.figure.get_size_inches()
        dpi, self.figure.dpi = self.figure.dpi, 72
        drawn = _TextRenderer(  # type: ignore[no-untyped-call]
            width * 72, height * 72, file, image_dpi=dpi, metadata=metadata
        )
        renderer: Any = MixedModeRenderer(  # type: ignore[no-untyped-call]
            self.figure, width, height, dpi, drawn, bbox_inches_restore=bbox_inches_restore
        )
        self.figure.draw(renderer)
        renderer.finalize()


class _TextRenderer(RendererSVG):
    """Writes text as SVG text, not as outlines, and derives each id from the content of its element."""

    def _draw_text_as_path(self, *text: Any) -> None:
        self._draw_text_as_text(*text)  # type: ignore[no-untyped-call]

    def _make_id(self, kind: str, content: object) -> str:
        return f"{kind}{hashlib.sha256(str(content).encode()).hexdigest()[:10]}"


def _svg(figure: Figure, prefix: str, label: str) -> str:
    """Return a figure as an ``<svg>`` element in the colours of the page; ``prefix`` makes its ids unique."""
    buffer = io.StringIO()
    _Canvas(figure).print_figure(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg).replace("url(#", f"url(#{prefix}-")
    colours = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", PALETTE[0].lower(): "accent"}
    for colour, name in colours.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Use the page's font: the reader's machine may not have Matplotlib's fonts.
    svg = re.sub(r"(font(?:-family)?: *[^;\"]*?)'[^;\"]*", r"\1inherit", svg)
    kind = "broad" if figure.get_figwidth() > 8 else "narrow"
    return svg.replace("<svg", f'<svg class="{kind}" role="img" aria-label="{escape(label)}"', 1)
