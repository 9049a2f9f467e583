"""Send alerts to a command or to a webhook in threads, so that a slow receiver does not delay the job."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from schemas.masking import split_login

COMMAND_LIMIT_S: Final = 30.0
"""A command that runs longer is killed."""

WEBHOOK_LIMIT_S: Final = 10.0
"""Seconds in which a webhook must answer."""

Message = Mapping[str, Any]
"""The fields of an alert; `pipelines.jobs.alerts` documents them."""


class AlertSender:
    """Sends alerts in threads; reports an alert that cannot be sent, and does not send it again.

    Args:
        say: prints a line for the user; called from other threads.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._threads: list[threading.Thread] = []

    def send(self, name: str, message: Message, command: str, webhook: str) -> None:
        """Begin to send an alert, and return at once.

        Args:
            name: name of the rule, for the report if the alert cannot be sent.
            message: the alert.
            command: command to run, with the alert as JSON on its standard input; "" for the webhook.
            webhook: address to post the alert to, as JSON.
        """

        def work() -> None:
            reason = run_command(command, message) if command else post(webhook, message)
            if reason:
                self._say(f"{name}: the alert was not sent: {reason}")

        thread = threading.Thread(target=work, name="alert", daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    def close(self) -> None:
        """Wait until no alert is being sent any more, but at most `COMMAND_LIMIT_S` seconds."""
        until_s = time.monotonic() + COMMAND_LIMIT_S
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0.0))


def run_command(command: str, message: Message) -> str:
    """Run a command with a message as JSON on its standard input; return why it failed; "" if it did not."""
    words = shlex.split(command)
    try:
        done = subprocess.run(
            words,
            input=json.dumps(message),
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{words[0]} ran for more than {COMMAND_LIMIT_S:.0f} s and was killed"
    except (OSError, ValueError) as error:
        return f"{words[0]} cannot be run ({getattr(error, 'strerror', None) or error})"
    if not done.returncode:
        return ""
    said = done.stderr.strip().splitlines()
    return f"{words[0]} ended with exit code {done.returncode}" + (f" ({said[-1][:200]})" if said else "")


def post(address: str, message: Message) -> str:
    """Post a message as JSON to a web address; return why this failed; "" if it did not.

    The reason names only the host, because the path of a webhook is often its password. A name and a password
    in the address are sent as basic authentication.
    """
    url, login = split_login(address)
    host = urlsplit(url).netloc
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    try:
        request = urllib.request.Request(url, json.dumps(message).encode(), headers)
        with urllib.request.urlopen(request, timeout=WEBHOOK_LIMIT_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"the webhook at {host} answered with status {error.code}"
    except (OSError, ValueError) as error:
        inner = getattr(error, "reason", error)
        return f"the webhook at {host} cannot be reached ({getattr(inner, 'strerror', None) or inner})"
