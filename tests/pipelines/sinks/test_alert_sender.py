"""Tests of the sending of alerts to a command or to a webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.sinks import alert_sender
from pipelines.sinks.alert_sender import AlertSender, post, run_command

MESSAGE = {"text": "coverage is low", "value": 0.5}


class Hook(BaseHTTPRequestHandler):
    """An HTTP server's handler that records each request and answers with the status code in the path."""

    received: list[tuple[str, str | None, object]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.send_response(int(self.path[1:4]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Hook.received = []
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_command_gets_the_alert_as_json_on_its_standard_input(tmp_path: Path) -> None:
    assert run_command(f"sh -c 'cat > {tmp_path}/alert'", MESSAGE) == ""
    assert json.loads((tmp_path / "alert").read_text()) == MESSAGE


def test_a_failing_command_is_reported_with_its_last_stderr_line() -> None:
    assert run_command("sh -c 'echo no; echo broken >&2; exit 3'", MESSAGE) == (
        "sh ended with exit code 3 (broken)"
    )
    assert run_command("/no/such/program", MESSAGE) == (
        "/no/such/program cannot be run (No such file or directory)"
    )


def test_a_command_that_runs_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_sender, "COMMAND_LIMIT_S", 0.2)
    assert "was killed" in run_command("sleep 60", MESSAGE)


def test_alerts_are_posted_as_json_with_the_url_login(port: int) -> None:
    assert post(f"http://me:pass@127.0.0.1:{port}/200/secret", MESSAGE) == ""
    assert Hook.received == [("/200/secret", "Basic bWU6cGFzcw==", MESSAGE)]


def test_a_webhook_that_fails_is_reported_without_its_path_and_password(port: int) -> None:
    reason = post(f"http://me:pass@127.0.0.1:{port}/500/secret", MESSAGE)
    assert reason == f"the webhook at 127.0.0.1:{port} answered with status 500"
    away = post("http://me:pass@127.0.0.1:9/secret", MESSAGE)
    assert away == "the webhook at 127.0.0.1:9 cannot be reached (Connection refused)"


def test_sending_an_alert_returns_at_once_and_reports_a_failure_later() -> None:
    lines: list[str] = []
    sender = AlertSender(lines.append)
    sender.send("alerts[2]", MESSAGE, "sh -c 'sleep 0.3; exit 1'", "")
    assert not lines
    sender.close()
    assert lines == ["alerts[2]: the alert was not sent: sh ended with exit code 1"]
