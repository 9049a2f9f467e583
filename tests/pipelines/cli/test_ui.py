"""Tests of ``statecast ui``, its MLflow pages in a real browser, and the commands ``runs`` and ``models``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.registry.registry import Registry
from forecaster.registry.runs_view import _packed, view
from forecaster.time.window_config import WindowConfig
from pipelines.cli.app import run
from tests.browser import CHROMIUM, DRIVER, Browser, browser
from tests.forecaster.registry.models import history
from tests.pipelines.cli.conftest import ROOT

SKILL = {"lstm": 0.31, "gru": 0.28, "rnn": 0.05}
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of a store with an RNN, an LSTM and a GRU run; all models are named ``weather``."""
    folder = tmp_path_factory.mktemp("ui")
    registry = Registry(f"sqlite:///{folder}/mlflow.db", unsent=folder / "unsent")
    for cell in ("rnn", "lstm", "gru"):
        network = NetworkConfig.model_validate({"cell": cell, "hidden": 4, "layers": 1, "horizon": 3})
        with registry.start_run(cell, {"network.cell": cell}, {"statecast.job": "train"}) as run:
            run.log_dataset(history(), ["weather.parquet"])
            for epoch in (1, 2, 3):
                run.log_epoch({"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 1.2 / epoch})
            run.log_model(Forecaster.untrained(network, WindowConfig()), "weather", history(3))
            run.log_metrics(
                {
                    "backtest/skill_vs_persistence": SKILL[cell],
                    "backtest/mase_h1": 1 - SKILL[cell],
                    "backtest/coverage_90": 0.9,
                },
                of_model=True,
            )
            for horizon in (1, 2, 3):
                points = {"mase_by_horizon": 0.5, "mase_by_horizon_persistence": 0.8}
                run.log_points({f"backtest/{k}": v * horizon for k, v in points.items()}, horizon)
            run.name_first_version("weather", "champion", "it is the first")
            run.name_first_version("weather", "champion", "the first version")
            run.describe_version("weather", f"{cell.upper()} with 1 x 4 cells; skill {SKILL[cell]:+.1%}")
    return registry.tracking_uri


@dataclass
class Ui:
    """A running ``statecast ui``.

    Attributes:
        url: the URL that the command printed.
        errors: the file with the output of the command on stderr.
    """

    url: str
    errors: Path


@pytest.fixture(scope="module")
def ui(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "ui",
        "--port",
        str(port),
        "--tracking-uri",
        store,
        "--json",
    ]
    errors = folder / "errors.txt"
    with errors.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
            stderr=stream, text=True, start_new_session=True,
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, errors.read_text()
    yield Ui(json.loads(line)["url"], errors)
    process.terminate()
    process.stdout.close()
    process.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def address_of(ui: Ui) -> str:
    return ui.url.partition("/#/")[0]


def in_order(page: Browser, role: str, side: str, texts: list[str]) -> list[str]:
    """Return each of ``texts`` that is a line of an element with the ARIA role ``role``, sorted by position.

    The position is the ``side`` of the element on the page, ``left`` or ``top``.

    The page places the headers and rows of its table by styles, so their order in the page's text can differ.
    """
    elements = page.run(
        f"return [...document.querySelectorAll('[role={role}]')]"
        f".map(e => [e.getBoundingClientRect().{side}, e.innerText])"
    )
    lines = [line.strip() for _, text in sorted(elements) for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line in texts))


@needs_browser
def test_the_first_page_of_the_ui_shows_runs_sorted_by_skill(ui: Ui, page: Browser) -> None:
    page.open(ui.url)
    text = page.wait_for("skill_vs_persistence", "lstm", "gru", "rnn")
    assert "weather.parquet" in text
    expected = [f"backtest/{name}" for name in ("skill_vs_persistence", "mase_h1", "coverage_90")]
    page.wait_until(lambda: in_order(page, "columnheader", "left", expected), lambda found: found == expected)
    runs = ["lstm", "gru", "rnn"]
    page.wait_until(lambda: in_order(page, "row", "top", runs), lambda found: found == runs)
    assert ui.errors.read_text() == ""


@needs_browser
def test_mlflow_charts_compare_runs_and_baselines_by_horizon(ui: Ui, page: Browser) -> None:
    page.open(f"{ui.url}&compareRunsMode=CHART")
    lines = [f"{cell} (backtest/mase_by_horizon{n})" for cell in SKILL for n in ("", "_persistence")]
    page.wait_for("backtest/skill_vs_persistence", *lines)


@needs_browser
def test_mlflow_pages_show_a_version_and_its_logged_model(ui: Ui, page: Browser, store: str) -> None:
    page.open(f"{address_of(ui)}/#/models/weather/versions/2")
    page.wait_for("LSTM with 1 x 4 cells", "can replace the champion, weather/1", "lstm")
    version = MlflowClient(store, store).get_model_version("weather", "2")
    model_id = version.tags["statecast.logged_model"]
    experiment = ui.url.partition("/experiments/")[2].partition("/")[0]
    page.open(f"{address_of(ui)}/#/experiments/{experiment}/models/{model_id}")
    page.wait_for("weather-lstm", "skill_vs_persistence", "0.31", "weather.parquet")


@needs_browser
def test_the_mlflow_models_page_shows_registered_versions(ui: Ui, page: Browser) -> None:
    experiment = ui.url.partition("/experiments/")[2].partition("/")[0]
    page.open(f"{address_of(ui)}/#/experiments/{experiment}/models")
    page.wait_for("weather-lstm", "weather-gru", "weather-rnn", "v1", "v2", "v3")


def test_the_packed_runs_view_fits_into_an_mlflow_tag() -> None:
    assert len(_packed(view())) < 5000  # MLflow 3.1 refuses experiment tags of more than 5,000 characters


def test_ui_refuses_a_port_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert run(["ui", "--port", str(other.getsockname()[1])]) == 2
    assert "choose another with --port" in capsys.readouterr().err


def test_the_runs_command_lists_runs_by_skill_with_scores(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["runs", "--tracking-uri", store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [row["name"] for row in found] == ["lstm", "gru", "rnn"]
    monkeypatch.setenv("COLUMNS", "100")
    assert run(["runs", "--tracking-uri", store, "--limit", "2"]) == 0
    printed = capsys.readouterr().out
    assert "0.310" in printed
    assert "rnn" not in printed


def test_models_are_listed_with_aliases_scores_and_description(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["models", "--tracking-uri", store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["versions"]
    assert [(row["version"], row["aliases"]) for row in found] == [(3, []), (2, []), (1, ["champion"])]
    assert [row["backtest/skill_vs_persistence"] for row in found] == [0.28, 0.31, 0.05]
    monkeypatch.setenv("COLUMNS", "120")
    assert run(["models", "--tracking-uri", store]) == 0
    printed = capsys.readouterr().out
    assert "weather/1: RNN with 1 x 4 cells; skill +5.0%; the first version of its model" in printed
