"""Tests that an error names an invalid setting as the user wrote it: in a file, as an option, or by --set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from forecaster.labelling.config import LabelConfig
from pipelines.cli.settings import load_settings
from pipelines.settings.config import SECRET_SETTINGS
from pipelines.settings.invalid_setting import describe
from pipelines.settings.job_file import load_config
from schemas.errors import ConfigError


def refusal(set_: list[str] | None = None, job: Path | None = None, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(job, set_, **options)
    return str(caught.value)


def test_the_error_for_conflicting_settings_names_both_as_written(tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text("[data]\nstart = 2013-01-02\n")
    assert refusal(job=job, data__end="2013-01-01") == "--end must be later than data.start"
    assert refusal(["data.end=2013-01-01"], job) == "--set data.end must be later than data.start"
    message = refusal(["data.end=2013-01-01"], data__start="2013-01-02")
    assert message == "--set data.end must be later than --start"


def test_the_error_for_a_list_setting_names_the_invalid_element(tmp_path: Path) -> None:
    assert refusal(["network.lags=[1, 'x']"]) == '--set network.lags[1]="x": must be a whole number'
    assert refusal(data__paths=["a.csv", "s3://b/x"]).startswith('DATA "s3://b/x": must be a file')


def test_the_error_for_an_invalid_setting_lists_all_accepted_values() -> None:
    message = refusal(["kafka.start=soon"])
    allowed = "must be earliest or latest, or a time, such as 2013-01-31T05:00:00Z"
    assert message == f'--set kafka.start="soon": {allowed}'


def test_setting_a_section_raises_an_error_listing_its_settings() -> None:
    assert refusal(["output=3"]) == "--set output: no such setting; [output] has folder, format, flat"


def test_the_error_for_invalid_label_options_names_the_option() -> None:
    with pytest.raises(ValidationError) as caught:
        LabelConfig(hidden=0, layers=99)
    line = describe(caught.value, LabelConfig.model_fields, {"hidden": "--hidden "})
    assert line == "--hidden 0: must be 1 or more (and 1 more)"


@given(st.sampled_from(SECRET_SETTINGS), st.sampled_from([("s3cret", 1), {"a": {"b": "s3cret"}}, b"\xff"]))
@settings(deadline=None)
def test_an_invalid_secret_is_never_shown(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {key: value})
    assert "s3cret" not in str(caught.value)
    assert "= ***: " in str(caught.value)
