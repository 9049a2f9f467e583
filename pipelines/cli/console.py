"""What the commands show: progress with rates, tables, counts; or one JSON object for machines."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from schemas.masking import masked
from schemas.numbers_as_text import text_of

if TYPE_CHECKING:
    import polars as pl

    from pipelines.jobs.job import Outcome


def errors_to(stream: TextIO) -> Console:
    """A console on ``stream``."""
    return Console(file=stream)


class Out:
    """Where a command speaks: words on stdout and progress on stderr; with ``--json`` one object only."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(quiet=as_json)
        self.errors = Console(file=sys.stderr)

    def say(self, text: str, style: str | None = None) -> None:
        """A line for people."""
        self.console.print(masked(text), style=style, markup=False, highlight=False, soft_wrap=True)

    def notice(self, text: str) -> None:
        """A line that must be seen even where stdout is for a machine."""
        self.errors.print(masked(text), style="yellow", markup=False, highlight=False, soft_wrap=True)

    def result(self, value: dict[str, Any]) -> None:
        """The object that ``--json`` prints."""
        if self.as_json:
            sys.stdout.write(json.dumps(_plain(value), default=str, allow_nan=False) + "\n")
            sys.stdout.flush()

    @contextmanager
    def progress(self, what: str, unit: str, total: int | None = None) -> Iterator[Bar]:
        """A progress bar with a rate, on stderr; quiet where that is no terminal."""
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}")]
        columns += [BarColumn(), MofNCompleteColumn()] if total else []
        columns += [_Rate(unit), TimeElapsedColumn(), TextColumn("{task.fields[note]}")]
        shown = self.errors.is_terminal
        with Progress(*columns, console=self.errors, transient=True, disable=not shown) as bars:
            yield Bar(bars, bars.add_task(what, total=total, note=""))


def silence_workers() -> None:
    """Discard the stack traces that Beam's worker threads print, from now on, unless logs were asked for.

    The command shows the error itself, in one line. The workers print with ``print(..., file=sys.stderr)``
    and nothing of theirs chooses the stream; so the name ``print`` is replaced in their modules alone, since
    another `sys.stderr` would silence all threads.
    """
    if logging.getLogger().level < logging.CRITICAL:
        return
    from apache_beam.runners.worker import log_handler, sdk_worker

    for module in (sdk_worker, log_handler):
        vars(module)["print"] = _discard


def _discard(*_: object, **__: object) -> None:
    """Take the arguments of `print`, and print nothing."""


class Bar:
    """One running task."""

    def __init__(self, bars: Progress, task: Any) -> None:
        self._bars, self._task = bars, task

    def add(self, amount: int, note: str = "") -> None:
        """``amount`` more is done."""
        self._bars.update(self._task, advance=amount)
        if note:
            self._bars.update(self._task, note=note)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        if not task.completed:
            return Text("")
        rate = task.finished_speed or task.speed or 0.0
        digits = 0 if rate >= 10 else 1
        per_s = f", {rate:,.{digits}f}/s" if rate else ""
        done = "" if task.total else f"{task.completed:,.0f} "
        return Text(f"{done}{self.unit}{per_s}", style="cyan")


def size_of(n_bytes: int) -> str:
    """A number of bytes in the unit that fits it."""
    units = ("KiB", "MiB", "GiB")
    power = next((p for p in (1, 2) if n_bytes < 10 * 1024 ** (p + 1)), 3)
    return f"{n_bytes / 1024**power:,.1f} {units[power - 1]}"


def _plain(value: Any) -> Any:
    """A value without secrets, and without NaN and infinities, which JSON has no words for."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_outcome(out: Outcome, to: Out, *, goes_on: bool = False) -> None:
    """The end of a job: rate, latency, and rows that add up; and whether it went on."""
    from schemas import replaced

    for line in out.notices:
        to.notice(line)
    c = out.counts
    rate = c.series_steps / out.seconds if out.seconds else 0.0
    took = f"{out.seconds:.1f} s"
    if goes_on:
        to.say(f"{c.series_steps:,} series-steps with those of earlier runs; this one took {took}")
    else:
        to.say(f"{c.series_steps:,} series-steps in {took} ({rate:,.0f}/s, start-up included)")
    if out.has_latency:
        p50, p99 = (out.latency_ms(level) for level in (0.5, 0.99))
        to.say(f"latency from row to forecast file: p50 {p50:,.0f} ms, p99 {p99:,.0f} ms")
    read = f"{c.rows_in:,} rows in" + (f" + {c.restored:,} from the state table" if c.restored else "")
    parts = [
        (c.used, "used"),
        (c.rejected, "quarantined"),
        (c.duplicates, "duplicate"),
        (c.late, "too late"),
    ]
    parts += [(c.pending, "pending")] if c.pending else []
    to.say(f"{read} = " + " + ".join(f"{n:,} {word}" for n, word in parts))
    if c.outside:
        to.say(f"{c.outside:,} rows lay outside the asked time and were not taken in")
    if c.bad_files:
        files = "1 file was" if c.bad_files == 1 else f"{c.bad_files:,} files were"
        to.say(f"{files} not read: in quarantine, with the reason: {out.output / 'quarantine'}", "yellow")
    if c.rejected:
        reasons = sorted(c.quarantined.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{n:,} {reason}" for reason, n in reasons[:3])
        more = f" and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
        to.say(f"quarantined rows ({shown}{more}): {out.output / 'quarantine'}", "yellow")
    for line in replaced.notice(c.replaced, str(out.output / "replaced")):
        to.say(line, "yellow")
    if c.late:
        to.say(f"late rows, with how late: {out.output / 'late'}", "yellow")
    if c.cold_starts:
        to.say(f"{c.cold_starts:,} series came back after windows.max_gap and started cold", "yellow")


def scores_table(scores: pl.DataFrame, horizons: Sequence[int] | None = None) -> Table:
    """Mean absolute error by horizon, a column a model, the best of each row in bold."""
    models = scores["model"].unique(maintain_order=True).to_list()
    table = Table()
    table.add_column("horizon", justify="right")
    for model in models:
        table.add_column(model, justify="right")
    wide = {(row["horizon"], row["model"]): row["mae"] for row in scores.to_dicts()}
    for horizon in sorted({h for h, _ in wide}):
        if horizons and horizon not in horizons:
            continue
        values = [wide.get((horizon, model)) for model in models]
        shown = ["" if v is None else text_of(v) for v in values]
        best = min((text for text in shown if text), default=None, key=float)
        table.add_row(str(horizon), *(f"[bold green]{t}[/]" if t == best else t for t in shown))
    return table


def show_scores(to: Out, scores: pl.DataFrame, title: str, horizons: Sequence[int] | None = None) -> None:
    """A line that says what the errors are, and their table."""
    to.say(title)
    to.console.print(scores_table(scores, horizons))
