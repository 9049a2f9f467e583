"""Step series of a shard again with their late rows, and issue revised forecasts.

The series with late rows go back to a copy of their state before the first of these rows (see
`forecaster.shards.history`), and are stepped again through their kept rows with the late rows among them.
The state is then that of a shard that had read all rows in time. A late row that is to be repaired waits
among the pending rows, although its window is closed. So does a row of a closed window that no longer counts,
because another version of its event has arrived: it is there with its columns `DROPPED` set, and replaces the
kept row.

Letters: T windows, n series that are repaired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

import numpy as np
import polars as pl

from forecaster.arrays import Ints
from forecaster.forecasts import Forecasts
from forecaster.shards.close_windows import BLOCK_STEPS, close_windows
from forecaster.shards.counts import Counts
from forecaster.shards.history import Copy, History, without
from forecaster.shards.models import Models
from forecaster.shards.shard import NONE_REPLACED, Output, Shard, slots_of
from forecaster.state import State
from forecaster.stepping.lifecycle import plan_block
from forecaster.stepping.rewarming import rewarm
from forecaster.time.aggregation import fill
from forecaster.time.duplicates import NO_DUPLICATES, has_dropped
from schemas import replaced

_WINDOWS_PER_STEP = 32  # a repair steps series again in blocks of at most this many windows


def with_history(shard: Shard, repair: int) -> Shard:
    """Return the shard with a history if late rows are repaired (``repair`` above 0), else without one.

    A shard that has closed windows without a history can repair only the windows that it closes later.
    """
    if not repair:
        return shard if shard.history is None else replace(shard, history=None)
    if shard.history is not None:
        return shard
    closed = shard.closed_through
    copies = () if closed is None else (Copy(closed, shard.state, shard.shadow).of(State.copy),)
    return replace(shard, history=History(copies))


def repair_windows(shard: Shard, models: Models) -> Iterator[tuple[Shard, Output]]:
    """Repair the closed windows that rows in ``shard.pending`` belong to, some series at a time.

    Yields:
        A shard, and the output to write before the shard may be stored.
    """
    while (slots := _next_slots(shard)) is not None:
        for after, output in _repair_series(shard, slots, models):
            shard = after
            yield after, output


def _is_due(shard: Shard) -> pl.Series:
    """Return which rows in ``shard.pending`` belong to closed windows, and so wait for a repair."""
    closed = shard.closed_through
    return shard.pending["window"] <= closed if closed is not None else shard.pending["window"].is_null()


def _next_slots(shard: Shard) -> pl.Series | None:
    """Return the slots of the series to repair next; None if no row waits for a repair.

    The number of slots is limited so that their repair takes at most `BLOCK_STEPS` series-steps (one series
    through one window each), but at least one slot is returned.
    """
    if shard.history is None or not len(shard.pending) or not (is_due := _is_due(shard)).any():
        return None
    assert shard.closed_through is not None
    windows = shard.closed_through - shard.history.copies[0].through
    return shard.pending.filter(is_due)["slot"].unique().sort().head(max(1, BLOCK_STEPS // windows))


def _repair_series(shard: Shard, slots: pl.Series, models: Models) -> Iterator[tuple[Shard, Output]]:
    """Repair the closed windows of the series in ``slots``; yield pairs of a shard and an output to write.

    There is one output for each model version with revised forecasts. If no forecast is revised, there is one
    output without forecasts. Only the shard of the last output is repaired: the others are ``shard``.
    """
    history, closed = shard.history, shard.closed_through
    assert history is not None
    assert closed is not None
    is_due = _is_due(shard) & shard.pending["slot"].is_in(slots.implode())
    due, index = shard.pending.filter(is_due), slots.to_numpy().astype(np.int64)
    first_due = due.group_by("slot").agg(pl.col("window").min()).sort("slot")["window"].to_numpy()
    # Start from the newest copy of the state that was made before the window of the earliest late row.
    # The copies made after it are repaired below, so that a later repair can start from them.
    at = max(i for i, copy in enumerate(history.copies) if copy.through < first_due.min())
    before = history.rows_of(slots, after=history.copies[at].through)
    dropped = due.filter(pl.col("dropped_at").is_not_null()) if has_dropped(due) else due.clear()
    rows = pl.concat([without(before, dropped), due], how="diagonal")
    replay = _Replay(history.copies[at], index, _with_new_slots(rows, slots), models)
    copies = list(history.copies[: at + 1])
    for copy in history.copies[at + 1 :]:
        replay.run(copy.through)
        # Leave out a copy if another model version made it: the repaired states cannot be written into it.
        # The copy and the replay differ in version only if the model changed while no series was live.
        if copy.state.model_version == replay.shard.state.model_version:
            _write_states(copy.state, copy.shadow, index, replay.shard)
            copies.append(copy)
    replay.run(closed)
    _write_states(shard.state, shard.shadow, index, replay.shard)
    planning = _planning_state(history.copies[at].state, index)
    counts, were_replaced = _added_counts(planning, _with_new_slots(before, slots), replay, models)
    newly_replaced = _without_rows(replay.replaced, were_replaced)
    counts = replace(counts, replaced=len(newly_replaced))
    shard_after = replace(
        shard,
        pending=shard.pending.filter(~is_due),
        history=replace(history, copies=tuple(copies)).without(dropped).with_rows(due),
        counts=shard.counts + counts,
    )
    output = Output(*_first_place(due), replaced=newly_replaced, revises=True)
    found = [*_revised(replay.forecasts, first_due, history, index)]
    shadow = next(_revised(replay.shadows, first_due, history, index), None)
    for forecasts in found[:-1]:
        yield shard, replace(output, forecasts=forecasts, replaced=NONE_REPLACED)
    yield shard_after, replace(output, forecasts=found[-1] if found else None, shadow=shadow)


def _first_place(due: pl.DataFrame) -> tuple[str, int]:
    """Return the partition and offset of the first row that caused a repair, to name the output files.

    The first row has the smallest partition name and offset. A row of ``due`` causes its repair; but if it
    was dropped, the later row at which it was dropped causes the repair.
    """
    place: list[pl.Expr | str] = ["partition", "offset"]
    if has_dropped(due):
        place = [pl.coalesce("dropped_in", "partition"), pl.coalesce("dropped_at", "offset")]
    partition, offset = due.select(place).sort(pl.all()).row(0)
    return partition, offset


def _with_new_slots(rows: pl.DataFrame, slots: pl.Series) -> pl.DataFrame:
    """Return rows with new slots: the position of each row's series in ``slots``."""
    place = np.searchsorted(slots.to_numpy(), rows["slot"].to_numpy())
    return rows.with_columns(slot=pl.Series(place, dtype=pl.Int32))


def _write_states(state: State, shadow: State | None, index: Ints, repaired: Shard) -> None:
    """Write the states of the repaired series into the slots ``index`` of ``state``, a whole shard's state.

    If both ``shadow`` and ``repaired`` have a shadow's states, write these states into ``shadow``.
    """
    state.put(index, repaired.state)
    if shadow is not None and repaired.shadow is not None:
        shadow.put(index, repaired.shadow)


class _Replay:
    """Steps some series of a shard again, from a copy of their state.

    Args:
        copy: the copy.
        index: slots of the series.
        rows: all rows of the series after the copy; their slots are places in ``index``.
        models: the model versions of the job.

    Attributes:
        shard: a shard with only these series.
        forecasts, shadows: forecasts of each block of windows.
        replaced: rows that other rows replaced.
    """

    def __init__(self, copy: Copy, index: Ints, rows: pl.DataFrame, models: Models) -> None:
        own = copy.of(lambda state: state.take(index))
        slots, counts = slots_of(own.state), Counts(pending=len(rows))
        alone = Shard(0, 1, own.state, slots, rows, {}, {}, copy.through, counts)
        self.shard = replace(alone, shadow=own.shadow)
        self.forecasts: list[Forecasts] = []
        self.shadows: list[Forecasts] = []
        self.replaced = NONE_REPLACED
        # `models.rewarm` may return a state that was prepared for the whole shard.
        # So replace it by the function `rewarm`, which re-warms only the replayed series.
        self._models = replace(models, rewarm=rewarm, repair=0)

    def run(self, through: int) -> None:
        """Close the windows up to and including window ``through``; collect forecasts and replaced rows."""
        for shard, closed in close_windows(
            self.shard, through, self._models, _WINDOWS_PER_STEP, keeps_slots=True
        ):
            self.shard = shard
            if closed is not None:
                forecasts, replaced_rows, shadow = closed
                self.forecasts.append(forecasts)
                self.shadows += [] if shadow is None else [shadow]
                self.replaced = pl.concat([self.replaced, replaced_rows], how="diagonal")


def _planning_state(state: State, index: Ints) -> State:
    """Return a state of the series at ``index`` that has only the arrays that `plan_block` reads."""
    ids = tuple(state.series_ids[i] for i in index)
    parts = {"moments": {"observed": state.parts["moments"]["observed"][index]}}
    return State(state.model_version, state.freq, ids, state.clock[index], state.silent[index], parts)


def _added_counts(
    planning: State, rows: pl.DataFrame, replay: _Replay, models: Models
) -> tuple[Counts, pl.DataFrame]:
    """Return the counts that a repair adds, and the rows that were already replaced before the repair.

    The added counts are the counts of the replay less the counts of the same windows without the late rows.
    The latter need only a plan of the active periods of the series. Scores and the number of windows stay as
    they were when the windows closed.

    Args:
        planning: see `_planning_state`, at the copy from which the replay began. It is changed.
        rows: the rows of the repaired series without the late rows.
        replay: the replay, at its end.
        models: the model versions of the job.
    """
    config, before, were_replaced = models.first.window_config, Counts(), [NONE_REPLACED]
    for block in replay.forecasts:
        start, stop = block.start, block.start + len(block.issued)
        own = rows.filter(pl.col("window").is_between(start, stop - 1))
        values, duplicates = np.full(block.issued.shape, np.nan), NO_DUPLICATES
        if len(own):
            window, slot = own["window"].to_numpy() - start, own["slot"].to_numpy().astype(np.int64)
            duplicates = fill(values, own, window, slot, config, keep=models.duplicates)
        plan = plan_block(planning, values, start, config.max_gap)
        planning.clock[:] = np.maximum(planning.clock, stop - 1)
        planning.silent[:] = plan.silent
        planning.parts["moments"]["observed"][:] = plan.live[-1]
        before += Counts(
            used=len(own) - duplicates.dropped,
            duplicates=duplicates.dropped,
            series_steps=int(plan.issued.sum()),
            cold_starts=plan.cold_starts,
        )
        named = duplicates.replaced.join(replay.shard.slots, on="slot") if len(duplicates.replaced) else None
        were_replaced += [] if named is None else [replaced.frame(named)]
    after = replay.shard.counts
    names = ("used", "duplicates", "series_steps", "cold_starts")
    added = {name: getattr(after, name) - getattr(before, name) for name in names}
    counts = Counts(**added, pending=-added["used"] - added["duplicates"])
    return counts, pl.concat(were_replaced, how="diagonal")


def _without_rows(rows: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return ``rows`` without the rows of ``others``.

    Each row of ``others`` removes one row with the same series, time, event and value.
    """
    if not len(rows) or not len(others):
        return rows
    key = [name for name in ("series_id", "timestamp", "event_id", "value") if name in rows.columns]
    rows, others = (frame.with_columns(number=pl.int_range(pl.len()).over(key)) for frame in (rows, others))
    left = rows.join(others, on=[*key, "number"], how="anti", nulls_equal=True, maintain_order="left")
    return left.drop("number")


def _revised(
    blocks: Iterable[Forecasts], first_due: Ints, history: History, index: Ints
) -> Iterator[Forecasts]:
    """Yield the forecasts from each series' first late row on; join successive blocks of one model version.

    Joined blocks without such a forecast are not yielded.

    Args:
        blocks: forecasts of the repaired series, block by block.
        first_due: ``[n]``, the window of the first late row of each series.
        history: the history of the shard, with the records of the late rows.
        index: ``[n]``, the slots of the series.
    """
    for _, group in groupby(blocks, key=lambda block: block.model_version):
        joined = Forecasts.join([*group])
        issued = joined.issued & (joined.index[:, None] >= first_due)
        at = np.flatnonzero(issued.any(axis=1))
        if not len(at):
            continue
        part = slice(at[0], at[-1] + 1)
        windows = joined.index[part]
        yield replace(
            joined,
            start=int(windows[0]),
            values=joined.values[:, part],
            issued=issued[part],
            anomaly=None if joined.anomaly is None else joined.anomaly[:, part],
            index=windows,
            revision=history.revisions(windows, index),
        )
