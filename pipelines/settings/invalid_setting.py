"""Convert pydantic's description of an invalid setting to one line for the user."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from forecaster.setting_types import SettingsConflict
from pipelines.settings.alert_config import LIST, describe_alert
from pipelines.settings.config import SECRET_SETTINGS
from schemas.masking import MASK

_REQUIREMENTS = {
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list, such as [1, 2]",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "date": "must be a time, such as 2013-01-31T05:00:00Z",
    "datetime": "must be a time, such as 2013-01-31T05:00:00Z",
}
"""What a value must be, by pydantic's type of the error, or by the first word of the type."""


def describe(
    error: ValidationError,
    settings: Collection[str],
    written: Mapping[str, str],
    path: Path | None = None,
) -> str:
    """Return one line about the first wrong setting in an error of pydantic: its name and what is wrong.

    The number of other wrong settings follows, unless the first wrong setting is in an alert rule.

    Args:
        error: the error.
        settings: names of all settings.
        written: for each setting that was not set in the job file, the text that precedes its value where
            the user wrote it, such as ``--horizon `` or ``--set network.horizon=``.
        path: the job file; None without one.
    """
    first_error = error.errors()[0]
    if first_error["loc"][:1] == (LIST,):
        return describe_alert(first_error, f"{path}: " if path else "option ")
    errors: dict[tuple[str, int | None], list[ErrorDetails]] = {}
    for one in error.errors():
        errors.setdefault(_place(one), []).append(one)
    place, first = next(iter(errors.items()))
    line = _line(place, first, settings, written, f"{path}: " if path else "option ")
    return line + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


def _place(error: ErrorDetails) -> tuple[str, int | None]:
    """Return the name of a wrong setting, and the index of the wrong item if the setting is a list."""
    # ``loc`` holds the section and the setting, and perhaps an index in a list or the name of a type.
    parts = error["loc"]
    return ".".join(map(str, parts[:2])), next((part for part in parts if isinstance(part, int)), None)


def _line(
    place: tuple[str, int | None],
    errors: Sequence[ErrorDetails],
    settings: Collection[str],
    written: Mapping[str, str],
    source: str,
) -> str:
    """Return the errors about one value as one line; a setting of several types may have an error for each.

    ``source`` precedes the name of a setting that is not in ``written``.
    """
    (key, index), error = place, errors[0]
    names = {setting: before.rstrip(" =") for setting, before in written.items()}
    conflict = error.get("ctx", {}).get("error")
    if isinstance(conflict, SettingsConflict):
        is_written = any(setting in names for setting in conflict.settings)
        return ("" if is_written else source) + conflict.message(lambda setting: names.get(setting, setting))
    if error["type"] == "extra_forbidden":
        return no_such_setting(names.get(key, source + key), key, settings)
    before = written.get(key, f"{source}{key} = ")
    # In a list, name the element that is wrong.
    if index is not None and before.endswith(("=", "= ")):
        name = before.rstrip(" =")
        before = f"{name}[{index}]{before[len(name) :]}"
    allowed, *others = dict.fromkeys(_requirement(one, key) for one in errors)
    allowed += "".join(f", or {other.removeprefix('must be ')}" for other in others)
    return f"{before}{_shown(key, error['input'])}: {allowed}"


def no_such_setting(name: str, key: str, settings: Collection[str]) -> str:
    """Return the error line for a setting that does not exist, with the most similar setting or section.

    Args:
        name: the setting as the user wrote it.
        key: name of the setting.
        settings: names of all settings.
    """
    return f"{name}: no such setting; {_nearest(key, list(settings))}"


def _shown(key: str, value: object) -> str:
    if any(f"{secret}.".startswith(f"{key}.") for secret in SECRET_SETTINGS):
        return MASK
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _requirement(error: ErrorDetails, key: str) -> str:
    """Return the part of an error line that says what the value must be, such as ``must be positive``."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return "must be " + re.sub(r"'([\w-]+)'", r"\1", str(context["expected"]))
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "model_attributes_type"):
        return f"must be a section that begins with [{key}]"
    found = _REQUIREMENTS.get(kind) or _REQUIREMENTS.get(kind.partition("_")[0])
    return found.format(**context) if found else error["msg"]


def _nearest(key: str, settings: list[str]) -> str:
    """Return a hint for a wrong name: the most similar setting or section, or all names."""
    sections = list(dict.fromkeys(name.partition(".")[0] for name in settings))
    leaf = key.rpartition(".")[2]
    leaves = {name.rpartition(".")[2]: name for name in reversed(settings)}
    section = key.partition(".")[0]
    if leaf in leaves:  # the part of ``key`` after its last dot is the name of a setting in some section
        return f"did you mean {leaves[leaf]}?"
    others = settings if "." in key else [name for name in sections if name != key]
    if close := difflib.get_close_matches(key, others, 1, 0.7):
        return f"did you mean {close[0]}?"
    if close := difflib.get_close_matches(leaf, leaves, 1, 0.75):
        return f"did you mean {leaves[close[0]]}?"
    if section in sections:
        names = [name.partition(".")[2] for name in settings if name.startswith(f"{section}.")]
        return f"[{section}] has {', '.join(names)}"
    return f"the {'settings' if sections == settings else 'sections'} are {', '.join(sections)}"
