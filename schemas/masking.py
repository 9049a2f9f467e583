"""Replace logins and the values of secret parameters in the URLs of a text by ``***``.

This module must not import pydantic, because every command would then import it and start later:
`schemas.errors` imports this module, and every module imports `schemas.errors`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

MASK: Final = "***"

# Matches the login in a URL: NAME:PASSWORD@ in http://NAME:PASSWORD@host, or NAME@ in http://NAME@host.
# A password may contain even @ or /, so the match ends at the last @ before a blank.
# A number between a colon and one of / ? # is a port, not a password, as in http://host:8080/a@b.
_USER_INFO = re.compile(r"(?<=//)(?:[^\s/:]*:(?!\d+[/?#])\S*|[^\s/@:'\"]+)@")
_SECRET_QUERY = re.compile(
    r"([?&;][^=&;\s]*(?:password|passwd|pwd|secret|token|api_?key|sig|signature|credential|odbc_connect)"
    r"[^=&;\s]*=)[^&;\s'\"]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Replace logins and the values of secret parameters in the URLs of a text by ``***``.

    A parameter is secret if its name contains a word such as ``token``; only its value is replaced.
    """
    return _SECRET_QUERY.sub(rf"\1{MASK}", _USER_INFO.sub(f"{MASK}@", text))


def split_login(url: str) -> tuple[str, str]:
    """Return two texts: a URL without its user name and password, and ``name:password``.

    Returns:
        The URL without a user name and password, and the text ``name:password``, percent-decoded. The
        second text is empty if the URL has neither.
    """
    scheme, separator, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, _ = host.rpartition("@")
    return f"{scheme}{separator}{rest[len(login) + len(at) :]}", unquote(login)
