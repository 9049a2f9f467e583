"""A schema registry, and how messages name their schema: what readers and writers of Avro share."""

from __future__ import annotations

import base64
import json
import struct
import urllib.error
import urllib.request
from typing import Any, Final

from schemas.errors import DataError
from schemas.masking import split_login

FRAME: Final = struct.Struct(">bI")
"""What stands before a record: 0, and the id of its schema."""

_TIMEOUT_S = 5.0


def ask_registry(url: str, path: str, user_info: str = "", body: dict[str, Any] | None = None) -> Any:
    """What a schema registry answers.

    Args:
        url: of the registry; a name and a password in it are sent as a login.
        path: what is asked for.
        user_info: ``name:password``, which goes before those of the URL.
        body: what is sent, if anything.

    Raises:
        KeyError: it does not know what was asked for.
        DataError: it cannot be asked; one line.
    """
    data = None if body is None else json.dumps(body).encode()
    public, login = split_login(url.rstrip("/"))
    user_info = user_info or login
    try:
        request = urllib.request.Request(public + path, data)
        request.add_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        if user_info:
            request.add_header("Authorization", f"Basic {base64.b64encode(user_info.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise KeyError(path) from None
        raise DataError(f"{public}: the schema registry answers {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        said = getattr(error, "reason", error)
        raise DataError(f"{public}: the schema registry cannot be asked ({said})") from None
