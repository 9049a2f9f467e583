"""The base class of all settings, and types of settings that several sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

MOST_WINDOWS = 1_000_000_000
"""The largest number of windows in a setting: sums of a few such numbers are far below 2^63."""


def _is_local(text: str) -> str:
    if "://" in text:
        raise ValueError("must be a file or folder on this machine, not an address: copy it to a disk first")
    return text


LocalPath = Annotated[str, AfterValidator(_is_local)]


class Settings(BaseModel):
    """Frozen settings that refuse unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
