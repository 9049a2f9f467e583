"""Compare label networks with simple baselines: ``python -m benchmarks.labels vowels`` or ``anomalies``.

``vowels`` has one label for each sequence and is scored on the published test part. Its baselines are the
nearest neighbour under dependent dynamic time warping, and logistic regression on means, standard deviations,
first and last values. ``anomalies`` has labels for steps and is scored on the last fifth of the time; its
baseline is logistic regression on the network's inputs of a step. The last line of the output is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from forecaster.arrays import Floats32, Ints
from forecaster.labelling import scores as judge
from forecaster.labelling.config import LabelConfig
from forecaster.labelling.sequences import TEST, TRAIN, VALIDATION, Sequences, build_sequences
from forecaster.labelling.training import TrainedLabeller, train_labeller
from pipelines.labelling.examples import anomalies, vowels

CELLS = ("lstm", "gru", "rnn")


def main() -> None:
    """Print the scores of each method, and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["vowels", "anomalies"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    found = of_vowels(options.seeds) if options.name == "vowels" else of_anomalies(options.seeds)
    sys.stdout.write(json.dumps(found) + "\n")


def _print_scores(name: str, scores: dict[str, float]) -> None:
    sys.stdout.write(f"{name:24}" + "  ".join(f"{key} {value:.3f}" for key, value in scores.items()) + "\n")
    sys.stdout.flush()


def of_vowels(seeds: int) -> dict[str, dict[str, float]]:
    """Return scores on the published test part by method; scores of networks are means over seeds."""
    frame = vowels()
    made = build_sequences(frame, [f"c{i}" for i in range(1, 13)])
    sequences, split = made.sequences, made.split
    assert split is not None
    test = split == TEST
    found = {}
    for cell in CELLS:
        runs = []
        for seed in range(seeds):
            trained = train_labeller(sequences, LabelConfig(cell=cell, seed=seed, threads=1), split)
            probabilities = trained.labeller.probabilities(sequences)
            runs.append(judge.class_scores(sequences.labels[test], probabilities[test]))
        found[cell] = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        found[cell]["lowest_accuracy"] = min(run["accuracy"] for run in runs)
        _print_scores(cell, found[cell])
    baselines = {"1-NN DTW": nearest_by_warping, "logistic regression": logistic_on_summaries}
    for name, baseline in baselines.items():
        predicted = baseline(sequences, split)
        found[name] = {"accuracy": float((predicted == sequences.labels[test]).mean())}
        _print_scores(name, found[name])
    return found


def nearest_by_warping(sequences: Sequences, split: Ints) -> Ints:
    """Return labels ``[N]`` of the test sequences: the label of the nearest training sequence.

    The distance is dependent dynamic time warping, which warps all channels together.
    """
    train, test = np.flatnonzero(split == TRAIN), np.flatnonzero(split == TEST)
    known = sequences.values[:, train]
    predicted = []
    for index in test:
        own = sequences.values[: sequences.lengths[index], index]
        cost = ((own[:, None, None] - known) ** 2).sum(axis=-1)
        total = np.full((len(own) + 1, len(known) + 1, len(train)), np.inf)
        total[0, 0] = 0.0
        for i in range(len(own)):
            for j in range(len(known)):
                least = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
                total[i + 1, j + 1] = cost[i, j] + least
        distance = total[len(own), sequences.lengths[train], np.arange(len(train))]
        predicted.append(sequences.labels[train[np.nanargmin(distance)]])
    return np.array(predicted)


def logistic_on_summaries(sequences: Sequences, split: Ints) -> Ints:
    """Return labels ``[N]`` of the test sequences by logistic regression on four numbers of each channel."""
    last = sequences.values[sequences.lengths - 1, np.arange(len(split))]
    mean, std = np.nanmean(sequences.values, axis=0), np.nanstd(sequences.values, axis=0)
    x = np.concatenate([mean, std, sequences.values[0], last], axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(x[split == TRAIN], sequences.labels[split == TRAIN])
    return np.asarray(model.predict(x[split == TEST]))


def of_anomalies(seeds: int) -> dict[str, dict[str, float]]:
    """Return scores of alarms on the last fifth of the time; scores of networks are means over seeds."""
    frame = anomalies().with_columns(pl.lit(None, pl.String).alias("split"))
    sequences = build_sequences(frame, ["value"]).sequences
    found: dict[str, dict[str, float]] = {}
    for cell in CELLS:
        runs = []
        for seed in range(seeds):
            trained = train_labeller(sequences, LabelConfig(cell=cell, seed=seed, threads=1))
            probabilities = trained.labeller.probabilities(sequences)
            runs.append(_alarms(sequences, trained, trained.labeller.alarm(probabilities)))
        found[cell] = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        _print_scores(cell, found[cell])
    x, _ = trained.labeller.step_inputs(trained.labeller.initial_state(sequences.start), sequences.values)
    learned = (trained.parts == TRAIN) & (sequences.labels >= 0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(x[learned], sequences.labels[learned] != trained.labeller.task.background)
    alarm = model.predict_proba(x.reshape(-1, x.shape[-1]))[:, 1].astype(np.float32)
    found["logistic regression"] = _alarms(sequences, trained, alarm.reshape(sequences.labels.shape))
    _print_scores("logistic regression", found["logistic regression"])
    return found


def _alarms(sequences: Sequences, trained: TrainedLabeller, alarm: Floats32) -> dict[str, float]:
    background = trained.labeller.task.background
    test, validated = ((trained.parts == part) & (sequences.labels >= 0) for part in (TEST, VALIDATION))
    score, anomalous = alarm, sequences.labels != background
    threshold = judge.weekly_threshold(score[validated & ~anomalous], sequences.freq_s)
    raised = (score > threshold) & test
    events = judge.events(np.where(test, sequences.labels, -1), raised, background)
    weeks = (test & ~anomalous).sum() * sequences.freq_s / 604_800
    curve = judge.precision_recall(anomalous[test], score[test])
    by_kind = {
        name: float(events.found[events.label == k].mean())
        for k, name in enumerate(sequences.classes)
        if (events.label == k).any()
    }
    return {
        "average_precision": judge.average_precision(curve),
        "recall_at_one_false_alarm_a_week": float(events.found.mean()),
        "false_alarms_a_week": float((raised & ~anomalous).sum() / weeks),
    } | by_kind


if __name__ == "__main__":
    main()
