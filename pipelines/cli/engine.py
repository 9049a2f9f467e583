"""The engine that a job runs on, as its options and its job file name it: refused before anything is loaded.

Imports neither torch nor Beam, unless a cluster is to be asked, or options of Beam's are to be checked.
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
    from pipelines.jobs.job import OnEngine, Runner
    from pipelines.settings.config import JobConfig, JobsConfig

_OURS: Final = {
    "--runner": "name the engine before the --: --runner prism or flink",
    "--flink_master": "name it before the --: --flink-master HOST:PORT",
    "--job_endpoint": "the job server is the command's own: leave it out",
    "--environment_type": "where a cluster's workers are is jobs.flink_workers",
    "--environment_config": "where a cluster's workers are is jobs.flink_workers",
}
"""Options of Beam's that are set here, and what is said to whoever sets them after ``--``."""


def split_off_beam(data: list[str] | None) -> tuple[list[str] | None, tuple[str, ...]]:
    """Data, and what follows ``--``: options of Beam's own, which the command line hands on as more of it.

    Data ends at the first option. A word after an option without ``=`` is its value, and both come back as
    one word, so that Beam refuses a value that an option does not take.

    Raises:
        ConfigError: an option is of what Statecast sets itself, or a word is neither option nor value.
    """
    words = data or []
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    options: list[str] = []
    takes_value = False
    for word in words[first:]:
        if word.startswith("--"):
            if advice := _OURS.get("--" + word[2:].partition("=")[0].replace("-", "_")):
                raise ConfigError(f"{word}: {advice}")
            options.append(word)
            takes_value = "=" not in word
        elif takes_value:
            options[-1] += f"={word}"
            takes_value = False
        else:
            raise ConfigError(
                f"{word}: comes after options of Beam's and belongs to none of them: name DATA before the --"
            )
    return words[:first] or None, tuple(options)


def runner_of(runner: str | None, flink_master: str | None) -> str | None:
    """The engine that options ask for: who names a Flink means it.

    Raises:
        ConfigError: they ask for a Flink and for another engine.
    """
    if flink_master is None:
        return runner
    if runner not in (None, "auto", "flink"):
        raise ConfigError(
            f"--flink-master {flink_master} and --runner {runner} ask for two engines: leave one of them out"
        )
    return "flink"


def engine_of(
    asked: JobsConfig, beam_options: tuple[str, ...] = (), *, is_bounded: bool = False
) -> tuple[Runner, str]:
    """The engine that a job runs on, and why, in a few words.

    Args:
        asked: what was asked for; the runner ``auto`` takes what is there.
        beam_options: options for Beam's runner.
        is_bounded: the job is a backfill, which ``auto`` has run in process.

    Raises:
        EngineError: what was asked for is not installed, or no cluster answers.
        ConfigError: there is no Beam in process to take options, or it does not take these.
    """
    runner = asked.runner
    if beam_options:
        _check_beam(beam_options)
    if runner == "flink":
        find_java()
        what = job_server()[1]
        check_flink(asked.flink_master)
        return "flink", f"on Flink, through {what}"
    wants_prism = runner == "prism" or (runner == "auto" and not is_bounded)
    if wants_prism and find_prism() is not None:
        return "prism", f"on Prism {beam_version()}"
    if runner == "prism":
        raise EngineError(MISSING)
    if beam_options:
        raise ConfigError(f"{beam_options[0]}: there is no Beam in process: name --runner prism or flink")
    return "in-process", "in process" + (": Prism is not installed" if wants_prism else "")


def _check_beam(options: tuple[str, ...]) -> None:
    """Beam ends the process where an option of its own cannot be; others are left to the runner."""
    from apache_beam.options.pipeline_options import PipelineOptions

    typed = f"-- {' '.join(options)}"
    if {"-h", "--help"} & {*options}:  # would be printed instead of running the job
        raise ConfigError(f"{typed}: not an option of a job; Beam's documentation lists the options")

    def refuse(line: str) -> NoReturn:
        raise ConfigError(f"{typed}: {line}")

    # With an attribute of its own the parser prints nothing; argparse has no other way to choose the stream.
    PipelineOptions([*options]).get_all_options(
        add_extra_args_fn=lambda parser: setattr(parser, "error", refuse)
    )


def on_engine(runner: Runner, asked: JobsConfig, beam_options: tuple[str, ...]) -> OnEngine:
    """What a job says of the engine that it runs on."""
    from pipelines.jobs.job import OnEngine
    from pipelines.runners.base import FlinkSettings

    flink = FlinkSettings(asked.flink_master, asked.flink_workers or None)
    return OnEngine(runner=runner, flink=flink, beam_options=beam_options, restarts=asked.restarts)


def seen_by_workers(job: JobConfig) -> JobConfig:
    """A job whose paths hold in other processes, too: its workers are not in this one's folder."""
    if job.jobs.runner != "flink" or not job.jobs.flink_workers:
        return job
    paths = tuple(str(Path(path).absolute()) for path in job.data.paths)
    folder = location(job.output.folder)
    output = str(folder.absolute() if isinstance(folder, Path) else folder)
    schema = job.kafka.avro_schema and str(Path(job.kafka.avro_schema).absolute())
    return job.model_copy(
        update={
            "data": job.data.model_copy(update={"paths": paths}),
            "kafka": job.kafka.model_copy(update={"avro_schema": schema}),
            "output": job.output.model_copy(update={"folder": output}),
        }
    )


def check_flink(master: str) -> None:
    """Checks that a session cluster answers, where one is named.

    Raises:
        EngineError: nobody answers, or no Flink.
    """
    from pipelines.runners.base import LOCAL
    from pipelines.runners.flink import ask

    if master == LOCAL:
        return
    told = ask(master, "/overview")
    if not isinstance(told, dict) or "slots-total" not in told:
        raise EngineError(f"what answers at {master} is no Flink: name the REST address of a session cluster")
