"""Tests of the output of ``statecast train --sweep``, which trains with several settings."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.cli import sweep as sweep_command
from pipelines.cli.console import Out
from pipelines.jobs import sweep
from pipelines.jobs.progress import Progress
from pipelines.jobs.sweep import SweepOutcome
from pipelines.jobs.trials import Trial
from pipelines.settings.config import JobConfig

TRIALS = (
    Trial(1, "finished", 0.25, {}, 1.0, "a"),
    Trial(2, "finished", 0.5, {"network.hidden": 32, "training.dropout": 0.123456}, 1.0, "b"),
    Trial(3, "pruned", 0.75, {"network.hidden": 48, "training.dropout": 0.2}, 1.0, "c"),
    Trial(4, "failed", None, {"network.hidden": 16, "training.dropout": 0.3}, 1.0, "d"),
)
BEST = "trial 2, skill 0.5000: -s network.hidden=32 -s training.dropout=0.123"


def test_a_sweep_prints_its_trials_and_the_best_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = SweepOutcome(None, TRIALS, TRIALS[1])  # type: ignore[arg-type]
    monkeypatch.setattr(sweep, "run_sweep", lambda *given: outcome)
    assert sweep_command.run_sweep_command(JobConfig(), "waves", 4, None, Out()) is outcome
    printed = capsys.readouterr().out
    rows = [line.split("│")[1:4] for line in printed.splitlines() if "│" in line]
    assert [[part.strip() for part in row] for row in rows] == [
        ["2", "finished", "0.5"],
        ["1", "finished", "0.25"],
        ["3", "pruned", "0.75"],
        ["4", "failed", ""],
    ]
    assert f"trained with {BEST}" in printed


def test_an_interrupted_sweep_reports_the_best_trial_so_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(job: Any, name: str, trials: int, progress: Progress, states: Any) -> None:
        for trial in TRIALS:
            progress.trial(trial)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run_sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep_command.run_sweep_command(JobConfig(), "waves", 9, None, Out(as_json=True))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"4 of 9 trials ended and are in MLflow; the best: {BEST}" in captured.err
