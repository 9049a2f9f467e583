"""Tests of covariate files, and of the check that a job names exactly the covariates of its forecaster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forecaster.config import CovariatesConfig
from forecaster.covariates.encoding import Features
from forecaster.covariates.lookup import Covariates
from forecaster.time.windows import Windows
from pipelines.sources.files.covariates import missing_tables, read_tables, with_tables
from schemas.errors import ConfigError, DataError
from tests.fleets import HOUR, START, forecaster

KNOWN = "unique_id,ds,price\na,2013-01-01T00:00Z,3\na,2013-01-01T01:00Z,5\n"
STATIC = "item_id,size,kind\na,1,shop\nb,,hall\n"


def write_tables(folder: Path, known: str = KNOWN, static: str = STATIC) -> CovariatesConfig:
    (folder / "known.csv").write_text(known)
    (folder / "static.csv").write_text(static)
    return CovariatesConfig(known=str(folder / "known.csv"), static=str(folder / "static.csv"))


def test_usual_column_names_of_covariate_files_are_recognized(tmp_path: Path) -> None:
    tables = read_tables(write_tables(tmp_path))
    features = Features.fit(tables, Windows(("a", "b"), START, np.zeros((4, 2))), HOUR)
    assert [column.name for column in features.known] == ["price"]
    assert [(column.name, column.words) for column in features.static] == [
        ("size", ()),
        ("kind", ("hall", "shop")),
    ]
    found = Covariates.of(features, HOUR, tables)
    np.testing.assert_array_equal(found.known(("a",), np.array([START]), 3)[:, 0, 0], [-1, 1, 0])
    np.testing.assert_array_equal(found.static(("b",))[0], [0, 0, 1, 0, 1])


def test_without_covariate_files_both_covariate_tables_are_none() -> None:
    assert read_tables(CovariatesConfig()) == (None, None)


@pytest.mark.parametrize(
    ("known", "static", "line"),
    [
        ("price,place\n1,2\n", STATIC, "known.csv: no column timestamp or ds or"),
        (
            KNOWN,
            "size\n1\n",
            "static.csv: no column series_id or unique_id or item_id; there is size: rename one",
        ),
        (KNOWN.replace("5", "five"), STATIC, "known.csv: row 2: column price: 'five' is not a finite number"),
        (KNOWN, "series_id,size\na,1,2\n", "static.csv: row 1:"),
    ],
)
def test_an_invalid_covariate_file_is_refused_in_one_line(
    tmp_path: Path, known: str, static: str, line: str
) -> None:
    with pytest.raises(DataError) as caught:
        Features.fit(
            read_tables(write_tables(tmp_path, known, static)),
            Windows(("a",), START, np.zeros((4, 1))),
            HOUR,
        )
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_covariate_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.csv: no such file"):
        read_tables(CovariatesConfig(known=str(tmp_path / "gone.csv")))


def test_missing_covariate_tables_give_notices_but_extra_tables_raise(tmp_path: Path) -> None:
    config, model = write_tables(tmp_path), forecaster(decoder=True)
    known = with_tables(model, config)
    assert known.version == model.version
    np.testing.assert_array_equal(known.covariates.static(("a", "s0"))[:, 0] != 0, [True, False])
    assert missing_tables(model, config) == []
    notices = missing_tables(model, CovariatesConfig(static=config.static))
    line = (
        f"{model.version} was trained with price, which count as missing: name their file with "
        "covariates.known"
    )
    assert notices == [line]
    assert with_tables(forecaster(), CovariatesConfig()) is forecaster()
    with pytest.raises(
        ConfigError, match=r"covariates.known is '.*known.csv', but lstm-.* was trained without"
    ):
        with_tables(forecaster(), config)


def test_missing_observed_names_are_reported_and_extra_names_raise() -> None:
    """``covariates.observed`` lacks a covariate that the model was trained with, or names another one."""
    model, heat = forecaster(observed=("heat",)), CovariatesConfig(observed=("heat",))
    assert with_tables(model, heat) is model
    assert missing_tables(model, heat) == []
    (notice,) = missing_tables(model, CovariatesConfig())
    assert notice.endswith(
        "was trained with heat in the rows, which count as missing: name them in covariates.observed"
    )
    with pytest.raises(ConfigError, match=r"covariates.observed names 'heat', but lstm-.* trained without"):
        with_tables(forecaster(), heat)
    with pytest.raises(ValueError, match=r"covariates.observed must name each column once"):
        CovariatesConfig(observed=("heat", "heat"))
