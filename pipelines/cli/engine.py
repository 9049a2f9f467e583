"""Choose the engine of a job from its options and its job file.

This module imports torch and Beam only to reach a Flink cluster or to check options of Beam.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from pipelines.runners.java import find_java, job_server
from pipelines.runners.prism import MISSING
from pipelines.runners.prism_binary import beam_version, find_prism
from pipelines.storage import location
from schemas.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from pipelines.jobs.job import EngineSettings, Runner
    from pipelines.settings.config import JobConfig, JobsConfig

_OWN_OPTIONS: Final = {
    "--runner": "name the engine before the --: --runner prism or flink",
    "--flink_master": "name it before the --: --flink-master HOST:PORT",
    "--job_endpoint": "Statecast starts the job server itself; leave this option out",
    "--environment_type": "set jobs.flink_workers to the address of the workers instead",
    "--environment_config": "set jobs.flink_workers to the address of the workers instead",
}
"""Beam options that Statecast sets itself, with the advice for a user who gives one of them after ``--``."""


def split_beam_options(data: list[str] | None) -> tuple[list[str] | None, tuple[str, ...]]:
    """Split the arguments of a command into DATA and the Beam options that were given after ``--``.

    typer appends the words after ``--`` to DATA, so DATA ends at the first word that begins with ``--``. A
    word after an option without ``=`` is the value of this option. The option and the value are joined with
    ``=``, so that Beam refuses a value for an option that takes none.

    Raises:
        ConfigError: Statecast sets an option itself, or a word is neither an option nor a value.
    """
    words = data or []
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    options: list[str] = []
    takes_value = False
    for word in words[first:]:
        if word.startswith("--"):
            if advice := _OWN_OPTIONS.get("--" + word[2:].partition("=")[0].replace("-", "_")):
                raise ConfigError(f"{word}: {advice}")
            options.append(word)
            takes_value = "=" not in word
        elif takes_value:
            options[-1] += f"={word}"
            takes_value = False
        else:
            raise ConfigError(f"{word}: is not the value of a Beam option: put DATA before the --")
    return words[:first] or None, tuple(options)


def requested_runner(runner: str | None, flink_master: str | None) -> str | None:
    """Return the runner that the options request, if any; ``--flink-master`` alone requests Flink.

    Raises:
        ConfigError: the options request Flink and another runner.
    """
    if flink_master is None:
        return runner
    if runner not in (None, "auto", "flink"):
        raise ConfigError(
            f"--flink-master {flink_master} and --runner {runner} name two runners: leave one of them out"
        )
    return "flink"


def choose_engine(
    jobs: JobsConfig, beam_options: tuple[str, ...] = (), *, is_bounded: bool = False
) -> tuple[Runner, str]:
    """Return the runner of a job, and a phrase that says where the job runs, such as "on Prism 2.60.0".

    Args:
        jobs: settings of the job; the runner ``auto`` chooses among the installed engines.
        beam_options: options for Beam's runner.
        is_bounded: whether the job is a backfill, which ``auto`` runs in process.

    Raises:
        EngineError: the requested engine is not installed, or no cluster answers.
        ConfigError: Beam refuses the options, or the job runs in process, where no Beam runs.
    """
    runner = jobs.runner
    if beam_options:
        _check_beam(beam_options)
    if runner == "flink":
        find_java()
        what = job_server()[1]
        check_flink(jobs.flink_master)
        return "flink", f"on Flink, through {what}"
    wants_prism = runner == "prism" or (runner == "auto" and not is_bounded)
    if wants_prism and find_prism() is not None:
        return "prism", f"on Prism {beam_version()}"
    if runner == "prism":
        raise EngineError(MISSING)
    if beam_options:
        raise ConfigError(
            f"{beam_options[0]}: the in-process runner takes no Beam options: name --runner prism or flink"
        )
    return "in-process", "in process" + (": Prism is not installed" if wants_prism else "")


def _check_beam(options: tuple[str, ...]) -> None:
    """Raise ConfigError for an option that Beam refuses; Beam itself would exit the process.

    Options that Beam does not define are accepted, because the runner may define them.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    typed = f"-- {' '.join(options)}"
    if {"-h", "--help"} & {*options}:  # with these options, Beam prints its help and runs no job
        fix = "Beam's documentation lists the options of jobs"
        raise ConfigError(f"{typed}: -h and --help are not options of a job; {fix}")

    def refuse(line: str) -> NoReturn:
        raise ConfigError(f"{typed}: {line}")

    # Replace the method `error` of Beam's parser, because the original method prints and exits.
    PipelineOptions([*options]).get_all_options(
        add_extra_args_fn=lambda parser: setattr(parser, "error", refuse)
    )


def engine_fields(runner: Runner, jobs: JobsConfig, beam_options: tuple[str, ...]) -> EngineSettings:
    """Return the settings of the engine that a backfill or a stream runs on."""
    from pipelines.jobs.job import EngineSettings
    from pipelines.runners.base import FlinkSettings

    flink = FlinkSettings(jobs.flink_master, jobs.flink_workers or None)
    return EngineSettings(runner=runner, flink=flink, beam_options=beam_options, restarts=jobs.restarts)


def with_absolute_paths(job: JobConfig) -> JobConfig:
    """Return the job; if a pool of Flink workers runs it, make its data, schema and output paths absolute.

    The working folder of these workers may differ from that of the command.
    """
    if job.jobs.runner != "flink" or not job.jobs.flink_workers:
        return job
    return job.with_settings(
        {
            "data.paths": tuple(str(Path(path).absolute()) for path in job.data.paths),
            "kafka.avro_schema": job.kafka.avro_schema and str(Path(job.kafka.avro_schema).absolute()),
            "output.folder": str(location(job.output.folder).absolute()),
        }
    )


def check_flink(master: str) -> None:
    """Check that a Flink session cluster answers at ``master``; ``[local]`` needs no cluster.

    Raises:
        EngineError: no server answers, or the server is not Flink.
    """
    from pipelines.runners.base import LOCAL
    from pipelines.runners.flink import ask

    if master == LOCAL:
        return
    overview = ask(master, "/overview")
    if not isinstance(overview, dict) or "slots-total" not in overview:
        raise EngineError(f"the server at {master} is not Flink: name the REST address of a session cluster")
