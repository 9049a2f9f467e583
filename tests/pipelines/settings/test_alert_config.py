"""Tests of alert rules in a job file: tables ``[[alerts]]`` with a measure, its band, and an action."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.settings.config import JobConfig
from pipelines.settings.job_file import commented_toml, load_config
from schemas.errors import ConfigError

COVERAGE = 'metric = "coverage"\nband = [0.8, 0.98]\n'


def load(folder: Path, text: str) -> JobConfig:
    (folder / "job.toml").write_text(text)
    return load_config(folder / "job.toml")


def test_alert_rules_are_read_in_order_with_their_defaults(tmp_path: Path) -> None:
    text = f'[jobs]\nshards = 2\n[[alerts]]\n{COVERAGE}command = "mail -s low"\n'
    text += '[[alerts]]\nmetric = "drift"\nband = [0, 0.25]\nwindows = 48\nwebhook = "https://a.org/x"\n'
    one, two = load(tmp_path, text).alerts
    assert (one.metric, one.band, one.horizon, one.windows, one.every_s) == (
        "coverage", (0.8, 0.98), 1, 24, 3600.0
    )  # fmt: skip
    assert one.command == "mail -s low"
    assert (two.metric, two.windows, two.webhook.get_secret_value()) == ("drift", 48, "https://a.org/x")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('band = [0, 1]\ncommand = "a"', "alerts[0].metric: is missing: measure to watch: coverage"),
        ('metric = "coverage"\ncommand = "a"', "alerts[0].band: is missing: smallest and largest value"),
        ('metric = "mape"\nband = [0, 1]', "alerts[0].metric: must be coverage, error or drift"),
        (COVERAGE, "alerts[0]: needs a command or a webhook, and not both"),
        (
            f'{COVERAGE}command = "a"\nwebhook = "https://a.org"',
            "alerts[0]: needs a command or a webhook, and not both",
        ),
        (
            f'{COVERAGE}command = "a\'b"',
            "alerts[0].command: cannot be split into words (No closing quotation)",
        ),
        (
            f'{COVERAGE}webhook = "ftp://me:pass@a.org"',
            "alerts[0].webhook: must be http://HOST/PATH, https://HOST/PATH or $NAME",
        ),
        (
            f'{COVERAGE}command = "a"\nwindow = 3',
            "alerts[0].window: no such setting; [[alerts]] has metric, band, horizon, windows, command,",
        ),
        (
            'metric = "drift"\nband = [1, 0]\ncommand = "a"',
            "alerts[0].band: must begin with the lower bound, such as [0.8, 0.98]",
        ),
        (
            'metric = "drift"\nband = 0.25\ncommand = "a"',
            "alerts[0].band: must be two numbers, such as [0.8, 0.98]",
        ),
        (
            'metric = "drift"\nband = [0, "a"]\ncommand = "a"',
            "alerts[0].band: must be two numbers, such as [0.8, 0.98]",
        ),
        (f'{COVERAGE}command = "a"\nwindows = 0', "alerts[0].windows: must be greater than or equal to 1"),
    ],
)
def test_the_error_for_invalid_alert_rules_names_the_setting(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, f"[[alerts]]\n{text}\n")
    assert str(refused.value).startswith(f"{tmp_path / 'job.toml'}: {line}")
    assert "pass" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["alerts = 3", "[alerts]\nmetric = 3", "alerts = [3]"])
def test_alerts_other_than_an_array_of_tables_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be tables that begin with \[\[alerts\]\]$"):
        load(tmp_path, text)


def test_a_written_job_file_holds_the_alert_rules(tmp_path: Path) -> None:
    text = f'[[alerts]]\n{COVERAGE}webhook = "$HOOK"\n[[alerts]]\n{COVERAGE}command = "a b"\nevery_s = 5.0\n'
    job = load(tmp_path, text)
    assert load(tmp_path, commented_toml(job)) == job
    example = commented_toml().partition("# [[alerts]]\n")[2].replace("# ", "")
    assert load(tmp_path, f"[[alerts]]\n{example}").alerts[0].metric == "coverage"


def test_commented_toml_refuses_a_webhook_that_may_hold_secrets(tmp_path: Path) -> None:
    job = load(tmp_path, f'[[alerts]]\n{COVERAGE}webhook = "https://a.org/secret"\n')
    with pytest.raises(ConfigError, match=r"^alerts\[0\]\.webhook: may hold a secret") as refused:
        commented_toml(job)
    assert "a.org" not in str(refused.value)


def test_flat_settings_contain_no_alert_rules(tmp_path: Path) -> None:
    """MLflow runs log some of these settings, and the address of a webhook may contain a secret."""
    job = load(tmp_path, f'[[alerts]]\n{COVERAGE}webhook = "https://a.org/secret"\n')
    assert not [key for key in job.flat() if key.startswith("alerts")]
