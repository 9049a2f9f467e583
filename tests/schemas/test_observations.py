"""Tests of the validation of rows, which accepts times and ids in many formats."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas import cells, observations, quarantine
from schemas.checking import failing
from schemas.errors import DataError
from schemas.observations import LARGEST, Observation, lacks_zone, validate
from schemas.quarantine import QuarantinedRow
from schemas.text_cells import text as cells_text

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
TIMES = st.datetimes(datetime(1678, 1, 2), datetime(2261, 12, 30), timezones=ZONES)


def raw_rows(timestamp: Any = "2013-01-01T00:00:00Z", value: Any = 1.0, series_id: Any = "a") -> pl.DataFrame:
    cells = {"series_id": series_id, "timestamp": timestamp, "value": value}
    return pl.DataFrame({name: cell if isinstance(cell, list) else [cell] for name, cell in cells.items()})


EDGES = [-LARGEST, LARGEST, math.nextafter(LARGEST, math.inf), -math.inf, math.nan, -math.nan, 0.0, None]
DAYS = [datetime(1678, 1, 1), datetime(1677, 12, 31, 23, 59, 59, 999_999), datetime(2262, 1, 1), None]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "", " ", "\t\n", "\u00a0", "\u3000", "\x1c", None]),
            st.sampled_from([*DAYS, datetime(2261, 12, 31, 23, 59, 59, 999_999)]) | st.datetimes(),
            st.sampled_from(EDGES) | st.floats(),
            st.sampled_from(["e", " ", None]),
            st.sampled_from(EDGES) | st.floats(),
        ),
        max_size=3,
    )
)
def test_the_fast_column_check_agrees_with_the_observation_schema(rows: list[tuple[object, ...]]) -> None:
    names = ["series_id", "timestamp", "value", "event_id", "observed.heat"]
    types = [pl.String(), pl.Datetime("us"), pl.Float64(), pl.String(), pl.Float64()]
    typed = observations._read(pl.DataFrame(rows, dict(zip(names, types, strict=True)), orient="row"))
    fails = failing(typed, observations._with_covariates(("observed.heat",)))
    reasons = {name for name in fails.columns if fails[name].any()}
    assert {name for name in names if not observations._is_good(typed.select(name))} == reasons


def reason(raw: pl.DataFrame) -> str:
    good, bad = validate(raw)
    assert good.is_empty()
    assert bad.height == 1
    return str(bad["reason"][0])


def time_of(cell: Any) -> datetime:
    good, bad = validate(raw_rows(timestamp=cell))
    assert bad.is_empty(), bad["reason"].to_list()
    found = good["timestamp"][0]
    assert isinstance(found, datetime)
    return found


CELL = st.one_of(
    st.none(), st.text(max_size=6), st.floats().map(str), st.integers().map(str), TIMES.map(str),
    st.sampled_from(["NA", "", " ", "null", "inf", "2013-02-30", "2013-01-01T24:00:00", "20130101"]),
)  # fmt: skip
COLUMN = st.one_of(
    st.just((CELL, pl.String())),
    st.just((st.none() | st.floats(), pl.Float64())),
    st.just((st.none() | st.integers(-(2**63), 2**63 - 1), pl.Int64())),
    st.just((st.none() | st.integers(0, 2**64 - 1), pl.UInt64())),
    st.just((st.none() | st.datetimes(), pl.Datetime("us"))),
    st.just((st.none() | st.dates(), pl.Date())),
    st.just((st.none() | st.booleans(), pl.Boolean())),
    st.just((st.none() | st.lists(st.integers(0, 9), max_size=2), pl.List(pl.Int64()))),
    st.just((st.none(), pl.Null())),
    st.just((st.none() | st.binary(max_size=3), pl.Binary())),
    st.just((st.none() | st.integers(-(2**63), 2**63 - 1), pl.Duration("us"))),
    st.just((st.none() | st.times(), pl.Time())),
    st.just((st.none() | st.decimals(-9999, 9999, places=2), pl.Decimal(20, 2))),
    st.just((st.none() | st.sampled_from(["1", "x"]), pl.Categorical())),
    st.just((st.none() | st.lists(st.binary(max_size=2), max_size=2), pl.List(pl.Binary()))),
    st.just((st.integers(-(2**63), 2**63 - 1), pl.Datetime("ms", "Asia/Kolkata"))),
    st.just((st.integers(-(2**63), 2**63 - 1), pl.Datetime("us"))),
    st.just((st.integers(-(2**31), 2**31 - 1), pl.Date())),
)


GOOD = {
    "series_id": (st.sampled_from(["a", "b", "NA"]), pl.String()),
    "timestamp": (TIMES.map(str), pl.String()),
    "value": (st.floats(allow_nan=False, allow_infinity=False), pl.Float64()),
    "event_id": (st.sampled_from(["e", "f"]), pl.String()),
}


@st.composite
def raw_frames(draw: st.DrawFn) -> pl.DataFrame:
    height = draw(st.integers(0, 12))
    names = ["series_id", "timestamp", "value"] + (["event_id"] if draw(st.booleans()) else [])
    columns: dict[str, pl.Series] = {}
    for name in names:
        cells, dtype = draw(COLUMN) if draw(st.booleans()) else GOOD[name]
        drawn = draw(st.lists(cells, min_size=height, max_size=height))
        if dtype.is_temporal() and all(isinstance(cell, int | None) for cell in drawn):
            columns[name] = (
                pl.Series(drawn, dtype=pl.Int64).cast(pl.Int32 if dtype == pl.Date else pl.Int64).cast(dtype)
            )
        else:
            columns[name] = pl.Series(drawn, dtype=dtype)
    if draw(st.booleans()):
        problems = draw(st.lists(st.sampled_from([None, "torn"]), min_size=height, max_size=height))
        columns["problem"] = pl.Series(problems, dtype=pl.String)
    return pl.DataFrame(columns)


@given(raw_frames())
@settings(max_examples=150, deadline=None)
def test_every_row_is_either_accepted_or_quarantined(raw: pl.DataFrame) -> None:
    height, with_event = raw.height, "event_id" in raw.columns
    good, bad = validate(raw.with_columns(row=pl.int_range(1, height + 1), file=pl.lit("f.csv")))
    rejected = set(bad["row"].to_list())
    assert good.height + bad.height == height
    assert len(rejected) == bad.height
    kept = [n for n in range(1, height + 1) if n not in rejected]
    # Validate the accepted rows again without the rejected rows: the result must not change.
    assert validate(raw[[n - 1 for n in kept]])[0].equals(good)
    assert list(good.columns) == list(observations.empty(with_event).columns)
    Observation.validate(good)
    QuarantinedRow.validate(bad)


@given(TIMES, st.sampled_from(["T", " "]))
@settings(max_examples=200, deadline=None)
def test_times_written_by_python_isoformat_are_read_back(when: datetime, part: str) -> None:
    assert time_of(when.isoformat(part)) == when.astimezone(UTC)


@given(st.lists(st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_times_are_read_equally_from_datetime_and_text_columns(when: list[datetime]) -> None:
    when = [w.replace(microsecond=w.microsecond // 1000 * 1000) for w in when]
    plain = pl.Series(when, dtype=pl.Datetime("us"))
    zoned = plain.dt.replace_time_zone("UTC")
    forms = [
        plain.cast(pl.Datetime("ms")),
        plain.cast(pl.Datetime("ns")),
        zoned,
        zoned.dt.convert_time_zone("Asia/Kolkata"),
        zoned.dt.strftime("%Y-%m-%d %H:%M:%S%.f%z"),
    ]
    for form in forms:
        good, bad = validate(pl.DataFrame({"timestamp": form}).with_columns(series_id=pl.lit("a"), value=1.0))
        assert bad.is_empty()
        assert good["timestamp"].equals(zoned.alias("timestamp"))


@pytest.mark.parametrize(
    "cell",
    [
        "2013-01-01T06:00:00Z", "2013-01-01 06:00", "2013-01-01T06:00:00.000000", "2013-01-01T11:30:00+05:30",
        "2013-01-01 01:00:00-0500", " 2013-01-01T07:00:00+01 ", "1357020000", 1357020000, 1357020000.0,
        1357020000_000, 1357020000_000_000, 1357020000_000_000_000, datetime(2013, 1, 1, 6),
    ],
)  # fmt: skip
def test_different_formats_of_one_time_give_the_same_time(cell: Any) -> None:
    assert time_of(cell) == datetime(2013, 1, 1, 6, tzinfo=UTC)


def test_a_date_is_read_as_midnight_in_utc() -> None:
    assert time_of(date(2013, 1, 1)) == time_of("2013-01-01") == datetime(2013, 1, 1, tzinfo=UTC)


def test_a_timestamp_column_may_mix_time_formats() -> None:
    times = ["2013-01-01", "2013-01-01T00:00:00Z", "1357020000", "soon"]
    good, bad = validate(raw_rows(times, [1.0] * 4, ["a"] * 4))
    assert good.height == 3
    assert bad["row"].to_list() == [4]


@pytest.mark.parametrize(
    ("raw", "reasons"),
    [
        (raw_rows(value="abc"), "'abc' is not a number"),
        (raw_rows(value="1,5"), "'1,5' is not a number"),
        (raw_rows(value=True), "'true' is not a number"),
        (raw_rows(value=""), "value is missing"),
        (raw_rows(value="NA"), "value is missing"),
        (raw_rows(value=math.nan), "value is NaN"),
        (raw_rows(value="nan"), "value is NaN"),
        (raw_rows(value=-math.inf), "value is infinite"),
        (raw_rows(timestamp="foo"), "'foo' is not a time"),
        (raw_rows(timestamp="01/02/2013"), "'01/02/2013' is not a time"),
        (raw_rows(timestamp=None), "time is missing"),
        (raw_rows(timestamp="1677-12-31"), "'1677-12-31' is outside the years 1678 to 2261"),
        (raw_rows(timestamp="9999-01-01"), "'9999-01-01' is outside the years 1678 to 2261"),
        (raw_rows(timestamp="20130131"),
         "'20130131' is a day written as a number: set data.time_format = '%Y%m%d'"),
        (raw_rows(series_id=None), "series_id is missing"),
        (raw_rows(series_id=" "), "series_id is missing"),
        (raw_rows("foo", math.nan), "'foo' is not a time; value is NaN"),
        (raw_rows().with_columns(event_id=pl.lit(None)), "event_id is missing"),
        (raw_rows().with_columns(problem=pl.lit("2 cells, not 3")), "2 cells, not 3"),
    ],
)  # fmt: skip
def test_a_quarantined_row_names_all_its_reasons(raw: pl.DataFrame, reasons: str) -> None:
    assert reason(raw) == reasons


def test_a_quarantined_row_names_its_first_invalid_column() -> None:
    bad = validate(raw_rows("foo", math.nan))[1]
    assert bad.select("column", "kind").row(0) == ("timestamp", "is not a time")


def test_a_quarantined_row_keeps_its_file_row_number_and_cells() -> None:
    raw = raw_rows(["2013-01-01", "x"], ["1", "2"], ["a", "b"]).with_columns(
        file=pl.lit("in.csv"), row=pl.Series([7, 8])
    )
    bad = validate(raw)[1].row(0, named=True)
    assert (bad["file"], bad["row"], bad["column"]) == ("in.csv", 8, "timestamp")
    assert json.loads(bad["raw"]) == {"series_id": "b", "timestamp": "x", "value": "2"}


def test_values_up_to_the_largest_allowed_value_are_accepted() -> None:
    good, bad = validate(raw_rows(["2013-01-01"] * 3, [str(LARGEST), str(-LARGEST), "-5e-324"], ["a"] * 3))
    assert good.height == 3
    assert bad.is_empty()


@pytest.mark.parametrize("cell", ["1.0000001e100", "-1.7976931348623157e308", 1e308])
def test_the_quarantine_reason_of_a_too_large_value_names_the_bound(cell: Any) -> None:
    assert reason(raw_rows(value=cell)) == "value is beyond 1e+100: its square leaves no room in a float64"


def test_series_ids_may_be_numbers_or_the_text_na() -> None:
    good, _ = validate(raw_rows(["2013-01-01"] * 2, [1.0, 2.0], [1, 2]))
    assert good["series_id"].to_list() == ["1", "2"]
    assert validate(raw_rows(series_id="NA"))[0].height == 1


def test_accepted_and_rejected_frames_have_exactly_their_schemas_columns() -> None:
    good, bad = validate(raw_rows().with_columns(file=pl.lit("f"), row=1, event_id=9))
    assert good.schema == observations.empty(event_id=True).schema
    assert bad.schema == quarantine.empty().schema


def test_the_error_for_a_missing_column_names_the_column() -> None:
    with pytest.raises(DataError, match="the rows lack value; their columns are: series_id, timestamp"):
        validate(raw_rows().drop("value"))


def test_disabling_pandera_validation_does_not_disable_row_checks() -> None:
    from pandera.config import config_context

    with config_context(validation_enabled=False):
        assert validate(raw_rows(value=math.nan))[0].is_empty()


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2013-01-01", True), ("2013-01-01 05:00", True), ("2013-01-01T05:00:00.5", True),
        ("2013-01-01T05:00:00Z", False), ("2013-01-01T05:00:00-05:00", False), ("1357020000", False),
        (1357020000, False), (datetime(2013, 1, 1), True), (datetime(2013, 1, 1, tzinfo=UTC), False),
        (date(2013, 1, 1), True), (None, False),
    ],
)  # fmt: skip
def test_lacks_zone_detects_times_without_time_zone(cell: Any, expected: bool) -> None:
    assert lacks_zone(raw_rows(timestamp=cell)) is expected


@given(st.lists(st.sampled_from(["2013-01-01", "2013-01-01 05:00+02", "1357020000", "x", "NA"]), max_size=20))
@settings(max_examples=30, deadline=None)
def test_times_in_a_column_equal_individually_parsed_times(texts: list[str]) -> None:
    alone = [cells.times(pl.Series([text]))[0] for text in texts]
    column = pl.Series(texts, dtype=pl.String)
    assert cells.times(column).to_list() == alone
    # In a long column with repeated texts, `cells.times` parses each distinct text only once.
    assert cells.times(pl.concat([column] * 4_000)).tail(len(texts)).to_list() == alone


def test_blanks_around_numbers_and_times_are_ignored() -> None:
    assert cells.numbers(pl.Series([" 1.5", "2\u00a0", "3", "x"])).to_list() == [1.5, 2.0, 3.0, None]
    times = cells.times(pl.Series([" 2013-01-01T00:00:00Z", "2013-01-01T00:00:00Z\t"]))
    assert times.to_list() == [datetime(2013, 1, 1, tzinfo=UTC)] * 2


def test_invalid_covariates_are_quarantined_and_empty_cells_are_missing() -> None:
    heat = ["1.5", "", None, "NaN", "warm", "inf", "1e200"]
    raw = raw_rows(
        value=[float(i) for i in range(7)], series_id=["a"] * 7, timestamp=["2013-01-01T00:00Z"] * 7
    )
    good, bad = validate(raw.with_columns(pl.Series("observed.heat", heat)))
    assert good.columns == ["series_id", "timestamp", "value", "observed.heat"]
    assert good["observed.heat"].to_list() == [1.5, None, None, None]
    assert bad["row"].to_list() == [5, 6, 7]
    assert bad["column"].to_list() == ["heat"] * 3
    assert bad["reason"].to_list() == [
        "heat 'warm' is not a number",
        "heat is infinite",
        "heat is beyond 1e+100: its square leaves no room in a float64",
    ]
    assert json.loads(bad["raw"][0])["observed.heat"] == "warm"


def test_an_observed_covariate_may_be_named_value_or_offset() -> None:
    raw = raw_rows().with_columns(pl.lit(3).alias("observed.value"), pl.lit("x").alias("observed.offset"))
    _, bad = validate(raw)
    assert bad.select("column", "reason").row(0) == ("offset", "offset 'x' is not a number")
    good, _ = validate(raw.drop("observed.offset").with_columns(offset=pl.lit(7, pl.Int64)))
    assert good.row(0, named=True)["observed.value"] == 3.0
    assert good.columns[-1] == "offset"


@given(st.integers(-99_999_999, 99_999_999) | st.floats(-99_999_999, 99_999_999))
@settings(max_examples=200, deadline=None)
def test_small_numbers_are_not_read_as_times(number: float) -> None:
    assert cells.times(pl.Series([number]))[0] is None
    assert cells.times(pl.Series([str(number)]))[0] is None


@given(st.datetimes(datetime(1973, 3, 4), datetime(2200, 1, 1)), st.sampled_from([10**6, 10**3, 1]))
@settings(max_examples=100, deadline=None)
def test_the_unit_of_epoch_times_is_inferred_from_their_size(when: datetime, per_tick_us: int) -> None:
    us = round(when.replace(tzinfo=UTC).timestamp()) * 10**6
    ticks = us // per_tick_us
    assume(not cells.times(pl.Series([str(ticks)]), "%Y%m%d%H%M").is_not_null()[0])
    assert time_of(ticks) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def test_months_and_quarters_are_read_as_their_first_days() -> None:
    texts = ["2013-04", " 2013Q2", "2013-Q2", "2013 q2", "2013-04-01", "2013-13", "2013Q5", "2013"]
    times = cells.times(pl.Series(texts))
    april = datetime(2013, 4, 1, tzinfo=UTC)
    assert times.to_list()[:5] == [april] * 5
    assert times.to_list()[5:7] == [None, None]
    assert cells.lacks_zone(pl.Series(["2013Q2"]))
    assert cells.lacks_zone(pl.Series(["2013-04"]))


def test_text_of_nested_cells_keeps_categories_and_decimals() -> None:
    struct = pl.Struct({"kind": pl.Categorical(), "price": pl.Decimal(10, 2), "time": pl.Datetime("ms")})
    cells = pl.Series([{"kind": "b", "price": Decimal("1.50"), "time": datetime(2020, 1, 1)}], dtype=struct)
    assert cells_text(cells).item() == '{"kind":"b","price":"1.50","time":1577836800000}'
    assert cells_text(pl.Series([["a", "b"], ["b"]], dtype=pl.List(pl.Categorical()))).to_list() == [
        '["a","b"]', '["b"]',
    ]  # fmt: skip
    days = pl.Series([[date(2020, 1, 1), date(2020, 1, 2)]], dtype=pl.Array(pl.Date(), 2))
    assert cells_text(days).item() == "[18262,18263]"
