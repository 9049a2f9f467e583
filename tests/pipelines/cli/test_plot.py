"""Tests of ``statecast plot``, which draws the values and forecasts of series in an output folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from numpy.typing import NDArray

from forecaster.reports.plot_style import INK, PALETTE
from pipelines.cli.app import run
from pipelines.cli.plot import FANS
from pipelines.dashboard.series_fans import SeriesFans
from pipelines.sinks.files import read_forecasts
from tests.fleets import forecaster
from tests.pipelines.cli.conftest import write_series

HORIZON, RING = 3, 48

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a backfill of the series s0, s1 and s2; tests only read it."""
    folder = tmp_path_factory.mktemp("plot")
    write_series(folder / "rows.csv", 200)
    forecaster(ring=RING, horizon=HORIZON).save(folder / "model")
    command = ["backfill", folder / "rows.csv", "-m", folder / "model", "-o", folder / "out"]
    assert run([*map(str, command), "--flat", "csv"]) == 0
    return folder / "out"


def plot(output: Path, *more: object) -> int:
    return run(["plot", str(output), *map(str, more)])


def pixels_of(picture: NDArray[np.float32], colour: str) -> int:
    """Return the number of pixels of a picture that have the given colour."""
    return int((np.abs(picture[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02).sum())


def test_a_plot_reads_the_last_values_and_forecasts(output: Path) -> None:
    frame = SeriesFans(output).read("s1", 4)
    fans = frame.drop_nulls("issued_at")
    issued = read_forecasts(output).filter(pl.col("series_id") == "s1").sort("issued_at")[-1 - 3 * HORIZON :]
    expected = issued.gather_every(HORIZON).explode("forecast").unnest("forecast")
    shared = ["issued_at", *(name for name in expected.columns if name[0] == "q")]
    assert fans.sort("target_at").select(shared).equals(expected.select(shared))
    assert (fans["target_at"] - fans["issued_at"]).unique().sort().dt.total_hours().to_list() == [0, 1, 2]
    rows = pl.read_csv(output.parent / "rows.csv").filter(pl.col("series_id") == "s1")
    observed = frame.filter(pl.col("issued_at").is_null())["observed"]
    assert observed.to_list() == rows["value"].tail(4 * HORIZON).to_list()


@pytest.mark.parametrize("names", [["s1"], ["s2", "s0"]])
def test_each_png_panel_shows_forecasts_and_values(output: Path, tmp_path: Path, names: list[str]) -> None:
    file = tmp_path / "fans.png"
    assert plot(output, "--series", ",".join(names), "-o", file) == 0
    for panel in np.array_split(imread(file), len(names)):
        for colour in (PALETTE[0], INK):
            assert pixels_of(panel, colour) > 100, colour


def test_a_plotted_svg_contains_only_the_selected_series(output: Path, tmp_path: Path) -> None:
    file = tmp_path / "fans.svg"
    assert plot(output, "--series", "s2,s0", "-o", file) == 0
    ElementTree.parse(file)
    text = file.read_text()
    assert [name for name in ("s0", "s1", "s2") if f"<!-- {name} -->" in text] == ["s0", "s2"]


def test_a_plot_in_the_terminal_shows_values_and_quantiles(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert plot(output) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("s0", "observed", "forecast", "q5", "q95"))
    assert sum("⠀" < mark <= "⣿" for mark in shown) > 60
    lines = shown.splitlines()
    assert len(lines) > 15
    assert max(map(len, lines)) <= 100


def test_plot_json_counts_the_drawn_forecasts_of_each_series(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(output, "--series", "s0,s2", "--json") == 0
    shown = {"picture": None, "forecasts": {"s0": FANS["terminal"], "s2": FANS["terminal"]}}
    assert json.loads(capsys.readouterr().out) == shown


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        ("--series s0,s7", 3, "no series has the id 's7'; similar ids: s0, s1, s2 (of 3 series)"),
        ("--series S1", 3, "no series has the id 'S1'; similar ids: s1 (of 3 series)"),
        ("--series ,", 3, "no series has the id ''"),
        ("-o fans.jpg", 2, "--output fans.jpg: the name must end with .png or .svg"),
    ],
)
def test_plot_refuses_unknown_series_and_wrong_output_names(
    output: Path, capsys: pytest.CaptureFixture[str], options: str, code: int, line: str
) -> None:
    assert plot(output, *options.split()) == code
    assert line in capsys.readouterr().err


def test_plot_requires_an_output_with_forecasts_and_snapshots(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(tmp_path / "nowhere") == 3
    assert "nowhere: no such folder" in capsys.readouterr().err
    copy = Path(shutil.copytree(output, tmp_path / "out"))
    shutil.rmtree(copy / "forecasts")
    assert plot(copy, "--series", "s1") == 3
    assert "no forecast of s1: a job writes its forecasts there" in capsys.readouterr().err
    shutil.rmtree(copy / "state")
    assert plot(copy, "--series", "s1") == 3
    assert "no snapshot has a series yet" in capsys.readouterr().err
