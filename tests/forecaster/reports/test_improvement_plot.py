"""Tests of the figure that shows at most 40 improvements of one model over another, one in each row."""

from __future__ import annotations

import pytest

from forecaster.reports.improvement_plot import improvement_figure


def test_each_improvement_is_drawn_with_its_interval() -> None:
    rows = {"all": (0.1, 0.05, 0.15), "$lumpy$ (1 series)": (-0.2, -0.3, -0.1)}
    (axes,) = improvement_figure(rows, 0.9).axes
    (points,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert points.get_xdata().tolist() == [0.1, -0.2]  # type: ignore[union-attr]
    (intervals,) = axes.collections
    ends = [path.vertices[:, 0].tolist() for path in intervals.get_paths()]  # type: ignore[index, union-attr]
    assert ends == [[0.05, 0.15], [-0.3, -0.1]]
    low, high = sorted(axes.get_ylim())
    assert (low, high) == (-0.5, 1.5)
    assert "90% intervals" in axes.get_title("left")


def test_at_most_forty_improvements_are_drawn() -> None:
    rows = {f"horizon {number}": (0.0, 0.0, 0.0) for number in range(100)}
    (axes,) = improvement_figure(rows, 0.9).axes
    assert len(axes.get_yticks()) == 40


def test_a_figure_without_improvements_is_refused() -> None:
    with pytest.raises(ValueError, match="no improvement to draw"):
        improvement_figure({}, 0.9)
