"""The outbox of a run: a folder with everything that was logged and that MLflow does not have yet.

The folder exists only while something is unsent, or while a model or a file is being sent. After a tracking
server, or the training itself, has died, ``statecast register`` and ``statecast sync`` send what the folder
holds.

::

    statecast-unsent/lstm-3f2a9c1b/
        run.json        the run, and its unsent entries in the order in which they were logged
        files/          files of the entries
        model/          the trained model

This module does not import MLflow.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forecaster import durable
from schemas.errors import ModelError

FOLDER = "statecast-unsent"
_FILE = "run.json"
_MOST_POINTS = 100_000  # an outbox holds at most this many metric points, about 10 MB
_MOST_BYTES = 256 << 20

Entry = dict[str, Any]
"""The record of one logging call: its ``kind``, such as ``metrics`` or ``file``, and its content, as JSON."""


@dataclass
class Outbox:
    """The log entries of one run that have not been sent to MLflow yet.

    Attributes:
        parent: the folder in which the folder of the outbox is created.
        run: the run: ``name, tags, started_ms``, and once they are known ``run_id, experiment_id,
            dataset, model_id, version``.
        entries: the unsent entries, in the order in which they were logged.
        folder: the folder of the outbox; None while nothing is on disk.
        dropped: number of metric points and files that did not fit into the outbox.
    """

    parent: Path
    run: dict[str, Any]
    entries: list[Entry] = field(default_factory=list)
    folder: Path | None = None
    dropped: int = 0

    @staticmethod
    def read(folder: Path) -> Outbox:
        """Read the outbox that `save` wrote into ``folder``.

        Raises:
            ModelError: the folder holds no outbox.
        """
        try:
            found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            return Outbox(folder.parent, found["run"], found["entries"], folder, found["dropped"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{folder} holds neither an unsent run nor a saved model: name a folder in {FOLDER}, or one "
                "with forecaster.safetensors"
            ) from error

    def add(self, entry: Entry) -> None:
        """Append an entry; drop metric points or a file for which the outbox has no room.

        The outbox has room for 100,000 metric points and 256 MiB of files. ``dropped`` counts the points
        and files of dropped entries. `save` writes the entries to the disk.
        """
        if entry["kind"] == "metrics":
            points = sum(len(one["points"]) for one in self.entries if one["kind"] == "metrics")
            if points + len(entry["points"]) > _MOST_POINTS:
                self.dropped += len(entry["points"])
                return
        if entry["kind"] == "file" and self._bytes() > _MOST_BYTES:
            self.dropped += 1
            self.file(entry).unlink(missing_ok=True)
            return
        self.entries.append(entry)

    def _bytes(self) -> int:
        """Return the size in bytes of all files in the outbox, except ``run.json`` and the trained model."""
        files = [] if self.folder is None else (self.folder / "files").rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def file(self, entry: Entry) -> Path:
        """Return the path of an entry's file in the outbox; the ``kind`` of ``entry`` must be ``file``.

        The folder of the outbox is created if it is missing.
        """
        return self.make_folder() / "files" / str(entry["path"])

    @property
    def model(self) -> Path:
        """The folder for the trained model in the outbox."""
        return self.make_folder() / "model"

    def make_folder(self) -> Path:
        """Return the folder of the outbox, and create it if it is missing.

        If the working folder is read-only, the folder is created among the temporary files.
        """
        if self.folder is None:
            name = re.sub(r"[^\w.-]+", "-", self.run["name"])[:80] or "run"
            key = self.run.get("run_id", "")[:8] or secrets.token_hex(4)
            folder = self.parent.absolute() / f"{name}-{key}"
            if folder.exists():  # an earlier outbox of this run has this name: take another
                folder = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}")
            try:
                durable.make_folder(folder)
            except OSError:
                folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}-"))
            self.folder = folder
        return self.folder

    def save(self) -> None:
        """Write the run and its unsent entries to the disk; if no entry is unsent, remove the folder.

        Raises:
            OSError: the folder cannot be written.
        """
        if self.entries:
            found = {"run": self.run, "entries": self.entries, "dropped": self.dropped}
            text = json.dumps(found, indent=1, default=str)
            durable.write_bytes(self.make_folder() / _FILE, text.encode())
        elif self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            # If the parent folder holds the outbox of another run, `rmdir` fails and the parent folder stays.
            with suppress(OSError):
                self.folder.parent.rmdir()
            self.folder = None


def unsent(parent: Path) -> list[Path]:
    """Return the folders of all outboxes in ``parent``, in the order of their last `save`, oldest first."""
    found = [file for file in parent.glob(f"*/{_FILE}") if file.is_file()]
    return [file.parent for file in sorted(found, key=lambda file: file.stat().st_mtime_ns)]
