"""M4 hourly by the competition's own metrics: ``python -m benchmarks.m4 FOLDER``, which holds its two files.

One network is trained on all 414 series to their ends, every series is stepped through its history, and what
is forecast at its end for the next 48 hours is judged, in about two minutes: sMAPE (of 200 %), MASE with a
season of 24, and MSIS at 95 % (Makridakis et al. 2020, "The M4 Competition", section 2). With
``--validation`` the last 48 of the training values are judged instead, which is where settings were chosen.
The last line is one JSON object.
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
from forecaster.stepping import advance_in_place
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train

_HORIZON, _SEASON, _BLOCK = 48, 24, 24
_QUANTILES = (0.025, 0.5, 0.975)


def main() -> None:
    """Prints a line a member, and the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.m4", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--validation", action="store_true", help="judge the last 48 training values instead")
    options = parser.parse_args()
    learned = _read(options.folder / "M4-Hourly-train.csv")
    came = _read(options.folder / "M4-Hourly-test.csv")
    if options.validation:
        came = [values[-_HORIZON:] for values in learned]
        learned = [values[:-_HORIZON] for values in learned]
    sys.stdout.write(f"{machine.described()}\n")
    windows = _windows(learned)
    began_s = time.monotonic()
    network = NetworkConfig(horizon=_HORIZON, quantiles=_QUANTILES)
    # The competition has no validation part: what is chosen with one is the number of epochs, 12 by default.
    training = TrainingConfig(validation=0.0, backtest=0.0)
    model = train(windows, network, training, WindowConfig()).forecaster
    train_s, began_s = time.monotonic() - began_s, time.monotonic()
    found = {name: _scores(said, learned, came) for name, said in _at_ends(model, windows, learned).items()}
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


def _at_ends(model: Forecaster, windows: Windows, series: list[Floats]) -> dict[str, Floats]:
    """``[Q or 1, S, N]`` of every member: what it forecast as the last value of each series had come."""
    state = model.unseen(windows.series_ids, windows.start)
    ends, said = np.array([len(own) - 1 for own in series]), dict[str, Floats]()
    for first in range(0, len(windows.values), _BLOCK):
        block = windows.values[first : first + _BLOCK]
        made = advance_in_place(model, state, block, windows.start + first, keep_members=True)
        assert made.network is not None
        points = {name: values[None] for name, values in made.members.items() if name != "network"}
        for name, values in {"combined": made.values, "network": made.network, **points}.items():
            whole = said.setdefault(name, np.full((len(values), len(series), _HORIZON), np.nan))
            for s in np.flatnonzero((ends >= first) & (ends < first + len(block))):
                whole[:, s] = values[:, ends[s] - first, s]
    return said


def _scores(said: Floats, learned: list[Floats], came: list[Floats]) -> dict[str, float]:
    rows = []
    for s, (past, truth) in enumerate(zip(learned, came, strict=True)):
        point, unit = said[len(said) // 2, s], np.abs(past[_SEASON:] - past[:-_SEASON]).mean()
        off = np.abs(truth - point)
        row = [(200 * off / (np.abs(truth) + np.abs(point))).mean(), off.mean() / unit]
        if len(said) > 1:
            low, high = said[0, s], said[-1, s]
            outside = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
            row.append((high - low + 2 / 0.05 * outside).mean() / unit)
        rows.append(row)
    return dict(zip(("smape", "mase", "msis"), np.mean(rows, axis=0).tolist(), strict=False))


if __name__ == "__main__":
    main()
