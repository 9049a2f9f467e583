"""Tests of ``statecast cold-start``, which forecasts series without rows from their static covariates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.stepping.cold_start import trajectory
from pipelines.cli.app import run
from schemas.forecasts import check_forecasts
from tests.fleets import START, forecaster

NEW = "series_id,size,kind,opening\nnew 1,3,x,7.5\nnew 2,,y,2\n"
AT = ("--at", "2013-01-01T06:00Z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cold")
    forecaster(decoder=True).save(folder / "model")
    forecaster().save(folder / "bare")
    (folder / "new.csv").write_text(NEW)
    return folder


def cold_start(folder: Path, *more: object, model: str = "model", series: str = "new.csv") -> int:
    given = ("--model", folder / model, "--series", folder / series, *AT, *more)
    return run(["cold-start", *map(str, given)])


def test_cold_start_forecasts_beyond_the_horizon_of_the_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.parquet"
    assert cold_start(folder, "--horizon", 9, "-o", file, "--json") == 0
    captured = capsys.readouterr()
    assert "was trained with price, which count as missing" in captured.err
    model = forecaster(decoder=True)
    assert json.loads(captured.out) == {
        "model_version": model.version,
        "series": 2,
        "horizon": 9,
        "issued_at": "2013-01-01T06:00:00+00:00",
        "output": str(file),
    }
    expected = trajectory(model, pl.read_csv(folder / "new.csv"), START + 6, 9).frame()
    assert check_forecasts(pl.read_parquet(file)).equals(expected)


def test_cold_start_without_an_output_file_prints_forecasts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cold_start(folder, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["series_id"] for one in found["forecasts"]] == ["new 1", "new 2"]
    assert [step["horizon"] for step in found["forecasts"][0]["forecast"]] == [1, 2, 3]
    assert cold_start(folder) == 0
    assert "2 new series, 3 windows each, from 2013-01-01 06:00 on" in capsys.readouterr().out


def test_known_covariates_and_first_values_change_the_forecasts(folder: Path, tmp_path: Path) -> None:
    known = "series_id,timestamp,price\n" + "".join(f"new 1,2013-01-01T{h:02}:00Z,9\n" for h in range(24))
    (tmp_path / "known.csv").write_text(known)
    values = []
    options: list[list[object]] = [[], ["--known", tmp_path / "known.csv"], ["--first", "opening"]]
    for number, more in enumerate(options):
        file = tmp_path / f"{number}.jsonl"
        assert cold_start(folder, *more, "-o", file) == 0
        rows = pl.read_ndjson(file).explode("forecast").unnest("forecast")
        values.append(rows.partition_by("series_id", maintain_order=True))
    bare, with_known, with_first = values
    assert np.abs((bare[0]["q50"] - with_known[0]["q50"]).to_numpy()).max() > 1e-3
    assert bare[1]["q50"].equals(with_known[1]["q50"])
    assert "07:00" in str(with_first[0]["issued_at"][0])
    assert not with_first[1]["q50"].equals(bare[1]["q50"])


@pytest.mark.parametrize(
    ("more", "line", "code"),
    [
        ({"model": "bare"}, "cannot forecast series without values: train it with network.decoder = true", 4),
        ({"series": "gone.csv"}, "gone.csv: no such file", 3),
        ({"series": "empty.csv"}, "empty.csv: holds no series", 3),
        ({"series": "less.csv"}, "less.csv: has no column size (it has series_id, kind): add it", 3),
        ({"series": "twice.csv"}, "twice.csv: row 2: column series_id: 'a' is in row 1, too: keep one", 3),
        ({"series": "no_id.csv"}, "no_id.csv: row 2: column series_id is empty", 3),
        ({"options": ["--at", "soon"]}, "--at soon: not a time; write 2013-09-01", 2),
        ({"options": ["--at", "2013-01-01T06:20Z"]}, "at this time; use 2013-01-01T06:00:00+00:00", 2),
        ({"options": ["--first", "kind"]}, "new.csv: row 1: column kind: 'x' is not a number", 3),
        ({"options": ["--first", "gone"]}, "new.csv: has no column gone (--first)", 3),
        (
            {"options": ["--output", "new.csv"]},
            "--output new.csv: the name must end with .parquet or .jsonl",
            2,
        ),
    ],
)
def test_cold_start_refuses_invalid_inputs_in_one_line(
    folder: Path, more: dict[str, object], line: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {
        "empty": "series_id,size,kind\n",
        "less": "series_id,kind\na,x\n",
        "twice": "series_id,size,kind\na,1,x\na,1,x\n",
        "no_id": "series_id,size,kind\na,1,x\n ,1,x\n",
    }.items():
        (folder / f"{name}.csv").write_text(text)
    options = more.pop("options", [])
    assert isinstance(options, list)
    assert cold_start(folder, *options, **more) == code  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert line in lines[-1]
    assert lines[-1].startswith("error: ")
