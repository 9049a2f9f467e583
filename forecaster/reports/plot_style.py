"""Colours, fonts and axes that all figures share."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecaster.reports.plot_text import plain

# These are Okabe and Ito's colours for colour-blind readers, without black and the pale yellow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

INK, MUTED, GRID, PAPER = "#1f2933", "#66707a", "#e3e7eb", "#ffffff"
"""Colours that a page can replace, as in dark mode. No other colour of a figure may equal one of them."""

FONT = 10


def titled_axes(title: str, x: str, y: str, size: tuple[float, float] = (7.2, 4.2)) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, with a title and axis labels, in the style of all figures."""
    figure, (axes,) = stacked_axes([title], x, y, size)
    return figure, axes


def stacked_axes(
    titles: Sequence[str], x: str, y: str, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its axes, one for each title, stacked, in the style of all figures.

    Args:
        titles: a title for each axes; at least one.
        x: label of each horizontal axis.
        y: label of each vertical axis.
        size: width and height of each axes in inches.
    """
    width, height = size
    figure = Figure(figsize=(width, height * len(titles)), dpi=120, facecolor=PAPER, layout="constrained")
    stacked: list[Axes] = [*figure.subplots(len(titles), squeeze=False)[:, 0]]
    for axes, title in zip(stacked, titles, strict=True):
        axes.set_title(plain(title), loc="left", fontsize=FONT + 3, fontweight="bold", color=INK, pad=12)
        axes.set_xlabel(x, color=MUTED, fontsize=FONT)
        axes.set_ylabel(y, color=MUTED, fontsize=FONT)
        axes.grid(color=GRID, linewidth=0.9)
        axes.set_axisbelow(True)
        axes.tick_params(colors=MUTED, labelsize=FONT - 1, length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
    return figure, stacked


def draw_legend(axes: Axes) -> None:
    """Draw the legend in the style of all figures."""
    axes.legend(
        fontsize=FONT - 1,
        labelcolor=INK,
        facecolor=PAPER,
        edgecolor="none",
        framealpha=0.85,
    )
