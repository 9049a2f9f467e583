"""Tests of the server of the dashboard, and of the command ``statecast dashboard``."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.app import run
from pipelines.dashboard import server
from pipelines.dashboard.output_view import OutputView
from tests.pipelines.cli.conftest import start, wait_for_exit
from tests.pipelines.dashboard.conftest import serving

STATIC = Path(server.__file__).parent / "static"


def get(url: str, **headers: str) -> tuple[bytes, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read(), answer.headers


def test_the_server_serves_the_dashboard_page_and_its_files(finished: Path) -> None:
    with serving(finished) as url:
        page, headers = get(f"{url}/")
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-cache"
        names = re.findall(r'(?:src|href)="([^"]+)"', page.decode())
        assert {"plotly.min.js", "dashboard.js", "dashboard.css"} <= set(names)
        for name in (*names, *(path.name for path in STATIC.iterdir())):
            assert get(f"{url}/{name}")[0]


def test_dashboard_files_contain_no_web_address_outside_w3_org() -> None:
    for path in STATIC.iterdir():
        assert set(re.findall(r"https?://[^/\"']+", path.read_text())) <= {"http://www.w3.org"}


def test_api_returns_the_fleet_one_series_and_search_results(finished: Path) -> None:
    view = OutputView(finished)
    with serving(finished) as url:
        assert json.loads(get(f"{url}/api/one?series_id=gate%2F1%20a")[0]) == view.series("gate/1 a")
        assert json.loads(get(f"{url}/api/series?q=gate")[0]) == view.search("gate")
        assert json.loads(get(f"{url}/api/fleet")[0]).keys() == view.fleet().keys()


def test_a_dashboard_request_for_another_host_name_is_refused(finished: Path) -> None:
    with serving(finished) as url:
        port = url.rpartition(":")[2]
        assert get(f"{url}/api/fleet", Host=f"localhost:{port}")[0]
        with pytest.raises(urllib.error.HTTPError, match="400"):
            get(f"{url}/api/fleet", Host=f"elsewhere.example:{port}")


def test_a_dashboard_bug_gives_an_error_without_a_stack_trace(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: OutputView) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(OutputView, "fleet", fail)
    with serving(finished) as url, pytest.raises(urllib.error.HTTPError) as raised:
        get(f"{url}/api/fleet")
    assert json.loads(raised.value.read()) == {"notes": ["this page has a bug: by zero"]}


@pytest.mark.parametrize(
    ("folder", "line"),
    [("none", "none: no such folder"), (".", ".: not an output folder"), ("s3:x://a/b", "not a store")],
)
def test_the_dashboard_command_refuses_a_folder_without_output(
    folder: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["dashboard", folder]) in (2, 3)
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error


def test_the_dashboard_command_refuses_a_port_in_use(finished: Path, capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["dashboard", str(finished), "--port", str(port)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert f"--port {port}: 127.0.0.1 cannot be listened on (Address already in use)" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_dashboard_command_serves_until_a_signal(finished: Path, number: signal.Signals) -> None:
    command = start("dashboard", finished, "--port", 0, "--json", cwd=finished.parent)
    assert command.stdout is not None
    result = json.loads(command.stdout.readline())
    assert result["output"] == str(finished)
    assert json.loads(get(f"{result['url']}/api/series?q=yard")[0])["ids"] == ["yard"]
    command.send_signal(number)
    ended = wait_for_exit(command, 30)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
