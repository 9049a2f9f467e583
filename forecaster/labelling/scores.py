"""Scores that measure how good a labeller's predicted classes and alarms are.

Letters: K classes, N scored sequences or steps; T steps, S series, M thresholds, E anomalies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from forecaster.arrays import Bools, Floats, Floats32, Ints
from forecaster.labelling.sequences import UNKNOWN

_WEEK_S = 604_800
_TINY = 1e-12


def confusion(labels: Ints, chosen: Ints, classes: int) -> Ints:
    """Count predictions: one row for each true class, one column for each predicted class."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, chosen), 1)
    return counts


def class_scores(labels: Ints, probabilities: Floats32) -> dict[str, float]:
    """Return ``accuracy``, ``macro_f1`` and ``log_loss`` of the predicted probabilities of the classes.

    ``labels`` is ``[N]``, and ``probabilities`` is ``[N, K]``. The macro F1 is over the classes that occur as
    labels or as predictions. All are NaN if N is 0.
    """
    if not len(labels):
        return dict.fromkeys(("accuracy", "macro_f1", "log_loss"), float("nan"))
    counts = confusion(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    hits, both = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "accuracy": float(hits.sum() / len(labels)),
        "macro_f1": float(np.mean(2 * hits[both > 0] / both[both > 0])),
        "log_loss": float(-np.log(np.maximum(own, _TINY)).mean()),
    }


class Curve(NamedTuple):
    """The precision and the recall of alarms at each threshold, from the highest threshold to the lowest.

    Each array is ``[M]``. A step whose score is at or above the threshold raises an alarm.
    """

    threshold: Floats
    precision: Floats
    recall: Floats


def precision_recall(anomalous: Bools, score: Floats32) -> Curve:
    """Return precision and recall with each score as the threshold; empty if no step is anomalous."""
    if not anomalous.any():
        return Curve(np.empty(0), np.empty(0), np.empty(0))
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(anomalous[order])
    # Steps with equal scores share a threshold, so count hits up to the last of these steps.
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))
    found = hits[last]
    return Curve(score[order][last].astype(float), found / (last + 1), found / hits[-1])


def average_precision(curve: Curve) -> float:
    """Return the mean precision, weighted by the recall that each threshold adds; NaN for an empty curve."""
    if not len(curve.recall):
        return float("nan")
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def best_f1_threshold(curve: Curve) -> float:
    """Return the threshold with the highest F1; 0.5 for an empty curve."""
    if not len(curve.recall):
        return 0.5
    f1 = 2 * curve.precision * curve.recall / np.maximum(curve.precision + curve.recall, _TINY)
    return float(curve.threshold[int(f1.argmax())])


def weekly_threshold(ordinary: Floats32, freq_s: int) -> float:
    """Return the lowest score above which there is at most one false alarm per series and week, on average.

    Only the ordinary steps (steps without an anomaly) of all series are counted. If they last less than a
    week, no alarm is allowed. The threshold is 0.5 if there are no scores.

    Args:
        ordinary: ``[N]`` scores of steps without an anomaly; each score above the threshold is a false alarm.
        freq_s: seconds of a step: N steps of a series last ``N * freq_s`` seconds.
    """
    if not len(ordinary):
        return 0.5
    allowed = int(len(ordinary) * freq_s / _WEEK_S)
    return float(np.sort(ordinary)[max(len(ordinary) - 1 - allowed, 0)])


def alarm_scores(anomalous: Bools, score: Floats32, f1_threshold: float) -> dict[str, float]:
    """Return ``precision``, ``recall`` and ``f1`` of alarms at ``f1_threshold``, and ``average_precision``.

    Steps are counted; a step whose score is at or above the threshold raises an alarm.
    """
    raised = score >= f1_threshold
    hits = int((raised & anomalous).sum())
    precision = hits / raised.sum() if raised.any() else 0.0
    recall = hits / anomalous.sum() if anomalous.any() else float("nan")
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * hits / max(raised.sum() + anomalous.sum(), 1)),
        "average_precision": average_precision(precision_recall(anomalous, score)),
    }


class Events(NamedTuple):
    """Anomalies; each consists of consecutive steps of one series with the same anomalous label.

    Attributes:
        label: ``[E]``, the label of each anomaly.
        found: ``[E]``, True if any step of the anomaly raised an alarm.
    """

    label: Ints
    found: Bools


def events(labels: Ints, raised: Bools, background: int) -> Events:
    """Return the label of each anomaly, and whether an alarm was raised in any of its steps.

    ``labels`` and ``raised`` are ``[T, S]``. A step without a label ends an anomaly, and is not part of one.
    """
    kinds, found = [], []
    for own, flags in zip(labels.T, raised.T, strict=True):
        begins = np.flatnonzero(np.diff(own, prepend=UNKNOWN - 1))
        hits = np.add.reduceat(flags.astype(np.int64), begins) if len(begins) else np.empty(0)
        for label, hit in zip(own[begins], hits, strict=True):
            if label not in (UNKNOWN, background):
                kinds.append(label)
                found.append(hit > 0)
    return Events(np.array(kinds, np.int64), np.array(found, bool))
