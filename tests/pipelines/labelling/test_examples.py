"""Tests of the labelled example data, vowels and anomalies."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest

from forecaster.evaluation.injection import KINDS
from pipelines.labelling import examples as labelled_examples
from schemas.errors import DataError, OutputError


def test_the_vowels_example_has_the_published_utterances_and_splits() -> None:
    frame = labelled_examples.vowels()
    utterances = frame.group_by("series_id").agg(
        pl.len(), pl.col("label").n_unique().alias("labels"), pl.col("split").first()
    )
    assert utterances.height == 640
    assert utterances["labels"].unique().to_list() == [1]
    assert (utterances["len"].min(), utterances["len"].max()) == (7, 29)
    assert utterances["split"].value_counts().sort("split").rows() == [("test", 370), ("train", 270)]
    assert "".join(frame["label"].unique().sort()) == "123456789"
    assert frame.null_count().sum_horizontal()[0] == 0
    assert "sktime" not in sys.modules


def test_the_anomalies_example_has_labelled_anomalies_of_every_kind() -> None:
    frame = labelled_examples.anomalies()
    assert frame["series_id"].n_unique() == 18
    assert set(frame["label"].unique()) == {"normal", *KINDS}
    assert 0.5 < (frame["label"] == "normal").sum() / len(frame) < 0.95
    assert frame.equals(labelled_examples.anomalies())


def test_write_labelled_example_creates_folders_but_refuses_unknown_examples(tmp_path: Path) -> None:
    path = labelled_examples.write_labelled_example("vowels", tmp_path / "new")
    assert pl.read_parquet(path).columns[:3] == ["series_id", "timestamp", "c1"]
    with pytest.raises(DataError, match="traffic: no such example; choose vowels or anomalies"):
        labelled_examples.write_labelled_example("traffic", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        labelled_examples.write_labelled_example("vowels", tmp_path / "file")
