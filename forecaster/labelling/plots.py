"""Figures about labels: confusion matrix, precision and recall, share of anomalies found, and loss.

They are drawn like the figures of `forecaster.reports.plots`, through Matplotlib's object interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from forecaster.arrays import Floats, Ints
from forecaster.reports import plots
from forecaster.reports.plot_style import FONT, INK, MUTED, PALETTE, PAPER, draw_legend, titled_axes
from forecaster.reports.plot_text import plain

_BLUES = LinearSegmentedColormap.from_list("blues", [PAPER, PALETTE[0]])
# With more classes than this, the counts do not fit into the cells of the confusion matrix.
_MOST_CLASSES_WITH_COUNTS = 16


def loss_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the training and validation loss of a label network by epoch; mark the lowest validation loss."""
    figure = plots.loss_figure(history)
    figure.axes[0].set_ylabel("weighted cross entropy")
    return figure


def confusion_figure(counts: Ints, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix: a cell's colour shows its share of its true class, its text is its count.

    Counts of 0 are not written, and no counts are written for more than 16 classes.

    Args:
        counts: ``[K, K]`` int64, one row per true class, one column per predicted class.
        classes: names of the K classes.

    Raises:
        ValueError: the shape of ``counts`` does not match the number of names.
    """
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(
            f"counts has shape {counts.shape}: give one row and one column for each of {len(classes)} classes"
        )
    side = min(3.6 + 0.42 * len(classes), 11.0)
    figure, axes = titled_axes("Confusion matrix", "predicted class", "true class", (side, side))
    axes.grid(visible=False)
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(share, cmap=_BLUES, vmin=0.0, vmax=1.0)
    if len(classes) <= _MOST_CLASSES_WITH_COUNTS:
        for (row, column), count in [
            ((r, c), counts[r, c]) for r in range(len(classes)) for c in range(len(classes))
        ]:
            if count:
                colour = PAPER if share[row, column] > 0.5 else INK
                axes.text(
                    column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=FONT - 1
                )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(len(classes)), [*map(plain, classes)])
    axes.tick_params(axis="x", rotation=0 if max(map(len, classes)) <= 3 else 45)
    return figure


def precision_recall_figure(
    recall: Floats, precision: Floats, average_precision: float, base_rate: float
) -> Figure:
    """Draw the precision of alarms against their recall, the share of anomalous steps that raise an alarm.

    Args:
        recall: ``[M]``, at each threshold.
        precision: ``[M]``, at each threshold.
        average_precision: area under the curve, for the legend.
        base_rate: share of anomalous steps, which is the precision of random alarms.

    Raises:
        ValueError: ``recall`` is empty.
    """
    if not len(recall):
        raise ValueError("recall is empty, because there is no anomalous step: give at least one such step")
    title = "Precision and recall of the alarms"
    figure, axes = titled_axes(title, "anomalous steps found", "alarms that are right", (5.6, 5.0))
    axes.plot(
        recall,
        precision,
        color=PALETTE[0],
        linewidth=1.8,
        drawstyle="steps-post",
        label=f"average precision {average_precision:.2f}",
    )
    axes.axhline(base_rate, color=MUTED, linestyle="--", linewidth=1.2, label=f"at random: {base_rate:.2f}")
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02))
    draw_legend(axes)
    return figure


def found_figure(kinds: Sequence[str], found: Sequence[int], of: Sequence[int]) -> Figure:
    """Draw the share of anomalies of each kind that were found, at one false alarm per series and week.

    Args:
        kinds: names of the kinds.
        found: number of anomalies of each kind that were found.
        of: number of anomalies of each kind.

    Raises:
        ValueError: ``kinds`` is empty.
    """
    if not kinds:
        raise ValueError("kinds is empty, so there is nothing to draw: give at least one kind of anomaly")
    title = "Anomalies found at one false alarm a week"
    figure, axes = titled_axes(title, "share found", "", (7.2, 1.6 + 0.42 * len(kinds)))
    axes.grid(visible=False)
    share = [f / max(n, 1) for f, n in zip(found, of, strict=True)]
    axes.barh(range(len(kinds)), share, color=PALETTE[0], height=0.62)
    for row, (f, n) in enumerate(zip(found, of, strict=True)):
        axes.text(share[row] + 0.01, row, f"{f:,} of {n:,}", va="center", color=INK, fontsize=FONT - 1)
    axes.set_yticks(range(len(kinds)), [*map(plain, kinds)])
    axes.set_xlim(0, 1.18)
    axes.invert_yaxis()
    return figure
