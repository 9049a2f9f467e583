"""Control a headless Chromium through chromedriver, for tests of web pages; both must be installed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_TIMEOUT_S = 120.0
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=2000,1100", "--force-color-profile=srgb",
)  # fmt: skip


class Browser:
    """A page of a running Chromium.

    Args:
        session: URL of the browser's session at chromedriver.
    """

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        """Load a page."""
        _request(f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run the body of a JavaScript function in the page, and return its value."""
        return _request(f"{self._session}/execute/sync", {"script": script, "args": []})

    def emulate(self, width: int, height: int, *, is_phone: bool = False, is_dark: bool = False) -> None:
        """Emulate a window of ``width`` x ``height`` pixels.

        With ``is_phone``, it is the window of a phone; with ``is_dark``, the page is in dark mode.
        """
        metrics = {
            "width": width,
            "height": height,
            "deviceScaleFactor": 2 if is_phone else 1,
            "mobile": is_phone,
        }
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        for command, values in (
            ("Emulation.setDeviceMetricsOverride", metrics),
            ("Emulation.setEmulatedMedia", {"features": scheme}),
        ):
            _request(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": values})

    @property
    def text(self) -> str:
        """Return the visible text of the page."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def wait_for(self, *parts: str) -> str:
        """Wait until the visible text contains all ``parts``, and return it; fail after a timeout."""
        found: str = self.wait_until(lambda: self.text, lambda text: all(part in text for part in parts))
        return found

    def wait_until(self, read: Callable[[], Any], is_right: Callable[[Any], bool]) -> Any:
        """Call ``read`` until ``is_right`` returns True for its result, and return the result.

        The test fails after a timeout.
        """
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            found = read()
            if is_right(found):
                return found
            assert time.monotonic() < deadline_s, f"the page is not as expected; it shows {found}"
            time.sleep(0.3)

    def picture(self, file: Path) -> None:
        """Save a screenshot of the page as PNG."""
        time.sleep(2)  # the browser draws charts shortly after the text of the page
        with urllib.request.urlopen(f"{self._session}/screenshot", timeout=_TIMEOUT_S) as answer:
            file.write_bytes(base64.b64decode(json.load(answer)["value"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium, yield a `Browser` that controls it, and stop Chromium at the end of the block.

    Args:
        folder: an empty folder for the profile of Chromium.
    """
    assert CHROMIUM is not None
    assert DRIVER is not None
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    options = {"binary": CHROMIUM, "args": [*_ARGUMENTS, f"--user-data-dir={folder}"]}
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        session = f"http://127.0.0.1:{port}/session"
        made = _when_it_answers(lambda: _request(session, wanted))
        address = f"{session}/{made['sessionId']}"
        try:
            yield Browser(address)
        finally:
            with suppress(OSError):
                urllib.request.urlopen(
                    urllib.request.Request(address, method="DELETE"), timeout=_TIMEOUT_S
                ).close()
    finally:
        driver.terminate()
        driver.wait()


def _when_it_answers(call: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return call()
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline_s, "the driver of the browser does not answer in time"
            time.sleep(0.2)


def _request(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return json.load(answer)["value"]
