"""The base class of all settings, and types of settings that several sections share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

MOST_WINDOWS = 1_000_000_000
"""The largest number of windows in a setting: sums of a few such numbers are far below 2^63."""


def _is_local(text: str) -> str:
    if "://" in text:
        raise ValueError("must be a file or folder on this machine, not an address: copy it to a disk first")
    return text


LocalPath = Annotated[str, AfterValidator(_is_local)]


class SettingsConflict(ValueError):
    """An error about settings; `message` returns its text with other names of the settings, such as options.

    Args:
        template: the message, with ``{}`` for the name of each setting.
        settings: names of the settings, such as ``data.end``, in the order of the message.
    """

    def __init__(self, template: str, *settings: str) -> None:
        super().__init__(template.format(*settings))
        self.template, self.settings = template, settings

    def message(self, name_of: Callable[[str], str]) -> str:
        """Return the error message with ``name_of(setting)`` in place of the name of each setting.

        Args:
            name_of: returns the name to show for a setting, such as the option that sets it.
        """
        return self.template.format(*map(name_of, self.settings))


class Settings(BaseModel):
    """The base class of settings: they cannot be changed, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
