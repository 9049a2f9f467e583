"""Test with a real broker: a killed and resumed stream repairs forecasts with late and corrected rows."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.shards.counts import Counts
from forecaster.time.windows import Windows
from pipelines.sinks import numbers
from pipelines.sinks.files import read_forecasts, read_late, read_replaced
from tests.cluster.broker import Broker
from tests.cluster.streams import WINDOWS, even_partitions, forecasts_of_rows, produce
from tests.comparisons import assert_same_frames
from tests.fleets import HOUR_US, START, forecaster, rows_of, scales
from tests.pipelines.cli.conftest import EndedCommand, start, wait_for_exit, wait_until

pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")

REPAIR = 6
# The delay, in windows, of rows that are sent too late for a repair. The delay counts from the window of the
# event's first version. The time of a corrected row may be one window later; even then it is too late.
TOO_LATE = REPAIR + 2
AHEAD = 80  # once fewer than 80 of the sent rows are unread, the test sends the next 80 rows
ROW = ["series_id", "timestamp", "value"]


def sent_rows(fleet: Windows) -> pl.DataFrame:
    """Return the rows of a fleet and corrected versions of some rows, in the order in which they are sent.

    ``delay`` is the number of windows by which a row is sent after its window began; a corrected row has the
    window of its first version, and a time that may be in the window before or after.
    """
    rng = np.random.default_rng(11)
    rows = rows_of(fleet).with_columns(event_id=pl.format("e{}", pl.int_range(pl.len())))
    rows = rows.with_columns(window=pl.col("timestamp").dt.epoch("us") // HOUR_US - START)
    chance, is_old = pl.Series(rng.random(len(rows))), rows["window"].is_between(8, WINDOWS - TOO_LATE - 4)
    delay = pl.Series(np.where(rng.random(len(rows)) < 0.7, rng.integers(1, REPAIR, len(rows)), TOO_LATE))
    corrected = rows.with_columns(delay=delay).filter(is_old & chance.is_between(0.2, 0.35))
    moved_us = pl.Series(rng.integers(-1, 2, len(corrected)) * HOUR_US).cast(pl.Duration("us"))
    corrected = corrected.with_columns(pl.col("timestamp") + moved_us, pl.col("value") + 5)
    rows = rows.with_columns(delay=pl.when(is_old & (chance < 0.1)).then(delay).otherwise(0))
    return pl.concat([rows, corrected]).sort(pl.col("window") + pl.col("delay"), "delay", maintain_order=True)


def revisions(rows: pl.DataFrame) -> pl.DataFrame:
    """Return, for each forecast that late rows change, its revision: how many late rows change it."""
    own = pl.col("timestamp").dt.epoch("us") // HOUR_US - START
    changed = pl.int_ranges(pl.min_horizontal("window", own), pl.col("window") + pl.col("delay"))
    windows = rows.filter(pl.col("delay") > 0).select("series_id", changed.alias("window")).explode("window")
    issued_at = ((pl.col("window") + START + 1) * HOUR_US).cast(pl.Datetime("us", "UTC")).alias("issued_at")
    return windows.group_by("series_id", issued_at).agg(revision=pl.len())


def test_a_killed_stream_of_a_topic_repairs_late_and_corrected_rows(
    broker: Broker, topics: tuple[str, str], fleet: Windows, tmp_path: Path
) -> None:
    rows, home, output, sent = sent_rows(fleet), even_partitions(fleet), tmp_path / "out", 0
    forecaster().save(tmp_path / "model")
    settings = {"windows.repair": REPAIR, "data.event_id": "event_id", "kafka.idle_s": 1e6}
    command = (
        "stream", "--source", "kafka", "--bootstrap", broker.bootstrap, "--topic", topics[0], "-m", "model",
        "--runner", "in-process", "--shards", 3, "--resume", "--json", "-s", "stream.snapshot_every_s=0.5",
        *(word for key, value in settings.items() for word in ("-s", f"{key}={value}")),
    )  # fmt: skip

    def read_counts() -> Counts:
        """Return the counts of the stream, and send more rows if fewer than `AHEAD` rows are unread."""
        nonlocal sent
        counts = numbers.JobNumbers.of(numbers.read_shards(output)).counts
        if counts.rows_in > sent - AHEAD and sent < len(rows):
            produce(broker, topics[0], rows[sent : sent + AHEAD], home)
            sent = min(sent + AHEAD, len(rows))
        return counts

    def run_until(is_due: Callable[[Counts], bool], number: signal.Signals) -> EndedCommand:
        process = start(*command, cwd=tmp_path)
        try:
            wait_until(lambda: is_due(read_counts()), process)
            process.send_signal(number)
            return wait_for_exit(process)
        finally:
            process.kill()

    for least in (20, 45):
        ended = run_until(lambda counts, least=least: counts.repaired >= least, signal.SIGKILL)  # type: ignore[misc]
        assert ended.code == -signal.SIGKILL
        assert sent < len(rows)
    counts = run_until(lambda counts: counts.rows_in == len(rows), signal.SIGINT).json_object
    is_too_late = pl.col("delay") > REPAIR
    too_late, taken = rows.filter(is_too_late).select(ROW), rows.filter(~is_too_late)
    counting = taken.unique("event_id", keep="last", maintain_order=True)
    assert (counts["rows_in"], counts["missing"], counts["late"]) == (len(rows), 0, len(too_late))
    assert counts["used"] + counts["pending"] == len(counting)
    replaced = len(taken) - len(counting)
    assert counts["duplicates"] == counts["replaced"] == len(read_replaced(output)) == replaced
    assert counts["repaired"] == (taken["delay"] > 0).sum()
    assert read_late(output).select(ROW).sort(ROW).equals(too_late.sort(ROW))
    expected = forecasts_of_rows(counting.select(ROW), tmp_path / "a").drop("revision")
    expected = expected.join(revisions(taken), on=["series_id", "issued_at"], how="left")
    expected = expected.with_columns(pl.col("revision").fill_null(0).cast(pl.Int32))
    assert_same_frames(expected, read_forecasts(output), scales(fleet))
