"""Tests of the HTML page of a report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from matplotlib import rcParams
from matplotlib.backends.backend_svg import RendererSVG

from forecaster.reports.html import ReportTable, error_table, write_report
from forecaster.reports.plots import error_by_horizon_figure, latency_figure
from schemas.errors import OutputError

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Parser that collects the elements of a page; fails if an end tag is not of the last open element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[tuple[str | None, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append((dict(attrs).get("class"), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            kind, text = self.cells[-1]
            self.cells[-1] = (kind, text + data)

    def ids(self) -> list[str]:
        return [found for _, attrs in self.elements if (found := attrs.get("id"))]


def scores(errors: dict[str, list[float | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"model": model, "horizon": h, "mae": error}
            for model, row in errors.items()
            for h, error in enumerate(row, 1)
        ],
        schema={"model": pl.String, "horizon": pl.Int32, "mae": pl.Float64},
    )


def report(folder: Path, frame: pl.DataFrame | None = None, title: str = "A report", figures: int = 1) -> str:
    frame = scores({"lstm": [0.1, 0.4], "persistence": [0.2, 0.3]}) if frame is None else frame
    path = write_report(
        folder / "report.html",
        title=title,
        facts={"data": "18 series & <gaps>"},
        tables=[error_table(frame)] if len(frame) else [],
        figures=[
            ('Errors, "by" horizon', lambda: error_by_horizon_figure(scores({"lstm": [0.1, 0.2]}))),
            ("Latency", lambda: latency_figure([1.0, 2.0])),
        ][:figures],
        notes=["statecast ui"],
    )
    return path.read_text(encoding="utf-8")


def test_a_report_closes_every_element_and_loads_no_file(tmp_path: Path) -> None:
    text = report(tmp_path, figures=2)
    page = Page(text)
    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object"}
    addresses = [value or "" for _, attrs in page.elements for key, value in attrs.items() if "href" in key]
    assert all(address.startswith("#") for address in addresses)
    assert not re.search(r"url\((?!#)|@import|src=", text)


def test_element_ids_in_a_report_are_unique_and_links_resolve(tmp_path: Path) -> None:
    text = report(tmp_path, figures=2)
    ids = Page(text).ids()
    assert len(ids) == len(set(ids))
    links = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert links
    assert links <= set(ids)


def test_report_figures_use_the_colours_of_the_page(tmp_path: Path) -> None:
    figure = report(tmp_path).partition("<figure>")[2].partition("</figure>")[0]
    assert "var(--ink)" in figure
    assert "var(--grid)" in figure
    assert "#ffffff" not in figure
    assert "DejaVu" not in figure


def test_a_report_marks_the_least_error_of_every_horizon(tmp_path: Path) -> None:
    cells = Page(report(tmp_path)).cells
    assert cells == [("best", "0.100"), (None, "0.200"), (None, "0.400"), ("best", "0.300")]


def test_errors_shown_equal_to_the_smallest_are_marked_best(tmp_path: Path) -> None:
    cells = Page(report(tmp_path, scores({"lstm": [0.1001], "gru": [0.1002]}))).cells
    assert cells == [("best", "0.100"), ("best", "0.100")]


def test_a_report_shows_a_missing_error_as_a_dash(tmp_path: Path) -> None:
    cells = Page(report(tmp_path, scores({"lstm": [None], "gru": [float("nan")], "rnn": [0.5]}))).cells
    assert cells == [(None, "–"), (None, "–"), ("best", "0.500")]


def test_a_report_table_marks_the_requested_cells_as_best(tmp_path: Path) -> None:
    table = ReportTable(
        "Numbers", ["member", "mse"], [("<a>", [1.0]), ("b", [None])], frozenset({(0, 0)}), "a <note>"
    )
    path = write_report(tmp_path / "r.html", title="t", facts={}, tables=[table, table], figures=[])
    text = path.read_text(encoding="utf-8")
    assert Page(text).cells == [("best", "1.000"), (None, "–")] * 2
    assert "&lt;a&gt;" in text
    assert "a &lt;note&gt;" in text


def test_a_report_is_written_although_one_figure_fails(tmp_path: Path) -> None:
    pictures = [("one", lambda: latency_figure([])), ("two", lambda: latency_figure([1.0]))]
    path = write_report(tmp_path / "r.html", title="t", facts={}, tables=[], figures=pictures)
    text = path.read_text(encoding="utf-8")
    assert "This picture could not be drawn: there must be at least one latency" in text
    assert text.count("<svg") == 1


def test_a_report_escapes_html_in_titles_and_names(tmp_path: Path) -> None:
    text = report(tmp_path, scores({"<b>lstm</b>": [0.1]}), title="<script>alert(1)</script>")
    assert "<script" not in text
    assert "<b>" not in text
    assert "18 series &amp; &lt;gaps&gt;" in text


def test_a_report_needs_neither_scores_nor_figures(tmp_path: Path) -> None:
    page = Page(report(tmp_path, scores({}), figures=0))
    assert {"table", "figure"}.isdisjoint(tag for tag, _ in page.elements)


def test_equal_inputs_make_equal_reports(tmp_path: Path) -> None:
    assert report(tmp_path / "a") == report(tmp_path / "b")


def test_an_unwritable_report_path_raises_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        report(tmp_path / "file")


def test_writing_a_report_again_gives_equal_text(tmp_path: Path) -> None:
    text = report(tmp_path, figures=2)
    assert report(tmp_path, figures=2) == text
    assert "<text" in text


def test_reports_do_not_undo_matplotlib_changes_by_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finalize, before = RendererSVG.finalize, rcParams["lines.linewidth"]

    def change_and_finalize(renderer: RendererSVG) -> None:
        # Simulate a second thread that changes the line width while the report is drawn.
        rcParams["lines.linewidth"] = before + 1
        finalize(renderer)

    monkeypatch.setattr(RendererSVG, "finalize", change_and_finalize)
    try:
        report(tmp_path, figures=1)
        assert rcParams["lines.linewidth"] == before + 1
    finally:
        rcParams["lines.linewidth"] = before
