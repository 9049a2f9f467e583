"""Types for settings that may contain a secret, such as a password.

``str`` and ``repr`` of these types show ``***`` in place of the secret, so that the secret is not logged,
printed or written by accident. The method ``get_secret_value`` returns the text with the secret.
"""

from __future__ import annotations

from pydantic import SecretStr

from schemas.masking import MASK, masked


class SecretUrl(SecretStr):
    """A URL that may contain a login or secret parameters.

    Its text shows ``***`` in place of the login and of the values of secret parameters (see `masked`).
    """

    def _display(self) -> str:
        return masked(self.get_secret_value())

    @property
    def is_secret(self) -> bool:
        """Return True if ``str(url)`` shows ``***`` for a login or for the value of a secret parameter."""
        return str(self) != self.get_secret_value()


class SecretOption(SecretStr):
    """A value in ``kafka.options``, which may be a password.

    Its text is ``***``, except for an empty value and for ``$NAME``, the name of an environment variable,
    which is no secret; these values are shown.
    """

    def _display(self) -> str:
        value = self.get_secret_value()
        return value if not value or value.startswith("$") else MASK
