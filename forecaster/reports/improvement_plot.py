"""A figure of the improvement of one model over another, with its confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from forecaster.reports.plot_style import INK, MUTED, PALETTE, titled_axes
from forecaster.reports.plot_text import plain

_MOST_ROWS = 40


def improvement_figure(improvements: Mapping[str, tuple[float, float, float]], confidence: float) -> Figure:
    """Draw improvements with their intervals, one row each; above 0, the challenger is better.

    Args:
        improvements: share, low end and high end by label, the first row on top; at most 40 are drawn.
        confidence: confidence of the intervals, for the title.

    Raises:
        ValueError: there is no improvement to draw.
    """
    if not improvements:
        raise ValueError("there is no improvement to draw")
    rows = dict(list(improvements.items())[:_MOST_ROWS])
    figure, axes = titled_axes(
        f"Improvement of the challenger, with {confidence:.0%} intervals",
        "share by which its pinball loss is smaller",
        "",
        (7.2, 1.6 + 0.3 * len(rows)),
    )
    share, low, high = np.array(list(rows.values())).T
    at = np.arange(len(rows))
    axes.axvline(0.0, color=MUTED, linestyle="--", linewidth=1.2)
    axes.hlines(at, low, high, color=PALETTE[0], linewidth=2.0)
    axes.plot(share, at, "o", color=PALETTE[0], markersize=6)
    axes.set_yticks(at, [plain(label) for label in rows])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    return figure
