"""The recent past of a shard, from which its closed windows can be repaired.

A shard that repairs late rows keeps copies of its state, and the rows of the windows closed since the
earliest copy. A copy is taken at least ``windows.repair`` windows after the one before (see `copied_every`),
and the last two are kept. So one of them is before every window that a late row may still change.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from forecaster.arrays import Ints
from forecaster.state import State

LATE_ROWS: dict[str, pl.DataType] = {"slot": pl.Int32(), "window": pl.Int64(), "late_through": pl.Int64()}
"""Columns of the record of rows that change closed windows.

``late_through`` is the last window that the row's partition had closed before the row. The row changes the
forecasts of ``window`` to ``late_through``.
"""

_NO_ROWS = pl.DataFrame(schema={"slot": pl.Int32(), "window": pl.Int64()})

# `copied_every` rounds ``repair`` up to a multiple of the largest number of windows in a block.
# If a block can have more windows than `_MOST_ROUNDED`, `copied_every` rounds ``repair`` up to a multiple
# of `_MOST_ROUNDED` instead.
_MOST_ROUNDED = 32


def copied_every(repair: int, windows_per_step: int) -> int:
    """Return the number of windows between two copies of the state of a shard.

    It is ``repair``, rounded up to a multiple of the windows in a block, or of 32 if blocks are longer.

    Args:
        repair: ``windows.repair``, above 0.
        windows_per_step: the largest number of windows in a block.
    """
    step = min(windows_per_step, _MOST_ROUNDED)
    return -(-repair // step) * step


@dataclass(frozen=True)
class Copy:
    """A copy of the state of a shard after it closed the window ``through``.

    Attributes:
        through: index of the last window before the copy.
        state: state of the series, in the slots of the shard.
        shadow: state of the shadow; None without one.
    """

    through: int
    state: State
    shadow: State | None = None

    def of(self, change: Callable[[State], State]) -> Copy:
        """Call ``change`` with the state, and with the shadow's state if there is one.

        Return the results as a `Copy` after the same window; its shadow is None if this copy has no shadow.
        """
        return Copy(self.through, change(self.state), None if self.shadow is None else change(self.shadow))


@dataclass(frozen=True)
class History:
    """The recent past of a shard: copies of its state, and rows of windows closed after the earliest copy.

    Attributes:
        copies: copies of the state, the earliest first; empty before the first window is closed.
        rows: rows of the closed windows after the earliest copy, in the columns of pending rows.
        late: a record of each row that has changed closed windows recently, see `LATE_ROWS`.
    """

    copies: tuple[Copy, ...] = ()
    rows: tuple[pl.DataFrame, ...] = ()
    late: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LATE_ROWS))

    def copy(self) -> History:
        """Return an equal history with copies of this history's states."""
        return replace(self, copies=tuple(copy.of(State.copy) for copy in self.copies))

    def with_rows(self, rows: pl.DataFrame) -> History:
        """Return this history with rows of closed windows added."""
        return replace(self, rows=(*self.rows, rows)) if len(rows) else self

    def without(self, rows: pl.DataFrame) -> History:
        """Return this history without the event versions listed in ``rows``, see the function `without`."""
        return replace(self, rows=tuple(without(frame, rows) for frame in self.rows)) if len(rows) else self

    def with_copy(
        self, state: State, shadow: State | None, window: int, closed: int | None, every: int
    ) -> History:
        """Return this history with the copies of the state that are due: one for each ``every`` windows.

        Usually at most one copy is due. Two copies, ``every`` windows apart, replace all earlier copies if no
        window after the first of the two was closed. When copies are added, the copies, rows and records that
        no repair can need any more are removed.

        Args:
            state: state of the shard before ``window``.
            shadow: state of its shadow; None without one.
            window: the next window to close.
            closed: the last window that was closed; None before the first. If there are windows between
                it and ``window``, no series is live in them.
            every: see `copied_every`.
        """
        last = window // every * every - 1
        if self.copies and self.copies[-1].through >= last:
            return self
        # No copy at ``last`` is possible if the state is already past ``last``.
        # The state can be past ``last`` if, for example, an earlier run had another ``every``.
        if closed is not None and closed > last:
            return self
        before = last - every
        copies = self.copies
        if closed is None or closed <= before:
            copies = (Copy(before, state, shadow).of(State.copy),)
        copies = (*copies, Copy(last, state, shadow).of(State.copy))
        while len(copies) > 1 and copies[1].through <= before:
            copies = copies[1:]
        rows = pl.concat(self.rows, how="diagonal", rechunk=True) if self.rows else None
        kept = () if rows is None else (rows.filter(pl.col("window") > copies[0].through),)
        late = self.late.filter(pl.col("late_through") > before)
        return History(copies, kept, late)

    def grown(self, new: Callable[[Copy], Copy]) -> History:
        """Return this history with new series added to the states of each `Copy` (its own, its shadow's).

        The function ``new`` returns, for a copy, a `Copy` with only the states of the new series.
        """
        copies = []
        for copy in self.copies:
            added = new(copy)
            shadow = None if copy.shadow is None or added.shadow is None else copy.shadow.grown(added.shadow)
            copies.append(Copy(copy.through, copy.state.grown(added.state), shadow))
        return replace(self, copies=tuple(copies))

    def take(self, kept: Ints, slot: pl.Series) -> History:
        """Return this history with only the series in the slots ``kept``; ``slot`` maps old slots to new."""
        rows, late = (
            tuple(frame.with_columns(slot=slot.gather(frame["slot"])) for frame in frames)
            for frames in (self.rows, (self.late,))
        )
        return History(tuple(copy.of(lambda state: state.take(kept)) for copy in self.copies), rows, late[0])

    def slots(self) -> Ints:
        """Return the slots of the rows in ``rows`` and of the records in ``late``; slots can repeat."""
        return np.concatenate([frame["slot"].to_numpy() for frame in (*self.rows, self.late)])

    def rows_of(self, slots: pl.Series, after: int) -> pl.DataFrame:
        """Return the rows of closed windows after the window ``after``, for the series in ``slots``."""
        is_own = pl.col("slot").is_in(slots.implode()) & (pl.col("window") > after)
        return pl.concat([frame.filter(is_own) for frame in (_NO_ROWS, *self.rows)], how="diagonal")

    def revisions(self, windows: Ints, slots: Ints) -> Ints | None:
        """Return the revision of each forecast, by window (row) and series (column); None if all are 0.

        The revision of a forecast is the number of late rows that change it.

        Args:
            windows: ``[T]``, the windows of the forecasts, rising.
            slots: ``[n]``, the slots of their series, rising.
        """
        if not len(self.late):
            return None
        late = self.late.filter(pl.col("window") <= windows[-1], pl.col("late_through") >= windows[0])
        late = late.filter(pl.col("slot").is_in(pl.Series(slots).implode()))
        if not len(late):
            return None
        changes = np.zeros((len(windows) + 1, len(slots)), np.int64)
        place = np.searchsorted(slots, late["slot"].to_numpy())
        np.add.at(changes, (np.searchsorted(windows, late["window"].to_numpy()), place), 1)
        last = np.searchsorted(windows, late["late_through"].to_numpy(), side="right")
        np.add.at(changes, (last, place), -1)
        return np.asarray(changes.cumsum(axis=0)[:-1])

    @property
    def bytes(self) -> int:
        """The approximate size in bytes of ``copies`` (with their shadows), ``rows`` and ``late``."""
        states = [state for copy in self.copies for state in (copy.state, copy.shadow) if state is not None]
        rows = sum(int(frame.estimated_size()) for frame in (*self.rows, self.late))
        return rows + sum(round(state.bytes_per_series * len(state)) for state in states)


def without(frame: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return ``frame`` without the event versions listed in ``rows``; other versions of these events stay.

    Slot, event, partition and offset identify a version. A frame without event ids holds no versions, and is
    returned unchanged.
    """
    place = ["slot", "event_id", "partition", "offset"]
    if not len(rows) or "event_id" not in frame.columns:
        return frame
    return frame.join(rows, on=place, how="anti", nulls_equal=True, maintain_order="left")


def can_join(histories: Sequence[History]) -> bool:
    """Return whether all histories copied the state after the same windows, with the same model versions."""
    layouts = {tuple((copy.through, copy.state.model_version) for copy in one.copies) for one in histories}
    return len(layouts) == 1


def join_copies(histories: Sequence[History], slots: Sequence[Ints]) -> tuple[Copy, ...]:
    """Join the state copies in the histories of old shards into the state copies of a new shard.

    The joined copies hold only the series of the new shard, and no shadow.

    Args:
        histories: history of each old shard; `can_join` is true of them.
        slots: the slots of the new shard's series in each old shard.
    """
    return tuple(
        Copy(same[0].through, State.join([c.state.take(own) for c, own in zip(same, slots, strict=True)]))
        for same in zip(*(history.copies for history in histories), strict=True)
    )
