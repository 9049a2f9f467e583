"""Tests that a stream scores its forecasts, sends alerts and logs to MLflow, in process and on Prism."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forecaster.components.profile import Profile
from forecaster.registry.registry import Registry
from forecaster.time.windows import Windows
from tests.fleets import START, forecaster, rows_of
from tests.pipelines.cli.conftest import start, wait_for_exit

WINDOWS = 200
JOB = """
[mlflow]
tracking_uri = "sqlite:///mlflow.db"
model = "weather"
[jobs]
shards = 2
[[alerts]]
metric = "coverage"
band = [0.999, 1]
command = "sh -c 'cat >> coverage'"
[[alerts]]
metric = "drift"
band = [0, 0.25]
windows = 1
command = "sh -c 'cat >> drift; exit 3'"
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder with a job file, rows, and a registered model.

    The profile of the model has other values of the series "s1" than the rows, so that "s1" drifts.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(WINDOWS, 3)).cumsum(axis=0)
    fleet = Windows(("s0", "s1", "s2"), START, values)
    other = np.stack([values[:, 0], values[:, 1] + 100.0, values[:, 2]], axis=1)
    model = replace(forecaster(), profile=Profile.of(replace(fleet, values=other)))
    rows_of(fleet).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "job.toml").write_text(JOB)
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db")
    with registry.start_run("training", {}) as run:
        run.log_model(model, "weather", rows_of(fleet).head(3))
    registry.promote("weather/1")
    return tmp_path


@pytest.mark.parametrize("runner", ["in-process", pytest.param("prism", marks=pytest.mark.prism)])
def test_a_stream_scores_its_forecasts_sends_alerts_and_logs_to_mlflow(runner: str, desk: Path) -> None:
    command = ("stream", "rows.parquet", "-c", "job.toml", "--runner", runner, "--json")
    ended = wait_for_exit(start(*command, cwd=desk))
    result = ended.json_object
    (version,) = result["quality"]
    horizons = result["quality"][version]
    # The first forecast of each series is not scored: after a single value, the series has no scale.
    assert {name: one["scored"] for name, one in horizons.items()} == {
        f"h{h}": 3 * (WINDOWS - 1 - h) for h in (1, 2, 3)
    }
    assert 0 < horizons["h1"]["coverage"] < 1

    alert = json.loads((desk / "coverage").read_text())
    assert (alert["metric"], alert["model_version"], alert["horizon"]) == ("coverage", version, 1)
    drift = json.loads((desk / "drift").read_text())
    assert (drift["input"], drift["worst_series"]) == ("value", "s1")
    assert "alert: coverage of" in ended.err
    assert "alerts[1]: the alert was not sent: sh ended with exit code 3" in ended.err

    registry = Registry(f"sqlite:///{desk}/mlflow.db")
    runs = registry.runs().sort("started")
    assert runs["name"].to_list() == ["training", "production"]
    again = wait_for_exit(start(*command, "--resume", cwd=desk))
    assert again.json_object["quality"] == result["quality"]
    assert "alert" not in again.err  # no new window was closed, so no alert is sent again
    assert len(registry.runs()) == 2


def test_an_alert_rule_for_an_unscored_horizon_is_refused(desk: Path) -> None:
    (desk / "job.toml").write_text(JOB.replace("band = [0.999, 1]", "band = [0.999, 1]\nhorizon = 7"))
    ended = wait_for_exit(start("stream", "rows.parquet", "-c", "job.toml", cwd=desk))
    assert ended.code == 2
    assert ended.stderr_line == (
        "error: alerts[0].horizon = 7: the forecasts of this model are scored at the horizons 1, 2, 3: "
        "choose one of them"
    )
    assert not (desk / "out" / "forecasts").exists()
