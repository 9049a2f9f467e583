"""A figure of how far back gradients reach (see `forecaster.evaluation.gradients`)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from forecaster.reports.plot_style import PALETTE, draw_legend, titled_axes
from forecaster.reports.plot_text import plain
from forecaster.state import Floats


def gradient_figure(norms: Floats, cell: str) -> Figure:
    """Draw the norm of the gradient (log axis) against the number of windows that the gradient reaches back.

    A vanishing gradient is a falling line.

    Args:
        norms: ``[lags + 1]``, norms for ``k = 0 .. lags``.
        cell: name of the recurrent cell, for the legend.

    Raises:
        ValueError: ``norms`` has no lag above 0.
    """
    if len(norms) < 2:
        raise ValueError("there is no lag to draw: give the norms of k = 0 and of at least k = 1")
    title, norm = "How far back the gradient reaches", "‖∂ loss(t) / ∂ h(t−k)‖"
    figure, axes = titled_axes(title, "k (windows back)", norm)
    drawn = np.where(norms > 0, norms, np.nan)  # leave out norms of 0, which a log axis cannot show
    axes.plot(np.arange(len(norms)), drawn, color=PALETTE[0], marker="o", markersize=4, label=plain(cell))
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    last = len(norms) - 1
    if norms[1] > 0:
        axes.plot([], [], " ", label=f"at k = {last}: {norms[last] / norms[1]:.2g} of that at k = 1")
    draw_legend(axes)
    return figure
