"""Colours, fonts and axes that all figures share."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecaster.reports.plot_text import plain

# These are Okabe and Ito's colours for colour-blind readers, without yellow, which is pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

INK, MUTED, GRID, PAPER = "#1f2933", "#66707a", "#e3e7eb", "#ffffff"
"""Colours that a page can replace, as in dark mode. No other colour of a figure may equal one of them."""

FONT = 10


def titled_axes(title: str, x: str, y: str, size: tuple[float, float] = (7.2, 4.2)) -> tuple[Figure, Axes]:
    """Return an empty figure with titled axes in the house style."""
    figure = Figure(figsize=size, dpi=120, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(plain(title), loc="left", fontsize=FONT + 3, fontweight="bold", color=INK, pad=12)
    axes.set_xlabel(x, color=MUTED, fontsize=FONT)
    axes.set_ylabel(y, color=MUTED, fontsize=FONT)
    axes.grid(color=GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=FONT - 1, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    return figure, axes


def draw_legend(axes: Axes) -> None:
    """Draw the legend in the house style."""
    axes.legend(
        fontsize=FONT - 1,
        labelcolor=INK,
        facecolor=PAPER,
        edgecolor="none",
        framealpha=0.85,
    )
