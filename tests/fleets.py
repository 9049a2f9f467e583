"""Small fleets and forecasters for tests, and what it means that two sets of forecasts are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from forecaster.batch import Batch
from forecaster.config import EXPERTS, NetworkConfig, OnlineConfig, WindowConfig
from forecaster.counts import Counts
from forecaster.covariates import Covariates
from forecaster.features import Features, Table, Tables
from forecaster.forecasts import Forecasts
from forecaster.frequency import Frequency
from forecaster.model import Forecaster
from forecaster.shard import Output, Shard, apply
from forecaster.sharding import Splitter, no_batch
from forecaster.state import State, live
from forecaster.windows import MICROSECONDS, Windows
from schemas import quarantine
from schemas.observations import OBSERVED

HOUR = Frequency(3600)
HOUR_US = 3600 * MICROSECONDS
START = 376_944  # the window that begins with 2013, for windows of an hour

SHORT_WEEK: dict[str, Any] = {"freq": "12h", "ring": 16}
"""Of `forecaster`: windows so long that a week is few of them, and every expert has something to say."""

Floats = NDArray[np.float64]
Key = tuple[str, int]
"""A forecast's series, and the window at whose end it was issued."""


@lru_cache(maxsize=64)
def forecaster(
    cell: str = "lstm",
    seed: int = 0,
    *,
    layers: int = 2,
    horizon: int = 3,
    ring: int = 8,
    freq: str = "1h",
    aggregate: str = "mean",
    empty: str = "missing",
    allowed_lateness: str = "0s",
    max_gap: int = 672,
    decoder: bool = False,
    observed: tuple[str, ...] = (),
) -> Forecaster:
    """A forecaster with weights so large that every input and every bit of state matters to a forecast.

    With a decoder it has `covariates`; ``observed`` are columns of the rows.
    """
    network: dict[str, Any] = {"cell": cell, "hidden": 8, "layers": layers, "horizon": horizon}
    windows = {
        "freq": freq,
        "aggregate": aggregate,
        "empty": empty,
        "allowed_lateness": allowed_lateness,
        "max_gap": max_gap,
    }
    made = Forecaster.untrained(
        NetworkConfig.model_validate(
            network | {"lags": (1, 2, 5), "ring": ring, "halflife": 20, "decoder": decoder}
        ),
        WindowConfig.model_validate(windows),
        covariates=covariates(decoder, observed),
    )
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.normal_(0.0, 0.3, generator=chance)
        for weight in made.network.decoder.parameters() if decoder else ():
            weight.mul_(0.3)  # what is rounded differently in company is made larger step by step
        made.network.ridge.normal_(0.0, 0.1, generator=chance)
    return replace(made, online_config=OnlineConfig(experts=EXPERTS))


@lru_cache
def covariates(decoder: bool, observed: tuple[str, ...] = ()) -> Covariates:
    """Of six series, some windows of which nothing is known; none at all without a decoder to read them."""
    if not decoder:
        return Covariates(Features(observed=observed))
    chance, ids = np.random.default_rng(3), ["s0", "s1", "s2", "series 0", "series 1", "series 5"]
    at, series = np.nonzero(chance.random((400, 6)) < 0.7)
    hours = pl.Series((START - 50 + at) * HOUR_US).cast(pl.Datetime("us", "UTC"))
    price = chance.normal(size=len(at))
    known = pl.DataFrame({"series_id": [ids[s] for s in series], "timestamp": hours, "price": price})
    static = pl.DataFrame({"series_id": ids, "size": [1, 2, None] * 2, "kind": ["x", "y", "x"] * 2})
    tables = Tables(Table(known), Table(static))
    nothing = np.zeros((48, 6))
    features = Features.fit(
        tables, Windows(tuple(ids), START, nothing, dict.fromkeys(observed, nothing)), HOUR
    )
    return Covariates.of(features, HOUR, tables)


@st.composite
def fleets(draw: st.DrawFn, series: int = 5, windows: int = 30) -> Windows:
    """Windows of series at levels up to a billion, with gaps, that begin when they like, or never."""
    count = draw(st.integers(1, series))
    length = draw(st.integers(1, windows))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = []
    for _ in range(count):
        level = draw(st.sampled_from([0.0, 1.0, -300.0, 1e6, 1e9]))
        spread = draw(st.sampled_from([0.0, 0.01, 1.0, 50.0]))
        gaps = draw(st.sampled_from([0.0, 0.2, 0.9]))
        begin = draw(st.integers(0, length))
        values = level + spread * chance.normal(size=length).cumsum()
        values[chance.random(length) < gaps] = np.nan
        values[:begin] = np.nan
        columns.append(values)
    start = START + draw(st.integers(0, 200))
    return Windows(tuple(f"s{i}" for i in range(count)), start, np.stack(columns, axis=1))


def with_heat(fleet: Windows, seed: int = 0) -> Windows:
    """The same windows with a covariate ``heat``, that is missing here and there."""
    chance = np.random.default_rng(seed)
    heat = 20.0 + chance.normal(size=fleet.values.shape).cumsum(axis=0)
    heat[chance.random(heat.shape) < 0.2] = np.nan
    return replace(fleet, past={"heat": heat})


def rows_of(windows: Windows, freq_us: int = HOUR_US) -> pl.DataFrame:
    """An observation somewhere in every window that has a value, its covariates with it."""
    at, series = np.nonzero(~np.isnan(windows.values))
    within_us = (at * 40_503 + series * 65_537) * 1_000_003 % freq_us
    return pl.DataFrame(
        {
            "series_id": [windows.series_ids[s] for s in series],
            "timestamp": pl.Series((windows.start + at) * freq_us + within_us, dtype=pl.Int64),
            "value": windows.values[at, series],
            **{
                OBSERVED + name: pl.Series(array[at, series]).fill_nan(None)
                for name, array in windows.past.items()
            },
        },
        schema_overrides={"series_id": pl.String, "value": pl.Float64},
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))


def scales(windows: Windows, empty: str = "missing") -> dict[str, float]:
    """How much each series moves; 1e-5 of the least of it is still some bits of a float64 of its level."""
    found = {}
    for name, values in zip(windows.series_ids, windows.values.T, strict=True):
        known = values[~np.isnan(values)] if empty == "missing" else np.nan_to_num(values)
        found[name] = float(known.std() + 1e-10 * max(np.abs(known).max(), 1.0)) if len(known) else 1.0
    return found


def by_key(parts: Iterable[Forecasts | None]) -> dict[Key, Floats]:
    """``[Q, N]`` of every forecast."""
    found: dict[Key, Floats] = {}
    for part in parts:
        if part is None:
            continue
        for t, s in zip(*np.nonzero(part.issued), strict=True):
            key = (part.series_ids[s], part.start + int(t))
            assert key not in found, f"{key} was forecast twice"
            found[key] = part.values[:, t, s]
    return found


YOUNG = 3e-5
"""Scales that forecasts of young series may differ by, where members are many: the combination weighs what
hardly differs yet by few values, and what float32 rounds in the network then counts for more."""


def assert_same(
    a: dict[Key, Floats], b: dict[Key, Floats], scale: dict[str, float], within: float = 1e-5
) -> None:
    """The same forecasts, values ``within`` so many scales of each series."""
    assert sorted(a) == sorted(b)
    for key, values in a.items():
        assert np.isfinite(values).all(), key
        off = np.abs(values - b[key]).max() / scale[key[0]]
        assert off <= within, f"{key} is off by {off} scales"


_EXACT = ("ring", "moments", "past", "network")
"""The others' numbers end in what forecasts say, which are compared for themselves, far more closely."""


def assert_same_state(a: State, b: State) -> None:
    """The same state of the same series, whatever their order."""
    assert a.model_version == b.model_version
    assert sorted(a.series_ids) == sorted(b.series_ids)
    a, b = (part.take(np.argsort(np.array(part.series_ids, str))) for part in (a, b))
    np.testing.assert_array_equal(a.clock, b.clock, err_msg="clock")
    np.testing.assert_array_equal(a.silent, b.silent, err_msg="silent")
    rounded = ("moments.mean", "moments.variance", "past.heat.mean", "past.heat.variance")
    assert a.parts.keys() == b.parts.keys()
    for component, own in a.parts.items():
        assert own.keys() == b.parts[component].keys()
        for place, array in own.items():
            name = f"{component}.{place}"
            rtol, atol = 1e-12 if name in rounded else 0.0, 1e-5 if component == "network" else 0.0
            if component not in _EXACT and array.dtype.kind == "f":
                # single precision of values that may cross 0, far from which the others are
                rtol, atol = 1e-3, 1e-3 + 1e-6 * np.nan_to_num(np.abs(array)).max(initial=0.0)
            np.testing.assert_allclose(array, b.parts[component][place], rtol, atol, err_msg=name)


def assert_same_lives(a: Sequence[State], b: Sequence[State]) -> None:
    """The same series, and the same state of those that live; clocks of others may have stopped."""
    one, other = State.join(a), State.join(b)
    assert sorted(one.series_ids) == sorted(other.series_ids)
    assert_same_state(*(state.take(np.flatnonzero(live(state))) for state in (one, other)))


def sorted_rows(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Late or quarantined rows of several outputs, in an order that is theirs alone; some have no column."""
    frame = pl.concat([pl.DataFrame(), *frames], how="diagonal")
    if "late_s" in frame.columns:  # Polars' division differs in the last bit with a frame's length
        frame = frame.with_columns(pl.col("late_s").round(6))
    return frame.sort(frame.columns) if len(frame) else pl.DataFrame()


def nested(frame: pl.DataFrame) -> pl.DataFrame:
    """A forecast frame as one row a horizon."""
    return frame.explode("forecast").unnest("forecast")


def assert_same_frames(a: pl.DataFrame, b: pl.DataFrame, scale: dict[str, float]) -> None:
    """The same identities, values within 1e-5 of each series' scale; ``a`` and ``b`` hold something."""
    identity = ["series_id", "issued_at", "model_version", "revision"]
    assert len(a)
    assert a.select(pl.struct(identity).is_unique().all()).item()
    a, b = a.sort(identity), b.sort(identity)
    assert a.select(identity).equals(b.select(identity))
    one, other = nested(a), nested(b)
    assert one["horizon"].equals(other["horizon"])
    unit = one["series_id"].replace_strict(scale, return_dtype=pl.Float64)
    for name in (column for column in one.columns if column.startswith("q")):
        off = ((one[name] - other[name]).abs() / unit).max()
        assert isinstance(off, float)
        assert off <= 1e-5, f"{name} is off by {off} scales"


class Arrival(NamedTuple):
    """Rows that come together, and the watermark (event time, microseconds) after them."""

    rows: pl.DataFrame
    watermark_us: int


@dataclass
class Ran:
    """What shards made of arrivals, and where the rows went."""

    shards: list[Shard] = field(default_factory=list)
    forecasts: list[Forecasts | None] = field(default_factory=list)
    late: list[pl.DataFrame] = field(default_factory=list)
    quarantined: list[pl.DataFrame] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """Of all shards."""
        return sum((shard.counts for shard in self.shards), Counts())

    @property
    def states(self) -> list[State]:
        """Of each shard."""
        return [shard.state for shard in self.shards]

    def take(self, output: Output) -> None:
        """Keeps what a shard would write."""
        self.forecasts.append(output.forecasts)
        self.late.append(output.late)
        self.quarantined.append(output.quarantined)


def run_shards(
    model: Forecaster,
    arrivals: Sequence[Arrival],
    shards: int = 1,
    windows_per_step: int = 4,
    to_the_end: bool = True,
) -> Ran:
    """Folds arrivals through shards as a job does, and at the end closes what is open."""
    batches = batches_of(arrivals)
    if to_the_end:
        freq = model.window_config.frequency
        last = _last_window([arrival.rows for arrival in arrivals], freq)
        end = no_batch(batches[-1].partition, batches[-1].stop)
        batches.append(replace(end, watermark_us=freq.end_us(last)))
    return fold(model, batches, shards, windows_per_step)


def batches_of(arrivals: Sequence[Arrival], partition: str = "rows") -> list[Batch]:
    """Arrivals as the batches of one partition, in its order."""
    batches, start = [], 0
    for rows, watermark_us in arrivals:
        stop = start + len(rows)
        placed = rows.with_columns(offset=pl.int_range(start, stop, dtype=pl.Int64))
        batches.append(replace(no_batch(partition, start), stop=stop, rows=placed, watermark_us=watermark_us))
        start = stop
    return batches


def fold(
    model: Forecaster,
    batches: Sequence[Batch],
    shards: int = 1,
    windows_per_step: int = 4,
    partitions: Sequence[str] = ("rows",),
) -> Ran:
    """Batches applied one after the other to each of the shards, from a cold start."""
    cold = [Shard.cold(n, shards, model.initial_state(), partitions) for n in range(shards)]
    return fold_on(model, cold, [batches] * shards, windows_per_step)


def fold_on(
    model: Forecaster, shards: Sequence[Shard], orders: Sequence[Sequence[Batch]], windows_per_step: int = 4
) -> Ran:
    """Shards (used up) folded on, each over the batches in an order of its own."""
    ran, splitter = Ran(list(shards)), Splitter(len(shards))
    for number, batches in enumerate(orders):
        for batch in batches:
            part = splitter.split(batch)[number]
            for shard, output in apply(ran.shards[number], part, model, windows_per_step):
                ran.shards[number] = shard
                ran.take(output)
    return ran


def _last_window(frames: Sequence[pl.DataFrame], freq: Frequency) -> int:
    index = pl.concat(frames).select(freq.window(pl.col("timestamp"))).to_series()
    return int(index.max()) if len(index) else 0  # type: ignore[arg-type]


def shuffled(draw: Any, rows: pl.DataFrame, lateness_us: int) -> Iterator[Arrival]:
    """``rows`` in an order in which none comes later than ``lateness_us`` allows, in batches of any size."""
    if rows.is_empty():
        return
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    # A row that is d late comes before any that happened d after it: never more than the lateness.
    order = np.argsort(event_us + chance.integers(0, lateness_us + 1, len(rows)), kind="stable")
    rows, newest = rows[order], np.maximum.accumulate(event_us[order])
    cuts = draw(st.lists(st.integers(0, len(rows)), max_size=8))
    bounds = sorted({0, len(rows), *cuts})
    for first, stop in pairwise(bounds):
        yield Arrival(rows[first:stop], int(newest[stop - 1]) - lateness_us)


@dataclass(frozen=True)
class Log:
    """A partition, whole: what is at each of its offsets, and the watermarks between them.

    Attributes:
        partition: its name.
        rows, rejected: frames with ``offset``, as in a `Batch`.
        outside: offsets of rows outside the job's time; each is a batch of its own, as a source cuts them
            at the same places whenever it reads.
        watermarks_us: by the offset before which each comes; the last one closes every window.
    """

    partition: str
    rows: pl.DataFrame
    rejected: pl.DataFrame
    outside: tuple[int, ...]
    watermarks_us: Mapping[int, int]

    @property
    def stop(self) -> int:
        """One past the last offset."""
        return max(self.watermarks_us)

    def batches(self, cuts: Iterable[int] = (), start: int = 0) -> list[Batch]:
        """The log from ``start`` on, cut where a watermark is and at ``cuts``."""
        around = {place for offset in self.outside for place in (offset, offset + 1)}
        ends = {*self.watermarks_us, *around, *cuts}
        found = []
        for first, stop in pairwise([start, *sorted(end for end in ends if start < end <= self.stop)]):
            inside = pl.col("offset").is_between(first, stop - 1)
            found.append(
                Batch(
                    self.partition,
                    first,
                    stop,
                    self.rows.filter(inside),
                    self.rejected.filter(inside),
                    self.watermarks_us.get(stop),
                    sum(first <= offset < stop for offset in self.outside),
                )
            )
        return found


@dataclass(frozen=True)
class Logs:
    """Everything that goes into a job: its partitions, and how much each of its series moves."""

    parts: tuple[Log, ...]
    scale: dict[str, float]

    @property
    def partitions(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(log.partition for log in self.parts)

    def one_by_one(self) -> list[Batch]:
        """The batches of one partition after the other."""
        return [batch for log in self.parts for batch in log.batches()]


@st.composite
def all_logs(draw: st.DrawFn, partitions: int = 3, series: int = 5, windows: int = 14) -> Logs:
    """Rows spread over partitions: out of order, some too late, some twice, some far away, some no rows."""
    fleet = draw(fleets(series, windows))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rows_of(fleet)
    again = rows.filter(pl.Series(chance.random(len(rows)) < draw(st.sampled_from([0.0, 0.3]))))
    away = rows.head(draw(st.integers(0, 1))).with_columns(pl.col("timestamp") + pl.duration(days=2000))
    rows = pl.concat([rows, again, away]) if draw(st.booleans()) else pl.concat([rows, again])
    end_us = HOUR.end_us(_last_window([rows], HOUR))
    names = [f"p{number}" for number in range(draw(st.integers(1, partitions)))]
    home = pl.Series(chance.integers(0, len(names), len(rows)))
    lateness_h, delay_h = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    logs = [
        _log(name, rows.filter(home == number), lateness_h * HOUR_US, delay_h * HOUR_US, end_us, chance)
        for number, name in enumerate(names)
    ]
    return Logs(tuple(logs), scales(fleet))


def _log(
    partition: str,
    rows: pl.DataFrame,
    lateness_us: int,
    delay_us: int,
    end_us: int,
    chance: np.random.Generator,
) -> Log:
    """``rows`` as they come with delays, which the lateness allows or not, and what is no row among them."""
    kinds = np.repeat(["row", "bad", "file", "outside"], [len(rows), *chance.integers(0, 3, 3)])
    chance.shuffle(kinds)
    kinds = np.append(kinds, "outside")  # so that no log is empty
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    order = np.argsort(event_us + chance.integers(0, delay_us + 1, len(rows)), kind="stable")
    places = np.flatnonzero(kinds == "row")
    newest = np.maximum.accumulate(event_us[order])
    moves = chance.random(len(rows)) < 0.4
    watermarks_us = {
        int(place) + 1: int(us) - lateness_us for place, us in zip(places[moves], newest[moves], strict=True)
    }
    bad = np.flatnonzero((kinds == "bad") | (kinds == "file"))
    rejected = pl.DataFrame(
        {
            "file": [f"{partition}.csv"] * len(bad),
            "row": [int(place) + 1 if kinds[place] == "bad" else 0 for place in bad],
            "column": ["value"] * len(bad),
            "reason": [f"'{place}' is not {'a number' if place % 2 else 'finite'}" for place in bad],
            "raw": ["{}"] * len(bad),
            "offset": bad,
        },
        schema=quarantine.SCHEMA | {"offset": pl.Int64()},
    )
    return Log(
        partition,
        rows[order].with_columns(offset=pl.Series(places, dtype=pl.Int64)),
        rejected,
        tuple(int(place) for place in np.flatnonzero(kinds == "outside")),
        watermarks_us | {len(kinds): end_us},
    )


def cut(draw: Any, log: Log, start: int = 0) -> list[Batch]:
    """A log in batches of any size."""
    return log.batches(draw(st.lists(st.integers(1, log.stop), max_size=6)), start)


def interleaved(draw: Any, parts: Iterable[Sequence[Batch]], early: bool = False) -> list[Batch]:
    """The batches of partitions in any order that keeps each partition's own, but for neighbours swapped."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queues = [list(part) for part in parts]
    for queue in queues if early else ():
        for at in np.flatnonzero(chance.random(max(len(queue) - 1, 0)) < 0.3):
            queue[at], queue[at + 1] = queue[at + 1], queue[at]
    turns = chance.permutation(np.repeat(np.arange(len(queues)), [len(queue) for queue in queues]))
    return [queues[turn].pop(0) for turn in turns]
