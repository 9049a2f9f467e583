"""Read settings from a job file, and convert settings to the text of a job file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from pipelines.settings.alert_config import AlertConfig
from pipelines.settings.config import FIELDS, JobConfig
from pipelines.settings.invalid_setting import describe, no_such_setting
from pipelines.settings.setting_types import Time
from schemas.errors import ConfigError
from schemas.secrets import SecretUrl


def load_config(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    written: Mapping[str, str] | None = None,
) -> JobConfig:
    """Return the settings of a TOML job file, with some of them overridden.

    Args:
        path: the job file; None takes the defaults.
        overrides: values by dotted name. If the setting is not a text, a text is parsed as a TOML value
            ("128", "[0.1, 0.5]", "true"). None does not change a setting.
        written: for error messages, the text that precedes the value of an override where the user wrote it,
            such as "--horizon "; without it, "option network.horizon = ".

    Raises:
        ConfigError: the file cannot be read, or a setting is invalid; the message names the file, the
            setting, its value and the allowed values.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    written = {key: f"option {key} = " for key in given} | dict(written or {})
    table: dict[str, Any] = _read(path) if path else {}
    for key, value in given.items():
        if key not in FIELDS:
            raise ConfigError(no_such_setting(written[key].rstrip(" ="), key, FIELDS))
        section, _, name = key.partition(".")
        inner = table.setdefault(section, {})
        # If ``inner`` is a value and not a section, `model_validate` reports this below.
        if isinstance(inner, dict):
            inner[name] = parse_value(value, FIELDS[key]) if isinstance(value, str) else value
    try:
        return JobConfig.model_validate(table)
    except ValidationError as error:
        raise ConfigError(describe(error, FIELDS, written, path)) from None


def commented_toml(config: JobConfig | None = None) -> str:
    """Return ``config`` as the text of a commented job file; ``load_config`` reads equal settings from it.

    If ``config`` is None, the text has the default settings.

    Raises:
        ConfigError: a setting holds a secret, which belongs in the environment and not in a file.
    """
    config = config or JobConfig()
    lines: list[str] = []
    section = ""
    for key, field, value in config.entries():
        name, _, leaf = key.partition(".")
        if name != section:
            section = name
            doc = (type(getattr(config, name)).__doc__ or "").splitlines()[0]
            lines += ["", f"# {doc}", f"[{name}]"] if lines else [f"# {doc}", f"[{name}]"]
        lines.append(f"# {field.description}")
        if _holds_secret(value):
            raise ConfigError(
                f"{key} = {value}: holds a name or a password, which is not written into a job file: leave "
                "it out here, and set it in the environment of the job"
            )
        lines.append(f"# {leaf} = {_example(field)}" if value is None else f"{leaf} = {_toml(value)}")
    lines += _alert_lines(config.alerts)
    return "\n".join(lines) + "\n"


def _alert_lines(alerts: Sequence[AlertConfig]) -> list[str]:
    """Return the rules of alerts as lines of TOML; if there are no rules, an example in comments.

    Raises:
        ConfigError: the address of a webhook is written out, and may hold a secret.
    """
    doc = (AlertConfig.__doc__ or "").splitlines()[0]
    if not alerts:
        example = ('metric = "coverage"', "band = [0.8, 0.98]", "windows = 24", 'command = "notify-operator"')
        return ["", f"# {doc}", "# [[alerts]]", *(f"# {line}" for line in example)]
    lines: list[str] = []
    for number, alert in enumerate(alerts):
        webhook = alert.webhook.get_secret_value()
        if webhook and not webhook.startswith("$"):
            raise ConfigError(
                f"alerts[{number}].webhook: may hold a secret, which is not written into a job file: give it "
                "as $NAME, and set NAME in the environment of the job"
            )
        lines += ["", f"# {doc}", "[[alerts]]"]
        for name, field in AlertConfig.model_fields.items():
            lines += [f"# {field.description}", f"{name} = {_toml(getattr(alert, name))}"]
    return lines


def _holds_secret(value: object) -> bool:
    """Return whether the value of a setting is a URL that contains a user name, a password or a token."""
    return isinstance(value, SecretUrl) and value.is_secret


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such job file; `statecast init` writes one") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        reason, _, where = str(error).rstrip(")").partition(" (at ")
        raise ConfigError(f"{path}: {where}: not valid TOML: {reason}") from None


def parse_value(text: str, field: FieldInfo) -> object:
    """Convert the text of an option to the value of a setting.

    The text is parsed as TOML if the setting can hold other values than text. Invalid TOML stays text.
    """
    kinds = get_args(field.annotation) if get_origin(field.annotation) is Literal else (field.annotation,)
    if all(kind in (str, SecretUrl) or isinstance(kind, str) for kind in kinds):
        return text
    parts = get_args(field.annotation)
    if str in parts and any(get_origin(part) is tuple for part in parts) and not text.startswith("["):
        return text  # a column may be called 3 or 1.10, so keep the text
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def _example(field: FieldInfo) -> str:
    """Return an example value as TOML, for a setting that has no value by default."""
    kinds = get_args(field.annotation)
    choices = [kind for kind in kinds if get_origin(kind) is Literal]
    if choices:
        return _toml(get_args(choices[0])[0])
    return "false" if bool in kinds else "2013-01-01T00:00:00Z" if Time in kinds else '"1h"'


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, SecretStr):
        return _toml(value.get_secret_value())
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return repr(value)
