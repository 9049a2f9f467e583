"""Tests of the job file in TOML, and of options that override its settings."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.settings.config import JobConfig
from pipelines.settings.job_file import commented_toml, load_config
from schemas.errors import ConfigError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "data.paths": st.lists(TEXT, max_size=3),
        "data.start": st.datetimes(timezones=st.just(UTC)),
        "data.series_id": TEXT,
        "data.skip_bad_files": st.booleans(),
        "network.hidden": st.integers(1, 4096),
        "network.lags": st.lists(st.integers(1, 167), max_size=3),
        "training.learning_rate": st.floats(1e-300, 100.0),
        "windows.freq": st.sampled_from(["30s", "1d12h"]),
        "stream.speed": st.floats(0, 1e300),
        "mlflow.experiment": TEXT,
    },
)


def message_of_refusal(text: str, tmp_path: Path, **options: object) -> str:
    """Read a job file that must be refused; return the message, which must be one line."""
    job = tmp_path / "job.toml"
    job.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(job, {key.replace("__", "."): value for key, value in options.items()})
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(job), "job.toml")


def test_settings_have_defaults_without_a_job_file_or_options() -> None:
    assert load_config() == JobConfig()


@given(OVERRIDES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_written_job_file_reads_back_unchanged(tmp_path: Path, overrides: dict[str, Any]) -> None:
    config = load_config(None, overrides)
    job = tmp_path / "job.toml"
    job.write_text(commented_toml(config), encoding="utf-8", newline="")
    assert load_config(job) == config


def test_every_setting_that_is_commented_out_has_a_valid_example(tmp_path: Path) -> None:
    section, examples = "", []
    for line in commented_toml().partition("# [[alerts]]")[0].splitlines():
        section = line if line.startswith("[") else section
        if re.match(r"# \w+ = ", line):
            examples.append(f"{section}\n{line[2:]}\n")
    assert {name for text in examples for name in re.findall(r"^\w+", text, re.MULTILINE)} >= {"end", "flat"}
    for text in examples:
        (tmp_path / "job.toml").write_text(text)
        load_config(tmp_path / "job.toml")


def test_commented_toml_writes_a_comment_above_every_setting() -> None:
    lines = commented_toml().splitlines()
    for key in JobConfig().flat():
        leaf = key.partition(".")[2]
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{leaf} = "))
        assert lines[at - 1].startswith("# ")
    assert "# None" not in lines


def test_options_override_the_job_file(tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text('[network]\nhidden = 32\nlayers = 1\n[data]\nstart = 2013-01-01\npaths = ["a"]\n')
    options = {
        "network.hidden": "128", "network.quantiles": "[0.25, 0.5]", "mlflow.experiment": "2024",
        "data.paths": "in.csv", "data.end": "2013-09-01T00:00:00+02:00", "training.epochs": None,
        "training.seed": 3,
    }  # fmt: skip
    config = load_config(job, options)
    assert (config.network.hidden, config.network.layers, config.training.seed) == (128, 1, 3)
    assert config.network.quantiles == (0.25, 0.5)
    assert config.mlflow.experiment == "2024"
    assert config.data.paths == ("in.csv",)
    assert config.data.start == datetime(2013, 1, 1, tzinfo=UTC)
    assert config.data.end == datetime(2013, 8, 31, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network]\nhorizon = -3", "job.toml: network.horizon = -3: must be 1 or more"),
        ("[network]\nhidden = 2.5", "job.toml: network.hidden = 2.5: must be a whole number"),
        ('[network]\nhidden = "many"', 'job.toml: network.hidden = "many": must be a whole number'),
        ('[network]\ncell = "lsm"', 'job.toml: network.cell = "lsm": must be lstm, gru or rnn'),
        ("[network]\nlags = 3", "job.toml: network.lags = 3: must be a list, such as [1, 2]"),
        ("[network]\nlags = [1, 'x']", 'job.toml: network.lags[1] = "x": must be a whole number'),
        ("[network]\nquantiles = [0.9, 0.5]", "job.toml: network.quantiles must rise, without repeats"),
        ("[network]\nhiden = 3", "job.toml: network.hiden: no such setting; did you mean network.hidden?"),
        ("[jobs]\nhidden = 3", "job.toml: jobs.hidden: no such setting; did you mean network.hidden?"),
        ("[netwrk]\nhidden = 3", "job.toml: netwrk: no such setting; did you mean network?"),
        ("[output]\nxyz = 3", "job.toml: output.xyz: no such setting; [output] has folder, format, flat"),
        ("network = 3", "job.toml: network = 3: must be a section that begins with [network]"),
        (
            '[windows]\nfreq = "1x"',
            "job.toml: windows.freq = \"1x\": '1x' is no duration: write 30s, 15m, 1h, 1d or 1d12h; 1w-sun for weeks that begin on Sundays; 1mo, 3mo, 1q or 1y for calendar months, quarters or years",  # noqa: E501
        ),
        ("[stream]\nspeed = inf", "job.toml: stream.speed = inf: must be a finite number"),
        ("[data]\nskip_bad_files = 7", "job.toml: data.skip_bad_files = 7: must be true or false"),
        (
            '[data]\nstart = "soon"',
            'job.toml: data.start = "soon": must be a time, such as 2013-01-31T05:00:00Z',
        ),
        ("[data]\nstart = 2013-01-02\nend = 2013-01-01", "job.toml: data.end must be later than data.start"),
        ('[mlflow]\nmodel = ""', 'job.toml: mlflow.model = "": must not be empty'),
        ("[network]\nhidden = 0\nlayers = 0", "job.toml: network.hidden = 0: must be 1 or more (and 1 more)"),
        ("[network]\nhidden =\n", "job.toml: line 2, column 9: not valid TOML: Invalid value"),
    ],
)  # fmt: skip
def test_the_error_for_invalid_job_files_names_the_fault(text: str, message: str, tmp_path: Path) -> None:
    assert message_of_refusal(text, tmp_path) == message


def test_the_error_for_an_invalid_option_names_the_option(tmp_path: Path) -> None:
    assert (
        message_of_refusal("", tmp_path, network__horizon="-3")
        == "option network.horizon = -3: must be 1 or more"
    )
    message = message_of_refusal("", tmp_path, network__horizn=3)
    assert message == "option network.horizn: no such setting; did you mean network.horizon?"


def test_a_missing_or_unreadable_job_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such job file; `statecast init` writes one"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "junk.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        load_config(tmp_path / "junk.toml")


@pytest.mark.parametrize(
    ("text", "read"),
    [("store", "store"), ("3", "3"), ("1.10", "1.10"), ('["store", "item"]', ("store", "item"))],
)
def test_the_series_id_option_accepts_one_or_several_columns(text: str, read: object) -> None:
    assert load_config(overrides={"data.series_id": text}).data.series_id == read
