"""Tests of the scores that measure a labeller, and of the threshold of its anomaly score for an alarm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (  # type: ignore[import-untyped]
    average_precision_score,
    f1_score,
    log_loss,
)

from forecaster.labelling import scores


@given(st.integers(0, 1000), st.integers(2, 5), st.integers(5, 60))
def test_class_scores_agree_with_scikit_learn(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    probabilities = rng.dirichlet(np.ones(classes), n).astype(np.float32)
    found = scores.class_scores(labels, probabilities)
    chosen = probabilities.argmax(axis=1)
    normalised = probabilities.astype(float) / probabilities.astype(float).sum(axis=1, keepdims=True)
    assert found["accuracy"] == pytest.approx((labels == chosen).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(labels, chosen, average="macro"))
    expected = log_loss(labels, normalised, labels=list(range(classes)))
    assert found["log_loss"] == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 1000), st.integers(2, 80), st.integers(1, 6))
def test_average_precision_of_equal_scores_agrees_with_scikit_learn(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    anomalous, score = rng.random(n) < 0.3, (rng.integers(0, levels, n) / levels).astype(np.float32)
    anomalous[0] = True
    found = scores.average_precision(scores.precision_recall(anomalous, score))
    assert found == pytest.approx(average_precision_score(anomalous, score))


def test_the_confusion_matrix_has_true_labels_in_rows() -> None:
    counts = scores.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_on_average_one_score_a_week_exceeds_weekly_threshold() -> None:
    score = np.random.default_rng(0).permutation(np.linspace(0, 1, 168 * 5, dtype=np.float32))
    assert (score > scores.weekly_threshold(score, 3600)).sum() == 5
    few = score[:100]  # a week has 168 hourly scores, more than these 100
    assert (few > scores.weekly_threshold(few, 3600)).sum() == 0
    assert scores.weekly_threshold(score[:0], 3600) == 0.5


def test_the_best_f1_threshold_separates_anomalous_steps() -> None:
    anomalous = np.array([True, True, False, False])
    score = np.array([0.9, 0.6, 0.5, 0.1], np.float32)
    threshold = scores.best_f1_threshold(scores.precision_recall(anomalous, score))
    assert scores.alarm_scores(anomalous, score, threshold) == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "average_precision": 1.0
    }  # fmt: skip
    none = scores.alarm_scores(np.zeros(4, bool), score, threshold)
    assert np.isnan(none["average_precision"])
    assert np.isnan(none["recall"])


def test_an_alarm_within_an_event_detects_the_event() -> None:
    labels = np.array([[0, 1, 1, 2, 0, -1, 1], [1, 0, 0, 0, 0, 0, 2]]).T
    raised = np.array([[1, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 1]], bool).T
    found = scores.events(labels, raised, background=0)
    assert found.label.tolist() == [1, 2, 1, 1, 2]
    assert found.found.tolist() == [True, False, False, False, True]


def test_all_scores_are_nan_if_there_are_no_labels() -> None:
    found = scores.class_scores(np.empty(0, np.int64), np.empty((0, 3), np.float32))
    assert np.isnan(list(found.values())).all()
