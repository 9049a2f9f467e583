"""Prism, the streaming engine, as a process that belongs to one job.

Prism is one Go program, of the same version as Beam, and keeps its state in memory. Prism listens on every
network interface and has no option to restrict this. So each job starts its own Prism on a free port, and
ends this Prism with the job.

``python -m pipelines.runners.prism setup`` finds or installs Prism.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipelines.runners.engine import EngineProcess
from pipelines.runners.prism_binary import beam_version, fetch_release, find_prism, setup_prism
from schemas.errors import EngineError

MISSING: Final = (
    "Prism, the streaming engine, is not installed: run `statecast doctor --fix`, "
    "or name a binary in STATECAST_PRISM"
)


class PrismServer(EngineProcess):
    """A context manager that runs a Prism process (see `EngineProcess`).

    Args:
        log: file for Prism's warnings and errors; its folder is created.

    Raises:
        EngineError: on entry, if Prism is missing or does not start.
    """

    def __init__(self, log: Path) -> None:
        super().__init__("Prism", log)

    def command(self, port: int) -> Sequence[str]:
        """Return the command that starts Prism on ``port`` and logs only warnings and errors."""
        binary = find_prism()
        if binary is None:
            raise EngineError(MISSING)
        return [
            str(binary),
            f"--job_port={port}",
            "--serve_http=false",
            "--log_kind=text",
            "--log_level=warn",
        ]


def prism_options(endpoint: str, *, streaming: bool = True) -> list[str]:
    """Return Beam's pipeline options to run on the Prism at ``endpoint``, with the workers in this process.

    Args:
        endpoint: ``PrismServer.endpoint``.
        streaming: False for a pipeline whose sources are bounded.
    """
    options = [
        "--runner=PrismRunner",
        f"--job_endpoint={endpoint}",
        "--environment_type=LOOPBACK",
        # Without this option Prism splits a slow bundle in the middle of a key and runs a second bundle of
        # that key at the same time: rows are lost or doubled. tests/laws/test_prism_stress.py tests it.
        "--experiments=prism_disable_sdf_split",
        # Do not turn on Beam's state cache with --max_cache_memory_usage_mb. Prism issues no cache tokens, so
        # a bundle cannot use values that an earlier bundle cached. Yet Beam would take 1 to 2 ms to measure
        # the size of each value.
    ]
    return [*options, "--streaming"] if streaming else options


def main(arguments: list[str]) -> int:
    """Run ``setup``, which finds or installs Prism, or ``fetch FOLDER``, which only downloads Prism.

    ``setup`` runs ``fetch`` as a separate process, so that ``setup`` can end a download that takes too long.
    """
    match arguments:
        case ["setup"]:
            try:
                print(f"Prism {beam_version()}: {setup_prism()}")
            except EngineError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.exit_code
            except KeyboardInterrupt:
                print("interrupted: nothing was installed", file=sys.stderr)
                return 130
        case ["fetch", folder]:
            try:
                print(fetch_release(folder))
            except (OSError, RuntimeError, ValueError) as error:
                print(error)
                return 1
        case _:
            print("usage: python -m pipelines.runners.prism setup", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
