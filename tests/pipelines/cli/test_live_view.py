"""Tests of the live view of a running job in the terminal, of its JSON lines, and of its metrics."""

from __future__ import annotations

import io
import json
import signal
import socket
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from forecaster.evaluation.drift import InputDrift
from forecaster.shards.counts import Counts
from forecaster.shards.score_sums import ScoreSums
from pipelines.cli.console import Out
from pipelines.cli.live_view import LINE_EVERY_S, Lines, Rate, View, show_live
from pipelines.sinks.latency import Histogram
from pipelines.sinks.numbers import JobNumbers
from tests.pipelines.cli.conftest import start, statecast, wait_for_exit, wait_until

WATERMARK_S = 1_793_595_600  # 2026-11-02 05:00


class Clock:
    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def job_numbers(steps: int = 240, **changes: object) -> JobNumbers:
    kinds = {"is not a number": 1100, "time is missing": 23, "is in the future": 7}
    counts = Counts(
        rows_in=1_234_567,
        used=1_200_000,
        quarantined=kinds | {"value is NaN": 2, "other": 2},
        late=12,
        pending=33_421,
        windows=1234,
        series_steps=steps,
    )
    values: dict[str, object] = {
        "counts": counts,
        "closed_us": (WATERMARK_S - 3600) * 10**6,
        "watermark_us": WATERMARK_S * 10**6,
        "series": 10_500,
        "live": 10_000,
        "state_bytes": 34_500_000,
        "latency": Histogram().add(95.0).add(227.0),
        "window_latency": Histogram().add(227.0),
        "snapshot_at_s": WATERMARK_S - 8.8,
        "snapshot_ms": 353.3,
    }
    return JobNumbers(**{**values, **changes})  # type: ignore[arg-type]


def rendered(view: View, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(view.render())
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def test_the_live_view_shows_a_job_without_rows_as_waiting() -> None:
    view = View("stream")
    assert "waiting for rows" in rendered(view)
    view.take(JobNumbers())
    assert "waiting for rows" in rendered(view)


def test_the_live_view_shows_counts_rates_and_latencies() -> None:
    clock = Clock()
    view = View("stream", clock, Clock(WATERMARK_S + 3.2))
    for _ in range(3):
        clock.now_s += 0.5
        view.take(job_numbers(steps=int(245_000 * clock.now_s)))
    clock.now_s = 3723
    assert rendered(view).splitlines()[1:] == [
        "  rows       1,234,567 in · 1,200,000 used · 33,421 pending",
        "             1,134 quarantined (0.1%) · 12 late · 0 duplicate",
        "             1,100 is not a number, 23 time is missing, 7 is in the future, 2 more reasons",
        "  series     10,000 live of 10,500 · 245,000 series-steps/s",
        "  windows    1,234 closed · up to 2026-11-02 04:00 UTC",
        "  watermark  2026-11-02 05:00 UTC · 3.2 s behind the clock",
        "  latency    window p50 234, p99 234 ms · shard p50 99, p99 234 ms",
        "  snapshot   12 s old, took 353 ms · state 32.9 MiB",
    ]
    assert rendered(view).splitlines()[0].endswith("stream 1:02:03")


def test_live_view_shows_labels_dim_and_nonzero_problem_counts_yellow() -> None:
    view = View("stream", wall=Clock(WATERMARK_S))
    view.take(job_numbers())
    console = Console(file=io.StringIO(), width=100)
    styles = {segment.text.strip(): str(segment.style or "") for segment in console.render(view.render())}
    assert styles["1,200,000"] == "bold"
    assert styles["1,134 quarantined (0.1%)"] == styles["12 late"] == "yellow"
    assert styles["0 duplicate"] == styles["rows"] == styles["·"] == "dim"
    assert styles["2026-11-02 05:00 UTC"] == ""


def test_the_live_view_omits_numbers_that_a_job_does_not_have() -> None:
    view = View("backfill", wall=Clock(WATERMARK_S))
    view.take(JobNumbers(Counts(rows_in=5, pending=5)))
    text = rendered(view)
    assert "none yet" in text
    for word in ("latency", "watermark", "up to", "steps/s", "unreadable"):
        assert word not in text


@pytest.mark.parametrize(
    ("behind_s", "words"),
    [
        (90, "90 s behind"),
        (600, "10 min behind"),
        (5 * 3600, "5 h behind"),
        (12 * 86_400, "12 d behind"),
        (13 * 365.25 * 86_400, "13 y behind"),
        (-60, "05:00 UTC\n"),
    ],
)
def test_the_live_view_shows_watermark_lag_in_a_readable_unit(behind_s: float, words: str) -> None:
    view = View("stream", wall=Clock(WATERMARK_S + behind_s))
    view.take(job_numbers())
    assert words in rendered(view)


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(744, "0.7 KiB"), (34_500_000, "32.9 MiB"), (10 * 2**30 - 1, "10,240.0 MiB"), (2**40, "1,024.0 GiB")],
)
def test_the_live_view_shows_state_size_in_a_readable_unit(n_bytes: int, words: str) -> None:
    view = View("stream")
    view.take(job_numbers(state_bytes=n_bytes))
    assert f"state {words}" in rendered(view)


def test_the_live_view_shows_that_the_input_has_ended() -> None:
    view = View("stream", wall=Clock(WATERMARK_S))
    view.take(job_numbers(watermark_us=2**63 - 1))
    assert "watermark  the end" in rendered(view)


def test_the_live_view_rate_covers_only_the_last_seconds() -> None:
    rate = Rate()
    rate.take(0.0, 0)
    assert rate.per_s is None
    rate.take(1.0, 1_000_000)
    assert rate.per_s is None
    rate.take(2.0, 1_000_100)
    assert rate.per_s == 100
    for second in range(3, 60):
        rate.take(second, 1_000_100)
    assert rate.per_s == 0
    assert len(rate._seen) <= 12


def test_counts_are_logged_as_json_lines_every_ten_seconds() -> None:
    clock, file = Clock(100.0), io.StringIO()
    lines = Lines("stream", file, clock, Clock(WATERMARK_S + 3.2))
    for tenth in range(100):
        clock.now_s = 100 + tenth / 10
        lines.take(job_numbers(steps=10 * tenth))
    assert not file.getvalue()
    for tenth in range(100, 351):
        clock.now_s = 100 + tenth / 10
        lines.take(job_numbers(steps=10 * tenth))
    objects = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [line["seconds"] for line in objects] == [LINE_EVERY_S, 2 * LINE_EVERY_S, 3 * LINE_EVERY_S]
    last = objects[-1]
    assert last["job"] == "stream"
    assert last["at"] == "2026-11-02T05:00:03+00:00"
    assert last["series_steps_per_s"] == 100
    assert last["quarantined"]["is not a number"] == 1100
    assert (last["rows_in"], last["late"], last["watermark_lag_s"]) == (1_234_567, 12, 3.2)
    assert (last["shard_p50_ms"], last["p99_ms"]) == (99.1, 233.8)


def test_show_live_draws_nothing_if_stderr_is_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_live(Out(), "stream") as take:
        take(job_numbers())
    assert capsys.readouterr() == ("", "")


def test_show_live_draws_nothing_if_output_is_json() -> None:
    out, screen = Out(as_json=True), io.StringIO()
    out.errors = Console(file=screen, force_terminal=True)
    with show_live(out, "stream") as take:
        take(job_numbers())
    assert not screen.getvalue()


def test_the_live_view_is_drawn_on_stderr_and_erased_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Out()
    screen = io.StringIO()
    out.errors = Console(file=screen, force_terminal=True, width=110)
    before = sys.stderr
    with show_live(out, "stream") as take:
        take(job_numbers())
    assert sys.stderr is before
    drawn = screen.getvalue()
    assert "1,234,567" in drawn
    # When the view ends, it moves the cursor up through its lines, and erases each of them.
    assert drawn.endswith("\x1b[1A\x1b[2K")
    assert capsys.readouterr().out == ""


def rows(first: int, last: int) -> str:
    lines = [
        f"s{s},2013-01-{1 + h // 24:02}T{h % 24:02}:30:00Z,{h}" for h in range(first, last) for s in (0, 1)
    ]
    return "\n".join(["series_id,timestamp,value", *lines, "s0,2013-01-01T00:30:00Z,much"]) + "\n"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def scraped(port: int) -> dict[tuple[str, ...], float]:
    """Return the values of a port's metrics by name and label values; empty if the port does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.prism
def test_a_stream_serves_metrics_but_refuses_an_occupied_port(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    port = free_port()
    watch = ("stream", "in", "--watch", "-m", model, "--metrics-port", port)
    job = start(*watch, "--json", cwd=tmp_path)
    for number, (first, last) in enumerate(((0, 30), (30, 50))):
        hidden = tmp_path / "in" / f".{number}.csv"
        hidden.write_text(rows(first, last))
        hidden.rename(tmp_path / "in" / f"{number}.csv")
        read = ("statecast_rows_in_total",)
        wait_until(lambda last=last, read=read: scraped(port).get(read, 0) >= 2 * last, job)  # type: ignore[misc]
    wait_until(lambda: scraped(port)["statecast_windows_closed_total",] == 49, job)
    found = scraped(port)
    assert found["statecast_rows_total", "used"] == 2 * 49
    assert found["statecast_rows_quarantined_total", "is not a number"] == 2
    assert found["statecast_pending_rows",] == 2
    assert found["statecast_series_live",] == 2
    assert found["statecast_latency_seconds_count",] >= 1

    other = statecast(*watch, "-o", "other", cwd=tmp_path)
    assert other.code == 2
    assert (
        other.stderr_line
        == f"error: --metrics-port {port}: not available (Address already in use): choose another port"
    )
    assert not (tmp_path / "other").exists()

    job.send_signal(signal.SIGINT)
    result = wait_for_exit(job)
    assert result.json_object["pending"] == 2
    assert result.messages == []
    assert scraped(port) == {}


def test_a_failed_job_with_a_metrics_port_prints_a_one_line_error(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty.csv").write_text("series_id,timestamp,value\n")
    result = statecast("backfill", "empty.csv", "-m", model, "--metrics-port", 0, cwd=tmp_path)
    assert result.code == 3
    assert result.stderr_line.startswith("error: ")


def test_the_live_view_shows_quality_and_drift() -> None:
    scores = {"lstm-1": {1: ScoreSums(4, 3_000_000, -1_000_000, 4, 500_000, 3), 24: ScoreSums(2, 3_000_000)}}
    drift = {"value": InputDrift([20] * 10, [20.0] * 10, "gate 7", 0.5), "heat": InputDrift()}
    view = View("stream")
    view.take(replace(job_numbers(), counts=Counts(rows_in=5, scores=scores), drift=drift))
    text = " ".join(rendered(view).split())
    assert "quality h1 MASE 0.75 · bias -0.25 · coverage 75% · lstm-1 h24 MASE 1.50 · bias +0.00 " in text
    assert "drift value 0.00 · most gate 7 0.50" in text
    assert "heat" not in text
    view.take(job_numbers())
    assert "quality" not in rendered(view)
    assert "drift" not in rendered(view)


def test_the_live_view_shows_a_model_change_and_a_refused_version() -> None:
    view = View("stream", wall=Clock(WATERMARK_S))
    view.take(job_numbers(model_versions=("lstm-1",)))
    assert "lstm-1" not in rendered(view)
    view.take(
        job_numbers(
            model_versions=("lstm-1",),
            next_model="gru-2",
            next_model_us=WATERMARK_S * 10**6,
            model_notice="weather/3 is refused",
        )
    )
    shown = "  model      lstm-1 · gru-2 from 2026-11-02 05:00 UTC on · weather/3 is refused"
    assert shown in rendered(view).splitlines()
