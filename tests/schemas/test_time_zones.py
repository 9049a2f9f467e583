"""Tests that times without a zone are read as local times in the zone that ``data.time_zone`` names."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.settings.data_config import DataConfig
from schemas import cells, quarantine, validate

BERLIN = "Europe/Berlin"


def rows(times: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({"series_id": ["a"] * len(times), "timestamp": times, "value": [1.0] * len(times)})


@pytest.mark.parametrize(
    ("cell", "time_format"),
    [
        ("2014-05-30 02:30", "auto"),
        ("2014-05-30T02:30:00", "auto"),
        ("30.05.2014 02:30", "%d.%m.%Y %H:%M"),
        (datetime(2014, 5, 30, 2, 30), "auto"),
        ("41789.1041667", "excel"),
        (41789.1041667, "excel"),
        ("2014-05-30T00:30Z", "auto"),
        ("2014-05-30 02:30+02:00", "auto"),
        ("30.05.2014 02:30+0200", "%d.%m.%Y %H:%M%z"),
        (datetime(2014, 5, 30, 0, 30, tzinfo=UTC), "auto"),
        (1401409800, "auto"),
        ("1401409800", "auto"),
        (1401409800, "s"),
    ],
)
def test_the_given_time_zone_applies_to_local_times_only(cell: object, time_format: str) -> None:
    good, bad = validate(rows(pl.Series([cell])), time_format, BERLIN)
    assert bad.is_empty()
    assert good["timestamp"].to_list() == [datetime(2014, 5, 30, 0, 30, tzinfo=UTC)]


def test_a_date_is_read_as_midnight_in_the_configured_zone() -> None:
    for cell in (date(2014, 5, 30), "2014-05-30"):
        (found,) = cells.times(pl.Series([cell]), time_zone=BERLIN)
        assert found == datetime(2014, 5, 29, 22, tzinfo=UTC)


def test_skipped_and_repeated_local_times_are_quarantined_with_reasons() -> None:
    times = pl.Series(
        ["2014-03-30 02:30", "2014-10-26 02:00", "2014-10-26 02:00+01:00", "soon", "2014-10-26 03:00"]
    )
    good, bad = validate(rows(times), "auto", BERLIN)
    assert good["timestamp"].to_list() == [datetime(2014, 10, 26, h, tzinfo=UTC) for h in (1, 2)]
    assert bad["kind"].to_list() == ["local time does not exist", "local time exists twice", "is not a time"]
    assert set(bad["kind"]) <= set(quarantine.KINDS)
    assert bad["reason"][0] == (
        "'2014-03-30 02:30' does not exist in Europe/Berlin, where clocks are set forward: write times with "
        "their offset from UTC, such as +01:00"
    )
    assert "'2014-10-26 02:00' exists twice in Europe/Berlin" in bad["reason"][1]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)), max_size=20),
)
def test_local_times_agree_with_zoneinfo(zone: str, times: list[datetime]) -> None:
    found = cells.times(pl.Series(times, dtype=pl.Datetime("us")), time_zone=zone).to_list()
    for local, read in zip(times, found, strict=True):
        first, second = (local.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1))
        assert read == (first if first == second else None)


@settings(deadline=None)
@given(st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)))
def test_local_times_in_text_and_datetimes_give_equal_instants(time: datetime) -> None:
    time = time.replace(microsecond=0)
    text = pl.Series([f"{time:%Y-%m-%d %H:%M:%S}", f"{time:%Y-%m-%dT%H:%M:%S}Z"])
    typed = cells.times(pl.Series([time]), time_zone=BERLIN)[0]
    assert cells.times(text, time_zone=BERLIN).to_list() == [typed, time.replace(tzinfo=UTC)]


def test_times_are_utc_without_a_configured_zone() -> None:
    times = pl.Series([datetime(2014, 3, 30, 2, 30), datetime(2014, 3, 30, 2, 30) + timedelta(days=210)])
    assert cells.times(times).equals(cells.times(times, time_zone="UTC"))


def test_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a name in the time zone database, such as Europe/Berlin"):
        DataConfig(time_zone="Mars/Olympus")
    assert DataConfig(time_zone=BERLIN).time_zone == BERLIN
