"""Tests of replays of the quarantine: outcomes of rows, repeated replays, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.jobs.quarantine_job import QuarantineJob
from pipelines.jobs.quarantine_replay import replay_quarantine
from pipelines.settings.data_config import Columns
from pipelines.sinks.files import read_forecasts, read_late, read_quarantine
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.quarantine_log import QuarantineLog
from pipelines.sources.quarantine_manifest import MANIFEST
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import store_of
from schemas.errors import ConfigError, DataError, OutputError, StatecastError
from tests.fleets import HOUR, forecaster
from tests.outputs import contents
from tests.pipelines.jobs.replays import DEFAULT_INPUT

COMMAS = Input(Columns.model_validate({"decimal": ",", "time_format": "auto"}))
HOURS = 80


@pytest.fixture
def ended(tmp_path: Path) -> QuarantineJob:
    """Run a backfill of 80 windows, and return the job that replays its quarantine.

    The backfill keeps only its last 32 to 64 windows for repairs. The quarantine holds a row of window 2,
    rows of the last two windows, a row of the window after them, a value that is not a number, and a second
    row of a series and time.
    """
    rows = [f"a,2013-01-{1 + hour // 24:02}T{hour % 24:02}:10Z,{hour}.5" for hour in range(HOURS)]
    late = [f'b,2013-01-{1 + hour // 24:02}T{hour % 24:02}:10Z,"{hour},5"' for hour in (2, 78, 79, 80)]
    others = ["b,2013-01-04T06:10Z,much", 'a,2013-01-04T06:10Z,"7,5"']
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["series_id,timestamp,value", *rows, *late, *others]))
    points = Input(Columns.model_validate({"decimal": "."}))
    job = BackfillJob(
        forecaster(), (str(path),), points, tmp_path / "out", shards=2, repair=24, max_quarantined=1.0
    )
    run_backfill(job)
    return QuarantineJob(forecaster=forecaster(), input=COMMAS, output=job.output, repair=24)


def test_each_row_of_a_quarantine_replay_has_one_outcome(ended: QuarantineJob) -> None:
    before = state_table.read(ended.states, series=False).counts
    outcome = replay_quarantine(ended)
    counts = outcome.counts
    assert counts.replayed == before.rejected == 6
    # The replayed row of series a replaces an earlier row that the job has used.
    assert (counts.used, counts.duplicates, counts.replaced, counts.late) == (3, 1, 1, 1)
    assert counts.quarantined == {"is not a number": 1}
    assert counts.pending == counts.missing == counts.rows_in == 0
    after = state_table.read(ended.states, series=False).counts
    assert (after.rows_in, after.replayed, after.missing) == (before.rows_in, 6, 0)
    assert outcome.left == after.in_quarantine == len(read_quarantine(ended.output)) == 1
    assert read_quarantine(ended.output)["row"].to_list() == [HOURS + 5]
    late = read_late(ended.output)
    assert late["series_id"].to_list() == ["b"]
    assert late["partition"][0].startswith("quarantine~")


def test_a_second_replay_changes_nothing(ended: QuarantineJob) -> None:
    replay_quarantine(ended)
    parts = ("forecasts", "late", "quarantine", "state")
    before = {part: contents(ended.output / part) for part in parts}
    outcome = replay_quarantine(ended)
    assert (
        outcome.nothing
        == f"{ended.output}: the row in quarantine is still not valid with these settings (1 is not a number)"
    )
    assert outcome.left == 1
    assert {part: contents(ended.output / part) for part in parts} == before
    for path in (ended.output / "quarantine").glob("*"):
        path.unlink()
    assert replay_quarantine(ended).nothing == f"{ended.output}: no row is in quarantine"


def test_replay_with_another_decimal_sign_keeps_quarantined_values(tmp_path: Path) -> None:
    rows = ["a,2013-01-01T00:10Z,1.234", "a,2013-01-01T01:10Z,0.5", "a,01.01.2013 02:10,1.234"]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["series_id,timestamp,value", *rows]))
    points = Input(Columns.model_validate({"decimal": "."}))
    job = BackfillJob(forecaster(), (str(path),), points, tmp_path / "out", repair=24, max_quarantined=1.0)
    run_backfill(job)
    german = Input(Columns.model_validate({"decimal": ",", "time_format": "%d.%m.%Y %H:%M"}))
    replay = QuarantineJob(forecaster=forecaster(), input=german, output=job.output, repair=24)
    assert replay_quarantine(replay).counts.used == 1
    run_backfill(replace(job, paths=(str(path),), output=tmp_path / "again"))
    history = next(shard.history for shard in state_table.read(job.states).shards if len(shard.state))
    assert history is not None
    assert sorted(value for frame in history.rows for value in frame["value"]) == [0.5, 1.234, 1.234]


def refusal(job: QuarantineJob, kind: type[StatecastError] = ConfigError) -> str:
    """Assert that a replay raises ``kind`` with one line and changes no output; return the message."""
    before = {part: contents(job.output / part) for part in ("forecasts", "late", "quarantine", "state")}
    with pytest.raises(kind) as raised:
        replay_quarantine(job)
    assert {part: contents(job.output / part) for part in before} == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_quarantine_replay_is_refused_while_the_job_runs(ended: QuarantineJob) -> None:
    with store_of(ended.output).locked():
        assert "is writing here" in refusal(ended, OutputError)


def test_a_replay_with_another_model_is_refused(ended: QuarantineJob) -> None:
    other = forecaster(seed=1)
    message = refusal(replace(ended, forecaster=other))
    assert f"was written by {ended.forecaster.version}, but {other.version} was loaded" in message


def test_a_quarantine_replay_without_windows_repair_is_refused(ended: QuarantineJob) -> None:
    assert "--set windows.repair=N" in refusal(replace(ended, repair=0))


def test_replay_with_all_valid_rows_too_late_is_refused(ended: QuarantineJob, tmp_path: Path) -> None:
    points = Input(Columns.model_validate({"decimal": "."}))
    path = tmp_path / "old.csv"
    path.write_text((tmp_path / "rows.csv").read_text().replace("2013-01-04", "2013-01-01"))
    job = BackfillJob(forecaster(), (str(path),), points, tmp_path / "plain", max_quarantined=1.0)
    run_backfill(job)
    message = refusal(replace(ended, output=job.output), DataError)
    assert "none of the 5 valid rows can be used" in message
    assert "run the job again with the corrected settings" in message


def test_replaying_a_quarantine_without_a_state_table_is_refused(ended: QuarantineJob) -> None:
    for path in ended.states.glob("*"):
        path.unlink()
    assert "holds no state table" in refusal(ended, DataError)


def interrupted(job: QuarantineJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a replay that fails before it has read a row, so that its manifest is left."""

    def fail(*_: object) -> None:
        raise DataError("failed on purpose")

    with monkeypatch.context() as patched:
        patched.setattr(QuarantineLog, "step", fail)
        with pytest.raises(DataError, match="failed on purpose"):
            replay_quarantine(job)
    assert (job.states / MANIFEST).exists()


def test_only_the_same_settings_can_complete_an_interrupted_replay(
    ended: QuarantineJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(ended, monkeypatch)
    other = replace(ended, input=DEFAULT_INPUT)
    with pytest.raises(ConfigError, match="a replay with other data settings was interrupted"):
        replay_quarantine(other)
    assert replay_quarantine(ended).counts.used == 3


def test_a_new_job_is_refused_after_an_interrupted_replay(
    ended: QuarantineJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interrupted(ended, monkeypatch)
    source = ReplaySource((str(tmp_path / "rows.csv"),), DEFAULT_INPUT, HOUR)
    stream = StreamJob(
        forecaster(), source, ended.output, shards=2, state_table=ended.states, runner="in-process"
    )
    with pytest.raises(ConfigError, match="statecast quarantine replay"):
        run_stream(stream)
    replay_quarantine(ended)
    run_stream(stream)
    assert len(read_forecasts(ended.output))
