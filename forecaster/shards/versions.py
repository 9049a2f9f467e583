"""Find the versions of an event among the rows of a shard, and decide which of them counts.

Rows of one series with the same ``event_id`` are versions of one event, even if their times differ. A new
row is compared with the versions before it in its partition whose windows are open, or have been closed for
fewer than ``windows.repair`` windows when the row arrives. The watermark of the partition decides this, so a
rerun drops the same rows. Versions in other partitions are found only in the same window, when it closes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import polars as pl

from forecaster.shards.lateness import CLOSED
from forecaster.shards.shard import PENDING, Shard, optional_pending_columns
from forecaster.time.duplicates import DROPPED, Keep, content_of

CHANGED: Final = "changed_window"
"""Column (Int64) of new rows: the first window that a row changes, its own or that of an earlier version."""

_EVENT = ["slot", "event_id"]
# Values of the column ``kind`` that `_versions` adds: a row of a closed window, a pending row, a new row.
_CLOSED, _PENDING, _NEW = 0, 1, 2


def drop_versions(shard: Shard, rows: pl.DataFrame, repair: int, keep: Keep) -> tuple[Shard, pl.DataFrame]:
    """Mark (`DROPPED`) the rows that do not count, because another version of their event counts.

    A row of a closed window that no longer counts is added to the pending rows, from which
    `forecaster.shards.repair` takes it.

    Args:
        shard: the shard; none of its pending rows waits for a repair.
        rows: new rows of one partition, as pending rows with `CLOSED` and `CHANGED`. If they have the columns
            `DROPPED`, the source has found the versions, and nothing is changed.
        repair: ``windows.repair``.
        keep: whether the first or the last version of an event counts.

    Returns:
        The shard and the new rows, with these columns set, and with `CHANGED` lowered where a row replaces a
        version in an earlier window.
    """
    if "dropped_at" in rows.columns:
        return shard, rows
    numbered = _numbered(rows)
    found = _dropped_versions(_versions(shard, numbered), repair, keep)
    if not len(found):
        return shard, rows
    if keep == "last":
        earlier = found.group_by(number="by_number").agg(pl.col("window").min().alias("earlier"))
        numbered = numbered.join(earlier, on="number", how="left", maintain_order="left")
        numbered = numbered.with_columns(pl.min_horizontal(CHANGED, "earlier").alias(CHANGED)).drop("earlier")
    closed = found.filter(pl.col("kind") == _CLOSED)
    closed = closed.select(*PENDING, *optional_pending_columns(closed.columns))
    pending = _marked(_numbered(shard.pending), found.filter(pl.col("kind") == _PENDING))
    pending = pl.concat([pending, closed], how="diagonal") if len(closed) else pending
    return replace(shard, pending=pending), _marked(numbered, found.filter(pl.col("kind") == _NEW))


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))


def _versions(shard: Shard, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the new rows with an event id, and the older versions of their events that the shard holds.

    Older versions are included only if they are from the partition of the new rows, or from an earlier job.
    Rows are sorted by event, and versions of one event by the order of the log.

    The column ``kind`` is `_CLOSED`, `_PENDING` or `_NEW`.
    """
    events = rows.filter(pl.col("event_id").is_not_null())
    history = () if shard.history is None else shard.history.rows
    closed = pl.concat(history, how="diagonal") if history else shard.pending.clear()
    parts = [events.with_columns(kind=pl.lit(_NEW), is_new=True)]
    for kind, frame in ((_CLOSED, closed), (_PENDING, shard.pending)):
        if "event_id" in frame.columns:
            own = _numbered(frame).with_columns(kind=pl.lit(kind), is_new=False)
            own = own.join(events.select(_EVENT).unique(), on=_EVENT, how="semi")
            # Include the rows of an earlier job (offsets below 0) from every partition: they are older than
            # all rows that this job reads.
            parts.append(own.filter((pl.col("partition") == rows["partition"][0]) | (pl.col("offset") < 0)))
    return pl.concat(parts, how="diagonal").sort(*_EVENT, "is_new", "offset", maintain_order=True)


def _dropped_versions(versions: pl.DataFrame, repair: int, keep: Keep) -> pl.DataFrame:
    """Return the event versions to mark as dropped: another version of their event counts instead.

    Versions that were marked before are left out. The result has the columns `DROPPED`. Its column
    ``by_number`` is the ``number`` of the row that counts instead. With ``keep="last"``, this row is a new
    one.
    """
    counted = versions["dropped_at"].is_null() if "dropped_at" in versions.columns else pl.lit(True)
    versions = versions.with_columns(at=pl.int_range(pl.len(), dtype=pl.Int64), counted=counted)
    if keep == "last":
        by = pl.when("is_new").then("at").shift(-1).backward_fill().over(_EVENT)
        versions = versions.with_columns(by=by)
        in_reach = pl.col("window") > pl.col(CLOSED).gather(pl.col("by")) - repair
        drops = pl.col("counted") & in_reach.fill_null(False)
    else:
        newest = pl.col("window").cum_max().shift(1).over(_EVENT)
        drops = pl.col("is_new") & (newest > pl.col(CLOSED) - repair).fill_null(False)
        versions = versions.with_columns(drops=drops)
        by = pl.when(pl.col("counted") & ~pl.col("drops")).then("at").forward_fill().over(_EVENT)
        versions, drops = versions.with_columns(by=by), pl.col("drops")
    content = content_of(versions)
    other = versions.select("number", "partition", "offset", *content, by="at").rename(
        {name: f"by_{name}" for name in ("number", "partition", "offset", *content)}
    )
    found = versions.filter(drops).drop(*DROPPED, strict=False).join(other, on="by", how="left")
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"by_{name}")) for name in content)
    # ``dropped_in`` and ``dropped_at`` are the partition and offset of the row that causes the drop.
    # The later of two versions causes the drop: with ``keep="last"`` the version at ``by``, and with
    # ``keep="first"`` the dropped version.
    place = "by_" if keep == "last" else ""
    return found.with_columns(
        dropped_in=f"{place}partition",
        dropped_at=f"{place}offset",
        replaced_by=pl.when(differs).then("by_value"),
    )


def _marked(rows: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    """Copy the columns `DROPPED` of ``dropped`` to the rows with the same ``number``; drop ``number``."""
    if not len(dropped):
        return rows.drop("number")
    new = dropped.select("number", pl.col(*DROPPED).name.suffix(" new"))
    absent = {name: pl.lit(None, dtype) for name, dtype in DROPPED.items() if name not in rows.columns}
    joined = rows.with_columns(**absent).join(new, on="number", how="left", maintain_order="left")
    marked = joined.with_columns(pl.coalesce(f"{name} new", name).alias(name) for name in DROPPED)
    return marked.drop("number", *(f"{name} new" for name in DROPPED))
