"""Tests that each of two compared models reads the covariates with which the model was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from forecaster.config import CovariatesConfig, NetworkConfig
from forecaster.covariates.encoding import Column, Features
from forecaster.covariates.lookup import Covariates
from forecaster.evaluation.paired_comparison import compare
from forecaster.model import Forecaster
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from pipelines.jobs.compare import run_compare
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import with_tables
from schemas.errors import ConfigError
from tests.fleets import HOUR, HOUR_US, START, rows_of, with_heat

HOURS, IDS, RING = 96, ("s0", "s1", "s2"), 4
PRICE, SIZE = Column(name="price", mean=5.0, scale=2.0), Column(name="size", mean=2.0, scale=1.0)
EVERY = Features(known=(PRICE,), static=(SIZE,), observed=("heat",))


def fleet() -> Windows:
    """Return 96 hours of three series with the observed covariate ``heat``."""
    values = np.random.default_rng(0).normal(size=(HOURS, len(IDS))).cumsum(axis=0)
    return with_heat(Windows(IDS, START, values))


def model(features: Features, seed: int = 0) -> Forecaster:
    """Return an untrained model whose forecasts depend much on each of its covariates."""
    network = NetworkConfig(hidden=4, layers=1, horizon=3, lags=(1, 2), ring=RING, decoder=True)
    made = Forecaster.untrained(network, WindowConfig(), covariates=Covariates.of(features, HOUR))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.normal_(0.0, 0.3, generator=rng)
    return replace(made)  # copy the model, so that its version is computed from the new weights


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    """Return job settings with the observed covariate ``heat`` and files of known prices and static sizes."""
    rows_of(fleet()).rename({"observed.heat": "heat"}).write_parquet(tmp_path / "rows.parquet")
    at, series = np.indices((HOURS + 3, len(IDS)))
    hours = pl.Series((START + at.ravel()) * HOUR_US).cast(pl.Datetime("us", "UTC"))
    price = np.random.default_rng(1).normal(5, 2, at.size)
    ids = [IDS[one] for one in series.ravel()]
    pl.DataFrame({"series_id": ids, "timestamp": hours, "price": price}).write_parquet(
        tmp_path / "known.parquet"
    )
    (tmp_path / "static.csv").write_text("series_id,size\ns0,1\ns1,2\ns2,3\n")
    return JobConfig.model_validate(
        {
            "data": {"paths": [str(tmp_path / "rows.parquet")]},
            "covariates": {
                "known": str(tmp_path / "known.parquet"),
                "static": str(tmp_path / "static.csv"),
                "observed": ["heat"],
            },
            "mlflow": {"tracking_uri": f"sqlite:///{tmp_path}/runs.db", "unsent": str(tmp_path / "unsent")},
        }
    )


def own_covariates(config: JobConfig, features: Features) -> CovariatesConfig:
    """Return the covariate settings of a job, reduced to the covariates in a model's ``features``."""
    return CovariatesConfig(
        known=config.covariates.known if features.known else "",
        static=config.covariates.static if features.static else "",
        observed=features.observed,
    )


@pytest.mark.parametrize(
    ("champion", "challenger"),
    [
        (Features(), EVERY),
        (EVERY, Features()),
        (Features(known=(PRICE,)), Features(static=(SIZE,), observed=("heat",))),
    ],
    ids=["new covariates", "fewer covariates", "other covariates"],
)
def test_each_model_of_a_comparison_reads_its_own_covariates(
    config: JobConfig, tmp_path: Path, champion: Features, challenger: Features
) -> None:
    bare = model(champion, 1), model(challenger, 2)
    for name, one in zip(("old", "new"), bare, strict=True):
        one.save(tmp_path / name)
    found = run_compare(config, str(tmp_path / "old"), str(tmp_path / "new")).comparison
    old, new = (with_tables(one, own_covariates(config, one.covariates.features)) for one in bare)
    assert_frame_equal(found.scores, compare(old, new, fleet(), RING).scores)
    without = compare(*bare, fleet(), RING).scores
    assert not found.scores.equals(without)


def test_compare_refuses_a_covariate_table_that_neither_model_uses(config: JobConfig, tmp_path: Path) -> None:
    for name, seed in (("old", 1), ("new", 2)):
        model(Features(static=(SIZE,), observed=("heat",)), seed).save(tmp_path / name)
    with pytest.raises(
        ConfigError, match=r"covariates.known is .* was trained without it: remove the setting"
    ) as error:
        run_compare(config, str(tmp_path / "old"), str(tmp_path / "new"))
    assert "\n" not in str(error.value)
