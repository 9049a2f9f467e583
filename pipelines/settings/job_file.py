"""Read settings from a job file, write settings to a job file, and explain an invalid setting in one line."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipelines.settings.config import SECRET_SETTINGS, JobConfig
from pipelines.settings.setting_types import Time
from schemas.errors import ConfigError
from schemas.masking import MASK
from schemas.secrets import SecretUrl

_FIELDS = {key: field for key, field, _ in JobConfig().entries()}


def load_config(path: Path | None = None, overrides: Mapping[str, object] | None = None) -> JobConfig:
    """Return the settings of a TOML job file, with some of them overridden.

    Args:
        path: the job file; None takes the defaults.
        overrides: values by dotted name. If the setting is not a text, a text is parsed as a TOML value
            ("128", "[0.1, 0.5]", "true"). None does not change a setting.

    Raises:
        ConfigError: the file cannot be read, or a setting is invalid; the message names the file, the
            setting, its value and the allowed values.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    table: dict[str, Any] = _read(path) if path else {}
    for key, value in given.items():
        if key not in _FIELDS:
            raise ConfigError(f"option {key}: no such setting{_nearest(key)}")
        section, _, name = key.partition(".")
        inner = table.setdefault(section, {})
        if isinstance(
            inner, dict
        ):  # otherwise the file has a value where a section belongs: pydantic reports it below
            inner[name] = _parsed(value, _FIELDS[key]) if isinstance(value, str) else value
    try:
        return JobConfig.model_validate(table)
    except ValidationError as error:
        first, *more = error.errors()
        line = _error_line(first, path, given)
        raise ConfigError(line + (f" (and {len(more)} more)" if more else "")) from None


def commented_toml(config: JobConfig | None = None) -> str:
    """Return the text of a commented job file, from which ``load_config`` reads the same settings.

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
    return "\n".join(lines) + "\n"


def _holds_secret(value: object) -> bool:
    """Return whether a value is a URL that contains a login."""
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


def _parsed(text: str, field: FieldInfo) -> object:
    kinds = get_args(field.annotation) if get_origin(field.annotation) is Literal else (field.annotation,)
    if all(kind in (str, SecretUrl) or isinstance(kind, str) for kind in kinds):
        return text
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def _example(field: FieldInfo) -> str:
    """Return an example value, as TOML, for a setting whose default is no value."""
    kinds = get_args(field.annotation)
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


def _error_line(error: ErrorDetails, path: Path | None, given: Mapping[str, object]) -> str:
    """Return an error of pydantic as one line: the file, the setting, its value and the allowed values."""
    parts = [str(part) for part in error["loc"]]
    key = ".".join(parts[:2])
    source = "option" if key in given or path is None else f"{path}:"
    allowed = _requirement(error, key)
    if error["type"] == "extra_forbidden":
        return f"{source} {key}: {allowed}"
    if allowed.startswith(
        f"{parts[0]}." if parts else "?"
    ):  # the message of a rule between settings names the settings
        named = "option" if any(k.startswith(f"{parts[0]}.") for k in given) else source
        return f"{named} {allowed}"
    at = f"[{parts[2]}]" if len(parts) > 2 and parts[2].isdigit() else ""
    may_be_secret = any(f"{secret}.".startswith(f"{key}.") for secret in SECRET_SETTINGS)
    shown = MASK if may_be_secret else _shown(error["input"])
    return f"{source} {key}{at} = {shown}: {allowed}"


def _shown(value: object) -> str:
    text = (
        " ".join(str(value).split()) if not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )
    return text if len(text) <= 60 else text[:57] + "..."


_PHRASES = {
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list, such as [1, 2]",
}


def _requirement(error: ErrorDetails, key: str) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"no such setting{_nearest(key)}"
    if kind in _PHRASES:
        return _PHRASES[kind].format(**context)
    if kind == "literal_error":
        return "must be " + re.sub(r"'([\w-]+)'", r"\1", str(context["expected"]))
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "model_attributes_type"):
        return f"must be a section that begins with [{key}]"
    for prefix, phrase in (
        ("int", "must be a whole number"),
        ("float", "must be a number"),
        ("bool", "must be true or false"),
        ("date", "must be a time, such as 2013-01-31T05:00:00Z"),
    ):
        if kind.startswith(prefix):
            return phrase
    return error["msg"]


def _nearest(key: str) -> str:
    """Return a hint for a wrong name: the most similar setting or section, or all existing names."""
    leaf = key.rpartition(".")[2]
    same = [k for k in _FIELDS if k.rpartition(".")[2] == leaf]
    close = same or difflib.get_close_matches(key, _FIELDS if "." in key else JobConfig.model_fields, 1, 0.7)
    if not close:
        near = difflib.get_close_matches(leaf, [k.rpartition(".")[2] for k in _FIELDS], 1, 0.75)
        close = [k for k in _FIELDS if near and k.rpartition(".")[2] == near[0]]
    if close:
        return f"; did you mean {close[0]}?"
    section = key.partition(".")[0]
    if "." in key and section in JobConfig.model_fields:
        names = [k.partition(".")[2] for k in _FIELDS if k.startswith(f"{section}.")]
        return f"; [{section}] has {', '.join(names)}"
    return f"; the sections are {', '.join(JobConfig.model_fields)}"
