"""Aliases of registered models: find the version that an alias points to, move the alias, and undo a move.

The moves of an alias are recorded as tags of the registered model, one JSON object in each tag. An alias has
at most `MOST_MOVES` tags; a new move replaces the oldest one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_USER

from forecaster.registry.connection import Connection
from forecaster.registry.lookup import find_version, is_registered, versions_of
from forecaster.registry.references import Reference, check_alias, check_model_name
from forecaster.registry.versions import Promotion, Version
from schemas.errors import ModelError
from schemas.masking import masked

MOST_MOVES = 20
# The reason of a move is cut to this length: one tag of at most 5,000 bytes holds the whole move.
_WHY_CHARACTERS = 1000
_TRAINED_UNTIL, _PARENT = "statecast.trained_until", "statecast.parent"
_DECISION = "**Decision of "


@dataclass(frozen=True)
class Move:
    """A move of an alias from one version of a model to another.

    Attributes:
        number: number of the move, from 1.
        at: time of the move (ISO 8601, UTC).
        by: the user who moved the alias.
        before: version number that the alias pointed to; None if the alias was new.
        after: version number that the alias pointed to after the move.
        why: reason, one line.
        is_rollback: whether the move undid an earlier move.
    """

    number: int
    at: str
    by: str
    before: int | None
    after: int
    why: str
    is_rollback: bool = False


def training_tags(until: datetime, parent: Version | None = None) -> dict[str, str]:
    """Return tags for a new version: the end of its training data and, if given, its ``parent``.

    Args:
        until: end of the last window that the weights have learned from.
        parent: the version whose weights the training started from; None for random weights.
    """
    tags = {_TRAINED_UNTIL: until.isoformat()}
    return tags if parent is None else {**tags, _PARENT: f"{parent} = {parent.model_version}"}


def previous_version(moves: Sequence[Move], current: int) -> int | None:
    """Return the version that an alias pointed to before ``current``; None if no move records it.

    A rollback undoes the last move, so two rollbacks in a row undo two moves.
    """
    versions: list[int] = []
    for move in moves:
        if not versions and move.before is not None:
            versions.append(move.before)
        if not move.is_rollback:
            versions.append(move.after)
        elif move.after in versions:
            del versions[_last_position(versions, move.after) + 1 :]
        else:  # no move to this version is recorded, so the version before it is unknown
            versions = [move.after]
    if current not in versions:
        # The move to ``current`` is not recorded: assume that it came after all recorded moves.
        versions.append(current)
    place = _last_position(versions, current)
    return versions[place - 1] if place else None


def _last_position(versions: Sequence[int], version: int) -> int:
    """Return the last position of ``version`` in ``versions``."""
    return len(versions) - 1 - versions[::-1].index(version)


class Aliases:
    """Reads and moves aliases of registered models, and writes tags and the gate's decisions to versions.

    Every method raises ModelError with one line if the store reports an error.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, ref: str) -> Version:
        """Return the version that ``ref`` names: ``NAME@ALIAS``, ``NAME/3``, or ``NAME`` for the champion.

        Raises:
            ModelError: the version does not exist, or ``ref`` does not name a registered model.
        """
        reference = Reference.parse(ref)
        if reference.name is None:
            raise ModelError(f"{ref} is not a registered version: name it as NAME/3 or NAME@ALIAS")
        with self._connection.errors():
            return find_version(self._connection, reference)

    def pointed_to(self, name: str, alias: str) -> Version | None:
        """Return the version that an alias points to; None if the model has no such alias.

        Raises:
            ModelError: no model has that name.
        """
        with self._connection.errors():
            found = versions_of(self._connection, name)
        return next((version for version in found if alias in version.aliases), None)

    def move(self, version: Version, alias: str, why: str, *, is_rollback: bool = False) -> Promotion:
        """Point an alias at a version; record the move unless the alias already pointed at this version.

        The alias moves first. If the process dies before the record is written, the history lacks the move,
        and a rollback still finds the version before it.

        Raises:
            ModelError: the alias is not a valid name.
        """
        check_alias(alias)
        before = self.pointed_to(version.name, alias)
        with self._connection.errors():
            client = self._connection.client()
            client.set_registered_model_alias(version.name, alias, str(version.number))
            if before is None or before.number != version.number:
                self._record(client, version, alias, before, why, is_rollback)
        return Promotion(alias, before, self.find(str(version)))

    def _record(
        self,
        client: MlflowClient,
        version: Version,
        alias: str,
        before: Version | None,
        why: str,
        is_rollback: bool,
    ) -> None:
        """Record one move of the alias in a tag of the registered model."""
        moves = self.moves(version.name, alias)
        move = Move(
            number=moves[-1].number + 1 if moves else 1,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            by=resolve_tags().get(MLFLOW_USER, "unknown"),
            before=None if before is None else before.number,
            after=version.number,
            why=masked(" ".join(why.split()))[:_WHY_CHARACTERS],
            is_rollback=is_rollback,
        )
        key = f"{_prefix(alias)}{move.number % MOST_MOVES:02}"
        client.set_registered_model_tag(version.name, key, json.dumps(asdict(move), ensure_ascii=False))

    def moves(self, name: str, alias: str) -> list[Move]:
        """Return the recorded moves of an alias, the oldest first.

        Moves that were made without Statecast, such as in MLflow's pages, are not recorded.
        """
        with self._connection.errors():
            tags = self._connection.existing().get_registered_model(name).tags
        prefix = _prefix(alias)
        found = (Move(**json.loads(value)) for key, value in tags.items() if key.startswith(prefix))
        return sorted(found, key=lambda move: move.number)

    def rollback(self, name: str, alias: str, why: str = "") -> Promotion:
        """Point an alias at the version that it pointed to before; each further rollback undoes another move.

        Args:
            name: registered model.
            alias: the alias, such as ``champion``.
            why: reason, one line.

        Raises:
            ModelError: the model, the alias or an earlier version does not exist.
        """
        check_model_name(name)
        current = self.pointed_to(name, alias)
        if current is None:
            raise ModelError(f"{name} has no alias {alias}: set one with statecast promote")
        number = previous_version(self.moves(name, alias), current.number)
        if number is None:
            raise ModelError(
                f"{name}@{alias} is {current}, and no earlier version is recorded: choose the version "
                f"yourself, for example with statecast promote {name}/1 --alias {alias}"
            )
        reason = f"rollback from {current}" + (f": {why}" if why else "")
        return self.move(self.find(f"{name}/{number}"), alias, reason, is_rollback=True)

    def write_decision(self, version: Version, text: str) -> None:
        """Write a decision of the gate into the description of a version, in place of an earlier decision.

        Args:
            version: the version.
            text: the decision, in Markdown.
        """
        with self._connection.errors():
            client = self._connection.client()
            number = str(version.number)
            described = client.get_model_version(version.name, number).description or ""
            head = described.partition(_DECISION)[0].strip()
            decision = f"{_DECISION}{datetime.now(UTC):%Y-%m-%d %H:%M} UTC.** {masked(text)}"
            client.update_model_version(version.name, number, f"{head}\n\n{decision}".strip())

    def tag(self, ref: str, key: str, value: str) -> None:
        """Set a tag of the version that ``ref`` names.

        Raises:
            ModelError: the version does not exist.
        """
        version = self.find(ref)
        with self._connection.errors():
            self._connection.client().set_model_version_tag(version.name, str(version.number), key, value)

    def trained_until(self, ref: str) -> datetime | None:
        """Return the end of the last window that a version was trained on.

        Return None if ``ref`` is not a registered version, or if the version has no record of this end.
        """
        reference = Reference.parse(ref)
        if reference.name is None or not is_registered(self._connection, reference):
            return None
        version = self.find(ref)
        with self._connection.errors():
            found = self._connection.client().get_model_version(version.name, str(version.number))
        text = found.tags.get(_TRAINED_UNTIL)
        return None if text is None else datetime.fromisoformat(text)


def _prefix(alias: str) -> str:
    """Return the prefix of the names of the tags that record the moves of an alias."""
    return f"statecast.alias.{alias}."
