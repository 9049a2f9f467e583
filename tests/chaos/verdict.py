"""Compare the outputs of a killed stream with the outputs of the same stream without kills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from forecaster.shards.counts import Counts
from pipelines.sinks.files import FORECASTS, read_forecasts, read_late, read_quarantine
from pipelines.state import state_table
from schemas.forecasts import IDENTITY


@dataclass(frozen=True)
class Verdict:
    """The differences between the outputs of two streams.

    Attributes:
        counts: counts of the killed stream.
        expected: counts of the stream without kills.
        lost: number of forecasts of the stream without kills that the killed stream does not have.
        doubled: number of forecasts of the killed stream that are repeats or are missing in the other stream.
        max_abs_difference: the largest difference between two values of a forecast.
        same_rows: True if late and quarantined rows are equal.
    """

    counts: Counts
    expected: Counts
    lost: int
    doubled: int
    max_abs_difference: float
    same_rows: bool

    @property
    def holds(self) -> bool:
        """Return True if both streams have equal counts and outputs, and no row is missing from the counts.

        Forecast values may differ by at most 1e-5.
        """
        same = self.counts == self.expected and self.same_rows and self.counts.missing == 0
        return same and not self.lost and not self.doubled and self.max_abs_difference <= 1e-5


def compare(killed: Path, clean: Path, parts: Sequence[str] = (FORECASTS,)) -> Verdict:
    """Compare forecasts, late rows, quarantined rows and counts of two output folders.

    Args:
        killed, clean: the folders.
        parts: the folders in them that hold forecasts.
    """
    lost, doubled, apart = zip(*(_compare_forecasts(killed, clean, part) for part in parts), strict=True)
    counts = [state_table.read(folder / "state").counts for folder in (killed, clean)]
    return Verdict(
        counts=counts[0],
        expected=counts[1],
        lost=sum(lost),
        doubled=sum(doubled),
        max_abs_difference=max(apart),
        same_rows=_late(killed).equals(_late(clean)) and _quarantined(killed).equals(_quarantined(clean)),
    )


def _compare_forecasts(killed: Path, clean: Path, part: str) -> tuple[int, int, float]:
    """Return two counts, lost forecasts and repeated or extra forecasts, and the largest value difference."""
    raw = pl.concat([_read(path) for path in (killed / part).glob("*.parquet")])
    ours, theirs = read_forecasts(killed, part), read_forecasts(clean, part)
    both = _flat(theirs).join(_flat(ours), on=[*IDENTITY, "horizon"], suffix=" now")
    quantiles = [name for name in both.columns if name[0] == "q" and not name.endswith(" now")]
    apart = [(pl.col(q) - pl.col(f"{q} now")).abs().max() for q in quantiles]
    lost = theirs.join(ours, on=IDENTITY, how="anti").height
    beyond = ours.join(theirs, on=IDENTITY, how="anti").height
    doubled = beyond + len(raw) - raw.select(pl.struct(IDENTITY).n_unique()).item()
    return lost, doubled, float(both.select(pl.max_horizontal(apart)).item() or 0.0)


def _read(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path, columns=list(IDENTITY))


def _flat(forecasts: pl.DataFrame) -> pl.DataFrame:
    return forecasts.explode("forecast").unnest("forecast")


def _late(folder: Path) -> pl.DataFrame:
    return read_late(folder).drop("offset", "partition").sort(pl.all())


def _quarantined(folder: Path) -> pl.DataFrame:
    """Return quarantined rows with file names instead of paths, because streams read different folders."""
    rows = read_quarantine(folder)
    return rows.with_columns(pl.col("file").str.split("/").list.last()).sort(pl.all())
