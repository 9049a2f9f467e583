"""Replay the quarantine of a job: read its rows again with corrected settings, and repair the forecasts.

A replay is a run that resumes the job's state table and reads one partition, the rows of the quarantine. So
it is killed and resumed like a stream: a manifest fixes the rows and their offsets, and the snapshots hold
how far they were applied.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from uuid import uuid4

from forecaster.shards.batch import Batch, quarantine_partition
from forecaster.shards.counts import Counts
from forecaster.shards.sharding import empty_batch
from pipelines.jobs.follow import with_first_model
from pipelines.jobs.job import StreamJob
from pipelines.jobs.quarantine_checks import check_can_use, none_valid_line, read_table
from pipelines.jobs.quarantine_job import QuarantineJob, QuarantineOutcome
from pipelines.jobs.run_once import OnNumbers, begin_table, run_once, settings_of
from pipelines.jobs.stopping import stop_on_signal
from pipelines.runners.base import Run
from pipelines.sinks.file_names import ROW_FILE, partition_stem
from pipelines.sinks.files import PARTS, QUARANTINE, read_quarantine
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.manifest import FOLDER_MANIFEST, FolderManifest
from pipelines.sources.model_changes import load_model, read_changes
from pipelines.sources.quarantine_log import QuarantineLog, RowsAgain, read_again
from pipelines.sources.quarantine_manifest import (
    QuarantineManifest,
    end_replay,
    read_manifest,
    write_manifest,
)
from pipelines.sources.replay import PARTITION as BACKFILL_PARTITION
from pipelines.state import state_table
from pipelines.state.snapshot_file import snapshot_paths
from pipelines.state.state_table import StateTable
from pipelines.storage import Held, Location, complete_replacement, markers, store_of
from pipelines.workers.ownership import read_owner, take_ownership
from schemas.errors import ConfigError, DataError


def replay_quarantine(job: QuarantineJob, on_progress: OnNumbers = lambda numbers: None) -> QuarantineOutcome:
    """Read the rows in the quarantine of a job again; rows that are now valid are used as late rows.

    If the process is killed, or a signal stops it, the next call resumes the replay. No row is read again if
    none of them is valid with the settings.

    Args:
        job: the settings.
        on_progress: called with the job's numbers, twice a second.

    Raises:
        StatecastError: the job is still running, the state table or the settings do not fit, or a file cannot
            be read or written; the message is one line.
    """
    began_s = time.monotonic()
    with store_of(job.output).locked() as held:
        complete_replacement(job.output / markers.BACKFILL, job.output)
        state_table.recover(job.states)
        table = read_table(job)
        store_of(job.output).prepare(PARTS)
        again: RowsAgain | None
        manifest = read_manifest(job.states)
        if manifest is None:
            files = _files(job, table)
            if not files:
                return QuarantineOutcome(nothing=f"{job.output}: no row is in quarantine")
            manifest, again = _first_manifest(job, table, [file.name for file in files])
            if not len(again.rows):
                return QuarantineOutcome(left=again.count, nothing=none_valid_line(job, again))
            check_can_use(job, table, again)
            write_manifest(job.states, manifest)
        else:
            again = _rows_of_manifest(job, table, manifest)
        stopped = again is not None and _run(job, table, manifest, again, held, on_progress)
        counts = state_table.read(job.states, series=False).counts - Counts(**manifest.counts)
        if not stopped:
            held.confirm()
            end_replay(job.states, job.output / QUARANTINE, manifest)
        left = int((read_quarantine(job.output)["row"] > 0).sum())
    return QuarantineOutcome(counts, left, time.monotonic() - began_s, stopped)


def _files(job: QuarantineJob, table: StateTable) -> list[Location]:
    """Return the quarantine files that begin before the offsets in the snapshots, sorted by name.

    A stream that was killed writes the other files again when it resumes. If no snapshot has the partition of
    a file, the file is returned if it is older than all snapshots. A file without an offset in its name is
    always returned.
    """
    snapshot_ns = min(store_of(path).written_ns() for path in snapshot_paths(job.states))

    def is_covered(path: Location) -> bool:
        found = ROW_FILE.fullmatch(path.name)
        if found is None:
            return True
        stem, first, number, of = found[1], *map(int, found.groups()[1:])
        wrote = table.shards[number : number + 1] if of == len(table.shards) else table.shards
        reached = [o for shard in wrote for name, o in shard.offsets.items() if partition_stem(name) == stem]
        return first < min(reached) if reached else store_of(path).written_ns() < snapshot_ns

    there = [path for path in (job.output / QUARANTINE).glob("*.parquet") if not path.name.startswith(".")]
    return sorted(filter(is_covered, there), key=lambda path: path.name)


def _first_manifest(
    job: QuarantineJob, table: StateTable, files: list[str]
) -> tuple[QuarantineManifest, RowsAgain]:
    """Read the quarantined rows again; return the manifest of a new replay, and these rows."""
    now_s = time.time()
    again = _rows(job, files, now_s)
    first = max((offset for shard in table.shards for offset in shard.offsets.values()), default=0)
    counts = {name: value for name, value in table.counts.stored().items() if name != "scores"}
    manifest = QuarantineManifest(
        partition=quarantine_partition(uuid4().hex[:8]),
        first=first,
        stop=first + again.count + 1,
        files=tuple(files),
        settings=_settings_text(job.input),
        now_s=now_s,
        counts=counts,
    )
    return manifest, again


def _rows_of_manifest(
    job: QuarantineJob, table: StateTable, manifest: QuarantineManifest
) -> RowsAgain | None:
    """Return the rows that an interrupted replay is to read; None if every shard has applied all of them.

    Raises:
        ConfigError: the data settings differ from the settings that the replay began with.
        DataError: the files differ from the files that the replay began with.
    """
    if all(shard.offsets.get(manifest.partition, 0) >= manifest.stop for shard in table.shards):
        return None
    if manifest.settings != _settings_text(job.input):
        raise ConfigError(
            f"{job.output}: a replay with other data settings was interrupted: end it first, with the "
            "settings that it began with"
        )
    again = _rows(job, manifest.files, manifest.now_s)
    if manifest.first + again.count + 1 != manifest.stop:
        raise DataError(
            f"{job.output / QUARANTINE}: the files differ from those that the interrupted replay began with: "
            "restore them"
        )
    return again


def _rows(job: QuarantineJob, files: list[str] | tuple[str, ...], now_s: float) -> RowsAgain:
    numbers: Mapping[str, int] = {}
    folder = job.states / FOLDER_MANIFEST
    if folder.exists():
        known = FolderManifest(folder)
        numbers = {entry.name: known.number(entry.name) for entry in known.entries(0)}
    return read_again([job.output / QUARANTINE / name for name in files], job.input, now_s, numbers)


def _settings_text(how: Input) -> str:
    return repr(replace(how, batch_rows=0))


def _run(
    job: QuarantineJob,
    table: StateTable,
    manifest: QuarantineManifest,
    again: RowsAgain,
    held: Held,
    on_progress: OnNumbers,
) -> bool:
    """Apply the rows of a replay to the shards; return whether a signal stopped the run."""

    def take(numbers: JobNumbers) -> None:
        held.check()
        on_progress(numbers)

    log = QuarantineLog(manifest.partition, manifest.first, again, _closing_batch(job, table, again))
    shadows = [shard.shadow.model_version for shard in table.shards if shard.shadow is not None]
    stream = with_first_model(
        StreamJob(
            forecaster=job.forecaster,
            source=log,
            output=job.output,
            shards=len(table.shards),
            windows_per_step=job.windows_per_step,
            resume=True,
            format=job.format,
            runner="in-process",
            topics=job.topics,
            follows=bool(read_changes(job.states)),
            shadow=load_model(job.output, shadows[0]) if shadows else None,
            shadow_share=len(shadows) / len(table.shards),
            repair=job.repair,
            threads=job.threads,
        ),
        is_resume=True,
    )
    stream.stop_file.unlink(missing_ok=True)
    places, is_resume = begin_table(stream, log, job.states, job.states, is_resume=True)
    settings = settings_of(stream, job.output, resumed=is_resume)
    before = read_owner(job.output)
    take_ownership(settings, held.confirm)
    run = Run(log, places, settings, stream.stop_file, stream.snapshot_every_s, job.output, (), before)
    with stop_on_signal(stream.stop_file):
        run_once(run, stream, take)
    stopped = stream.stop_file.exists()
    stream.stop_file.unlink(missing_ok=True)
    return stopped


def _closing_batch(job: QuarantineJob, table: StateTable, again: RowsAgain) -> Batch | None:
    """Return a batch that closes all windows up to that of the newest row, as a backfill does at its end.

    None if there are no rows, or for a stream, which closes its windows itself when it goes on.
    """
    if not state_table.is_of_backfill(job.states) or not len(again.rows):
        return None
    newest = job.freq.window_of(int(again.rows["timestamp"].to_physical().max()))  # type: ignore[arg-type]
    offset = table.offset(BACKFILL_PARTITION)
    return replace(empty_batch(BACKFILL_PARTITION, offset), watermark_us=job.freq.end_us(newest))
