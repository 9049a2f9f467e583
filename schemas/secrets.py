"""Settings that may hold a secret.

The text of these types is masked, so a secret cannot be logged, printed or written by accident: whoever needs
it has to call ``get_secret_value``.
"""

from __future__ import annotations

from pydantic import SecretStr

from schemas.masking import MASK, masked


class SecretUrl(SecretStr):
    """A URL that may hold a name and a password; its text is the URL without them."""

    def _display(self) -> str:
        return masked(self.get_secret_value())

    @property
    def is_secret(self) -> bool:
        """Whether its text leaves something out."""
        return str(self) != self.get_secret_value()


class SecretOption(SecretStr):
    """The value of an option that may be a password; its text is ``***``, or a variable's name, ``$NAME``."""

    def _display(self) -> str:
        value = self.get_secret_value()
        return value if not value or value.startswith("$") else MASK
