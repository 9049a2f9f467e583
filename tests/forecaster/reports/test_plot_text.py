"""Tests that figures are drawn for any name of a series, a model or a label."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from forecaster.labelling import plots as label_plots
from forecaster.reports import fan_plot, plots
from forecaster.reports.gradient_plot import gradient_figure
from forecaster.reports.plot_text import plain

T = datetime(2013, 1, 1, tzinfo=UTC)


def fan(name: str) -> Figure:
    frame = pl.DataFrame(
        {
            "target_at": [T, T + timedelta(hours=1)],
            "issued_at": [T, T],
            "observed": [1.0, None],
            "q50": [1.0, 2.0],
        }
    )
    return fan_plot.fan_figure(frame, f"{name}, backtest")


def by_horizon(name: str) -> Figure:
    scores = pl.DataFrame(
        {"model": [name, name], "horizon": [1, 2], "mae": [0.1, 0.2], "coverage": [0.8, 0.9]}
    )
    return plots.error_by_horizon_figure(scores)


FIGURES: dict[str, Callable[[str], Figure]] = {
    "fan": fan,
    "by horizon": by_horizon,
    "calibration": lambda name: plots.calibration_figure([0.1, 0.9], [0.2, 0.8], name),
    "gradient": lambda name: gradient_figure(np.array([1.0, 0.1]), name),
    "confusion": lambda name: label_plots.confusion_figure(np.eye(2, dtype=np.int64), [name, "b"]),
    "found": lambda name: label_plots.found_figure([name], [1], [2]),
}


@pytest.mark.parametrize("kind", FIGURES)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@example(name="cost_$_per_$x")
@example(name=r"$\frac{$ \$ $")
@example(name="_hidden")
@example(name="a\nb\x00\x1b[31m")
@example(name="温度 🌡")
@settings(max_examples=5)
def test_figures_are_drawn_for_any_series_model_or_label_name(kind: str, name: str) -> None:
    FIGURES[kind](name).draw_without_rendering()


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=80))
@example(r"\$5 and $6")
def test_every_dollar_sign_of_a_name_is_escaped(name: str) -> None:
    # Matplotlib draws text between two $ as a formula, so every $ must be escaped.
    shown = plain(name)
    assert shown.count("$") == shown.count(r"\$")
    assert shown.replace(r"\$", "$").removeprefix(" ") == name


def test_the_legend_shows_models_named_with_a_leading_underscore() -> None:
    legend = by_horizon("_out").axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().strip() for text in legend.get_texts()] == ["_out"]
