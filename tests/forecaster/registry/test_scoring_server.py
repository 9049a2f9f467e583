"""Tests of a model behind the scoring server of MLflow, which accepts requests in JSON, CSV and Parquet."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecaster.model import Forecaster
from forecaster.serving import ServedForecaster
from tests.forecaster.registry.models import covariate_forecaster, covariate_history, forecaster, history

Post = Callable[..., tuple[int, Any]]


def serve_model(model: Forecaster, example: pl.DataFrame, folder: Path) -> Iterator[Post]:
    """Log a model and serve it with MLflow's scoring server; yield a function that posts a request body.

    The function takes the body and its content type, JSON by default, and returns the status and the decoded
    answer. It fails if the answer holds NaN or an infinity, which JSON does not have.
    """
    import mlflow
    import uvicorn
    from mlflow.pyfunc import scoring_server

    from forecaster.registry.registry import Registry

    store = Registry(f"sqlite:///{folder}/mlflow.db", "served")
    with store.start_run("served", {}) as run:
        run.log_model(model, "served", example)
    model_folder = next(folder.rglob("MLmodel")).parent
    app = scoring_server.init(mlflow.pyfunc.load_model(str(model_folder)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]

    def post(body: str | bytes, content_type: str = "application/json") -> tuple[int, Any]:
        data = body.encode() if isinstance(body, str) else body
        url = f"http://127.0.0.1:{port}/invocations"
        request = urllib.request.Request(url, data, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer, parse_constant=pytest.fail)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    yield post
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """Yield a function that posts a request to a served model that has no covariates; see `serve_model`."""
    yield from serve_model(forecaster(), history(3), tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def ask_with_covariates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """Yield a function that posts a request to a served model that uses covariates; see `serve_model`."""
    example = history(3).with_columns(pl.lit(1.0).alias("observed.heat"))
    yield from serve_model(covariate_forecaster(), example, tmp_path_factory.mktemp("served"))


def text_rows(rows: pl.DataFrame, time_format: str = "%Y-%m-%dT%H:%M:%S") -> list[dict[str, Any]]:
    return rows.with_columns(pl.col("timestamp").dt.strftime(time_format)).to_dicts()


def body_of(cell: str = "", column: str = "value") -> str:
    """Return a request with 40 hours of two series.

    If ``cell`` is not empty, this JSON text is the value of ``column`` in row 7.
    """
    rows = text_rows(history())
    if cell:
        rows[6][column] = "CELL"
    return json.dumps({"dataframe_records": rows}).replace('"CELL"', cell)


def by_column(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def text_values(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"value": str(row["value"])} for row in rows]


SHAPES: dict[str, Callable[[list[dict[str, Any]]], dict[str, Any]]] = {
    "records": lambda rows: {"dataframe_records": rows},
    "split": lambda rows: {
        "dataframe_split": {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    },
    "instances": lambda rows: {"instances": rows},
    "inputs": lambda rows: {"inputs": by_column(rows)},
    "rows of inputs": lambda rows: {"inputs": rows},
    "instances as text": lambda rows: {"instances": text_values(rows)},
    "inputs as text": lambda rows: {
        "inputs": by_column([row | {"value": str(row["value"])} for row in rows])
    },
}


def expected_rows(model: Forecaster, rows: pl.DataFrame) -> list[dict[str, Any]]:
    found = ServedForecaster(model).predict(rows).to_dicts()
    return [row | {"issued_at": row["issued_at"].isoformat()} for row in found]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_json_shape_gives_the_same_forecasts(ask: Post, shape: str) -> None:
    """A shape is one of the forms in which MLflow accepts rows in JSON."""
    status, answer = ask(json.dumps(SHAPES[shape](text_rows(history()))))
    assert status == 200, answer
    assert answer["predictions"] == expected_rows(forecaster(), history())


@pytest.mark.parametrize("shape", SHAPES)
def test_requests_with_missing_covariates_work_in_every_json_shape(
    ask_with_covariates: Post, shape: str
) -> None:
    rows = text_rows(covariate_history())
    if "text" in shape:
        rows = [row for row in rows if row["value"] is not None]
    status, answer = ask_with_covariates(json.dumps(SHAPES[shape](rows)))
    sent = covariate_history().filter(pl.col("value").is_not_null() | pl.lit("text" not in shape))
    assert status == 200, answer
    assert answer["predictions"] == expected_rows(covariate_forecaster(), sent)


@pytest.mark.parametrize("zone", ["Z", "+00:00", " +0000", ".000000Z"])
def test_the_scoring_server_reads_several_notations_of_utc(ask: Post, zone: str) -> None:
    rows = text_rows(history(), f"%Y-%m-%dT%H:%M:%S{zone}")
    status, answer = ask(json.dumps({"dataframe_records": rows}))
    assert (status, answer["predictions"]) == (200, expected_rows(forecaster(), history()))


def test_one_scoring_request_may_mix_times_of_several_zones(ask: Post) -> None:
    rows = text_rows(history(), "%Y-%m-%dT%H:%M:%SZ")
    tokyo = history().with_columns(pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo"))
    rows[::2] = text_rows(tokyo, "%Y-%m-%dT%H:%M:%S%:z")[::2]
    status, answer = ask(json.dumps({"dataframe_records": rows}))
    assert (status, answer["predictions"]) == (200, expected_rows(forecaster(), history()))


def test_the_scoring_server_continues_from_a_state_that_it_returned(ask: Post) -> None:
    rows, middle = history(), datetime(2013, 1, 2, tzinfo=UTC)
    begin, end = rows.filter(pl.col("timestamp") < middle), rows.filter(pl.col("timestamp") >= middle)
    first = {"dataframe_records": text_rows(begin), "params": {"return_state": True}}
    status, answer = ask(json.dumps(first))
    assert (status, sorted(answer["predictions"])) == (200, ["forecasts", "state"])
    assert answer["predictions"]["forecasts"] == expected_rows(forecaster(), begin)
    state = answer["predictions"]["state"]
    status, answer = ask(json.dumps({"dataframe_records": text_rows(end), "params": {"state": state}}))
    q50 = [row["q50"] for row in answer["predictions"]]
    np.testing.assert_allclose(q50, [row["q50"] for row in expected_rows(forecaster(), rows)], rtol=1e-5)
    status, answer = ask(json.dumps({"dataframe_records": text_rows(begin), "params": {"state": state}}))
    assert_one_line(status, answer)
    assert "is in a window that the state has closed" in answer["message"]


def test_the_scoring_server_refuses_an_unreadable_state_in_one_line(ask: Post) -> None:
    other = forecaster().initial_state().to_bytes()
    for state in ("?", "YWJj", base64.b64encode(other[:-30]).decode(), base64.b64encode(b"x" * 99).decode()):
        status, answer = ask(
            json.dumps({"dataframe_records": text_rows(history()), "params": {"state": state}})
        )
        assert_one_line(status, answer)
        assert "the parameter 'state' is not a state" in answer["message"]


def assert_one_line(status: int, answer: dict[str, Any]) -> None:
    assert 400 <= status < 500, answer
    assert "\n" not in answer["message"]
    assert "stack_trace" not in answer


def test_a_valid_scoring_request_returns_finite_median_forecasts(ask: Post) -> None:
    status, answer = ask(body_of())
    assert status == 200
    assert len(answer["predictions"]) == 6
    assert np.isfinite([row["q50"] for row in answer["predictions"]]).all()


@pytest.mark.parametrize(
    ("cell", "column", "message"),
    [
        ("Infinity", "value", "the history: row 7: value is infinite: correct it, or leave it out"),
        ("-Infinity", "value", "the history: row 7: value is infinite: correct it, or leave it out"),
        ("1e999", "value", "the history: row 7: value is infinite: correct it, or leave it out"),
        ("1e200", "value", "the history: row 7: value is beyond 1e+100"),
        ("1e300", "value", "the history: row 7: value is beyond 1e+100"),
        ('"warm"', "value", "the history: row 7: 'warm' is not a number"),
        ("true", "value", "the history: row 7: value holds a bool: give one number, text or time"),
        ("[1.0, 2.0]", "value", "the history: row 7: value holds a list"),
        ('{"a": {"b": 1}}', "value", "the history: row 7: value holds a dict"),
        ("[]", "series_id", "the history: row 7: series_id holds a list"),
        ("false", "series_id", "the history: row 7: series_id holds a bool"),
        ('"soon"', "timestamp", "the history: row 7: 'soon' is not a time"),
        ("[[]]", "timestamp", "the history: row 7: timestamp holds a list"),
        ('"1600-01-01"', "timestamp", "the history: row 7: '1600-01-01' is outside the years"),
        ("null", "series_id", "the history: row 7: series_id is missing"),
        ('" "', "series_id", "the history: row 7: series_id is missing"),
        ("null", "timestamp", "the history: row 7: time is missing"),
    ],
)
def test_scoring_server_refuses_invalid_rows_with_one_line_messages(
    ask: Post, cell: str, column: str, message: str
) -> None:
    status, answer = ask(body_of(cell, column))
    assert_one_line(status, answer)
    assert answer["message"].startswith(message)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", [None, [], {}, True, ""])
def test_every_json_shape_refuses_an_invalid_series_id(ask: Post, shape: str, cell: object) -> None:
    rows = text_rows(history(3))
    rows[4]["series_id"] = cell
    status, answer = ask(json.dumps(SHAPES[shape](rows)))
    if "instances" in shape and cell is True:
        return  # MLflow converts the ids in "instances" to text, so that True is a valid id.
    assert_one_line(status, answer)


@pytest.mark.parametrize("name", ["series_id", "timestamp", "value"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_json_shape_refuses_a_missing_column_in_one_line(ask: Post, shape: str, name: str) -> None:
    body = json.dumps(SHAPES[shape](text_rows(history(3)))).replace(f'"{name}"', '"other"')
    status, answer = ask(body)
    assert_one_line(status, answer)
    assert f"the history has no column '{name}'" in answer["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": []},
        {"dataframe_split": {"columns": ["series_id", "timestamp", "value"], "data": []}},
        {"inputs": {"series_id": [], "timestamp": [], "value": []}},
        {"instances": []},
        {"inputs": {}},
        {"inputs": "history"},
        {"dataframe_records": text_rows(history(3).with_columns(value=None))},
    ],
    ids=str,
)
def test_requests_without_usable_rows_are_refused_in_one_line(ask: Post, body: dict[str, Any]) -> None:
    assert_one_line(*ask(json.dumps(body)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("not JSON", "valid JSON"),
        ("\xff", "valid JSON"),
        ("", "valid JSON"),
        ("[" * 100_000, "cannot be answered"),
        ("[]", "must be a JSON dictionary"),
        ("{}", "must be a JSON dictionary"),
        ('{"rows": []}', "must be a JSON dictionary"),
        ('{"dataframe_split": {"columns": ["value"]}}', "must have 'data' field"),
        (
            '{"dataframe_split": {"columns": ["series_id", "value"], "data": [[1], [1, 2, 3]]}}',
            "not a valid dataframe",
        ),
        ('{"dataframe_records": 5}', "must be a list of records"),
        ('{"inputs": null}', ""),
        ('{"dataframe_records": [], "params": {"return_state": "perhaps"}}', "return_state"),
        ('{"dataframe_records": [], "params": []}', ""),
    ],
)
def test_a_malformed_request_is_refused_in_one_line(ask: Post, body: str, message: str) -> None:
    status, answer = ask(body.encode("latin-1"))
    assert_one_line(status, answer)
    assert message in answer["message"]


def csv_of(rows: pl.DataFrame) -> str:
    """Return observations as CSV: times in ISO 8601, exact numbers, and empty cells for missing values."""
    return rows.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv()


@pytest.mark.parametrize("content_type", ["text/csv", "text/csv; charset=utf-8"])
def test_a_csv_request_gives_the_forecasts_of_a_json_request(ask: Post, content_type: str) -> None:
    rows = history().with_columns(pl.col("value") / 7)
    status, answer = ask(csv_of(rows), content_type)
    assert (status, answer["predictions"]) == (200, expected_rows(forecaster(), rows))


def test_a_history_in_csv_can_hold_missing_values_and_covariates(ask_with_covariates: Post) -> None:
    status, answer = ask_with_covariates("\ufeff" + csv_of(covariate_history()), "text/csv")
    assert status == 200, answer
    assert answer["predictions"] == expected_rows(covariate_forecaster(), covariate_history())


def test_a_history_in_csv_keeps_leading_zeros_of_series_ids(ask: Post) -> None:
    rows = history().with_columns(series_id=pl.col("series_id").replace({"a": "007", "b": "1e3"}))
    status, answer = ask(csv_of(rows), "text/csv")
    assert status == 200, answer
    assert {row["series_id"] for row in answer["predictions"]} == {"007", "1e3"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the history has no column 'series_id'"),
        (b"series_id,timestamp,value\n", "the history has 0 rows"),
        (b"series_id,value\na,1\n", "the history has no column 'timestamp'"),
        (b"series_id,timestamp,value\na,2013-01-01,1,2\n", "line 2 has 4 cells and the header has 3"),
        (b"series_id,timestamp,value\na,2013-01-01\n", "line 2 has 2 cells and the header has 3"),
        (b'series_id,timestamp,value\n"a"b,2013-01-01,1\n', "line 2 is not CSV"),
        (b"series_id,timestamp,value\na,2013-01-01,warm\n", "row 1: 'warm' is not a number"),
        (b"series_id,timestamp,value\na,2013-01-01,inf\n", "row 1: value is infinite"),
        (b"series_id,timestamp,value\n,2013-01-01,1\n", "row 1: series_id is missing"),
        (b"series_id,timestamp,value\n\xff,2013-01-01,1\n", "byte 27 is not UTF-8"),
        (b"\x00", "the history"),
    ],
)
def test_an_invalid_csv_request_is_refused_in_one_line(ask: Post, body: bytes, message: str) -> None:
    status, answer = ask(body, "text/csv")
    assert_one_line(status, answer)
    assert message in answer["message"]


def test_a_parquet_history_is_answered_unless_it_is_truncated(ask: Post) -> None:
    kind, file = "application/vnd.apache.parquet", io.BytesIO()
    history().write_parquet(file)
    status, answer = ask(file.getvalue(), kind)
    assert (status, answer["predictions"]) == (200, expected_rows(forecaster(), history()))
    assert_one_line(*ask(file.getvalue()[:-50], kind))


def test_a_request_without_a_content_type_is_refused_in_one_line(ask: Post) -> None:
    status, answer = ask(body_of(), "")
    assert_one_line(status, answer)
    assert "no header Content-Type" in answer["message"]


def test_a_request_with_rows_years_apart_is_answered_within_seconds(ask: Post) -> None:
    began_s = time.monotonic()
    status, answer = ask(body_of('"1990-01-01T00:00:00"', "timestamp"))
    assert (status, len(answer["predictions"])) == (200, 6)
    assert time.monotonic() - began_s < 5


PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


@pytest.mark.parametrize("body", re.findall(r"--data '(.*?)'", PAGE.read_text(), re.DOTALL))
def test_documented_serving_requests_get_answers_with_the_documented_fields(ask: Post, body: str) -> None:
    status, answer = ask(body)
    assert status == 200, answer
    found = answer["predictions"]
    rows = found["forecasts"] if "return_state" in body else found
    (shown,) = re.findall(r"```json\n(.*?predictions.*?)```", PAGE.read_text(), re.DOTALL)
    (example,) = json.loads(shown)["predictions"]
    assert rows[0].keys() == example.keys()
    if "return_state" not in body:
        assert {row["series_id"] for row in rows} == {"EWR", "JFK"}
        assert [rows[0][name] for name in ("issued_at", "note")] == [example["issued_at"], example["note"]]
