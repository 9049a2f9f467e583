"""The manifest of a replay of the quarantine: which rows are read again, and at which offsets.

The manifest is written before the first row is read again, and removed when the files with these rows are
removed from the quarantine. So a replay whose process was killed reads the same rows at the same offsets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from pipelines.storage import Location, output_errors, store_of, write_text
from schemas.errors import DataError, one_line
from schemas.sealed import seal, unseal

MANIFEST: Final = "quarantine.json"
"""Name of the manifest in the folder of the state table."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuarantineManifest:
    """The record that fixes which rows a replay of the quarantine reads, and with which settings.

    Attributes:
        partition: name of the partition.
        first: offset of the first row. It is beyond the offsets of all other partitions, so a row that is
            read again counts as later than a row that was used before.
        stop: one past the last offset. The last offset has no row: it marks the end of the replay.
        files: names of the files in the quarantine that hold the rows.
        settings: the settings by which the rows are read, as text.
        now_s: wall clock at which the replay began (seconds since 1970), which decides which rows are in the
            future.
        counts: the counts of the job before the replay, without scores.
    """

    partition: str
    first: int
    stop: int
    files: tuple[str, ...]
    settings: str
    now_s: float
    counts: Mapping[str, Any]


_ADAPTER = TypeAdapter(QuarantineManifest)


def read_manifest(states: Location) -> QuarantineManifest | None:
    """Return the manifest of an unfinished replay from the state table's folder; None without such a file.

    Raises:
        DataError: the manifest cannot be read.
    """
    path = states / MANIFEST
    try:
        return _ADAPTER.validate_json(json.dumps(unseal(path.read_bytes())))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}): restore the file") from None


def write_manifest(states: Location, manifest: QuarantineManifest) -> None:
    """Write the manifest of a replay of the quarantine so that the manifest survives a loss of power.

    Raises:
        OutputError: the manifest cannot be written.
    """
    with output_errors(f"{states / MANIFEST}: cannot be written"):
        write_text(states / MANIFEST, seal(asdict(manifest)), kept=True)


def end_replay(states: Location, quarantine: Location, manifest: QuarantineManifest) -> None:
    """Remove the quarantine files that a replay has read, and then the manifest of the replay.

    Call this when every snapshot covers the replay. If the process is killed, a second call removes the rest.

    Raises:
        OutputError: a file cannot be removed.
    """
    with output_errors(f"{quarantine}: the rows that were read again cannot be removed"):
        for name in manifest.files:
            (quarantine / name).unlink(missing_ok=True)
        store_of(quarantine).sync()
        (states / MANIFEST).unlink(missing_ok=True)
        store_of(states).sync()
