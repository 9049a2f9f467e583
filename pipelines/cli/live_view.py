"""Show a running job: on a terminal as a few lines that are updated in place, otherwise as lines of JSON."""

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

from pipelines.cli.console import size_text

if TYPE_CHECKING:
    from pipelines.cli.console import Out
    from pipelines.sinks.latency import Histogram
    from pipelines.sinks.numbers import JobNumbers

LINE_EVERY_S: Final = 10.0
"""Seconds between two lines of JSON, which are printed if stderr is not a terminal."""

_FRAMES_PER_S = 2
_RATE_OVER_S = 10.0
_REASONS = 3
_LARGE_DRIFT = 0.25  # a population stability index above this is commonly called a large change
_SPANS = ((365.25 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "min"))


@contextmanager
def show_live(out: Out, what: str) -> Iterator[Callable[[JobNumbers], None]]:
    """Show a job on stderr while the ``with`` block runs: on a terminal as a `View`, otherwise as `Lines`.

    With ``--json``, the job is always shown as `Lines`, because a program reads the output.

    Args:
        out: output of the command.
        what: name of the job.

    Yields:
        Function that shows the job's numbers; call it about twice a second.
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
    """Measures how many series-steps (steps of one series) a job makes per second, over ten seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def take(self, now_s: float, steps: int) -> None:
        """Record how many steps the job has made in total until the time ``now_s``; ignore a total of 0.

        The first total is only a baseline, because the total of a resumed job includes earlier runs.
        """
        if not steps:
            return
        self._seen.append((now_s, steps))
        while now_s - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float | None:
        """The series-steps per second; None until totals at two different times are recorded."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return None
        (began_s, before), (ended_s, after) = self._seen[0], self._seen[-1]
        return (after - before) / (ended_s - began_s)


class Lines:
    """Write the numbers of a job as a line of JSON every ten seconds; a shorter job writes nothing.

    Args:
        what: name of the job.
        file: file that the lines are written to.
        clock: returns seconds of a monotonic clock.
        wall: returns seconds since 1970.
    """

    def __init__(
        self,
        what: str,
        file: IO[str],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.what, self.file, self.clock, self.wall = what, file, clock, wall
        self.began_s = self.last_line_s = clock()
        self.rate = Rate()

    def take(self, numbers: JobNumbers) -> None:
        """Write the job's current numbers as a line, if the last line is at least ten seconds old."""
        now_s = self.clock()
        self.rate.take(now_s, numbers.counts.series_steps)
        if now_s - self.last_line_s < LINE_EVERY_S:
            return
        self.last_line_s = now_s
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
    """Show the numbers of a job as a few lines on a terminal.

    Args:
        what: name of the job.
        clock: returns seconds of a monotonic clock.
        wall: returns seconds since 1970.
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
        """Store the current numbers of the job for the next `render`."""
        self.numbers = numbers
        self.rate.take(self.clock(), numbers.counts.series_steps)

    def render(self) -> RenderableType:
        """Return the lines of the view, with the latest numbers from `take`."""
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
        for name, value in _body_rows(numbers, self.rate.per_s, self.wall()):
            body.add_row(f"  {name}", value)
        return Group(head, body)


def _body_rows(n: JobNumbers, per_s: float | None, now_s: float) -> Iterator[tuple[str, Text]]:
    c = n.counts
    yield "rows", _join(_count(c.rows_in, "in"), _count(c.used, "used"), _count(c.pending, "pending"))
    yield (
        "",
        _join(
            _unused_count(
                c.in_quarantine,
                f"quarantined ({c.quarantined_share:.1%})" if c.in_quarantine else "quarantined",
            ),
            _unused_count(c.late, "late"),
            _unused_count(c.duplicates, "duplicate"),
            *([_unused_count(c.bad_files, "files not read")] if c.bad_files else []),
        ),
    )
    if c.quarantined:
        yield "", Text(_top_reasons(c.quarantined), "yellow")
    steps = "" if per_s is None else f"{per_s:,.0f} series-steps/s"
    yield "series", _join(_count(n.live, f"live of {n.series:,}"), Text(steps, "cyan"))
    closed = "" if n.closed_us is None else f"up to {_utc_time(n.closed_us)}"
    yield "windows", _join(_count(c.windows, "closed"), Text(closed))
    lag_s = n.watermark_lag_s(now_s)
    if n.watermark_us is not None and lag_s is not None:
        behind = f"{_duration(lag_s)} behind the clock" if lag_s > 0 else ""
        yield "watermark", _join(Text(_utc_time(n.watermark_us)), Text(behind))
    if n.model_notice or n.next_model or len(n.model_versions) > 1:
        yield "model", _model_text(n)
    if n.latency.count:
        yield "latency", _join(_latency_text("window", n.window_latency), _latency_text("shard", n.latency))
    yield from _quality_rows(n)
    taken = (
        Text(f"{_duration(now_s - n.snapshot_at_s)} old, took {n.snapshot_ms:,.0f} ms")
        if n.snapshot_at_s
        else Text("none yet", "dim")
    )
    yield "snapshot", _join(taken, Text(f"state {size_text(n.state_bytes)}"))


def _quality_rows(n: JobNumbers) -> Iterator[tuple[str, Text]]:
    """Yield a line of scores for each model version and horizon, and a line of drift for each input."""
    for version, by_horizon in n.counts.scores.items():
        label = "quality"
        for horizon, sums in sorted(by_horizon.items()):
            if sums.mase is None or sums.bias is None:
                continue
            error = Text.assemble(f"h{horizon} MASE ", (f"{sums.mase:.2f}", "bold"))
            bias = Text(f"bias {sums.bias:+.2f}")
            coverage = Text("" if sums.coverage is None else f"coverage {sums.coverage:.0%}")
            yield label, _join(error, bias, coverage, Text(version if label else "", "dim"))
            label = ""
    for name, drift in n.drift.items():
        if (index := drift.index) is not None:
            style = "yellow" if index > _LARGE_DRIFT else ""
            worst = "" if drift.worst_series is None else f"most {drift.worst_series} {drift.worst_index:.2f}"
            yield "drift", _join(Text(f"{name} {index:.2f}", style), Text(worst))


def _model_text(n: JobNumbers) -> Text:
    """Return a line with the model versions in use, the next one, and why the alias's version is not used."""
    start = "" if n.next_model_us is None else f" from {_utc_time(n.next_model_us)} on"
    return _join(
        Text(", ".join(n.model_versions)),
        Text(f"{n.next_model}{start}" if n.next_model else ""),
        Text(n.model_notice, "yellow"),
    )


def _count(n: int, word: str) -> Text:
    return Text.assemble((f"{n:,}", "bold"), f" {word}")


def _unused_count(n: int, word: str) -> Text:
    """Return a count of unused rows or files as yellow text, or as dim text if the count is 0."""
    return Text(f"{n:,} {word}", "yellow" if n else "dim")


def _top_reasons(reasons: Mapping[str, int]) -> str:
    """Return the three most frequent reasons for quarantine as text, with their counts of rows.

    If there are more reasons, the text ends with the number of these reasons.
    """
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {reason}" for reason, n in ordered[:_REASONS]]
    more = len(ordered) - _REASONS
    return ", ".join([*shown, *([f"{more} more reasons"] if more > 0 else [])])


def _latency_text(what: str, latency: Histogram) -> Text:
    if not latency.count:
        return Text("")
    p50, p99 = (latency.quantile_ms(level) for level in (0.5, 0.99))
    return Text.assemble(f"{what} p50 ", (f"{p50:,.0f}", "bold"), ", p99 ", (f"{p99:,.0f}", "bold"), " ms")


def _join(*parts: Text) -> Text:
    return Text().join(list(_interleave(Text(" · ", "dim"), [part for part in parts if part])))


def _interleave(separator: Text, parts: list[Text]) -> Iterator[Text]:
    for place, part in enumerate(parts):
        if place:
            yield separator
        yield part


def _utc_time(us: int) -> str:
    try:
        return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M:%S}".removesuffix(":00") + " UTC"
    except (OverflowError, ValueError, OSError):
        return "the end"  # an ended source has a watermark after the year 9999, which `datetime` refuses


def _elapsed(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _duration(seconds: float) -> str:
    for unit_s, unit in _SPANS:
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:,.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
