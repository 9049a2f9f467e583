"""The base of all settings, and the types of settings that several sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

MOST_WINDOWS = 1_000_000_000
"""The largest number of windows that a setting may name: sums of a few such numbers stay far below 2^63."""


def _is_local(text: str) -> str:
    if "://" in text:
        raise ValueError("must be a file or folder on this machine, not an address: copy it to a disk first")
    return text


LocalPath = Annotated[str, AfterValidator(_is_local)]


class Settings(BaseModel):
    """Frozen settings that refuse names they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
