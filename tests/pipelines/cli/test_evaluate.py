"""Tests of ``statecast evaluate``, which trains on the first rows of a file and scores its test rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli.app import run
from tests.pipelines.cli.conftest import write_series

TINY = ("--set", "network.hidden=4", "--set", "network.layers=1", "--set", "training.epochs=1")


def test_evaluate_scores_a_wide_csv_and_writes_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["date,a,b"]
    lines += [f"2016-07-{1 + n // 24:02} {n % 24:02}:00:00,{n % 24},{5 + (n * 7) % 24}" for n in range(240)]
    (tmp_path / "wide.csv").write_text("\n".join(lines) + "\n")
    command = (
        "evaluate --data wide.csv --wide --freq 1h --horizons 1,3 --train-rows 144 --test-rows 150:230 "
        "--normalize train --report r/report.html --json"
    )
    assert run([*command.split(), *TINY]) == 0
    captured = capsys.readouterr()
    assert captured.err == "wide.csv: times have no zone, UTC assumed\n"
    *rows, last = [json.loads(line) for line in captured.out.splitlines()]
    assert {(row["member"], row["horizon"]) for row in rows} >= {("network", 1), ("persistence", 3)}
    assert {"train_s", "replay_s", "members"} <= set(last)
    assert last["members"]["network"]["3"]["mse"] == pytest.approx(
        next(row["mse"] for row in rows if (row["member"], row["horizon"]) == ("network", 3))
    )
    assert "<svg" in (tmp_path / "r" / "report.html").read_text()
    assert (tmp_path / "mlflow.db").exists()


def test_monthly_series_have_a_season_of_twelve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chance, months = np.random.default_rng(0), range(80)  # month 0 is January 1963
    year = 10 * chance.normal(size=(12, 4))
    values = [100 + year[m % 12] + 0.3 * m + 2 * chance.normal(size=4) for m in months]
    lines = [
        f"{1963 + m // 12}-{m % 12 + 1:02}-01,{','.join(map(str, row))}"
        for m, row in zip(months, values, strict=True)
    ]
    (tmp_path / "wide.csv").write_text("\n".join(["date,a,b,c,d", *lines]) + "\n")
    command = (
        "evaluate wide.csv --wide --freq 1mo --horizons 1,12 --train-rows 56 --json "
        "--set network.hidden=8 --set training.epochs=2"
    )
    assert run(command.split()) == 0
    members = json.loads(capsys.readouterr().out.splitlines()[-1])["members"]
    found = {name: [horizons[h]["mase"] for h in ("1", "12")] for name, horizons in members.items()}
    assert np.isfinite([*found.values()]).all()
    for seasonal, other in zip(found["seasonal_naive"], found["persistence"], strict=True):
        # The values have a yearly pattern, so with a season that is not whole years, seasonal naive would
        # have larger errors.
        assert seasonal < 0.5 * other
    assert (np.array(found["combined"]) < found["seasonal_naive"]).all()


def test_evaluate_truncates_no_text_in_an_80_column_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write_series(tmp_path / "long.csv", 200)
    assert run(["evaluate", "long.csv", "--train-rows", "150", "--horizons", "2", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "3 series of 200 windows: trained on the first 150" in printed
    assert "evaluated on 150 to 200" in printed
    assert "horizon 2: errors over the steps 1 to 2, the interval at step 2" in printed
    assert "seasonal_naive" in printed
    assert "…" not in printed  # nothing is cut off in a terminal of 80 columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--horizons 1,24", "--horizons is for a rolling evaluation: give --train-rows, too"),
        (
            "--train-rows 9 -f out",
            "--forecasts is for existing forecasts and has no effect with",
        ),
        ("--train-rows 9 --train-end 2013", "--train-end is for existing forecasts"),
        (
            "--train-rows 9 --horizons 1,x",
            "--horizons 1,x: write whole numbers of 1 or more, such as 1,24,48",
        ),
        ("--train-rows 9 --horizons 0", "--horizons 0: write whole numbers"),
        ("--train-rows 9 --test-rows 7", "--test-rows 7: write FIRST:STOP"),
        ("--train-rows 9 --test-rows 9:20 --test-from 9", "both set the test rows"),
        ("--train-rows 9 --normalize all", "'all' is not one of"),
        ("--train-rows 9 --quantiles 0.5,0.1", "--quantiles must rise"),
    ],
)
def test_evaluate_refuses_conflicting_or_invalid_options_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    write_series(tmp_path / "long.csv", 40)
    assert run(["evaluate", "long.csv", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "mlflow.db").exists()
