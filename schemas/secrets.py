"""Secrets in settings and in text: held so that nothing shows them, and masked where text may carry them.

A setting that may hold a secret has one of the two types below. The text of either is masked, so a secret
cannot be logged, printed or written by accident: whoever needs it has to call ``get_secret_value``.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from pydantic import SecretStr

MASK: Final = "***"

# The name and password of a URL: all up to the last @ of a word, for a password may hold any character. In
# http://host:8080/a@b what follows the colon is a port.
_USER_INFO = re.compile(r"(?<=//)(?:[^\s/@:'\"]*:(?!\d+[/?#])\S*|[^\s/@:'\"]+)@")
_SECRET_QUERY = re.compile(
    r"([?&;][^=&;\s]*(?:password|passwd|pwd|secret|token|api_?key|sig|signature|credential|odbc_connect)"
    r"[^=&;\s]*=)[^&;\s'\"]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Return text with the names, passwords and tokens in its URLs replaced by ``***``."""
    return _SECRET_QUERY.sub(rf"\1{MASK}", _USER_INFO.sub(f"{MASK}@", text))


def split_login(url: str) -> tuple[str, str]:
    """Return a URL without a name and a password, and these as ``name:password``; empty where it has none."""
    scheme, separator, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, _ = host.rpartition("@")
    return f"{scheme}{separator}{rest[len(login) + len(at) :]}", unquote(login)


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
