"""Print the output of commands: progress bars, tables and counts on a terminal, or one JSON object."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
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

from pipelines.settings.garbage_collection import without_garbage_collection
from schemas.masking import masked
from schemas.numbers_as_text import text_of

if TYPE_CHECKING:
    import polars as pl

    from forecaster.shards.counts import Counts
    from pipelines.jobs.job import Outcome


def error_console(stream: TextIO) -> Console:
    """Return a rich console that writes messages to ``stream``."""
    return Console(file=stream)


class Out:
    """The output of a command: progress and notices on stderr; text or, with ``--json``, JSON on stdout."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(quiet=as_json)
        self.errors = Console(file=sys.stderr)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line of text on stdout; with ``--json``, print nothing."""
        self.console.print(masked(text), style=style, markup=False, highlight=False, soft_wrap=True)

    def notice(self, text: str) -> None:
        """Print a line on stderr, whether or not ``--json`` was given."""
        self.errors.print(masked(text), style="yellow", markup=False, highlight=False, soft_wrap=True)

    def result(self, value: dict[str, Any]) -> None:
        """Print ``value`` as one line of JSON if ``--json`` was given."""
        if self.as_json:
            sys.stdout.write(json.dumps(_json_value(value), default=str, allow_nan=False) + "\n")
            sys.stdout.flush()

    @contextmanager
    def progress(self, what: str, unit: str, total: int | None = None) -> Iterator[Bar]:
        """Show a progress bar with a rate while the ``with`` block runs, if stderr is a terminal.

        Args:
            what: description beside the bar.
            unit: name of the counted things, in the plural.
            total: amount at which the task is complete; None if it is unknown.
        """
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}")]
        columns += [BarColumn(), MofNCompleteColumn()] if total else []
        columns += [_Rate(unit), TimeElapsedColumn(), TextColumn("{task.fields[note]}")]
        shown = self.errors.is_terminal
        with Progress(*columns, console=self.errors, transient=True, disable=not shown) as bars:
            yield Bar(bars, bars.add_task(what, total=total, note=""))

    @contextmanager
    def loading(self, what: str) -> Iterator[None]:
        """Show that packages or a model are being loaded while the ``with`` block runs.

        Garbage collection is off during the block, because it would slow the loading down.

        Args:
            what: names of the packages, or of the model.
        """
        with self.progress(f"loading {what}", "packages"), without_garbage_collection():
            yield


def silence_workers() -> None:
    """Discard the stack traces that Beam's worker threads print, unless STATECAST_LOG turns logging on.

    The command itself reports the error in one line. Beam's workers call ``print(..., file=sys.stderr)``,
    which no setting of Beam turns off. So this function replaces ``print`` in the modules of the workers. To
    replace `sys.stderr` instead would silence all threads.
    """
    if logging.getLogger().level < logging.CRITICAL:
        return
    from apache_beam.runners.worker import log_handler, sdk_worker

    for module in (sdk_worker, log_handler):
        vars(module)["print"] = _discard


def _discard(*_: object, **__: object) -> None:
    """Ignore the arguments; this function replaces `print` in Beam's worker modules."""


class Bar:
    """The progress bar of one running task."""

    def __init__(self, bars: Progress, task: Any) -> None:
        self._bars, self._task = bars, task

    def add(self, amount: int, note: str = "") -> None:
        """Advance the bar by ``amount``, and show ``note`` beside it."""
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


def size_text(n_bytes: int) -> str:
    """Return a number of bytes as text in KiB, MiB or GiB."""
    units = ("KiB", "MiB", "GiB")
    power = next((p for p in (1, 2) if n_bytes < 10 * 1024 ** (p + 1)), 3)
    return f"{n_bytes / 1024**power:,.1f} {units[power - 1]}"


def _json_value(value: Any) -> Any:
    """Return a value that JSON can hold: NaN and infinities become None, and secrets are masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_outcome(out: Outcome, to: Out, *, is_resume: bool = False) -> None:
    """Print the summary of a job that has ended: rate, latency, and the counts of rows by outcome.

    Args:
        out: outcome of the job.
        to: output that it is printed to.
        is_resume: whether the job was resumed, so that its counts include earlier runs.
    """
    from schemas import replaced

    for line in out.notices:
        to.notice(line)
    c = out.counts
    rate = c.series_steps / out.seconds if out.seconds else 0.0
    took = f"{out.seconds:.1f} s"
    if is_resume:
        to.say(f"{c.series_steps:,} series-steps, earlier runs included; this run took {took}")
    else:
        to.say(f"{c.series_steps:,} series-steps in {took} ({rate:,.0f}/s, start-up included)")
    if out.has_latency:
        p50, p99 = (out.latency_ms(level) for level in (0.5, 0.99))
        to.say(f"latency from row to forecast file: p50 {p50:,.0f} ms, p99 {p99:,.0f} ms")
    for line in _quality_lines(c):
        to.say(line)
    read = f"{c.rows_in:,} rows in" + (f" + {c.restored:,} from the state table" if c.restored else "")
    read += f" + {c.replayed:,} read again from quarantine" if c.replayed else ""
    parts = [
        (c.used, "used"),
        (c.rejected, "quarantined"),
        (c.duplicates, "duplicate"),
        (c.late, "too late"),
    ]
    parts += [(c.pending, "pending")] if c.pending else []
    to.say(f"{read} = " + " + ".join(f"{n:,} {word}" for n, word in parts))
    if c.outside:
        to.say(f"{c.outside:,} rows outside the requested time were left out")
    if c.bad_files:
        files = "1 file was" if c.bad_files == 1 else f"{c.bad_files:,} files were"
        to.say(f"{files} not read; the reasons are in quarantine: {out.output / 'quarantine'}", "yellow")
    if c.in_quarantine:
        to.say(f"quarantined rows ({kinds_text(c.quarantined)}): {out.output / 'quarantine'}", "yellow")
    for line in replaced.notice(c.replaced, str(out.output / "replaced")):
        to.say(line, "yellow")
    if c.repaired:
        to.say(f"{c.repaired:,} late rows were used; forecasts after them were issued again as revisions")
    if c.late:
        to.say(f"late rows, with their lateness: {out.output / 'late'}", "yellow")
    if c.cold_starts:
        to.say(
            f"{c.cold_starts:,} series returned after a gap longer than windows.max_gap and started cold",
            "yellow",
        )


def kinds_text(quarantined: Mapping[str, int]) -> str:
    """Return the three most frequent kinds of faults of quarantined rows as text, with their counts of rows.

    If there are more kinds, the text ends with the number of these kinds.
    """
    kinds = sorted(quarantined.items(), key=lambda item: -item[1])
    more = f" and {len(kinds) - 3} more reasons" if len(kinds) > 3 else ""
    return ", ".join(f"{rows:,} {kind}" for kind, rows in kinds[:3]) + more


def _quality_lines(counts: Counts) -> list[str]:
    """Return a line for each model version with the MASE and the coverage of its forecasts."""
    lines = []
    for version, by_horizon in counts.scores.items():
        parts = []
        for horizon, sums in sorted(by_horizon.items()):
            coverage = "" if sums.coverage is None else f", coverage {sums.coverage:.0%}"
            parts.append(f"MASE {sums.mase:.2f}{coverage} at horizon {horizon}")
        lines.append(f"forecasts of {version} whose actuals were observed: {'; '.join(parts)}")
    return lines


def scores_table(scores: pl.DataFrame, horizons: Sequence[int] | None = None) -> Table:
    """Return a table of mean absolute errors by horizon (rows) and model (columns), with the best in bold.

    Args:
        scores: frame with ``model``, ``horizon`` and ``mae``.
        horizons: the horizons to show; None shows all.
    """
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
    """Print a title and the table of scores from `scores_table`."""
    to.say(title)
    to.console.print(scores_table(scores, horizons))
