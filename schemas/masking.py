"""Remove names, passwords and tokens from text.

This module must not import pydantic: errors mask their messages, and every module imports the errors.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

MASK: Final = "***"

# A login in a URL is all text up to the last @ of a word: a password may contain any character.
# In http://host:8080/a@b, the text after the colon is a port and not a password.
_USER_INFO = re.compile(r"(?<=//)(?:[^\s/:]*:(?!\d+[/?#])\S*|[^\s/@:'\"]+)@")
_SECRET_QUERY = re.compile(
    r"([?&;][^=&;\s]*(?:password|passwd|pwd|secret|token|api_?key|sig|signature|credential|odbc_connect)"
    r"[^=&;\s]*=)[^&;\s'\"]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Return text with the names, passwords and tokens in its URLs replaced by ``***``."""
    return _SECRET_QUERY.sub(rf"\1{MASK}", _USER_INFO.sub(f"{MASK}@", text))


def split_login(url: str) -> tuple[str, str]:
    """Return a URL without its name and password, and these as ``name:password`` (empty if it has none)."""
    scheme, separator, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, _ = host.rpartition("@")
    return f"{scheme}{separator}{rest[len(login) + len(at) :]}", unquote(login)
