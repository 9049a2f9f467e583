"""The schemas of a registry: asked for once each, and asked again with patience where that fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import fastavro

from pipelines.registry import ask_registry
from schemas.errors import DataError, StatecastError

_FIRST_S: Final = 0.2
_LONGEST_S: Final = 60.0
_UNKNOWN_S: Final = 10.0


class RegistryAway(StatecastError):
    """A schema registry does not answer for now: ask again."""


class SchemaUnknown(Exception):
    """The schema of a message cannot be found; the text says why."""


class Kept(Protocol):
    """Where the texts of schemas are kept, so that a later run reads messages as this one does."""

    def schema(self, number: int) -> str | None:
        """The text of a schema; None where it is not kept."""

    def keep_schema(self, number: int, text: str) -> None:
        """Keep a text; on return it is on the disk."""


@dataclass
class _Failure:
    """Why a question failed, and until when it is not asked again."""

    reason: str
    wait_s: float
    until_s: float


@dataclass
class RegistrySchemas:
    """The schemas of a registry by their ids.

    A schema that the registry does not know is asked for again after a while, and each time later. A registry
    that does not answer is waited for, ``patience_s`` seconds; from then on its schemas are unknown until it
    answers again, which it is asked now and then.

    Attributes:
        url: of the registry.
        user_info: ``name:password``, if it asks for one.
        patience_s: seconds to wait for a registry that does not answer.
        kept: where texts of schemas are kept; None to keep none.
        clock: seconds of a clock that never goes back.
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
        """The parsed schema.

        Raises:
            SchemaUnknown: there is none of this id, or it is no Avro schema, or the registry was not there
                for too long.
            RegistryAway: the registry does not answer for now.
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
        if self._away is not None and now_s < self._away.until_s:
            raise self._not_there(now_s)
        try:
            text = _text(ask_registry(self.url, f"/schemas/ids/{number}", self.user_info))
            made = _parsed(number, text)
        except DataError as error:
            if self._away is None:
                self._away_since_s = now_s
            self._away = _again(self._away, str(error), now_s, _FIRST_S)
            raise self._not_there(now_s) from None
        except (KeyError, SchemaUnknown) as error:
            self._away = None
            reason = (
                f"the registry knows no schema of id {number}" if isinstance(error, KeyError) else str(error)
            )
            self._unknown[number] = _again(failure, reason, now_s, _UNKNOWN_S)
            raise SchemaUnknown(reason) from None
        self._away = None
        if self.kept is not None:
            self.kept.keep_schema(number, text)
        return made

    def _not_there(self, now_s: float) -> Exception:
        assert self._away is not None
        if now_s - self._away_since_s < self.patience_s:
            return RegistryAway(self._away.reason)
        return SchemaUnknown(self._away.reason)


def _again(before: _Failure | None, reason: str, now_s: float, first_s: float) -> _Failure:
    """The failure of a question that is asked again after twice as long as before."""
    wait_s = first_s if before is None else min(2 * before.wait_s, max(_LONGEST_S, first_s))
    return _Failure(reason, wait_s, now_s + wait_s)


def _text(answer: Any) -> str:
    if isinstance(answer, dict) and isinstance(text := answer.get("schema"), str):
        return text
    raise SchemaUnknown("the registry answers without a schema")


def _parsed(number: int, text: str) -> Any:
    try:
        return fastavro.parse_schema(json.loads(text))
    except Exception as error:  # whatever is no Avro schema
        raise SchemaUnknown(
            f"schema {number} is no Avro schema ({' '.join(str(error).split())[:100]})"
        ) from None
