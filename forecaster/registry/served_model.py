"""Write a forecaster as an MLflow model: weights, signature, example, requirements, and Statecast's code.

Weights are stored as safetensors and loaded by ``forecaster.registry.loader``; nothing is pickled.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

import forecaster as statecast
import schemas
from forecaster.covariates.request import HISTORY, columns_of
from forecaster.model import Forecaster
from forecaster.serving import RETURN_STATE, STATE
from schemas.forecasts import quantile_column
from schemas.observations import OBSERVED

_EXAMPLE_FROM_US = 1_704_067_200_000_000  # 2024-01-01
_OURS = [Path(str(package.__file__)).parent for package in (statecast, schemas)]
_REQUIREMENTS = ("numpy", "pandera[polars]", "polars", "pyarrow", "pydantic", "safetensors", "torch")


def save(forecaster: Forecaster, example: pl.DataFrame, logged: LoggedModel, folder: Path) -> None:
    """Write a forecaster into ``folder`` in MLflow's format, as the files of the logged model ``logged``.

    Args:
        forecaster: the trained forecaster.
        example: a few rows of ``series_id, timestamp, value`` and observed covariates.
        logged: MLflow's record of the model, which has no files yet.
        folder: the folder to create.
    """
    with tempfile.TemporaryDirectory() as saved:
        forecaster.save(Path(saved) / "forecaster")
        mlflow.pyfunc.save_model(
            folder,
            loader_module="forecaster.registry.loader",
            data_path=str(Path(saved) / "forecaster"),
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=logged.source_run_id,
                model_id=logged.model_id,
            ),
            signature=_signature(forecaster),
            input_example=_example(forecaster, example).to_pandas(),
            pip_requirements=_requirements(),
            # Store Statecast's code with the model, so that a server can use it without installing Statecast.
            code_paths=[str(package) for package in _OURS],
        )


def _requirements() -> list[str]:
    """Return the packages that serving imports, with their installed versions, as pip requirements.

    The local part of a version (``+cpu``) is left out, because package indexes do not have it.
    """
    installed = {name: installed_version(name.partition("[")[0]) for name in _REQUIREMENTS}
    return [f"{name}=={version.partition('+')[0]}" for name, version in installed.items()]


def _signature(forecaster: Forecaster) -> ModelSignature:
    """Return the MLflow signature: the columns of a history and of forecasts, and a request's parameters.

    The cells of a history may have any type, and `forecaster.covariates.request` checks them. MLflow's own
    check accepts no time with a zone, and answers a missing column with the whole table.
    """
    names = (*HISTORY, *columns_of(forecaster.covariates.features))
    inputs = Schema([ColSpec(AnyType(), name, required=False) for name in names])
    params = [
        ParamSpec(STATE, DataType.string, ""),
        ParamSpec(RETURN_STATE, DataType.boolean, default=False),
    ]
    outputs = {
        "series_id": DataType.string,
        "issued_at": DataType.datetime,
        "model_version": DataType.string,
        "horizon": DataType.integer,
        **{quantile_column(level): DataType.double for level in forecaster.network_config.quantiles},
        "note": DataType.string,
    }
    outputs_schema = Schema([ColSpec(kind, name) for name, kind in outputs.items()])
    return ModelSignature(inputs, outputs_schema, ParamSchema(params))


def _example(forecaster: Forecaster, rows: pl.DataFrame) -> pl.DataFrame:
    """Return an example of a request: ``rows`` with the columns that the served model reads.

    A known or static covariate is filled with a typical value.
    """
    columns = []
    for name, column in columns_of(forecaster.covariates.features).items():
        if column is not None:
            columns.append(pl.lit(column.words[0] if column.words else column.mean).alias(name))
        else:
            is_given = OBSERVED + name in rows.columns
            columns.append((pl.col(OBSERVED + name) if is_given else pl.lit(None, pl.Float64)).alias(name))
    # MLflow's datetime has no time zone; `forecaster.serving` reads the times as UTC.
    return rows.select(*HISTORY, *columns).with_columns(pl.col("timestamp").dt.replace_time_zone(None))


def example_rows(forecaster: Forecaster) -> pl.DataFrame:
    """Return five invented rows: the input example of a model whose training rows are unknown."""
    freq = forecaster.window_config.frequency
    at_us = freq.start_us(freq.window_of(_EXAMPLE_FROM_US) + np.arange(5))
    return pl.DataFrame(
        {
            "series_id": ["a"] * 5,
            "timestamp": pl.Series(at_us).cast(pl.Datetime("us", "UTC")),
            "value": [1.0, 2.0, 3.0, 2.0, 1.0],
        }
    )
