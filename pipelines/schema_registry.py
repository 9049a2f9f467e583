"""Define requests to a schema registry, and the header of Avro messages, for the Kafka source and sink."""

from __future__ import annotations

import base64
import json
import struct
import urllib.error
import urllib.request
from typing import Any, Final

from schemas.errors import DataError
from schemas.masking import split_login

AVRO_HEADER: Final = struct.Struct(">bI")
"""The header before an Avro record: a zero byte, then the id of the schema as a big-endian int32."""

_TIMEOUT_S = 5.0


def send_request(url: str, path: str, user_info: str = "", body: dict[str, Any] | None = None) -> Any:
    """Send a request to a schema registry, and return its answer as parsed JSON.

    Args:
        url: the address of the registry; a name and a password in it are sent as the login.
        path: the path of the resource, such as ``/schemas/ids/1``.
        user_info: ``name:password``; replaces the login in ``url`` if it is not empty.
        body: sent as JSON in a POST request; None for a GET request.

    Raises:
        KeyError: the registry has no such resource (status 404).
        DataError: the registry cannot be reached, or answers with another error or without JSON.
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{public}: the answer of the schema registry is not JSON ({error})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"{public}: the schema registry cannot be reached ({reason})") from None
