"""Define the settings of alerts: the watched measure, its band, and the receiver of an alert."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import ErrorDetails

from forecaster.setting_types import Settings
from schemas.errors import ConfigError
from schemas.secrets import SecretUrl

Metric = Literal["coverage", "error", "drift"]

LIST = "alerts"
"""The name of the list of rules in the job file: each rule is a table that begins with ``[[alerts]]``."""


def _band(band: tuple[float, float]) -> tuple[float, float]:
    if band[0] > band[1]:
        raise ValueError("must begin with the lower bound, such as [0.8, 0.98]")
    return band


def _command(text: str) -> str:
    try:
        shlex.split(text)
    except ValueError as error:
        raise ValueError(f"cannot be split into words ({error})") from None
    return text


def _webhook(url: SecretUrl) -> SecretUrl:
    text = url.get_secret_value()
    if text and not text.startswith("$") and not _is_web_address(text):
        raise ValueError("must be http://HOST/PATH, https://HOST/PATH or $NAME")
    return url


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not False
    except ValueError:
        return False


Number = Annotated[float, Field(allow_inf_nan=False)]


class AlertConfig(Settings):
    """One rule: send an alert when a measure of a stream has left its band."""

    metric: Metric = Field(
        description="measure to watch: coverage (share of actuals inside the outermost quantiles), error "
        "(mean absolute error of the median in units, which is MASE) or drift (population stability index of "
        "the input that drifted most)"
    )
    band: Annotated[tuple[Number, Number], AfterValidator(_band)] = Field(
        description="smallest and largest value that raise no alert, such as [0.8, 0.98]"
    )
    horizon: int = Field(
        default=1, ge=1, description="coverage and error: horizon of the forecasts, one of those scored"
    )
    windows: int = Field(
        default=24,
        ge=1,
        le=1_000_000,
        description="coverage and error are measured over this many windows; drift must be outside its band "
        "for as many",
    )
    command: Annotated[str, AfterValidator(_command)] = Field(
        default="", description="command that is run, with the alert as a JSON object on its standard input"
    )
    webhook: Annotated[SecretUrl, AfterValidator(_webhook)] = Field(
        default=SecretUrl(""),
        description="address that the alert is posted to, as a JSON object; $NAME is looked up in the "
        "environment",
    )
    every_s: float = Field(
        default=3600.0,
        ge=0,
        allow_inf_nan=False,
        description="least seconds between two alerts of the rule, also after a restart",
    )

    @model_validator(mode="after")
    def _check_target(self) -> AlertConfig:
        if bool(self.command) == bool(self.webhook.get_secret_value()):
            raise ValueError("needs a command or a webhook, and not both")
        return self

    def webhook_address(self, name: str) -> str:
        """Return the address of the rule's webhook; "" if the rule has a command instead.

        Args:
            name: name of the rule, for the error.

        Raises:
            ConfigError: the environment does not hold a web address under that name.
        """
        text = self.webhook.get_secret_value()
        if not text.startswith("$"):
            return text
        found = os.environ.get(text[1:], "")
        if not _is_web_address(found):
            raise ConfigError(
                f"{name}.webhook = {text}: set {text[1:]} in the environment to http://HOST/PATH or "
                "https://HOST/PATH"
            )
        return found


def describe_alert(error: ErrorDetails, source: str) -> str:
    """Return pydantic's error about an alert rule as one line; values are left out, as they may be secret.

    Args:
        error: an error whose place begins with ``alerts``.
        source: precedes the name of the setting, such as ``job.toml: ``.
    """
    _, *place = error["loc"]
    name = f"{source}{LIST}" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{name}: is missing: {AlertConfig.model_fields[str(place[1])].description}"
    if kind == "extra_forbidden":
        return f"{name}: no such setting; [[{LIST}]] has {', '.join(AlertConfig.model_fields)}"
    if kind == "literal_error":
        return f"{name}: must be {_either(get_args(Metric))}"
    if kind == "value_error":
        return f"{name}: {context['error']}"
    if kind in ("model_type", "model_attributes_type", "tuple_type", "dict_type") and len(place) < 2:
        return f"{name}: must be tables that begin with [[{LIST}]]"
    if place[1:2] == ["band"]:
        return f"{source}{LIST}[{place[0]}].band: must be two numbers, such as [0.8, 0.98]"
    return f"{name}: {_lower(error)}"


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _lower(error: ErrorDetails) -> str:
    message: Any = error["msg"]
    return "must be " + str(message).removeprefix("Input should be ")
