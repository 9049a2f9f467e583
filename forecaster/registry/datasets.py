"""Describe the rows that a run read as a data set of MLflow, and write frames as tables that MLflow shows."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import PurePosixPath

import polars as pl
import polars.selectors as cs

# The name of a data set lists at most this many files, to fit into MLflow's table of runs.
_MOST_NAMES = 3
_TYPES = {pl.String: "string", pl.Float64: "double", pl.Int64: "long", pl.Boolean: "boolean"}


def described(frame: pl.DataFrame, paths: tuple[str, ...]) -> dict[str, str]:
    """Return the keyword arguments of an `mlflow.entities.Dataset` that describes the rows of a frame.

    The data set's name consists of the names of the files and the days of the first and last row, such as
    ``weather.parquet 2013-01-01 to 2013-08-31``.

    Args:
        frame: the rows; equal frames have equal digests.
        paths: files, folders or addresses of the rows, without passwords.
    """
    buffer = io.BytesIO()
    frame.rechunk().write_ipc(buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]
    names = [PurePosixPath(path.rstrip("/")).name or path for path in paths]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    name = ", ".join(names[:_MOST_NAMES]) + more
    profile: dict[str, object] = {"num_rows": len(frame)}
    if "series_id" in frame.columns:
        profile["num_series"] = frame["series_id"].n_unique()
    if "timestamp" in frame.columns and len(frame):
        first, last = frame.select(pl.min("timestamp"), pl.col("timestamp").max().alias("last")).row(0)
        name += f" {first:%Y-%m-%d} to {last:%Y-%m-%d}"
        profile |= {"first": f"{first:%Y-%m-%dT%H:%M:%SZ}", "last": f"{last:%Y-%m-%dT%H:%M:%SZ}"}
    columns = [
        {"name": column, "type": _TYPES.get(type(dtype), "datetime" if dtype.is_temporal() else "string")}
        for column, dtype in frame.schema.items()
    ]
    return {
        "name": name[:500],
        "digest": digest,
        "source_type": "local" if "://" not in paths[0] else "http",
        "source": json.dumps({"uri": paths[0]} if "://" not in paths[0] else {"url": paths[0]}),
        "schema": json.dumps({"mlflow_colspec": columns}),
        "profile": json.dumps(profile | {"paths": list(paths)}),
    }


def table_json(frame: pl.DataFrame) -> bytes:
    """Return a frame as the JSON that MLflow's pages show as a table; NaN becomes null."""
    found = frame.with_columns(cs.float().fill_nan(None))
    return json.dumps({"columns": found.columns, "data": found.rows()}, default=str).encode()
