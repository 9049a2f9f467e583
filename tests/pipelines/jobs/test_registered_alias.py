"""Tests of an alias of the MLflow registry that a stream follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.jobs.registered_alias import REFUSED_TAG, RegisteredAlias, alias_of
from pipelines.settings.config import JobConfig
from schemas.errors import ConfigError, ModelError
from tests.forecaster.registry.models import forecaster, history


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """Return settings whose MLflow store has two versions of the model ``weather``."""
    from forecaster.registry.registry import Registry

    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    store = Registry(uri, "tests")
    for seed in (0, 1):
        with store.start_run(f"run {seed}", {"seed": seed}) as run:
            run.log_model(forecaster(seed), "weather", history(3))
    store.promote("weather/1")
    return with_follow(JobConfig.model_validate({"mlflow": {"tracking_uri": uri}}))


def with_follow(job: JobConfig, alias: str = "") -> JobConfig:
    return job.model_copy(update={"stream": job.stream.model_copy(update={"follow": alias})})


def test_an_alias_names_its_version_and_follows_a_promotion(job: JobConfig) -> None:
    from forecaster.registry.registry import Registry

    alias = alias_of(job, "weather")
    assert alias is not None
    assert str(alias) == "weather@champion"
    assert alias.current() == ("weather/1", forecaster(0).version)
    Registry(job.mlflow.tracking_uri, "tests").promote("weather/2")
    assert alias.current() == ("weather/2", forecaster(1).version)
    assert alias.load("weather/2").version == forecaster(1).version
    with pytest.raises(ModelError, match="no version has the alias: set it with statecast promote weather/1"):
        RegisteredAlias(job, "weather", "challenger").current()


def test_refusing_a_version_tags_it_with_the_reason(job: JobConfig) -> None:
    import mlflow

    alias = alias_of(job, "weather")
    assert alias is not None
    alias.refuse("weather/2", "its network.horizon is 4")
    uri = job.mlflow.tracking_uri.get_secret_value()
    version = mlflow.MlflowClient(uri, registry_uri=uri).get_model_version("weather", "2")
    assert version.tags[REFUSED_TAG] == "its network.horizon is 4"
    with pytest.raises(ModelError, match="weather/7 does not exist"):
        alias.refuse("weather/7", "it is broken")


def test_the_watched_alias_comes_from_model_or_stream_follow(job: JobConfig, tmp_path: Path) -> None:
    """The setting ``stream.follow`` overrides the alias in the reference of the stream's model."""
    assert str(alias_of(job, "weather@challenger")) == "weather@challenger"
    assert str(alias_of(with_follow(job, "champion"), "weather/1")) == "weather@champion"
    assert alias_of(job, "weather/1") is None
    forecaster().save(tmp_path / "model")
    assert alias_of(job, str(tmp_path / "model")) is None
    with pytest.raises(ConfigError, match=r"stream\.follow is 'champion', but .* is not a registered model"):
        alias_of(with_follow(job, "champion"), str(tmp_path / "model"))
