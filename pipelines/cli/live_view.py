"""A running job as its operator sees it: a few lines that stay in place, or a line of JSON now and then."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipelines.cli.console import size_of

if TYPE_CHECKING:
    from pipelines.cli.console import Out
    from pipelines.sinks.latency import Histogram
    from pipelines.sinks.numbers import JobNumbers

LINE_EVERY_S: Final = 10.0
"""Seconds between two lines of JSON where nobody watches a terminal."""

_FRAMES_PER_S = 2
_RATE_OVER_S = 10.0
_REASONS = 3
_SPANS = ((365.25 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "min"))


@contextmanager
def watching(out: Out, what: str) -> Iterator[Callable[[JobNumbers], None]]:
    """Shows a job while the block runs: on a terminal as a `View`, else as `Lines`; both on stderr.

    With ``--json`` it is `Lines` everywhere: whoever asks for that has a machine listening.

    Args:
        out: where the command speaks.
        what: name of the job.

    Yields:
        What to call with the job's numbers, twice a second say.
    """
    if out.as_json or not out.errors.is_terminal:
        yield Lines(what, out.errors.file).take
        return
    view = View(what)
    with Live(
        get_renderable=view.render, console=out.errors, refresh_per_second=_FRAMES_PER_S, transient=True
    ):
        yield view.take


class Rate:
    """Series-steps a second, over the last ten seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def take(self, now_s: float, steps: int) -> None:
        """At ``now_s`` there were ``steps`` in all; a resumed job's first are not of this run."""
        if not steps:
            return
        self._seen.append((now_s, steps))
        while now_s - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float | None:
        """The rate; None before there are two counts to tell it from."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return None
        (began_s, before), (ended_s, after) = self._seen[0], self._seen[-1]
        return (after - before) / (ended_s - began_s)


class Lines:
    """A job as lines of JSON, one every ten seconds: nothing of a job that is shorter.

    Args:
        what: name of the job.
        file: where lines go.
        clock: seconds of a clock that never goes back.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        what: str,
        file: IO[str],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.what, self.file, self.clock, self.wall = what, file, clock, wall
        self.began_s = self.told_s = clock()
        self.rate = Rate()

    def take(self, numbers: JobNumbers) -> None:
        """The job's numbers as they are now."""
        now_s = self.clock()
        self.rate.take(now_s, numbers.counts.series_steps)
        if now_s - self.told_s < LINE_EVERY_S:
            return
        self.told_s = now_s
        per_s = self.rate.per_s
        line = {
            "job": self.what,
            "at": datetime.fromtimestamp(self.wall(), UTC).isoformat(timespec="seconds"),
            "seconds": round(now_s - self.began_s, 1),
            "series_steps_per_s": None if per_s is None else round(per_s),
            **numbers.as_json(self.wall()),
        }
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


class View:
    """A job as a few lines on a terminal.

    Args:
        what: name of the job.
        clock: seconds of a clock that never goes back.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        what: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.what, self.clock, self.wall = what, clock, wall
        self.began_s = clock()
        self.rate = Rate()
        self.numbers: JobNumbers | None = None
        self.spinner = Spinner("dots", style="cyan")

    def take(self, numbers: JobNumbers) -> None:
        """The job's numbers as they are now."""
        self.numbers = numbers
        self.rate.take(self.clock(), numbers.counts.series_steps)

    def render(self) -> RenderableType:
        """What to show now."""
        head = Table.grid(padding=(0, 1))
        head.add_row(
            self.spinner, Text(self.what, "bold"), Text(_elapsed(self.clock() - self.began_s), "dim")
        )
        numbers = self.numbers
        if numbers is None or not numbers.counts.rows_in + numbers.counts.outside:
            return Group(head, Text("  waiting for rows", "dim"))
        body = Table.grid(padding=(0, 2))
        body.add_column(style="dim", no_wrap=True)
        body.add_column()
        for name, value in _rows(numbers, self.rate.per_s, self.wall()):
            body.add_row(f"  {name}", value)
        return Group(head, body)


def _rows(n: JobNumbers, per_s: float | None, now_s: float) -> Iterator[tuple[str, Text]]:
    c = n.counts
    yield "rows", _joined(_count(c.rows_in, "in"), _count(c.used, "used"), _count(c.pending, "pending"))
    yield (
        "",
        _joined(
            _trouble(c.rejected, f"quarantined ({c.quarantined_share:.1%})" if c.rejected else "quarantined"),
            _trouble(c.late, "late"),
            _trouble(c.duplicates, "duplicate"),
            *([_trouble(c.bad_files, "files not read")] if c.bad_files else []),
        ),
    )
    if c.quarantined:
        yield "", Text(_top(c.quarantined), "yellow")
    steps = "" if per_s is None else f"{per_s:,.0f} series-steps/s"
    yield "series", _joined(_count(n.live, f"live of {n.series:,}"), Text(steps, "cyan"))
    closed = "" if n.closed_us is None else f"up to {_when(n.closed_us)}"
    yield "windows", _joined(_count(c.windows, "closed"), Text(closed))
    lag_s = n.watermark_lag_s(now_s)
    if n.watermark_us is not None and lag_s is not None:
        behind = f"{_span(lag_s)} behind the clock" if lag_s > 0 else ""
        yield "watermark", _joined(Text(_when(n.watermark_us)), Text(behind))
    if n.latency.count:
        yield "latency", _joined(_quantiles("window", n.whole), _quantiles("shard", n.latency))
    taken = (
        Text(f"{_span(now_s - n.snapshot_at_s)} old, took {n.snapshot_ms:,.0f} ms")
        if n.snapshot_at_s
        else Text("none yet", "dim")
    )
    yield "snapshot", _joined(taken, Text(f"state {size_of(n.state_bytes)}"))


def _count(n: int, word: str) -> Text:
    return Text.assemble((f"{n:,}", "bold"), f" {word}")


def _trouble(n: int, word: str) -> Text:
    """A count of what should not be: quiet where it is none."""
    return Text(f"{n:,} {word}", "yellow" if n else "dim")


def _top(reasons: Mapping[str, int]) -> str:
    """The most frequent reasons for quarantine."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {reason}" for reason, n in ordered[:_REASONS]]
    more = len(ordered) - _REASONS
    return ", ".join([*shown, *([f"{more} more reasons"] if more > 0 else [])])


def _quantiles(what: str, latency: Histogram) -> Text:
    if not latency.count:
        return Text("")
    p50, p99 = (latency.quantile_ms(level) for level in (0.5, 0.99))
    return Text.assemble(f"{what} p50 ", (f"{p50:,.0f}", "bold"), ", p99 ", (f"{p99:,.0f}", "bold"), " ms")


def _joined(*parts: Text) -> Text:
    return Text().join(list(_between(Text(" · ", "dim"), [part for part in parts if part])))


def _between(separator: Text, parts: list[Text]) -> Iterator[Text]:
    for place, part in enumerate(parts):
        if place:
            yield separator
        yield part


def _when(us: int) -> str:
    try:
        return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M:%S}".removesuffix(":00") + " UTC"
    except (OverflowError, ValueError, OSError):
        return "the end"  # a source that has ended may say that nothing comes any more


def _elapsed(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _span(seconds: float) -> str:
    for unit_s, unit in _SPANS:
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:,.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
