"""The settings of a forecaster and of its training, as typed, frozen classes.

``statecast init`` writes the description of each field beside it in the job file.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from forecaster.setting_types import MOST_WINDOWS, LocalPath, Settings, SettingsConflict


class NetworkConfig(Settings):
    """The settings of the recurrent network: its size, its inputs and its forecasts."""

    cell: Literal["lstm", "gru", "rnn"] = Field(
        "lstm", description="recurrent cell of the network: lstm, gru or rnn"
    )
    hidden: int = Field(64, ge=1, le=4096, description="number of units in each recurrent layer")
    layers: int = Field(
        2, ge=1, le=4, description="stacked recurrent layers; from the second on, each adds its input"
    )
    horizon: int = Field(24, ge=1, le=1024, description="number of windows that the network forecasts ahead")
    quantiles: tuple[float, ...] = Field(
        (0.05, 0.5, 0.95),
        description="quantile levels, rising, with 0.5 among them; 0.5 alone forecasts points, no alarms",
    )
    lags: tuple[int, ...] = Field(
        (*range(1, 25), 47, 48, 71, 72, 95, 96, *range(144, 169, 2)),
        description="past windows whose difference from the last value is an input of the cells",
    )
    linear: bool = Field(
        True,
        description="weigh linear forecasts from all values in the ring, which are fitted first (true), or "
        "use the recurrent cells alone (false)",
    )
    ring: int = Field(
        336,
        ge=0,
        le=100_000,
        description="last values kept per series, for linear forecasts, for lags and for re-warming under a "
        "new model; 0 keeps none, and needs empty lags",
    )
    halflife: int = Field(
        168,
        ge=1,
        le=MOST_WINDOWS,
        description="windows after which the weight of a value in the running mean and scale has halved",
    )
    decoder: bool = Field(
        False,
        description="forecast by a decoder, one step per window ahead, which reads the calendar and the "
        "known covariates of that window",
    )

    @model_validator(mode="after")
    def _fits(self) -> NetworkConfig:
        if any(not 0.0 < q < 1.0 for q in self.quantiles) or 0.5 not in self.quantiles:
            raise SettingsConflict("{} must be between 0 and 1 and contain 0.5", "network.quantiles")
        if any(a >= b for a, b in pairwise(self.quantiles)):
            raise SettingsConflict("{} must rise, without repeats", "network.quantiles")
        if any(lag < 1 for lag in self.lags):
            raise SettingsConflict("{} must be 1 or more", "network.lags")
        if self.lags and max(self.lags) > self.ring:
            raise SettingsConflict(
                "{} must be at least as long as the longest of {}", "network.ring", "network.lags"
            )
        return self


class TrainingConfig(Settings):
    """How the network is trained, by truncated back-propagation through time."""

    epochs: int = Field(12, ge=1, description="number of passes over the training windows")
    segment: int = Field(
        96, ge=2, description="windows per back-propagated segment; the state is carried across segments"
    )
    learning_rate: float = Field(3e-3, gt=0, le=100, description="peak of the one-cycle schedule (AdamW)")
    weight_decay: float = Field(1e-2, ge=0, le=100, description="AdamW weight decay")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the forecast heads")
    batch_series: int = Field(
        32, ge=1, description="most series that one step learns from; their order is drawn anew each epoch"
    )
    validation: float = Field(
        0.1,
        ge=0,
        lt=0.9,
        description="share of the windows, just before the backtest, held out to score epochs",
    )
    backtest: float = Field(
        0.1, ge=0, lt=0.9, description="last share of the windows, held out to evaluate the model"
    )
    refit: bool = Field(
        True,
        description="finally train on all windows, for the best number of epochs; the backtest evaluates "
        "the weights before that",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="seed of the random numbers; the same seed, data and machine give the same weights",
    )
    threads: int = Field(
        1,
        ge=0,
        le=1024,
        description="torch threads; more than 1 pays only for hidden widths of some hundred, on a machine "
        "that does nothing else; 0 leaves torch's own choice",
    )

    @model_validator(mode="after")
    def _leaves_something(self) -> TrainingConfig:
        if self.validation + self.backtest >= 0.95:
            raise SettingsConflict(
                "{} and {} must add up to less than 0.95, to leave windows to learn from",
                "training.validation",
                "training.backtest",
            )
        return self


_Expert = Literal["persistence", "seasonal_naive", "weekly_naive", "least_squares", "seasonal_least_squares"]
EXPERTS: tuple[_Expert, ...] = get_args(_Expert)


class OnlineConfig(Settings):
    """Settings of the components that learn while a forecaster runs, for each series separately."""

    experts: tuple[_Expert, ...] = Field(
        ("weekly_naive", "least_squares", "seasonal_least_squares"),
        description="experts whose forecasts are combined with the network's: persistence, "
        "seasonal_naive, weekly_naive (windows of less than a day), least_squares, seasonal_least_squares; "
        "an empty list uses the network alone",
    )
    intervals: bool = Field(
        True, description="calibrate quantiles by the errors of past forecasts (true), or use the network's"
    )
    alarms_per_week: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="wanted alarms per week for a series without anomalies (for months, one in 20 at "
        "most); 0: no p-values, no alarms",
    )

    @model_validator(mode="after")
    def _once(self) -> OnlineConfig:
        if len(set(self.experts)) < len(self.experts):
            raise SettingsConflict("{} must not name an expert twice", "online.experts")
        return self


class CovariatesConfig(Settings):
    """Files of known and static covariates, and columns of observed ones; an empty cell means missing."""

    known: LocalPath = Field(
        "",
        description="file of covariates of windows, future ones too, such as prices and promotions: a time, "
        "a series (without it, a row is for all series), and columns; needs network.decoder",
    )
    static: LocalPath = Field(
        "", description="file of covariates of series, one row each: series_id and columns, numbers or text"
    )
    observed: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="columns of the data's own rows that are observed beside the value, such as a "
        "temperature: numbers, known up to now and not ahead (long files and messages)",
    )

    @model_validator(mode="after")
    def _names_each_once(self) -> CovariatesConfig:
        if len(set(self.observed)) < len(self.observed):
            raise SettingsConflict("{} must name each column once", "covariates.observed")
        return self
