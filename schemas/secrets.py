"""Types of settings that may contain a secret.

The text of these types is masked, so that a secret is not logged, printed or written by accident. Code that
needs the secret calls ``get_secret_value``.
"""

from __future__ import annotations

from pydantic import SecretStr

from schemas.masking import MASK, masked


class SecretUrl(SecretStr):
    """A URL that may contain a password or a token; its text has ``***`` in their place (see `masked`)."""

    def _display(self) -> str:
        return masked(self.get_secret_value())

    @property
    def is_secret(self) -> bool:
        """Return True if a part of the URL is masked in its text."""
        return str(self) != self.get_secret_value()


class SecretOption(SecretStr):
    """The value of an option that may be a password.

    Its text is ``***``. The name of an environment variable, ``$NAME``, is no secret and is not masked.
    """

    def _display(self) -> str:
        value = self.get_secret_value()
        return value if not value or value.startswith("$") else MASK
