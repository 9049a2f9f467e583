"""Watch the quality of a stream, and send an alert when a measure leaves its band.

The process that started the stream evaluates the rules, from the numbers that the shards publish. An alert is
a JSON object with the fields ``text`` (one sentence), ``metric``, ``value``, ``band``, ``windows``,
``model_version``, ``output``, ``closed_at`` (end of the last closed window, UTC), and ``horizon`` for
coverage and error, or ``input``, ``worst_series`` and ``worst_index`` for drift.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from forecaster.components.scores import scored_horizons
from forecaster.shards.score_sums import Scores, scores_since
from pipelines.settings.alert_config import AlertConfig
from pipelines.sinks.alert_sender import AlertSender, Message
from pipelines.sinks.numbers import JobNumbers
from pipelines.storage import Location, markers, write_text
from schemas.errors import ConfigError
from schemas.sealed import seal, unseal


class _Reading(NamedTuple):
    """The number of windows that a job had closed at one time, and its scores until then."""

    windows: int
    scores: Scores


def check_alerts(rules: Sequence[AlertConfig], horizon: int) -> None:
    """Check that a model's forecasts are scored at the rules' horizons, and that the webhooks have addresses.

    Args:
        rules: the rules.
        horizon: the largest horizon of the model.

    Raises:
        ConfigError: a rule has another horizon, or its webhook is not in the environment.
    """
    scored = scored_horizons(horizon)
    for number, rule in enumerate(rules):
        rule.webhook_address(f"alerts[{number}]")
        if rule.metric != "drift" and rule.horizon not in scored:
            raise ConfigError(
                f"alerts[{number}].horizon = {rule.horizon}: the forecasts of this model are scored at the "
                f"horizons {', '.join(map(str, scored))}: choose one of them"
            )


class AlertWatch:
    """Evaluates the alert rules of a stream when windows have closed or drift has changed, and sends alerts.

    A file in the output folder holds the time of the last alert of each rule; it is written before the alert
    is sent. So even a resumed stream does not repeat an alert of a rule within the rule's ``every_s``
    seconds.

    Args:
        rules: the rules.
        output: output folder.
        shards: number of shards of the job.
        say: prints a line for the user; called from other threads, too.
        is_resume: whether the stream resumes, so that its first numbers include an earlier run.
        wall: returns seconds since 1970.
    """

    def __init__(
        self,
        rules: Sequence[AlertConfig],
        output: Location,
        shards: int,
        say: Callable[[str], None],
        *,
        is_resume: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._rules, self._output, self._shards = rules, output, shards
        self._say, self._wall = say, wall
        self._sender = AlertSender(say)
        self._readings = deque[_Reading]() if is_resume else deque([_Reading(0, {})])
        # By index of a drift rule: the number of closed windows when the drift was first outside the band.
        self._outside_since: dict[int, int] = {}
        self._drift: dict[str, float | None] = {}
        self._sent_s = self._read_sent()

    def take(self, numbers: JobNumbers) -> None:
        """Evaluate the rules on the current numbers of the job, and send the alerts that are due.

        Numbers are ignored until every shard has published. Otherwise, a shard that publishes later would
        seem to score all its earlier forecasts at once.
        """
        windows = numbers.counts.windows
        if numbers.shards < self._shards:
            return
        # If the job has fewer closed windows than before, it has resumed from older snapshots.
        # Discard the earlier readings, because they count windows that will close again.
        if self._readings and windows < self._readings[-1].windows:
            self._readings.clear()
            self._outside_since.clear()
        has_closed = not self._readings or windows > self._readings[-1].windows
        # Drift may change although no window has closed: a shard measures it at most once a second,
        # so the shard may publish a closed window before it measures the drift again.
        has_measured = self._drift != (drift := {name: one.index for name, one in numbers.drift.items()})
        self._drift = drift
        if has_closed:
            self._readings.append(_Reading(windows, numbers.counts.scores))
        for number, rule in enumerate(self._rules):
            if has_closed or (has_measured and rule.metric == "drift"):
                for message in self._messages(number, rule, numbers):
                    self._send(number, rule, message)
        longest = max(rule.windows for rule in self._rules)
        while len(self._readings) > 1 and self._readings[1].windows <= windows - longest:
            self._readings.popleft()

    def close(self) -> None:
        """Wait for the alerts that are being sent, at most 30 s."""
        self._sender.close()

    def _messages(self, number: int, rule: AlertConfig, numbers: JobNumbers) -> Iterator[Message]:
        """Yield the alerts of a rule: at most one for drift, or one for each version outside the band."""
        closed = numbers.closed_us
        common = {
            "metric": rule.metric,
            "band": list(rule.band),
            "windows": rule.windows,
            "output": str(self._output),
            "closed_at": None if closed is None else _utc(closed),
        }
        if rule.metric == "drift":
            yield from self._drift_messages(number, rule, numbers, common)
            return
        windows = numbers.counts.windows
        before = [reading for reading in self._readings if reading.windows <= windows - rule.windows]
        if not before:
            return
        name = "coverage" if rule.metric == "coverage" else "the mean absolute error in units"
        for version, by_horizon in scores_since(numbers.counts.scores, before[-1].scores).items():
            sums = by_horizon.get(rule.horizon)
            value = None if sums is None else sums.coverage if rule.metric == "coverage" else sums.mase
            if value is not None and _is_outside(value, rule):
                text = (
                    f"{name} of {version} at horizon {rule.horizon} over the last {rule.windows} windows is "
                    f"{value:.3g}, outside {_band(rule)}"
                )
                more = {"model_version": version, "horizon": rule.horizon, "value": value}
                yield {"text": text, **common, **more}

    def _drift_messages(
        self, number: int, rule: AlertConfig, numbers: JobNumbers, common: dict[str, Any]
    ) -> Iterator[Message]:
        """Yield an alert if the largest drift has been outside the band for the rule's number of windows."""
        indices = {name: drift.index for name, drift in numbers.drift.items()}
        known = {name: index for name, index in indices.items() if index is not None}
        if not known:
            return
        name = max(known, key=lambda one: (known[one], one))
        value, drift = known[name], numbers.drift[name]
        if not _is_outside(value, rule):
            self._outside_since.pop(number, None)
            return
        windows = numbers.counts.windows
        if windows - self._outside_since.setdefault(number, windows) < rule.windows - 1:
            return
        worst = f"; the worst series is {drift.worst_series} ({drift.worst_index:.3g})"
        text = (
            f"the drift of the input {name} has been outside {_band(rule)} for {rule.windows} windows, "
            f"and is {value:.3g}" + (worst if drift.worst_series is not None else "")
        )
        more = {"worst_series": drift.worst_series, "worst_index": drift.worst_index}
        versions = list(numbers.counts.scores)
        newest = versions[-1] if versions else None
        yield {"text": text, **common, "model_version": newest, "input": name, "value": value, **more}

    def _send(self, number: int, rule: AlertConfig, message: Message) -> None:
        """Print and send an alert, and store its time; do nothing if the rule's last alert is too recent."""
        key, now_s = _key(rule), self._wall()
        if now_s - self._sent_s.get(key, float("-inf")) < rule.every_s:
            return
        self._sent_s[key] = now_s
        self._say(f"alert: {message['text']}")
        try:
            write_text(self._output / markers.ALERTS, seal({"sent_s": self._sent_s}), kept=True)
        except OSError as error:
            self._say(f"{self._output / markers.ALERTS}: cannot be written ({error.strerror or error})")
        name = f"alerts[{number}]"
        self._sender.send(name, message, rule.command, rule.webhook_address(name))

    def _read_sent(self) -> dict[str, float]:
        """Return when each rule last sent an alert, in seconds since 1970; {} if the file is unreadable."""
        try:
            found = unseal((self._output / markers.ALERTS).read_bytes())["sent_s"]
            return {str(key): float(sent_s) for key, sent_s in found.items()}
        # The file with the times of the alerts is missing or damaged.
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _is_outside(value: float, rule: AlertConfig) -> bool:
    return not rule.band[0] <= value <= rule.band[1]


def _band(rule: AlertConfig) -> str:
    return f"{rule.band[0]:g} to {rule.band[1]:g}"


def _key(rule: AlertConfig) -> str:
    """Return a name of a rule, without secrets, that does not depend on the other rules."""
    target = zlib.crc32(f"{rule.command} {rule.webhook.get_secret_value()}".encode())
    return f"{rule.metric} h{rule.horizon} {_band(rule)} {rule.windows} {target:08x}"


def _utc(us: int) -> str | None:
    try:
        return datetime.fromtimestamp(us / 1e6, UTC).isoformat()
    except (OverflowError, ValueError, OSError):  # The time is outside the years that `datetime` can hold.
        return None
