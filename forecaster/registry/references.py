"""References to models: a folder, a run, or a version number or alias of a registered model.

This module does not import MLflow, so that a wrong reference is reported at once.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ModelError

DEFAULT_ALIAS = "champion"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_NAME = r"[^/@:'\"\s][^/@:'\"]*"


@dataclass(frozen=True)
class Reference:
    """A reference to a model: a folder, a run, or a version number or alias of a registered model.

    Attributes:
        text: the reference as it was given.
        folder: a local folder with a saved forecaster. If ``run_id`` or ``name`` is set, too, the text is
            ambiguous, and the folder is meant only if the store has no such run or name.
        run_id: a run that logged a model.
        name: a registered model; ``version`` or else ``alias`` selects the version.
        version: version number.
        alias: alias of a version.
    """

    text: str
    folder: Path | None = None
    run_id: str | None = None
    name: str | None = None
    version: int | None = None
    alias: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the reference can only mean a folder."""
        return self.name is None and self.run_id is None

    @staticmethod
    def parse(text: str) -> Reference:
        """Parse a reference to a model: ``NAME``, ``NAME@ALIAS``, ``NAME/3``, a run's id, or a folder.

        The prefix ``models:/`` is allowed. ``./NAME`` is always the folder, and ``models:/NAME`` always the
        registered model.

        Raises:
            ModelError: ``text`` is none of these.
        """
        ref = text.strip()
        if ref.startswith("runs:/"):
            run_id, _, path = ref.removeprefix("runs:/").partition("/")
            if path.rstrip("/") not in ("", "model") or not _RUN_ID.fullmatch(run_id):
                raise ModelError(f"{text!r} names no model of a run: write runs:/RUN_ID/model")
            return Reference(text, run_id=run_id)
        folder = None
        if not ref.startswith("models:/"):
            folder = Path(os.path.expanduser(ref))
            if not ref or not any(folder.glob("*.safetensors")):
                folder = None
            if ref.startswith((".", "/", "~")):
                if folder is None:
                    raise ModelError(
                        f"{text} is not a folder with a saved forecaster: name one, or a registered model as "
                        "NAME, NAME@ALIAS or NAME/3"
                    )
                return Reference(text, folder)
            if _RUN_ID.fullmatch(ref):
                return Reference(text, folder, run_id=ref)
        ref = ref.removeprefix("models:/")
        if match := re.fullmatch(rf"({_NAME})/(\d+)", ref):
            return Reference(text, folder, name=match[1], version=int(match[2]))
        if match := re.fullmatch(rf"({_NAME})(?:@([\w-]+))?", ref):
            return Reference(text, folder, name=match[1], alias=match[2] or DEFAULT_ALIAS)
        if folder is not None:
            return Reference(text, folder)
        raise ModelError(
            f"{text!r} names no model: write NAME, NAME@ALIAS, NAME/3, runs:/RUN_ID/model or a folder"
        )


def check_model_name(name: str) -> None:
    """Check that a model can be registered under ``name``, before time is spent on training.

    Raises:
        ModelError: ``name`` is empty, looks like a run id, or contains a slash, colon, at sign or quote.
    """
    if not re.fullmatch(_NAME, name) or _RUN_ID.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot name a model: use letters, digits, spaces, dots, - and _ "
            "(32 hexadecimal digits would be a run id)"
        )


def check_alias(alias: str) -> None:
    """Check that ``alias`` has only allowed characters, and is not reserved by MLflow like ``latest``.

    Raises:
        ModelError: ``alias`` has other characters than letters, digits, - and _, or is like ``v3`` or
            ``latest``.
    """
    if not re.fullmatch(r"[\w-]+", alias) or re.fullmatch(r"(?i)v\d+|latest", alias):
        raise ModelError(
            f"{alias!r} cannot be an alias: use letters, digits, - and _ (latest, and v with a number, "
            "such as v3, are reserved)"
        )
