"""What a forecaster is made of and how it is trained, as typed, frozen settings.

A field's description is what ``statecast init`` writes beside it in the job file.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from forecaster.setting_types import MOST_WINDOWS, LocalPath, Settings


class NetworkConfig(Settings):
    """The shape of the recurrent network."""

    cell: Literal["lstm", "gru", "rnn"] = Field("lstm", description="recurrent cell: lstm, gru or rnn")
    hidden: int = Field(64, ge=1, le=4096, description="width of the hidden state")
    layers: int = Field(
        2, ge=1, le=4, description="stacked recurrent layers, each adding its input from the second on"
    )
    horizon: int = Field(24, ge=1, le=1024, description="forecast the next 1 to this many windows")
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
        "be the recurrent cells alone",
    )
    ring: int = Field(
        336,
        ge=0,
        le=100_000,
        description="last values kept per series, for linear forecasts, for lags and for re-warming under a "
        "new model; 0 keeps none, where there are no lags",
    )
    halflife: int = Field(
        168,
        ge=1,
        le=MOST_WINDOWS,
        description="windows after which the running mean and scale have half forgotten",
    )
    decoder: bool = Field(
        False,
        description="unroll the future from the carried state, a step a window, each with what is known of "
        "its window: the calendar, and [covariates]",
    )

    @model_validator(mode="after")
    def _fits(self) -> NetworkConfig:
        if any(not 0.0 < q < 1.0 for q in self.quantiles) or 0.5 not in self.quantiles:
            raise ValueError("network.quantiles must lie between 0 and 1 and hold 0.5")
        if any(a >= b for a, b in pairwise(self.quantiles)):
            raise ValueError("network.quantiles must rise")
        if any(lag < 1 for lag in self.lags):
            raise ValueError("network.lags must be 1 or more")
        if self.lags and max(self.lags) > self.ring:
            raise ValueError("network.ring must be as long as the longest of network.lags")
        return self


class TrainingConfig(Settings):
    """How the network is fitted: truncated back-propagation through time."""

    epochs: int = Field(12, ge=1, description="passes over the training windows")
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
        description="part of the windows, before those of the backtest, held out to score epochs",
    )
    backtest: float = Field(
        0.1, ge=0, lt=0.9, description="last part of the windows, held out to judge what was chosen"
    )
    refit: bool = Field(
        True,
        description="learn from all windows in the end, for as many epochs as did best; the backtest is of "
        "the weights before",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="same seed, data and machine: same weights")
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
            raise ValueError(
                "training.validation and training.backtest must leave some windows to learn from"
            )
        return self


_Expert = Literal["persistence", "seasonal_naive", "weekly_naive", "least_squares", "seasonal_least_squares"]
EXPERTS: tuple[_Expert, ...] = get_args(_Expert)


class OnlineConfig(Settings):
    """What learns while a forecaster runs, of each series alone."""

    experts: tuple[_Expert, ...] = Field(
        ("weekly_naive", "least_squares", "seasonal_least_squares"),
        description="forecasters beside the network, which are combined with it: persistence, "
        "seasonal_naive, weekly_naive (windows of less than a day), least_squares, seasonal_least_squares; "
        "none leaves the network alone",
    )
    intervals: bool = Field(
        True, description="set quantiles by how far off forecasts were (true), or leave them to the network"
    )
    alarms_per_week: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="wanted alarms a week of a series in which nothing is wrong (of months, one in 20 at "
        "most); 0: no p-values, no alarms",
    )

    @model_validator(mode="after")
    def _once(self) -> OnlineConfig:
        if len(set(self.experts)) < len(self.experts):
            raise ValueError("online.experts must not name one twice")
        return self


class CovariatesConfig(Settings):
    """What is known of series beside their values; empty cells are missing."""

    known: LocalPath = Field(
        "",
        description="file of what is known of windows, future ones too, such as prices and promotions: a "
        "time, a series (or none, where it is of all alike), and columns; needs network.decoder",
    )
    static: LocalPath = Field(
        "", description="file of what is known of series, a row each: series_id and columns, numbers or text"
    )
    observed: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="columns of the data's own rows that are observed beside the value, such as a "
        "temperature: numbers, known up to now and not ahead (long files and messages)",
    )

    @model_validator(mode="after")
    def _names_each_once(self) -> CovariatesConfig:
        if len(set(self.observed)) < len(self.observed):
            raise ValueError("covariates.observed must name each column once")
        return self
