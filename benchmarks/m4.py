"""Score M4 hourly with the metrics of the competition: ``python -m benchmarks.m4 FOLDER``.

FOLDER holds the two files of M4 hourly. One network is trained on all 414 series, the model steps through the
history of every series, and its forecast of the next 48 hours is scored, in about two minutes. The metrics
are sMAPE (at most 200 %), MASE with a season of 24, and MSIS at 95 % (Makridakis et al. 2020, "The M4
Competition", section 2). With ``--validation``, the last 48 training values are scored instead; settings were
chosen in this way. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import machine
from forecaster.arrays import Floats
from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance_in_place
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train

_HORIZON, _SEASON, _BLOCK = 48, 24, 24
_QUANTILES = (0.025, 0.5, 0.975)


def main() -> None:
    """Print the scores of each member, and the JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.m4", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--validation", action="store_true", help="score the last 48 training values instead")
    options = parser.parse_args()
    history = _read(options.folder / "M4-Hourly-train.csv")
    actuals = _read(options.folder / "M4-Hourly-test.csv")
    if options.validation:
        actuals = [values[-_HORIZON:] for values in history]
        history = [values[:-_HORIZON] for values in history]
    sys.stdout.write(f"{machine.described()}\n")
    windows = _windows(history)
    began_s = time.monotonic()
    network = NetworkConfig(horizon=_HORIZON, quantiles=_QUANTILES)
    # Train without a validation part, because the competition has none: all 12 default epochs are used.
    training = TrainingConfig(validation=0.0, backtest=0.0)
    model = train(windows, network, training, WindowConfig()).forecaster
    train_s, began_s = time.monotonic() - began_s, time.monotonic()
    found = {
        name: _scores(forecast, history, actuals)
        for name, forecast in _last_forecasts(model, windows, history).items()
    }
    replay_s = time.monotonic() - began_s
    for name, scores in found.items():
        sys.stdout.write(
            f"{name:24}" + "  ".join(f"{key} {value:.3f}" for key, value in scores.items()) + "\n"
        )
    sys.stdout.write(
        json.dumps({"train_s": round(train_s), "replay_s": round(replay_s), "members": found}) + "\n"
    )


def _read(path: Path) -> list[Floats]:
    with path.open() as file:
        rows = list(csv.reader(file))[1:]
    return [np.array([float(cell) for cell in row[1:] if cell not in ("", "NA")]) for row in rows]


def _windows(series: list[Floats]) -> Windows:
    values = np.full((max(map(len, series)), len(series)), np.nan)
    for s, own in enumerate(series):
        values[: len(own), s] = own
    return Windows(tuple(f"H{s + 1}" for s in range(len(series))), 376_944, values)


def _last_forecasts(model: Forecaster, windows: Windows, series: list[Floats]) -> dict[str, Floats]:
    """Return forecasts ``[Q or 1, S, N]`` by member, issued after the last value of each series."""
    state = model.new_series_state(windows.series_ids, windows.start)
    ends, forecasts = np.array([len(own) - 1 for own in series]), dict[str, Floats]()
    for first in range(0, len(windows.values), _BLOCK):
        block = windows.values[first : first + _BLOCK]
        made = advance_in_place(model, state, block, windows.start + first, keep_members=True)
        assert made.network is not None
        points = {name: values[None] for name, values in made.members.items() if name != "network"}
        for name, values in {"combined": made.values, "network": made.network, **points}.items():
            whole = forecasts.setdefault(name, np.full((len(values), len(series), _HORIZON), np.nan))
            for s in np.flatnonzero((ends >= first) & (ends < first + len(block))):
                whole[:, s] = values[:, ends[s] - first, s]
    return forecasts


def _scores(forecast: Floats, history: list[Floats], actuals: list[Floats]) -> dict[str, float]:
    rows = []
    for s, (past, actual) in enumerate(zip(history, actuals, strict=True)):
        point, unit = forecast[len(forecast) // 2, s], np.abs(past[_SEASON:] - past[:-_SEASON]).mean()
        off = np.abs(actual - point)
        row = [(200 * off / (np.abs(actual) + np.abs(point))).mean(), off.mean() / unit]
        if len(forecast) > 1:
            low, high = forecast[0, s], forecast[-1, s]
            outside = np.maximum(low - actual, 0) + np.maximum(actual - high, 0)
            row.append((high - low + 2 / 0.05 * outside).mean() / unit)
        rows.append(row)
    return dict(zip(("smape", "mase", "msis"), np.mean(rows, axis=0).tolist(), strict=False))


if __name__ == "__main__":
    main()
