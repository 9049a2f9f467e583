"""Tests of the alerts that a stream sends if its coverage, errors or drift leave the configured band."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forecaster.evaluation.drift import InputDrift
from forecaster.shards.counts import Counts
from forecaster.shards.score_sums import ScoreSums
from pipelines.jobs.alerts import AlertWatch, check_alerts
from pipelines.settings.alert_config import AlertConfig
from pipelines.sinks.numbers import JobNumbers
from schemas.errors import ConfigError

SHARDS = 2


def rule(**changes: Any) -> AlertConfig:
    given = {"metric": "coverage", "band": [0.8, 0.98], "windows": 10, "command": "cat", "every_s": 3600}
    return AlertConfig.model_validate(given | changes)


def numbers(windows: int, inside: int, absolute: int = 0, shards: int = SHARDS) -> JobNumbers:
    """Return the `JobNumbers` of a job that has scored one forecast in each of its windows.

    Args:
        windows: the number of windows.
        inside: how many of the actuals were inside the prediction interval.
        absolute: the sum of the absolute errors.
        shards: how many shards have published their counts.
    """
    sums = ScoreSums(windows, absolute * 1_000_000, 0, windows, 0, inside)
    counts = Counts(rows_in=windows, windows=windows, scores={"lstm-1": {1: sums}})
    return JobNumbers(counts, closed_us=windows * 3_600_000_000, shards=shards)


def with_drift(windows: int, last_bucket: int) -> JobNumbers:
    drift = InputDrift([100] * 9 + [last_bucket], [100.0] * 10, "gate 7", 1.5)
    return JobNumbers(Counts(windows=windows), drift={"value": drift}, shards=SHARDS)


class Watched:
    """A holder of an `AlertWatch`; its fake sender only appends each alert to the list ``sent``."""

    def __init__(self, folder: Path, *rules: AlertConfig, is_resume: bool = False) -> None:
        self.now_s, self.lines, self.sent = 1e9, list[str](), list[dict[str, Any]]()
        self.watch = AlertWatch(
            rules, folder, SHARDS, self.lines.append, is_resume=is_resume, wall=lambda: self.now_s
        )
        self.watch._sender.send = self.record  # type: ignore[assignment]

    def record(self, name: str, message: dict[str, Any], command: str, webhook: str) -> None:
        self.sent.append(json.loads(json.dumps(message)))


def test_coverage_outside_its_band_sends_an_alert(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule())
    watched.watch.take(numbers(100, 90))
    watched.watch.take(numbers(105, 94))
    assert not watched.sent
    watched.watch.take(numbers(110, 96))  # 6 of the last 10 actuals are inside the interval
    (alert,) = watched.sent
    assert alert["text"] == (
        "coverage of lstm-1 at horizon 1 over the last 10 windows is 0.6, outside 0.8 to 0.98"
    )
    assert watched.lines == [f"alert: {alert['text']}"]
    assert alert["value"] == pytest.approx(0.6)
    assert (alert["metric"], alert["horizon"], alert["windows"]) == ("coverage", 1, 10)
    assert (alert["band"], alert["model_version"], alert["output"]) == ([0.8, 0.98], "lstm-1", str(tmp_path))
    assert alert["closed_at"] == "1970-01-05T14:00:00+00:00"


def test_a_mean_error_above_its_band_sends_an_alert(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(metric="error", band=[0, 1.5]))
    watched.watch.take(numbers(100, 100, absolute=100))
    watched.watch.take(numbers(110, 110, absolute=120))
    assert watched.sent[0]["value"] == pytest.approx(2.0)


def test_no_alert_is_sent_before_enough_windows_have_closed(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule())
    watched.watch.take(numbers(9, 0))
    assert not watched.sent
    watched.watch.take(numbers(10, 0))
    assert len(watched.sent) == 1


def test_drift_that_stays_outside_its_band_sends_an_alert(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(metric="drift", band=[0, 0.25]))
    watched.watch.take(with_drift(1, 5_000))
    watched.watch.take(with_drift(5, 100))
    watched.watch.take(with_drift(6, 5_000))
    watched.watch.take(with_drift(14, 5_000))
    assert not watched.sent
    watched.watch.take(with_drift(15, 5_000))
    (alert,) = watched.sent
    assert alert["text"].startswith("the drift of the input value has been outside 0 to 0.25 for 10 windows")
    assert alert["text"].endswith("; the worst series is gate 7 (1.5)")
    assert (alert["input"], alert["worst_series"]) == ("value", "gate 7")


def test_an_alert_repeats_only_after_the_configured_seconds(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule())
    for windows in range(10, 40, 10):
        watched.watch.take(numbers(windows, 0))
    assert len(watched.sent) == 1
    watched.now_s += 3600
    watched.watch.take(numbers(50, 0))
    assert len(watched.sent) == 2


def test_a_resumed_stream_repeats_alerts_only_after_an_hour(tmp_path: Path) -> None:
    before = Watched(tmp_path, rule())
    before.watch.take(numbers(10, 0))
    assert len(before.sent) == 1
    after = Watched(tmp_path, rule(metric="error", band=[0, 1]), rule(), is_resume=True)
    after.watch.take(numbers(8, 0))
    after.watch.take(numbers(20, 0))
    assert not after.sent
    after.now_s += 3601
    after.watch.take(numbers(30, 0))
    assert len(after.sent) == 1


def test_alerts_do_not_count_windows_before_the_stream_resumed(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(), is_resume=True)
    watched.watch.take(numbers(500, 10, shards=1))  # only one shard has published its counts
    watched.watch.take(numbers(1000, 100))
    assert not watched.sent
    watched.watch.take(numbers(1010, 109))
    assert not watched.sent
    watched.watch.take(numbers(1020, 109))
    assert len(watched.sent) == 1


def test_alerts_discard_earlier_readings_if_closed_windows_decrease(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule())
    watched.watch.take(numbers(100, 90))
    watched.watch.take(numbers(50, 45))
    watched.watch.take(numbers(55, 45))
    assert not watched.sent


def test_coverage_at_a_band_limit_sends_no_alert(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(band=[0.6, 0.9]))
    watched.watch.take(numbers(10, 6))
    watched.watch.take(numbers(20, 15))
    assert not watched.sent
    watched.watch.take(numbers(30, 25))  # the coverage 1.0 is above the band
    assert watched.sent[0]["value"] == 1.0


def test_a_rule_reads_the_scores_of_its_own_horizon(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(horizon=8), rule(horizon=24))
    good, bad = ScoreSums(10, 0, 0, 10, 0, 9), ScoreSums(10, 0, 0, 10, 0, 1)
    counts = Counts(windows=10, scores={"lstm-1": {1: good, 8: bad}})
    watched.watch.take(JobNumbers(counts, shards=SHARDS))
    (alert,) = watched.sent
    assert (alert["horizon"], alert["value"]) == (8, pytest.approx(0.1))
    assert alert["closed_at"] is None


def test_rules_differing_in_one_setting_each_send_an_alert(tmp_path: Path) -> None:
    """The first two rules differ in the horizon only, and the last two in the command only.

    If all rules shared one repeat time, only the first rule would send an alert.
    """
    watched = Watched(tmp_path, rule(horizon=1), rule(horizon=8), rule(horizon=8, command="wc"))
    bad = ScoreSums(10, 0, 0, 10, 0, 1)
    counts = Counts(windows=10, scores={"lstm-1": {1: bad, 8: bad}})
    watched.watch.take(JobNumbers(counts, shards=SHARDS))
    assert [alert["horizon"] for alert in watched.sent] == [1, 8, 8]


def test_each_alert_rule_uses_its_own_number_of_windows(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(windows=30, band=[0.8, 1]), rule(windows=5, band=[0, 0.9]))
    for windows in range(5, 65, 5):
        # all actuals after the 40th are outside the interval
        watched.watch.take(numbers(windows, min(windows, 40)))
    # After 45 windows, the interval contains 25 of the last 30 actuals; after 50, it contains only 20.
    assert [(alert["windows"], alert["value"]) for alert in watched.sent] == [
        (5, 1.0),
        (30, pytest.approx(20 / 30)),
    ]
    assert len(watched.watch._readings) == 30 / 5 + 1


def test_alert_readings_are_kept_only_after_a_window_closes(tmp_path: Path) -> None:
    """Counts are read far more often than windows close, so readings without a new window are dropped."""
    watched = Watched(tmp_path, rule())
    for _ in range(5):
        watched.watch.take(numbers(5, 5))
    assert [reading.windows for reading in watched.watch._readings] == [0, 5]


def drifts(windows: int, **last_buckets: int | None) -> JobNumbers:
    """Return the `JobNumbers` of a job after ``windows`` windows, with the drift of each input.

    A keyword argument says how many values of the input are in its last bucket; 100 are expected in each
    bucket. None stands for an input with too few values for a drift.
    """
    drift = {
        name: InputDrift((0,) * 10) if last is None else InputDrift([100] * 9 + [last], [100.0] * 10)
        for name, last in last_buckets.items()
    }
    scores = {version: {1: ScoreSums(1, 0, 0, 1, 0, 1)} for version in ("lstm-1", "gru-2")}
    return JobNumbers(Counts(windows=windows, scores=scores), drift=drift, shards=SHARDS)


def test_drift_that_rises_without_new_windows_sends_an_alert(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(metric="drift", band=[0, 0.25], windows=1))
    watched.watch.take(drifts(9, value=100))
    watched.watch.take(drifts(9, value=5_000))
    assert len(watched.sent) == 1


def test_an_alert_of_drift_names_the_input_that_drifted_most(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(metric="drift", band=[0, 0.25], windows=1))
    watched.watch.take(drifts(1, heat=None))
    assert not watched.sent
    watched.watch.take(drifts(2, value=5_000, heat=9_000, wind=100, rain=None))
    (alert,) = watched.sent
    assert (alert["input"], alert["model_version"], alert["worst_series"]) == ("heat", "gru-2", None)
    assert alert["text"].endswith(f"for 1 windows, and is {alert['value']:.3g}")


def test_each_drift_rule_counts_its_own_windows(tmp_path: Path) -> None:
    watched = Watched(
        tmp_path,
        rule(metric="drift", band=[0, 0.25], windows=10),
        rule(metric="drift", band=[0, 9.0], windows=10),
    )
    watched.watch.take(drifts(1, value=5_000))  # this drift is outside the first band, but inside the second
    watched.watch.take(drifts(6, value=10**9))
    watched.watch.take(drifts(10, value=10**9))
    assert [alert["band"] for alert in watched.sent] == [[0.0, 0.25]]
    watched.watch.take(drifts(14, value=10**9))
    assert len(watched.sent) == 1
    watched.watch.take(drifts(15, value=10**9))
    assert [alert["band"] for alert in watched.sent] == [[0.0, 0.25], [0.0, 9.0]]


def test_a_drift_rule_counts_anew_when_closed_windows_decrease(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(metric="drift", band=[0, 0.25]))
    watched.watch.take(with_drift(20, 5_000))
    watched.watch.take(with_drift(15, 5_000))
    watched.watch.take(with_drift(23, 5_000))
    assert not watched.sent
    watched.watch.take(with_drift(24, 5_000))
    assert len(watched.sent) == 1


def test_a_full_disk_does_not_prevent_sending_an_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.jobs.alerts.write_text", full)
    watched = Watched(tmp_path, rule())
    watched.watch.take(numbers(10, 0))
    assert len(watched.sent) == 1
    assert watched.lines[-1] == f"{tmp_path}/.alerts.json: cannot be written (No space left on device)"


def test_a_damaged_file_of_sent_alerts_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".alerts.json").write_text("{")
    watched = Watched(tmp_path, rule())
    watched.watch.take(numbers(10, 0))
    assert len(watched.sent) == 1


def test_the_file_of_sent_alerts_holds_no_secret(tmp_path: Path) -> None:
    watched = Watched(tmp_path, rule(command="", webhook="https://me:pass@example.org/hook/secret"))
    watched.watch.take(numbers(10, 0))
    text = (tmp_path / ".alerts.json").read_text()
    assert "pass" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"horizon": 5},
            "alerts[0].horizon = 5: the forecasts of this model are scored at the horizons 1, 8, 24: ",
        ),
        (
            {"command": "", "webhook": "$NOWHERE"},
            "alerts[0].webhook = $NOWHERE: set NOWHERE in the environment to http://HOST/PATH or ",
        ),
    ],
)
def test_check_alerts_refuses_unscored_horizons_and_unset_environment_variables(
    changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_alerts([rule(**changes)], 24)
    assert str(refused.value).startswith(line)


def test_the_webhook_address_may_be_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://example.org/hook")
    check_alerts([rule(command="", webhook="$HOOK")], 24)
    check_alerts([rule(metric="drift", horizon=5)], 24)
    assert rule(command="", webhook="$HOOK").webhook_address("alerts[0]") == "https://example.org/hook"
