"""Fetch Avro schemas from a schema registry; after a failure, try again after a wait that doubles."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import fastavro

from pipelines.schema_registry import send_request
from schemas.errors import DataError, StatecastError

_FIRST_S: Final = 0.2
_LONGEST_S: Final = 60.0
_UNKNOWN_S: Final = 10.0


class RegistryAway(StatecastError):
    """Raised for the first ``patience_s`` seconds in which the schema registry gives no usable answer.

    It cannot be reached, or it answers with an HTTP error other than 404, or without JSON. A later request
    may succeed. After these seconds, `SchemaUnknown` is raised instead.
    """


class SchemaUnknown(Exception):
    """Raised when no usable schema of a message can be obtained; the error's text is the reason."""


class Kept(Protocol):
    """The protocol of a store of schema texts, from which a later run reads the same schemas."""

    def schema(self, number: int) -> str | None:
        """Return the stored text of the schema with the id ``number``; None if it is not stored."""

    def keep_schema(self, number: int, text: str) -> None:
        """Store the text of the schema with the id ``number``, and wait until it survives a loss of power."""


@dataclass
class _Failure:
    """A failed request to the registry: the reason, how long to wait, and when to repeat the request."""

    reason: str
    wait_s: float
    until_s: float


@dataclass
class RegistrySchemas:
    """Callable object that fetches the Avro schema with a given id from a schema registry, and caches it.

    If the registry lacks a schema, the schema is requested again after waits that double. If the registry
    gives no usable answer, a call raises `RegistryAway` for ``patience_s`` seconds. After that, a call raises
    `SchemaUnknown` until a later request succeeds.

    Attributes:
        url: address of the registry.
        user_info: ``name:password``, if the registry requires a login.
        patience_s: seconds to wait for a registry that gives no usable answer.
        kept: the store of schema texts; None to store none.
        clock: returns the seconds of a clock that never goes back.
    """

    url: str
    user_info: str = field(default="", repr=False)
    patience_s: float = 60.0
    kept: Kept | None = None
    clock: Callable[[], float] = time.monotonic
    _known: dict[int, Any] = field(default_factory=dict, init=False)
    _unknown: dict[int, _Failure] = field(default_factory=dict, init=False)
    _away: _Failure | None = field(default=None, init=False)
    _away_since_s: float = field(default=0.0, init=False)

    def __call__(self, number: int) -> Any:
        """Return the parsed schema with the id ``number``.

        Raises:
            SchemaUnknown: the registry has no Avro schema of this id, or did not answer for ``patience_s``.
            RegistryAway: the registry does not answer at present.
        """
        if number not in self._known:
            self._known[number] = self._found(number)
            self._unknown.pop(number, None)
        return self._known[number]

    def _found(self, number: int) -> Any:
        text = None if self.kept is None else self.kept.schema(number)
        if text is not None:
            return _parsed(number, text)
        now_s, failure = self.clock(), self._unknown.get(number)
        if failure is not None and now_s < failure.until_s:
            raise SchemaUnknown(failure.reason)
        # The last request has failed, and the wait after it is not over, so send no request yet.
        if self._away is not None and now_s < self._away.until_s:
            raise self._no_answer_error(now_s)
        try:
            text = _text(send_request(self.url, f"/schemas/ids/{number}", self.user_info))
            made = _parsed(number, text)
        except DataError as error:
            if self._away is None:
                self._away_since_s = now_s
            self._away = _again(self._away, str(error), now_s, _FIRST_S)
            raise self._no_answer_error(now_s) from None
        except (KeyError, SchemaUnknown) as error:
            self._away = None
            reason = (
                f"the registry has no schema with id {number}" if isinstance(error, KeyError) else str(error)
            )
            self._unknown[number] = _again(failure, reason, now_s, _UNKNOWN_S)
            raise SchemaUnknown(reason) from None
        self._away = None
        if self.kept is not None:
            self.kept.keep_schema(number, text)
        return made

    def _no_answer_error(self, now_s: float) -> Exception:
        """Return the error to raise while the registry gives no usable answer.

        The error is `RegistryAway` for the first ``patience_s`` seconds, and `SchemaUnknown` after that.
        """
        assert self._away is not None
        if now_s - self._away_since_s < self.patience_s:
            return RegistryAway(self._away.reason)
        return SchemaUnknown(self._away.reason)


def _again(before: _Failure | None, reason: str, now_s: float, first_s: float) -> _Failure:
    """Return a failure with the wait ``first_s``, or twice the wait of ``before``, up to a limit."""
    wait_s = first_s if before is None else min(2 * before.wait_s, max(_LONGEST_S, first_s))
    return _Failure(reason, wait_s, now_s + wait_s)


def _text(answer: Any) -> str:
    if isinstance(answer, dict) and isinstance(text := answer.get("schema"), str):
        return text
    raise SchemaUnknown("the answer of the registry has no schema")


def _parsed(number: int, text: str) -> Any:
    try:
        return fastavro.parse_schema(json.loads(text))
    except Exception as error:  # fastavro raises errors of many types for invalid schemas
        raise SchemaUnknown(
            f"schema {number} is not an Avro schema ({' '.join(str(error).split())[:100]})"
        ) from None
