from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.forecaster.registry.models import forecaster, history

Post = Callable[[str], tuple[int, Any]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """Serve a logged model with MLflow's scoring server; yield a function that posts a JSON body.

    The function returns the status and the decoded answer.
    """
    import mlflow
    import uvicorn
    from mlflow.pyfunc import scoring_server

    from forecaster.registry.registry import Registry

    store_dir = tmp_path_factory.mktemp("served")
    store = Registry(f"sqlite:///{store_dir}/mlflow.db", "served")
    with store.start_run("served", {}) as run:
        run.log_model(forecaster(), "served", history(3))
    folder = next(Path(store_dir).rglob("MLmodel")).parent
    app = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]

    def post(body: str) -> tuple[int, Any]:
        kind = {"Content-Type": "application/json"}
        url = f"http://127.0.0.1:{port}/invocations"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body.encode(), kind), timeout=60
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    yield post
    server.should_exit = True
    thread.join()


def body_of(cell: str = "", column: str = "value") -> str:
    """Return a request with 40 hours of two series; ``cell``, if not empty, replaces ``column`` of row 7."""
    rows = history().with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S")).to_dicts()
    if cell:
        rows[6][column] = "CELL"
    return json.dumps({"dataframe_records": rows}).replace('"CELL"', cell)


def test_the_scoring_server_returns_finite_forecasts(ask: Post) -> None:
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
        ("null", "series_id", "the history: row 7: series_id is missing"),
        ('" "', "series_id", "the history: row 7: series_id is missing"),
        ("null", "timestamp", "the history: row 7: time is missing"),
    ],
)
def test_the_scoring_server_answers_invalid_rows_with_one_line(
    ask: Post, cell: str, column: str, message: str
) -> None:
    status, answer = ask(body_of(cell, column))
    assert 400 <= status < 500
    assert answer["message"].startswith(message)
    assert "\n" not in answer["message"]
    assert "stack_trace" not in answer


def test_the_scoring_server_answers_rows_years_apart_within_seconds(ask: Post) -> None:
    began_s = time.monotonic()
    status, answer = ask(body_of('"1990-01-01T00:00:00"', "timestamp"))
    assert (status, len(answer["predictions"])) == (200, 6)
    assert time.monotonic() - began_s < 5
