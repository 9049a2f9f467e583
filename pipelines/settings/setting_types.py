"""Define types of settings that several sections of the job file share."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.errors import ConfigError


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def time_of(option: str, text: str) -> datetime:
    """Parse the time in the text of an option; a time without a zone is in UTC.

    Raises:
        ConfigError: the text is not a time.
    """
    try:
        return _in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise ConfigError(f"{option} {text}: not a time; write 2013-09-01 or 2013-09-01T00:00Z") from None


def address_or(other: str) -> AfterValidator:
    """Return a validator that accepts HOST:PORT or the text ``other``."""

    def checked(text: str) -> str:
        if text != other and not _ADDRESS.fullmatch(text):
            raise ValueError(f"must be {other} or HOST:PORT" if other else "must be HOST:PORT")
        return text

    return AfterValidator(checked)


def _encoding(name: str) -> str:
    """Check that a name is ``auto`` or a text encoding of Python, and return it.

    Raises:
        ValueError: the name is neither ``auto`` nor a text encoding.
    """
    try:
        if name == "auto" or "x".encode(name):
            return name
    except (LookupError, TypeError):
        pass
    raise ValueError("must be auto or an encoding of Python, such as utf-8, cp1252 or utf-16")


def _time_format(text: str) -> str:
    if text == "auto":
        return text
    # imported here because Polars takes long to import
    from schemas.time_formats import check

    return check(text)


def _time_zone(name: str) -> str:
    if not name:
        return name
    from schemas.time_zones import check  # imported here because Polars takes long to import

    return check(name)


Time = Annotated[datetime, AfterValidator(_in_utc)]
Encoding = Annotated[str, AfterValidator(_encoding)]
TimeFormat = Annotated[str, AfterValidator(_time_format)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
Name = Annotated[str, Field(min_length=1)]

_ADDRESS = re.compile(r"[^/\s@]+:\d+")
