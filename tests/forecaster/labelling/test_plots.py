"""Tests of the figures in the report of a labeller."""

from __future__ import annotations

import io

import numpy as np
import pytest

from forecaster.labelling import plots as label_plots


def test_a_confusion_matrix_shows_counts_and_axis_labels() -> None:
    figure = label_plots.confusion_figure(np.array([[8, 2], [0, 5]]), ["ok", "bad"])
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["2", "5", "8"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ok", "bad"]
    figure.savefig(io.BytesIO())


def test_a_confusion_figure_of_many_classes_shows_no_counts() -> None:
    counts = np.diag([0] + [3] * 29)
    figure = label_plots.confusion_figure(counts, [f"class {k}" for k in range(30)])
    assert not figure.axes[0].texts
    figure.savefig(io.BytesIO())
    with pytest.raises(ValueError, match="give one row and one column for each of 2 classes"):
        label_plots.confusion_figure(counts, ["a", "b"])


def test_the_precision_recall_legend_shows_average_precision_and_chance() -> None:
    figure = label_plots.precision_recall_figure(np.array([0.5, 1.0]), np.array([1.0, 0.4]), 0.7, 0.1)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["average precision 0.70", "at random: 0.10"]
    figure.savefig(io.BytesIO())
    with pytest.raises(ValueError, match="no anomalous step"):
        label_plots.precision_recall_figure(np.empty(0), np.empty(0), 0.0, 0.0)


def test_a_figure_shows_how_many_anomalies_of_each_kind_were_detected() -> None:
    figure = label_plots.found_figure(["spike", "flat_line"], [9, 0], [10, 4])
    assert [text.get_text() for text in figure.axes[0].texts] == ["9 of 10", "0 of 4"]
    figure.savefig(io.BytesIO())
    with pytest.raises(ValueError, match="kinds is empty"):
        label_plots.found_figure([], [], [])


def test_the_loss_axis_is_labelled_weighted_cross_entropy() -> None:
    history = [{"epoch": 1, "train_loss": 2.0, "validation_loss": 1.5}]
    assert label_plots.loss_figure(history).axes[0].get_ylabel() == "weighted cross entropy"
