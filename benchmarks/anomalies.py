"""Measure which anomalies raise an alarm, by kind: ``python -m benchmarks.anomalies [FILE]``.

A forecaster is trained on the first rows. Then anomalies of known kinds are added to the later rows
(`forecaster.evaluation.injection`), and the forecaster steps through all rows. An anomaly counts as found if
one of its
windows raises an alarm. The last line of the output is one JSON object with the recall of each kind and the
alarms per week and series in windows without anomalies. FILE is a wide hourly file; the default is the
weather example.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.arrays import Bools, Floats, Ints
from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.evaluation.injection import KINDS, inject
from forecaster.stepping.advance import advance_in_place
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train

_WEEK, _BLOCK = 168, 240
_WARM = 336  # windows after the training rows that are not counted, because the threshold still adapts


def main() -> None:
    """Print the recall of each kind, and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--train-rows", type=int, default=2880)
    parser.add_argument("--alarms-per-week", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3, help="number of runs with newly drawn anomalies")
    options = parser.parse_args()
    values = _values(options.file)
    alarms = options.alarms_per_week
    found, drawn, ordinary, weeks = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0), 0, 0.0
    ids = tuple(f"s{i}" for i in range(values.shape[1]))
    trained = train(
        Windows(ids, 0, values[: options.train_rows]),
        NetworkConfig(),
        TrainingConfig(),
        WindowConfig(),
        online=OnlineConfig(alarms_per_week=alarms),
    ).forecaster
    first = options.train_rows + _WARM
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        changed, labels = inject(values, 3600, rng, every_s=4 * _WEEK * 3600, first=first)
        state, parts = trained.new_series_state(ids, 0), []
        for start in range(0, len(changed), _BLOCK):
            block = advance_in_place(trained, state, changed[start : start + _BLOCK], start)
            assert block.anomaly is not None
            parts.append(block.anomaly[1] > 0)
        raised = np.concatenate(parts)
        for kind, number, hit in _episodes(labels, raised):
            drawn[kind] += number
            found[kind] += hit
        ordinary += int((raised[first:] & _is_ordinary(labels)[first:]).sum())
        weeks += float(_is_ordinary(labels)[first:].sum()) / _WEEK
    recall = {kind: found[kind] / drawn[kind] if drawn[kind] else None for kind in KINDS}
    for kind, share in recall.items():
        shown = "none" if share is None else f"{share:.2f}"
        sys.stdout.write(f"{kind:16} {shown} of {drawn[kind]}\n")
    sys.stdout.write(
        json.dumps({"recall": recall, "drawn": drawn, "false_alarms_per_week": ordinary / weeks}) + "\n"
    )


def _values(path: Path | None) -> Floats:
    if path is None:
        from pipelines.examples.weather import weather

        frame = weather().pivot("series_id", index="timestamp", values="value").sort("timestamp")
        frame = frame.upsample("timestamp", every="1h")
        return frame.drop("timestamp").to_numpy().astype(np.float64)
    frame = pl.read_csv(path)
    return frame.select(pl.selectors.numeric()).to_numpy().astype(np.float64)


def _episodes(labels: Ints, raised: Bools) -> list[tuple[str, int, int]]:
    """Return for each anomaly its kind, the number 1, and 1 if it raised an alarm, else 0."""
    episodes = []
    for s in range(labels.shape[1]):
        own = labels[:, s]
        begins = np.flatnonzero((own > 0) & (own != np.concatenate([[0], own[:-1]])))
        for begin in begins:
            stop = begin + int((own[begin:] != own[begin]).argmax() or len(own) - begin)
            episodes.append((KINDS[own[begin] - 1], 1, int(raised[begin:stop, s].any())))
    return episodes


def _is_ordinary(labels: Ints) -> Bools:
    """Return True for windows outside anomalies and the days after them, which still affect forecasts."""
    near = labels > 0
    for _ in range(24):
        near[1:] |= near[:-1].copy()
    return ~near


if __name__ == "__main__":
    main()
