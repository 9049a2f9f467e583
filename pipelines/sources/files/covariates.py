"""Read the files of covariates: known covariates of windows, and static covariates of series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from forecaster.config import CovariatesConfig
from forecaster.covariates.encoding import SERIES, TIME, Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from pipelines.sources.files import formats
from pipelines.sources.files.columns import SERIES_NAMES, TIME_NAMES
from pipelines.sources.files.decimals import Decimals
from pipelines.sources.files.file_kinds import has_numbers_as_text
from schemas import cells
from schemas.errors import ConfigError, DataError

_BATCH_ROWS = 200_000


def read_tables(config: CovariatesConfig) -> Tables:
    """Read the tables of covariates that a job names; a table is None if the job names no file.

    Raises:
        DataError: a file cannot be read, or lacks its column of times (known) or of series (static).
    """
    known, static = (Path(name) if name else None for name in (config.known, config.static))
    return Tables(
        None if known is None else _read(known, {TIME: TIME_NAMES, SERIES: SERIES_NAMES}, TIME),
        None if static is None else _read(static, {SERIES: SERIES_NAMES}, SERIES),
    )


def with_tables(forecaster: Forecaster, config: CovariatesConfig) -> Forecaster:
    """Return a copy of a forecaster with the job's covariate tables; without tables, the forecaster itself.

    Raises:
        ConfigError: the job names a table or column that the forecaster was trained without.
        DataError: a table cannot be read, or lacks a column that the forecaster was trained with.
    """
    features = forecaster.covariates.features
    for name, columns in (("known", features.known), ("static", features.static)):
        if (path := getattr(config, name)) and not columns:
            raise ConfigError(
                f"covariates.{name} is {path!r}, but {forecaster.version} was trained without it: "
                "remove the setting"
            )
    for column in config.observed:
        if column not in features.observed:
            raise ConfigError(
                f"covariates.observed names {column!r}, but {forecaster.version} was trained without it: "
                "remove the column from the setting"
            )
    if not (config.known or config.static):
        return forecaster
    freq = forecaster.window_config.frequency
    return forecaster.with_covariates(Covariates.of(features, freq, read_tables(config)))


def missing_tables(forecaster: Forecaster, config: CovariatesConfig) -> list[str]:
    """Return notices about the covariates that a forecaster was trained with but the job does not name.

    There is one line for each table, and one for all observed covariates together.
    """
    features, lines = forecaster.covariates.features, []
    for name, columns in (("known", features.known), ("static", features.static)):
        if columns and not getattr(config, name):
            named = ", ".join(column.name for column in columns)
            lines.append(
                f"{forecaster.version} was trained with {named}, which count as missing: name their file "
                f"with covariates.{name}"
            )
    if absent := [column for column in features.observed if column not in config.observed]:
        lines.append(
            f"{forecaster.version} was trained with {', '.join(absent)} in the rows, which count as missing: "
            "name them in covariates.observed"
        )
    return lines


def _read(path: Path, names: dict[str, Sequence[str]], needed: str) -> Table:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with formats.convert_read_errors(path):
        columns = formats.column_names(path)
        frames = list(formats.batches(path, columns, _BATCH_ROWS))
    for frame in frames:
        if formats.PROBLEM in frame.columns:
            broken = frame.filter(pl.col(formats.PROBLEM).is_not_null())
            if len(broken):
                row, problem = broken[formats.ROW][0], broken[formats.PROBLEM][0]
                raise DataError(f"{path}: row {row}: {problem}")
    table = pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    if has_numbers_as_text(path):
        table = Decimals(path, "auto").rewrite(table, columns)
    found: dict[str, str] = {}
    for name, aliases in names.items():
        by_lower_name = {column.lower(): column for column in reversed(columns)}
        found |= {by_lower_name[alias]: name for alias in reversed(aliases) if alias in by_lower_name}
    if needed not in found.values():
        raise DataError(
            f"{path}: no column {' or '.join(names[needed])}; there is {', '.join(columns)}: rename one"
        )
    table = table.select(columns).rename(found)
    if SERIES in table.columns:
        is_empty = ~cells.names(table[SERIES]).str.contains(r"\S").fill_null(False)
        if is_empty.any():
            raise DataError(
                f"{path}: row {int(is_empty.arg_max() or 0) + 1}: column {SERIES} is empty: name a series"
            )
    return Table(table, str(path))
