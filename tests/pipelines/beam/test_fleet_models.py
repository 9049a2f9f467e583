"""Tests of `ForecastFleet` whose workers load the model and the state table when the pipeline starts.

They load them from files, from a registry or from an object store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import polars as pl
import pytest

from forecaster import Registry
from forecaster.time.windows import Windows
from pipelines.beam.forecast_fleet import ForecastFleet
from pipelines.beam.model import model_of
from pipelines.storage import Remote
from schemas.errors import ModelError
from tests.comparisons import assert_same_frames
from tests.fleets import forecaster, rows_of, scales
from tests.pipelines.beam.fleet_pipelines import IN_PROCESS, backfill, between, read_output, run, write_frame


@pytest.mark.parametrize("name", [Path, str])
def test_workers_load_a_model_file_when_the_pipeline_runs(
    name: Callable[[Path], Path | str], observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "model" / "forecaster.safetensors"
    fleet = ForecastFleet(name(file))
    (tmp_path / "forecasts").mkdir()
    pipeline = beam.Pipeline(options=IN_PROCESS)
    forecasts = (pipeline | beam.Create(rows_of(observed).to_dicts()) | fleet)["forecasts"]
    forecasts | beam.Map(write_frame, tmp_path / "forecasts")
    # The model is saved only now, after the pipeline was built, so only the workers can load it.
    forecaster().save(file.parent)
    pipeline.run().wait_until_finish()
    assert_same_frames(read_output(tmp_path, "forecasts"), backfilled, scales(observed))


def test_workers_load_a_model_of_the_registry(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with Registry(uri).start_run("train", {}) as made:
        made.log_model(forecaster(), "weather", rows_of(observed).head(3))
    fleet = ForecastFleet("models:/weather/1", tracking_uri=uri)
    run(IN_PROCESS, beam.Create([rows_of(observed)]), fleet, tmp_path / "fleet")
    assert_same_frames(read_output(tmp_path / "fleet", "forecasts"), backfilled, scales(observed))


def test_a_model_is_loaded_from_an_object_store(s3: Remote) -> None:
    (s3 / "model" / "forecaster.safetensors").write_bytes(forecaster().to_bytes())
    for place in (f"{s3}/model", f"{s3}/model/forecaster.safetensors"):
        assert model_of(place, "", "one").load().version == forecaster().version


def test_a_new_pipeline_loads_a_replaced_model_file(tmp_path: Path) -> None:
    for seed in (0, 1):
        forecaster(seed=seed).save(tmp_path)
        loaded = model_of(tmp_path, "", f"pipeline {seed}").load()
        assert loaded.version == forecaster(seed=seed).version


def test_errors_for_missing_and_invalid_models_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"forecaster\.safetensors cannot be read: No such file"):
        model_of(tmp_path, "", "one").load()
    (tmp_path / "forecaster.safetensors").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"forecaster\.safetensors: no forecaster can be built"):
        model_of(tmp_path, "", "one").load()


def test_forecast_fleet_starts_from_a_state_table_in_a_store(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path, s3: Remote
) -> None:
    rows = rows_of(observed)
    first = backfill(between(rows, 0, 15), tmp_path, output=s3)
    fleet = ForecastFleet(forecaster(), shards=5, state_table=f"{s3}/state")
    run(IN_PROCESS, beam.Create([between(rows, 15, 40)]), fleet, tmp_path)
    both = pl.concat([first, read_output(tmp_path, "forecasts")])
    assert_same_frames(both, backfilled, scales(observed))


def test_a_new_transform_reads_the_replaced_state_table(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    rows, table = rows_of(observed), tmp_path / "out" / "state"
    for windows in (10, 15):
        first = backfill(between(rows, 0, windows), tmp_path)
        folder = tmp_path / f"after {windows}"
        rest = beam.Create([between(rows, windows, 40)])
        run(IN_PROCESS, rest, ForecastFleet(forecaster(), state_table=table), folder)
        both = pl.concat([first, read_output(folder, "forecasts")])
        assert_same_frames(both, backfilled, scales(observed))


def test_fleet_with_another_models_states_uses_its_own_model(observed: Windows, tmp_path: Path) -> None:
    rows = rows_of(observed)
    backfill(between(rows, 0, 15), tmp_path, forecaster(seed=1))
    fleet = ForecastFleet(forecaster(), state_table=tmp_path / "out" / "state")
    run(IN_PROCESS, beam.Create([between(rows, 15, 40)]), fleet, tmp_path / "fleet")
    versions = read_output(tmp_path / "fleet", "forecasts")["model_version"].unique().to_list()
    assert versions == [forecaster().version]
